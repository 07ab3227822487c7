//! Invariant 12: audit exports and chain verifications run one at a time for a key, and four in all; usage reports by user
//! one at a time for an organization, and two in all.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::Method;
use serde_json::Value;
use tollhouse::store;

use super::anonymous_event;
use super::bounded_cost::occupy_readers;
use crate::support::{Answer, Client, DEADLINE, Raw, Server};

const EXPORT: &str = "/audit-logs/export";
const VERIFY: &str = "/audit-logs/verify";

/// Adds so many events that an export of them doesn't fit into the buffers of a connection.
async fn add_events(server: &Server) {
    let now = server.clock.now();
    let adding = server.app.db.write(move |tx| {
        (0..1500u128).try_for_each(|index| {
            let event = anonymous_event(now, index, format!("test.{}", "x".repeat(30_000)));
            store::audit::append(tx, event)
        })
    });
    adding.await.unwrap();
}

/// Sends a request on a connection of its own, without reading the response.
async fn send(server: &Server, client: &Client, path: &str) -> Raw {
    let mut raw = server.raw().await;
    let key = client.key.as_deref().unwrap();
    let request = format!("GET /admin/v1{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n");
    raw.send(request.as_bytes()).await;
    raw
}

/// Starts an export and reads nothing after the response's head, so that the export can't end.
async fn start_export(server: &Server, client: &Client) -> Raw {
    let mut raw = send(server, client, EXPORT).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    raw
}

#[track_caller]
fn expect_limited(answer: &Answer, reason: &str) {
    assert_eq!((answer.status, answer.code()), (429, "RATE_LIMITED"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.json["error"]["message"].as_str().unwrap().contains(reason), "{answer:?}");
}

/// Repeats the request until it isn't refused because of the limit.
async fn until_admitted(client: &Client, path: &str) -> Answer {
    let trying = async {
        loop {
            let answer = client.get(path).await;
            if answer.status != 429 {
                return answer;
            }
        }
    };
    tokio::time::timeout(DEADLINE, trying).await.expect("still limited")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_long_reads_are_limited_for_each_key_and_in_all() {
    let server = Server::start().await;
    add_events(&server).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(server.key(None, &["admin:audit"]).await.0);
    }
    let mut running = Vec::new();
    for client in &clients[..4] {
        running.push(start_export(&server, client).await);
        for path in [EXPORT, VERIFY] {
            expect_limited(&client.get(path).await, "of this key");
        }
        // Other requests of the key aren't affected.
        assert_eq!(client.get("/audit-logs?limit=1").await.status, 200);
    }
    for path in [EXPORT, VERIFY] {
        expect_limited(&clients[4].get(path).await, "Too many");
    }
    // A client that leaves ends its export; another key can take its place, and the key itself.
    running.remove(0);
    let report = until_admitted(&clients[4], VERIFY).await;
    assert_eq!((report.status, &report.data()["valid"]), (200, &Value::Bool(true)), "{report:?}");
    assert_eq!(until_admitted(&clients[0], VERIFY).await.status, 200);
    for client in &clients[1..4] {
        expect_limited(&client.get(VERIFY).await, "of this key");
    }
    drop(running);
    for client in &clients {
        assert_eq!(until_admitted(client, VERIFY).await.status, 200);
    }
}

/// Who has read an export to its end can start the next one at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_a_long_read_that_has_ended_no_longer_counts() {
    let server = Server::start().await;
    let admin = server.admin();
    for _ in 0..20 {
        for (method, path, status) in [
            (Method::GET, EXPORT, 200),
            (Method::HEAD, EXPORT, 200),
            (Method::GET, VERIFY, 200),
            (Method::GET, "/audit-logs/export?format=xml", 400),
            (Method::GET, "/audit-logs/verify?anchor=x", 400),
        ] {
            let answer = admin.call(method, path, None).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
        }
    }
}

/// A chain verification whose client has left stops, and is recorded as failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_a_chain_verification_stops_when_its_client_leaves() {
    let server = Server::with(|config| {
        config.database.readers = 2;
        config.database.read_timeout = Duration::from_secs(3600);
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    let admin = server.admin();
    // With all readers occupied, it can't end by itself.
    let release = occupy_readers(&server).await;
    let raw = send(&server, &admin, VERIFY).await;
    let started = async {
        // This one is invalid, so that it ends at once when the other isn't running yet.
        while admin.get("/audit-logs/verify?anchor=x").await.status != 429 {}
    };
    tokio::time::timeout(DEADLINE, started).await.expect("it doesn't run");
    drop(raw);
    let recorded = async {
        loop {
            // Through the writer, because the readers are occupied.
            let events = server.app.db.write(|tx| store::audit::chain_rows(tx, 1, 1_000_000)).await.unwrap();
            let stopped = events.iter().any(|event| {
                let json = &event.link.as_ref().unwrap().0.json;
                json.contains("audit_log.verify") && json.contains("\"status\":503")
            });
            if stopped {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, recorded).await.expect("it still runs");
    drop(release);
    assert_eq!(admin.get(VERIFY).await.status, 200);
}

/// An organization's keys together have one usage report by user at a time, and all organizations two; other reads aren't
/// affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_usage_reports_by_user_are_limited_for_each_organization_and_in_all() {
    const BY_USER: &str = "/analytics/usage?group_by=user";
    let server = Server::with(|config| config.database.read_timeout = Duration::from_secs(3600)).await;
    let mut clients = Vec::new();
    for id in ["org_1", "org_2", "org_3"] {
        server.organization(id).await;
        for _ in 0..2 {
            clients.push(server.key(Some(id), &["admin:analytics"]).await.0);
        }
    }
    for client in &clients {
        assert_eq!(client.get(BY_USER).await.status, 200);
    }
    // With all readers occupied, a report that is admitted can't end.
    let release = occupy_readers(&server).await;
    let mut refused = Vec::new();
    let mut reports: FuturesUnordered<_> = clients[..2].iter().map(|client| client.get(BY_USER)).collect();
    let mut next = async |reports: &mut FuturesUnordered<_>, count: usize| {
        for _ in 0..count {
            let answer = tokio::time::timeout(DEADLINE, reports.next()).await.expect("not refused").unwrap();
            refused.push(answer);
        }
    };
    next(&mut reports, 1).await;
    // Of the other two organizations, one is admitted.
    reports.extend([clients[2].get(BY_USER), clients[4].get(BY_USER)]);
    next(&mut reports, 1).await;
    expect_limited(&refused[0], "Another usage report by user");
    expect_limited(&refused[1], "Too many usage reports by user");
    let by_key = clients.iter().map(|client| client.get("/analytics/usage?group_by=key"));
    let others: FuturesUnordered<_> = by_key.collect();
    drop(release);
    let answers: Vec<_> = reports.chain(others).collect().await;
    assert_eq!(answers.len(), 2 + 6);
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for client in &clients {
        assert_eq!(client.get(BY_USER).await.status, 200);
    }
}
