//! The thread that runs all mutations.
//!
//! The writer takes all queued mutations, runs each in a savepoint and commits them together (group commit): one
//! fsync serves the whole group, and no caller is answered before it. A closure that fails or panics is rolled
//! back without affecting the others. When the commit fails, or SQLite rolls back the whole transaction (it does
//! so on a full disk), the entire group gets the error, including mutations that had already failed on their own:
//! they may have failed because of changes by other mutations that were then never stored. On a full disk,
//! mutations that may use the [storage reserve](super::reserve) run once more, each in a transaction of its own.
//! [Checkpoints](super::checkpoint) run between two groups.

use std::iter;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::checkpoint::{self, Checkpoints};
use super::counters::WriterCounters;
use super::database_faults::DatabaseFaults;
use super::engine::{BUSY_TIMEOUT, Connection, POLL_INTERVAL};
use super::file_identity::FileIdentity;
use super::reserve::Reserve;
use super::tx::{Mutation, MutationResult, Tx};
use super::tx_state::{ReserveAccess, TxState};
use super::words;
use crate::clock::Clock;
use crate::domain::invalidation::Invalidation;
use crate::error::{Code, Error, Result};

/// When the changes of the table `words` are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WordStorage {
    /// Before the commit, those of the whole group together.
    WithGroup,
    /// With each mutation, so that an error fails only this mutation.
    WithMutation,
}

/// Why a group failed.
struct GroupError {
    error: Error,
    /// True if words could not be stored. Mutations that change no words may succeed.
    is_of_words: bool,
}

impl From<Error> for GroupError {
    fn from(error: Error) -> Self {
        Self { error, is_of_words: false }
    }
}

pub(super) type OnCommit = Box<dyn Fn(&[Invalidation]) + Send + Sync>;

/// A mutation that waits for the writer.
pub(super) struct QueuedMutation {
    pub(super) mutation: Mutation,
    pub(super) answer: oneshot::Sender<Result<MutationResult>>,
    pub(super) may_use_reserve: bool,
    /// True for changes of the Admin API.
    pub(super) is_admin_change: bool,
    /// Monotonic time, by the writer's clock.
    pub(super) queued_at: Duration,
}

impl QueuedMutation {
    /// Sends the result to the caller. The closure is dropped first, because it may hold what the caller's next
    /// request needs, such as its `Idempotency-Key`.
    fn respond(self, result: Result<MutationResult>) {
        let Self { mutation, answer, .. } = self;
        drop(mutation);
        // The mutation is committed even if its caller has dropped the receiver.
        drop(answer.send(result));
    }
}

/// The writer, which runs all mutations on a dedicated thread.
pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) reserve: Reserve,
    pub(super) checkpoints: Checkpoints,
    /// True after a group that failed because storage is full, until a group succeeds.
    pub(super) is_storage_full: bool,
    pub(super) jobs: mpsc::Receiver<QueuedMutation>,
    pub(super) group_limit: usize,
    pub(super) on_commit: OnCommit,
    /// The system clock, also in tests that set the time elsewhere, because commit times are measured.
    pub(super) clock: Clock,
    pub(super) counters: Arc<WriterCounters>,
    /// `PRAGMA data_version` at the last check. Commits of this connection don't change it.
    pub(super) data_version: i64,
    pub(super) files: Arc<FileIdentity>,
    pub(super) faults: Arc<DatabaseFaults>,
}

impl Writer {
    pub(super) fn run_until_closed(mut self) {
        loop {
            match self.jobs.recv_timeout(POLL_INTERVAL) {
                Ok(first) => {
                    let group =
                        iter::once(first).chain(self.jobs.try_iter()).take(self.group_limit).collect();
                    self.run_group(group);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.detect_external_writes();
            self.save_removed_wal();
            // The directory at the database's path may be another one.
            if !self.files.is_lost() {
                let now = self.clock.monotonic();
                self.reserve.maintain(&self.conn, now);
                self.checkpoints.maintain(&self.conn, now);
            }
        }
        self.checkpoints.finish(&self.conn);
    }

    fn run_group(&mut self, mut group: Vec<QueuedMutation>) {
        self.counters.waiting.fetch_sub(group.len() as u64, Ordering::Relaxed);
        let mutations = group.len();
        if self.reserve.is_in_use() {
            return group.into_iter().for_each(|job| self.run_with_reserve(job));
        }
        let mut committed = self.run_and_commit(&mut group, ReserveAccess::NotNeeded, WordStorage::WithGroup);
        if let Err(GroupError { error, is_of_words: true }) = &committed
            && error.code != Code::StorageFull
        {
            // A damaged table `words` must not prevent revocations.
            committed = self.run_and_commit(&mut group, ReserveAccess::NotNeeded, WordStorage::WithMutation);
        }
        match committed.map_err(|failed| failed.error) {
            Ok(results) => {
                self.is_storage_full = false;
                group.into_iter().zip(results).for_each(|(job, result)| self.respond(job, result));
            }
            Err(error) if error.code == Code::StorageFull => {
                // Logged once, because clients may retry often while the disk is full.
                if !mem::replace(&mut self.is_storage_full, true) {
                    tracing::error!(%error, "storage is full; changes are refused until there is room");
                }
                for job in group {
                    match job.may_use_reserve {
                        true => self.run_with_reserve(job),
                        false => self.respond(job, Err(error.clone())),
                    }
                }
            }
            Err(error) => {
                // Lost files are logged when they are detected.
                if !self.files.is_lost() {
                    tracing::error!(%error, mutations, "a group of mutations failed");
                }
                group.into_iter().for_each(|job| self.respond(job, Err(error.clone())));
            }
        }
    }

    /// Answers a mutation, after its outcome was recorded.
    fn respond(&self, job: QueuedMutation, result: Result<MutationResult>) {
        if let Err(error) = &result {
            self.faults.observe(error);
        }
        if job.is_admin_change {
            self.faults.observe_change(&result);
        }
        job.respond(result);
    }

    /// Runs and answers one mutation while storage is full.
    fn run_with_reserve(&mut self, job: QueuedMutation) {
        let mut job = vec![job];
        let raised = self.reserve.raise_page_limit(&self.conn);
        let result = raised.and_then(|()| self.commit_with_reserve(&mut job));
        let succeeded = result.is_ok();
        self.update_reserve();
        // Without it, the mutation was answered after it had waited too long for a lock.
        if let Some(job) = job.pop() {
            self.respond(job, result);
        }
        // The next mutation needs the room in the WAL again.
        if succeeded && self.reserve.is_file_short() {
            self.checkpoint_wal_into_reserve();
            self.update_reserve();
        }
    }

    /// Restores the limit on the size of the file, and publishes the state of the reserve.
    fn update_reserve(&mut self) {
        let restored = self.reserve.restore_page_limit(&self.conn);
        if let Err(error) = restored.and_then(|()| self.reserve.update(&self.conn)) {
            tracing::error!(%error, "could not determine the state of the storage reserve");
        }
    }

    /// Runs one mutation while storage is full. If it may use the reserve, room is made for it: by a checkpoint,
    /// after which the WAL's file is filled from its beginning, then with the reserve.
    fn commit_with_reserve(&mut self, job: &mut Vec<QueuedMutation>) -> Result<MutationResult> {
        let mut is_wal_reset = false;
        loop {
            let results = self.run_and_commit(job, ReserveAccess::Denied, WordStorage::WithMutation);
            let results = results.map_err(|failed| failed.error);
            let is_full = results.as_ref().is_err_and(|error| error.code == Code::StorageFull);
            let has_more_room = is_full
                && job.first().is_some_and(|job| job.may_use_reserve)
                && (!mem::replace(&mut is_wal_reset, true)
                    && self.checkpoints.run_now(&self.conn).unwrap_or(false)
                    || self.reserve.release_step());
            if !has_more_room {
                return results?.pop().unwrap_or_else(|| Err(Error::internal("a mutation has no result")));
            }
        }
    }

    /// Runs the mutations in one transaction and commits it. Returns the result of each mutation, or an error
    /// when the whole transaction failed and nothing was stored.
    fn run_and_commit(
        &mut self,
        group: &mut Vec<QueuedMutation>,
        reserve_access: ReserveAccess,
        word_storage: WordStorage,
    ) -> Result<Vec<Result<MutationResult>>, GroupError> {
        self.begin_transaction(group)?;
        let state = TxState::with_reserve_access(reserve_access);
        let tx = Tx::new(&self.conn, &state);
        let results = group.iter_mut().map(|job| {
            tx.run_mutation(|tx| {
                let result = (job.mutation)(tx)?;
                if word_storage == WordStorage::WithMutation {
                    words::store_changes(tx)?;
                }
                Ok(result)
            })
        });
        let results = results.collect::<Result<Vec<_>>>().map_err(GroupError::from).and_then(|results| {
            words::store_changes(&tx).map_err(|error| GroupError { error, is_of_words: true })?;
            self.files.ensure_in_place()?;
            // Nothing is to be stored. A commit would nevertheless write and sync the pages that rolled-back
            // savepoints have changed.
            if !state.has_written.get() {
                tx.execute("ROLLBACK", &[])?;
                return Ok(results);
            }
            if reserve_access == ReserveAccess::NotNeeded {
                self.reserve.ensure_within_limit(&tx)?;
            }
            let began = self.clock.monotonic();
            tx.execute("COMMIT", &[])?;
            self.counters.commit_times.observe_time(self.clock.monotonic().saturating_sub(began));
            self.counters.groups.observe(results.len() as u64);
            Ok(results)
        });
        if reserve_access != ReserveAccess::NotNeeded {
            group.iter_mut().for_each(|job| job.may_use_reserve = tx.may_use_reserve());
        }
        let wrote = state.has_written.get();
        let invalidations = state.invalidations.take();
        let requests_checkpoint = state.checkpoint_requested.get();
        let results = results.inspect_err(|_| roll_back_if_open(&self.conn))?;

        let succeeded = results.iter().filter(|result| result.is_ok()).count();
        self.counters.mutations.fetch_add(succeeded as u64, Ordering::Relaxed);
        self.counters.commits.fetch_add(wrote.into(), Ordering::Relaxed);
        if !invalidations.is_empty() {
            (self.on_commit)(&invalidations);
        }
        if wrote {
            self.files.ensure_still_in_place()?;
        }
        if requests_checkpoint {
            self.checkpoints.request();
        }
        Ok(results)
    }

    /// Checkpoints the WAL on a full disk, so that the next mutation finds room in the WAL's file. The database
    /// file may have to grow for that, into steps of the reserve that are released.
    fn checkpoint_wal_into_reserve(&self) {
        while let Err(error) = self.checkpoints.run_now(&self.conn) {
            if error.code != Code::StorageFull || !self.reserve.release_step() {
                tracing::warn!(%error, "could not checkpoint the WAL");
                return;
            }
        }
    }

    /// Moves the frames of a removed WAL into the database file, once. The next start wouldn't find them, and neither
    /// would another process that checkpoints.
    fn save_removed_wal(&self) {
        if !self.files.is_wal_newly_removed() {
            return;
        }
        match checkpoint::run_passive(&self.conn) {
            Ok(_) => tracing::warn!("moved the changes of the removed WAL into the database file"),
            Err(error) => {
                tracing::error!(%error, "could not move the changes of the removed WAL into the database file");
            }
        }
    }

    /// Begins the transaction of a group. While another process holds the lock, removes and answers mutations that
    /// were queued [`BUSY_TIMEOUT`] ago: a mutation may have waited already for an earlier group.
    fn begin_transaction(&mut self, group: &mut Vec<QueuedMutation>) -> Result<()> {
        // The previous transaction is still open only if its rollback failed.
        roll_back_if_open(&self.conn);
        loop {
            let begun = self.conn.statement("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute(&[]));
            let Err(error) = begun else { return Ok(()) };
            let is_busy = error.is_busy();
            let error = error.in_file(self.conn.path());
            if !is_busy {
                return Err(error);
            }
            let now = self.clock.monotonic();
            let has_waited = |job: &mut QueuedMutation| now.saturating_sub(job.queued_at) >= BUSY_TIMEOUT;
            group.extract_if(.., has_waited).for_each(|job| job.respond(Err(error.clone())));
            if group.is_empty() {
                return Err(error);
            }
            self.counters.lock_waits.fetch_add(1, Ordering::Relaxed);
            self.detect_external_writes();
        }
    }

    /// Checks whether another process has committed, and invalidates all cache entries if so, because it is
    /// unknown what that process changed.
    fn detect_external_writes(&mut self) {
        match self.conn.data_version() {
            Ok(version) if version == self.data_version => return,
            Ok(version) => self.data_version = version,
            Err(error) => {
                tracing::warn!(%error, "could not check whether another process wrote; assuming it did");
            }
        }
        (self.on_commit)(&[Invalidation::All]);
    }
}

fn roll_back_if_open(conn: &Connection) {
    if conn.is_in_transaction()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "could not roll back");
    }
}
