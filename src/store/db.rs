//! The engine: one thread that writes, and a pool of connections that read.
//!
//! A mutation is a closure over a [`Tx`]. The writer takes all that wait, runs each in a savepoint and
//! commits them together: one fsync serves all, and nobody is answered before it. A closure that fails
//! or panics is rolled back alone. When the commit fails, or SQLite gives the transaction up (a full
//! disk does that), all of the group get the error, also those that had failed by themselves: what they
//! saw of their neighbours never happened.

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

use super::counters::Counters;
pub(crate) use super::counters::{Stats, Work};
use super::lookup::Lookups;
use super::schema;
pub(crate) use super::schema::lock;
pub(crate) use super::tx::Tx;
use super::tx::{Mutation, Value, is_busy};
use crate::clock::Clock;
use crate::domain::invalidation::Invalidation;
use crate::error::{Code, Error, Result};

/// How long a connection waits for another process's lock.
pub(in crate::store) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the writer looks whether another process wrote. It waits for a lock in steps of this
/// length too: who commits in a tight loop could keep it waiting, and unaware, much longer than a second.
pub(in crate::store) const POLL: Duration = Duration::from_millis(250);

/// Older ones can corrupt a database in WAL mode at a reset of the WAL.
const OLDEST_SQLITE: i32 = 3_051_003;

/// How often, in steps of SQLite's machine (about 10 µs in all), a read looks whether it shall stop.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

/// How many looks later a read lets others have its core. A verification that has to wait for a core until the
/// kernel takes it away from a report by itself waits for milliseconds.
const LOOKS_BETWEEN_YIELDS: u32 = 8;

type OnCommit = Box<dyn Fn(&[Invalidation]) + Send + Sync>;

/// Where the database is and how much it may take.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The database file; its directory is made when it is missing.
    pub(crate) file: PathBuf,
    /// How many reads run at once.
    pub(crate) readers: u32,
    /// How long one read may wait and run, in all.
    pub(crate) read_timeout: Duration,
    /// How many mutations may wait; more are refused.
    pub(crate) writer_queue: usize,
    /// How many mutations share one commit at most.
    pub(crate) group_limit: usize,
    /// The size that the file may reach, in bytes; 0 = no limit. The WAL beside it is not counted.
    pub(crate) max_bytes: u64,
}

/// The open database. Clones share it; the last one that goes closes it.
#[derive(Clone)]
pub struct Db(Arc<Shared>);

struct Shared {
    /// `None` once the database is being closed.
    queue: Mutex<Option<SyncSender<Job>>>,
    /// Its sender belongs to the writer's thread and goes with it.
    writer: watch::Receiver<()>,
    counters: Arc<Counters>,
    lookups: Arc<Lookups>,
    readers: r2d2::Pool<SqliteConnectionManager>,
    /// As many as there are readers: who waits for one doesn't hold a thread.
    permits: Arc<Semaphore>,
    read_timeout: Duration,
    /// When the last probe was, and what it found.
    probed: tokio::sync::Mutex<Option<(Duration, Result<()>)>>,
}

struct Job {
    mutation: Mutation,
    answer: oneshot::Sender<Result<Value>>,
}

impl Db {
    /// Opens the file, makes or upgrades its schema, and starts the writer. `on_commit` is told, on the
    /// writer's thread, what each commit made out of date. Should it panic, the writer stops and nobody
    /// is answered with a success any more: an answer would promise that the caches have followed.
    ///
    /// # Errors
    /// `CONFLICT` when the file is not ours or too new, or SQLite too old: the message says what to do.
    pub(crate) fn open(
        options: &Options,
        on_commit: impl Fn(&[Invalidation]) + Send + Sync + 'static,
    ) -> Result<Self> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            let message = format!("SQLite {} is too old; 3.51.3 or later is needed.", rusqlite::version());
            return Err(Error::new(Code::Conflict, message));
        }
        schema::prepare(&options.file)?;
        let conn = schema::write_connection(options)?;
        let readers = r2d2::Pool::builder()
            .max_size(options.readers.max(1))
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(options.read_timeout)
            .build(schema::readers(options))
            .map_err(Error::internal)?;

        let (queue, jobs) = mpsc::sync_channel(options.writer_queue.max(1));
        let (alive, writer) = watch::channel(());
        let counters = Arc::new(Counters::default());
        let writer_thread = Writer {
            seen: data_version(&conn)?,
            conn,
            jobs,
            group_limit: options.group_limit.max(1),
            on_commit: Box::new(on_commit),
            clock: Clock::system(),
            counters: Arc::clone(&counters),
        };
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                writer_thread.run();
                drop(alive);
            })
            .map_err(Error::internal)?;
        Ok(Self(Arc::new(Shared {
            queue: Mutex::new(Some(queue)),
            writer,
            counters,
            lookups: Lookups::start(options)?,
            permits: Arc::new(Semaphore::new(readers.max_size() as usize)),
            readers,
            read_timeout: options.read_timeout,
            probed: tokio::sync::Mutex::default(),
        })))
    }

    /// Runs a mutation and answers after its commit. It happens even if the caller goes away meanwhile.
    /// It may be run more than once; only the last run counts.
    ///
    /// # Errors
    /// The closure's own, or the commit's; `UNAVAILABLE` when too many wait or the database is closed.
    pub async fn write<T, F>(&self, mut f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let mutation = Box::new(move |tx: &Tx<'_>| f(tx).map(|value| Box::new(value) as Value));
        self.enqueue(Job { mutation, answer })?;
        let value =
            answered.await.map_err(|_| Error::internal("the writer stopped before it answered"))??;
        value.downcast().map(|value| *value).map_err(|_| Error::internal("an answer of another type"))
    }

    fn enqueue(&self, job: Job) -> Result<()> {
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else {
            return Err(Error::unavailable("The server is shutting down.", 1));
        };
        // Before the writer can take it, so that there are never fewer than none.
        self.0.counters.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = queue.try_send(job);
        if sent.is_err() {
            self.0.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent.map_err(|error| match error {
            TrySendError::Full(_) => {
                self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
                Error::unavailable("Too many changes are waiting to be stored; try again in a second.", 1)
            }
            TrySendError::Disconnected(_) => Error::internal("the writer has stopped"),
        })
    }

    /// Runs a read on a thread that may block; all its statements see one state. It is interrupted when
    /// its time is up, and when the caller goes away.
    ///
    /// # Errors
    /// The closure's own; `UNAVAILABLE` when it took too long, waiting for a connection included.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let stop = Stop::default();
        let stopped = Arc::clone(&stop.0);
        let (permits, readers) = (Arc::clone(&self.0.permits), self.0.readers.clone());
        let work = async move {
            let permit = permits.acquire_owned().await.map_err(Error::internal)?;
            let task = move || {
                let _held_until_the_connection_is_back = permit;
                let mut conn = readers.get().map_err(Error::internal)?;
                read_within(&mut conn, stopped, f)
            };
            tokio::task::spawn_blocking(task).await.map_err(|_| Error::internal("a read panicked"))?
        };
        let too_slow = |_| Err(Error::unavailable("The database took too long to answer; try again.", 1));
        tokio::time::timeout(self.0.read_timeout, work).await.unwrap_or_else(too_slow)
    }

    /// Runs a read of a row or two, which doesn't wait behind longer ones; it sees what was committed
    /// before it was asked.
    ///
    /// # Errors
    /// The closure's own; `UNAVAILABLE` when too many wait.
    pub(crate) async fn look_up<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.0.lookups.run(f).await
    }

    /// What the writer did so far.
    pub(crate) fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    /// How the writer works.
    pub(crate) fn work(&self) -> Work {
        self.0.counters.work()
    }

    /// Takes no new mutations, waits until those in the queue are answered and the writer has stopped;
    /// its last act is to bring the WAL into the file. Calling it again does no harm.
    pub(crate) async fn close(&self) {
        self.0.lookups.close();
        drop(self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Nothing is ever sent; this ends when the writer's thread does.
        while self.0.writer.clone().changed().await.is_ok() {}
    }

    /// Can the file be written, now? A durable write tells, at most once a second; who asks within it
    /// gets the same answer. `now` is the clock's monotonic time.
    ///
    /// # Errors
    /// What any mutation would get.
    pub(crate) async fn probe(&self, now: Duration) -> Result<()> {
        let mut probed = self.0.probed.lock().await;
        if let Some((at, result)) = &*probed
            && now.saturating_sub(*at) < Duration::from_secs(1)
        {
            return result.clone();
        }
        // Longer than a page, so that it needs room of its own: a file at its limit is noticed.
        let result = self.write(|tx| {
            tx.execute("INSERT INTO meta (name, value) VALUES ('probe', ?1)", ["x".repeat(8192)])?;
            tx.execute("DELETE FROM meta WHERE name = 'probe'", [])
        });
        let result = result.await.map(|_| ());
        *probed = Some((now, result.clone()));
        result
    }
}

/// The SQLite that is built in.
pub(crate) fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Tells a read to stop, when it is dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn read_within<T>(
    conn: &mut Connection,
    stopped: Arc<AtomicBool>,
    f: impl FnOnce(&Tx<'_>) -> Result<T>,
) -> Result<T> {
    let mut looks = 0;
    let look = move || {
        looks = (looks + 1) % LOOKS_BETWEEN_YIELDS;
        if looks == 0 {
            thread::yield_now();
        }
        stopped.load(Ordering::Relaxed)
    };
    conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(look))?;
    let transaction = conn.transaction()?; // Rolled back when dropped, a panic included.
    f(&Tx::new(&transaction))
}

/// The one that writes, on a thread of its own.
struct Writer {
    conn: Connection,
    jobs: mpsc::Receiver<Job>,
    group_limit: usize,
    on_commit: OnCommit,
    /// The machine's own, also where tests set the time: how long the disk takes is no matter of theirs.
    clock: Clock,
    counters: Arc<Counters>,
    /// `PRAGMA data_version` when we last looked. Our own commits leave it as it is.
    seen: i64,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.jobs.recv_timeout(POLL) {
                Ok(first) => {
                    let group =
                        iter::once(first).chain(self.jobs.try_iter()).take(self.group_limit).collect();
                    self.serve(group);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.notice_others();
        }
        if let Err(error) = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the WAL stays beside the database; the next start reads it");
        }
    }

    fn serve(&mut self, group: Vec<Job>) {
        self.counters.waiting.fetch_sub(group.len() as u64, Ordering::Relaxed);
        let (mutations, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.mutation, job.answer)).unzip();
        match self.commit(mutations) {
            // A receiver that went away changes nothing: its mutation has happened.
            Ok(results) => {
                answers.into_iter().zip(results).for_each(|(answer, result)| drop(answer.send(result)))
            }
            Err(error) => {
                tracing::error!(%error, mutations = answers.len(), "a group of mutations failed");
                answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
            }
        }
    }

    /// One transaction for all. An error is everybody's, and nothing is stored then.
    fn commit(&mut self, mutations: Vec<Mutation>) -> Result<Vec<Result<Value>>> {
        self.begin()?;
        let tx = Tx::new(&self.conn);
        let results = mutations.into_iter().map(|mut mutation| tx.savepoint(&mut mutation));
        let results = results.collect::<Result<Vec<_>>>().and_then(|results| {
            // What was rolled back leaves pages that a commit would write and sync for nothing.
            if !tx.wrote.get() {
                tx.execute("ROLLBACK", [])?;
                return Ok(results);
            }
            let began = self.clock.monotonic();
            tx.execute("COMMIT", [])?;
            self.counters.commit_times.observe_time(self.clock.monotonic().saturating_sub(began));
            self.counters.groups.observe(results.len() as u64);
            Ok(results)
        });
        let (wrote, invalidations, checkpoint) =
            (tx.wrote.get(), tx.invalidations.take(), tx.checkpoint.get());
        let results = results.inspect_err(|_| roll_back(&self.conn))?;

        let succeeded = results.iter().filter(|result| result.is_ok()).count();
        self.counters.mutations.fetch_add(succeeded as u64, Ordering::Relaxed);
        self.counters.commits.fetch_add(wrote.into(), Ordering::Relaxed);
        if !invalidations.is_empty() {
            (self.on_commit)(&invalidations);
        }
        if checkpoint {
            self.checkpoint();
        }
        Ok(results)
    }

    /// Waits for nobody: what a reader still needs stays for the next time.
    fn checkpoint(&self) {
        if let Err(error) = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the WAL could not be brought into the file");
        }
    }

    fn begin(&mut self) -> Result<()> {
        // Left open only if its rollback failed.
        roll_back(&self.conn);
        let mut waited = Duration::ZERO;
        loop {
            match self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])) {
                Err(error) if is_busy(&error) && waited < BUSY_TIMEOUT => self.notice_others(),
                begun => return begun.map(drop).map_err(Error::from),
            }
            waited += POLL;
        }
    }

    /// Another process's commits make everything out of date; it can't tell us what it changed.
    fn notice_others(&mut self) {
        match data_version(&self.conn) {
            Ok(version) if version == self.seen => return,
            Ok(version) => self.seen = version,
            Err(error) => tracing::warn!(%error, "cannot see whether another process wrote; assuming it did"),
        }
        (self.on_commit)(&[Invalidation::All]);
    }
}

fn roll_back(conn: &Connection) {
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "cannot roll back");
    }
}

fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
