//! Remembers that real work met a damaged database file or a failing disk, for the readiness check and the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::error::{DatabaseFault, Error};
use crate::telemetry::failure_streak::FailureStreak;

/// Time after the last error of the disk from which on the disk is expected to work again.
const IO_ERROR_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The faults of the database that work met since the start.
pub(crate) struct DatabaseFaults {
    /// The system clock, also in tests that set the time elsewhere.
    clock: Clock,
    is_damaged: AtomicBool,
    /// The time of the last backup, as read first since the damage was met; `None` until then.
    backup_at_damage: Mutex<Option<Option<Timestamp>>>,
    /// Monotonic time of the last error of the disk, until it is forgotten.
    last_io_error: Mutex<Option<Duration>>,
    damage_count: AtomicU64,
    io_error_count: AtomicU64,
    /// Number of changes of the Admin API that were stored.
    stored_changes: AtomicU64,
    /// Each failure counts, whatever was to be changed.
    failed_changes: FailureStreak<u64>,
}

impl Default for DatabaseFaults {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            is_damaged: AtomicBool::default(),
            backup_at_damage: Mutex::default(),
            last_io_error: Mutex::default(),
            damage_count: AtomicU64::default(),
            io_error_count: AtomicU64::default(),
            stored_changes: AtomicU64::default(),
            failed_changes: FailureStreak::default(),
        }
    }
}

impl DatabaseFaults {
    /// Remembers the fault that caused this error, if one did. The first one of its kind is logged, with the file and
    /// what to do.
    pub(crate) fn observe(&self, error: &Error) {
        match error.database_fault {
            None => {}
            Some(DatabaseFault::Damage) => {
                self.damage_count.fetch_add(1, Ordering::Relaxed);
                if !self.is_damaged.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the database is damaged");
                }
            }
            Some(DatabaseFault::Io) => {
                self.io_error_count.fetch_add(1, Ordering::Relaxed);
                let had_failed = self.last_io_error.lock().replace(self.clock.monotonic()).is_some();
                if !had_failed {
                    tracing::error!(%error, "the database's disk failed");
                }
            }
        }
    }

    /// Records the outcome of a change of the Admin API.
    pub(super) fn observe_change<T>(&self, result: &Result<T, Error>) {
        let stored = &self.stored_changes;
        match result {
            Ok(_) => drop(stored.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.database_fault.is_some() => {
                let (damage, io_errors) = self.counts();
                let stored = stored.load(Ordering::Relaxed);
                self.failed_changes.record(damage + io_errors, stored, self.clock.monotonic());
            }
            Err(_) => {}
        }
    }

    /// True if the last changes of the Admin API all failed because of the database.
    pub(crate) fn are_changes_failing(&self) -> bool {
        self.failed_changes.is_failing(self.stored_changes.load(Ordering::Relaxed), self.clock.monotonic())
    }

    /// True if work has met a damaged part of the file since the start or the last verified backup.
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// Forgets that the file was damaged if a backup was made since: it has verified every page. `last_backup_at` is
    /// the time of the last backup.
    pub(crate) fn forget_damage_after_backup(&self, last_backup_at: Option<Timestamp>) {
        if !self.is_damaged() {
            return;
        }
        let mut known = self.backup_at_damage.lock();
        if *known.get_or_insert(last_backup_at) != last_backup_at {
            *known = None;
            self.is_damaged.store(false, Ordering::Relaxed);
            tracing::info!("the database is no longer considered damaged: a backup of it was verified");
        }
    }

    /// True if the disk has failed within the last minute.
    pub(crate) fn has_io_errors(&self) -> bool {
        let mut last = self.last_io_error.lock();
        if last.is_some_and(|at| self.clock.monotonic().saturating_sub(at) >= IO_ERROR_FORGOTTEN_AFTER) {
            *last = None;
            tracing::info!("the database's disk works again: no error for a minute");
        }
        last.is_some()
    }

    /// Number of failures because of a damaged file, and because of the disk.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.damage_count.load(Ordering::Relaxed), self.io_error_count.load(Ordering::Relaxed))
    }
}
