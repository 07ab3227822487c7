//! Checkpoints, which move the WAL into the database file so that the WAL can start over.
//!
//! By default SQLite runs them inside of commits: the caller of that commit waits for it, and one that fails is
//! repeated with each commit and reported nowhere. Therefore automatic checkpoints are off on all connections. The
//! writer runs them after it has answered a group, and pauses after one that failed or was held up by a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::engine::{Connection, MAX_WAL_BYTES};
use crate::error::{Code, Error, Result};

/// Size of the WAL, in pages, from which on it is checkpointed. A checkpoint writes each page once, however often it
/// changed: 4000 pages (16 MiB), four times SQLite's default, mean fewer writes and fewer syncs.
const CHECKPOINT_PAGES: u64 = 4000;

/// Number of pages that a checkpoint has to move at least. The WAL stays long if a reader kept it from starting over
/// after a checkpoint; each change would then be followed by a checkpoint otherwise.
const MIN_CHECKPOINTED_PAGES: u64 = 500;

/// Time after which a WAL that is too large is reported. Backups and long reads hold up checkpoints for some time.
const TOO_LARGE_AFTER: Duration = Duration::from_secs(10);

/// Time between two looks at the size of the WAL. Each takes as long as a small part of a change, and the writer would
/// otherwise look after each group.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Pause after a checkpoint that a reader or another process held up, and after the first of several failed ones.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Who checkpoints the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Responsibility {
    /// The writer of this database.
    Writer,
    /// Another process, such as a replicator.
    External,
    /// Nobody, because the database is open for reading only.
    Nobody,
}

/// Size of the WAL, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WalPages {
    total: u64,
    checkpointed: u64,
}

impl WalPages {
    fn pending(self) -> u64 {
        self.total.saturating_sub(self.checkpointed)
    }
}

/// The state of the WAL, for metrics and the readiness check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointStatus {
    /// Size of the part of the WAL that is not in the database file yet.
    pub(crate) pending_bytes: u64,
    /// True since a checkpoint failed, until one succeeds. A full disk doesn't count.
    pub(crate) is_failing: bool,
    /// True if nothing moves the WAL into the database file although it is too large.
    pub(crate) is_wal_too_large: bool,
    /// Number of checkpoints that moved the whole WAL.
    pub(crate) complete: u64,
    /// Number of checkpoints that a reader or another process held up.
    pub(crate) incomplete: u64,
    pub(crate) failed: u64,
}

/// The state of the WAL, which the writer publishes for other threads.
#[derive(Default)]
pub(super) struct SharedStatus {
    pending_bytes: AtomicU64,
    is_failing: AtomicBool,
    is_wal_too_large: AtomicBool,
    complete: AtomicU64,
    incomplete: AtomicU64,
    failed: AtomicU64,
}

impl SharedStatus {
    pub(super) fn get(&self) -> CheckpointStatus {
        CheckpointStatus {
            pending_bytes: self.pending_bytes.load(Ordering::Relaxed),
            is_failing: self.is_failing.load(Ordering::Relaxed),
            is_wal_too_large: self.is_wal_too_large.load(Ordering::Relaxed),
            complete: self.complete.load(Ordering::Relaxed),
            incomplete: self.incomplete.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// The checkpoints of one database, owned by its writer. Times are monotonic.
pub(super) struct Checkpoints {
    responsibility: Responsibility,
    page_bytes: u64,
    is_requested: bool,
    next_look: Duration,
    next_attempt: Duration,
    /// Pause after the next failure.
    pause: Duration,
    /// The cause of the last failure, until a checkpoint succeeds.
    logged_cause: Option<String>,
    too_large_since: Option<Duration>,
    status: Arc<SharedStatus>,
}

impl Checkpoints {
    /// # Errors
    /// The errors of SQLite.
    pub(super) fn new(are_external: bool, conn: &Connection) -> Result<Self> {
        let responsibility = match (conn.is_read_only()?, are_external) {
            (true, _) => Responsibility::Nobody,
            (false, true) => Responsibility::External,
            (false, false) => Responsibility::Writer,
        };
        Ok(Self {
            responsibility,
            page_bytes: conn.query_value("PRAGMA page_size")?,
            is_requested: false,
            next_look: Duration::ZERO,
            next_attempt: Duration::ZERO,
            pause: MIN_PAUSE,
            logged_cause: None,
            too_large_since: None,
            status: Arc::default(),
        })
    }

    pub(super) fn status(&self) -> Arc<SharedStatus> {
        Arc::clone(&self.status)
    }

    /// Lets the next call of [`maintain`](Self::maintain) checkpoint even a short WAL.
    pub(super) fn request(&mut self) {
        self.is_requested = self.responsibility == Responsibility::Writer;
    }

    /// Checkpoints the WAL if that is due, and publishes its state. Without a due checkpoint it reads the index of
    /// the WAL, which is in memory.
    pub(super) fn maintain(&mut self, conn: &Connection, now: Duration) {
        if self.responsibility == Responsibility::Nobody || now < self.next_look && !self.is_requested {
            return;
        }
        self.next_look = now + LOOK_INTERVAL;
        // Fails if the index of the WAL can't be read, which the next change reports.
        let Ok(Some(mut wal)) = run(conn, "PRAGMA wal_checkpoint(NOOP)") else { return };
        if self.is_due(wal, now) {
            wal = self.attempt(conn, wal, now);
        }
        self.publish(wal, now);
    }

    fn is_due(&self, wal: WalPages, now: Duration) -> bool {
        let is_long = wal.total >= CHECKPOINT_PAGES && wal.pending() >= MIN_CHECKPOINTED_PAGES;
        let is_failing = self.logged_cause.is_some() && wal.pending() > 0;
        self.responsibility == Responsibility::Writer
            && now >= self.next_attempt
            && (self.is_requested || is_long || is_failing)
    }

    /// Runs a checkpoint and returns the size of the WAL afterwards.
    fn attempt(&mut self, conn: &Connection, before: WalPages, now: Duration) -> WalPages {
        self.is_requested = false;
        match run_passive(conn) {
            Ok(after) => {
                // Without a size, another process is checkpointing the WAL.
                let after = after.unwrap_or(before);
                let is_complete = after.pending() == 0;
                let counter = if is_complete { &self.status.complete } else { &self.status.incomplete };
                counter.fetch_add(1, Ordering::Relaxed);
                self.next_attempt = if is_complete { now } else { now + MIN_PAUSE };
                // One that moved nothing doesn't show that the database file can be written.
                if is_complete || after.checkpointed > before.checkpointed {
                    self.end_failures();
                }
                after
            }
            Err(error) => {
                self.status.failed.fetch_add(1, Ordering::Relaxed);
                self.next_attempt = now + self.pause;
                self.pause = (self.pause * 2).min(MAX_PAUSE);
                self.note_failure(error);
                before
            }
        }
    }

    fn end_failures(&mut self) {
        self.pause = MIN_PAUSE;
        self.status.is_failing.store(false, Ordering::Relaxed);
        if self.logged_cause.take().is_some() {
            tracing::info!("checkpointed the WAL again");
        }
    }

    /// Logs a failure, unless the last one had the same cause.
    fn note_failure(&mut self, error: Error) {
        // Changes on a full disk are refused, which the readiness check reports by itself.
        self.status.is_failing.store(error.code != Code::StorageFull, Ordering::Relaxed);
        let cause = error.to_string();
        if self.logged_cause.as_ref() != Some(&cause) {
            tracing::error!(%error, "could not checkpoint the WAL, which grows until that succeeds; will retry");
            self.logged_cause = Some(cause);
        }
    }

    fn publish(&mut self, wal: WalPages, now: Duration) {
        let pending_bytes = wal.pending() * self.page_bytes;
        self.status.pending_bytes.store(pending_bytes, Ordering::Relaxed);
        if pending_bytes <= MAX_WAL_BYTES || self.logged_cause.is_some() {
            self.too_large_since = None;
        } else {
            self.too_large_since.get_or_insert(now);
        }
        let is_too_large =
            self.too_large_since.is_some_and(|since| now.saturating_sub(since) >= TOO_LARGE_AFTER);
        let was_too_large = self.status.is_wal_too_large.swap(is_too_large, Ordering::Relaxed);
        match (was_too_large, is_too_large, self.responsibility) {
            (false, true, Responsibility::External) => tracing::warn!(
                pending_bytes,
                "the WAL grows, because no other process checkpoints it as database.checkpoint = \"external\" expects; \
                 check the replicator"
            ),
            (false, true, _) => tracing::warn!(
                pending_bytes,
                "the WAL grows, because a reader that is open for long, probably in another process, holds up \
                 checkpoints"
            ),
            (true, false, _) => tracing::info!(pending_bytes, "the WAL is no longer too large"),
            _ => {}
        }
    }

    /// Checkpoints the WAL at once, to make room in its file. Returns false without effect if that is left to another
    /// process.
    ///
    /// # Errors
    /// The errors of SQLite.
    pub(super) fn run_now(&self, conn: &Connection) -> Result<bool> {
        match self.responsibility {
            Responsibility::Writer => run_passive(conn).map(|_| true),
            Responsibility::External | Responsibility::Nobody => Ok(false),
        }
    }

    /// Empties the WAL when the database is closed.
    pub(super) fn finish(&self, conn: &Connection) {
        if self.responsibility != Responsibility::Writer {
            return;
        }
        match run(conn, "PRAGMA wal_checkpoint(TRUNCATE)") {
            Ok(Some(wal)) if wal.pending() == 0 => {}
            Ok(_) => tracing::info!(
                "another process has the database open, so the WAL keeps the latest changes; the next start reads them"
            ),
            Err(error) => {
                tracing::warn!(%error, "could not checkpoint the WAL at shutdown; the next start reads it");
            }
        }
    }
}

/// Moves the WAL into the database file without waiting for readers. Pages that readers still need stay in the WAL
/// until the next checkpoint.
///
/// # Errors
/// The errors of SQLite.
pub(super) fn run_passive(conn: &Connection) -> Result<Option<WalPages>> {
    run(conn, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// Runs a checkpoint and returns the size of the WAL afterwards; `None` if another process is checkpointing it or
/// there is no WAL.
fn run(conn: &Connection, sql: &str) -> Result<Option<WalPages>> {
    let sizes = conn.statement(sql).and_then(|mut checkpoint| {
        checkpoint.query_first(&[], |row| Ok((row.get::<i64>(1)?, row.get::<i64>(2)?)))
    });
    let sizes = sizes.map_err(|error| error.in_file(conn.path()))?;
    // Without a WAL, both are -1.
    Ok(sizes.and_then(|(total, checkpointed)| {
        Some(WalPages { total: total.try_into().ok()?, checkpointed: checkpointed.try_into().ok()? })
    }))
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
