//! What a client can repeat cheaply is one event for each key or address, code and minute.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::service::housekeeping;

use super::events;
use crate::invariants::{behind_a_proxy, call_from, trust_us};
use crate::support::{ADMIN_KEY, Client, Server};

const MINUTE: Duration = Duration::from_secs(60);

async fn get(client: &Client, from: &str, path: &str) -> u16 {
    let from: IpAddr = from.parse().unwrap();
    call_from(from, client, Method::GET, path, None).await.status
}

/// Closes the minute and tells the events that were written for it.
async fn close_the_minute(server: &Server) -> Vec<Value> {
    let before = events(server).await.len();
    server.advance(MINUTE);
    housekeeping::write_refusals(&server.app, false).await.unwrap();
    events(server).await.split_off(before)
}

#[tokio::test]
async fn refusals_are_counted_by_who_code_and_minute() {
    let server = behind_a_proxy().await;
    server.organization("org_1").await;
    let (narrow, key) = server.key(Some("org_1"), &["workflows:read"]).await;
    let id = key["id"].as_str().unwrap();
    let (nobody, wrong) = (server.anonymous(), server.client(Some("wrong-key-0123456789-0123456789")));
    let written = events(&server).await.len();
    for _ in 0..3 {
        assert_eq!(get(&narrow, "192.0.2.1", "/users").await, 403);
        assert_eq!(get(&narrow, "192.0.2.2", "/api-keys/key_x").await, 403, "by key, wherever it is");
        assert_eq!(get(&narrow, "192.0.2.1", "/whoami").await, 200);
        assert_eq!(get(&nobody, "192.0.2.1", "/users").await, 401);
        assert_eq!(get(&wrong, "192.0.2.1", "/users").await, 401);
        assert_eq!(get(&wrong, "192.0.2.2", "/users").await, 401);
        assert_eq!(get(&wrong, "2001:db8::1", "/users").await, 401);
        assert_eq!(get(&wrong, "2001:db8::2", "/users").await, 401, "the same subscriber");
        assert_eq!(get(&nobody, "192.0.2.1", "/no-such-path").await, 404);
        let put = call_from("192.0.2.1".parse().unwrap(), &nobody, Method::PUT, "/users", None).await;
        assert_eq!(put.status, 405);
    }
    assert_eq!(events(&server).await.len(), written, "the minute is open");
    housekeeping::write_refusals(&server.app, false).await.unwrap();
    assert_eq!(events(&server).await.len(), written, "and stays open");
    let found: BTreeMap<_, _> = close_the_minute(&server)
        .await
        .into_iter()
        .map(|event| {
            let who = event["actor"]["id"].as_str().or(event["context"]["ip"].as_str()).unwrap().to_owned();
            let what = (event["code"].as_str().unwrap_or("-").to_owned(), who);
            (what, (event["count"].as_u64().unwrap(), event["outcome"].as_str().unwrap().to_owned()))
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
    let expected = expected
        .map(|(code, who, count, outcome)| ((code.to_owned(), who.to_owned()), (count, outcome.to_owned())));
    assert_eq!(found, BTreeMap::from(expected));
    // The organization sees what its key was refused, and not what others were.
    let (reader, _) = server.key(Some("org_1"), &["admin:audit"]).await;
    let own = reader.get("/audit-logs?outcome=denied").await;
    let [own] = own.data().as_array().unwrap().as_slice() else { panic!("{own:?}") };
    assert_eq!(
        (&own["code"], &own["count"], &own["actor"]["id"]),
        (&json!("INSUFFICIENT_SCOPE"), &json!(6), &json!(id))
    );
}

#[tokio::test]
async fn each_minute_has_its_own_event_and_a_stop_writes_the_last() {
    let server = Server::start().await;
    let stranger = server.anonymous();
    let mut counts = Vec::new();
    for minute in 1..=3 {
        for _ in 0..minute {
            assert_eq!(stranger.get("/users").await.status, 401);
        }
        let new = close_the_minute(&server).await;
        assert_eq!(new.len(), 1, "{new:?}");
        counts.push(new[0]["count"].as_u64().unwrap());
    }
    assert_eq!(counts, [1, 2, 3]);
    assert_eq!(stranger.get("/users").await.status, 401);
    let dir = server.stop().await;
    let server = Server::with(|config| config.database.dir = dir.path().join("data")).await;
    let last = events(&server).await.pop().unwrap();
    assert_eq!((&last["code"], &last["count"]), (&json!("UNAUTHENTICATED"), &json!(1)));
}

#[tokio::test]
async fn calls_over_the_limit_are_folded_too() {
    let server = Server::with(|config| config.rate_limits.admin_per_minute = 10).await;
    let admin = server.client(Some(ADMIN_KEY));
    for nth in 0..25 {
        assert_eq!(admin.get("/organizations").await.status, if nth < 10 { 200 } else { 429 });
    }
    let new = close_the_minute(&server).await;
    let [event] = new.as_slice() else { panic!("{new:?}") };
    assert_eq!((&event["code"], &event["count"]), (&json!("RATE_LIMITED"), &json!(15)));
    assert_eq!(event["outcome"], "denied");
}

/// 5,000 addresses in one minute: a bounded number of rows, and one for all that didn't fit. None is
/// forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_many_addresses_leave_few_rows_and_every_call_counts() {
    const ADDRESSES: u32 = 5000;
    const TASKS: u32 = 16;
    let server = Server::with(|config| {
        trust_us(config);
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await;
    let callers: Vec<_> = (0..TASKS)
        .map(|task| {
            let nobody = server.anonymous();
            tokio::spawn(async move {
                for nth in (task..ADDRESSES).step_by(TASKS as usize) {
                    let from = IpAddr::from(std::net::Ipv4Addr::from(0xCB00_0000 + nth));
                    let answer = call_from(from, &nobody, Method::GET, "/users", None).await;
                    assert_eq!(answer.status, 401);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let new = close_the_minute(&server).await;
    assert_eq!(new.len(), 1001);
    assert_eq!(new.iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>(), u64::from(ADDRESSES));
    let overflow: Vec<_> = new.iter().filter(|event| event["context"]["ip"].is_null()).collect();
    let [overflow] = overflow.as_slice() else { panic!("{overflow:?}") };
    assert_eq!(overflow["count"], ADDRESSES - 1000);
    assert_eq!((&overflow["actor"]["type"], &overflow["code"]), (&json!("anonymous"), &Value::Null));
    assert_eq!(server.admin().get("/audit-logs/verify").await.data()["valid"], true);
}
