//! Backups of a running server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{assert_refused, data, result};
use crate::support::Binary;

fn file_names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_and_verified_during_writes() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let backups = temp.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let server = Binary::serve_with(&dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
        command.env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    });
    let admin = server.admin();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let admin = admin.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                data(admin.post("/api-keys", json!({"name": "n", "scopes": []})).await);
                written += 1;
            }
            written
        })
    };
    let file = backups.join("one.db");
    let backup = || result(&dir, &["backup", file.to_str().unwrap(), "--force"]);
    let (first, second) = tokio::task::block_in_place(|| (backup(), backup()));
    stop.store(true, Ordering::Relaxed);
    let written: i64 = writer.await.unwrap();
    let keys = |report: &Value| report["rows"]["api_keys"].as_i64().unwrap();
    assert!(keys(&first) <= keys(&second) && keys(&second) <= written + 1, "{second}");
    assert_eq!(second["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file_names(&backups), ["one.db"], "a backup is a single file");

    let check = result(&dir, &["check", file.to_str().unwrap()]);
    let audit = &check["audit"];
    let head = format!("{}:{}", audit["last_seq"], audit["head_hash"].as_str().unwrap());
    assert_eq!((&check["rows"], &json!(head)), (&second["rows"], &second["audit_head"]));

    assert_refused(&dir, &["backup", file.to_str().unwrap()], &["one.db already exists", "--force"]);
    let live = dir.join("tollhouse.db");
    assert_refused(&dir, &["backup", live.to_str().unwrap(), "--force"], &["the database itself"]);
    assert_refused(&dir, &["backup", "/nowhere/at/all.db"], &["/nowhere/at/all.db."]);
    // Anything but a regular file is not replaced: for root, the target could be /dev/null.
    let link = backups.join("link.db");
    std::os::unix::fs::symlink(temp.path().join("elsewhere.db"), &link).unwrap();
    for target in [&link, &backups] {
        assert_refused(&dir, &["backup", target.to_str().unwrap(), "--force"], &["not a regular file"]);
    }
    assert!(link.is_symlink());
    assert_eq!(file_names(&backups).len(), 2, "no temporary files remain");

    let events = data(admin.get("/audit-logs?action=database.backup").await);
    assert_eq!(events.as_array().unwrap().len(), 2);
    assert_eq!(events[0]["changes"][0]["to"], second["audit_head"]);
    let last_backup_at = last_backup_at(&live);
    assert!(last_backup_at.parse::<i64>().unwrap() > 1_700_000_000_000, "{last_backup_at}");
}

fn last_backup_at(database: &Path) -> String {
    let conn = Connection::open(database).unwrap();
    conn.query_row("SELECT value FROM meta WHERE name = 'last_backup_at'", [], |row| row.get(0)).unwrap()
}

/// A copy of a damaged database fails verification: it doesn't get the backup's name, and the previous backup
/// remains.
#[tokio::test]
async fn a_damaged_database_is_not_backed_up() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let backups = temp.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let mut server = Binary::serve(&dir);
    data(server.admin().post("/organizations", json!({"name": "n", "email": "n@example.com"})).await);
    assert_eq!(server.terminate(), Some(0));
    let file = backups.join("one.db");
    result(&dir, &["backup", file.to_str().unwrap()]);
    let before = fs::read(&file).unwrap();
    let live = dir.join("tollhouse.db");
    let previous_backup_at = last_backup_at(&live);
    for (damage, message) in [
        (
            "UPDATE audit_events SET event = replace(event, 'success', 'failed') WHERE seq = 2",
            "broken at event 2",
        ),
        (
            "UPDATE counts SET n = n + 1 WHERE what = 'organizations'",
            "organizations in total: the stored count is 2",
        ),
    ] {
        let undamaged = fs::read(&live).unwrap();
        Connection::open(&live).unwrap().execute(damage, []).unwrap();
        assert_refused(
            &dir,
            &["backup", file.to_str().unwrap(), "--force"],
            &["The copy failed verification", message],
        );
        assert!(fs::read(&file).unwrap() == before);
        assert_eq!(file_names(&backups), ["one.db"]);
        assert_eq!(last_backup_at(&live), previous_backup_at);
        fs::write(&live, undamaged).unwrap();
    }
}
