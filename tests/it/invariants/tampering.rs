//! Edits of the audit log in the database file are detected by the API and by the command line.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::domain::chain;

use crate::support::{Binary, Server};

/// The data directory of a stopped server, with some events in its audit log.
struct Log {
    dir: TempDir,
    last_seq: i64,
    /// `seq:hash` of an earlier last event.
    head: String,
}

async fn create_log() -> Log {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.user("user_1").await;
    for index in 0..4 {
        let body = json!({"name": format!("renamed {index}")});
        assert_eq!(server.admin().patch("/organizations/org_1", body).await.status, 200);
    }
    assert_eq!(server.admin().get("/organizations/org_1").await.status, 200);
    let report = server.admin().get("/audit-logs/verify").await;
    let last_seq = report.data()["last_seq"].as_i64().unwrap();
    let hash = report.data()["head_hash"].as_str().unwrap();
    let head = format!("{last_seq}:{hash}");
    assert!(last_seq >= 8, "{report:?}");
    // The verification itself was recorded after the head it returned.
    Log { dir: server.stop().await, last_seq: last_seq + 1, head }
}

impl Log {
    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A copy of the database with an edit applied.
    fn edited_copy(&self, edit: impl FnOnce(&Connection)) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        let file = copy.path().join("tollhouse.db");
        std::fs::copy(self.data_dir().join("tollhouse.db"), &file).unwrap();
        let conn = Connection::open(file).unwrap();
        edit(&conn);
        conn.close().unwrap();
        copy
    }
}

/// Runs `audit verify`: exit status and JSON report.
fn verify_by_cli(dir: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let output =
        Binary::run(&[&["audit", "verify", "--json", "--data", dir.to_str().unwrap()], args].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// Starts a server on the directory and returns the API's verification report.
async fn verify_by_api(dir: &Path, query: &str) -> Value {
    let server = Server::with(|config| config.database.dir = dir.to_owned()).await;
    let answer = server.admin().get(&format!("/audit-logs/verify{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data().clone()
}

#[tokio::test]
async fn i2_every_edit_of_the_log_is_detected_and_located() {
    let log = create_log().await;
    let (status, report) = verify_by_cli(&log.data_dir(), &[]);
    assert_eq!((status, &report["valid"], &report["checked"]), (Some(0), &json!(true), &json!(log.last_seq)));
    for (broken_at, edit) in [
        (5, "UPDATE audit_events SET event = replace(event, '\"count\":1', '\"count\":2') WHERE seq = 5"),
        (
            log.last_seq,
            "UPDATE audit_events SET event = event || ' ' WHERE seq = (SELECT max(seq) FROM audit_events)",
        ),
        (5, "UPDATE audit_events SET event = 'nonsense' WHERE seq = 5"),
        (5, "UPDATE audit_events SET event = CAST(x'ff' AS TEXT) WHERE seq = 5"),
        // The columns copied from the event for filtering.
        (5, "UPDATE audit_events SET id = randomblob(16) WHERE seq = 5"),
        (5, "UPDATE audit_events SET id = x'00' WHERE seq = 5"),
        (5, "UPDATE audit_events SET occurred_at = occurred_at + 1 WHERE seq = 5"),
        (5, "UPDATE audit_events SET organization_id = 'org_2' WHERE seq = 5"),
        (5, "UPDATE audit_events SET organization_id = NULL WHERE seq = 5"),
        (5, "UPDATE audit_events SET actor_id = 'key_2' WHERE seq = 5"),
        (5, "UPDATE audit_events SET action = 'organization.read' WHERE seq = 5"),
        (5, "UPDATE audit_events SET target_id = NULL WHERE seq = 5"),
        (5, "UPDATE audit_events SET access = 'read' WHERE seq = 5"),
        (5, "UPDATE audit_events SET outcome = 'denied' WHERE seq = 5"),
        // Position and hashes.
        (5, "DELETE FROM audit_events WHERE seq = 5"),
        (1, "DELETE FROM audit_events WHERE seq = 1"),
        (1, "DELETE FROM audit_events WHERE seq < 4"),
        (
            5,
            "UPDATE audit_events SET seq = -seq WHERE seq IN (5, 6); UPDATE audit_events SET seq = 11 + seq WHERE seq < 0",
        ),
        (5, "UPDATE audit_events SET hash = randomblob(32) WHERE seq = 5"),
        (5, "UPDATE audit_events SET hash = x'00' WHERE seq = 5"),
        (5, "UPDATE audit_events SET prev_hash = zeroblob(32) WHERE seq = 5"),
        (1, "UPDATE audit_events SET prev_hash = randomblob(32) WHERE seq = 1"),
        (
            0,
            "INSERT INTO audit_events SELECT 0, randomblob(16), occurred_at, organization_id, actor_id, action, \
             target_id, access, outcome, prev_hash, hash, event FROM audit_events WHERE seq = 5",
        ),
        (
            log.last_seq + 5,
            "UPDATE audit_events SET seq = seq + 5 WHERE seq = (SELECT max(seq) FROM audit_events)",
        ),
    ] {
        // Moving an event to a later position leaves a gap; the log is broken at the first missing event.
        let broken_at = broken_at.min(log.last_seq);
        let copy = log.edited_copy(|conn| conn.execute_batch(edit).unwrap());
        let (status, report) = verify_by_cli(copy.path(), &[]);
        assert_eq!((status, &report["valid"]), (Some(1), &json!(false)), "{edit}: {report}");
        assert_eq!(report["broken_at"], broken_at, "{edit}");
        let report = verify_by_api(copy.path(), "").await;
        assert_eq!((&report["valid"], &report["broken_at"]), (&json!(false), &json!(broken_at)), "{edit}");
    }
}

/// Edits an event and recomputes its hash and, if `through_end`, those of all later events.
fn forge(conn: &Connection, seq: i64, through_end: bool) {
    let sql = "UPDATE audit_events SET event = replace(event, 'renamed', 'Renamed') WHERE seq = ?1";
    assert_eq!(conn.execute(sql, [seq]).unwrap(), 1);
    let mut select = conn.prepare("SELECT prev_hash, event FROM audit_events WHERE seq = ?1").unwrap();
    let mut prev: Option<[u8; 32]> = None;
    for seq in seq.. {
        let row = select.query_row([seq], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        let Ok((stored, event)) = row else { return };
        let prev_hash = prev.unwrap_or(stored);
        let hash = chain::hash(&prev_hash, &event);
        let sql = "UPDATE audit_events SET prev_hash = ?2, hash = ?3 WHERE seq = ?1";
        conn.execute(sql, (seq, prev_hash, hash)).unwrap();
        if !through_end {
            return;
        }
        prev = Some(hash);
    }
}

/// Someone with write access to the file can rewrite only the events after the last head stored elsewhere without
/// being detected.
#[tokio::test]
async fn i2_a_head_stored_elsewhere_detects_a_rewritten_log() {
    let log = create_log().await;
    let forged_one = log.edited_copy(|conn| forge(conn, 5, false));
    let (status, report) = verify_by_cli(forged_one.path(), &[]);
    assert_eq!((status, &report["broken_at"]), (Some(1), &json!(6)), "the next event contains the old hash");

    let anchored = ["--anchor", &log.head];
    let query = format!("?anchor={}", log.head);
    let head_seq = log.head.split_once(':').unwrap().0.parse::<i64>().unwrap();
    assert_eq!(verify_by_cli(&log.data_dir(), &anchored).0, Some(0));
    for (edit, copy) in [
        ("rewritten", log.edited_copy(|conn| forge(conn, 5, true))),
        (
            "truncated",
            log.edited_copy(|conn| conn.execute_batch("DELETE FROM audit_events WHERE seq > 5").unwrap()),
        ),
        ("emptied", log.edited_copy(|conn| conn.execute_batch("DELETE FROM audit_events").unwrap())),
    ] {
        assert_eq!(verify_by_cli(copy.path(), &[]).0, Some(0), "{edit}: consistent in itself");
        let (status, report) = verify_by_cli(copy.path(), &anchored);
        assert_eq!(
            (status, &report["valid"], &report["broken_at"]),
            (Some(1), &json!(false), &json!(head_seq)),
            "{edit}"
        );
        let report = verify_by_api(copy.path(), &query).await;
        assert_eq!((&report["valid"], &report["broken_at"]), (&json!(false), &json!(head_seq)), "{edit}");
    }
}

#[tokio::test]
async fn an_invalid_anchor_is_refused() {
    let server = Server::start().await;
    for anchor in
        ["1", "0:00", "x:y", "1:00", &format!("0:{}", "0".repeat(64)), &format!("1:{}", "g".repeat(64))]
    {
        let answer = server.admin().get(&format!("/audit-logs/verify?anchor={anchor}")).await;
        assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{anchor}");
        assert_eq!(answer.details(), [("anchor".to_owned(), "INVALID_ANCHOR".to_owned())]);
    }
}
