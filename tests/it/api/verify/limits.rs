//! Rate limits: costs, dry runs, and changes of the limit.

use std::time::Duration;

use serde_json::json;

use super::{code, patch, secret, start_server, verify_data};
use crate::support::NOW;

#[tokio::test]
async fn i8_denials_and_dry_runs_spend_nothing_and_a_cost_is_never_spent_partially() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"rate_limit": {"limit": 1000, "window_seconds": 60}})).await;
    for (fields, code, remaining) in [
        (json!({"cost": 0}), "VALID", 1000),
        (json!({}), "VALID", 999),
        (json!({"cost": null, "dry_run": null, "ip": null, "scopes": null}), "VALID", 998),
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
        assert_eq!(
            (&data["code"], &data["rate_limit"]["remaining"]),
            (&json!(code), &json!(remaining)),
            "{fields}"
        );
    }
    server.advance(Duration::from_secs(60));
    let data = verify_data(&admin, json!({"key": key, "cost": 1000})).await;
    let full = NOW / 1000 + 120;
    assert_eq!(data["rate_limit"], json!({"limit": 1000, "remaining": 0, "reset": full}));
    let small = secret(&server, json!({"rate_limit": {"limit": 10, "window_seconds": 1}})).await;
    assert_eq!(
        code(&admin, json!({"key": small, "cost": 11})).await,
        "RATE_LIMITED",
        "the cost exceeds the limit"
    );
    assert_eq!(code(&admin, json!({"key": small, "cost": 10})).await, "VALID");
}

#[tokio::test]
async fn i7_a_keys_own_limit_overrides_its_plans_and_changes_keep_what_was_spent() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"id": "key_1"})).await;
    let remaining = async |cost: u32| {
        let data = verify_data(&admin, json!({"key": key, "cost": cost})).await;
        (data["rate_limit"]["limit"].as_u64().unwrap(), data["rate_limit"]["remaining"].as_u64().unwrap())
    };
    assert_eq!(remaining(4).await, (100, 96), "the limit of the plan");
    patch(&server, "/organizations/org_1", json!({"plan": "enterprise"})).await;
    assert_eq!(remaining(0).await, (1000, 996));
    let own = |limit: u32, window: u32| json!({"rate_limit": {"limit": limit, "window_seconds": window}});
    for (body, expected) in [
        (own(10, 60), (10, 6)),
        (json!({"name": "renamed"}), (10, 6)),
        (own(5, 60), (5, 1)),
        (own(5, 3600), (5, 1)),
        (own(3, 60), (3, 0)),
        (own(10, 60), (10, 6)),
        (json!({"rate_limit": null}), (1000, 996)),
    ] {
        patch(&server, "/api-keys/key_1", body.clone()).await;
        assert_eq!(remaining(0).await, expected, "{body}");
    }
    patch(&server, "/organizations/org_1", json!({"plan": "standard"})).await;
    assert_eq!(remaining(96).await, (100, 0));
    assert_eq!(code(&admin, json!({"key": key})).await, "RATE_LIMITED");
    let other = secret(&server, json!({})).await;
    assert_eq!(code(&admin, json!({"key": other})).await, "VALID", "each key has its own bucket");
}
