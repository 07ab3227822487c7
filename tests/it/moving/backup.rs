//! Backups beside a running server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{made, refused, result};
use crate::support::Binary;

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_and_proven_while_others_write() {
    let place = tempfile::tempdir().unwrap();
    let (dir, backups) = (place.path().join("data"), place.path().join("backups"));
    fs::create_dir(&backups).unwrap();
    let server = Binary::serve_with(&dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
        command.env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    });
    let admin = server.admin();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (admin, stop) = (admin.clone(), stop.clone());
        tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                made(admin.post("/api-keys", json!({"name": "n", "scopes": []})).await);
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
    assert_eq!(names(&backups), ["one.db"], "one file is the whole");

    let found = result(&dir, &["check", file.to_str().unwrap()]);
    let audit = &found["audit"];
    let head = format!("{}:{}", audit["last_seq"], audit["head_hash"].as_str().unwrap());
    assert_eq!((&found["rows"], &json!(head)), (&second["rows"], &second["audit_head"]));

    refused(&dir, &["backup", file.to_str().unwrap()], &["one.db already exists", "--force"]);
    let live = dir.join("tollhouse.db");
    refused(&dir, &["backup", live.to_str().unwrap(), "--force"], &["the database itself"]);
    refused(&dir, &["backup", "/nowhere/at/all.db"], &["/nowhere/at/all.db.part"]);
    // What isn't a plain file stays what it is: run by root, the name could be /dev/null.
    let link = backups.join("link.db");
    std::os::unix::fs::symlink(place.path().join("elsewhere.db"), &link).unwrap();
    for target in [&link, &backups] {
        refused(&dir, &["backup", target.to_str().unwrap(), "--force"], &["not a regular file"]);
    }
    assert!(link.is_symlink());
    assert_eq!(names(&backups).len(), 2, "nothing is left beside them");

    let events = made(admin.get("/audit-logs?action=database.backup").await);
    assert_eq!(events.as_array().unwrap().len(), 2);
    assert_eq!(events[0]["changes"][0]["to"], second["audit_head"]);
    let noted = Connection::open(&live).unwrap();
    let noted = noted.query_row("SELECT value FROM meta WHERE name = 'last_backup_at'", [], |row| row.get(0));
    let noted: String = noted.unwrap();
    assert!(noted.parse::<i64>().unwrap() > 1_700_000_000_000, "{noted}");
}

/// A copy of a database that isn't whole is no backup: it doesn't get the name, and the one before stays.
#[tokio::test]
async fn what_cannot_be_proven_is_not_called_a_backup() {
    let place = tempfile::tempdir().unwrap();
    let (dir, backups) = (place.path().join("data"), place.path().join("backups"));
    fs::create_dir(&backups).unwrap();
    let mut server = Binary::serve(&dir);
    made(server.admin().post("/organizations", json!({"name": "n", "email": "n@example.com"})).await);
    assert_eq!(server.terminate(), Some(0));
    let file = backups.join("one.db");
    result(&dir, &["backup", file.to_str().unwrap()]);
    let (before, live) = (fs::read(&file).unwrap(), dir.join("tollhouse.db"));
    let noted = |live: &Path| -> String {
        let conn = Connection::open(live).unwrap();
        conn.query_row("SELECT value FROM meta WHERE name = 'last_backup_at'", [], |row| row.get(0)).unwrap()
    };
    let at = noted(&live);
    for (damage, told) in [
        (
            "UPDATE audit_events SET event = replace(event, 'success', 'failed') WHERE seq = 2",
            "broken at event 2",
        ),
        ("UPDATE counts SET n = n + 1 WHERE what = 'organizations'", "organizations in all: 2 are counted"),
    ] {
        let whole = fs::read(&live).unwrap();
        Connection::open(&live).unwrap().execute(damage, []).unwrap();
        refused(
            &dir,
            &["backup", file.to_str().unwrap(), "--force"],
            &["The copy failed verification", told],
        );
        assert!(fs::read(&file).unwrap() == before);
        assert_eq!(names(&backups), ["one.db"]);
        assert_eq!(noted(&live), at);
        fs::write(&live, whole).unwrap();
    }
}
