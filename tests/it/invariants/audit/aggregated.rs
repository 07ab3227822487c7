//! Calls that a client can repeat cheaply are aggregated: one event per key or address, code and minute.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::service::housekeeping;

use super::events;
use crate::invariants::{behind_a_proxy, call_from, trust_localhost};
use crate::support::{ADMIN_KEY, Client, Server};

const MINUTE: Duration = Duration::from_secs(60);

async fn get(client: &Client, from: &str, path: &str) -> u16 {
    let from: IpAddr = from.parse().unwrap();
    call_from(from, client, Method::GET, path, None).await.status
}

/// Ends the current minute and returns the events written for it.
async fn end_minute(server: &Server) -> Vec<Value> {
    let before = events(server).await.len();
    server.advance(MINUTE);
    housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
    events(server).await.split_off(before)
}

#[tokio::test]
async fn refusals_are_counted_by_caller_code_and_minute() {
    let server = behind_a_proxy().await;
    server.organization("org_1").await;
    let (narrow, key) = server.key(Some("org_1"), &["workflows:read"]).await;
    let id = key["id"].as_str().unwrap();
    let anonymous = server.anonymous();
    let wrong_key = server.client(Some("wrong-key-0123456789-0123456789"));
    let before = events(&server).await.len();
    for _ in 0..3 {
        assert_eq!(get(&narrow, "192.0.2.1", "/users").await, 403);
        assert_eq!(
            get(&narrow, "192.0.2.2", "/api-keys/key_x").await,
            403,
            "counted by key, from any address"
        );
        assert_eq!(get(&narrow, "192.0.2.1", "/whoami").await, 200);
        assert_eq!(get(&anonymous, "192.0.2.1", "/users").await, 401);
        assert_eq!(get(&wrong_key, "192.0.2.1", "/users").await, 401);
        assert_eq!(get(&wrong_key, "192.0.2.2", "/users").await, 401);
        assert_eq!(get(&wrong_key, "2001:db8::1", "/users").await, 401);
        assert_eq!(get(&wrong_key, "2001:db8::2", "/users").await, 401, "same /64 as above");
        assert_eq!(get(&anonymous, "192.0.2.1", "/no-such-path").await, 404);
        let put = call_from("192.0.2.1".parse().unwrap(), &anonymous, Method::PUT, "/users", None).await;
        assert_eq!(put.status, 405);
    }
    assert_eq!(events(&server).await.len(), before, "the minute has not ended");
    housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
    assert_eq!(events(&server).await.len(), before, "the minute has still not ended");
    let counts: BTreeMap<_, _> = end_minute(&server)
        .await
        .into_iter()
        .map(|event| {
            let caller =
                event["actor"]["id"].as_str().or(event["context"]["ip"].as_str()).unwrap().to_owned();
            let code = event["code"].as_str().unwrap_or("-").to_owned();
            let outcome = event["outcome"].as_str().unwrap().to_owned();
            ((code, caller), (event["count"].as_u64().unwrap(), outcome))
        })
        .collect();
    let expected = [
        ("INSUFFICIENT_SCOPE", id, 6, "denied"),
        ("-", id, 3, "success"),
        ("UNAUTHENTICATED", "192.0.2.1", 3, "denied"),
        ("INVALID_API_KEY", "192.0.2.1", 3, "denied"),
        ("INVALID_API_KEY", "192.0.2.2", 3, "denied"),
        ("INVALID_API_KEY", "2001:db8::1", 6, "denied"),
        ("NOT_FOUND", "192.0.2.1", 3, "failed"),
        ("METHOD_NOT_ALLOWED", "192.0.2.1", 3, "failed"),
    ];
    let expected = expected.map(|(code, caller, count, outcome)| {
        ((code.to_owned(), caller.to_owned()), (count, outcome.to_owned()))
    });
    assert_eq!(counts, BTreeMap::from(expected));
    // The organization sees the refusals of its own key and no others.
    let (reader, _) = server.key(Some("org_1"), &["admin:audit"]).await;
    let listed = reader.get("/audit-logs?outcome=denied").await;
    let [event] = listed.data().as_array().unwrap().as_slice() else { panic!("{listed:?}") };
    assert_eq!(
        (&event["code"], &event["count"], &event["actor"]["id"]),
        (&json!("INSUFFICIENT_SCOPE"), &json!(6), &json!(id))
    );
}

#[tokio::test]
async fn each_minute_has_its_own_event_and_shutdown_writes_the_last() {
    let server = Server::start().await;
    let anonymous = server.anonymous();
    let mut counts = Vec::new();
    for minute in 1..=3 {
        for _ in 0..minute {
            assert_eq!(anonymous.get("/users").await.status, 401);
        }
        let new = end_minute(&server).await;
        assert_eq!(new.len(), 1, "{new:?}");
        counts.push(new[0]["count"].as_u64().unwrap());
    }
    assert_eq!(counts, [1, 2, 3]);
    assert_eq!(anonymous.get("/users").await.status, 401);
    let dir = server.stop().await;
    let server = Server::with(|config| config.database.dir = dir.path().join("data")).await;
    let last = events(&server).await.pop().unwrap();
    assert_eq!((&last["code"], &last["count"]), (&json!("UNAUTHENTICATED"), &json!(1)));
}

#[tokio::test]
async fn rate_limited_calls_are_aggregated_too() {
    let server = Server::with(|config| config.rate_limits.admin_per_minute = 10).await;
    let admin = server.client(Some(ADMIN_KEY));
    for index in 0..25 {
        assert_eq!(admin.get("/organizations").await.status, if index < 10 { 200 } else { 429 });
    }
    let new = end_minute(&server).await;
    let [event] = new.as_slice() else { panic!("{new:?}") };
    assert_eq!((&event["code"], &event["count"]), (&json!("RATE_LIMITED"), &json!(15)));
    assert_eq!(event["outcome"], "denied");
}

/// 5,000 addresses fail in one minute: the number of rows is bounded, one row counts all calls that didn't
/// fit, and the counts add up to the number of calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_many_addresses_write_few_rows_and_every_call_is_counted() {
    const ADDRESSES: u32 = 5000;
    const TASKS: u32 = 16;
    let server = Server::with(|config| {
        trust_localhost(config);
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await;
    let callers: Vec<_> = (0..TASKS)
        .map(|task| {
            let client = server.anonymous();
            tokio::spawn(async move {
                for index in (task..ADDRESSES).step_by(TASKS as usize) {
                    let from = IpAddr::from(std::net::Ipv4Addr::from(0xCB00_0000 + index));
                    let answer = call_from(from, &client, Method::GET, "/users", None).await;
                    assert_eq!(answer.status, 401);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let new = end_minute(&server).await;
    assert_eq!(new.len(), 1001);
    assert_eq!(new.iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>(), u64::from(ADDRESSES));
    let overflow: Vec<_> = new.iter().filter(|event| event["context"]["ip"].is_null()).collect();
    let [overflow] = overflow.as_slice() else { panic!("{overflow:?}") };
    assert_eq!(overflow["count"], ADDRESSES - 1000);
    assert_eq!((&overflow["actor"]["type"], &overflow["code"]), (&json!("anonymous"), &Value::Null));
    assert_eq!(server.admin().get("/audit-logs/verify").await.data()["valid"], true);
}
