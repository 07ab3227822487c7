//! Pruning of the audit log: the remaining events still verify, and removing more events or forging the record of
//! the pruning is detected.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::domain::chain;
use tollhouse::service::retention;

use crate::support::{Answer, Binary, Server, until};

const DAY: Duration = Duration::from_secs(86_400);

/// A server with an audit retention of 30 days and some events of today.
async fn server_with_events() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    assert_eq!(server.configure(json!({"retention": {"audit_days": 30}})).await.status, 200);
    record_reads(&server, 6).await;
    server
}

async fn record_reads(server: &Server, times: usize) {
    for _ in 0..times {
        assert_eq!(server.admin().get("/organizations/org_1").await.status, 200);
    }
}

async fn verify(server: &Server, query: &str) -> Answer {
    server.admin().get(&format!("/audit-logs/verify{query}")).await
}

/// Asserts that the log is valid and returns the report.
async fn assert_valid(server: &Server) -> Value {
    let report = verify(server, "").await.data().clone();
    assert_eq!(report["valid"], true, "{report}");
    report
}

/// `seq:hash` of the last event.
async fn head(server: &Server) -> String {
    let report = assert_valid(server).await;
    format!("{}:{}", report["last_seq"], report["head_hash"].as_str().unwrap())
}

/// The checkpoints of all prunings whose events are still in the log, latest first.
async fn checkpoints(server: &Server) -> Vec<String> {
    let events = server.admin().get("/audit-logs?action=audit_log.prune").await.data().clone();
    let events = events.as_array().unwrap();
    events.iter().map(|event| event["changes"][0]["to"].as_str().unwrap().to_owned()).collect()
}

fn seq(anchor: &str) -> i64 {
    anchor.split_once(':').unwrap().0.parse().unwrap()
}

/// Runs `audit verify`: exit status, JSON report and standard error.
fn verify_by_cli(args: &[&str]) -> (Option<i32>, Value, String) {
    let output = Binary::run(&[&["audit", "verify", "--json"], args].concat());
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json, String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn i2_the_remaining_log_verifies_from_the_checkpoint_in_the_prune_event() {
    let server = server_with_events().await;
    let pruned_head = head(&server).await;
    server.advance(29 * DAY);
    retention::prune(&server.app).await.unwrap();
    assert_eq!((checkpoints(&server).await.len(), &assert_valid(&server).await["first_seq"]), (0, &json!(1)));

    server.advance(2 * DAY);
    record_reads(&server, 4).await;
    let later_head = head(&server).await;
    retention::prune(&server.app).await.unwrap();
    let pruned_at = checkpoints(&server).await;
    assert_eq!(pruned_at.len(), 1);
    let report = assert_valid(&server).await;
    // The whole first day was pruned, including the event of the verification that returned `pruned_head`.
    assert_eq!(report["first_seq"].as_i64(), Some(seq(&pruned_at[0]) + 1));
    assert!(seq(&pruned_at[0]) > seq(&pruned_head), "{pruned_at:?} {pruned_head}");
    let event = server.admin().get("/audit-logs?action=audit_log.prune").await.data()[0].clone();
    assert_eq!((&event["actor"]["type"], &event["access"]), (&json!("system"), &json!("write")));
    // A second run prunes nothing.
    retention::prune(&server.app).await.unwrap();
    assert_eq!(checkpoints(&server).await, pruned_at);

    // Anchors in the remaining log, at the checkpoint itself, and in the pruned part.
    assert_eq!(verify(&server, &format!("?anchor={later_head}")).await.data()["valid"], true);
    assert_eq!(verify(&server, &format!("?anchor={}", pruned_at[0])).await.data()["valid"], true);
    let wrong = format!("{}:{}", seq(&pruned_at[0]), "0".repeat(64));
    assert_eq!(verify(&server, &format!("?anchor={wrong}")).await.data()["valid"], false);
    let refused = verify(&server, &format!("?anchor={pruned_head}")).await;
    assert_eq!(
        (refused.status, refused.details()),
        (400, vec![("anchor".to_owned(), "ANCHOR_PRUNED".to_owned())])
    );
    assert!(
        refused.text.contains(&format!("begins at event {}", seq(&pruned_at[0]) + 1)),
        "{}",
        refused.text
    );

    // The command line, on the data directory and on an exported file.
    let export = server.admin().get("/audit-logs/export").await.text;
    let file = server.dir.path().join("log.ndjson");
    std::fs::write(&file, &export).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let data = server.dir.path().join("data");
    let data = data.to_str().unwrap();
    for (source, begins) in [(vec!["--data", data], "begins at"), (vec![file.as_str()], "The file starts at")]
    {
        let with = |more: &[&str]| verify_by_cli(&[source.as_slice(), more].concat());
        let (status, report, _) = with(&[]);
        assert_eq!((status, &report["valid"]), (Some(0), &json!(true)), "{report}");
        assert_eq!(report["first_seq"].as_i64(), Some(seq(&pruned_at[0]) + 1));
        assert_eq!(with(&["--anchor", &later_head]).0, Some(0));
        assert_eq!(with(&["--anchor", &pruned_at[0]]).0, Some(0));
        let (status, failure, _) = with(&["--anchor", &pruned_head]);
        let message = failure["error"]["message"].as_str().unwrap_or_default();
        assert!(status == Some(1) && message.contains(begins), "{failure}");
    }
    // Without the prune event, a log that doesn't begin at 1 is broken.
    let without: String = export
        .lines()
        .filter(|line| !line.contains("audit_log.prune"))
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(&file, without).unwrap();
    assert_eq!(verify_by_cli(&[&file]).0, Some(1));
    let before_event: String = export
        .lines()
        .take_while(|line| !line.contains("audit_log.prune"))
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(&file, before_event).unwrap();
    let (status, report, _) = verify_by_cli(&[&file]);
    assert_eq!((status, &report["broken_at"]), (Some(1), &json!(1)), "{report}");

    // A later pruning removes the event of the previous one.
    server.advance(40 * DAY);
    record_reads(&server, 1).await;
    retention::prune(&server.app).await.unwrap();
    let later = checkpoints(&server).await;
    assert!(later.len() == 1 && seq(&later[0]) > seq(&later_head), "{later:?}");
    assert_valid(&server).await;
    let server = Server::start_in(server.stop().await, |_| ()).await;
    assert_eq!(checkpoints(&server).await, later);
    assert_valid(&server).await;
}

#[tokio::test]
async fn retention_of_zero_days_prunes_nothing() {
    let server = server_with_events().await;
    assert_eq!(server.configure(json!({"retention": {"audit_days": 0}})).await.status, 200);
    server.advance(3650 * DAY);
    retention::prune(&server.app).await.unwrap();
    assert_eq!(assert_valid(&server).await["first_seq"], 1);
}

/// After the clock was set back, recent events are followed by older ones. Pruning stops at the first recent
/// event. Events from the future are in `wrong_clock`.
#[tokio::test]
async fn a_recent_event_is_kept_even_if_older_ones_follow_it() {
    let server = server_with_events().await;
    let file = server.dir.path().join("data/tollhouse.db");
    let make_recent = "UPDATE audit_events SET occurred_at = occurred_at + 20 * 86400000 WHERE seq = 4";
    Connection::open(file).unwrap().execute(make_recent, []).unwrap();
    server.advance(32 * DAY);
    retention::prune(&server.app).await.unwrap();
    assert_eq!(checkpoints(&server).await.iter().map(|checkpoint| seq(checkpoint)).collect::<Vec<_>>(), [3]);
}

/// A pruning that was interrupted after its event was written and before all events were deleted is finished by
/// the next one. Until then the log is valid.
#[tokio::test]
async fn an_interrupted_pruning_is_finished_by_the_next() {
    let server = server_with_events().await;
    server.advance(32 * DAY);
    let file = server.dir.path().join("data/tollhouse.db");
    let conn = Connection::open(file).unwrap();
    conn.execute_batch("CREATE TABLE old AS SELECT * FROM audit_events").unwrap();
    retention::prune(&server.app).await.unwrap();
    let pruned_at = checkpoints(&server).await;
    let first = assert_valid(&server).await["first_seq"].clone();
    conn.execute(
        "INSERT INTO audit_events SELECT * FROM old WHERE seq BETWEEN 3 AND ?1",
        [seq(&pruned_at[0])],
    )
    .unwrap();
    assert_eq!(assert_valid(&server).await["first_seq"], first);
    let export = server.admin().get("/audit-logs/export").await.text;
    let first_event: Value = serde_json::from_str(export.lines().next().unwrap()).unwrap();
    assert_eq!(first_event["seq"], first);
    retention::prune(&server.app).await.unwrap();
    let first_stored: i64 =
        conn.query_row("SELECT min(seq) FROM audit_events", [], |row| row.get(0)).unwrap();
    assert_eq!((json!(first_stored), checkpoints(&server).await), (first, pruned_at));
}

/// Recomputes the hash chain from event `from` on, so that it matches the edited events.
fn rehash(conn: &Connection, from: i64) {
    let mut prev: Option<[u8; 32]> = None;
    for seq in from.. {
        let sql = "SELECT prev_hash, event FROM audit_events WHERE seq = ?1";
        let row = conn.query_row(sql, [seq], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        let Ok((stored, event)) = row else { return };
        let prev_hash = prev.unwrap_or(stored);
        let hash = chain::hash(&prev_hash, &event);
        let sql = "UPDATE audit_events SET prev_hash = ?2, hash = ?3 WHERE seq = ?1";
        conn.execute(sql, (seq, prev_hash, hash)).unwrap();
        prev = Some(hash);
    }
}

#[tokio::test]
async fn i2_tampering_with_a_pruned_log_is_detected() {
    let server = server_with_events().await;
    server.advance(32 * DAY);
    record_reads(&server, 5).await;
    retention::prune(&server.app).await.unwrap();
    record_reads(&server, 3).await;
    let checkpoint = checkpoints(&server).await.remove(0);
    let head = head(&server).await;
    let dir = server.stop().await;
    let source = dir.path().join("data/tollhouse.db");
    let pruned_through = seq(&checkpoint);
    let sql = "SELECT max(seq) FROM audit_events WHERE action = 'audit_log.prune'";
    let prune_event: i64 = Connection::open(&source).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    let next = "(SELECT prev_hash FROM audit_events WHERE seq = 3 + (SELECT min(seq) FROM audit_events))";
    // Changes the checkpoint in the prune event to a later event, with that event's correct hash.
    let false_checkpoint = format!(
        "UPDATE audit_events SET event = replace(event, '{checkpoint}', '{}:' || lower(hex({next}))) WHERE seq = {prune_event}",
        pruned_through + 3
    );
    let pruned_further =
        format!("{false_checkpoint}; DELETE FROM audit_events WHERE seq <= {}", pruned_through + 3);
    let other_hash = format!(
        "UPDATE audit_events SET event = replace(event, ':{}', ':{}') WHERE seq = {prune_event}",
        &checkpoint[checkpoint.len() - 64..],
        "ab".repeat(32)
    );
    // (edit, whether the hashes from the prune event on are recomputed, first broken event)
    for (edit, rehashed, broken_at) in [
        // More events are deleted than the checkpoint covers.
        (format!("DELETE FROM audit_events WHERE seq = {}", pruned_through + 1), false, pruned_through + 1),
        (format!("DELETE FROM audit_events WHERE seq <= {}", pruned_through + 3), false, pruned_through + 1),
        (format!("DELETE FROM audit_events WHERE seq = {}", pruned_through + 2), false, pruned_through + 2),
        // The prune event is deleted, disguised or edited.
        (format!("DELETE FROM audit_events WHERE seq = {prune_event}"), false, prune_event),
        (format!("DELETE FROM audit_events WHERE seq >= {prune_event}"), false, 1),
        (
            format!("UPDATE audit_events SET action = 'audit_log.read' WHERE seq = {prune_event}"),
            false,
            prune_event,
        ),
        (false_checkpoint.clone(), false, prune_event),
        (pruned_further.clone(), false, prune_event),
        (other_hash.clone(), false, prune_event),
        // Hashes recomputed: the checkpoint is not the hash before the first remaining event.
        (other_hash, true, pruned_through + 1),
        (
            format!(
                "UPDATE audit_events SET event = replace(event, 'audit_log.prune', 'audit_log.prime') WHERE seq = {prune_event}"
            ),
            true,
            prune_event,
        ),
        // A remaining event is edited.
        (
            format!(
                "UPDATE audit_events SET event = replace(event, '\"count\":1', '\"count\":2') WHERE seq = {}",
                pruned_through + 2
            ),
            false,
            pruned_through + 2,
        ),
    ] {
        let copy = edited_copy(&source, |conn| {
            conn.execute_batch(&edit).unwrap();
            if rehashed {
                rehash(conn, prune_event);
            }
        });
        let (status, report, stderr) = verify_by_cli(&["--data", copy.path().to_str().unwrap()]);
        assert_eq!((status, &report["broken_at"]), (Some(1), &json!(broken_at)), "{edit}: {report} {stderr}");
    }
    // Deleting more and rewriting everything that follows leaves a consistent log; only a head stored elsewhere
    // reveals it.
    let copy = edited_copy(&source, |conn| {
        conn.execute_batch(&pruned_further).unwrap();
        rehash(conn, prune_event);
    });
    let data = copy.path().to_str().unwrap();
    assert_eq!(verify_by_cli(&["--data", data]).0, Some(0));
    assert_eq!(verify_by_cli(&["--data", data, "--anchor", &head]).0, Some(1));
}

/// A copy of the database with an edit applied.
fn edited_copy(source: &Path, edit: impl FnOnce(&Connection)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("tollhouse.db");
    std::fs::copy(source, &file).unwrap();
    let conn = Connection::open(file).unwrap();
    edit(&conn);
    conn.close().unwrap();
    copy
}

#[tokio::test]
async fn pruning_returns_free_pages_to_the_file_system() {
    let server = server_with_events().await;
    let file = server.dir.path().join("data/tollhouse.db");
    let conn = Connection::open(&file).unwrap();
    // Pads the existing events to several MiB in total. The chain breaks, but this test doesn't verify it.
    let pad = "UPDATE audit_events SET event = event || printf('%.*c', 2000000, ' ') WHERE seq <= 6";
    conn.execute(pad, []).unwrap();
    let size = || {
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        std::fs::metadata(&file).unwrap().len()
    };
    let before = size();
    assert!(before > 12_000_000, "{before}");
    server.advance(32 * DAY);
    retention::prune(&server.app).await.unwrap();
    // The server's own checkpoint, which runs after the last change was answered, may hold up that of this test.
    until("the file is shorter", || size() < 2_500_000).await;
    let pages: i64 = conn.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
    assert!(pages <= 256, "{pages}");
    let integrity: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
}
