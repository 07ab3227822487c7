//! Another process that holds the lock on the database delays changes for a bounded time, and verifications not at all.

#![allow(clippy::disallowed_methods)] // The time that a client waits is measured.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::json;

use super::full_disk::verify;
use crate::support::{Answer, Binary, Server};

/// The documented time, and the longest that a request may take in all.
const BOUNDS: std::ops::Range<Duration> = Duration::from_secs(5)..Duration::from_secs(8);

fn assert_within_bounds(what: &str, began: Instant) {
    let elapsed = began.elapsed();
    assert!(BOUNDS.contains(&elapsed), "{what}: {elapsed:?}");
}

async fn assert_unavailable(what: &str, answer: impl Future<Output = Answer>) {
    let began = Instant::now();
    let answer = answer.await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_within_bounds(what, began);
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_no_request_waits_for_a_lock_of_another_process_for_longer_than_documented() {
    let server = Server::start().await;
    let (_, key) = server.key(None, &["keys:verify"]).await;
    let secret = key["key"].as_str().unwrap();
    let admin = server.admin();
    let other = Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let body = json!({"id": "key_1", "name": "n", "scopes": []});
    let batch = json!({"operations": [{"method": "POST", "path": "/api-keys", "body": body}]});
    let idempotent =
        admin.request(reqwest::Method::POST, "/api-keys").header("idempotency-key", "1").json(&body);
    tokio::join!(
        assert_unavailable("a change", admin.post("/api-keys", body.clone())),
        assert_unavailable("a read", admin.get("/api-keys")),
        assert_unavailable("a batch", admin.post("/batch", batch)),
        assert_unavailable("an idempotent request", admin.send(idempotent)),
        async {
            // Checks don't wait for each other, and each says after a second that changes wait.
            let began = Instant::now();
            for _ in 0..3 {
                let ready = admin.get_at_root("/readyz").await;
                assert_eq!((ready.status, &ready.data()["write"]), (200, &json!(false)), "{ready:?}");
            }
            assert_eq!(admin.get_at_root("/readyz?write=true").await.status, 503);
            assert!(began.elapsed() < BOUNDS.start, "{:?}", began.elapsed());
        },
        async {
            for _ in 0..100 {
                assert_eq!(verify(&admin, secret).await, "VALID");
            }
        },
    );
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(admin.post("/api-keys", body).await.status, 201);
    // Recording the refusals would have had to wait for the lock, too.
    let dir = server.stop().await;
    let server = Server::start_in(dir, |_| ()).await;
    let refused = server.admin().get("/audit-logs?action=request.refused").await;
    let refused = refused.data().as_array().unwrap();
    let count: u64 = refused.iter().map(|event| event["count"].as_u64().unwrap()).sum();
    assert_eq!((count, &refused[0]["code"]), (4, &json!("UNAVAILABLE")), "{refused:?}");
}

#[test]
fn no_command_waits_for_a_lock_of_another_process_for_longer_than_documented() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let mut server = Binary::serve(dir.path());
    server.terminate();
    let other = Connection::open(dir.path().join("tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let run = |arguments: &[&str]| {
        let began = Instant::now();
        let output = Binary::run(&[arguments, &["--data", data]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("another process holds the lock"), "{arguments:?}: {stderr}");
        assert_within_bounds(&arguments.join(" "), began);
    };
    thread::scope(|scope| {
        scope.spawn(|| run(&["admin-key", "create", "--name", "n"]));
        scope.spawn(|| run(&["admin-key", "list"]));
        scope.spawn(|| run(&["clock", "accept"]));
    });
}
