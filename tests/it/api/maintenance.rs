//! Read-only mode: which calls are refused and which still work.

use reqwest::Method;
use serde_json::{Value, json};

use super::{expect_error, expect_ok};
use crate::support::Server;

async fn start_server() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.user("user_1").await;
    for id in ["key_1", "key_2", "key_3"] {
        let body = json!({"id": id, "organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
        expect_ok(server.admin().post("/api-keys", body).await, 201);
    }
    server
}

#[tokio::test]
async fn changes_are_refused_with_the_message_and_revocations_still_work() {
    let server = start_server().await;
    let admin = server.admin();
    let member = json!({"user_id": "user_1", "role": "member"});
    let secret =
        server.key_with(json!({"organization_id": "org_1", "name": "n", "scopes": ["*"]})).await.0.key;
    expect_ok(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
    let refused_changes = [
        (Method::POST, "/organizations", Some(json!({"name": "n", "email": "a@b"}))),
        (Method::PATCH, "/organizations/org_1", Some(json!({"status": "suspended", "name": "x"}))),
        (Method::POST, "/users", Some(json!({"name": "n", "email": "a@b"}))),
        (Method::PATCH, "/users/user_1", Some(json!({"name": "x"}))),
        (Method::PATCH, "/users/user_1", Some(json!({"status": "suspended", "name": "x"}))),
        (Method::POST, "/organizations/org_1/members", Some(member)),
        (Method::POST, "/api-keys", Some(json!({"name": "n", "scopes": []}))),
        (Method::PATCH, "/api-keys/key_1", Some(json!({"name": "x"}))),
        (Method::PATCH, "/api-keys/key_1", Some(json!({"status": "disabled", "name": "x"}))),
        (Method::PATCH, "/api-keys/key_1", Some(json!({"scopes": ["workflows:write"]}))),
        (
            Method::PATCH,
            "/api-keys/key_1",
            Some(json!({"allowed_ips": ["10.0.0.0/8"], "metadata": {"a": "b"}})),
        ),
        (Method::PATCH, "/api-keys/key_1", Some(json!({"limits": [{"limit": 1, "period": "day"}]}))),
        (Method::POST, "/api-keys/key_1/rotate", Some(json!({}))),
        (Method::POST, "/scopes", Some(json!({"scope": "invoices:read"}))),
        (Method::DELETE, "/scopes/workflows:write", None),
    ];
    let list_resources = async || {
        let mut lists = Vec::new();
        for path in ["/organizations", "/users", "/organizations/org_1/members", "/api-keys", "/scopes"] {
            let mut rows = expect_ok(admin.get(path).await, 200);
            // A call updates `last_used_at`, which is not a change of the key.
            rows.as_array_mut().unwrap().iter_mut().for_each(|row| row["last_used_at"] = Value::Null);
            lists.push(rows);
        }
        lists
    };
    let before = list_resources().await;
    for (method, path, body) in refused_changes.clone() {
        let answer = admin.call(method.clone(), path, body).await;
        expect_error(&answer, 503, "UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("60"), "{method} {path}");
        assert!(answer.text.contains("read-only mode for maintenance"), "{}", answer.text);
    }
    assert_eq!(list_resources().await, before);
    let events = expect_ok(admin.get("/audit-logs?outcome=failed&limit=100").await, 200);
    assert_eq!(events.as_array().unwrap().len(), refused_changes.len(), "each refusal is recorded");
    expect_ok(server.configure(json!({"maintenance": {"message": "Back at noon."}})).await, 200);
    let refused = admin.post("/users", json!({"name": "n", "email": "a@b"})).await;
    assert_eq!(refused.json["error"]["message"], "Back at noon.");

    // Changes that only withdraw access still work.
    expect_ok(admin.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200);
    expect_error(&admin.patch("/api-keys/key_1", json!({"status": "active"})).await, 503, "UNAVAILABLE");
    expect_ok(admin.delete("/api-keys/key_2").await, 200);
    expect_ok(admin.post("/api-keys/key_3/revoke", json!({"reason": "leaked"})).await, 200);
    let narrower = json!({"scopes": [], "allowed_ips": ["10.0.0.0/8"], "expires_at": "2027-01-02T00:00:00Z"});
    expect_ok(admin.patch("/api-keys/key_1", narrower).await, 200);
    for wider in [
        json!({"scopes": ["workflows:read"]}),
        json!({"allowed_ips": ["10.0.0.0/7"]}),
        json!({"allowed_ips": null}),
        json!({"expires_at": "2027-01-03T00:00:00Z"}),
    ] {
        expect_error(&admin.patch("/api-keys/key_1", wider).await, 503, "UNAVAILABLE");
    }
    expect_ok(admin.post("/api-keys/key_1/expire-previous", json!(null)).await, 200);
    // Reads and verifications still work.
    let request = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": secret}));
    assert_eq!(expect_ok(admin.send(request).await, 200)["valid"], true);
    tollhouse::service::usage::flush(&server.app).await.unwrap();
    assert_eq!(expect_ok(admin.get("/analytics/usage").await, 200)["totals"]["requests"], 1);
    assert_eq!(expect_ok(admin.get("/audit-logs/verify").await, 200)["valid"], true);
    assert_eq!(server.admin().get_at_root("/readyz").await.status, 200);

    expect_ok(admin.patch("/users/user_1", json!({"status": "suspended"})).await, 200);
    expect_error(&admin.patch("/users/user_1", json!({"status": "active"})).await, 503, "UNAVAILABLE");
    expect_ok(admin.delete("/users/user_1").await, 200);
    expect_ok(admin.patch("/organizations/org_1", json!({"status": "suspended"})).await, 200);
    expect_error(&admin.patch("/organizations/org_1", json!({"status": "active"})).await, 503, "UNAVAILABLE");
    expect_ok(admin.delete("/organizations/org_1").await, 200);

    expect_ok(server.configure(json!({"maintenance": {"read_only": false}})).await, 200);
    expect_ok(admin.post("/users", json!({"name": "n", "email": "a@b"})).await, 201);
}

/// No change is committed after read-only mode was acknowledged, not even of requests in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_in_flight_commits_after_read_only_mode_is_acknowledged() {
    let server = start_server().await;
    let count = async || {
        let count = server.app.db.read(tollhouse::store::overview::count_organizations).await;
        count.unwrap()
    };
    for _ in 0..5 {
        let callers: Vec<_> = (0..24)
            .map(|_| {
                let admin = server.admin();
                let body = json!({"name": "n", "email": "a@b"});
                tokio::spawn(async move { admin.post("/organizations", body).await.status })
            })
            .collect();
        expect_ok(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
        let count_at_start = count().await;
        for caller in callers {
            let status = caller.await.unwrap();
            assert!([201, 503].contains(&status), "{status}");
        }
        assert_eq!(count().await, count_at_start);
        expect_ok(server.configure(json!({"maintenance": {"read_only": false}})).await, 200);
    }
}

#[tokio::test]
async fn each_operation_of_a_batch_is_refused_separately() {
    let server = start_server().await;
    let admin = server.admin();
    expect_ok(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
    let operations = json!([
        {"method": "PATCH", "path": "/organizations/org_1", "body": {"name": "x"}},
        {"method": "DELETE", "path": "/api-keys/key_1"},
        {"method": "GET", "path": "/organizations/org_1"},
    ]);
    let batch = |atomic| json!({"atomic": atomic, "operations": operations});
    expect_error(&admin.post("/batch", batch(true)).await, 503, "UNAVAILABLE");
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200)["status"], "active");
    let results = expect_ok(admin.post("/batch", batch(false)).await, 200)["results"].clone();
    let statuses: Vec<_> =
        results.as_array().unwrap().iter().map(|result| result["status"].clone()).collect();
    assert_eq!(statuses, [503, 200, 200], "{results}");
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200)["status"], "revoked");
}
