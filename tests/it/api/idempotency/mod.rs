//! `Idempotency-Key`: a repeated request gets the stored response and is not executed again.

mod stored;

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{column, expect_error, expect_ok};
use crate::example_calls::{Fixture, example_calls};
use crate::support::{ADMIN_KEY, Answer, Client, Server};

async fn post(client: &Client, key: &str, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

fn user(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.com")})
}

fn key() -> Value {
    json!({"name": "n", "scopes": ["workflows:read"]})
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// Asserts that `second` is a replay of `first`: the same status, data and ETag.
#[track_caller]
fn expect_replay(first: &Answer, second: &Answer) {
    assert!(!is_replay(first) && is_replay(second), "{first:?} {second:?}");
    assert_eq!((first.status, &first.json["data"]), (second.status, &second.json["data"]), "{second:?}");
    assert_eq!(first.json["error"], second.json["error"]);
    assert_eq!(first.header("etag"), second.header("etag"));
    assert_ne!(first.json["metadata"]["requestId"], second.json["metadata"]["requestId"]);
    assert_eq!(second.json["metadata"]["requestId"], json!(second.header("x-request-id")));
    assert_eq!(second.header("cache-control"), Some("no-store"));
}

async fn emails(client: &Client) -> Vec<String> {
    column(client.get("/users?limit=100").await.data(), "email")
}

#[tokio::test]
async fn the_same_request_is_executed_once() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = post(&admin, "a", "/users", &user("one")).await;
    assert_eq!(first.status, 201);
    for _ in 0..3 {
        expect_replay(&first, &post(&admin, "a", "/users", &user("one")).await);
    }
    assert_eq!(emails(&admin).await, ["one@example.com"]);
    // The replay returns the stored response although the user has changed.
    let id = first.data()["id"].as_str().unwrap();
    expect_ok(admin.patch(&format!("/users/{id}"), json!({"name": "renamed"})).await, 200);
    expect_replay(&first, &post(&admin, "a", "/users", &user("one")).await);
    // Without a key, and with another one, the request is executed.
    expect_error(&admin.post("/users", user("one")).await, 409, "ALREADY_EXISTS");
    expect_error(&post(&admin, "b", "/users", &user("one")).await, 409, "ALREADY_EXISTS");
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    expect_ok(post(&admin, "a", "/users", &user("one")).await, 201);
    for (path, body) in [("/users", user("two")), ("/api-keys", user("one")), ("/users?x=1", user("one"))] {
        let answer = post(&admin, "a", path, &body).await;
        expect_error(&answer, 422, "IDEMPOTENCY_MISMATCH");
        assert!(!is_replay(&answer));
    }
    assert_eq!(emails(&admin).await, ["one@example.com"]);
    // Idempotency keys of different API keys are independent.
    let (other, _) = server.key(None, &["admin:users"]).await;
    assert!(!is_replay(&post(&other, "a", "/users", &user("two")).await));
    assert_eq!(emails(&admin).await.len(), 2);
}

#[tokio::test]
async fn a_running_request_is_not_started_again() {
    let server = Server::start().await;
    let admin = server.admin();
    let running = server.running(ADMIN_KEY, "a").await;
    expect_error(&post(&admin, "a", "/users", &user("one")).await, 409, "CONFLICT");
    assert_eq!(post(&admin, "b", "/users", &user("two")).await.status, 201);
    let (other, _) = server.key(None, &["admin:users"]).await;
    assert_eq!(post(&other, "a", "/users", &user("three")).await.status, 201);
    drop(running);
    // The refusal did not come from the operation, so it was not stored.
    assert_eq!(post(&admin, "a", "/users", &user("one")).await.status, 201);
    assert!(server.app.in_flight.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_are_executed_once() {
    let server = Server::start().await;
    for round in 0..20 {
        let name = format!("round{round}");
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let admin = server.admin();
                let name = name.clone();
                tokio::spawn(async move { post(&admin, &name, "/users", &user(&name)).await })
            })
            .collect();
        let mut executed = 0;
        let mut ids = BTreeSet::new();
        for call in calls {
            let answer = call.await.unwrap();
            match answer.status {
                201 => {
                    executed += usize::from(!is_replay(&answer));
                    ids.insert(answer.data()["id"].as_str().unwrap().to_owned());
                }
                _ => expect_error(&answer, 409, "CONFLICT"),
            }
        }
        assert_eq!((executed, ids.len()), (1, 1));
    }
    assert_eq!(emails(&server.admin()).await.len(), 20);
    assert!(server.app.in_flight.is_empty());
}

/// Responses of the operation, also 404 and 409, are stored. Refusals before the operation are not.
#[tokio::test]
async fn only_responses_of_the_operation_are_stored() {
    let server = Server::start().await;
    let admin = server.admin();
    let member = json!({"user_id": "user_1", "role": "member"});
    let missing = post(&admin, "404", "/organizations/org_1/members", &member).await;
    expect_error(&missing, 404, "NOT_FOUND");
    server.organization("org_1").await;
    server.user("user_1").await;
    expect_replay(&missing, &post(&admin, "404", "/organizations/org_1/members", &member).await);

    let taken = json!({"id": "org_1", "name": "n", "email": "a@b.example"});
    let conflict = post(&admin, "409", "/organizations", &taken).await;
    expect_error(&conflict, 409, "ALREADY_EXISTS");
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    expect_replay(&conflict, &post(&admin, "409", "/organizations", &taken).await);

    // 400, 403 and 415.
    expect_error(&post(&admin, "400", "/users", &json!({})).await, 400, "INVALID_REQUEST");
    assert_eq!(post(&admin, "400", "/users", &user("one")).await.status, 201);
    let (weak, key) = server.key(None, &["admin:orgs"]).await;
    expect_error(&post(&weak, "403", "/users", &user("two")).await, 403, "INSUFFICIENT_SCOPE");
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    expect_ok(admin.patch(&path, json!({"scopes": ["admin:users"]})).await, 200);
    assert_eq!(post(&weak, "403", "/users", &user("two")).await.status, 201);
    let request = admin.request(Method::POST, "/users").header("idempotency-key", "415").body("{}");
    assert_eq!(admin.send(request).await.status, 415);
    assert_eq!(post(&admin, "415", "/users", &user("three")).await.status, 201);
    // 412.
    let revoke = |etag: &str| {
        let request = admin.request(Method::POST, &format!("{path}/revoke"));
        request.header("idempotency-key", "412").header("if-match", etag.to_owned()).json(&json!({}))
    };
    assert_eq!(admin.send(revoke("\"0-0\"")).await.status, 412);
    assert_eq!(admin.send(revoke("*")).await.status, 200);
}

#[tokio::test]
async fn an_invalid_idempotency_key_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    for key in ["", &"x".repeat(256), "k\u{e4}se"] {
        let answer = post(&admin, key, "/users", &user("one")).await;
        expect_error(&answer, 400, "INVALID_REQUEST");
        assert_eq!(answer.details(), [("Idempotency-Key".to_owned(), "INVALID_HEADER".to_owned())]);
    }
    let twice = admin.request(Method::POST, "/users").header("idempotency-key", "a");
    expect_error(
        &admin.send(twice.header("idempotency-key", "b").json(&user("one"))).await,
        400,
        "INVALID_REQUEST",
    );
    let longest = "x".repeat(255);
    assert_eq!(post(&admin, &longest, "/users", &user("one")).await.status, 201);
    assert!(is_replay(&post(&admin, &longest, "/users", &user("one")).await));
    // A GET ignores the header.
    assert_eq!(
        admin.send(admin.request(Method::GET, "/users").header("idempotency-key", "")).await.status,
        200
    );
}

#[tokio::test]
async fn every_post_of_the_control_plane_is_executed_once() {
    let fixture = Fixture::new().await;
    let admin = fixture.server.admin();
    let posts = example_calls().into_iter().filter(|call| call.route.is_idempotent_by_key());
    let posts: Vec<_> = posts.collect();
    for call in &posts {
        let path = fixture.path(call);
        let path = path.strip_prefix("/admin/v1").unwrap();
        let body = fixture.body(call).unwrap_or_default();
        let first = post(&admin, path, path, &body).await;
        assert!(first.status < 300, "{path}: {first:?}");
        expect_replay(&first, &post(&admin, path, path, &body).await);
    }
    let events = admin.get("/audit-logs?limit=100").await;
    let actions = column(events.data(), "action");
    let count = |expected: &str| actions.iter().filter(|action| *action == expected).count();
    assert_eq!(count("request.replayed"), posts.len());
    // The fixture has a scope of its own.
    assert_eq!((count("api_key.rotate"), count("scope.create"), count("batch.run")), (1, 2, 1));
}

#[tokio::test]
async fn the_response_of_a_failed_batch_is_stored_completely() {
    let server = Server::start().await;
    let admin = server.admin();
    let missing = json!({"operations": [
        {"method": "POST", "path": "/users", "body": user("one")}, {"method": "GET", "path": "/users/user_9"}]});
    let first = post(&admin, "a", "/batch", &missing).await;
    expect_error(&first, 409, "BATCH_FAILED");
    let events = admin.get("/audit-logs?limit=100").await.data().clone();
    let failed: Vec<_> = column(&events, "code").into_iter().filter(|code| !code.is_empty()).collect();
    assert_eq!(failed, ["BATCH_FAILED", "NOT_FOUND", "FAILED_DEPENDENCY"]);
    server.user("user_9").await;
    expect_replay(&first, &post(&admin, "a", "/batch", &missing).await);
    assert_eq!(emails(&admin).await, ["user_9@example.com"]);
}

#[tokio::test]
async fn a_replay_is_recorded_as_a_read() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    let first = post(&org_client, "a", "/users", &user("one")).await;
    let second = post(&org_client, "a", "/users", &user("one")).await;
    expect_replay(&first, &second);
    for client in [&admin, &org_client] {
        let events = client.get("/audit-logs?action=request.replayed&org_id=org_1").await;
        let event = &events.data()[0];
        let recorded = [&event["access"], &event["outcome"], &event["code"], &event["context"]["method"]];
        assert_eq!(recorded, [&json!("read"), &json!("success"), &Value::Null, &json!("POST")]);
        assert_eq!((&event["changes"], &event["context"]["status"]), (&json!([]), &json!(201)));
        assert_eq!(event["context"]["request_id"], json!(second.header("x-request-id")));
    }
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
}

/// A replay authorizes the caller again: a caller that has lost access does not get the stored response.
#[tokio::test]
async fn a_replay_authorizes_the_caller_again() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    for (path, body, status, code) in [
        ("key", json!({"scopes": ["admin:users"]}), 403, "INSUFFICIENT_SCOPE"),
        ("key", json!({"allowed_ips": ["192.0.2.1"]}), 403, "IP_NOT_ALLOWED"),
        ("key", json!({"status": "disabled"}), 401, "INVALID_API_KEY"),
        ("org", json!({"status": "suspended"}), 401, "INVALID_API_KEY"),
    ] {
        let (client, resource) = server.key(Some("org_1"), &["admin:keys"]).await;
        let first = post(&client, "a", "/api-keys", &key()).await;
        expect_replay(&first, &post(&client, "a", "/api-keys", &key()).await);
        let id = resource["id"].as_str().unwrap();
        let path = if path == "key" { format!("/api-keys/{id}") } else { "/organizations/org_1".to_owned() };
        expect_ok(admin.patch(&path, body).await, 200);
        expect_error(&post(&client, "a", "/api-keys", &key()).await, status, code);
    }
}

/// A batch itself requires no scope, so a replay checks the scopes that its operations required.
#[tokio::test]
async fn the_secret_of_a_batch_is_not_replayed_to_a_caller_without_the_scope() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (client, resource) = server.key(Some("org_1"), &["admin:keys"]).await;
    let batch = json!({"operations": [{"method": "POST", "path": "/api-keys", "body": key()}]});
    let first = post(&client, "a", "/batch", &batch).await;
    expect_replay(&first, &post(&client, "a", "/batch", &batch).await);
    let path = format!("/api-keys/{}", resource["id"].as_str().unwrap());
    expect_ok(server.admin().patch(&path, json!({"scopes": ["admin:users"]})).await, 200);
    expect_error(&post(&client, "a", "/batch", &batch).await, 403, "INSUFFICIENT_SCOPE");
}

#[tokio::test]
async fn a_response_with_a_secret_is_replayed_only_to_the_secret_that_received_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let (client, resource) = server.key(None, &["*"]).await;
    let secret = post(&client, "secret", "/api-keys", &key()).await;
    expect_replay(&secret, &post(&client, "secret", "/api-keys", &key()).await);
    let plain = post(&client, "plain", "/users", &user("one")).await;
    let rotate = format!("/api-keys/{}/rotate", resource["id"].as_str().unwrap());
    let rotated = expect_ok(admin.post(&rotate, json!({})).await, 200);
    let rotated_client = server.client(rotated["key"].as_str());
    // The previous secret still reads the responses that it received, unless they give access.
    expect_replay(&plain, &post(&client, "plain", "/users", &user("one")).await);
    expect_error(&post(&client, "secret", "/api-keys", &key()).await, 403, "SECRET_SUPERSEDED");
    // With the new secret it is the same caller, so the request is not executed again, but the stored response
    // can't be decrypted.
    let answer = post(&rotated_client, "secret", "/api-keys", &key()).await;
    expect_error(&answer, 409, "CONFLICT");
    assert!(
        answer.json["error"]["message"].as_str().unwrap().contains("The request succeeded earlier"),
        "{answer:?}"
    );
    expect_replay(&plain, &post(&rotated_client, "plain", "/users", &user("one")).await);
    expect_error(
        &post(&rotated_client, "secret", "/api-keys", &user("x")).await,
        422,
        "IDEMPOTENCY_MISMATCH",
    );
    assert_eq!(column(admin.get("/api-keys").await.data(), "id").len(), 3);
}
