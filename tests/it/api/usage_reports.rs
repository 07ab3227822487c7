//! `POST /v1/keys/usage`: what is counted and charged afterwards.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::verify::{patch, secret, start_server, verify_data};
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{ADMIN_KEY, Answer, Binary, Client, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// Starts a server with the meters `requests` and `tokens`, and `key_1` of `org_1` with these limits.
async fn start_with(limits: Value) -> Server {
    let server = start_server().await;
    expect_ok(server.configure(json!({"meters": ["requests", "tokens"]})).await, 200);
    patch(&server, "/organizations/org_1", json!({"limits": []})).await;
    secret(&server, json!({"id": "key_1", "limits": limits})).await;
    server
}

async fn report(client: &Client, body: Value) -> Answer {
    client.send(client.request_at_root(Method::POST, "/v1/keys/usage").json(&body)).await
}

/// Reports tokens of `key_1`.
async fn report_tokens(client: &Client, tokens: u64) {
    let body = json!({"key_id": "key_1", "costs": {"tokens": tokens}});
    assert_eq!(expect_ok(report(client, body).await, 200), json!({"counted": true}));
}

/// Whether a request of `key_1` at this cost in tokens would be admitted, when to try again if not, and what is left of
/// the first limit.
async fn ask(client: &Client, tokens: u64) -> Value {
    let data = verify_data(client, json!({"key_id": "key_1", "costs": {"tokens": tokens}})).await;
    json!([data["code"], data["retry_after_seconds"], data["limits"][0]["remaining"]])
}

/// The recorded units of a meter.
async fn usage(client: &Client, query: &str) -> u64 {
    let report = expect_ok(client.get(&format!("/analytics/usage?period=9d&{query}")).await, 200);
    report["totals"]["cost"].as_u64().unwrap()
}

#[tokio::test]
async fn i7_a_debt_is_refilled_before_anything_is_admitted() {
    let server = start_with(json!([{"meter": "tokens", "limit": 60, "window_seconds": 60}])).await;
    let admin = server.admin();
    report_tokens(&admin, 90).await;
    assert_eq!(ask(&admin, 0).await, json!(["RATE_LIMITED", 30, 0]));
    assert_eq!(ask(&admin, 10).await, json!(["RATE_LIMITED", 40, 0]));
    // Costs that don't name the meter have no debt.
    let requests = verify_data(&admin, json!({"key_id": "key_1"})).await;
    assert_eq!(requests["code"], "VALID");
    server.advance(Duration::from_millis(29_999));
    assert_eq!(ask(&admin, 0).await, json!(["RATE_LIMITED", 1, 0]));
    server.advance(Duration::from_millis(1));
    assert_eq!(ask(&admin, 0).await, json!(["VALID", null, 0]));
    assert_eq!(ask(&admin, 1).await, json!(["RATE_LIMITED", 1, 0]));
    server.advance(Duration::from_secs(60));
    assert_eq!(ask(&admin, 60).await, json!(["VALID", null, 60]));

    // The debt is at most what is refilled in a day, and usage records all.
    for _ in 0..3 {
        report_tokens(&admin, 1_000_000_000).await;
    }
    assert_eq!(ask(&admin, 0).await, json!(["RATE_LIMITED", 86_400, 0]));
    server.advance(DAY);
    assert_eq!(ask(&admin, 0).await, json!(["VALID", null, 0]));
    assert_eq!(usage(&admin, "meter=tokens&key_id=key_1").await, 3_000_000_090);
}

#[tokio::test]
async fn reports_are_charged_to_quotas_of_their_period_beyond_what_is_left() {
    let server = start_with(json!([{"meter": "tokens", "limit": 100, "period": "day"}])).await;
    let admin = server.admin();
    patch(
        &server,
        "/organizations/org_1",
        json!({"limits": [{"meter": "tokens", "limit": 500, "period": "month"}]}),
    )
    .await;
    report_tokens(&admin, 40).await;
    assert_eq!(ask(&admin, 60).await, json!(["VALID", null, 60]));
    report_tokens(&admin, 60).await;
    assert_eq!(ask(&admin, 0).await, json!(["VALID", null, 0]));
    report_tokens(&admin, 1).await;
    // The rest of the day of the tests' clock, which is at 07:08:09.
    assert_eq!(ask(&admin, 0).await, json!(["QUOTA_EXCEEDED", 60_711, 0]));
    let server = Server::start_in(server.stop().await, |_| ()).await;
    let admin = server.admin();
    assert_eq!(ask(&admin, 0).await, json!(["QUOTA_EXCEEDED", 60_711, 0]));
    server.advance(DAY);
    assert_eq!(ask(&admin, 100).await, json!(["VALID", null, 100]));
    let other = secret(&server, json!({"limits": []})).await;
    let data = verify_data(&admin, json!({"key": other, "costs": {"tokens": 0}})).await;
    assert_eq!(data["limits"][0]["remaining"], 399, "the organization's month is charged, too: {data}");
}

#[tokio::test]
async fn i9_a_report_with_an_id_counts_once_for_its_key() {
    let server = start_with(json!([{"meter": "tokens", "limit": 1000, "period": "total"}])).await;
    let admin = server.admin();
    secret(&server, json!({"id": "key_2", "limits": []})).await;
    let send = async |key: &str, costs: Value| {
        report(&admin, json!({"key_id": key, "costs": costs, "id": "chat-1"})).await
    };
    let counted = json!({"counted": true});
    let costs = json!({"tokens": 7, "requests": 2});
    assert_eq!(expect_ok(send("key_1", costs.clone()).await, 200), counted);
    assert_eq!(expect_ok(send("key_2", json!({"tokens": 9})).await, 200), counted, "another key's report");
    let reordered = json!({"requests": 2, "tokens": 7});
    assert_eq!(expect_ok(send("key_1", reordered).await, 200), json!({"counted": false}));
    for other in [json!({"tokens": 8, "requests": 2}), json!({"tokens": 7}), json!({"requests": 2})] {
        expect_error(&send("key_1", other).await, 422, "IDEMPOTENCY_MISMATCH");
    }
    assert_eq!(ask(&admin, 0).await, json!(["VALID", null, 993]));
    assert_eq!(usage(&admin, "meter=tokens&org_id=org_1").await, 16);
    assert_eq!(usage(&admin, "meter=requests&org_id=org_1").await, 2);
    // Ids are kept for 24 hours.
    for (pause, expected) in [(DAY - Duration::from_secs(1), false), (Duration::from_secs(2), true)] {
        server.advance(pause);
        tollhouse::service::retention::prune(&server.app).await.unwrap();
        assert_eq!(expect_ok(send("key_1", costs.clone()).await, 200), json!({ "counted": expected }));
    }
    assert_eq!(ask(&admin, 0).await, json!(["VALID", null, 986]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_of_concurrent_reports_with_one_id_one_counts() {
    let server = start_with(json!([
        {"meter": "tokens", "limit": 10_000, "period": "total"},
        {"meter": "tokens", "limit": 10_000, "window_seconds": 86_400},
    ]))
    .await;
    let admin = server.admin();
    let mut total = 0;
    for round in 0..10 {
        let send = |tokens: u64| {
            let admin = admin.clone();
            let body = json!({"key_id": "key_1", "costs": {"tokens": tokens}, "id": format!("chat-{round}")});
            tokio::spawn(async move { (tokens, report(&admin, body).await) })
        };
        let sent: Vec<_> = (0..32).map(|number| send([3, 50][number % 2])).collect();
        let mut counted = Vec::new();
        let mut refused = Vec::new();
        for answer in sent {
            let (tokens, answer) = answer.await.unwrap();
            match (answer.status, answer.data()["counted"].as_bool()) {
                (200, Some(true)) => counted.push(tokens),
                (200, Some(false)) => {}
                _ => {
                    expect_error(&answer, 422, "IDEMPOTENCY_MISMATCH");
                    refused.push(tokens);
                }
            }
        }
        let [tokens] = counted[..] else { panic!("{counted:?} were counted") };
        assert!(refused.len() == 16 && !refused.contains(&tokens), "{tokens}: {refused:?}");
        total += tokens;
        let data = verify_data(&admin, json!({"key_id": "key_1", "costs": {"tokens": 0}})).await;
        let left = [0, 1].map(|index| data["limits"][index]["remaining"].as_u64().unwrap());
        assert_eq!(left, [10_000 - total; 2], "the others are charged nowhere");
    }
    assert_eq!(usage(&admin, "meter=tokens&key_id=key_1").await, total);
}

#[tokio::test]
async fn i5_reports_are_taken_for_every_key_within_reach_also_one_that_has_ended() {
    let server = start_with(json!([])).await;
    let admin = server.admin();
    let (own, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let (foreign, _) = server.key(Some("org_2"), &["keys:verify"]).await;
    let (reader, _) = server.key(Some("org_1"), &["workflows:read"]).await;
    let key = secret(&server, json!({"id": "key_2", "expires_at": "2026-11-23T08:00:00Z"})).await;
    let costs = json!({"tokens": 5});
    let by_id = json!({"key_id": "key_2", "costs": costs});
    let by_secret = json!({"key": key, "costs": costs});
    for body in [&by_id, &by_secret] {
        expect_ok(report(&own, body.clone()).await, 200);
        expect_error(&report(&foreign, body.clone()).await, 404, "NOT_FOUND");
        expect_error(&report(&reader, body.clone()).await, 403, "INSUFFICIENT_SCOPE");
        expect_error(&report(&server.anonymous(), body.clone()).await, 401, "UNAUTHENTICATED");
    }
    server.advance(Duration::from_secs(3600));
    expect_ok(report(&own, by_secret).await, 200);
    patch(&server, "/organizations/org_1", json!({"status": "suspended"})).await;
    expect_ok(report(&admin, by_id.clone()).await, 200);
    patch(&server, "/organizations/org_1", json!({"status": "active"})).await;
    expect_ok(admin.delete("/api-keys/key_2").await, 200);
    expect_ok(report(&own, by_id).await, 200);
    assert_eq!(usage(&admin, "meter=tokens&key_id=key_2").await, 25);
    assert_eq!(usage(&admin, "meter=tokens&key_id=key_2&interval=hour").await, 25);
    for unknown in [json!({"key_id": "key_none"}), json!({"key": "toll_none"})] {
        let mut body = unknown;
        body["costs"] = costs.clone();
        expect_error(&report(&admin, body).await, 404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn faults_of_reports_are_reported_with_pointers() {
    let server = start_with(json!([])).await;
    let admin = server.admin();
    let costs = json!({"tokens": 1});
    for (body, details) in [
        (json!({}), &[("/costs", "REQUIRED"), ("/key_id", "INVALID_VALUE")][..]),
        (json!({"key": ADMIN_KEY, "key_id": "key_1", "costs": costs}), &[("/key_id", "INVALID_VALUE")]),
        (json!({"key_id": "key_1", "costs": {"tokens": -1}}), &[("/costs/tokens", "INVALID_VALUE")]),
        (json!({"key_id": "key_1", "costs": costs, "id": "x".repeat(101)}), &[("/id", "INVALID_LENGTH")]),
        (json!({"key_id": "key_1", "costs": costs, "dry_run": true}), &[("/dry_run", "UNKNOWN_FIELD")]),
        (json!({"key": "toll_\u{0}", "costs": costs}), &[("/key", "INVALID_CHARACTER")]),
    ] {
        expect_invalid(&report(&admin, body).await, details);
    }
    let unknown = json!({"key_id": "key_1", "costs": {"bytes": 1}});
    expect_error(&report(&admin, unknown).await, 400, "UNKNOWN_METER");
    assert_eq!(usage(&admin, "meter=tokens").await, 0);
}

/// Once half of `usage.max_report_ids` are used, an organization gets a quarter of them. Beyond that, a report with an id
/// is refused before it counts anywhere.
#[tokio::test]
async fn i10_the_number_of_report_ids_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_USAGE__MAX_REPORT_IDS", "8");
    });
    let admin = server.admin();
    let limits = json!([{"limit": 100, "period": "total"}]);
    let body = json!({"id": "key_1", "name": "n", "scopes": [], "limits": limits});
    expect_ok(admin.post("/api-keys", body).await, 201);
    let send = async |id: Value| {
        report(&admin, json!({"key_id": "key_1", "costs": {"requests": 1}, "id": id})).await
    };
    for id in ["a", "b", "c", "d"] {
        expect_ok(send(json!(id)).await, 200);
    }
    let refused = send(json!("e")).await;
    expect_error(&refused, 503, "UNAVAILABLE");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(expect_ok(send(json!("a")).await, 200), json!({"counted": false}));
    let without_id = report(&admin, json!({"key_id": "key_1", "costs": {"requests": 1}})).await;
    assert_eq!(expect_ok(without_id, 200), json!({"counted": true}));
    let data = verify_data(&admin, json!({"key_id": "key_1"})).await;
    assert_eq!(data["limits"][0]["remaining"], 95);
    assert_eq!(usage(&admin, "key_id=key_1").await, 5);
}
