//! The engine: one thread that writes, and a pool of connections that read.
//!
//! A mutation is a closure over a [`Tx`], which the [writer](super::writer) runs and commits together with
//! others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use super::cancelable_read::{StopOnDrop, run_read};
use super::checkpoint::{self, Checkpoints};
use super::counters::WriterCounters;
pub(crate) use super::counters::{WriterMetrics, WriterTotals};
use super::database_faults::DatabaseFaults;
pub(crate) use super::engine::sqlite_version;
use super::engine::{self, ReaderManager, ReaderPool};
use super::fallback;
use super::file_identity::{FileIdentity, FileWatch};
use super::lookup::Lookups;
pub(crate) use super::options::Options;
use super::probe::{self, CachedProbe};
use super::reserve::{self, Reserve};
use super::schema;
pub(crate) use super::schema::{ensure_exists, has_lock_file, lock_data_dir};
use super::tx::MutationResult;
pub(crate) use super::tx::Tx;
use super::writer::{QueuedMutation, Writer};
use crate::clock::Clock;
use crate::domain::invalidation::Invalidation;
use crate::error::{DatabaseFault, Error, Result};

/// Interval at which [`Db::wait_for_writer`] looks for an answer.
const RESPONSE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The open database. Clones share the same database; dropping the last clone closes it.
#[derive(Clone)]
pub struct Db(pub(super) Arc<Shared>);

pub(super) struct Shared {
    /// Sender of the writer's queue; `None` once the database is closing.
    queue: Mutex<Option<SyncSender<QueuedMutation>>>,
    /// The channel closes when the writer's thread ends, because that thread owns the sender. Nothing is
    /// sent.
    writer_ended: watch::Receiver<()>,
    counters: Arc<WriterCounters>,
    faults: Arc<DatabaseFaults>,
    pub(super) files: Arc<FileIdentity>,
    _file_watch: FileWatch,
    pub(super) reserve: Arc<reserve::SharedStatus>,
    pub(super) checkpoints: Arc<checkpoint::SharedStatus>,
    /// The clock of the writer.
    clock: Clock,
    /// True if the database was opened for reading only.
    is_read_only: bool,
    lookups: Arc<Lookups>,
    readers: ReaderPool,
    /// One permit per reader, so that a read waiting for a connection doesn't occupy a thread.
    reader_permits: Arc<Semaphore>,
    read_timeout: Duration,
    verification_probe: CachedProbe,
    write_probe: CachedProbe,
}

impl Db {
    /// Opens the file, creates or upgrades its schema, and starts the writer. The writer's thread calls
    /// `on_commit` after each commit with the invalidations of that commit. If `on_commit` panics, the
    /// writer stops and no further mutation succeeds: a success guarantees that the caches are up to date.
    ///
    /// # Errors
    /// `CONFLICT` when the file isn't a Tollhouse database or is too new, or SQLite is too old. The
    /// message says what to do.
    pub(crate) fn open(
        options: &Options,
        on_commit: impl Fn(&[Invalidation]) + Send + Sync + 'static,
    ) -> Result<Self> {
        engine::ensure_supported_version()?;
        let conn = reserve::open_with_reserve(&options.file, || {
            schema::create_or_upgrade(&options.file, options.must_exist)?;
            engine::open_writer(&options.file, options.external_checkpoints)
        });
        let (located, conn) = match conn {
            Ok(conn) => (options.clone(), conn),
            Err(error) => fallback::open(options, error)?,
        };
        let reserve = Reserve::open(&options.file, options.max_bytes, &conn)?;
        let reserve_status = reserve.status();
        let checkpoints = Checkpoints::new(options.external_checkpoints, &conn)?;
        let checkpoint_status = checkpoints.status();
        let clock = Clock::system();
        let is_read_only = conn.is_read_only()?;
        let reader_manager = || ReaderManager::new(&located.file, options.external_checkpoints);
        let readers = ReaderPool::open(reader_manager(), options.readers.max(1), options.read_timeout)?;

        let (queue, jobs) = mpsc::sync_channel(options.writer_queue.max(1));
        let (writer_alive, writer_ended) = watch::channel(());
        let counters = Arc::new(WriterCounters::default());
        let faults = Arc::new(DatabaseFaults::default());
        // Only a fallback works without the files of the WAL.
        let requires_wal = located.file == options.file;
        let files = Arc::new(FileIdentity::record(&options.file, requires_wal)?);
        let writer = Writer {
            data_version: conn.data_version()?,
            conn,
            reserve,
            checkpoints,
            is_storage_full: false,
            jobs,
            group_limit: options.group_limit.max(1),
            on_commit: Box::new(on_commit),
            clock: clock.clone(),
            counters: Arc::clone(&counters),
            files: Arc::clone(&files),
            faults: Arc::clone(&faults),
        };
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                writer.run_until_closed();
                drop(writer_alive);
            })
            .map_err(Error::internal)?;
        Ok(Self(Arc::new(Shared {
            queue: Mutex::new(Some(queue)),
            writer_ended,
            counters,
            faults: Arc::clone(&faults),
            _file_watch: FileWatch::start(Arc::clone(&files))?,
            files,
            reserve: reserve_status,
            checkpoints: checkpoint_status,
            clock,
            is_read_only,
            lookups: Lookups::start(&reader_manager(), faults)?,
            reader_permits: Arc::new(Semaphore::new(options.readers.max(1) as usize)),
            readers,
            read_timeout: options.read_timeout,
            verification_probe: CachedProbe::default(),
            write_probe: CachedProbe::default(),
        })))
    }

    /// Runs a mutation and returns after its commit. A queued mutation runs even if the returned future
    /// is dropped. The closure may run more than once; only its last run takes effect.
    ///
    /// # Errors
    /// The closure's error, or the commit's; `UNAVAILABLE` when the queue is full or the database is closed.
    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.run_mutation(f, false).await
    }

    /// Like [`write`](Self::write), but when storage is full the closure runs again, with
    /// [`Tx::is_storage_full`], and may then use the storage reserve.
    ///
    /// # Errors
    /// The errors of [`write`](Self::write).
    pub(crate) async fn write_with_reserve<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.run_mutation(f, true).await
    }

    async fn run_mutation<T, F>(&self, mut f: F, may_use_reserve: bool) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        if self.0.is_read_only {
            let message = "The database can't be written. Check its disk and its permissions.";
            let error = Error::unavailable(message, 30);
            return Err(Error { database_fault: Some(DatabaseFault::Io), ..error });
        }
        let (answer, answered) = oneshot::channel();
        let mutation = Box::new(move |tx: &Tx<'_>| f(tx).map(|value| Box::new(value) as MutationResult));
        let queued_at = self.0.clock.monotonic();
        let is_admin_change = may_use_reserve;
        self.enqueue(QueuedMutation { mutation, answer, may_use_reserve, is_admin_change, queued_at })?;
        let value =
            answered.await.map_err(|_| Error::internal("the writer stopped before it answered"))??;
        value
            .downcast()
            .map(|value| *value)
            .map_err(|_| Error::internal("unexpected type of a mutation's result"))
    }

    fn enqueue(&self, job: QueuedMutation) -> Result<()> {
        let queue = self.0.queue.lock();
        let Some(queue) = &*queue else {
            return Err(Error::unavailable("The server is shutting down.", 1));
        };
        // Incremented before the writer can dequeue the mutation and decrement the counter, so that the
        // counter never goes below zero.
        self.0.counters.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = queue.try_send(job);
        if sent.is_err() {
            self.0.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent.map_err(|error| match error {
            TrySendError::Full(_) => {
                self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
                Error::unavailable("Too many changes are waiting to be written. Try again in a second.", 1)
            }
            TrySendError::Disconnected(_) => Error::internal("the writer has stopped"),
        })
    }

    /// Waits until the writer's thread has answered a mutation that does nothing, with success or an error. A
    /// thread that waits for the lock of another process counts as responding, because only that process can
    /// release the lock. While the database closes, returns at once. Never returns if the thread hangs or has
    /// ended.
    pub(crate) async fn wait_for_writer(&self) {
        let lock_waits = || self.0.counters.lock_waits.load(Ordering::Relaxed);
        let earlier_lock_waits = lock_waits();
        let (answer, mut answered) = oneshot::channel();
        let mutation = Box::new(|_: &Tx<'_>| Ok(Box::new(()) as MutationResult));
        let queued_at = self.0.clock.monotonic();
        let job =
            QueuedMutation { mutation, answer, may_use_reserve: false, is_admin_change: false, queued_at };
        let mut unsent = Some(job);
        let mut ticks = tokio::time::interval(RESPONSE_POLL_INTERVAL);
        loop {
            // A full queue has room again once the writer has taken a group.
            if let Some(job) = unsent.take() {
                match &*self.0.queue.lock() {
                    None => return,
                    Some(queue) => {
                        self.0.counters.waiting.fetch_add(1, Ordering::Relaxed);
                        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                            queue.try_send(job)
                        {
                            self.0.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                            unsent = Some(job);
                        }
                    }
                }
            }
            ticks.tick().await;
            if answered.try_recv().is_ok() || lock_waits() != earlier_lock_waits {
                return;
            }
        }
    }

    /// Runs a read on a blocking thread, in one transaction: all its statements see the same state. The
    /// read is interrupted on timeout and when the returned future is dropped.
    ///
    /// # Errors
    /// The closure's error; `UNAVAILABLE` when the wait for a connection and the read exceed the timeout.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        let permits = Arc::clone(&self.0.reader_permits);
        let readers = self.0.readers.clone();
        let work = async move {
            let permit = permits.acquire_owned().await.map_err(Error::internal)?;
            let task = move || {
                let _held_until_the_connection_is_back = permit;
                let conn = readers.get()?;
                run_read(&conn, stopped, f)
            };
            tokio::task::spawn_blocking(task).await.map_err(|_| Error::internal("a read panicked"))?
        };
        let timed_out = |_| Err(Error::unavailable("The database took too long to answer. Try again.", 1));
        let result = tokio::time::timeout(self.0.read_timeout, work).await.unwrap_or_else(timed_out);
        result.inspect_err(|error| self.0.faults.observe(error))
    }

    /// Runs a short read that verifications need, of one or two rows or of the scope catalogue. The read doesn't
    /// queue behind long reads and sees everything committed before this call.
    ///
    /// # Errors
    /// The closure's error; `UNAVAILABLE` when too many lookups are waiting.
    pub(crate) async fn look_up<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.0.lookups.run_lookup(f).await
    }

    /// The faults of the database that work met.
    pub(crate) fn faults(&self) -> &DatabaseFaults {
        &self.0.faults
    }

    /// Totals of the writer since the database was opened.
    pub(crate) fn writer_totals(&self) -> WriterTotals {
        self.0.counters.stats()
    }

    /// Queue length, group sizes and commit times of the writer.
    pub(crate) fn writer_metrics(&self) -> WriterMetrics {
        self.0.counters.work()
    }

    /// True if nothing can be stored that makes the database larger, as far as known without trying.
    pub(crate) fn has_no_room(&self) -> bool {
        self.0.is_read_only || self.0.reserve.get().in_use
    }

    /// Refuses new mutations and waits until the queued ones are answered and the writer has stopped. Its last step
    /// is a checkpoint of the WAL, unless another process does that. Idempotent.
    pub(crate) async fn close(&self) {
        self.0.lookups.close();
        drop(self.0.queue.lock().take());
        // Nothing is ever sent on this channel; `changed` fails once the writer's thread has ended.
        while self.0.writer_ended.clone().changed().await.is_ok() {}
    }

    /// Checks that keys can be looked up, at some places of the tables that verifications read. Calls within a
    /// second of the last check get its result.
    ///
    /// # Errors
    /// The same errors as [`look_up`](Self::look_up).
    pub(crate) async fn probe_verification(&self, clock: &Clock) -> Result<()> {
        let random = probe::spread_bits(clock.monotonic());
        let db = self.clone();
        let probe = async move {
            let read = move |tx: &Tx<'_>| {
                Ok((probe::probe_verification(tx, random)?, schema::last_backup_at(tx).ok()))
            };
            let (fault, last_backup_at) = db.look_up(read).await?;
            match (fault, last_backup_at) {
                (Some(error), _) => db.0.faults.observe(&error),
                (None, Some(at)) => db.0.faults.forget_damage_after_backup(at),
                (None, None) => {}
            }
            Ok(())
        };
        self.0.verification_probe.run(clock, self.0.read_timeout, probe).await
    }

    /// Checks that changes can be stored within a second: commits a write, and revokes a key without a commit. Calls
    /// within a second of the last check get its result.
    ///
    /// # Errors
    /// The same errors as [`write`](Self::write).
    pub(crate) async fn probe_writable(&self, clock: &Clock) -> Result<()> {
        let random = probe::spread_bits(clock.monotonic());
        let db = self.clone();
        let probe = async move {
            db.write(probe::probe_growth).await?;
            match db.write(move |tx| probe::probe_revocation(tx, random)).await {
                Err(error) if !probe::is_rolled_back(&error) => Err(error),
                _ => Ok(()),
            }
        };
        self.0.write_probe.run(clock, Duration::from_secs(1), probe).await
    }
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
