use std::fs;

use tempfile::TempDir;

use super::*;
use crate::store::db::{Db, Options};
use crate::store::engine::{self, OpenMode, params};
use crate::store::test_database::test_options;
use crate::store::{paths, schema};

const SECOND: Duration = Duration::from_secs(1);
/// More bytes than the WAL has before it is checkpointed.
const LONG_WAL_BYTES: usize = 20 << 20;

/// A database with a connection like the writer's. Syncs are off, for a fast test.
fn open_database() -> (TempDir, Options, Connection, Checkpoints) {
    let dir = TempDir::new().unwrap();
    let options = test_options(dir.path());
    schema::create_or_upgrade(&options.file, false).unwrap();
    let conn = engine::open_writer(&options.file, false).unwrap();
    conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE t (value BLOB) STRICT").unwrap();
    let checkpoints = Checkpoints::new(false, &conn).unwrap();
    (dir, options, conn, checkpoints)
}

fn write(conn: &Connection, bytes: usize) {
    for start in (0..bytes).step_by(10 << 20) {
        let length = (bytes - start).min(10 << 20);
        let mut insert = conn.statement("INSERT INTO t (value) VALUES (zeroblob(?1))").unwrap();
        insert.execute(params![length]).unwrap();
    }
}

fn wal_file_bytes(options: &Options) -> u64 {
    paths::with_suffix(&options.file, "-wal").metadata().unwrap().len()
}

fn wal_pages(conn: &Connection) -> WalPages {
    run(conn, "PRAGMA wal_checkpoint(NOOP)").unwrap().unwrap()
}

#[test]
fn the_wal_is_checkpointed_when_it_is_long_and_then_starts_over() {
    let (_dir, _options, conn, mut checkpoints) = open_database();
    write(&conn, 1 << 20);
    checkpoints.maintain(&conn, SECOND);
    let status = checkpoints.status.get();
    assert!(status.complete == 0 && status.pending_bytes > 1 << 20, "{status:?}");
    // Not even a long WAL is checkpointed by a commit.
    write(&conn, LONG_WAL_BYTES);
    assert_eq!(wal_pages(&conn).checkpointed, 0);
    checkpoints.maintain(&conn, SECOND + LOOK_INTERVAL - Duration::from_millis(1));
    assert_eq!(checkpoints.status.get().complete, 0);
    checkpoints.maintain(&conn, SECOND + LOOK_INTERVAL);
    let status = checkpoints.status.get();
    assert_eq!((status.complete, status.incomplete, status.failed, status.pending_bytes), (1, 0, 0, 0));
    write(&conn, 1);
    assert!(wal_pages(&conn).total < 10);
    // A short one is checkpointed on request.
    checkpoints.request();
    checkpoints.maintain(&conn, SECOND + LOOK_INTERVAL);
    assert_eq!((checkpoints.status.get().complete, wal_pages(&conn).pending()), (2, 0));
    checkpoints.maintain(&conn, 2 * SECOND);
    assert_eq!(checkpoints.status.get().complete, 2);
}

#[test]
fn a_wal_that_a_reader_holds_is_reported_and_its_file_shrinks_afterwards() {
    let (_dir, options, conn, mut checkpoints) = open_database();
    let reader = engine::open(&options.file, OpenMode::ReadOnly).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    write(&conn, 80 << 20);
    let mut now = SECOND;
    checkpoints.maintain(&conn, now);
    let status = checkpoints.status.get();
    assert!(status.pending_bytes > MAX_WAL_BYTES && !status.is_wal_too_large, "{status:?}");
    assert_eq!((status.complete, status.incomplete), (0, 1));
    // It is not tried again with each change.
    write(&conn, 1);
    checkpoints.maintain(&conn, now + MIN_PAUSE - Duration::from_millis(1));
    assert_eq!(checkpoints.status.get().incomplete, 1);
    now += TOO_LARGE_AFTER;
    checkpoints.maintain(&conn, now);
    let status = checkpoints.status.get();
    assert!(status.is_wal_too_large && !status.is_failing && status.incomplete == 2, "{status:?}");

    reader.execute_batch("COMMIT").unwrap();
    now += MIN_PAUSE;
    checkpoints.maintain(&conn, now);
    let status = checkpoints.status.get();
    assert!(!status.is_wal_too_large && status.complete == 1 && status.pending_bytes == 0, "{status:?}");
    assert!(wal_file_bytes(&options) > MAX_WAL_BYTES);
    write(&conn, 1);
    assert!(wal_file_bytes(&options) <= MAX_WAL_BYTES);
}

/// A connection that can't write the database file, but everything beside it, is a disk that fails there.
#[test]
fn a_failing_checkpoint_is_reported_once_and_repeated_with_pauses() {
    let (_dir, options, conn, mut checkpoints) = open_database();
    let failing = engine::open(&options.file, OpenMode::ReadOnly).unwrap();
    write(&conn, LONG_WAL_BYTES);
    let mut now = SECOND;
    let mut pauses = Vec::new();
    for failures in 1..=9 {
        checkpoints.maintain(&failing, now);
        let status = checkpoints.status.get();
        assert!(status.is_failing && status.failed == failures && status.pending_bytes > 0, "{status:?}");
        pauses.push((checkpoints.next_attempt - now).as_secs());
        let logged = checkpoints.logged_cause.clone().unwrap();
        assert!(logged.contains("tollhouse.db"), "{logged}");
        // Until the pause is over, changes don't wait for another attempt.
        write(&conn, 1);
        checkpoints.maintain(&failing, checkpoints.next_attempt - LOOK_INTERVAL);
        assert_eq!(checkpoints.status.get().failed, failures);
        now = checkpoints.next_attempt;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    checkpoints.maintain(&conn, now);
    let status = checkpoints.status.get();
    assert!(!status.is_failing && status.complete == 1 && status.pending_bytes == 0, "{status:?}");
    assert_eq!((checkpoints.pause, &checkpoints.logged_cause), (MIN_PAUSE, &None));
}

#[test]
fn external_checkpoints_are_awaited_and_never_run() {
    let (_dir, _options, conn, _) = open_database();
    let mut checkpoints = Checkpoints::new(true, &conn).unwrap();
    write(&conn, 80 << 20);
    checkpoints.request();
    checkpoints.maintain(&conn, SECOND);
    checkpoints.maintain(&conn, SECOND + TOO_LARGE_AFTER);
    assert!(!checkpoints.run_now(&conn).unwrap());
    checkpoints.finish(&conn);
    let status = checkpoints.status.get();
    assert!(status.is_wal_too_large && !status.is_failing, "{status:?}");
    assert_eq!((status.complete, status.incomplete, status.failed), (0, 0, 0));
    assert_eq!(wal_pages(&conn).checkpointed, 0);
    // A replicator checkpoints it.
    run_passive(&conn).unwrap();
    checkpoints.maintain(&conn, SECOND + TOO_LARGE_AFTER + LOOK_INTERVAL);
    assert!(!checkpoints.status.get().is_wal_too_large);
}

#[tokio::test]
async fn i1_with_external_checkpoints_the_wal_outlives_the_last_connection() {
    let dir = TempDir::new().unwrap();
    let options = Options { external_checkpoints: true, ..test_options(dir.path()) };
    let insert = "INSERT INTO meta (name, value) VALUES ('test', 'stored')";
    let database_bytes = |options: &Options| fs::read(&options.file).unwrap();
    let db = Db::open(&options, |_| ()).unwrap();
    let before = database_bytes(&options);
    db.write(move |tx| tx.execute(insert, &[])).await.unwrap();
    db.close().await;
    drop(db);
    assert!(wal_file_bytes(&options) > 0);
    assert!(before == database_bytes(&options), "the database file was changed");

    let internal = Options { external_checkpoints: false, ..options };
    let db = Db::open(&internal, |_| ()).unwrap();
    let stored =
        db.read(|tx| tx.query_first("SELECT value FROM meta WHERE name = 'test'", &[], |row| row.get(0)));
    assert_eq!(stored.await.unwrap(), Some("stored".to_owned()));
    db.close().await;
    assert_eq!(wal_file_bytes(&internal), 0);
    assert!(before != database_bytes(&internal));
}
