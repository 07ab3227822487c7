//! The platform's configuration: reads, conditional changes, immediate effect.

use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::patches::if_match;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Binary, Server};

fn shipped() -> Value {
    json!({
        "keys": {"prefixes": ["toll"], "default_expiry_days": 0, "max_expiry_days": 0, "require_allowed_ips_for_admin": false},
        "rate_limits": {"admin_per_minute": 0, "batch_per_minute": 0, "organization_factor": 5, "failed_auth_per_minute": 0},
        "meters": ["requests"],
        "plans": {
            "enterprise": {"key_limits": [{"meter": "requests", "limit": 1000, "window_seconds": 60}],
                "organization_limits": [{"meter": "requests", "limit": 10_000, "window_seconds": 60}],
                "max_keys": 0, "max_members": 0},
            "standard": {"key_limits": [{"meter": "requests", "limit": 100, "window_seconds": 60}],
                "organization_limits": [{"meter": "requests", "limit": 1000, "window_seconds": 60}],
                "max_keys": 0, "max_members": 0},
        },
        "retention": {"audit_days": 0, "usage_hourly_days": 90, "usage_daily_days": 730, "verification_log_days": 30},
        "maintenance": {"read_only": false, "message": null},
    })
}

#[tokio::test]
async fn a_patch_is_merged_changes_the_etag_and_is_audited_field_by_field() {
    let server = Server::start().await;
    let admin = server.admin();
    let before = admin.get("/config").await;
    let etag = before.header("etag").unwrap().to_owned();
    assert_eq!(expect_ok(before, 200), shipped());

    // A patch that changes nothing keeps the ETag. The response to a change contains the new values.
    let no_change = json!({"keys": {"prefixes": ["toll"]}, "plans": {"nowhere": null}, "retention": {}});
    let unchanged = if_match(&admin, "/config", &etag, Some(no_change)).await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (200, Some(etag.as_str())));
    let patch = json!({
        "rate_limits": {"admin_per_minute": 7, "organization_factor": 0},
        "plans": {"standard": {"max_keys": 5}, "enterprise": null},
        "maintenance": {"message": "soon"},
    });
    let changed = if_match(&admin, "/config", &etag, Some(patch)).await;
    let new_etag = changed.header("etag").unwrap().to_owned();
    assert_ne!(new_etag, etag);
    let mut expected = shipped();
    expected["rate_limits"]["admin_per_minute"] = json!(7);
    expected["rate_limits"]["organization_factor"] = json!(0);
    expected["plans"]["standard"]["max_keys"] = json!(5);
    expected["plans"].as_object_mut().unwrap().remove("enterprise");
    expected["maintenance"]["message"] = json!("soon");
    assert_eq!(expect_ok(changed, 200), expected);
    let current = admin.get("/config").await;
    assert_eq!((current.header("etag"), current.data()), (Some(new_etag.as_str()), &expected));
    // The new limit already applies to this key.
    assert_eq!(current.header("x-ratelimit-limit"), Some("7"));

    let events = expect_ok(admin.get("/audit-logs?action=config.update").await, 200);
    let change = |field: &str, from: Value, to: Value| json!({"field": field, "from": from, "to": to});
    let shipped = shipped();
    let enterprise = &shipped["plans"]["enterprise"];
    let expected = [
        change("maintenance.message", Value::Null, json!("soon")),
        change("plans.enterprise.key_limits", enterprise["key_limits"].clone(), Value::Null),
        change("plans.enterprise.max_keys", json!(0), Value::Null),
        change("plans.enterprise.max_members", json!(0), Value::Null),
        change(
            "plans.enterprise.organization_limits",
            enterprise["organization_limits"].clone(),
            Value::Null,
        ),
        change("plans.standard.max_keys", json!(0), json!(5)),
        change("rate_limits.admin_per_minute", json!(0), json!(7)),
        change("rate_limits.organization_factor", json!(5), json!(0)),
    ];
    assert_eq!(events[0]["changes"], json!(expected));
    assert_eq!((&events[1]["changes"], events.as_array().unwrap().len()), (&json!([]), 2));
}

#[tokio::test]
async fn a_change_requires_a_matching_if_match() {
    let server = Server::start().await;
    let admin = server.admin();
    let patch = json!({"maintenance": {"message": "x"}});
    expect_error(&admin.patch("/config", patch.clone()).await, 428, "PRECONDITION_REQUIRED");
    expect_error(
        &if_match(&admin, "/config", "\"0-0\"", Some(patch.clone())).await,
        412,
        "PRECONDITION_FAILED",
    );
    // Errors of the body are reported before the missing precondition, as on all routes.
    expect_invalid(&admin.patch("/config", json!({"keys": 7})).await, &[("/keys", "INVALID_TYPE")]);
    assert_eq!(expect_ok(admin.get("/config").await, 200), shipped());
    expect_ok(if_match(&admin, "/config", "*", Some(patch)).await, 200);
}

/// Of concurrent changes that are based on the same version, one succeeds and the others get a 412.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_concurrent_changes_succeeds() {
    let server = Server::start().await;
    for round in 0..5 {
        let etag = server.admin().get("/config").await.header("etag").unwrap().to_owned();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let admin = server.admin();
                let etag = etag.clone();
                let patch = json!({"plans": {"standard": {"max_keys": 1 + round * 8 + writer}}});
                tokio::spawn(async move { if_match(&admin, "/config", &etag, Some(patch)).await })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            let answer = writer.await.unwrap();
            match answer.status {
                200 => winners.push(answer.data().clone()),
                _ => expect_error(&answer, 412, "PRECONDITION_FAILED"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(expect_ok(server.admin().get("/config").await, 200), winners[0]);
    }
}

#[tokio::test]
async fn all_errors_are_reported_at_once_and_nothing_is_changed() {
    let server = Server::start().await;
    let admin = server.admin();
    let answer = server
        .configure(json!({
            "keys": {"prefixes": ["toll", "Toll", "toll"], "default_expiry_days": -1, "max_expiry_days": 36_501, "require_allowed_ips_for_admin": 1},
            "rate_limits": {"admin_per_minute": null, "batch_per_minute": "1", "organization_factor": 1_001, "per_hour": 1},
            "plans": {"Gold": {}, "a~b/c": null, "silver": {"max_keys": 1.5, "price": 1}, "bronze": 7},
            "retention": {"audit_days": 29, "usage_hourly_days": 0},
            "maintenance": {"read_only": "yes", "message": ""},
            "logging": {},
        }))
        .await;
    expect_invalid(
        &answer,
        &[
            ("/keys/prefixes/1", "INVALID_VALUE"),
            ("/keys/prefixes/2", "DUPLICATE"),
            ("/keys/default_expiry_days", "INVALID_VALUE"),
            ("/keys/max_expiry_days", "INVALID_VALUE"),
            ("/keys/require_allowed_ips_for_admin", "INVALID_TYPE"),
            ("/rate_limits/admin_per_minute", "NOT_NULLABLE"),
            ("/rate_limits/batch_per_minute", "INVALID_VALUE"),
            ("/rate_limits/organization_factor", "INVALID_VALUE"),
            ("/rate_limits/per_hour", "UNKNOWN_FIELD"),
            ("/plans/Gold", "INVALID_NAME"),
            ("/plans/a~0b~1c", "INVALID_NAME"),
            ("/plans/silver/max_keys", "INVALID_VALUE"),
            ("/plans/silver/price", "UNKNOWN_FIELD"),
            ("/plans/bronze", "INVALID_TYPE"),
            ("/retention/audit_days", "INVALID_VALUE"),
            ("/retention/usage_hourly_days", "INVALID_VALUE"),
            ("/maintenance/read_only", "INVALID_TYPE"),
            ("/maintenance/message", "INVALID_LENGTH"),
            ("/logging", "UNKNOWN_FIELD"),
        ],
    );
    // Values that are valid separately, but not in combination with the others.
    let inconsistent = json!({
        "keys": {"default_expiry_days": 91, "max_expiry_days": 90},
        "plans": {"gold": {"max_keys": 1}},
    });
    expect_invalid(
        &server.configure(inconsistent).await,
        &[
            ("/keys/default_expiry_days", "INVALID_VALUE"),
            ("/plans/gold/key_limits", "REQUIRED"),
            ("/plans/gold/organization_limits", "REQUIRED"),
            ("/plans/gold/max_members", "REQUIRED"),
        ],
    );
    let many: serde_json::Map<_, _> = (0..100)
        .map(|index| {
            let plan = json!({"key_limits": [], "organization_limits": [], "max_keys": 1, "max_members": 1});
            (format!("p{index}"), plan)
        })
        .collect();
    expect_invalid(&server.configure(json!({"plans": many})).await, &[("/plans", "TOO_MANY")]);
    assert_eq!(expect_ok(admin.get("/config").await, 200), shipped());
}

#[tokio::test]
async fn a_restart_keeps_the_settings_and_ignores_initial_values() {
    let server = Server::start().await;
    expect_ok(
        server
            .configure(json!({"plans": {"standard": {"max_keys": 3}}, "meters": ["requests", "tokens"]}))
            .await,
        200,
    );
    let before = server.admin().get("/config").await;
    let server = Server::start_in(server.stop().await, |config| {
        config.plans.get_mut("standard").unwrap().key_limits.clear();
        config.rate_limits.admin_per_minute = 1;
    })
    .await;
    let after = server.admin().get("/config").await;
    assert_eq!((after.header("etag"), after.data()), (before.header("etag"), before.data()));
    // The initial limit doesn't apply either.
    assert_eq!(server.admin().get("/whoami").await.header("x-ratelimit-limit"), None);
}

#[tokio::test]
async fn a_start_logs_initial_values_that_differ_from_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let with_initial_values = |command: &mut std::process::Command| {
        command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
        command
            .env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0")
            .env("TOLLHOUSE_KEYS__PREFIXES", "acme,acme_test");
    };
    let mut server = Binary::serve_with(dir.path(), with_initial_values);
    assert!(!server.start.join("\n").contains("initial value"), "{:#?}", server.start);
    let admin = server.admin();
    assert_eq!(admin.get("/config").await.data()["rate_limits"]["admin_per_minute"], 0);
    let patch = json!({"rate_limits": {"admin_per_minute": 5000}});
    expect_ok(if_match(&admin, "/config", "*", Some(patch)).await, 200);
    assert_eq!(server.terminate(), Some(0));
    let server = Binary::serve_with(dir.path(), with_initial_values);
    let said: Vec<_> = server.start.iter().filter(|line| line.contains("initial value")).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    for word in ["rate_limits.admin_per_minute", "TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "5000"] {
        assert!(said[0].contains(word), "{word}: {said:?}");
    }
    assert_eq!(server.admin().get("/config").await.data()["rate_limits"]["admin_per_minute"], 5000);
}

/// Settings that another process writes, such as the command line, take effect without a restart.
#[tokio::test]
async fn settings_written_by_another_process_take_effect() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let body = json!({"organization_id": "org_1", "name": "n", "scopes": []});
    let secret = server.key_with(body).await.0.key.unwrap();
    let limit = async || {
        let body = json!({"key": secret, "dry_run": true});
        let admin = server.admin();
        let answer = admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
        expect_ok(answer, 200)["limits"][0]["limit"].as_i64().unwrap()
    };
    assert_eq!(limit().await, 100);
    let file = server.dir.path().join("data/tollhouse.db");
    let sql = "UPDATE settings SET settings = json_set(settings, '$.plans.standard.key_limits[0].limit', 77), \
               revision = revision + 1";
    assert_eq!(Connection::open(file).unwrap().execute(sql, []).unwrap(), 1);
    let in_effect = async {
        while limit().await != 77 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), in_effect).await.expect("the setting did not take effect");
}

#[tokio::test]
async fn call_limits_follow_the_configuration() {
    let server = Server::start().await;
    let admin = server.admin();
    assert_eq!(admin.get("/whoami").await.header("x-ratelimit-limit"), None);
    expect_ok(
        server.configure(json!({"rate_limits": {"admin_per_minute": 2, "failed_auth_per_minute": 1}})).await,
        200,
    );
    assert_eq!(admin.get("/whoami").await.header("x-ratelimit-remaining"), Some("1"));
    assert_eq!(admin.get("/whoami").await.status, 200);
    expect_error(&admin.get("/whoami").await, 429, "RATE_LIMITED");
    let unknown = server.client(Some("no-key-of-anybody"));
    expect_error(&unknown.get("/whoami").await, 401, "INVALID_API_KEY");
    expect_error(&unknown.get("/whoami").await, 429, "RATE_LIMITED");
}
