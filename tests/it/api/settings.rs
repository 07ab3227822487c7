//! The configuration of the platform: read, changed by one at a time, in force at once.

use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::patches::if_match;
use super::{at_fault, done, refused};
use crate::support::{Binary, Server};

fn shipped() -> Value {
    json!({
        "keys": {"prefix": "toll", "default_expiry_days": 0, "max_expiry_days": 0, "require_allowed_ips_for_admin": false},
        "rate_limits": {"admin_per_minute": 0, "batch_per_minute": 0, "failed_auth_per_minute": 0},
        "plans": {
            "enterprise": {"requests_per_minute": 1000, "max_keys": 0, "max_members": 0},
            "standard": {"requests_per_minute": 100, "max_keys": 0, "max_members": 0},
        },
        "retention": {"audit_days": 0, "usage_hourly_days": 90, "usage_daily_days": 730, "verification_log_days": 30},
        "maintenance": {"read_only": false, "message": null},
    })
}

#[tokio::test]
async fn a_patch_is_merged_tagged_and_recorded_field_by_field() {
    let server = Server::start().await;
    let admin = server.admin();
    let before = admin.get("/config").await;
    let etag = before.header("etag").unwrap().to_owned();
    assert_eq!(done(before, 200), shipped());

    // What changes nothing keeps the tag, and what is changed can be seen in the answer.
    let same = json!({"keys": {"prefix": "toll"}, "plans": {"nowhere": null}, "retention": {}});
    let same = if_match(&admin, "/config", &etag, Some(same)).await;
    assert_eq!((same.status, same.header("etag")), (200, Some(etag.as_str())));
    let patch = json!({
        "rate_limits": {"admin_per_minute": 7},
        "plans": {"standard": {"max_keys": 5}, "enterprise": null},
        "maintenance": {"message": "soon"},
    });
    let changed = if_match(&admin, "/config", &etag, Some(patch)).await;
    let new_tag = changed.header("etag").unwrap().to_owned();
    assert_ne!(new_tag, etag);
    let mut expected = shipped();
    expected["rate_limits"]["admin_per_minute"] = json!(7);
    expected["plans"]["standard"]["max_keys"] = json!(5);
    expected["plans"].as_object_mut().unwrap().remove("enterprise");
    expected["maintenance"]["message"] = json!("soon");
    assert_eq!(done(changed, 200), expected);
    let now = admin.get("/config").await;
    assert_eq!((now.header("etag"), now.data()), (Some(new_tag.as_str()), &expected));
    // In force: the limit of this very key.
    assert_eq!(now.header("x-ratelimit-limit"), Some("7"));

    let events = done(admin.get("/audit-logs?action=config.update").await, 200);
    let change = |field: &str, from: Value, to: Value| json!({"field": field, "from": from, "to": to});
    let expected = [
        change("maintenance.message", Value::Null, json!("soon")),
        change("plans.enterprise.max_keys", json!(0), Value::Null),
        change("plans.enterprise.max_members", json!(0), Value::Null),
        change("plans.enterprise.requests_per_minute", json!(1000), Value::Null),
        change("plans.standard.max_keys", json!(0), json!(5)),
        change("rate_limits.admin_per_minute", json!(0), json!(7)),
    ];
    assert_eq!(events[0]["changes"], json!(expected));
    assert_eq!((&events[1]["changes"], events.as_array().unwrap().len()), (&json!([]), 2));
}

#[tokio::test]
async fn who_changes_it_must_know_what_it_is() {
    let server = Server::start().await;
    let admin = server.admin();
    let patch = json!({"maintenance": {"message": "x"}});
    refused(&admin.patch("/config", patch.clone()).await, 428, "PRECONDITION_REQUIRED");
    refused(&if_match(&admin, "/config", "\"0-0\"", Some(patch.clone())).await, 412, "PRECONDITION_FAILED");
    // What is wrong with the body is told first, as everywhere.
    at_fault(&admin.patch("/config", json!({"keys": 7})).await, &[("/keys", "INVALID_TYPE")]);
    assert_eq!(done(admin.get("/config").await, 200), shipped());
    done(if_match(&admin, "/config", "*", Some(patch)).await, 200);
}

/// Of many who read it and then change it at once, one succeeds, and the others hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_at_once_exactly_one_succeeds() {
    let server = Server::start().await;
    for round in 0..5 {
        let etag = server.admin().get("/config").await.header("etag").unwrap().to_owned();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (admin, etag) = (server.admin(), etag.clone());
                let patch = json!({"plans": {"standard": {"max_keys": 1 + round * 8 + writer}}});
                tokio::spawn(async move { if_match(&admin, "/config", &etag, Some(patch)).await })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            let answer = writer.await.unwrap();
            match answer.status {
                200 => winners.push(answer.data().clone()),
                _ => refused(&answer, 412, "PRECONDITION_FAILED"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(done(server.admin().get("/config").await, 200), winners[0]);
    }
}

#[tokio::test]
async fn all_faults_are_told_at_once_and_nothing_is_changed() {
    let server = Server::start().await;
    let admin = server.admin();
    let answer = server
        .configure(json!({
            "keys": {"prefix": "Toll", "default_expiry_days": -1, "max_expiry_days": 36_501, "require_allowed_ips_for_admin": 1},
            "rate_limits": {"admin_per_minute": null, "batch_per_minute": "1", "per_hour": 1},
            "plans": {"Gold": {}, "a~b/c": null, "silver": {"requests_per_minute": 1.5, "price": 1}, "bronze": 7},
            "retention": {"audit_days": 29, "usage_hourly_days": 0},
            "maintenance": {"read_only": "yes", "message": ""},
            "logging": {},
        }))
        .await;
    at_fault(
        &answer,
        &[
            ("/keys/prefix", "INVALID_VALUE"),
            ("/keys/default_expiry_days", "INVALID_VALUE"),
            ("/keys/max_expiry_days", "INVALID_VALUE"),
            ("/keys/require_allowed_ips_for_admin", "INVALID_TYPE"),
            ("/rate_limits/admin_per_minute", "NOT_NULLABLE"),
            ("/rate_limits/batch_per_minute", "INVALID_VALUE"),
            ("/rate_limits/per_hour", "UNKNOWN_FIELD"),
            ("/plans/Gold", "INVALID_NAME"),
            ("/plans/a~0b~1c", "INVALID_NAME"),
            ("/plans/silver/requests_per_minute", "INVALID_VALUE"),
            ("/plans/silver/price", "UNKNOWN_FIELD"),
            ("/plans/bronze", "INVALID_TYPE"),
            ("/retention/audit_days", "INVALID_VALUE"),
            ("/retention/usage_hourly_days", "INVALID_VALUE"),
            ("/maintenance/read_only", "INVALID_TYPE"),
            ("/maintenance/message", "INVALID_LENGTH"),
            ("/logging", "UNKNOWN_FIELD"),
        ],
    );
    // What is right by itself, and not together with what there is.
    let together = json!({
        "keys": {"default_expiry_days": 91, "max_expiry_days": 90},
        "plans": {"gold": {"max_keys": 1}},
    });
    at_fault(
        &server.configure(together).await,
        &[
            ("/keys/default_expiry_days", "INVALID_VALUE"),
            ("/plans/gold/requests_per_minute", "REQUIRED"),
            ("/plans/gold/max_members", "REQUIRED"),
        ],
    );
    let many: serde_json::Map<_, _> = (0..100)
        .map(|nth| (format!("p{nth}"), json!({"requests_per_minute": 1, "max_keys": 1, "max_members": 1})))
        .collect();
    at_fault(&server.configure(json!({"plans": many})).await, &[("/plans", "TOO_MANY")]);
    assert_eq!(done(admin.get("/config").await, 200), shipped());
}

#[tokio::test]
async fn a_restart_keeps_what_was_set_and_no_first_value_comes_back() {
    let server = Server::start().await;
    done(server.configure(json!({"plans": {"standard": {"requests_per_minute": 3}}})).await, 200);
    let before = server.admin().get("/config").await;
    let server = Server::over(server.stop().await, |config| {
        config.plans.standard.requests_per_minute = 9;
        config.rate_limits.admin_per_minute = 1;
    })
    .await;
    let after = server.admin().get("/config").await;
    assert_eq!((after.header("etag"), after.data()), (before.header("etag"), before.data()));
    // Nor is it in force.
    assert_eq!(server.admin().get("/whoami").await.header("x-ratelimit-limit"), None);
}

#[tokio::test]
async fn a_start_says_which_named_values_are_not_those_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let named = |command: &mut std::process::Command| {
        command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
        command.env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0").env("TOLLHOUSE_KEYS__PREFIX", "acme");
    };
    let mut server = Binary::serve_with(dir.path(), named);
    assert!(!server.start.join("\n").contains("initial value"), "{:#?}", server.start);
    let admin = server.admin();
    assert_eq!(admin.get("/config").await.data()["rate_limits"]["admin_per_minute"], 0);
    let patch = json!({"rate_limits": {"admin_per_minute": 5000}});
    done(if_match(&admin, "/config", "*", Some(patch)).await, 200);
    assert_eq!(server.terminate(), Some(0));
    let server = Binary::serve_with(dir.path(), named);
    let said: Vec<_> = server.start.iter().filter(|line| line.contains("initial value")).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    for word in ["rate_limits.admin_per_minute", "TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "5000"] {
        assert!(said[0].contains(word), "{word}: {said:?}");
    }
    assert_eq!(server.admin().get("/config").await.data()["rate_limits"]["admin_per_minute"], 5000);
}

/// The command line, or a restored file: what another process writes comes into force by itself.
#[tokio::test]
async fn what_another_process_sets_is_seen() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let body = json!({"organization_id": "org_1", "name": "n", "scopes": []});
    let secret = server.key_with(body).await.0.key.unwrap();
    let limit = async || {
        let body = json!({"key": secret, "dry_run": true});
        let admin = server.admin();
        let answer = admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
        done(answer, 200)["rate_limit"]["limit"].as_i64().unwrap()
    };
    assert_eq!(limit().await, 100);
    let file = server.dir.path().join("data/tollhouse.db");
    let sql = "UPDATE settings SET settings = json_set(settings, '$.plans.standard.requests_per_minute', 77), \
               revision = revision + 1";
    assert_eq!(Connection::open(file).unwrap().execute(sql, []).unwrap(), 1);
    let seen = async {
        while limit().await != 77 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it should be in force by now");
}

#[tokio::test]
async fn the_limits_of_calls_follow_the_configuration() {
    let server = Server::start().await;
    let admin = server.admin();
    assert_eq!(admin.get("/whoami").await.header("x-ratelimit-limit"), None);
    done(
        server.configure(json!({"rate_limits": {"admin_per_minute": 2, "failed_auth_per_minute": 1}})).await,
        200,
    );
    assert_eq!(admin.get("/whoami").await.header("x-ratelimit-remaining"), Some("1"));
    assert_eq!(admin.get("/whoami").await.status, 200);
    refused(&admin.get("/whoami").await, 429, "RATE_LIMITED");
    let bad = server.client(Some("no-key-of-anybody"));
    refused(&bad.get("/whoami").await, 401, "INVALID_API_KEY");
    refused(&bad.get("/whoami").await, 429, "RATE_LIMITED");
}
