//! A stop loses nothing: what runs finishes, and what was acknowledged is there at the next start.

use serde_json::Value;

use super::{json, run};
use crate::support::{Binary, Raw, head};

const BODY: &[u8] = br#"{"id":"org_late","name":"Late","email":"late@example.com"}"#;

#[tokio::test]
async fn i1_a_signal_lets_what_runs_finish() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Binary::serve(dir.path());
        let length = format!("content-length: {}", BODY.len());
        let headers = ["content-type: application/json", "expect: 100-continue", &length];
        let mut running = Raw::connect(&server.url).await;
        running.send(&head("POST /admin/v1/organizations", &headers)).await;
        // The server waits for the body by now: the request is running.
        assert_eq!(running.answer().await.unwrap().status, 100);

        server.signal(signal);
        assert!(server.line_with("stopping").contains(&format!("SIG{signal}")));
        running.send(BODY).await;
        let answer = running.answer().await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(answer.head.contains("\r\nconnection: close\r\n"), "{}", answer.head);
        assert_eq!(server.wait(), Some(0));
        let wal = std::fs::metadata(dir.path().join("tollhouse.db-wal")).map_or(0, |wal| wal.len());
        assert_eq!(wal, 0, "the file alone is the whole database");

        let rest: Vec<String> = server.log.iter().collect();
        assert!(rest.iter().any(|line| line.contains("\"stopped\"")), "{rest:#?}");
        let head =
            rest.iter().find_map(|line| line.split("audit head ").nth(1)).expect("the head at the stop");
        let head: String = head.chars().take_while(|c| c.is_ascii_hexdigit() || *c == ':').collect();
        // Nothing came after the head that was told, so it is the anchor for what comes later.
        let found = run(dir.path(), &["audit", "verify", "--json", "--anchor", &head]);
        let found = json(&found);
        assert_eq!((&found["valid"], found["last_seq"].to_string()), (&Value::Bool(true), seq(&head)));

        let server = Binary::serve(dir.path());
        assert_eq!(server.admin().get("/organizations/org_late").await.data()["name"], "Late");
    }
}

fn seq(head: &str) -> String {
    head.split(':').next().unwrap().to_owned()
}

/// Refusals and uses are counted in memory; a stop writes them down.
#[tokio::test]
async fn a_stop_writes_what_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    for _ in 0..3 {
        assert_eq!(server.client("nobody-ever-had-this-key").get("/whoami").await.status, 401);
    }
    let whoami = server.admin().get("/whoami").await;
    assert_eq!(whoami.data()["api_key"]["last_used_at"], Value::Null);
    assert_eq!(server.terminate(), Some(0));

    let server = Binary::serve(dir.path());
    let events = server.admin().get("/audit-logs?action=request.refused").await;
    assert_eq!(events.data()[0]["count"], 3, "{events:?}");
    let whoami = server.admin().get("/whoami").await;
    assert!(whoami.data()["api_key"]["last_used_at"].is_string(), "{whoami:?}");
}
