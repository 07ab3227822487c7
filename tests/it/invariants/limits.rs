//! Invariants 7 and 8 on the control plane: the rate limit admits exactly its number of calls, and a
//! rate-limited call costs no tokens.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call_from, trust_localhost};
use crate::support::{Answer, Client, NOW, Server};

const LIMIT: u32 = 500;
/// Time to refill one token at [`LIMIT`] per minute.
const REFILL: Duration = Duration::from_millis(120);

async fn server_limited_to(per_minute: u32) -> Server {
    Server::with(|config| {
        trust_localhost(config);
        config.rate_limits.admin_per_minute = per_minute;
    })
    .await
}

async fn whoami(client: &Client) -> Answer {
    client.get("/whoami").await
}

/// Calls until the key is rate-limited; returns the number of admitted calls.
async fn exhaust(client: &Client) -> u32 {
    let mut admitted = 0;
    loop {
        let answer = whoami(client).await;
        match (answer.status, answer.code()) {
            (200, _) => admitted += 1,
            (429, "RATE_LIMITED") => return admitted,
            _ => panic!("{answer:?}"),
        }
    }
}

/// Spends one token to read how many are left.
async fn remaining_tokens(client: &Client) -> u32 {
    whoami(client).await.header("x-ratelimit-remaining").unwrap().parse().unwrap()
}

#[tokio::test]
async fn i7_a_burst_up_to_the_limit_is_admitted_then_one_call_per_refilled_token() {
    let server = server_limited_to(LIMIT).await;
    let admin = server.admin();
    assert_eq!(exhaust(&admin).await, LIMIT);
    for _ in 0..5 {
        server.advance(REFILL - Duration::from_nanos(1));
        assert_eq!(exhaust(&admin).await, 0);
        server.advance(Duration::from_nanos(1));
        assert_eq!(exhaust(&admin).await, 1);
    }
    // A long idle time refills no more than the limit, and a paced caller is never refused.
    server.advance(Duration::from_secs(3600));
    assert_eq!(exhaust(&admin).await, LIMIT);
    for _ in 0..100 {
        server.advance(REFILL);
        assert_eq!(whoami(&admin).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_concurrent_callers_share_the_limit() {
    let server = server_limited_to(LIMIT).await;
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let admin = server.admin();
            tokio::spawn(async move {
                let mut admitted = 0;
                for _ in 0..12 {
                    admitted += u32::from(whoami(&admin).await.status == 200);
                }
                admitted
            })
        })
        .collect();
    let mut admitted = 0;
    for caller in callers {
        admitted += caller.await.unwrap();
    }
    assert_eq!(admitted, LIMIT);
}

#[tokio::test]
async fn i7_no_change_of_a_key_refills_its_bucket() {
    let server = server_limited_to(LIMIT).await;
    let (client, key) = server.key(None, &["admin:keys", "workflows:read"]).await;
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    assert_eq!(exhaust(&client).await, LIMIT);
    let admin = server.admin();
    for body in [
        json!({"name": "renamed"}),
        json!({"scopes": ["admin:keys"]}),
        json!({"expires_at": "2030-01-01T00:00:00Z"}),
        json!({"metadata": {"a": "b"}}),
        json!({"status": "disabled"}),
        json!({"status": "active"}),
    ] {
        assert_eq!(admin.patch(&path, body.clone()).await.status, 200);
        if body["status"] != "disabled" {
            assert_eq!(exhaust(&client).await, 0, "{body}");
        }
    }
    let rotated = admin.post(&format!("{path}/rotate"), json!({})).await;
    let new = server.client(rotated.data()["key"].as_str());
    assert_eq!((exhaust(&client).await, exhaust(&new).await), (0, 0), "both secrets share the key's bucket");
    server.advance(REFILL * 3);
    assert_eq!((exhaust(&client).await, exhaust(&new).await), (3, 0));
    assert_eq!(whoami(&admin).await.status, 200, "another key has its own bucket");
}

/// A call costs one token once the rate limit is checked, whatever its outcome. A call that is refused before
/// that check costs nothing.
#[tokio::test]
async fn i8_only_calls_that_reach_the_rate_limit_cost_a_token() {
    let server = server_limited_to(LIMIT).await;
    server.organization("org_1").await;
    let (client, _) = server.key(None, &["admin:orgs"]).await;
    let mut before = remaining_tokens(&client).await;
    for (cost, status, method, path, body) in [
        (1, 200, Method::GET, "/organizations/org_1", None),
        (1, 200, Method::HEAD, "/organizations/org_1", None),
        (1, 200, Method::PATCH, "/organizations/org_1", Some(json!({"name": "renamed"}))),
        (1, 403, Method::GET, "/users", None),
        (1, 403, Method::POST, "/users", Some(json!({"name": 1}))),
        (1, 400, Method::POST, "/organizations", Some(json!({"name": 1}))),
        (1, 400, Method::GET, "/organizations?limit=101", None),
        (1, 415, Method::POST, "/organizations", None),
        (1, 404, Method::GET, "/organizations/org_2", None),
        (1, 409, Method::POST, "/organizations", Some(json!({"id": "org_1", "name": "n", "email": "a@b"}))),
        (0, 404, Method::GET, "/no-such-path", None),
        (0, 405, Method::PUT, "/organizations", None),
    ] {
        let answer = client.call(method.clone(), path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let after = remaining_tokens(&client).await;
        assert_eq!(before - after, cost + 1, "{method} {path}");
        assert_eq!(answer.header("x-ratelimit-limit").is_some(), cost == 1, "{method} {path}");
        before = after;
    }
}

#[tokio::test]
async fn i8_the_address_is_checked_before_the_rate_and_the_rate_before_the_scope() {
    let server = server_limited_to(3).await;
    let body = json!({"name": "n", "scopes": ["workflows:read"], "allowed_ips": ["192.0.2.0/24"]});
    let (client, _) = server.key_with(body).await;
    let get =
        async |from: &str, path| call_from(from.parse().unwrap(), &client, Method::GET, path, None).await;
    for _ in 0..5 {
        let answer = get("198.51.100.1", "/users").await;
        assert_eq!(answer.code(), "IP_NOT_ALLOWED");
        // The caller is known, so the headers show its limit and that no token was spent.
        assert_eq!(answer.header("x-ratelimit-remaining"), Some("3"), "{answer:?}");
    }
    for remaining in ["2", "1", "0"] {
        let answer = get("192.0.2.1", "/users").await;
        assert_eq!(answer.code(), "INSUFFICIENT_SCOPE");
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining));
    }
    assert_eq!(get("192.0.2.1", "/users").await.code(), "RATE_LIMITED");
    assert_eq!(get("198.51.100.1", "/users").await.code(), "IP_NOT_ALLOWED");
    assert_eq!(get("192.0.2.1", "/organizations?limit=x").await.code(), "RATE_LIMITED");
}

#[tokio::test]
async fn i8_a_rate_limited_call_costs_nothing() {
    let server = server_limited_to(LIMIT).await;
    let admin = server.admin();
    exhaust(&admin).await;
    for _ in 0..50 {
        assert_eq!(whoami(&admin).await.status, 429);
    }
    server.advance(REFILL);
    assert_eq!(whoami(&admin).await.status, 200);
}

#[tokio::test]
async fn the_headers_show_the_state_of_the_bucket() {
    let server = server_limited_to(LIMIT).await;
    let admin = server.admin();
    let headers = |answer: &Answer| {
        ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit-policy", "ratelimit"]
            .map(|name| answer.header(name).unwrap_or_default().to_owned())
    };
    let policy = "\"admin\";q=500;w=60";
    let now = NOW / 1000;
    let answer = whoami(&admin).await;
    let expected = ["500", "499", &(now + 1).to_string(), policy, "\"admin\";r=499;t=1"];
    assert_eq!(headers(&answer), expected);
    let rate_limit = &answer.data()["rate_limit"];
    assert_eq!(*rate_limit, json!({"limit": 500, "remaining": 499, "reset": now + 1}));
    assert_eq!(answer.header("retry-after"), None);
    exhaust(&admin).await;
    let refused = whoami(&admin).await;
    assert_eq!(headers(&refused), ["500", "0", &(now + 60).to_string(), policy, "\"admin\";r=0;t=1"]);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    server.advance(Duration::from_secs(60));
    let refilled = ["500", "499", &(now + 61).to_string(), policy, "\"admin\";r=499;t=1"];
    assert_eq!(headers(&whoami(&admin).await), refilled);
    for name in ["x-ratelimit-limit", "ratelimit", "ratelimit-policy"] {
        assert_eq!(whoami(&server.anonymous()).await.header(name), None);
    }
}

/// `Retry-After` and `t` are whole seconds, rounded up: never too early, and less than one second too late.
#[tokio::test]
async fn i7_a_caller_that_waits_for_retry_after_is_admitted() {
    for per_minute in [1, 2, 7, 59, 61] {
        let server = server_limited_to(per_minute).await;
        let admin = server.admin();
        for offset_ms in [0, 1, 333, 999] {
            server.advance(Duration::from_secs(60));
            assert_eq!(exhaust(&admin).await, per_minute);
            server.advance(Duration::from_millis(offset_ms));
            let answer = whoami(&admin).await;
            if answer.status == 200 {
                assert!(Duration::from_millis(offset_ms) >= Duration::from_secs(60) / per_minute);
                continue;
            }
            let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            let next = answer.header("ratelimit").unwrap().rsplit_once("t=").unwrap().1.to_owned();
            assert_eq!(next, retry_after.to_string());
            let needed = Duration::from_secs(60) / per_minute - Duration::from_millis(offset_ms);
            let retry_after = Duration::from_secs(retry_after);
            let max = needed + Duration::from_secs(1);
            assert!(
                retry_after >= needed && retry_after < max,
                "{per_minute} {offset_ms}: {retry_after:?} for {needed:?}"
            );
            server.advance(retry_after);
            assert_eq!(whoami(&admin).await.status, 200, "{per_minute} {offset_ms}");
        }
    }
}

#[tokio::test]
async fn a_limit_of_zero_disables_it() {
    let server = server_limited_to(0).await;
    let admin = server.admin();
    for _ in 0..550 {
        let answer = whoami(&admin).await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
        assert_eq!(answer.data()["rate_limit"], Value::Null);
    }
}
