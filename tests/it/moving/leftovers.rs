//! Commands that overlap, are interrupted or are killed leave no unfinished files behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;

use super::{assert_refused, result, run, stderr};
use crate::support::{ADMIN_KEY, Binary, until};

/// A stopped server's database, and an empty directory for backups.
fn database_and_backups(temp: &Path) -> (PathBuf, PathBuf) {
    let dir = temp.join("data");
    let backups = temp.join("backups");
    fs::create_dir(&backups).unwrap();
    assert_eq!(Binary::serve(&dir).terminate(), Some(0));
    (dir, backups)
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Starts a command that runs beside the test.
fn start(dir: &Path, args: &[&str]) -> Child {
    let mut command = Binary::command(args);
    command.arg("--data").arg(dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until a file that is not in `known` is in the directory.
async fn wait_for_new_file(dir: &Path, known: &[String]) {
    until("a new file", || file_names(dir).iter().any(|name| !known.contains(name))).await;
}

#[test]
fn overlapping_backups_to_one_name_all_end_with_a_valid_file() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, backups) = database_and_backups(temp.path());
    let file = backups.join("one.db");
    let path = file.to_str().unwrap();
    for _ in 0..3 {
        let running = [(); 3].map(|()| start(&dir, &["backup", path, "--force"]));
        for backup in running.map(|backup| backup.wait_with_output().unwrap()) {
            assert!(backup.status.success(), "{}", stderr(&backup));
        }
        result(&dir, &["check", path]);
        assert_eq!(file_names(&backups), ["one.db"]);
    }
    fs::remove_file(&file).unwrap();
    let running = [(); 3].map(|()| start(&dir, &["backup", path]));
    let ended = running.map(|backup| backup.wait_with_output().unwrap());
    assert_eq!(ended.iter().filter(|backup| backup.status.success()).count(), 1, "{ended:?}");
    for refused in ended.iter().filter(|backup| !backup.status.success()) {
        assert!(stderr(refused).contains("one.db already exists. Use --force"), "{refused:?}");
    }
    result(&dir, &["check", path]);
    assert_eq!(file_names(&backups), ["one.db"]);
}

#[tokio::test]
async fn an_interrupted_backup_removes_its_file_and_a_killed_one_is_cleaned_up_after() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, backups) = database_and_backups(temp.path());
    // Large enough that the copy takes longer than the signal.
    let conn = Connection::open(dir.join("tollhouse.db")).unwrap();
    conn.execute_batch(
        "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i LIMIT 200)
         INSERT INTO meta (name, value) SELECT 'padding' || n, hex(zeroblob(250000)) FROM i",
    )
    .unwrap();
    drop(conn);
    let file = backups.join("one.db");
    let args = ["backup", file.to_str().unwrap()];

    let mut killed = start(&dir, &args);
    wait_for_new_file(&backups, &[]).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = file_names(&backups);
    assert!(left.len() == 1 && left[0].ends_with(".part"), "{left:?}");

    for signal in ["INT", "TERM"] {
        let mut interrupted = start(&dir, &args);
        wait_for_new_file(&backups, &left).await;
        let id = interrupted.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
        assert_eq!(interrupted.wait().unwrap().code(), Some(1));
        assert_eq!(file_names(&backups), [""; 0], "after SIG{signal}");
    }
    result(&dir, &args);
    assert_eq!(file_names(&backups), ["one.db"]);
}

#[test]
fn the_temporary_database_of_a_killed_dev_server_is_removed_by_the_next_one() {
    let temp = tempfile::tempdir().unwrap();
    let serve = || {
        let mut command = Binary::command(&["serve", "--dev", "--listen", "127.0.0.1:0"]);
        command.env("TMPDIR", temp.path()).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        Binary::start(command)
    };
    fs::create_dir(temp.path().join("tollhouse-dev-of-something-else")).unwrap();
    let mut killed = serve();
    killed.kill();
    let left = file_names(temp.path());
    assert_eq!(left.len(), 2, "{left:?}");
    let running = serve();
    let names = file_names(temp.path());
    assert!(names.len() == 2 && names.contains(&"tollhouse-dev-of-something-else".to_owned()), "{names:?}");
    assert_ne!(names, left);
    // The directory of a running server is kept.
    let mut third = serve();
    assert_eq!(file_names(temp.path()).len(), 3);
    assert_eq!(third.terminate(), Some(0));
    assert_eq!(file_names(temp.path()), names);
    drop(running);
}

#[test]
fn a_foreign_trigger_is_detected_by_check_backup_restore_and_serve() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, backups) = database_and_backups(temp.path());
    let file = backups.join("one.db");
    let path = file.to_str().unwrap();
    result(&dir, &["backup", path]);
    let revive = "CREATE TRIGGER revive AFTER UPDATE OF status ON api_keys BEGIN
                  UPDATE api_keys SET status = 'active' WHERE seq = NEW.seq; END";
    let found = "unknown trigger revive on api_keys";
    let live = dir.join("tollhouse.db");
    let untouched = fs::read(&live).unwrap();

    // In the database: what was revoked since the backup may have been undone.
    Connection::open(&live).unwrap().execute_batch(revive).unwrap();
    let check = run(&dir, &["check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(super::stdout(&check).contains(found), "{check:?}");
    let live_name = live.to_str().unwrap();
    assert_refused(&dir, &["serve", "--listen", "127.0.0.1:0"], &[live_name, found, "restore a backup"]);
    assert_refused(&dir, &["backup", path, "--force"], &[live_name, found]);
    assert_refused(&dir, &["restore", path, "--force"], &[found, "--accept-unrevoked"]);
    fs::write(&live, untouched).unwrap();

    // In the backup.
    Connection::open(&file).unwrap().execute_batch(revive).unwrap();
    assert_refused(&dir, &["restore", path, "--force"], &["one.db failed verification", found]);
    assert_refused(&dir, &["restore", path, "--force", "--accept-unrevoked"], &[found]);
    assert_eq!(Binary::serve(&dir).terminate(), Some(0));
}
