//! The audit log from which old events were removed: what is left still proves itself, and whoever removes
//! more, or lies about what was removed, is found out.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::domain::chain;
use tollhouse::service::retention;

use crate::support::{Answer, Binary, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// A server whose log is kept for 30 days, and has events of today.
async fn with_events() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    assert_eq!(server.configure(json!({"retention": {"audit_days": 30}})).await.status, 200);
    touch(&server, 6).await;
    server
}

async fn touch(server: &Server, times: usize) {
    for _ in 0..times {
        assert_eq!(server.admin().get("/organizations/org_1").await.status, 200);
    }
}

async fn verify(server: &Server, query: &str) -> Answer {
    server.admin().get(&format!("/audit-logs/verify{query}")).await
}

async fn valid(server: &Server) -> Value {
    let found = verify(server, "").await.data().clone();
    assert_eq!(found["valid"], true, "{found}");
    found
}

/// `seq:hash` of the last event.
async fn head(server: &Server) -> String {
    let found = valid(server).await;
    format!("{}:{}", found["last_seq"], found["head_hash"].as_str().unwrap())
}

/// The checkpoints of all prunings that are still told of, the latest first.
async fn checkpoints(server: &Server) -> Vec<String> {
    let events = server.admin().get("/audit-logs?action=audit_log.prune").await.data().clone();
    let events = events.as_array().unwrap();
    events.iter().map(|event| event["changes"][0]["to"].as_str().unwrap().to_owned()).collect()
}

fn seq(anchor: &str) -> i64 {
    anchor.split_once(':').unwrap().0.parse().unwrap()
}

/// What the command line finds: exit status, what it says as JSON, and what it says otherwise.
fn at_the_command_line(args: &[&str]) -> (Option<i32>, Value, String) {
    let output = Binary::run(&[&["audit", "verify", "--json"], args].concat());
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json, String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn i2_the_rest_verifies_from_the_checkpoint_that_an_event_names() {
    let server = with_events().await;
    let old = head(&server).await;
    server.advance(29 * DAY);
    retention::prune(&server.app).await.unwrap();
    assert_eq!((checkpoints(&server).await.len(), &valid(&server).await["first_seq"]), (0, &json!(1)));

    server.advance(2 * DAY);
    touch(&server, 4).await;
    let kept = head(&server).await;
    retention::prune(&server.app).await.unwrap();
    let told = checkpoints(&server).await;
    assert_eq!(told.len(), 1);
    let found = valid(&server).await;
    // All of the first day went, with what came after the head that was kept then: its verification.
    assert_eq!(found["first_seq"].as_i64(), Some(seq(&told[0]) + 1));
    assert!(seq(&told[0]) > seq(&old), "{told:?} {old}");
    let event = server.admin().get("/audit-logs?action=audit_log.prune").await.data()[0].clone();
    assert_eq!((&event["actor"]["type"], &event["access"]), (&json!("system"), &json!("write")));
    // Once is enough.
    retention::prune(&server.app).await.unwrap();
    assert_eq!(checkpoints(&server).await, told);

    // Anchors: of what is left, of the checkpoint itself, and of what is gone.
    assert_eq!(verify(&server, &format!("?anchor={kept}")).await.data()["valid"], true);
    assert_eq!(verify(&server, &format!("?anchor={}", told[0])).await.data()["valid"], true);
    let wrong = format!("{}:{}", seq(&told[0]), "0".repeat(64));
    assert_eq!(verify(&server, &format!("?anchor={wrong}")).await.data()["valid"], false);
    let gone = verify(&server, &format!("?anchor={old}")).await;
    assert_eq!((gone.status, gone.details()), (400, vec![("anchor".to_owned(), "ANCHOR_PRUNED".to_owned())]));
    assert!(gone.text.contains(&format!("begins at event {}", seq(&told[0]) + 1)), "{}", gone.text);

    // An exported file, and the command line over both.
    let export = server.admin().get("/audit-logs/export").await.text;
    let file = server.dir.path().join("log.ndjson");
    std::fs::write(&file, &export).unwrap();
    let (file, data) = (file.to_str().unwrap().to_owned(), server.dir.path().join("data"));
    let data = data.to_str().unwrap();
    for (source, begins) in [(vec!["--data", data], "begins at"), (vec![file.as_str()], "The file begins at")]
    {
        let with = |more: &[&str]| at_the_command_line(&[source.as_slice(), more].concat());
        let (status, found, _) = with(&[]);
        assert_eq!((status, &found["valid"]), (Some(0), &json!(true)), "{found}");
        assert_eq!(found["first_seq"].as_i64(), Some(seq(&told[0]) + 1));
        assert_eq!(with(&["--anchor", &kept]).0, Some(0));
        assert_eq!(with(&["--anchor", &told[0]]).0, Some(0));
        let (status, _, said) = with(&["--anchor", &old]);
        assert!(status == Some(1) && said.contains(begins), "{said}");
    }
    // Without the event that tells of it, its beginning is a break.
    let without: String = export
        .lines()
        .filter(|line| !line.contains("audit_log.prune"))
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(&file, without).unwrap();
    assert_eq!(at_the_command_line(&[&file]).0, Some(1));
    let until: String = export
        .lines()
        .take_while(|line| !line.contains("audit_log.prune"))
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(&file, until).unwrap();
    let (status, found, _) = at_the_command_line(&[&file]);
    assert_eq!((status, &found["broken_at"]), (Some(1), &json!(1)), "{found}");

    // A later pruning removes the event of the one before.
    server.advance(40 * DAY);
    touch(&server, 1).await;
    retention::prune(&server.app).await.unwrap();
    let later = checkpoints(&server).await;
    assert!(later.len() == 1 && seq(&later[0]) > seq(&kept), "{later:?}");
    valid(&server).await;
    let server = Server::over(server.stop().await, |_| ()).await;
    assert_eq!(checkpoints(&server).await, later);
    valid(&server).await;
}

#[tokio::test]
async fn without_a_number_of_days_nothing_goes() {
    let server = with_events().await;
    assert_eq!(server.configure(json!({"retention": {"audit_days": 0}})).await.status, 200);
    server.advance(3650 * DAY);
    retention::prune(&server.app).await.unwrap();
    assert_eq!(valid(&server).await["first_seq"], 1);
}

/// A clock that was set back: nothing that is young goes because something old comes after it.
#[tokio::test]
async fn what_is_young_stays_whatever_lies_behind_it() {
    let server = with_events().await;
    let file = server.dir.path().join("data/tollhouse.db");
    let young = "UPDATE audit_events SET occurred_at = occurred_at + 40 * 86400000 WHERE seq = 4";
    Connection::open(file).unwrap().execute(young, []).unwrap();
    server.advance(32 * DAY);
    retention::prune(&server.app).await.unwrap();
    assert_eq!(checkpoints(&server).await.iter().map(|told| seq(told)).collect::<Vec<_>>(), [3]);
}

/// A pruning that was cut off, after its event and before all was removed, is finished by the next one; until
/// then the log is whole all the same.
#[tokio::test]
async fn a_pruning_that_was_cut_off_is_finished() {
    let server = with_events().await;
    server.advance(32 * DAY);
    let file = server.dir.path().join("data/tollhouse.db");
    let conn = Connection::open(file).unwrap();
    conn.execute_batch("CREATE TABLE old AS SELECT * FROM audit_events").unwrap();
    retention::prune(&server.app).await.unwrap();
    let told = checkpoints(&server).await;
    let first = valid(&server).await["first_seq"].clone();
    conn.execute("INSERT INTO audit_events SELECT * FROM old WHERE seq BETWEEN 3 AND ?1", [seq(&told[0])])
        .unwrap();
    assert_eq!(valid(&server).await["first_seq"], first);
    let export = server.admin().get("/audit-logs/export").await.text;
    let begin: Value = serde_json::from_str(export.lines().next().unwrap()).unwrap();
    assert_eq!(begin["seq"], first);
    retention::prune(&server.app).await.unwrap();
    let left: i64 = conn.query_row("SELECT min(seq) FROM audit_events", [], |row| row.get(0)).unwrap();
    assert_eq!((json!(left), checkpoints(&server).await), (first, told));
}

/// The hashes from this place on, made to fit what stands there.
fn rehash(conn: &Connection, from: i64) {
    let mut prev: Option<[u8; 32]> = None;
    for seq in from.. {
        let sql = "SELECT prev_hash, event FROM audit_events WHERE seq = ?1";
        let row = conn.query_row(sql, [seq], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        let Ok((stored, event)) = row else { return };
        let before = prev.unwrap_or(stored);
        let hash = chain::hash(&before, &event);
        let sql = "UPDATE audit_events SET prev_hash = ?2, hash = ?3 WHERE seq = ?1";
        conn.execute(sql, (seq, before, hash)).unwrap();
        prev = Some(hash);
    }
}

#[tokio::test]
async fn i2_whoever_tampers_with_a_pruned_log_is_found_out() {
    let server = with_events().await;
    server.advance(32 * DAY);
    touch(&server, 5).await;
    retention::prune(&server.app).await.unwrap();
    touch(&server, 3).await;
    let told = checkpoints(&server).await.remove(0);
    let head = head(&server).await;
    let dir = server.stop().await;
    let source = dir.path().join("data/tollhouse.db");
    let (cut, sql) = (seq(&told), "SELECT max(seq) FROM audit_events WHERE action = 'audit_log.prune'");
    let event: i64 = Connection::open(&source).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    let next = "(SELECT prev_hash FROM audit_events WHERE seq = 3 + (SELECT min(seq) FROM audit_events))";
    // What its event says: another checkpoint, two events further, with the hash that is the right one there.
    let lie = format!(
        "UPDATE audit_events SET event = replace(event, '{told}', '{}:' || lower(hex({next}))) WHERE seq = {event}",
        cut + 3
    );
    let further = format!("{lie}; DELETE FROM audit_events WHERE seq <= {}", cut + 3);
    let other_hash = format!(
        "UPDATE audit_events SET event = replace(event, ':{}', ':{}') WHERE seq = {event}",
        &told[told.len() - 64..],
        "ab".repeat(32)
    );
    // (what is done, is it all given new hashes, where it is broken)
    for (edit, forged, broken_at) in [
        // More is gone than the checkpoint says.
        (format!("DELETE FROM audit_events WHERE seq = {}", cut + 1), false, cut + 1),
        (format!("DELETE FROM audit_events WHERE seq <= {}", cut + 3), false, cut + 1),
        (format!("DELETE FROM audit_events WHERE seq = {}", cut + 2), false, cut + 2),
        // The event of the pruning is gone, hidden, or says something else.
        (format!("DELETE FROM audit_events WHERE seq = {event}"), false, event),
        (format!("DELETE FROM audit_events WHERE seq >= {event}"), false, 1),
        (format!("UPDATE audit_events SET action = 'audit_log.read' WHERE seq = {event}"), false, event),
        (lie.clone(), false, event),
        (further.clone(), false, event),
        (other_hash.clone(), false, event),
        // With new hashes for all that follows: a checkpoint that isn't the hash before the first event.
        (other_hash, true, cut + 1),
        (
            format!(
                "UPDATE audit_events SET event = replace(event, 'audit_log.prune', 'audit_log.prime') WHERE seq = {event}"
            ),
            true,
            event,
        ),
        // What is left is edited.
        (
            format!(
                "UPDATE audit_events SET event = replace(event, '\"count\":1', '\"count\":2') WHERE seq = {}",
                cut + 2
            ),
            false,
            cut + 2,
        ),
    ] {
        let copy = edited(&source, |conn| {
            conn.execute_batch(&edit).unwrap();
            if forged {
                rehash(conn, event);
            }
        });
        let (status, found, said) = at_the_command_line(&["--data", copy.path().to_str().unwrap()]);
        assert_eq!((status, &found["broken_at"]), (Some(1), &json!(broken_at)), "{edit}: {found} {said}");
    }
    // Who removes more and rewrites all that follows leaves a log that is whole in itself: only a head that was
    // kept elsewhere finds that.
    let copy = edited(&source, |conn| {
        conn.execute_batch(&further).unwrap();
        rehash(conn, event);
    });
    let data = copy.path().to_str().unwrap();
    assert_eq!(at_the_command_line(&["--data", data]).0, Some(0));
    assert_eq!(at_the_command_line(&["--data", data, "--anchor", &head]).0, Some(1));
}

fn edited(source: &Path, edit: impl FnOnce(&Connection)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("tollhouse.db");
    std::fs::copy(source, &file).unwrap();
    let conn = Connection::open(file).unwrap();
    edit(&conn);
    conn.close().unwrap();
    copy
}

/// What is removed gives its place in the file back.
#[tokio::test]
async fn what_goes_gives_its_space_back() {
    let server = with_events().await;
    let file = server.dir.path().join("data/tollhouse.db");
    let conn = Connection::open(&file).unwrap();
    // As many events as make some MiB, by making the ones there are longer: nobody verifies them.
    let longer = "UPDATE audit_events SET event = event || printf('%.*c', 2000000, ' ') WHERE seq <= 6";
    conn.execute(longer, []).unwrap();
    let size = || {
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        std::fs::metadata(&file).unwrap().len()
    };
    let before = size();
    assert!(before > 12_000_000, "{before}");
    server.advance(32 * DAY);
    retention::prune(&server.app).await.unwrap();
    let after = size();
    assert!(after < 2_500_000, "{before} {after}");
    let pages: i64 = conn.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
    assert!(pages <= 256, "{pages}");
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}
