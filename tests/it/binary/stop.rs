//! A graceful shutdown loses nothing: running requests finish, and acknowledged changes exist at the next start.

use serde_json::Value;

use super::{json, run};
use crate::support::{Binary, Raw, head};

const BODY: &[u8] = br#"{"id":"org_late","name":"Late","email":"late@example.com"}"#;

#[tokio::test]
async fn i1_a_signal_lets_running_requests_finish() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Binary::serve(dir.path());
        let length = format!("content-length: {}", BODY.len());
        let headers = ["content-type: application/json", "expect: 100-continue", &length];
        let mut running = Raw::connect(&server.url).await;
        running.send(&head("POST /admin/v1/organizations", &headers)).await;
        // `100 Continue` means that the handler waits for the body: the request is running.
        assert_eq!(running.answer().await.unwrap().status, 100);

        server.signal(signal);
        assert!(server.line_with("stopping").contains(&format!("SIG{signal}")));
        running.send(BODY).await;
        let answer = running.answer().await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(answer.head.contains("\r\nconnection: close\r\n"), "{}", answer.head);
        assert_eq!(server.wait(), Some(0));
        let wal = std::fs::metadata(dir.path().join("tollhouse.db-wal")).map_or(0, |wal| wal.len());
        assert_eq!(wal, 0, "the WAL is empty, so the database file is complete");

        let log: Vec<String> = server.log.iter().collect();
        assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:#?}");
        let head = log
            .iter()
            .find_map(|line| line.split("audit head ").nth(1))
            .expect("the audit head is logged at shutdown");
        let head: String = head.chars().take_while(|c| c.is_ascii_hexdigit() || *c == ':').collect();
        // No event follows the logged head, so it is a valid anchor for later verifications.
        let report = json(&run(dir.path(), &["audit", "verify", "--json", "--anchor", &head]));
        assert_eq!((&report["valid"], report["last_seq"].to_string()), (&Value::Bool(true), seq(&head)));

        let server = Binary::serve(dir.path());
        assert_eq!(server.admin().get("/organizations/org_late").await.data()["name"], "Late");
    }
}

fn seq(head: &str) -> String {
    head.split(':').next().unwrap().to_owned()
}

/// Refusals and key uses are counted in memory; shutdown writes the counts.
#[tokio::test]
async fn shutdown_writes_pending_counts() {
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
