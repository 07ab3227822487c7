//! Invariant 12: cost is bounded before it is paid.

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
        ("a:b", 10_000, 400),
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
