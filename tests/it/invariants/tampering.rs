//! Whoever edits the audit log in the file is found out, by the API and at the command line.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::domain::chain;

use crate::support::{Binary, Server};

/// A log with some events, not in use by anybody.
struct Log {
    dir: TempDir,
    last: i64,
    head: String,
}

async fn log() -> Log {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.user("user_1").await;
    for nth in 0..4 {
        let body = json!({"name": format!("renamed {nth}")});
        assert_eq!(server.admin().patch("/organizations/org_1", body).await.status, 200);
    }
    assert_eq!(server.admin().get("/organizations/org_1").await.status, 200);
    let found = server.admin().get("/audit-logs/verify").await;
    let (last, hash) =
        (found.data()["last_seq"].as_i64().unwrap(), found.data()["head_hash"].as_str().unwrap());
    let head = format!("{last}:{hash}");
    assert!(last >= 8, "{found:?}");
    Log { dir: server.stop().await, last: last + 1, head }
}

impl Log {
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The same log, with something done to it.
    fn edited(&self, edit: impl FnOnce(&Connection)) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        let file = copy.path().join("tollhouse.db");
        std::fs::copy(self.data().join("tollhouse.db"), &file).unwrap();
        let conn = Connection::open(file).unwrap();
        edit(&conn);
        conn.close().unwrap();
        copy
    }
}

/// What the command line finds: its exit status and its words.
fn at_the_command_line(dir: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let output =
        Binary::run(&[&["audit", "verify", "--json", "--data", dir.to_str().unwrap()], args].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// What the API finds.
async fn by_api(dir: &Path, query: &str) -> Value {
    let server = Server::with(|config| config.database.dir = dir.to_owned()).await;
    let answer = server.admin().get(&format!("/audit-logs/verify{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data().clone()
}

#[tokio::test]
async fn i2_every_edit_of_the_log_is_found_where_it_is() {
    let log = log().await;
    let (status, found) = at_the_command_line(&log.data(), &[]);
    assert_eq!((status, &found["valid"], &found["checked"]), (Some(0), &json!(true), &json!(log.last)));
    for (broken_at, edit) in [
        (5, "UPDATE audit_events SET event = replace(event, '\"count\":1', '\"count\":2') WHERE seq = 5"),
        (
            log.last,
            "UPDATE audit_events SET event = event || ' ' WHERE seq = (SELECT max(seq) FROM audit_events)",
        ),
        (5, "UPDATE audit_events SET event = 'nonsense' WHERE seq = 5"),
        (5, "UPDATE audit_events SET event = CAST(x'ff' AS TEXT) WHERE seq = 5"),
        // The copies beside it, which the filters use.
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
        // Its place and its hashes.
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
            log.last + 5,
            "UPDATE audit_events SET seq = seq + 5 WHERE seq = (SELECT max(seq) FROM audit_events)",
        ),
    ] {
        // What was moved on leaves a gap: the break is the first that is missing.
        let broken_at = broken_at.min(log.last);
        let copy = log.edited(|conn| conn.execute_batch(edit).unwrap());
        let (status, found) = at_the_command_line(copy.path(), &[]);
        assert_eq!((status, &found["valid"]), (Some(1), &json!(false)), "{edit}: {found}");
        assert_eq!(found["broken_at"], broken_at, "{edit}");
        let found = by_api(copy.path(), "").await;
        assert_eq!((&found["valid"], &found["broken_at"]), (&json!(false), &json!(broken_at)), "{edit}");
    }
}

/// Edits an event and gives it, and if `on` all behind it, the hashes that fit.
fn forge(conn: &Connection, seq: i64, on: bool) {
    let sql = "UPDATE audit_events SET event = replace(event, 'renamed', 'Renamed') WHERE seq = ?1";
    assert_eq!(conn.execute(sql, [seq]).unwrap(), 1);
    let mut select = conn.prepare("SELECT prev_hash, event FROM audit_events WHERE seq = ?1").unwrap();
    let mut prev: Option<[u8; 32]> = None;
    for seq in seq.. {
        let row = select.query_row([seq], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        let Ok((stored, event)) = row else { return };
        let before = prev.unwrap_or(stored);
        let hash = chain::hash(&before, &event);
        let sql = "UPDATE audit_events SET prev_hash = ?2, hash = ?3 WHERE seq = ?1";
        conn.execute(sql, (seq, before, hash)).unwrap();
        if !on {
            return;
        }
        prev = Some(hash);
    }
}

/// Who can write the file can rewrite all behind the last head that was kept elsewhere, and nothing
/// before it.
#[tokio::test]
async fn i2_a_head_kept_elsewhere_finds_what_was_rewritten() {
    let log = log().await;
    let forged_one = log.edited(|conn| forge(conn, 5, false));
    let (status, found) = at_the_command_line(forged_one.path(), &[]);
    assert_eq!((status, &found["broken_at"]), (Some(1), &json!(6)), "the next one remembers");

    let anchored = ["--anchor", &log.head];
    let query = format!("?anchor={}", log.head);
    let kept = log.head.split_once(':').unwrap().0.parse::<i64>().unwrap();
    assert_eq!(at_the_command_line(&log.data(), &anchored).0, Some(0));
    for (what, copy) in [
        ("rewritten", log.edited(|conn| forge(conn, 5, true))),
        ("cut off", log.edited(|conn| conn.execute_batch("DELETE FROM audit_events WHERE seq > 5").unwrap())),
        ("emptied", log.edited(|conn| conn.execute_batch("DELETE FROM audit_events").unwrap())),
    ] {
        assert_eq!(at_the_command_line(copy.path(), &[]).0, Some(0), "{what}: whole in itself");
        let (status, found) = at_the_command_line(copy.path(), &anchored);
        assert_eq!(
            (status, &found["valid"], &found["broken_at"]),
            (Some(1), &json!(false), &json!(kept)),
            "{what}"
        );
        let found = by_api(copy.path(), &query).await;
        assert_eq!((&found["valid"], &found["broken_at"]), (&json!(false), &json!(kept)), "{what}");
    }
}

#[tokio::test]
async fn an_anchor_that_is_none_is_refused() {
    let server = Server::start().await;
    for anchor in
        ["1", "0:00", "x:y", "1:00", &format!("0:{}", "0".repeat(64)), &format!("1:{}", "g".repeat(64))]
    {
        let answer = server.admin().get(&format!("/audit-logs/verify?anchor={anchor}")).await;
        assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{anchor}");
        assert_eq!(answer.details(), [("anchor".to_owned(), "INVALID_ANCHOR".to_owned())]);
    }
}
