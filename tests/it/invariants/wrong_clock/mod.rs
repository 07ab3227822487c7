//! A clock that is wrong: it deletes nothing, no count is lost, and nothing that has ended becomes valid again.

mod expiry;
mod settled;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;
use tollhouse::service::{clock, housekeeping, retention, usage};

use crate::support::{Answer, Client, NOW, Server};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// 2038-01-19T03:14:07Z.
const YEAR_2038: i64 = 2_147_483_647_000;

/// The tables from which data is deleted because of its age.
const PRUNED_TABLES: [&str; 8] = [
    "audit_events",
    "idempotency",
    "quotas",
    "usage_daily",
    "usage_hourly",
    "usage_units_daily",
    "usage_units_hourly",
    "verification_log",
];

fn connect(server: &Server) -> Connection {
    Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap()
}

/// The number of rows of each pruned table.
fn rows(server: &Server) -> BTreeMap<&'static str, i64> {
    let conn = connect(server);
    let count =
        |table| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    PRUNED_TABLES.iter().map(|table| (*table, count(table))).collect()
}

/// Fails if a table has fewer rows than before.
#[track_caller]
fn assert_nothing_is_gone(before: &BTreeMap<&'static str, i64>, after: &BTreeMap<&'static str, i64>) {
    assert!(before.values().all(|count| *count > 0), "a table is empty: {before:?}");
    for (table, count) in before {
        assert!(after[table] >= *count, "{table}: {before:?} {after:?}");
    }
}

/// The work of a second of the background jobs.
async fn tick(server: &Server) {
    clock::check(&server.app).await.unwrap();
    usage::flush(&server.app).await.unwrap();
    retention::prune(&server.app).await.unwrap();
    housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
}

async fn code(server: &Server, secret: &str) -> String {
    code_at_cost(server, secret, json!({})).await
}

async fn code_at_cost(server: &Server, secret: &str, costs: Value) -> String {
    let admin = server.admin();
    let body = json!({"key": secret, "costs": costs});
    let request = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body);
    let answer = admin.send(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data()["code"].as_str().unwrap().to_owned()
}

/// The codes of the reasons of the readiness check.
async fn reasons(client: &Client) -> Value {
    let answer = client.get_at_root("/readyz").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let reasons = answer.data()["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason["code"].clone()).collect()
}

/// The audit events of the clock, oldest first, as action and type of actor.
async fn clock_events(client: &Client) -> Vec<(String, String)> {
    let mut events = Vec::new();
    for action in ["clock.jumped", "clock.settled", "clock.accept"] {
        let listed = client.get(&format!("/audit-logs?action={action}&limit=100")).await;
        events.extend(listed.data().as_array().unwrap().clone());
    }
    events.sort_by_key(|event| event["seq"].as_i64());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.iter().map(|event| (text(&event["action"]), text(&event["actor"]["type"]))).collect()
}

fn events(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(action, actor)| ((*action).to_owned(), (*actor).to_owned())).collect()
}

/// A server with data of each kind that is deleted because of its age, and the secrets of two keys: one with
/// a quota of 3 units per hour, of which 2 are spent, and one that expires in an hour.
async fn server_with_data() -> (Server, String, String) {
    let server = Server::start().await;
    let configuration = json!({"retention": {"audit_days": 30}, "meters": ["requests", "tokens"]});
    assert_eq!(server.configure(configuration).await.status, 200);
    server.organization("org_1").await;
    let key = json!({"organization_id": "org_1", "name": "k", "scopes": ["workflows:read"]});
    let with = |more: Value| {
        let mut body = key.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let quota = with(json!({"limits": [{"limit": 3, "period": "hour"}]}));
    let quota = server.key_with(quota).await.0.key.unwrap();
    let expires_at = Timestamp::from_millis(NOW) + HOUR;
    let expiring = server.key_with(with(json!({"expires_at": expires_at.to_string()}))).await.0.key.unwrap();
    assert_eq!(idempotent_post(&server).await.status, 201);
    assert_eq!(code_at_cost(&server, &expiring, json!({"tokens": 5})).await, "VALID");
    assert_eq!(code(&server, "toll_unknown").await, "NOT_FOUND");
    for _ in 0..2 {
        assert_eq!(code(&server, &quota).await, "VALID");
    }
    tick(&server).await;
    clock::store_settled_time(&server.app).await.unwrap();
    (server, quota, expiring)
}

/// `last_used_at` of the key with this secret.
async fn last_used(server: &Server, secret: &str) -> String {
    housekeeping::write_last_used(&server.app).await.unwrap();
    let id = server.credential(secret).await.key.id.clone();
    let key = server.admin().get(&format!("/api-keys/{id}")).await.data().clone();
    key["last_used_at"].as_str().unwrap_or_default().to_owned()
}

async fn idempotent_post(server: &Server) -> Answer {
    let admin = server.admin();
    let body = json!({"name": "u", "email": "u@example.com"});
    admin.send(admin.request(Method::POST, "/users").header("idempotency-key", "1").json(&body)).await
}

/// Moves the stored time of a stopped server, as if the clock of the next start were wrong.
pub(crate) fn move_stored_time(dir: &Path, days: i64) {
    let conn = Connection::open(dir.join("tollhouse.db")).unwrap();
    let sql = "UPDATE meta SET value = CAST(value AS INTEGER) + ?1 WHERE name = 'settled_time'";
    assert_eq!(conn.execute(sql, [days * 86_400_000]).unwrap(), 1);
}

/// The scenario: one start in 2038 for three seconds, then at the right time.
#[tokio::test]
async fn i14_three_seconds_in_2038_delete_nothing_and_the_quota_is_usable_afterwards() {
    let (server, quota, expiring) = server_with_data().await;
    let report =
        server.admin().get("/analytics/usage?period=90d&interval=day").await.data()["totals"].clone();
    let before = rows(&server);

    let server = Server::start_at(server.stop().await, YEAR_2038, |_| ()).await;
    for _ in 0..3 {
        tick(&server).await;
        server.advance(SECOND);
    }
    assert_eq!(reasons(&server.admin()).await, json!(["CLOCK_UNSETTLED"]));
    assert_nothing_is_gone(&before, &rows(&server));
    // A new period of the quota, and every key with an expiry has expired.
    for expected in ["VALID", "VALID", "VALID", "QUOTA_EXCEEDED"] {
        assert_eq!(code(&server, &quota).await, expected);
    }
    assert_eq!(code(&server, &expiring).await, "EXPIRED");
    tick(&server).await;
    assert!(last_used(&server, &quota).await.starts_with("2038-"));

    let server = Server::start_at(server.stop().await, NOW + 10_000, |_| ()).await;
    tick(&server).await;
    assert_eq!(reasons(&server.admin()).await, json!([]));
    assert_nothing_is_gone(&before, &rows(&server));
    let after = server.admin().get("/analytics/usage?period=90d&interval=day").await.data()["totals"].clone();
    assert_eq!(after, report, "the usage of 2026 is what it was");
    // The period of 2026 goes on with the units that it had.
    for expected in ["VALID", "QUOTA_EXCEEDED"] {
        assert_eq!(code(&server, &quota).await, expected);
    }
    assert_eq!(code(&server, &expiring).await, "VALID");
    tick(&server).await;
    assert_eq!(clock_events(&server.admin()).await, events(&[("clock.jumped", "system")]));
    // A key that was used in 2038 is not last used there.
    assert!(last_used(&server, &quota).await.starts_with("2026-"));
    // The counts of 2038 are deleted, because no clock is settled there.
    let counts = "SELECT count(*) FROM quotas WHERE started_at > 2000000000000";
    assert_eq!(connect(&server).query_row(counts, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[tokio::test]
async fn i14_a_jump_while_the_server_runs_deletes_nothing() {
    let (server, quota, expiring) = server_with_data().await;
    let before = rows(&server);
    for (jump, expiring_code) in [(YEAR_2038, "EXPIRED"), (NOW - 86_400_000, "VALID"), (1_000, "VALID")] {
        server.clock.set(Timestamp::from_millis(jump));
        // No background job has noticed the jump yet.
        retention::prune(&server.app).await.unwrap();
        tick(&server).await;
        assert_nothing_is_gone(&before, &rows(&server));
        assert_eq!(reasons(&server.admin()).await, json!(["CLOCK_UNSETTLED"]));
        assert_eq!(code(&server, &expiring).await, expiring_code);
        let replayed = idempotent_post(&server).await;
        assert_eq!((replayed.status, replayed.header("idempotent-replayed")), (201, Some("true")));
        server.clock.set(Timestamp::from_millis(NOW));
        tick(&server).await;
        assert_eq!(reasons(&server.admin()).await, json!([]));
        assert_nothing_is_gone(&before, &rows(&server));
    }
    for expected in ["VALID", "QUOTA_EXCEEDED"] {
        assert_eq!(code(&server, &quota).await, expected);
    }
    let jumped = ("clock.jumped", "system");
    let settled = ("clock.settled", "system");
    let expected = events(&[jumped, settled, jumped, settled, jumped, settled]);
    assert_eq!(clock_events(&server.admin()).await, expected);
}

/// What was counted while the clock was far behind is not older than the retention when the clock is right again.
#[tokio::test]
async fn i14_what_is_counted_while_the_clock_is_behind_is_kept() {
    let (server, quota, _) = server_with_data().await;
    let totals = async || {
        tick(&server).await;
        let report = server.admin().get("/analytics/usage?period=90d&interval=day").await;
        let denials = server.admin().get("/analytics/logs?limit=100").await.data().as_array().unwrap().len();
        (report.data()["totals"]["requests"].as_u64().unwrap(), denials)
    };
    let (requests, denials) = totals().await;
    server.clock.set(Timestamp::from_millis(NOW - 100 * 86_400_000));
    assert_eq!(code(&server, &quota).await, "VALID");
    assert_eq!(code(&server, &quota).await, "QUOTA_EXCEEDED");
    let admin = server.admin();
    let post = |body: Value| {
        admin.send(admin.request(Method::POST, "/users").header("idempotency-key", "back").json(&body))
    };
    let body = json!({"name": "b", "email": "b@example.com"});
    assert_eq!(post(body.clone()).await.status, 201);
    usage::flush(&server.app).await.unwrap();
    server.clock.set(Timestamp::from_millis(NOW));
    assert_eq!(totals().await, (requests + 2, denials + 1));
    assert_eq!(post(body).await.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn i14_records_from_the_future_stop_no_retention() {
    let (server, quota, _) = server_with_data().await;
    server.clock.set(Timestamp::from_millis(YEAR_2038));
    tick(&server).await;
    assert_eq!(code(&server, "toll_unknown").await, "NOT_FOUND");
    let admin = server.admin();
    let body = json!({"name": "v", "email": "v@example.com"});
    let post = admin.request(Method::POST, "/users").header("idempotency-key", "2").json(&body);
    assert_eq!(admin.send(post).await.status, 201);
    assert_eq!(code(&server, &quota).await, "VALID");
    tick(&server).await;
    server.clock.set(Timestamp::from_millis(NOW) + MINUTE);
    tick(&server).await;
    // Later records of each kind at the right time.
    assert_eq!(code(&server, "toll_unknown").await, "NOT_FOUND");
    let body = json!({"name": "w", "email": "w@example.com"});
    let post = admin.request(Method::POST, "/users").header("idempotency-key", "3").json(&body);
    assert_eq!(admin.send(post).await.status, 201);
    tick(&server).await;
    let conn = connect(&server);
    // Responses state the settled time; this one is of a server whose clock was settled in 2038.
    let sql = "UPDATE idempotency SET created_at = ?1 WHERE seq = (SELECT max(seq) FROM idempotency) - 1";
    assert_eq!(conn.execute(sql, [YEAR_2038]).unwrap(), 1);
    let from_future = |sql: &str| {
        let sql = format!("SELECT count(*) FROM {sql} > 2000000000000");
        conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let future =
        ["audit_events WHERE occurred_at", "idempotency WHERE created_at", "verification_log WHERE minute"];
    for table in future {
        assert!(from_future(table) > 0, "{table}");
    }
    // Records younger than the retention stay, and with them those from the future.
    server.advance(29 * DAY);
    tick(&server).await;
    assert!(from_future(future[0]) > 0 && from_future(future[2]) > 0);
    server.advance(2 * DAY);
    tick(&server).await;
    for table in future {
        assert_eq!(from_future(table), 0, "{table}");
    }
    let verified = admin.get("/audit-logs/verify").await.data().clone();
    assert!(verified["valid"] == true && verified["first_seq"].as_i64() > Some(8), "{verified}");
}

/// An event from the future that nothing has followed yet is not deleted.
#[tokio::test]
async fn i14_the_latest_event_stays_whatever_its_time() {
    let (server, ..) = server_with_data().await;
    server.clock.set(Timestamp::from_millis(YEAR_2038));
    tick(&server).await;
    let last = rows(&server)["audit_events"];
    server.advance(40 * DAY);
    server.clock.set(Timestamp::from_millis(NOW) + 40 * DAY);
    retention::prune(&server.app).await.unwrap();
    let sql = "SELECT count(*) FROM audit_events WHERE seq = ?1";
    assert_eq!(connect(&server).query_row(sql, [last], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test]
async fn i14_refusals_that_are_combined_are_written_after_the_clock_went_back() {
    let server = Server::start().await;
    let (client, _) = server.key(None, &["workflows:read"]).await;
    let refused = async || {
        tick(&server).await;
        let listed = server.admin().get("/audit-logs?action=request.refused").await.data().clone();
        listed.as_array().unwrap().iter().map(|event| event["count"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        assert_eq!(client.get("/users").await.status, 403);
    }
    assert_eq!(refused().await, [0_i64; 0], "the minute is not over");
    server.clock.set(Timestamp::from_millis(NOW - 86_400_000));
    assert_eq!(refused().await, [3]);
    assert_eq!(client.get("/users").await.status, 403);
    assert_eq!(refused().await, [3]);
    server.advance(MINUTE);
    assert_eq!(refused().await, [1, 3]);
}
