//! `limits` of keys and organizations: valid lists, who can set them, and their audit events.

use reqwest::Method;
use serde_json::{Value, json};

use super::conventions::send_raw;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Answer, Client, Server};

/// The largest quota that the API accepts.
const MAX_QUOTA: u64 = (1 << 53) - 1;

/// The things that have limits, and the list and the thing's path.
const OWNERS: [(&str, &str); 2] =
    [("/api-keys", "/api-keys/key_1"), ("/organizations", "/organizations/org_1")];

fn sample_rate_limit() -> Value {
    json!({"meter": "requests", "limit": 10, "window_seconds": 1})
}

fn sample_quota() -> Value {
    json!({"meter": "requests", "limit": 1000, "period": "month"})
}

/// A body that creates a key or an organization with these limits.
fn new_with_limits(path: &str, limits: &Value) -> Value {
    match path {
        "/api-keys" => json!({"name": "n", "scopes": [], "limits": limits}),
        _ => json!({"name": "n", "email": "n@example.com", "limits": limits}),
    }
}

/// Starts a server with `org_1` and its key `key_1`.
async fn start_server() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.key_with(json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": []})).await;
    server
}

#[tokio::test]
async fn a_platform_key_sets_replaces_and_clears_limits() {
    let server = start_server().await;
    let admin = server.admin();
    assert_eq!(server.configure(json!({"meters": ["requests", "tokens"]})).await.status, 200);
    let with_meter = |limit: &Value| {
        let mut limit = limit.clone();
        if limit.get("meter").is_none() {
            limit["meter"] = json!("requests");
        }
        limit
    };
    let eight: Vec<_> = (1..=8).map(|seconds| json!({"limit": 1, "window_seconds": seconds})).collect();
    for (list, path) in OWNERS {
        let mut expected = Value::Null;
        for limits in [
            Some(json!([sample_rate_limit()])),
            None,
            Some(json!([sample_quota(), sample_rate_limit()])),
            Some(json!([{"limit": 1, "window_seconds": 86_400}, {"limit": 1, "period": "hour"}])),
            Some(json!([
                {"limit": 1_000_000_000, "window_seconds": 1},
                {"meter": "tokens", "limit": 1, "window_seconds": 1},
            ])),
            Some(
                json!([{"limit": MAX_QUOTA, "period": "day"}, {"meter": "tokens", "limit": 5, "period": "day"}]),
            ),
            Some(json!([{"limit": 1, "period": "week"}, {"limit": 2, "period": "total"}])),
            Some(json!(eight)),
            Some(json!([])),
            None,
            Some(Value::Null),
        ] {
            let patch = match &limits {
                Some(limits) => json!({ "limits": limits }),
                None => json!({"name": "renamed"}),
            };
            if let Some(limits) = limits {
                let limits =
                    limits.as_array().map(|limits| limits.iter().map(with_meter).collect::<Vec<_>>());
                expected = json!(limits);
                let created = expect_ok(admin.post(list, new_with_limits(list, &expected)).await, 201);
                assert_eq!(created["limits"], expected, "{patch}");
            }
            let changed = expect_ok(admin.patch(path, patch.clone()).await, 200);
            assert_eq!(changed["limits"], expected, "{path} {patch}");
            assert_eq!(expect_ok(admin.get(path).await, 200), changed, "{path} {patch}");
        }
    }
}

#[tokio::test]
async fn errors_inside_limits_are_reported_with_pointers() {
    let server = start_server().await;
    let admin = server.admin();
    let nine: Vec<_> = (1..=9).map(|seconds| json!({"limit": 1, "window_seconds": seconds})).collect();
    for (limits, details) in [
        (json!({"limit": 1, "window_seconds": 60}), &[("", "INVALID_TYPE")][..]),
        (json!(7), &[("", "INVALID_TYPE")]),
        (json!(nine), &[("", "TOO_MANY")]),
        (json!([7]), &[("/0", "INVALID_TYPE")]),
        (json!([null]), &[("/0", "INVALID_TYPE")]),
        (json!([{}]), &[("/0", "INVALID_VALUE"), ("/0/limit", "REQUIRED")]),
        // Either a window or a period.
        (json!([{"limit": 1}]), &[("/0", "INVALID_VALUE")]),
        (json!([{"limit": 1, "window_seconds": 60, "period": "day"}]), &[("/0", "INVALID_VALUE")]),
        (
            json!([{"limit": 0, "window_seconds": 0}, {"limit": 1_000_000_001, "window_seconds": 60}]),
            &[
                ("/0/limit", "INVALID_VALUE"),
                ("/0/window_seconds", "INVALID_VALUE"),
                ("/1/limit", "INVALID_VALUE"),
            ],
        ),
        (
            json!([sample_rate_limit(), {"limit": "1", "window_seconds": 86_401}]),
            &[("/1/limit", "INVALID_VALUE"), ("/1/window_seconds", "INVALID_VALUE")],
        ),
        (
            json!([{"limit": null, "window_seconds": 1.5, "burst": 1}]),
            &[
                ("/0/limit", "INVALID_VALUE"),
                ("/0/window_seconds", "INVALID_VALUE"),
                ("/0/burst", "UNKNOWN_FIELD"),
            ],
        ),
        (json!([{"limit": 1, "window_seconds": null}]), &[("/0/window_seconds", "NOT_NULLABLE")]),
        (json!([{"period": "day"}]), &[("/0/limit", "REQUIRED")]),
        (
            json!([{"limit": 0, "period": "year"}, {"limit": -1, "period": "Day"}]),
            &[
                ("/0/limit", "INVALID_VALUE"),
                ("/0/period", "INVALID_VALUE"),
                ("/1/limit", "INVALID_VALUE"),
                ("/1/period", "INVALID_VALUE"),
            ],
        ),
        (
            json!([{"limit": MAX_QUOTA + 1, "period": 1}]),
            &[("/0/limit", "INVALID_VALUE"), ("/0/period", "INVALID_TYPE")],
        ),
        (
            json!([{"meter": "Tokens", "limit": 1, "period": "day"}, {"meter": 7, "limit": 1, "period": "hour"}]),
            &[("/0/meter", "INVALID_NAME"), ("/1/meter", "INVALID_TYPE")],
        ),
        (json!([{"meter": null, "limit": 1, "period": "day"}]), &[("/0/meter", "NOT_NULLABLE")]),
        // One limit for each meter and window or period.
        (json!([sample_quota(), sample_rate_limit(), sample_quota()]), &[("/2", "DUPLICATE")]),
        (
            json!([{"limit": 1, "window_seconds": 60}, {"meter": "requests", "limit": 2, "window_seconds": 60}]),
            &[("/1", "DUPLICATE")],
        ),
        // With other faults, that a meter is unknown is found later.
        (json!([{"meter": "tokens", "limit": 0, "period": "day"}]), &[("/0/limit", "INVALID_VALUE")]),
    ] {
        let details: Vec<_> =
            details.iter().map(|(pointer, code)| (format!("/limits{pointer}"), *code)).collect();
        let details: Vec<_> = details.iter().map(|(pointer, code)| (pointer.as_str(), *code)).collect();
        for (list, path) in OWNERS {
            expect_invalid(&admin.post(list, new_with_limits(list, &limits)).await, &details);
            expect_invalid(&admin.patch(path, json!({ "limits": limits })).await, &details);
        }
    }
    let duplicate = r#"{"limits": [{"limit": 1, "limit": 2, "period": "day"}]}"#;
    for (_, path) in OWNERS {
        let answer = send_raw(&admin, Method::PATCH, path, "application/json", duplicate.to_owned()).await;
        expect_invalid(&answer, &[("/limits/0/limit", "DUPLICATE_FIELD")]);
        assert_eq!(expect_ok(admin.get(path).await, 200)["limits"], Value::Null);
    }
}

#[track_caller]
fn expect_unknown_meter(answer: &Answer, pointers: &[&str]) {
    expect_error(answer, 400, "UNKNOWN_METER");
    let expected: Vec<_> =
        pointers.iter().map(|pointer| ((*pointer).to_owned(), "UNKNOWN_METER".to_owned())).collect();
    assert_eq!(answer.details(), expected, "{}", answer.text);
}

#[tokio::test]
async fn limits_are_on_declared_meters() {
    let server = start_server().await;
    let admin = server.admin();
    let limits = json!([
        {"meter": "tokens", "limit": 1, "period": "day"}, sample_quota(),
        {"meter": "bytes", "limit": 1, "window_seconds": 60},
    ]);
    for (list, path) in OWNERS {
        let pointers = ["/limits/0/meter", "/limits/2/meter"];
        expect_unknown_meter(&admin.post(list, new_with_limits(list, &limits)).await, &pointers);
        expect_unknown_meter(&admin.patch(path, json!({ "limits": limits })).await, &pointers);
        assert_eq!(expect_ok(admin.get(path).await, 200)["limits"], Value::Null);
    }
    expect_ok(server.configure(json!({"meters": ["tokens", "bytes", "requests"]})).await, 200);
    for (list, path) in OWNERS {
        expect_ok(admin.post(list, new_with_limits(list, &limits)).await, 201);
        expect_ok(admin.patch(path, json!({ "limits": limits })).await, 200);
    }
}

#[tokio::test]
async fn an_organizations_key_can_neither_set_nor_clear_limits() {
    let server = Server::start().await;
    let admin = server.admin();
    for (key, organization) in [("key_1", "org_1"), ("key_2", "org_2")] {
        server.organization(organization).await;
        let body = json!({"id": key, "organization_id": organization, "name": "n", "scopes": [],
            "limits": [sample_quota()]});
        server.key_with(body).await;
        let path = format!("/organizations/{organization}");
        expect_ok(admin.patch(&path, json!({"limits": [sample_rate_limit()]})).await, 200);
    }
    let state = async |client: &Client| {
        let mut resources = Vec::new();
        for (_, path) in OWNERS {
            resources.push(expect_ok(client.get(path).await, 200));
        }
        resources
    };
    let before = state(&admin).await;
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    for limits in [json!([sample_rate_limit()]), json!([sample_quota()]), json!([]), Value::Null] {
        let patch = json!({ "limits": limits });
        for path in ["/api-keys/key_1", "/organizations/org_1"] {
            expect_error(&org_client.patch(path, patch.clone()).await, 403, "PLATFORM_KEY_REQUIRED");
        }
        for path in ["/api-keys/key_2", "/organizations/org_2"] {
            expect_error(&org_client.patch(path, patch.clone()).await, 404, "NOT_FOUND");
        }
        let created = org_client.post("/api-keys", new_with_limits("/api-keys", &limits)).await;
        match limits.is_null() {
            true => assert_eq!(expect_ok(created, 201)["limits"], Value::Null),
            false => expect_error(&created, 403, "PLATFORM_KEY_REQUIRED"),
        }
    }
    assert_eq!(state(&admin).await, before);
    assert_eq!(state(&org_client).await, before, "its limits are visible to an organization");
    for (index, (_, path)) in OWNERS.into_iter().enumerate() {
        let renamed = expect_ok(org_client.patch(path, json!({"name": "m"})).await, 200);
        assert_eq!(renamed["limits"], before[index]["limits"], "a change of another field keeps the limits");
    }
}

#[tokio::test]
async fn i2_changes_of_limits_are_audited() {
    let server = start_server().await;
    let admin = server.admin();
    for (_, path) in OWNERS {
        let both = json!([sample_rate_limit(), sample_quota()]);
        for limits in [json!([sample_quota()]), both.clone(), both.clone(), json!([]), Value::Null] {
            expect_ok(admin.patch(path, json!({ "limits": limits })).await, 200);
        }
        let id = path.rsplit('/').next().unwrap();
        let listed = admin.get(&format!("/audit-logs?target_id={id}&access=write&order=asc")).await;
        let events = expect_ok(listed, 200);
        // The first event is that of the creation.
        let changes: Vec<_> =
            events.as_array().unwrap()[1..].iter().map(|event| event["changes"].clone()).collect();
        let change = |from: Value, to: Value| json!([{"field": "limits", "from": from, "to": to}]);
        let expected = json!([
            change(Value::Null, json!([sample_quota()])),
            change(json!([sample_quota()]), both.clone()),
            [],
            change(both.clone(), json!([])),
            change(json!([]), Value::Null),
        ]);
        assert_eq!(json!(changes), expected, "{path}");
    }
}
