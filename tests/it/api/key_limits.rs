//! `rate_limit` and `quota` of a key: what they may be, who sets them, and what the audit log tells of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::conventions::send_raw;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::Server;

/// What the contract takes at its bounds.
const LARGEST_QUOTA: u64 = (1 << 53) - 1;

fn fast() -> Value {
    json!({"limit": 10, "window_seconds": 1})
}

fn much() -> Value {
    json!({"limit": 1000, "period": "month"})
}

#[tokio::test]
async fn a_platform_key_sets_replaces_and_clears_them() {
    let server = Server::start().await;
    let admin = server.admin();
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    let (mut rate, mut quota) = (Value::Null, Value::Null);
    for patch in [
        json!({"rate_limit": fast()}),
        json!({"quota": much()}),
        json!({"name": "m"}),
        json!({"rate_limit": {"limit": 1, "window_seconds": 86_400}, "quota": {"limit": 1, "period": "hour"}}),
        json!({"rate_limit": {"limit": 1_000_000_000, "window_seconds": 1}}),
        json!({"quota": {"limit": LARGEST_QUOTA, "period": "day"}}),
        json!({"rate_limit": null}),
        json!({"rate_limit": null, "quota": null}),
    ] {
        let given = |field: &str, before: &Value| patch.get(field).unwrap_or(before).clone();
        (rate, quota) = (given("rate_limit", &rate), given("quota", &quota));
        let changed = expect_ok(admin.patch("/api-keys/key_1", patch.clone()).await, 200);
        assert_eq!((&changed["rate_limit"], &changed["quota"]), (&rate, &quota), "{patch}");
        assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), changed, "{patch}");
    }
}

#[tokio::test]
async fn faults_inside_of_them_are_named_by_pointers() {
    let server = Server::start().await;
    let admin = server.admin();
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    for (field, value, faults) in [
        (
            "rate_limit",
            json!([]),
            &[("", "INVALID_TYPE"), ("/limit", "REQUIRED"), ("/window_seconds", "REQUIRED")][..],
        ),
        ("rate_limit", json!({"limit": 1}), &[("/window_seconds", "REQUIRED")]),
        (
            "rate_limit",
            json!({"limit": 0, "window_seconds": 0}),
            &[("/limit", "INVALID_VALUE"), ("/window_seconds", "INVALID_VALUE")],
        ),
        (
            "rate_limit",
            json!({"limit": 1_000_000_001, "window_seconds": 86_401}),
            &[("/limit", "INVALID_VALUE"), ("/window_seconds", "INVALID_VALUE")],
        ),
        (
            "rate_limit",
            json!({"limit": "1", "window_seconds": 1.5}),
            &[("/limit", "INVALID_VALUE"), ("/window_seconds", "INVALID_VALUE")],
        ),
        (
            "rate_limit",
            json!({"limit": null, "window_seconds": 1, "burst": 1}),
            &[("/limit", "INVALID_VALUE"), ("/burst", "UNKNOWN_FIELD")],
        ),
        ("quota", json!({"period": "day"}), &[("/limit", "REQUIRED")]),
        (
            "quota",
            json!({"limit": 0, "period": "week"}),
            &[("/limit", "INVALID_VALUE"), ("/period", "INVALID_VALUE")],
        ),
        (
            "quota",
            json!({"limit": LARGEST_QUOTA + 1, "period": 1}),
            &[("/limit", "INVALID_VALUE"), ("/period", "INVALID_TYPE")],
        ),
        (
            "quota",
            json!({"limit": -1, "period": "Day", "window_seconds": 1}),
            &[
                ("/limit", "INVALID_VALUE"),
                ("/period", "INVALID_VALUE"),
                ("/window_seconds", "UNKNOWN_FIELD"),
            ],
        ),
    ] {
        let faults: Vec<_> = faults.iter().map(|(at, code)| (format!("/{field}{at}"), *code)).collect();
        let faults: Vec<_> = faults.iter().map(|(at, code)| (at.as_str(), *code)).collect();
        let body = json!({"name": "n", "scopes": [], field: value});
        expect_invalid(&admin.post("/api-keys", body).await, &faults);
        expect_invalid(&admin.patch("/api-keys/key_1", json!({ field: value })).await, &faults);
    }
    let twice = r#"{"quota": {"limit": 1, "limit": 2, "period": "day"}}"#.to_owned();
    let twice = send_raw(&admin, Method::PATCH, "/api-keys/key_1", "application/json", twice);
    expect_invalid(&twice.await, &[("/quota/limit", "DUPLICATE_FIELD")]);
    let key = expect_ok(admin.get("/api-keys/key_1").await, 200);
    assert_eq!((&key["rate_limit"], &key["quota"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn an_organizations_key_can_neither_set_nor_clear_them() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    for (id, organization) in [("key_1", "org_1"), ("key_2", "org_2")] {
        let body =
            json!({"id": id, "organization_id": organization, "name": "n", "scopes": [], "quota": much()});
        server.key_with(body).await;
    }
    let before = expect_ok(admin.get("/api-keys/key_1").await, 200);
    let (own, _) = server.key(Some("org_1"), &["*"]).await;
    for (field, value) in [("rate_limit", fast()), ("quota", much())] {
        let body = json!({"name": "n", "scopes": [], field: value});
        expect_error(&own.post("/api-keys", body).await, 403, "PLATFORM_KEY_REQUIRED");
        for value in [value, Value::Null] {
            let patch = json!({ field: value });
            expect_error(&own.patch("/api-keys/key_1", patch.clone()).await, 403, "PLATFORM_KEY_REQUIRED");
            expect_error(&own.patch("/api-keys/key_2", patch).await, 404, "NOT_FOUND");
        }
        let empty = json!({"name": "n", "scopes": [], field: null});
        assert_eq!(expect_ok(own.post("/api-keys", empty).await, 201)[field], Value::Null);
    }
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), before);
    let renamed = expect_ok(own.patch("/api-keys/key_1", json!({"name": "m"})).await, 200);
    assert_eq!(renamed["quota"], much(), "a change of something else keeps it");
}

#[tokio::test]
async fn i2_their_changes_are_told() {
    let server = Server::start().await;
    let admin = server.admin();
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": [], "quota": much()})).await;
    expect_ok(admin.patch("/api-keys/key_1", json!({"rate_limit": fast(), "quota": null})).await, 200);
    expect_ok(admin.patch("/api-keys/key_1", json!({"rate_limit": null})).await, 200);
    let events = expect_ok(admin.get("/audit-logs?target_id=key_1&access=write&order=asc").await, 200);
    let told: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let changes = event["changes"].as_array().unwrap().iter();
            let limits =
                changes.filter(|change| change["field"] == "rate_limit" || change["field"] == "quota");
            limits.cloned().collect::<Vec<_>>()
        })
        .collect();
    let expected = json!([
        [{"field": "quota", "from": null, "to": much()}],
        [{"field": "quota", "from": much(), "to": null}, {"field": "rate_limit", "from": null, "to": fast()}],
        [{"field": "rate_limit", "from": fast(), "to": null}],
    ]);
    assert_eq!(json!(told), expected);
}
