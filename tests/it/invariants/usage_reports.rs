//! Invariants 5, 7, 8, 9 and 10 for costs that are reported afterwards: a report counts once, is charged in full, and
//! gives nothing back.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;

use crate::support::{Answer, Client, NOW, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// The rate limit of the keys, in tokens a minute.
const OF_KEY: u64 = 100;

/// The quota of `org_1`, in tokens a month.
const OF_ORGANIZATION: u64 = 1000;

/// A server with two keys of `org_1`, `key_1` and `key_2`, and `key_3` of `org_2`, which has no limits.
async fn start_server(max_report_ids: u64) -> Server {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 0;
        config.usage.max_report_ids = max_report_ids;
    })
    .await;
    let meters = server.configure(json!({"meters": ["requests", "tokens"]})).await;
    assert_eq!(meters.status, 200, "{meters:?}");
    let month = json!([{"meter": "tokens", "limit": OF_ORGANIZATION, "period": "month"}]);
    for (organization, limits) in [("org_1", month), ("org_2", json!([]))] {
        server.organization(organization).await;
        patch(&server, &format!("/organizations/{organization}"), json!({ "limits": limits })).await;
    }
    let limits = json!([{"meter": "tokens", "limit": OF_KEY, "window_seconds": 60}]);
    for (id, organization) in [("key_1", "org_1"), ("key_2", "org_1"), ("key_3", "org_2")] {
        let body =
            json!({"id": id, "organization_id": organization, "name": "n", "scopes": [], "limits": limits});
        server.key_with(body).await;
    }
    server
}

async fn patch(server: &Server, path: &str, body: Value) {
    let answer = server.admin().patch(path, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn report(client: &Client, body: &Value) -> Answer {
    client.send(client.request_at_root(Method::POST, "/v1/keys/usage").json(body)).await
}

/// Makes a report that is accepted; returns whether it was counted.
async fn counted(server: &Server, body: Value) -> bool {
    let answer = report(&server.admin(), &body).await;
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
    answer.data()["counted"].as_bool().unwrap()
}

/// The result of a verification that costs only these tokens, without charging them.
async fn ask(server: &Server, key_id: &str, tokens: u64) -> Value {
    let client = server.admin();
    let body = json!({"key_id": key_id, "costs": {"requests": 0, "tokens": tokens}});
    let answer = client.send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data().clone()
}

/// What is left of each limit of a key and its organization.
async fn remaining(server: &Server, key_id: &str) -> Vec<u64> {
    let data = ask(server, key_id, 0).await;
    let limits = data["limits"].as_array().unwrap().iter();
    limits.map(|limit| limit["remaining"].as_u64().unwrap()).collect()
}

/// The usage of a key: the number of requests, and the sum of tokens.
async fn usage(server: &Server, key_id: &str) -> (u64, u64) {
    tollhouse::service::usage::flush(&server.app).await.unwrap();
    let path = format!("/analytics/usage?key_id={key_id}&meter=tokens&period=60d");
    let answer = server.admin().get(&path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let totals = &answer.data()["totals"];
    (totals["requests"].as_u64().unwrap(), totals["cost"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_report_that_is_repeated_counts_once() {
    let mut server = start_server(1000).await;
    let body = json!({"key_id": "key_1", "costs": {"tokens": 7, "requests": 2}, "id": "a"});
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (client, body) = (server.admin(), body.clone());
            tokio::spawn(async move { report(&client, &body).await })
        })
        .collect();
    let mut times = 0;
    for caller in callers {
        let answer = caller.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        times += usize::from(answer.data()["counted"] == true);
    }
    assert_eq!(times, 1);
    assert_eq!(remaining(&server, "key_1").await, [93, 993]);

    for costs in
        [json!({"tokens": 8, "requests": 2}), json!({"tokens": 7}), json!({"requests": 2}), json!({})]
    {
        let answer = report(&server.admin(), &json!({"key_id": "key_1", "costs": costs, "id": "a"})).await;
        assert_eq!((answer.status, answer.code()), (422, "IDEMPOTENCY_MISMATCH"), "{costs}");
    }
    assert_eq!(remaining(&server, "key_1").await, [93, 993]);

    // The id belongs to the key, and another id is another report.
    assert!(counted(&server, json!({"key_id": "key_2", "costs": {"tokens": 20}, "id": "a"})).await);
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 3}, "id": "b"})).await);
    for _ in 0..2 {
        assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await, "it has no id");
    }
    assert_eq!(remaining(&server, "key_1").await, [88, 968]);
    server = Server::start_in(server.stop().await, |_| ()).await;
    assert!(!counted(&server, body.clone()).await, "a restart forgets no report");
    assert_eq!(remaining(&server, "key_1").await[1], 968);

    // Ids are kept for a day.
    server.advance(DAY);
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    assert!(!counted(&server, body.clone()).await);
    server.advance(Duration::from_millis(1));
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    assert!(counted(&server, body).await);
    assert_eq!(remaining(&server, "key_1").await, [93, 961]);
    assert_eq!(usage(&server, "key_1").await, (0, 19), "reports are no requests");
    assert_eq!(usage(&server, "key_2").await, (0, 20));
}

#[tokio::test]
async fn i8_a_report_gives_no_units_back_and_a_refused_one_charges_nothing() {
    let server = start_server(1000).await;
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 40}})).await);
    for tokens in [json!(-1), json!(-1e3), json!(0.5), json!("1"), json!(null), json!(1_000_000_001)] {
        let body = json!({"key_id": "key_1", "costs": {"requests": 1, "tokens": tokens}, "id": "a"});
        let answer = report(&server.admin(), &body).await;
        assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{tokens}: {answer:?}");
    }
    let unknown = json!({"key_id": "key_1", "costs": {"tokens": 5, "bytes": 5}, "id": "a"});
    let answer = report(&server.admin(), &unknown).await;
    assert_eq!((answer.status, answer.code()), (400, "UNKNOWN_METER"), "{answer:?}");
    for costs in [json!({"tokens": 0}), json!({})] {
        assert!(counted(&server, json!({"key_id": "key_1", "costs": costs})).await);
    }
    assert_eq!(remaining(&server, "key_1").await, [60, 960]);
    assert_eq!(usage(&server, "key_1").await, (0, 40));
    // A refused report doesn't use its id up.
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 5}, "id": "a"})).await);
    assert_eq!(remaining(&server, "key_1").await, [55, 955]);
}

#[tokio::test]
async fn i5_a_report_reaches_no_key_of_another_organization() {
    let server = start_server(1000).await;
    let secret = server.key_with(json!({"organization_id": "org_1", "name": "n", "scopes": []})).await;
    let secret = secret.0.key.unwrap();
    let (own, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let (foreign, _) = server.key(Some("org_2"), &["keys:verify"]).await;
    let (client, _) = server.key(Some("org_1"), &["workflows:read"]).await;
    let costs = json!({"tokens": 10});
    for body in [json!({"key_id": "key_1", "costs": costs}), json!({"key": secret, "costs": costs})] {
        let answer = report(&foreign, &body).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{answer:?}");
        let answer = report(&client, &body).await;
        assert_eq!((answer.status, answer.code()), (403, "INSUFFICIENT_SCOPE"), "{answer:?}");
        assert_eq!(remaining(&server, "key_1").await, [OF_KEY, OF_ORGANIZATION]);
    }
    for (body, left) in
        [(json!({"key_id": "key_1", "costs": costs}), 990), (json!({"key": secret, "costs": costs}), 980)]
    {
        assert_eq!(report(&own, &body).await.status, 200);
        assert_eq!(remaining(&server, "key_1").await[1], left);
    }
}

#[tokio::test]
async fn i7_debt_admits_nothing_until_it_is_paid_back() {
    let server = start_server(1000).await;
    let expect = async |key_id: &str, tokens: u64, code: &str, retry_after: Option<u64>| {
        let data = ask(&server, key_id, tokens).await;
        assert_eq!(
            (&data["code"], &data["retry_after_seconds"]),
            (&json!(code), &json!(retry_after)),
            "{data}"
        );
    };
    // 50 more than the bucket has, which are refilled in 30 seconds.
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 150}})).await);
    assert_eq!(remaining(&server, "key_1").await, [0, 850]);
    expect("key_1", 0, "RATE_LIMITED", Some(30)).await;
    server.advance(Duration::from_millis(29_999));
    expect("key_1", 0, "RATE_LIMITED", Some(1)).await;
    server.advance(Duration::from_millis(1));
    expect("key_1", 0, "VALID", None).await;
    expect("key_1", 10, "RATE_LIMITED", Some(6)).await;

    // At most what is refilled in a day is held against the key; usage has it all.
    assert!(counted(&server, json!({"key_id": "key_3", "costs": {"tokens": 1_000_000_000}})).await);
    expect("key_3", 0, "RATE_LIMITED", Some(86_400)).await;
    server.advance(DAY);
    expect("key_3", 0, "VALID", None).await;
    assert_eq!(usage(&server, "key_3").await, (0, 1_000_000_000));

    // The debt of the organization stops its other keys, until the month ends.
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 851}})).await);
    let month_ends_at = 1_796_083_200_000_i64; // 2026-12-01
    let seconds = u64::try_from(month_ends_at - NOW).unwrap().div_ceil(1000) - 86_430;
    expect("key_2", 0, "QUOTA_EXCEEDED", Some(seconds)).await;
    server.advance(Duration::from_secs(seconds));
    expect("key_2", 0, "VALID", None).await;
    assert_eq!(remaining(&server, "key_2").await, [OF_KEY, OF_ORGANIZATION]);

    // Prepaid units are topped up.
    let total = |limit: u64| json!({"limits": [{"meter": "tokens", "limit": limit, "period": "total"}]});
    patch(&server, "/api-keys/key_3", total(10)).await;
    assert!(counted(&server, json!({"key_id": "key_3", "costs": {"tokens": 15}})).await);
    for (limit, code) in [(10, "QUOTA_EXCEEDED"), (14, "QUOTA_EXCEEDED"), (15, "VALID")] {
        patch(&server, "/api-keys/key_3", total(limit)).await;
        expect("key_3", 0, code, None).await;
    }
}

#[tokio::test]
async fn a_report_on_a_revoked_key_counts() {
    let server = start_server(1000).await;
    patch(&server, "/api-keys/key_1", json!({"expires_at": "2026-11-23T07:09:00Z"})).await;
    server.advance(Duration::from_secs(60));
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await, "it has expired");
    patch(&server, "/api-keys/key_1", json!({"status": "disabled"})).await;
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await, "it is disabled");
    assert_eq!(server.admin().delete("/api-keys/key_1").await.status, 200);
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await, "it is revoked");
    assert_eq!(remaining(&server, "key_2").await, [OF_KEY, OF_ORGANIZATION - 3]);
    patch(&server, "/organizations/org_1", json!({"status": "suspended"})).await;
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await);
    assert_eq!(server.admin().delete("/organizations/org_1").await.status, 200);
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await);
    assert_eq!(usage(&server, "key_1").await, (0, 5));
    // Maintenance stops administrators, and no report.
    let read_only = server.configure(json!({"maintenance": {"read_only": true}})).await;
    assert_eq!(read_only.status, 200, "{read_only:?}");
    assert!(counted(&server, json!({"key_id": "key_3", "costs": {"tokens": 1}})).await);
    assert_eq!(usage(&server, "key_3").await, (0, 1));
}

#[tokio::test]
async fn i10_the_ids_of_reports_are_limited() {
    let server = start_server(2).await;
    let body = |key_id: &str, id: &str| json!({"key_id": key_id, "costs": {"tokens": 1}, "id": id});
    assert!(counted(&server, body("key_1", "a")).await);
    assert!(counted(&server, body("key_3", "a")).await);
    let answer = report(&server.admin(), &body("key_1", "b")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(!counted(&server, body("key_1", "a")).await, "it was counted before");
    assert_eq!(remaining(&server, "key_1").await, [99, 999]);
    assert!(counted(&server, json!({"key_id": "key_1", "costs": {"tokens": 1}})).await, "it has no id");
    server.advance(DAY + Duration::from_millis(1));
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    assert!(counted(&server, body("key_1", "b")).await);
    assert_eq!(usage(&server, "key_1").await, (0, 3));
}

/// An organization with many ids leaves room for those of others.
#[tokio::test]
async fn i10_an_organization_gets_a_quarter_of_the_ids() {
    let server = start_server(8).await;
    let body = |key_id: &str, id: &str| json!({"key_id": key_id, "costs": {"tokens": 1}, "id": id});
    // Alone, it gets half of them.
    for id in ["a", "b"] {
        assert!(counted(&server, body("key_1", id)).await);
        assert!(counted(&server, body("key_2", id)).await);
    }
    for key_id in ["key_1", "key_2"] {
        let answer = report(&server.admin(), &body(key_id, "c")).await;
        assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
    }
    for id in ["a", "b"] {
        assert!(counted(&server, body("key_3", id)).await);
    }
    assert_eq!(report(&server.admin(), &body("key_3", "c")).await.status, 503);
    server.advance(DAY + Duration::from_millis(1));
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    assert!(counted(&server, body("key_1", "c")).await);
    assert_eq!(usage(&server, "key_1").await, (0, 3));
}

/// While the clock is ahead, reports count with the verifications of the same time, and their ids aren't forgotten when
/// the clock is right again.
#[tokio::test]
async fn i14_a_report_counts_in_the_period_that_it_charges() {
    let server = start_server(1000).await;
    let body = json!({"key_id": "key_1", "costs": {"tokens": 5}, "id": "a"});
    let key = server.key_with(json!({"organization_id": "org_1", "name": "n", "scopes": []})).await.0.key;
    let client = server.admin();
    server.clock.set(Timestamp::from_millis(NOW) + 40 * DAY);
    assert!(counted(&server, body.clone()).await);
    let verify = json!({"key": key, "costs": {"tokens": 3}});
    let verified = client.send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&verify)).await;
    assert_eq!(verified.data()["code"], "VALID", "{verified:?}");
    assert_eq!(
        verified.data()["limits"].as_array().unwrap().last().unwrap()["remaining"],
        OF_ORGANIZATION - 8
    );
    tollhouse::service::usage::flush(&server.app).await.unwrap();
    let usage = client.get("/analytics/usage?org_id=org_1&meter=tokens&period=1h").await;
    assert_eq!(usage.data()["totals"]["cost"], 8, "{usage:?}");

    server.clock.set(Timestamp::from_millis(NOW));
    tollhouse::service::clock::check(&server.app).await.unwrap();
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    assert!(!counted(&server, body).await);
}
