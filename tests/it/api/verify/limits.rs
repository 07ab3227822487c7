//! How `POST /v1/keys/verify` asks and charges the limits of a key and its organization.

use std::time::Duration;

use serde_json::{Value, json};

use super::{code, patch, secret, start_server, verify_data};
use crate::support::{Client, NOW, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// The `remaining` of each limit that a verification answered, the key's first.
fn remaining(data: &Value) -> Vec<u64> {
    let limits = data["limits"].as_array().unwrap().iter();
    limits.map(|limit| limit["remaining"].as_u64().unwrap()).collect()
}

/// Declares the meters `requests`, `tokens` and `bytes`.
async fn declare_meters(server: &Server) {
    let answer = server.configure(json!({"meters": ["requests", "tokens", "bytes"]})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Verifies a key with these costs by meter; returns the code and what remains of each limit.
async fn spend(client: &Client, key: &str, costs: Value) -> (String, Vec<u64>) {
    let data = verify_data(client, json!({"key": key, "costs": costs})).await;
    (data["code"].as_str().unwrap().to_owned(), remaining(&data))
}

fn outcome(code: &str, remaining: &[u64]) -> (String, Vec<u64>) {
    (code.to_owned(), remaining.to_vec())
}

#[tokio::test]
async fn i8_denials_and_dry_runs_spend_nothing_and_a_cost_is_never_spent_partially() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"limits": [{"limit": 1000, "window_seconds": 60}]})).await;
    for (fields, code, left) in [
        (json!({"cost": 0}), "VALID", 1000),
        (json!({}), "VALID", 999),
        (json!({"cost": null, "costs": null, "dry_run": null, "ip": null, "scopes": null}), "VALID", 998),
        (json!({"cost": 1000}), "RATE_LIMITED", 998),
        (json!({"scopes": ["workflows:write"], "cost": 5}), "INSUFFICIENT_SCOPE", 998),
        (json!({"cost": 998, "dry_run": true}), "VALID", 998),
        (json!({"cost": 999, "dry_run": true}), "RATE_LIMITED", 998),
        (json!({"cost": 998}), "VALID", 0),
        (json!({}), "RATE_LIMITED", 0),
        (json!({"dry_run": true}), "RATE_LIMITED", 0),
        (json!({"cost": 0}), "VALID", 0),
    ] {
        let mut request_body = json!({"key": key});
        request_body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let data = verify_data(&admin, request_body).await;
        let after = (&data["code"], &data["limits"][0]["remaining"], &data["limits"][1]["remaining"]);
        assert_eq!(after, (&json!(code), &json!(left), &json!(left)), "{fields}");
    }
    server.advance(Duration::from_secs(60));
    let data = verify_data(&admin, json!({"key": key, "cost": 1000})).await;
    let expected = json!({"on": "key", "meter": "requests", "limit": 1000, "window_seconds": 60, "remaining": 0,
        "resets_at": "2026-11-23T07:10:09.000Z"});
    assert_eq!(data["limits"][0], expected);
    server.advance(Duration::from_secs(60));
    let small = secret(&server, json!({"limits": [{"limit": 10, "window_seconds": 1}]})).await;
    let above = json!({"key": small, "cost": 11});
    assert_eq!(code(&admin, above).await, "RATE_LIMITED", "the cost exceeds the limit");
    assert_eq!(code(&admin, json!({"key": small, "cost": 10})).await, "VALID");
}

#[tokio::test]
async fn i7_a_keys_own_limit_overrides_its_plans_and_changes_keep_what_was_spent() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"id": "key_1"})).await;
    let limit_and_rest = async |cost: u32| {
        let data = verify_data(&admin, json!({"key": key, "cost": cost})).await;
        let limit = &data["limits"][0];
        assert_eq!(limit["on"], "key", "{data}");
        (limit["limit"].as_u64().unwrap(), limit["remaining"].as_u64().unwrap())
    };
    assert_eq!(limit_and_rest(4).await, (100, 96), "the limit of the plan");
    patch(&server, "/organizations/org_1", json!({"plan": "enterprise"})).await;
    assert_eq!(limit_and_rest(0).await, (1000, 996));
    let own = |limit: u32| json!({"limits": [{"limit": limit, "window_seconds": 60}]});
    for (body, expected) in [
        (own(10), (10, 6)),
        (json!({"name": "renamed"}), (10, 6)),
        (own(5), (5, 1)),
        (own(3), (3, 0)),
        (own(10), (10, 6)),
        (json!({"limits": null}), (1000, 996)),
    ] {
        patch(&server, "/api-keys/key_1", body.clone()).await;
        assert_eq!(limit_and_rest(0).await, expected, "{body}");
    }
    patch(&server, "/organizations/org_1", json!({"plan": "standard"})).await;
    assert_eq!(limit_and_rest(96).await, (100, 0));
    assert_eq!(code(&admin, json!({"key": key})).await, "RATE_LIMITED");
    let other = secret(&server, json!({})).await;
    assert_eq!(code(&admin, json!({"key": other})).await, "VALID", "each key has its own bucket");
}

#[tokio::test]
async fn null_is_the_plans_limits_an_empty_list_none_and_a_list_replaces_them() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"id": "key_1"})).await;
    let hour = json!([{"limit": 7, "window_seconds": 3600}]);
    let of_plan = json!(null);
    let none = json!([]);
    for (of_key, of_organization, expected) in [
        (&of_plan, &of_plan, &[("key", 100), ("organization", 1000)][..]),
        (&none, &of_plan, &[("organization", 1000)]),
        (&hour, &of_plan, &[("key", 7), ("organization", 1000)]),
        (&of_plan, &none, &[("key", 100)]),
        (&none, &none, &[]),
        (&hour, &none, &[("key", 7)]),
        (&of_plan, &hour, &[("key", 100), ("organization", 7)]),
        (&none, &hour, &[("organization", 7)]),
        (&hour, &hour, &[("key", 7), ("organization", 7)]),
        (&of_plan, &of_plan, &[("key", 100), ("organization", 1000)]),
    ] {
        patch(&server, "/api-keys/key_1", json!({ "limits": of_key })).await;
        patch(&server, "/organizations/org_1", json!({ "limits": of_organization })).await;
        let data = verify_data(&admin, json!({"key": key, "cost": 0})).await;
        let limits = data["limits"].as_array().unwrap().iter();
        let actual: Vec<_> =
            limits.map(|limit| (limit["on"].as_str().unwrap(), limit["limit"].as_u64().unwrap())).collect();
        assert_eq!(actual, expected, "{of_key} {of_organization}");
    }
}

#[tokio::test]
async fn i7_another_number_keeps_what_is_spent_and_another_window_or_period_begins_full() {
    let server = start_server().await;
    let admin = server.admin();
    declare_meters(&server).await;
    patch(&server, "/organizations/org_1", json!({"limits": []})).await;
    let key = secret(&server, json!({"id": "key_1"})).await;
    let window = |limit: u64, seconds: u32| json!({"limit": limit, "window_seconds": seconds});
    let period = |limit: u64, period: &str| json!({"meter": "tokens", "limit": limit, "period": period});
    for (limits, costs, expected) in [
        (json!([window(50, 60), period(500, "day")]), json!({"requests": 20, "tokens": 200}), &[30, 300][..]),
        (json!([window(90, 60), period(900, "day")]), json!({"requests": 0, "tokens": 0}), &[70, 700]),
        (json!([period(400, "day"), window(40, 60)]), json!({"requests": 0, "tokens": 0}), &[200, 20]),
        // Another window, and another period.
        (json!([window(40, 61), period(400, "week")]), json!({"requests": 1, "tokens": 1}), &[39, 399]),
        // A removed window is forgotten; the count of a quota stays until its period ends.
        (json!([window(40, 60), period(400, "day")]), json!({"requests": 0, "tokens": 0}), &[40, 200]),
        (json!([]), json!({"requests": 0, "tokens": 0}), &[]),
        (
            json!([period(400, "week"), period(400, "day")]),
            json!({"requests": 0, "tokens": 100}),
            &[299, 100],
        ),
        // The same period on another meter has units of its own.
        (json!([{"limit": 400, "period": "day"}, period(400, "day")]), json!({"tokens": 0}), &[399, 100]),
    ] {
        patch(&server, "/api-keys/key_1", json!({ "limits": limits })).await;
        assert_eq!(spend(&admin, &key, costs).await, outcome("VALID", expected), "{limits}");
    }
    // The day is over, the week is not.
    server.advance(DAY);
    patch(&server, "/api-keys/key_1", json!({"limits": [period(400, "day"), period(400, "week")]})).await;
    assert_eq!(spend(&admin, &key, json!({"tokens": 0})).await, outcome("VALID", &[400, 299]));
}

#[tokio::test]
async fn costs_on_several_meters_are_charged_together_or_not_at_all() {
    let server = start_server().await;
    let admin = server.admin();
    declare_meters(&server).await;
    let limits =
        json!([{"meter": "tokens", "limit": 1000, "window_seconds": 60}, {"limit": 3, "window_seconds": 60}]);
    patch(
        &server,
        "/organizations/org_1",
        json!({"limits": [{"meter": "tokens", "limit": 1500, "period": "month"}]}),
    )
    .await;
    let key = secret(&server, json!({ "limits": limits })).await;
    for (costs, code, left) in [
        // Only the limits on the named meters and on requests decide, but all are answered.
        (json!({}), "VALID", [1000, 2, 1500]),
        (json!({"tokens": 600}), "VALID", [400, 1, 900]),
        (json!({"tokens": 401}), "RATE_LIMITED", [400, 1, 900]),
        (json!({"tokens": 901}), "QUOTA_EXCEEDED", [400, 1, 900]),
        (json!({"tokens": 400, "requests": 2}), "RATE_LIMITED", [400, 1, 900]),
        (json!({"tokens": 400, "requests": 0}), "VALID", [0, 1, 500]),
        // No limit is on this meter.
        (json!({"bytes": 1_000_000_000, "requests": 0}), "VALID", [0, 1, 500]),
        // A cost of 0 asks only whether there is debt, of which there is none.
        (json!({"tokens": 0, "requests": 0}), "VALID", [0, 1, 500]),
        (json!({"tokens": 0}), "VALID", [0, 0, 500]),
        (json!({"tokens": 0}), "RATE_LIMITED", [0, 0, 500]),
    ] {
        assert_eq!(spend(&admin, &key, costs.clone()).await, outcome(code, &left), "{costs}");
    }
}

/// `limited_by` and `retry_after_seconds` are of the refusing limit with the longest wait.
#[tokio::test]
async fn a_refusal_names_the_limit_that_takes_longest() {
    let server = start_server().await;
    let admin = server.admin();
    declare_meters(&server).await;
    patch(&server, "/organizations/org_1", json!({"limits": [{"limit": 4, "window_seconds": 86_400}]})).await;
    let limits = json!([
        {"limit": 2, "window_seconds": 60}, {"meter": "tokens", "limit": 100, "period": "hour"},
        {"meter": "bytes", "limit": 10, "period": "total"},
    ]);
    let key = secret(&server, json!({ "limits": limits })).await;
    let other = secret(&server, json!({"limits": []})).await;
    // 2026-11-23T07:08:09Z: the hour ends in 3111 seconds.
    for (key, costs, code, limited_by, retry_after) in [
        (&key, json!({"requests": 2, "tokens": 60, "bytes": 4}), "VALID", None, None),
        (&key, json!({}), "RATE_LIMITED", Some(("key", "requests")), Some(30)),
        (&key, json!({"requests": 2}), "RATE_LIMITED", Some(("key", "requests")), Some(60)),
        (&key, json!({"requests": 0, "tokens": 41}), "QUOTA_EXCEEDED", Some(("key", "tokens")), Some(3111)),
        (&key, json!({"requests": 1, "tokens": 41}), "QUOTA_EXCEEDED", Some(("key", "tokens")), Some(3111)),
        // Two requests have spent half of the organization's four; a third that it lacks takes a quarter of a day.
        (&other, json!({"requests": 3}), "RATE_LIMITED", Some(("organization", "requests")), Some(21_600)),
        (&key, json!({"requests": 2, "tokens": 0}), "RATE_LIMITED", Some(("key", "requests")), Some(60)),
        (&other, json!({"requests": 2}), "VALID", None, None),
        (&key, json!({"tokens": 50}), "QUOTA_EXCEEDED", Some(("organization", "requests")), Some(21_600)),
        // Waiting doesn't help: a cost above the limit, and prepaid units that are spent.
        (&key, json!({"requests": 0, "tokens": 101}), "QUOTA_EXCEEDED", Some(("key", "tokens")), None),
        (&key, json!({"requests": 3}), "RATE_LIMITED", Some(("key", "requests")), None),
        (&key, json!({"bytes": 7}), "QUOTA_EXCEEDED", Some(("key", "bytes")), None),
        (&key, json!({"requests": 0, "bytes": 6}), "VALID", None, None),
        (&key, json!({"requests": 0, "bytes": 1}), "QUOTA_EXCEEDED", Some(("key", "bytes")), None),
    ] {
        for dry_run in [true, false] {
            let data = verify_data(&admin, json!({"key": key, "costs": costs, "dry_run": dry_run})).await;
            assert_eq!(data["code"], code, "{costs}: {data}");
            let named =
                data["limited_by"].as_object().map(|limit| &limit["on"]).zip(data["limited_by"].get("meter"));
            let expected = limited_by.map(|(on, meter)| (json!(on), json!(meter)));
            assert_eq!(named.map(|(on, meter)| (on.clone(), meter.clone())), expected, "{costs}: {data}");
            assert_eq!(data["retry_after_seconds"], json!(retry_after), "{costs}: {data}");
            if limited_by.is_some() {
                assert!(data["limits"].as_array().unwrap().contains(&data["limited_by"]), "{data}");
            }
        }
    }
}

/// Whoever waits for `retry_after_seconds` is admitted, not a second earlier.
#[tokio::test]
async fn i7_a_caller_that_waits_for_retry_after_seconds_is_admitted() {
    let server = start_server().await;
    let admin = server.admin();
    patch(&server, "/organizations/org_1", json!({"limits": [{"limit": 7, "window_seconds": 60}]})).await;
    let key = secret(&server, json!({"limits": [{"limit": 9, "period": "hour"}]})).await;
    assert_eq!(code(&admin, json!({"key": key, "cost": 5})).await, "VALID");
    for (cost, limited_by) in [(4, "organization"), (5, "key"), (3, "organization")] {
        let body = json!({"key": key, "cost": cost});
        let refused = verify_data(&admin, body.clone()).await;
        assert_eq!(refused["limited_by"]["on"], limited_by, "{refused}");
        let seconds = refused["retry_after_seconds"].as_u64().unwrap();
        server.advance(Duration::from_secs(seconds - 1));
        let early = verify_data(&admin, body.clone()).await;
        assert_eq!((&early["valid"], &early["retry_after_seconds"]), (&json!(false), &json!(1)), "{early}");
        server.advance(Duration::from_secs(1));
        assert_eq!(code(&admin, body).await, "VALID");
    }
}

#[tokio::test]
async fn a_total_is_never_reset_and_is_topped_up_by_a_higher_limit() {
    let mut server = start_server().await;
    let total = |limit: u64| json!({"limits": [{"limit": limit, "period": "total"}]});
    let mut fields = total(1000);
    fields["id"] = json!("key_1");
    let key = secret(&server, fields).await;
    patch(&server, "/organizations/org_1", json!({"limits": []})).await;
    let send = async |server: &Server, cost: u32| {
        let data = verify_data(&server.admin(), json!({"key": key, "cost": cost})).await;
        assert_eq!(data["limits"][0]["resets_at"], Value::Null, "{data}");
        (data["code"].as_str().unwrap().to_owned(), data["limits"][0]["remaining"].as_u64().unwrap())
    };
    assert_eq!(send(&server, 900).await, ("VALID".to_owned(), 100));
    server.advance(DAY * 400);
    assert_eq!(send(&server, 101).await, ("QUOTA_EXCEEDED".to_owned(), 100));
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    let later = NOW + 400 * 86_400_000;
    server = Server::start_at(server.stop().await, later, |_| ()).await;
    assert_eq!(send(&server, 100).await, ("VALID".to_owned(), 0));
    assert_eq!(send(&server, 1).await, ("QUOTA_EXCEEDED".to_owned(), 0));
    for (limit, cost, expected) in [
        (1500, 400, ("VALID", 100)),
        (1500, 101, ("QUOTA_EXCEEDED", 100)),
        (1200, 1, ("QUOTA_EXCEEDED", 0)),
        (2000, 600, ("VALID", 0)),
    ] {
        patch(&server, "/api-keys/key_1", total(limit)).await;
        assert_eq!(send(&server, cost).await, (expected.0.to_owned(), expected.1), "{limit}");
    }
}

/// Weeks begin on Monday, as ISO 8601 says. 2026-11-23 is one.
#[tokio::test]
async fn a_week_ends_on_sunday_at_midnight() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"limits": [{"limit": 10, "period": "week"}]})).await;
    let send = async || {
        let data = verify_data(&admin, json!({"key": key, "cost": 10})).await;
        (data["code"].clone(), data["limits"][0]["resets_at"].clone())
    };
    assert_eq!(send().await, (json!("VALID"), json!("2026-11-30T00:00:00.000Z")));
    // Until a millisecond before the next Monday.
    server.advance(DAY * 6 + Duration::from_millis(60_710_999));
    assert_eq!(send().await, (json!("QUOTA_EXCEEDED"), json!("2026-11-30T00:00:00.000Z")));
    server.advance(Duration::from_millis(1));
    assert_eq!(send().await, (json!("VALID"), json!("2026-12-07T00:00:00.000Z")));
}
