//! What the server can do now, for the readiness check: verify keys, and store changes.

use std::borrow::Cow;

use serde::Serialize;

use crate::app::App;
use crate::error::{Code, Error, Result};

/// What the server can do now.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    /// True if keys can be verified.
    pub(crate) verify: bool,
    /// True if all changes can be stored.
    pub(crate) write: bool,
    /// What needs attention; empty if nothing does.
    pub(crate) reasons: Vec<ReadinessReason>,
}

/// Why the server isn't ready, or what needs attention although it is.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ReadinessReason {
    /// Code of the reason, in `UPPER_SNAKE_CASE`.
    #[schema(value_type = String, example = "STORAGE_RESERVE_IN_USE")]
    pub(crate) code: &'static str,
    /// What is wrong.
    #[schema(value_type = String)]
    pub(crate) message: Cow<'static, str>,
}

/// Determines what the server can do: by lookups like those of verifications, by a write, and by the faults of the
/// database that work has met. The results of the lookups and the write are reused for a second.
pub(crate) async fn check(app: &App) -> Readiness {
    let mut readiness = Readiness { verify: true, write: true, reasons: Vec::new() };
    if app.is_draining() {
        readiness.fail("SHUTTING_DOWN", "The server is shutting down.");
        return readiness;
    }
    if app.db.file().problem().is_none() {
        readiness.check_verification(app).await;
        readiness.check_changes(app).await;
    }
    readiness.add_faults(app);
    // Read after the checks, because a change notices that the files were moved, too.
    if let Some(problem) = app.db.file().problem() {
        readiness.reasons.clear();
        readiness.fail("DATABASE_FILES_CHANGED", format!("The database isn't available: {problem}."));
    }
    readiness.check_wal(app);
    if !app.clock.is_settled() {
        readiness.add(
            "CLOCK_UNSETTLED",
            "The clock jumped. Nothing is deleted because of its age until the clock is settled.",
        );
    }
    readiness
}

/// Looks up keys, and what the verification of each key needs.
async fn probe_verification(app: &App) -> Result<()> {
    app.db.probe_verification(&app.clock).await?;
    app.settings.get().await?;
    app.catalogue().await?;
    Ok(())
}

impl Readiness {
    async fn check_verification(&mut self, app: &App) {
        let probed = probe_verification(app).await;
        if let Err(error) = &probed {
            tracing::warn!(%error, "not ready: keys can't be looked up");
        }
        if probed.is_err() || app.verifier.is_failing() {
            self.verify = false;
            self.add("DATABASE_UNREADABLE", "Keys can't be looked up in the database.");
        }
    }

    async fn check_changes(&mut self, app: &App) {
        if app.db.file().reserve().in_use {
            self.write = false;
            self.add(
                "STORAGE_RESERVE_IN_USE",
                "Storage is full. Only changes that take access away are stored, in the storage reserve.",
            );
        } else if let Err(error) = app.db.probe_writable(&app.clock).await {
            self.write = false;
            if error.code == Code::StorageFull {
                self.add("STORAGE_FULL", "The disk is full or the database has reached its size limit.");
            } else {
                tracing::warn!(%error, "the database isn't writable");
                self.add("DATABASE_UNWRITABLE", "The database can't be written.");
            }
        } else if app.db.faults().are_changes_failing() {
            self.write = false;
            self.add("DATABASE_UNWRITABLE", "The last changes failed because of the database.");
        }
    }

    fn add_faults(&mut self, app: &App) {
        if app.db.faults().is_damaged() {
            self.add(
                "DATABASE_DAMAGED",
                "A part of the database is damaged: some requests fail. The server log says what to do.",
            );
        }
        if app.db.faults().has_io_errors() {
            self.add("DATABASE_DISK_FAILED", "The database's disk failed within the last minute.");
        }
        let unstored = app.access_blocks.len();
        if unstored > 0 {
            self.add(
                "REVOCATIONS_NOT_STORED",
                format!(
                    "{unstored} changes that take access away could not be stored. Their access is blocked until they \
                     are repeated, or the server restarts. Repeat them after the repair."
                ),
            );
        }
    }

    /// Adds what is wrong with the WAL. Changes are nevertheless durable.
    fn check_wal(&mut self, app: &App) {
        let checkpoints = app.db.file().checkpoints();
        if checkpoints.is_failing {
            self.add(
                "CHECKPOINT_FAILING",
                "The write-ahead log can't be moved into the database file, so it grows. The server log says why.",
            );
        }
        if checkpoints.is_wal_too_large {
            self.add(
                "WAL_TOO_LARGE",
                "The write-ahead log grows, because another process holds up its checkpoints or doesn't run them.",
            );
        }
    }

    /// Adds the reason why the server can do nothing.
    fn fail(&mut self, code: &'static str, message: impl Into<Cow<'static, str>>) {
        self.verify = false;
        self.write = false;
        self.add(code, message);
    }

    fn add(&mut self, code: &'static str, message: impl Into<Cow<'static, str>>) {
        self.reasons.push(ReadinessReason { code, message: message.into() });
    }

    /// The error of a server that isn't ready.
    pub(crate) fn to_error(&self) -> Error {
        let reason = self.reasons.first().map(|reason| reason.message.clone());
        Error::unavailable(reason.unwrap_or("The server isn't ready.".into()), 1)
    }
}
