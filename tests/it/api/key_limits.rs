//! `rate_limit` and `quota` of a key: valid values, who can set them, and their audit events.

use reqwest::Method;
use serde_json::{Value, json};

use super::conventions::send_raw;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::Server;

/// The largest quota that the API accepts.
const MAX_QUOTA: u64 = (1 << 53) - 1;

fn sample_rate_limit() -> Value {
    json!({"limit": 10, "window_seconds": 1})
}

fn sample_quota() -> Value {
    json!({"limit": 1000, "period": "month"})
}

#[tokio::test]
async fn a_platform_key_sets_replaces_and_clears_limits() {
    let server = Server::start().await;
    let admin = server.admin();
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    let mut rate_limit = Value::Null;
    let mut quota = Value::Null;
    for patch in [
        json!({"rate_limit": sample_rate_limit()}),
        json!({"quota": sample_quota()}),
        json!({"name": "m"}),
        json!({"rate_limit": {"limit": 1, "window_seconds": 86_400}, "quota": {"limit": 1, "period": "hour"}}),
        json!({"rate_limit": {"limit": 1_000_000_000, "window_seconds": 1}}),
        json!({"quota": {"limit": MAX_QUOTA, "period": "day"}}),
        json!({"rate_limit": null}),
        json!({"rate_limit": null, "quota": null}),
    ] {
        let patched = |field: &str, before: &Value| patch.get(field).unwrap_or(before).clone();
        rate_limit = patched("rate_limit", &rate_limit);
        quota = patched("quota", &quota);
        let changed = expect_ok(admin.patch("/api-keys/key_1", patch.clone()).await, 200);
        assert_eq!((&changed["rate_limit"], &changed["quota"]), (&rate_limit, &quota), "{patch}");
        assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), changed, "{patch}");
    }
}

#[tokio::test]
async fn errors_inside_limits_are_reported_with_pointers() {
    let server = Server::start().await;
    let admin = server.admin();
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    for (field, value, details) in [
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
            json!({"limit": MAX_QUOTA + 1, "period": 1}),
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
        let details: Vec<_> =
            details.iter().map(|(pointer, code)| (format!("/{field}{pointer}"), *code)).collect();
        let details: Vec<_> = details.iter().map(|(pointer, code)| (pointer.as_str(), *code)).collect();
        let body = json!({"name": "n", "scopes": [], field: value});
        expect_invalid(&admin.post("/api-keys", body).await, &details);
        expect_invalid(&admin.patch("/api-keys/key_1", json!({ field: value })).await, &details);
    }
    let duplicate = r#"{"quota": {"limit": 1, "limit": 2, "period": "day"}}"#.to_owned();
    let answer = send_raw(&admin, Method::PATCH, "/api-keys/key_1", "application/json", duplicate).await;
    expect_invalid(&answer, &[("/quota/limit", "DUPLICATE_FIELD")]);
    let key = expect_ok(admin.get("/api-keys/key_1").await, 200);
    assert_eq!((&key["rate_limit"], &key["quota"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn an_organizations_key_can_neither_set_nor_clear_limits() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    for (id, organization) in [("key_1", "org_1"), ("key_2", "org_2")] {
        let body = json!({"id": id, "organization_id": organization, "name": "n", "scopes": [], "quota": sample_quota()});
        server.key_with(body).await;
    }
    let before = expect_ok(admin.get("/api-keys/key_1").await, 200);
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    for (field, value) in [("rate_limit", sample_rate_limit()), ("quota", sample_quota())] {
        let body = json!({"name": "n", "scopes": [], field: value});
        expect_error(&org_client.post("/api-keys", body).await, 403, "PLATFORM_KEY_REQUIRED");
        for value in [value, Value::Null] {
            let patch = json!({ field: value });
            expect_error(
                &org_client.patch("/api-keys/key_1", patch.clone()).await,
                403,
                "PLATFORM_KEY_REQUIRED",
            );
            expect_error(&org_client.patch("/api-keys/key_2", patch).await, 404, "NOT_FOUND");
        }
        let empty = json!({"name": "n", "scopes": [], field: null});
        assert_eq!(expect_ok(org_client.post("/api-keys", empty).await, 201)[field], Value::Null);
    }
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), before);
    let renamed = expect_ok(org_client.patch("/api-keys/key_1", json!({"name": "m"})).await, 200);
    assert_eq!(renamed["quota"], sample_quota(), "a change of another field keeps the quota");
}

#[tokio::test]
async fn i2_changes_of_limits_are_audited() {
    let server = Server::start().await;
    let admin = server.admin();
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": [], "quota": sample_quota()})).await;
    expect_ok(
        admin.patch("/api-keys/key_1", json!({"rate_limit": sample_rate_limit(), "quota": null})).await,
        200,
    );
    expect_ok(admin.patch("/api-keys/key_1", json!({"rate_limit": null})).await, 200);
    let events = expect_ok(admin.get("/audit-logs?target_id=key_1&access=write&order=asc").await, 200);
    let recorded: Vec<_> = events
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
        [{"field": "quota", "from": null, "to": sample_quota()}],
        [{"field": "quota", "from": sample_quota(), "to": null}, {"field": "rate_limit", "from": null, "to": sample_rate_limit()}],
        [{"field": "rate_limit", "from": sample_rate_limit(), "to": null}],
    ]);
    assert_eq!(json!(recorded), expected);
}
