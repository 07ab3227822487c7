//! What the server can do now, for the readiness check: verify keys, and store changes.

use std::borrow::Cow;

use serde::Serialize;

use crate::app::App;
use crate::error::{Code, Error, Result};
use crate::store;

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

/// Determines what the server can do, by a lookup like that of a verification and by a write. Their results are
/// reused for a second.
pub(crate) async fn check(app: &App) -> Readiness {
    let mut readiness = Readiness { verify: true, write: true, reasons: Vec::new() };
    if app.is_draining() {
        readiness.fail("SHUTTING_DOWN", "The server is shutting down.");
        return readiness;
    }
    if app.db.file_problem().is_none() {
        readiness.check_verification(app).await;
        readiness.check_changes(app).await;
    }
    // Read after the checks, because a change notices that the files were moved, too.
    if let Some(problem) = app.db.file_problem() {
        readiness.reasons.clear();
        readiness.fail("DATABASE_FILES_CHANGED", format!("The database isn't available: {problem}."));
    }
    if !app.clock.is_settled() {
        readiness.add(
            "CLOCK_UNSETTLED",
            "The clock jumped. Nothing is deleted because of its age until the clock is settled.",
        );
    }
    readiness
}

impl Readiness {
    async fn check_verification(&mut self, app: &App) {
        if let Err(error) = probe_verification(app).await {
            tracing::warn!(%error, "not ready: keys can't be looked up");
            self.verify = false;
            self.add("DATABASE_UNREADABLE", "Keys can't be looked up in the database.");
        }
    }

    async fn check_changes(&mut self, app: &App) {
        if app.db.reserve_status().in_use {
            self.write = false;
            self.add(
                "STORAGE_RESERVE_IN_USE",
                "Storage is full. Only changes that take access away are stored, in the storage reserve.",
            );
        } else if let Err(error) = app.db.probe_writable(app.clock.monotonic()).await {
            self.write = false;
            if error.code == Code::StorageFull {
                self.add("STORAGE_FULL", "The disk is full or the database has reached its size limit.");
            } else {
                tracing::warn!(%error, "the database isn't writable");
                self.add("DATABASE_UNWRITABLE", "The database can't be written.");
            }
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

/// Reads what a verification reads of an unknown key.
async fn probe_verification(app: &App) -> Result<()> {
    let lookup = app.db.look_up(|tx| store::api_keys::find_credential_by_hash(tx, &[0; 32]));
    lookup.await.map(drop)
}
