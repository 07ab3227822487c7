//! Invariant 12: cost is bounded before it is paid.

use std::sync::mpsc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::config::Config;

use crate::support::{Answer, Client, Server};

const FORWARD_AUTH: &str = "/v1/forward-auth";

/// The code and the header of a response of forward-auth.
fn status(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("x-auth-status").unwrap())
}

async fn forward_auth(client: &Client, address: &str, path: &str) -> Answer {
    let request = client.request_at_root(Method::GET, &format!("{FORWARD_AUTH}{path}"));
    client.send(request.header("x-forwarded-for", address)).await
}

fn trust_loopback(config: &mut Config) {
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.rate_limits.failed_auth_per_minute = 2;
}

/// Requirements that no key can meet are refused before the key is looked at, and each refusal counts as a
/// failed attempt.
#[tokio::test]
async fn i12_requirements_that_no_key_can_meet_cost_a_failed_attempt() {
    let server = Server::with(trust_loopback).await;
    let many = |count: usize| vec!["workflows:*"; count];
    let query = |scopes: &[&str]| format!("?scope={}", scopes.join("&scope="));
    let path = |scopes: &[&str]| format!("/scope={}/client/path?a=b", scopes.join(","));
    let clients = [server.admin(), server.client(Some("nobody-made-this")), server.anonymous()];
    let mut address = 0;
    for misconfigured in [
        query(&many(101)),
        path(&many(101)),
        query(&many(2500)),
        path(&many(2500)),
        query(&["workflows:read", "no:such"]),
        query(&["no:*"]),
        path(&["no:*"]),
        path(&["%ff"]),
        format!("?scope={}", "x".repeat(60_000)),
        "?anything".to_owned(),
        format!("{}&anything", query(&many(100))),
    ] {
        for client in &clients {
            address += 1;
            let address = format!("192.0.2.{address}");
            for _ in 0..2 {
                let answer = forward_auth(client, &address, &misconfigured).await;
                assert_eq!(status(&answer), (403, "INSUFFICIENT_SCOPE"), "{misconfigured:.80}");
                assert!(answer.text.len() < 1000, "the response repeats what was sent: {}", answer.text);
            }
            let answer = forward_auth(client, &address, &misconfigured).await;
            assert_eq!(status(&answer), (429, "RATE_LIMITED"), "{misconfigured:.80}");
            // A valid key is never refused because of failed attempts.
            assert_eq!(forward_auth(&clients[0], &address, &query(&many(100))).await.status, 200);
            assert_eq!(forward_auth(&clients[0], &address, &path(&many(100))).await.status, 200);
        }
    }
    let limit_status = "?limit_status=403&scope=no:such";
    let answer = forward_auth(&clients[0], "192.0.2.1", limit_status).await;
    assert_eq!(status(&answer), (403, "RATE_LIMITED"));
}

async fn verify(client: &Client, body: Value) -> Answer {
    let request = client.request_at_root(Method::POST, "/v1/keys/verify");
    client.send(request.json(&body)).await
}

#[tokio::test]
async fn i12_a_verification_asks_for_at_most_100_scopes() {
    let server = Server::start().await;
    let (_, key) = server.key(None, &["workflows:*"]).await;
    for (scope, count, status) in [
        ("workflows:read", 100, 200),
        ("workflows:read", 101, 400),
        ("workflows:*", 100, 200),
        ("workflows:*", 101, 400),
        ("a:b", 4_000, 400),
    ] {
        let answer = verify(&server.admin(), json!({"key": key["key"], "scopes": vec![scope; count]})).await;
        assert_eq!(answer.status, status, "{count}");
        if status == 200 {
            assert_eq!(answer.data()["code"], "VALID");
        } else {
            assert_eq!(answer.details(), [("/scopes".to_owned(), "TOO_MANY".to_owned())]);
        }
    }
}

/// Occupies every reader until the returned sender is dropped.
pub(super) async fn occupy_readers(server: &Server) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Arc::new(std::sync::Mutex::new(released));
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let readers = server.app.config.database.readers;
    for _ in 0..readers {
        let app = server.app.clone();
        let released = released.clone();
        let began = began.clone();
        tokio::spawn(async move {
            let reading = app.db.read(move |_| {
                began.send(()).unwrap();
                // Fails when the sender is dropped.
                let _ = released.lock().unwrap().recv();
                Ok(())
            });
            reading.await
        });
    }
    for _ in 0..readers {
        begun.recv().await.unwrap();
    }
    release
}

/// What a verification needs from the database never waits for a long read, even if nothing is in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_verifications_do_not_wait_for_long_reads() {
    let server = Server::with(|config| {
        config.database.readers = 2;
        config.database.read_timeout = Duration::from_secs(3600);
    })
    .await;
    server.organization("org_1").await;
    let quota = json!({"limit": 1000, "period": "month"});
    let body = json!({"organization_id": "org_1", "name": "n", "scopes": ["workflows:*"], "limits": [quota]});
    let (client, key) = server.key_with(body).await;
    let admin = server.admin();
    let release = occupy_readers(&server).await;
    let ask = async |scopes: &[&str], code: &str| {
        let answering = verify(&admin, json!({"key": key["key"], "scopes": scopes}));
        let answer =
            tokio::time::timeout(Duration::from_secs(20), answering).await.expect("waits for a read");
        assert_eq!((answer.status, answer.data()["code"].as_str()), (200, Some(code)), "{answer:?}");
        let path = format!("{FORWARD_AUTH}?scope={}", scopes.join("&scope="));
        let answering = client.send(client.request_at_root(Method::GET, &path));
        let answer =
            tokio::time::timeout(Duration::from_secs(20), answering).await.expect("waits for a read");
        assert_eq!(status(&answer).1, code, "{answer:?}");
    };
    ask(&["workflows:read"], "VALID").await;
    // A new scope makes the catalogue stale, and everything after it is loaded again.
    assert_eq!(admin.post("/scopes", json!({"scope": "reports:read"})).await.status, 201);
    ask(&["reports:read"], "INSUFFICIENT_SCOPE").await;
    server.app.version_clock.publish(&[tollhouse::domain::invalidation::Invalidation::All]);
    ask(&["workflows:*", "workflows:read"], "VALID").await;
    let introspect = admin.request_at_root(Method::POST, "/v1/introspect");
    let introspect = introspect.form(&[("token", key["key"].as_str().unwrap())]);
    server.app.version_clock.publish(&[tollhouse::domain::invalidation::Invalidation::All]);
    let answering = admin.send(introspect);
    let answer = tokio::time::timeout(Duration::from_secs(20), answering).await.expect("waits for a read");
    assert_eq!(answer.json["active"], true, "{answer:?}");
    drop(release);
}
