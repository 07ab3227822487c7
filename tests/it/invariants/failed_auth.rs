//! Failed authentication is rate-limited per address, and only failures count.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{call_from, trust_localhost};
use crate::support::{Answer, Client, Server};

const LIMIT: usize = 30;

async fn server() -> Server {
    Server::with(|config| {
        trust_localhost(config);
        config.rate_limits.failed_auth_per_minute = u32::try_from(LIMIT).unwrap();
    })
    .await
}

async fn get_users(client: &Client, from: &str) -> Answer {
    let from: IpAddr = from.parse().unwrap();
    call_from(from, client, Method::GET, "/users", None).await
}

#[tokio::test]
async fn failures_above_the_limit_are_429_and_a_valid_key_always_passes() {
    let server = server().await;
    let unknown_key = server.client(Some("a-key-that-nobody-made-0123456789"));
    for _ in 0..LIMIT {
        let answer = get_users(&unknown_key, "192.0.2.1").await;
        assert_eq!((answer.status, answer.code()), (401, "INVALID_API_KEY"));
    }
    for _ in 0..3 {
        let answer = get_users(&unknown_key, "192.0.2.1").await;
        assert_eq!((answer.status, answer.code()), (429, "RATE_LIMITED"));
        assert_eq!(answer.header("retry-after"), Some("2"));
        let valid = get_users(&server.admin(), "192.0.2.1").await;
        assert_eq!(valid.status, 200, "the limit never refuses a valid key: {valid:?}");
    }
    assert_eq!(get_users(&unknown_key, "192.0.2.2").await.status, 401, "another address has its own limit");
    // Refused calls cost no tokens; after `Retry-After`, one more failure is allowed.
    server.advance(Duration::from_secs(2));
    assert_eq!(get_users(&unknown_key, "192.0.2.1").await.status, 401);
    assert_eq!(get_users(&unknown_key, "192.0.2.1").await.status, 429);
}

#[tokio::test]
async fn every_kind_of_failure_counts_and_no_other_refusal_does() {
    let server = server().await;
    server.organization("org_1").await;
    let (revoked, key) = server.key(None, &["admin:keys"]).await;
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    assert_eq!(server.admin().delete(&path).await.status, 200);
    let (disabled, key) = server.key(None, &["admin:keys"]).await;
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    assert_eq!(server.admin().patch(&path, json!({"status": "disabled"})).await.status, 200);
    let (suspended, _) = server.key(Some("org_1"), &["admin:keys"]).await;
    let status = json!({"status": "suspended"});
    assert_eq!(server.admin().patch("/organizations/org_1", status).await.status, 200);
    let wrong_checksum = server.client(Some("toll_00000000000000000000000000000000000000"));
    let (narrow, _) = server.key(None, &["workflows:read"]).await;
    let kinds = [&server.anonymous(), &wrong_checksum, &revoked, &disabled, &suspended];
    for _ in 0..LIMIT / kinds.len() {
        for client in kinds {
            // These refusals are not authentication failures and don't count.
            assert_eq!(get_users(&narrow, "192.0.2.1").await.status, 403);
            let unknown =
                call_from("192.0.2.1".parse().unwrap(), client, Method::GET, "/unknown", None).await;
            assert_eq!(unknown.status, 404);
            assert_eq!(get_users(client, "192.0.2.1").await.status, 401);
        }
    }
    for client in kinds {
        assert_eq!(get_users(client, "192.0.2.1").await.status, 429);
    }
}

#[tokio::test]
async fn an_ipv6_subscriber_has_one_bucket() {
    let server = server().await;
    let anonymous = server.anonymous();
    for host in 0..LIMIT {
        assert_eq!(get_users(&anonymous, &format!("2001:db8:0:1::{host:x}")).await.status, 401);
        assert_eq!(get_users(&anonymous, ["192.0.2.9", "::ffff:192.0.2.9"][host % 2]).await.status, 401);
    }
    for (from, status) in [
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", 429),
        ("2001:db8:0:2::", 401),
        ("192.0.2.9", 429),
        ("::ffff:192.0.2.9", 429),
        ("192.0.2.10", 401),
    ] {
        assert_eq!(get_users(&anonymous, from).await.status, status, "{from}");
    }
}

/// All clients whose address is unknown share one bucket, separate from every address's bucket.
#[tokio::test]
async fn an_unknown_address_is_limited_too() {
    let server = server().await;
    let anonymous = server.anonymous();
    let unknown_address = async |header: Option<&str>| {
        let request = anonymous.request(Method::GET, "/users");
        let request = header
            .map(|hop| anonymous.request(Method::GET, "/users").header("x-forwarded-for", hop))
            .unwrap_or(request);
        anonymous.send(request).await.status
    };
    for index in 0..LIMIT {
        let hops = [None, Some("nonsense"), Some("192.0.2.1, unknown")];
        assert_eq!(unknown_address(hops[index % hops.len()]).await, 401);
    }
    assert_eq!((unknown_address(None).await, unknown_address(Some("other nonsense")).await), (429, 429));
    assert_eq!(get_users(&anonymous, "192.0.2.1").await.status, 401);
}

#[tokio::test]
async fn a_limit_of_zero_disables_it() {
    let server = Server::start().await;
    for _ in 0..100 {
        assert_eq!(server.anonymous().get("/users").await.status, 401);
    }
}
