use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::engine;
use crate::store::paths::STAGING_DIR_NAME;

const V1: &str = "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) STRICT";
const TO_V2: &str = "CREATE TABLE two (n INTEGER PRIMARY KEY) STRICT; INSERT INTO two (n) VALUES (1)";

/// Creates a directory, and returns a path in it where there is no database yet.
fn new_file() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("data/tollhouse.db");
    create_private_dir(parent_directory(&file)).unwrap();
    (dir, file)
}

fn query_value<T: rusqlite::types::FromSql>(file: &Path, sql: &str) -> T {
    Connection::open(file).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn permission_bits(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Asserts that the file is refused and not changed; returns the message.
fn assert_refused(file: &Path, upgrades: &[&str]) -> String {
    let before = fs::read(file).unwrap();
    let error = create_or_upgrade_with(file, V1, upgrades).unwrap_err();
    assert_eq!(error.code, Code::Conflict, "{error}");
    assert_eq!(fs::read(file).unwrap(), before);
    error.message.into_owned()
}

#[test]
fn a_database_is_created_once_however_many_threads_open_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a/b/tollhouse.db");
    let start = Barrier::new(4);
    let keys: Vec<String> = thread::scope(|scope| {
        let open = || {
            start.wait();
            create_or_upgrade(&file, false).unwrap();
            let conn = engine::open_writer(&file, false).unwrap();
            conn.query_value("SELECT value FROM meta WHERE name = 'cursor_key'").unwrap()
        };
        let threads = [(); 4].map(|()| scope.spawn(open));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 64), "{keys:?}");
    assert_eq!(query_value::<i32>(&file, "PRAGMA application_id"), APPLICATION_ID);
    assert_eq!(query_value::<i64>(&file, "PRAGMA user_version"), latest_version().unwrap());

    let conn = engine::open_writer(&file, false).unwrap();
    conn.execute_batch("CREATE TABLE t (n INTEGER) STRICT").unwrap();
    let modes = ["", "-wal", "-shm"].map(|suffix| permission_bits(&with_suffix(&file, suffix)));
    assert_eq!((permission_bits(parent_directory(&file)), modes), (0o700, [0o600; 3]));
}

#[test]
fn i11_a_newer_file_is_refused_and_not_changed() {
    let (_dir, file) = new_file();
    create_or_upgrade_with(&file, V1, &[TO_V2, ""]).unwrap();
    let message = assert_refused(&file, &[TO_V2]);
    assert!(message.contains("has schema version 3") && message.contains("versions up to 2."), "{message}");
}

#[test]
fn i11_a_file_that_is_not_a_tollhouse_database_is_refused_and_not_changed() {
    let (_dir, file) = new_file();
    for garbage in ["x".to_owned(), "no database ".repeat(1000)] {
        fs::write(&file, garbage).unwrap();
        assert!(assert_refused(&file, &[]).contains("not a Tollhouse database"));
    }
    for foreign in ["CREATE TABLE theirs (n)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"] {
        fs::remove_file(&file).unwrap();
        Connection::open(&file).unwrap().execute_batch(foreign).unwrap();
        assert!(assert_refused(&file, &[]).contains("not a Tollhouse database"));
    }
}

#[test]
fn i11_an_older_file_is_copied_and_upgraded() {
    let (_dir, file) = new_file();
    create_or_upgrade_with(&file, V1, &[]).unwrap();
    let to_v3 = "INSERT INTO two (n) VALUES (2)";
    create_or_upgrade_with(&file, V1, &[TO_V2, to_v3]).unwrap();
    create_or_upgrade_with(&file, V1, &[TO_V2, to_v3]).unwrap();
    assert_eq!(query_value::<i64>(&file, "PRAGMA user_version"), 3);
    assert_eq!(query_value::<i64>(&file, "SELECT sum(n) FROM two"), 3);

    let copy = with_suffix(&file, ".before-v2");
    assert_eq!(query_value::<i64>(&copy, "PRAGMA user_version"), 1);
    assert_eq!(query_value::<i64>(&copy, "SELECT count(*) FROM sqlite_schema WHERE name = 'two'"), 0);
    let key = "SELECT value FROM meta WHERE name = 'cursor_key'";
    assert_eq!(query_value::<String>(&copy, key), query_value::<String>(&file, key));
    assert_eq!(permission_bits(&copy), 0o600);
    create_or_upgrade_with(&copy, V1, &[]).unwrap();
    let names = fs::read_dir(parent_directory(&file)).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 2, "a temporary file was not removed");
}

/// An emptied database must not be taken for a new one, which would know no key.
#[test]
fn i15_an_empty_file_is_refused_and_the_message_says_what_to_do() {
    let (_dir, file) = new_file();
    fs::write(&file, "").unwrap();
    let message = assert_refused(&file, &[]);
    assert!(
        message.contains("is empty (0 bytes)") && message.contains("remove it and start again"),
        "{message}"
    );
    fs::remove_file(&file).unwrap();
    create_or_upgrade_with(&file, V1, &[]).unwrap();
}

#[test]
fn i15_a_missing_database_is_not_created_when_it_must_exist() {
    let (dir, file) = new_file();
    let refused = create_or_upgrade(&file, true).unwrap_err();
    assert!(refused.code == Code::Conflict && refused.message.contains("database.must_exist"), "{refused}");
    assert_eq!(fs::read_dir(dir.path().join("data")).unwrap().count(), 0);
    create_or_upgrade(&file, false).unwrap();
    create_or_upgrade(&file, true).unwrap();
}

/// SQLite would apply the WAL of the removed database to the new one.
#[test]
fn i15_a_database_is_not_created_beside_the_wal_of_another() {
    let (_dir, file) = new_file();
    let wal = with_suffix(&file, "-wal");
    fs::write(&wal, "changes").unwrap();
    let refused = create_or_upgrade(&file, false).unwrap_err();
    assert!(refused.message.contains("tollhouse.db-wal does"), "{refused}");
    assert!(!file.exists());
    fs::write(&wal, "").unwrap();
    create_or_upgrade(&file, false).unwrap();
}

#[test]
fn a_database_with_a_foreign_trigger_is_not_opened() {
    let (_dir, file) = new_file();
    create_or_upgrade(&file, false).unwrap();
    let revive = "CREATE TRIGGER revive AFTER UPDATE OF status ON api_keys BEGIN
                  UPDATE api_keys SET status = 'active' WHERE seq = NEW.seq; END";
    Connection::open(&file).unwrap().execute_batch(revive).unwrap();
    let refused = create_or_upgrade(&file, false).unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.message.contains("unknown trigger revive on api_keys"), "{refused}");
    assert!(refused.message.contains(&file.display().to_string()), "{refused}");
}

/// A server that is killed during a restore, or restores again, leaves nothing behind.
#[test]
fn the_directory_of_a_killed_restore_is_removed() {
    let dir = TempDir::new().unwrap();
    let staging = dir.path().join(STAGING_DIR_NAME);
    create_private_dir(&staging).unwrap();
    fs::write(staging.join("tollhouse.db"), "half").unwrap();
    let held = lock_data_dir(dir.path()).unwrap();
    assert!(!staging.exists());
    create_private_dir(&staging).unwrap();
    lock_data_dir(dir.path()).unwrap_err();
    assert!(staging.exists(), "it belongs to the process that holds the lock");
    drop(held);
}

#[test]
fn i11_a_failed_upgrade_changes_nothing_and_can_be_repeated() {
    let (_dir, file) = new_file();
    create_or_upgrade_with(&file, V1, &[]).unwrap();
    let orphan = "CREATE TABLE child (t TEXT REFERENCES meta (name)); INSERT INTO child (t) VALUES ('?')";
    for broken in ["CREATE TABLE two (n); nonsense", orphan] {
        assert!(create_or_upgrade_with(&file, V1, &[broken]).is_err());
        assert_eq!(query_value::<i64>(&file, "PRAGMA user_version"), latest_version().unwrap());
        assert_eq!(query_value::<i64>(&file, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'"), 1);
    }
    create_or_upgrade_with(&file, V1, &[TO_V2]).unwrap();
    assert_eq!(query_value::<i64>(&with_suffix(&file, ".before-v2"), "PRAGMA user_version"), 1);
}

#[test]
fn a_crash_in_the_first_transaction_is_recovered_from() {
    let (_dir, file) = new_file();
    create_or_upgrade_with(&file, V1, &[]).unwrap();
    let conn = Connection::open(&file).unwrap();
    conn.execute_batch(
        "PRAGMA cache_size = 1; BEGIN; CREATE TABLE half (n); INSERT INTO half (n)
         WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i LIMIT 100000) SELECT n FROM i",
    )
    .unwrap();
    let crashed = with_suffix(&file, ".crashed");
    fs::copy(&file, &crashed).unwrap();
    fs::copy(with_suffix(&file, "-journal"), with_suffix(&crashed, "-journal")).unwrap();
    create_or_upgrade_with(&crashed, V1, &[]).unwrap();
    assert_eq!(query_value::<i64>(&crashed, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), 0);
}

#[test]
fn a_directory_is_served_by_one_process() {
    let dir = TempDir::new().unwrap();
    let held = lock_data_dir(dir.path()).unwrap();
    let error = lock_data_dir(dir.path()).unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.message.contains(&dir.path().display().to_string()), "{error}");
    drop(held);
    lock_data_dir(dir.path()).unwrap();
}

/// `.cargo/config.toml` states why SQLite is compiled this way.
#[test]
fn connections_share_no_page_cache() {
    let sql = "SELECT sqlite_compileoption_used('ENABLE_MEMORY_MANAGEMENT') OR \
               NOT sqlite_compileoption_used('DEFAULT_MEMSTATUS=0')";
    assert!(!Connection::open_in_memory().unwrap().query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap());
}
