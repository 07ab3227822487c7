//! The engine: one thread that writes, and a pool of connections that read.
//!
//! A mutation is a closure over a [`Tx`]. The writer takes all queued mutations, runs each in a
//! savepoint and commits them together (group commit): one fsync serves the whole group, and no caller
//! is answered before it. A closure that fails or panics is rolled back without affecting the others.
//! When the commit fails, or SQLite rolls back the whole transaction (it does so on a full disk), the
//! entire group gets the error, including mutations that had already failed on their own: they may have
//! failed because of changes by other mutations that were then never stored.

use std::iter;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot, watch};

use super::cancelable_read::{StopOnDrop, run_read};
use super::counters::WriterCounters;
pub(crate) use super::counters::{WriterMetrics, WriterTotals};
use super::engine_error::in_file_of;
use super::file_identity::{FileIdentity, FileWatch};
use super::lookup::Lookups;
use super::schema;
pub(crate) use super::schema::{ensure_exists, has_lock_file, lock_data_dir};
pub(crate) use super::tx::Tx;
use super::tx::{Mutation, MutationResult, is_busy_error};
use crate::clock::Clock;
use crate::domain::invalidation::Invalidation;
use crate::error::{Code, Error, Result};

/// Maximum time for which a connection waits for a lock that another process holds.
pub(in crate::store) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the writer checks whether another process wrote to the database. The writer also waits
/// for locks in steps of this length and checks after each step: otherwise, while another process commits in
/// a tight loop, the writer would wait for much longer than a second without detecting that process's writes.
pub(in crate::store) const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// SQLite 3.51.3, as an integer. Older versions can corrupt a database in WAL mode when the WAL is reset.
const MIN_SQLITE_VERSION: i32 = 3_051_003;

type OnCommit = Box<dyn Fn(&[Invalidation]) + Send + Sync>;

/// Location and limits of the database.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Path of the database file. A missing parent directory is created.
    pub(crate) file: PathBuf,
    /// True if a missing file is an error; otherwise it is created.
    pub(crate) must_exist: bool,
    /// Maximum number of concurrent reads.
    pub(crate) readers: u32,
    /// Maximum time of one read, including the wait for a connection.
    pub(crate) read_timeout: Duration,
    /// Maximum number of queued mutations; more are refused.
    pub(crate) writer_queue: usize,
    /// Maximum number of mutations that share one commit.
    pub(crate) group_limit: usize,
    /// Maximum size of the database file, in bytes; 0 means no limit. The WAL is not counted.
    pub(crate) max_bytes: u64,
}

/// The open database. Clones share the same database; dropping the last clone closes it.
#[derive(Clone)]
pub struct Db(Arc<Shared>);

struct Shared {
    /// Sender of the writer's queue; `None` once the database is closing.
    queue: Mutex<Option<SyncSender<QueuedMutation>>>,
    /// The channel closes when the writer's thread ends, because that thread owns the sender. Nothing is
    /// sent.
    writer_ended: watch::Receiver<()>,
    counters: Arc<WriterCounters>,
    files: Arc<FileIdentity>,
    _file_watch: FileWatch,
    lookups: Arc<Lookups>,
    readers: r2d2::Pool<SqliteConnectionManager>,
    /// One permit per reader, so that a read waiting for a connection doesn't occupy a thread.
    reader_permits: Arc<Semaphore>,
    read_timeout: Duration,
    /// Monotonic time and result of the last probe.
    last_probe: tokio::sync::Mutex<Option<(Duration, Result<()>)>>,
}

struct QueuedMutation {
    mutation: Mutation,
    answer: oneshot::Sender<Result<MutationResult>>,
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
        if rusqlite::version_number() < MIN_SQLITE_VERSION {
            let message = format!("SQLite {} is too old; 3.51.3 or later is required.", rusqlite::version());
            return Err(Error::new(Code::Conflict, message));
        }
        schema::create_or_upgrade(&options.file, options.must_exist)?;
        let conn = schema::open_writer_connection(options)?;
        let readers = r2d2::Pool::builder()
            .max_size(options.readers.max(1))
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(options.read_timeout)
            .build(schema::reader_connections(options))
            .map_err(Error::internal)?;

        let (queue, jobs) = mpsc::sync_channel(options.writer_queue.max(1));
        let (writer_alive, writer_ended) = watch::channel(());
        let counters = Arc::new(WriterCounters::default());
        let files = Arc::new(FileIdentity::record(&options.file)?);
        let writer_thread = Writer {
            data_version: data_version(&conn)?,
            conn,
            jobs,
            group_limit: options.group_limit.max(1),
            on_commit: Box::new(on_commit),
            clock: Clock::system(),
            counters: Arc::clone(&counters),
            files: Arc::clone(&files),
        };
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                writer_thread.run_until_closed();
                drop(writer_alive);
            })
            .map_err(Error::internal)?;
        Ok(Self(Arc::new(Shared {
            queue: Mutex::new(Some(queue)),
            writer_ended,
            counters,
            _file_watch: FileWatch::start(Arc::clone(&files))?,
            files,
            lookups: Lookups::start(options)?,
            reader_permits: Arc::new(Semaphore::new(readers.max_size() as usize)),
            readers,
            read_timeout: options.read_timeout,
            last_probe: tokio::sync::Mutex::default(),
        })))
    }

    /// Runs a mutation and returns after its commit. A queued mutation runs even if the returned future
    /// is dropped. The closure may run more than once; only its last run takes effect.
    ///
    /// # Errors
    /// The closure's error, or the commit's; `UNAVAILABLE` when the queue is full or the database is closed.
    pub async fn write<T, F>(&self, mut f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let mutation = Box::new(move |tx: &Tx<'_>| f(tx).map(|value| Box::new(value) as MutationResult));
        self.enqueue(QueuedMutation { mutation, answer })?;
        let value =
            answered.await.map_err(|_| Error::internal("the writer stopped before it answered"))??;
        value
            .downcast()
            .map(|value| *value)
            .map_err(|_| Error::internal("unexpected type of a mutation's result"))
    }

    fn enqueue(&self, job: QueuedMutation) -> Result<()> {
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
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
                let mut conn = readers.get().map_err(Error::internal)?;
                run_read(&mut conn, stopped, f)
            };
            tokio::task::spawn_blocking(task).await.map_err(|_| Error::internal("a read panicked"))?
        };
        let timed_out = |_| Err(Error::unavailable("The database took too long to answer. Try again.", 1));
        tokio::time::timeout(self.0.read_timeout, work).await.unwrap_or_else(timed_out)
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

    /// Totals of the writer since the database was opened.
    pub(crate) fn writer_totals(&self) -> WriterTotals {
        self.0.counters.stats()
    }

    /// Queue length, group sizes and commit times of the writer.
    pub(crate) fn writer_metrics(&self) -> WriterMetrics {
        self.0.counters.work()
    }

    /// What is wrong with the database's files, without their paths.
    pub(crate) fn file_problem(&self) -> Option<String> {
        self.0.files.problem().map(|problem| problem.summary())
    }

    /// A flag that is true while the files at the database's paths aren't those that are open.
    pub(crate) fn files_lost_flag(&self) -> Arc<AtomicBool> {
        self.0.files.lost_flag()
    }

    /// Refuses new mutations and waits until the queued ones are answered and the writer has stopped,
    /// which checkpoints the WAL as its last step. Idempotent.
    pub(crate) async fn close(&self) {
        self.0.lookups.close();
        drop(self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Nothing is ever sent on this channel; `changed` fails once the writer's thread has ended.
        while self.0.writer_ended.clone().changed().await.is_ok() {}
    }

    /// Checks that the database file is writable by committing a write. Calls within a second of the last
    /// check get its result. `now` is the clock's monotonic time.
    ///
    /// # Errors
    /// The same errors as [`write`](Self::write).
    pub(crate) async fn probe_writable(&self, now: Duration) -> Result<()> {
        let mut last_probe = self.0.last_probe.lock().await;
        if let Some((at, result)) = &*last_probe
            && now.saturating_sub(*at) < Duration::from_secs(1)
        {
            return result.clone();
        }
        // The inserted value is longer than a page. It needs new pages, so it fails when the file is at its
        // size limit.
        let result = self.write(|tx| {
            tx.execute("INSERT INTO meta (name, value) VALUES ('probe', ?1)", ["x".repeat(8192)])?;
            tx.execute("DELETE FROM meta WHERE name = 'probe'", [])
        });
        let result = result.await.map(|_| ());
        *last_probe = Some((now, result.clone()));
        result
    }
}

/// The version of the bundled SQLite, such as `3.51.3`.
pub(crate) fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// The writer, which runs all mutations on a dedicated thread.
struct Writer {
    conn: Connection,
    jobs: mpsc::Receiver<QueuedMutation>,
    group_limit: usize,
    on_commit: OnCommit,
    /// The system clock, also in tests that set the time elsewhere, because commit times are measured.
    clock: Clock,
    counters: Arc<WriterCounters>,
    /// `PRAGMA data_version` at the last check. Commits of this connection don't change it.
    data_version: i64,
    files: Arc<FileIdentity>,
}

impl Writer {
    fn run_until_closed(mut self) {
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
        }
        if let Err(error) = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "could not checkpoint the WAL at shutdown; the next start reads it");
        }
    }

    fn run_group(&mut self, group: Vec<QueuedMutation>) {
        self.counters.waiting.fetch_sub(group.len() as u64, Ordering::Relaxed);
        let (mutations, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.mutation, job.answer)).unzip();
        match self.run_and_commit(mutations) {
            // The mutation is committed even if its caller has dropped the receiver.
            Ok(results) => {
                answers.into_iter().zip(results).for_each(|(answer, result)| drop(answer.send(result)))
            }
            Err(error) => {
                // Lost files are logged when they are detected.
                if !self.files.is_lost() {
                    tracing::error!(%error, mutations = answers.len(), "a group of mutations failed");
                }
                answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
            }
        }
    }

    /// Runs the mutations in one transaction and commits it. Returns the result of each mutation, or an error
    /// when the whole transaction failed and nothing was stored.
    fn run_and_commit(&mut self, mutations: Vec<Mutation>) -> Result<Vec<Result<MutationResult>>> {
        self.begin_transaction()?;
        let tx = Tx::new(&self.conn);
        let results = mutations.into_iter().map(|mut mutation| tx.run_mutation(&mut mutation));
        let results = results.collect::<Result<Vec<_>>>().and_then(|results| {
            self.files.ensure_in_place()?;
            // Nothing is to be stored. A commit would nevertheless write and sync the pages that rolled-back
            // savepoints have changed.
            if !tx.has_written.get() {
                tx.execute("ROLLBACK", [])?;
                return Ok(results);
            }
            let began = self.clock.monotonic();
            tx.execute("COMMIT", [])?;
            self.counters.commit_times.observe_time(self.clock.monotonic().saturating_sub(began));
            self.counters.groups.observe(results.len() as u64);
            Ok(results)
        });
        let wrote = tx.has_written.get();
        let invalidations = tx.invalidations.take();
        let checkpoint = tx.checkpoint_requested.get();
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
        if checkpoint {
            self.checkpoint_wal();
        }
        Ok(results)
    }

    /// Moves the WAL into the database file without waiting for readers. Frames that readers still need stay
    /// in the WAL until the next checkpoint.
    fn checkpoint_wal(&self) {
        if let Err(error) = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!(%error, "could not checkpoint the WAL");
        }
    }

    /// Moves the frames of a removed WAL into the database file, once. The next start wouldn't find them.
    fn save_removed_wal(&mut self) {
        if self.files.is_wal_newly_removed() {
            self.checkpoint_wal();
            tracing::warn!("moved the changes of the removed WAL into the database file");
        }
    }

    fn begin_transaction(&mut self) -> Result<()> {
        // The previous transaction is still open only if its rollback failed.
        roll_back_if_open(&self.conn);
        let mut waited = Duration::ZERO;
        loop {
            match self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])) {
                Err(error) if is_busy_error(&error) && waited < BUSY_TIMEOUT => self.detect_external_writes(),
                begun => return begun.map(drop).map_err(|error| in_file_of(&self.conn, error)),
            }
            waited += POLL_INTERVAL;
        }
    }

    /// Checks whether another process has committed, and invalidates all cache entries if so, because it is
    /// unknown what that process changed.
    fn detect_external_writes(&mut self) {
        match data_version(&self.conn) {
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
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "could not roll back");
    }
}

fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
