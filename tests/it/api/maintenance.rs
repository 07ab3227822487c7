//! Read-only: what is refused, and what goes on.

use reqwest::Method;
use serde_json::{Value, json};

use super::{done, refused};
use crate::support::Server;

async fn world() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.user("user_1").await;
    for id in ["key_1", "key_2", "key_3"] {
        let body = json!({"id": id, "organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
        done(server.admin().post("/api-keys", body).await, 201);
    }
    server
}

#[tokio::test]
async fn changes_are_refused_with_the_message_and_taking_access_away_is_not() {
    let server = world().await;
    let admin = server.admin();
    let member = json!({"user_id": "user_1", "role": "member"});
    let secret =
        server.key_with(json!({"organization_id": "org_1", "name": "n", "scopes": ["*"]})).await.0.key;
    done(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
    let refused_changes = [
        (Method::POST, "/organizations", Some(json!({"name": "n", "email": "a@b"}))),
        (Method::PATCH, "/organizations/org_1", Some(json!({"status": "suspended"}))),
        (Method::DELETE, "/organizations/org_1", None),
        (Method::POST, "/users", Some(json!({"name": "n", "email": "a@b"}))),
        (Method::PATCH, "/users/user_1", Some(json!({"name": "x"}))),
        (Method::DELETE, "/users/user_1", None),
        (Method::POST, "/organizations/org_1/members", Some(member)),
        (Method::POST, "/api-keys", Some(json!({"name": "n", "scopes": []}))),
        (Method::PATCH, "/api-keys/key_1", Some(json!({"name": "x"}))),
        (Method::PATCH, "/api-keys/key_1", Some(json!({"status": "disabled", "name": "x"}))),
        (Method::POST, "/api-keys/key_1/rotate", Some(json!({}))),
        (Method::POST, "/api-keys/key_1/expire-previous", None),
        (Method::POST, "/scopes", Some(json!({"scope": "invoices:read"}))),
        (Method::DELETE, "/scopes/workflows:write", None),
    ];
    let list = async || {
        let mut all = Vec::new();
        for path in ["/organizations", "/users", "/organizations/org_1/members", "/api-keys", "/scopes"] {
            let mut rows = done(admin.get(path).await, 200);
            // Calling is no change.
            rows.as_array_mut().unwrap().iter_mut().for_each(|row| row["last_used_at"] = Value::Null);
            all.push(rows);
        }
        all
    };
    let before = list().await;
    for (method, path, body) in refused_changes.clone() {
        let answer = admin.call(method.clone(), path, body).await;
        refused(&answer, 503, "UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("60"), "{method} {path}");
        assert!(answer.text.contains("read-only mode for maintenance"), "{}", answer.text);
    }
    assert_eq!(list().await, before);
    let events = done(admin.get("/audit-logs?outcome=failed&limit=100").await, 200);
    assert_eq!(events.as_array().unwrap().len(), refused_changes.len(), "each refusal is recorded");
    done(server.configure(json!({"maintenance": {"message": "Back at noon."}})).await, 200);
    let told = admin.post("/users", json!({"name": "n", "email": "a@b"})).await;
    assert_eq!(told.json["error"]["message"], "Back at noon.");

    // What takes access away.
    done(admin.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200);
    refused(&admin.patch("/api-keys/key_1", json!({"status": "active"})).await, 503, "UNAVAILABLE");
    done(admin.delete("/api-keys/key_2").await, 200);
    done(admin.post("/api-keys/key_3/revoke", json!({"reason": "leaked"})).await, 200);
    // And what only asks.
    let request = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": secret}));
    assert_eq!(done(admin.send(request).await, 200)["valid"], true);
    tollhouse::service::usage::flush(&server.app).await.unwrap();
    assert_eq!(done(admin.get("/analytics/usage").await, 200)["totals"]["requests"], 1);
    assert_eq!(done(admin.get("/audit-logs/verify").await, 200)["valid"], true);
    assert_eq!(server.admin().get_at_root("/readyz").await.status, 200);

    done(server.configure(json!({"maintenance": {"read_only": false}})).await, 200);
    done(admin.post("/users", json!({"name": "n", "email": "a@b"})).await, 201);
}

/// What is under way when it begins is decided by it: nothing comes about after its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_in_flight_comes_about_afterwards() {
    let server = world().await;
    let count = async || {
        let count = server.app.db.read(tollhouse::store::overview::organizations).await;
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
        done(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
        let then = count().await;
        for caller in callers {
            let status = caller.await.unwrap();
            assert!([201, 503].contains(&status), "{status}");
        }
        assert_eq!(count().await, then);
        done(server.configure(json!({"maintenance": {"read_only": false}})).await, 200);
    }
}

#[tokio::test]
async fn in_a_batch_each_operation_is_refused_for_itself() {
    let server = world().await;
    let admin = server.admin();
    done(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
    let operations = json!([
        {"method": "PATCH", "path": "/organizations/org_1", "body": {"name": "x"}},
        {"method": "DELETE", "path": "/api-keys/key_1"},
        {"method": "GET", "path": "/organizations/org_1"},
    ]);
    let batch = |atomic| json!({"atomic": atomic, "operations": operations});
    refused(&admin.post("/batch", batch(true)).await, 503, "UNAVAILABLE");
    assert_eq!(done(admin.get("/api-keys/key_1").await, 200)["status"], "active");
    let results = done(admin.post("/batch", batch(false)).await, 200)["results"].clone();
    let statuses: Vec<_> = results.as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, [503, 200, 200], "{results}");
    assert_eq!(done(admin.get("/api-keys/key_1").await, 200)["status"], "revoked");
}
