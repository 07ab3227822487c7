use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::{env, fs};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::domain::time::Timestamp;
use crate::error::Code;
use crate::store::engine::{BUSY_TIMEOUT, POLL_INTERVAL, params};
use crate::store::test_database::test_options;

#[path = "lock_tests.rs"]
mod locks;
#[path = "word_storage_tests.rs"]
mod word_storage;

const ONE_SECOND: Duration = Duration::from_secs(1);
/// Maximum wait for an expected event, after which a test fails instead of hanging.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

// Changes of another process have to be detected within a second. Asserted on the constant, because measured
// times would depend on the machine that runs the tests.
const _: () = assert!(POLL_INTERVAL.as_millis() <= 500);

/// A database with a table `t`, and a receiver of the invalidations passed to its `on_commit`.
async fn open_with_table(options: &Options) -> (Db, Receiver<Vec<Invalidation>>) {
    let (sender, committed) = channel();
    let db = Db::open(options, move |invalidations| drop(sender.send(invalidations.to_vec()))).unwrap();
    db.write(|tx| tx.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT) STRICT", &[])).await.unwrap();
    (db, committed)
}

async fn open_new_database() -> (TempDir, Db, Receiver<Vec<Invalidation>>) {
    let dir = TempDir::new().unwrap();
    let (db, committed) = open_with_table(&test_options(dir.path())).await;
    (dir, db, committed)
}

/// Polls a future once and returns it. After the first poll a mutation is queued, and a read has begun.
async fn poll_once<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    future
}

/// Blocks the writer inside a mutation until the sender is used or dropped. Mutations queued meanwhile form
/// one group.
async fn block_writer(db: &Db) -> Sender<()> {
    let (entered, inside) = oneshot::channel();
    let (release, released) = channel();
    let mut entered = Some(entered);
    let blocker = db.write(move |_| {
        let _ = entered.take().map(|entered| entered.send(()));
        let _ = released.recv();
        Ok(())
    });
    drop(poll_once(blocker).await);
    inside.await.unwrap();
    release
}

fn insert_row(tx: &Tx<'_>, n: i64, bytes: usize) -> Result<usize> {
    tx.invalidate(Invalidation::Id(n.to_string()));
    tx.execute("INSERT INTO t (n, text) VALUES (?1, ?2)", params![n, "x".repeat(bytes)])
}

async fn stored_numbers(db: &Db) -> Vec<i64> {
    db.read(|tx| tx.query_all("SELECT n FROM t ORDER BY n", &[], |row| row.get(0))).await.unwrap()
}

fn id_invalidations(numbers: &[i64]) -> Vec<Invalidation> {
    numbers.iter().map(|n| Invalidation::Id(n.to_string())).collect()
}

fn error_code<T>(result: Result<T>) -> Option<Code> {
    result.err().map(|error| error.code)
}

#[tokio::test]
async fn i2_only_the_mutation_that_fails_or_panics_is_rolled_back() {
    let (_dir, db, committed) = open_new_database().await;
    let before = db.writer_totals();
    let release = block_writer(&db).await;
    let first = poll_once(db.write(|tx| {
        assert_eq!(tx.state.chain_head.get(), None);
        tx.state.chain_head.set(Some((7, [7; 32])));
        insert_row(tx, 1, 1)
    }))
    .await;
    let fails = poll_once(db.write(|tx| {
        insert_row(tx, 2, 1)?;
        tx.state.chain_head.set(Some((8, [8; 32])));
        Err::<(), _>(Error::not_found("thing"))
    }))
    .await;
    let panics = poll_once(db.write(|tx| {
        insert_row(tx, 3, 1)?;
        tx.state.chain_head.set(Some((9, [9; 32])));
        if tx.state.has_written.get() { panic!("s3cret") } else { Ok(()) }
    }))
    .await;
    let last = poll_once(db.write(|tx| {
        insert_row(tx, 4, 1)?;
        Ok(tx.state.chain_head.get())
    }))
    .await;
    drop(release);

    assert_eq!(first.await.unwrap(), 1);
    assert_eq!(error_code(fails.await), Some(Code::NotFound));
    let panicked = panics.await.unwrap_err();
    assert!(panicked.code == Code::Internal && !format!("{panicked:?}").contains("s3cret"));
    assert_eq!(last.await.unwrap(), Some((7, [7; 32])));
    assert_eq!(stored_numbers(&db).await, [1, 4]);
    assert_eq!(committed.recv().unwrap(), id_invalidations(&[1, 4]));
    assert_eq!(db.writer_totals().commits - before.commits, 1);
    assert_eq!(db.writer_totals().mutations - before.mutations, 3); // The blocker is one.
}

#[tokio::test]
async fn i1_a_failed_commit_fails_the_whole_group() {
    let (_dir, db, committed) = open_new_database().await;
    let child = "CREATE TABLE child (t INTEGER REFERENCES t (n)) STRICT";
    db.write(|tx| tx.execute(child, &[])).await.unwrap();
    let release = block_writer(&db).await;
    let valid = poll_once(db.write(|tx| insert_row(tx, 1, 1))).await;
    let refused = poll_once(db.write(|_| Err::<(), _>(Error::not_found("thing")))).await;
    let orphan = poll_once(db.write(|tx| {
        tx.execute("PRAGMA defer_foreign_keys = ON", &[])?;
        tx.execute("INSERT INTO child (t) VALUES (99)", &[])
    }))
    .await;
    drop(release);
    for result in [valid.await.map(drop), refused.await, orphan.await.map(drop)] {
        assert_eq!(error_code(result), Some(Code::Internal));
    }
    assert!(stored_numbers(&db).await.is_empty() && committed.try_recv().is_err());

    db.write(|tx| insert_row(tx, 2, 1)).await.unwrap();
    assert_eq!(stored_numbers(&db).await, [2]);
    let orphans = db.read(|tx| tx.query_all("SELECT t FROM child", &[], |row| row.get::<i64>(0)));
    assert!(orphans.await.unwrap().is_empty());
}

#[tokio::test]
async fn i1_an_acknowledged_mutation_survives_a_crash() {
    let (dir, db, _committed) = open_new_database().await;
    db.write(|tx| insert_row(tx, 1, 1)).await.unwrap();
    // A killed process leaves the database file and its WAL behind. The test copies them as they are now.
    let after = TempDir::new().unwrap();
    for name in ["tollhouse.db", "tollhouse.db-wal"] {
        fs::copy(dir.path().join(name), after.path().join(name)).unwrap();
    }
    let conn = Connection::open(after.path().join("tollhouse.db")).unwrap();
    assert_eq!(
        conn.query_row("SELECT group_concat(n) FROM t", [], |row| row.get::<_, String>(0)).unwrap(),
        "1"
    );
    // A database with a foreign table isn't opened.
    conn.execute_batch("DROP TABLE t").unwrap();
    let copy = Db::open(&test_options(after.path()), |_| ()).unwrap();
    let [key, same] = [db.read(schema::load_cursor_key).await, copy.read(schema::load_cursor_key).await];
    assert_eq!(key.unwrap(), same.unwrap());
}

/// Asserts that nothing of a group is stored when one of its mutations runs out of space.
async fn assert_group_fails_when_full(db: &Db, too_much: usize) {
    let before = stored_numbers(db).await;
    let release = block_writer(db).await;
    let small = poll_once(db.write(|tx| insert_row(tx, 101, 1))).await;
    let big = poll_once(db.write(move |tx| insert_row(tx, 102, too_much))).await;
    let swallowed = poll_once(db.write(move |tx| {
        let _ = insert_row(tx, 103, too_much);
        let _ = insert_row(tx, 104, 1);
        Ok(1)
    }))
    .await;
    let after = poll_once(db.write(|tx| insert_row(tx, 105, 1))).await;
    drop(release);
    for result in [small.await, big.await, swallowed.await, after.await] {
        let error = result.unwrap_err();
        assert_eq!((error.code, error.retry_after), (Code::StorageFull, Some(30)), "{error}");
    }
    assert_eq!(stored_numbers(db).await, before);
}

#[tokio::test]
async fn i1_a_file_at_its_size_limit_fails_the_group_and_writes_succeed_again_once_space_is_free() {
    let dir = TempDir::new().unwrap();
    let (db, committed) = open_with_table(&Options { max_bytes: 1 << 20, ..test_options(dir.path()) }).await;
    assert_group_fails_when_full(&db, 2 << 20).await;
    assert!(committed.try_recv().is_err());

    // Fill the file completely.
    for bytes in [100_000, 10_000, 1_000] {
        let sql = "INSERT INTO t (text) VALUES (?1)";
        while db.write(move |tx| tx.execute(sql, params!["x".repeat(bytes)])).await.is_ok() {}
    }
    assert!(fs::metadata(dir.path().join("tollhouse.db")).unwrap().len() <= 1 << 20);
    let clock = Clock::manual(Timestamp::from_millis(0));
    assert_eq!(error_code(db.probe_writable(&clock).await), Some(Code::StorageFull));
    db.write(|tx| tx.execute("DELETE FROM t", &[])).await.unwrap();
    clock.advance(ONE_SECOND - Duration::from_nanos(1));
    assert_eq!(error_code(db.probe_writable(&clock).await), Some(Code::StorageFull), "shared");
    clock.advance(Duration::from_nanos(1));
    db.probe_writable(&clock).await.unwrap();
    db.write(|tx| insert_row(tx, 1, 100_000)).await.unwrap();
}

/// Runs on a file system of 2 MiB. Mounting it without privileges requires a mount namespace, so the test
/// runs itself again inside of one. The mount is removed with the process.
#[tokio::test]
async fn i1_a_full_disk_fails_the_group_and_writes_succeed_again_once_space_is_free() {
    const SMALL_DISK: &str = "TOLLHOUSE_TEST_SMALL_DISK";
    if let Some(dir) = env::var_os(SMALL_DISK) {
        let dir = Path::new(&dir);
        let (db, committed) = open_with_table(&test_options(dir)).await;
        db.write(|tx| insert_row(tx, 1, 1)).await.unwrap();
        assert_eq!(committed.recv().unwrap(), id_invalidations(&[1]));
        fs::write(dir.join("ballast"), vec![0; 1 << 20]).unwrap();
        assert_group_fails_when_full(&db, 1 << 20).await;
        assert!(committed.try_recv().is_err());
        fs::remove_file(dir.join("ballast")).unwrap();
        db.write(|tx| insert_row(tx, 2, 400_000)).await.unwrap();
        return assert_eq!(stored_numbers(&db).await, [1, 2]);
    }
    let dir = TempDir::new().unwrap();
    let module = module_path!().split_once("::").unwrap().1;
    let name =
        format!("{module}::i1_a_full_disk_fails_the_group_and_writes_succeed_again_once_space_is_free");
    let script = r#"mount -t tmpfs -o size=2m none "$0" || exit 77; exec "$@""#;
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .args([dir.path(), &env::current_exe().unwrap()])
        .args(["--exact", &name, "--nocapture"])
        .env(SMALL_DISK, dir.path())
        .output();
    match child {
        Ok(output) if output.status.success() => assert!(output.stdout.windows(8).any(|w| w == b"1 passed")),
        Ok(output) if output.status.code() == Some(101) => panic!("{output:?}"),
        // Written to stderr directly, because captured output of a passing test is not shown.
        other => writeln!(std::io::stderr(), "\nSKIPPED {name}: no small disk: {other:?}\n").unwrap(),
    }
}

#[tokio::test]
async fn i3_on_commit_is_called_after_the_commit_and_before_the_answer() {
    let dir = TempDir::new().unwrap();
    let (entered, inside) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let file = dir.path().join("tollhouse.db");
    let db = Db::open(&test_options(dir.path()), move |invalidations| {
        if invalidations == [Invalidation::All] {
            return; // Another connection creates the table.
        }
        assert_eq!(invalidations, id_invalidations(&[1]));
        let other = Connection::open(&file).unwrap();
        entered.send(other.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))).unwrap();
        released.lock().recv().unwrap();
    });
    let db = db.unwrap();
    let other = Connection::open(dir.path().join("tollhouse.db")).unwrap();
    other.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT) STRICT").unwrap();
    let write = poll_once(db.write(|tx| insert_row(tx, 1, 1))).await;
    assert_eq!(inside.recv().unwrap().unwrap(), 1, "called before the commit");
    let write = poll_once(write).await; // Still not answered.
    release.send(()).unwrap();
    write.await.unwrap();
}

#[tokio::test]
async fn i3_a_write_by_another_process_is_detected_within_a_second() {
    let (dir, db, committed) = open_new_database().await;
    for n in 1..=20 {
        db.write(move |tx| insert_row(tx, n, 1)).await.unwrap();
        assert_eq!(committed.recv().unwrap(), id_invalidations(&[n]));
        // Neither commits nor rollbacks of this process may be taken for those of another.
        assert_eq!(error_code(db.write(move |tx| insert_row(tx, n, 1)).await), Some(Code::Internal));
    }
    let other = Connection::open(dir.path().join("tollhouse.db")).unwrap();
    for n in 101..=110 {
        other.execute("INSERT INTO t (n) VALUES (?1)", [n]).unwrap();
        assert_eq!(committed.recv_timeout(TEST_TIMEOUT).unwrap(), [Invalidation::All]);
    }
    for n in 201..=210 {
        other.execute("INSERT INTO t (n) VALUES (?1)", [n]).unwrap();
        // A commit of this process in between must not hide the other's.
        db.write(move |tx| insert_row(tx, 1000 + n, 1)).await.unwrap();
        let both =
            [committed.recv_timeout(TEST_TIMEOUT).unwrap(), committed.recv_timeout(TEST_TIMEOUT).unwrap()];
        assert!(
            both.contains(&vec![Invalidation::All]) && both.contains(&id_invalidations(&[1000 + n])),
            "{both:?}"
        );
    }
}

#[tokio::test]
async fn i10_a_full_writer_queue_refuses_mutations() {
    let dir = TempDir::new().unwrap();
    let (db, _) = open_with_table(&Options { writer_queue: 2, ..test_options(dir.path()) }).await;
    let release = block_writer(&db).await;
    let waiting = poll_once(db.write(|tx| insert_row(tx, 1, 1))).await;
    let dropped = poll_once(db.write(|tx| insert_row(tx, 2, 1))).await;
    let error = db.write(|tx| insert_row(tx, 3, 1)).await.unwrap_err();
    assert_eq!((error.code, error.retry_after), (Code::Unavailable, Some(1)));
    assert_eq!(db.writer_totals().refused_mutations, 1);
    drop((dropped, release)); // One caller drops its future; its mutation stays queued.
    waiting.await.unwrap();
    assert_eq!(stored_numbers(&db).await, [1, 2]);
}

#[tokio::test]
async fn i1_queued_mutations_share_one_commit_and_failures_cause_none() {
    let (dir, db, _committed) = open_new_database().await;
    let before = db.writer_totals();
    let release = block_writer(&db).await;
    let mut waiting = Vec::new();
    for n in 0..64 {
        waiting.push(poll_once(db.write(move |tx| insert_row(tx, n, 1))).await);
    }
    drop(release);
    for write in waiting {
        write.await.unwrap();
    }
    assert_eq!(db.writer_totals().commits - before.commits, 1);
    assert_eq!(db.writer_totals().mutations - before.mutations, 65);

    let wal = || fs::metadata(dir.path().join("tollhouse.db-wal")).unwrap().len();
    let size = wal();
    let commits = db.writer_totals().commits;
    let release = block_writer(&db).await;
    let fails = db.write(|tx| insert_row(tx, 100, 10_000).and(Err::<(), _>(Error::not_found("thing"))));
    let fails = poll_once(fails).await;
    let reads = poll_once(db.write(|tx| tx.query_first("SELECT 1", &[], |row| row.get::<i64>(0)))).await;
    drop(release);
    assert_eq!(error_code(fails.await), Some(Code::NotFound));
    assert_eq!(reads.await.unwrap(), Some(1));
    assert_eq!((wal(), db.writer_totals().commits), (size, commits));
}

#[tokio::test]
async fn i1_close_answers_all_queued_mutations() {
    let (dir, db, _committed) = open_new_database().await;
    let release = block_writer(&db).await;
    let mut waiting = Vec::new();
    for n in 1..=5 {
        waiting.push(poll_once(db.write(move |tx| insert_row(tx, n, 1))).await);
    }
    let closing = poll_once(db.close()).await;
    assert_eq!(error_code(db.write(|tx| insert_row(tx, 6, 1)).await), Some(Code::Unavailable));
    drop(release);
    for future in waiting {
        future.await.unwrap();
    }
    closing.await;
    db.close().await;
    assert_eq!(fs::metadata(dir.path().join("tollhouse.db-wal")).map_or(0, |wal| wal.len()), 0);
    assert_eq!(stored_numbers(&db).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn i10_a_read_ends_on_timeout_and_when_its_caller_is_gone() {
    let dir = TempDir::new().unwrap();
    let (db, _) =
        open_with_table(&Options { read_timeout: Duration::from_millis(500), ..test_options(dir.path()) })
            .await;
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let endless = || db.read(move |tx| tx.query_first(endless, &[], |row| row.get::<i64>(0)));
    assert_eq!(error_code(endless().await), Some(Code::Unavailable));
    // The only reader is free again.
    assert!(stored_numbers(&db).await.is_empty());
    drop(poll_once(endless()).await);
    assert!(stored_numbers(&db).await.is_empty());
}

#[tokio::test]
async fn reads_see_one_state_and_cannot_write() {
    let (_dir, db, _committed) = open_new_database().await;
    let count = |tx: &Tx<'_>| tx.query_first("SELECT count(*) FROM t", &[], |row| row.get::<i64>(0));
    let (counted, first_counted) = oneshot::channel();
    let (release, released) = channel::<()>();
    let both = db.read(move |tx| {
        let first = count(tx)?;
        counted.send(()).unwrap();
        let _ = released.recv();
        Ok((first, count(tx)?))
    });
    let both = poll_once(both).await;
    first_counted.await.unwrap();
    db.write(|tx| insert_row(tx, 1, 1)).await.unwrap();
    drop(release);
    assert_eq!(both.await.unwrap(), (Some(0), Some(0)));
    assert_eq!(error_code(db.read(|tx| tx.execute("DELETE FROM t", &[])).await), Some(Code::Internal));
    assert_eq!(error_code(db.read(|_| -> Result<()> { panic!("in a read") }).await), Some(Code::Internal));
    assert_eq!(stored_numbers(&db).await, [1]);
}
