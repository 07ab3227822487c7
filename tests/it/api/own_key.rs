//! `/v1/keys/self`: what a key sees of itself, and how it revokes and rotates itself.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::api_keys::in_seconds;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Answer, Client, Server};

async fn read(client: &Client) -> Answer {
    client.send(client.request_at_root(Method::GET, "/v1/keys/self")).await
}

async fn post(client: &Client, action: &str, body: Option<Value>) -> Answer {
    let request = client.request_at_root(Method::POST, &format!("/v1/keys/self/{action}"));
    client.send(body.iter().fold(request, |request, body| request.json(body))).await
}

async fn revoke(client: &Client) -> Answer {
    post(client, "revoke", None).await
}

async fn rotate(client: &Client, grace_period_seconds: u32) -> Answer {
    post(client, "rotate", Some(json!({"grace_period_seconds": grace_period_seconds}))).await
}

/// Verifies the client's key; returns `data`.
async fn verify(server: &Server, client: &Client, costs: Value, dry_run: bool) -> Value {
    let admin = server.admin();
    let body = json!({"key": client.key, "ip": "127.0.0.1", "costs": costs, "dry_run": dry_run});
    expect_ok(admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await, 200)
}

async fn code(server: &Server, client: &Client) -> Value {
    verify(server, client, json!({}), true).await["code"].clone()
}

/// The events of the audit log about this key, newest first.
async fn events(server: &Server, id: &str) -> Vec<Value> {
    let events =
        expect_ok(server.admin().get(&format!("/audit-logs?target_id={id}&access=write")).await, 200);
    events.as_array().unwrap().clone()
}

/// Creates the key `key_own` of `org_1` that can rotate itself.
async fn own_key(server: &Server, fields: Value) -> Client {
    server.organization("org_1").await;
    let mut body = json!({"id": "key_own", "organization_id": "org_1", "name": "own", "scopes": ["workflows:*"],
        "self_rotation": true});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.key_with(body).await.0
}

#[tokio::test]
async fn a_key_reads_itself_and_how_its_limits_stand() {
    let server = Server::start().await;
    let limits = json!([{"limit": 5, "window_seconds": 60}, {"limit": 9, "period": "total"}]);
    let client = own_key(&server, json!({"limits": limits, "expires_at": in_seconds(1000)})).await;
    assert_eq!(verify(&server, &client, json!({"requests": 2}), false).await["valid"], true);
    let expected = json!({
        "key_id": "key_own", "name": "own", "organization_id": "org_1", "scopes": ["workflows:*"],
        "expires_at": in_seconds(1000), "secret": {"superseded": false, "expires_at": null},
        "limits": verify(&server, &client, json!({}), true).await["limits"],
    });
    let remaining: Vec<_> =
        expected["limits"].as_array().unwrap().iter().map(|limit| &limit["remaining"]).collect();
    assert_eq!(remaining, [&json!(3), &json!(7), &json!(998)]);
    let events_before = events(&server, "key_own").await.len();
    for _ in 0..7 {
        let answer = read(&client).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-request-id"), answer.json["metadata"]["requestId"].as_str());
        assert_eq!(expect_ok(answer, 200), expected, "nothing is charged");
    }
    let head = client.send(client.request_at_root(Method::HEAD, "/v1/keys/self")).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    // Neither audited nor counted.
    tollhouse::service::usage::flush(&server.app).await.unwrap();
    let usage = expect_ok(server.admin().get("/analytics/usage?key_id=key_own").await, 200);
    assert_eq!(usage["totals"]["requests"], 1);
    server.advance(Duration::from_secs(60));
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
    assert_eq!(events(&server, "key_own").await.len(), events_before);
    assert_eq!(expect_ok(server.admin().get("/audit-logs?actor_id=key_own").await, 200), json!([]));

    // A platform key has no organization, no expiry and no limits.
    let platform = server.own_key().await;
    let own = expect_ok(read(&platform).await, 200);
    assert_eq!([&own["organization_id"], &own["expires_at"]], [&Value::Null; 2]);
    assert_eq!([&own["limits"], &own["scopes"]], [&json!([]); 2]);
    expect_error(
        &platform.send(platform.request_at_root(Method::GET, "/v1/keys/self?a=1")).await,
        400,
        "INVALID_REQUEST",
    );
}

#[tokio::test]
async fn the_key_is_a_bearer_token_or_in_x_api_key() {
    let server = Server::start().await;
    let client = server.own_key().await;
    let other = server.own_key().await;
    let secret = client.key.as_deref().unwrap();
    let anonymous = server.anonymous();
    let with = |client: &Client, method: Method, path: &str, key: &str| {
        client.request_at_root(method, path).header("x-api-key", key)
    };
    let self_path = "/v1/keys/self";
    expect_ok(anonymous.send(with(&anonymous, Method::GET, self_path, secret)).await, 200);
    expect_ok(client.send(with(&client, Method::GET, self_path, secret)).await, 200);
    let different = other.send(with(&other, Method::GET, self_path, secret)).await;
    expect_error(&different, 401, "UNAUTHENTICATED");
    let twice = with(&anonymous, Method::GET, self_path, secret).header("x-api-key", secret);
    expect_error(&anonymous.send(twice).await, 401, "UNAUTHENTICATED");
    let unknown = anonymous.send(with(&anonymous, Method::GET, self_path, &format!("{secret}x"))).await;
    expect_error(&unknown, 401, "INVALID_API_KEY");
    for path in [self_path, "/v1/keys/self/revoke", "/v1/keys/self/rotate"] {
        let method = if path == self_path { Method::GET } else { Method::POST };
        expect_error(&anonymous.send(anonymous.request_at_root(method, path)).await, 401, "UNAUTHENTICATED");
    }
    // Elsewhere in the Admin API the header is no credential.
    expect_error(
        &anonymous.send(anonymous.request(Method::GET, "/whoami").header("x-api-key", secret)).await,
        401,
        "UNAUTHENTICATED",
    );
    let rotated = anonymous.send(with(&anonymous, Method::POST, "/v1/keys/self/rotate", secret)).await;
    let renewed = client.with_key(expect_ok(rotated, 200)["key"].as_str().unwrap());
    expect_ok(read(&renewed).await, 200);
    let revoked = with(&anonymous, Method::POST, "/v1/keys/self/revoke", renewed.key.as_deref().unwrap());
    assert_eq!(expect_ok(anonymous.send(revoked).await, 200)["status"], "revoked");
}

#[tokio::test]
async fn i3_a_key_that_revokes_itself_is_dead_on_the_next_request() {
    let server = Server::start().await;
    let client = own_key(&server, json!({})).await;
    let (other, _) = server.key(Some("org_1"), &[]).await;
    for (body, details) in [
        (json!({"id": "key_other"}), ("/id", "UNKNOWN_FIELD")),
        (json!({"reason": "r".repeat(201)}), ("/reason", "INVALID_LENGTH")),
    ] {
        expect_invalid(&post(&client, "revoke", Some(body)).await, &[details]);
    }
    let query = client.request_at_root(Method::POST, "/v1/keys/self/revoke?id=key_other");
    expect_error(&client.send(query).await, 400, "INVALID_REQUEST");
    assert_eq!(code(&server, &client).await, "VALID");
    let revoked = post(&client, "revoke", Some(json!({"reason": "Leaked in a log"}))).await;
    assert!(revoked.header("etag").is_some());
    let revoked = expect_ok(revoked, 200);
    assert_eq!((&revoked["id"], &revoked["status"]), (&json!("key_own"), &json!("revoked")));
    assert_eq!(code(&server, &client).await, "REVOKED");
    for answer in [read(&client).await, revoke(&client).await, rotate(&client, 0).await] {
        expect_error(&answer, 401, "INVALID_API_KEY");
    }
    assert_eq!(expect_ok(server.admin().get("/api-keys/key_own").await, 200), revoked);
    assert_eq!(revoked["revoked_reason"], "Leaked in a log");
    assert_eq!(code(&server, &other).await, "VALID");
    let events = events(&server, "key_own").await;
    let event = &events[0];
    assert_eq!((&event["action"], &event["outcome"]), (&json!("api_key.revoke"), &json!("success")));
    assert_eq!((&event["actor"]["type"], &event["actor"]["id"]), (&json!("api_key"), &json!("key_own")));
    assert_eq!(event["organization_id"], "org_1");
    assert_eq!(event["context"]["path"], "/v1/keys/self/revoke");
}

#[tokio::test]
async fn i4_a_previous_secret_ends_only_itself() {
    let server = Server::start().await;
    let old = own_key(&server, json!({})).await;
    let rotated = expect_ok(rotate(&old, 3600).await, 200);
    let new = old.with_key(rotated["key"].as_str().unwrap());
    let secret =
        |superseded: bool, expires_at: Value| json!({"superseded": superseded, "expires_at": expires_at});
    assert_eq!(expect_ok(read(&old).await, 200)["secret"], secret(true, json!(in_seconds(3600))));
    assert_eq!(expect_ok(read(&new).await, 200)["secret"], secret(false, Value::Null));
    expect_error(&rotate(&old, 3600).await, 403, "SECRET_SUPERSEDED");
    assert_eq!((code(&server, &old).await, code(&server, &new).await), (json!("VALID"), json!("VALID")));

    let ended = expect_ok(post(&old, "revoke", Some(json!({"reason": "r"}))).await, 200);
    assert_eq!((&ended["status"], &ended["revoked_reason"]), (&json!("active"), &Value::Null));
    assert_eq!(ended["previous_secret_expires_at"], Value::Null);
    assert_eq!((code(&server, &old).await, code(&server, &new).await), (json!("EXPIRED"), json!("VALID")));
    expect_error(&revoke(&old).await, 401, "INVALID_API_KEY");
    let events = events(&server, "key_own").await;
    let actions: Vec<_> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["api_key.expire_previous", "api_key.rotate", "api_key.create"]);
    assert_eq!(events[0]["actor"]["id"], "key_own");
    assert_eq!(events[0]["context"]["path"], "/v1/keys/self/revoke");
}

#[tokio::test]
async fn a_key_rotates_itself_if_that_is_allowed() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = own_key(&server, json!({"self_rotation": false, "expires_at": in_seconds(600)})).await;
    assert_eq!(expect_ok(admin.get("/api-keys/key_own").await, 200)["self_rotation"], false);
    let refused = rotate(&client, 60).await;
    expect_error(&refused, 403, "SELF_ROTATION_NOT_ALLOWED");
    assert!(refused.json["error"]["message"].as_str().unwrap().contains("self_rotation"));
    let invalid = admin.patch("/api-keys/key_own", json!({"self_rotation": "yes"})).await;
    expect_invalid(&invalid, &[("/self_rotation", "INVALID_TYPE")]);
    let allowed = expect_ok(admin.patch("/api-keys/key_own", json!({"self_rotation": true})).await, 200);
    assert_eq!(allowed["self_rotation"], true);
    let change = json!([{"field": "self_rotation", "from": false, "to": true}]);
    assert_eq!(events(&server, "key_own").await[0]["changes"], change);

    for (body, details) in [
        (json!({"grace_period_seconds": 604_801}), ("/grace_period_seconds", "INVALID_VALUE")),
        (json!({"expires_at": null}), ("/expires_at", "UNKNOWN_FIELD")),
    ] {
        expect_invalid(&post(&client, "rotate", Some(body)).await, &[details]);
    }
    // Without a body, the grace period is a day. It ends with the key, whose expiry stays.
    let answer = post(&client, "rotate", None).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let rotated = expect_ok(answer, 200);
    assert_eq!(rotated["expires_at"], in_seconds(600));
    assert_eq!(rotated["previous_secret_expires_at"], in_seconds(600));
    let second = client.with_key(rotated["key"].as_str().unwrap());
    assert_eq!(
        (code(&server, &client).await, code(&server, &second).await),
        (json!("VALID"), json!("VALID"))
    );
    let rotated = expect_ok(rotate(&second, 0).await, 200);
    let third = client.with_key(rotated["key"].as_str().unwrap());
    for (secret, expected) in [(&client, "EXPIRED"), (&second, "EXPIRED"), (&third, "VALID")] {
        assert_eq!(code(&server, secret).await, expected);
    }
    let event = events(&server, "key_own").await.remove(0);
    assert_eq!((&event["action"], &event["actor"]["id"]), (&json!("api_key.rotate"), &json!("key_own")));
    assert_eq!(event["context"]["path"], "/v1/keys/self/rotate");

    expect_ok(admin.patch("/api-keys/key_own", json!({"self_rotation": false})).await, 200);
    expect_error(&rotate(&third, 0).await, 403, "SELF_ROTATION_NOT_ALLOWED");
    assert_eq!(code(&server, &third).await, "VALID");
}

/// A retry can't rotate twice: it comes with a secret that is superseded.
#[tokio::test]
async fn a_repeated_rotation_is_refused() {
    let server = Server::start().await;
    let client = own_key(&server, json!({})).await;
    let send = || {
        let request = client.request_at_root(Method::POST, "/v1/keys/self/rotate");
        client.send(request.header("idempotency-key", "1"))
    };
    let renewed = client.with_key(expect_ok(send().await, 200)["key"].as_str().unwrap());
    expect_error(&send().await, 403, "SECRET_SUPERSEDED");
    assert_eq!(code(&server, &renewed).await, "VALID");
    // A batch has only operations of the Admin API.
    let operation = json!({"method": "POST", "path": "/v1/keys/self/revoke"});
    let batch = server.admin().post("/batch", json!({"atomic": false, "operations": [operation]})).await;
    let result = &expect_ok(batch, 200)["results"][0];
    assert_eq!(result["status"], 404);
    let message = result["body"]["error"]["message"].as_str().unwrap();
    assert!(message.contains("only operations of the Admin API"), "{message}");
}

#[tokio::test]
async fn a_request_without_a_key_is_told_how_to_send_one() {
    let server = Server::start().await;
    let answer = read(&server.anonymous()).await;
    expect_error(&answer, 401, "UNAUTHENTICATED");
    let message = "Send your API key as Authorization: Bearer <key> or X-Api-Key: <key>.";
    assert_eq!(answer.json["error"]["message"], message);
}

#[tokio::test]
async fn to_allow_self_rotation_requires_what_creating_the_key_would() {
    let server = Server::start().await;
    own_key(&server, json!({"self_rotation": false})).await;
    let manager = json!({"organization_id": "org_1", "name": "n", "scopes": ["admin:keys"],
        "expires_at": in_seconds(600)});
    let (manager, _) = server.key_with(manager).await;
    // The key outlives its manager, who could keep access through it.
    let allow = json!({"self_rotation": true});
    expect_error(&manager.patch("/api-keys/key_own", allow.clone()).await, 403, "INSUFFICIENT_SCOPE");
    let new = json!({"name": "n", "scopes": [], "expires_at": in_seconds(600), "self_rotation": true});
    assert_eq!(expect_ok(manager.post("/api-keys", new).await, 201)["self_rotation"], true);
    expect_ok(server.admin().patch("/api-keys/key_own", allow).await, 200);
    expect_ok(manager.patch("/api-keys/key_own", json!({"self_rotation": false})).await, 200);
}

#[tokio::test]
async fn the_last_platform_key_cannot_revoke_itself() {
    let server = Server::start().await;
    let admin = server.admin();
    expect_error(&revoke(&admin).await, 409, "CONFLICT");
    expect_ok(admin.get("/whoami").await, 200);
    let (other, _) = server.key(None, &["*"]).await;
    expect_ok(revoke(&admin).await, 200);
    expect_error(&admin.get("/whoami").await, 401, "INVALID_API_KEY");
    expect_error(&revoke(&other).await, 409, "CONFLICT");
}

#[tokio::test]
async fn a_key_that_is_not_valid_gets_the_refusal_of_the_admin_api() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(admin.post("/organizations/org_1/members", member).await, 201);
    let owned = json!({"id": "key_own", "organization_id": "org_1", "user_id": "user_1", "name": "own",
        "scopes": [], "self_rotation": true, "expires_at": in_seconds(600)});
    let (client, _) = server.key_with(owned).await;
    let refused = async |status: u16, code: &str| {
        for answer in [read(&client).await, revoke(&client).await, rotate(&client, 0).await] {
            expect_error(&answer, status, code);
        }
    };
    let key = "/api-keys/key_own";
    let organization = "/organizations/org_1";
    let user = "/users/user_1";
    let active = json!({"status": "active"});
    let suspended = json!({"status": "suspended"});
    let other_address = json!({"allowed_ips": ["192.0.2.1"]});
    for (path, patch, undo, status, code) in [
        (key, json!({"status": "disabled"}), active.clone(), 401, "INVALID_API_KEY"),
        (organization, suspended.clone(), active.clone(), 401, "INVALID_API_KEY"),
        (user, suspended, active, 401, "INVALID_API_KEY"),
        (key, other_address, json!({"allowed_ips": null}), 403, "IP_NOT_ALLOWED"),
    ] {
        expect_ok(admin.patch(path, patch).await, 200);
        refused(status, code).await;
        expect_ok(admin.patch(path, undo).await, 200);
        expect_ok(read(&client).await, 200);
    }
    server.advance(Duration::from_secs(600));
    refused(401, "INVALID_API_KEY").await;
}

#[tokio::test]
async fn read_only_mode_refuses_only_the_rotation() {
    let server = Server::start().await;
    let admin = server.admin();
    let old = own_key(&server, json!({})).await;
    let new = old.with_key(expect_ok(rotate(&old, 60).await, 200)["key"].as_str().unwrap());
    expect_ok(server.configure(json!({"maintenance": {"read_only": true}})).await, 200);
    expect_error(&rotate(&new, 0).await, 503, "UNAVAILABLE");
    expect_error(
        &admin.patch("/api-keys/key_own", json!({"self_rotation": true, "name": "x"})).await,
        503,
        "UNAVAILABLE",
    );
    expect_ok(read(&new).await, 200);
    assert_eq!(expect_ok(revoke(&old).await, 200)["status"], "active");
    // To end self-rotation only takes away, to allow it again doesn't.
    expect_ok(admin.patch("/api-keys/key_own", json!({"self_rotation": false})).await, 200);
    expect_error(&admin.patch("/api-keys/key_own", json!({"self_rotation": true})).await, 503, "UNAVAILABLE");
    assert_eq!(expect_ok(revoke(&new).await, 200)["status"], "revoked");
}

#[tokio::test]
async fn calls_are_limited_for_each_key() {
    let server = Server::start().await;
    let client = own_key(&server, json!({})).await;
    let other = server.own_key().await;
    for _ in 0..60 {
        expect_ok(read(&client).await, 200);
    }
    for answer in [read(&client).await, revoke(&client).await, rotate(&client, 0).await] {
        expect_error(&answer, 429, "RATE_LIMITED");
        assert_eq!(answer.header("retry-after"), Some("1"));
        let policies = "\"self\";q=60;w=60, \"self-organization\";q=300;w=60";
        assert_eq!(answer.header("ratelimit-policy"), Some(policies));
        assert_eq!(answer.header("ratelimit"), Some("\"self\";r=0;t=1, \"self-organization\";r=240;t=1"));
    }
    assert_eq!(code(&server, &client).await, "VALID");
    expect_ok(read(&other).await, 200);
    server.advance(Duration::from_secs(1));
    let new = client.with_key(expect_ok(rotate(&client, 3600).await, 200)["key"].as_str().unwrap());
    // The previous secret can't use up the calls of the current one.
    server.advance(Duration::from_secs(60));
    for _ in 0..60 {
        expect_ok(read(&client).await, 200);
    }
    expect_error(&read(&client).await, 429, "RATE_LIMITED");
    assert_eq!(expect_ok(revoke(&new).await, 200)["status"], "revoked");
}

#[tokio::test]
async fn failed_attempts_count_for_the_client_address() {
    let server = Server::with(|config| config.rate_limits.failed_auth_per_minute = 2).await;
    let client = server.own_key().await;
    let unknown = server.client(Some("no-such-key-0123456789-0123456789"));
    for (status, code) in [(401, "INVALID_API_KEY"), (401, "INVALID_API_KEY"), (429, "RATE_LIMITED")] {
        expect_error(&read(&unknown).await, status, code);
    }
    expect_error(&revoke(&unknown).await, 429, "RATE_LIMITED");
    expect_ok(read(&client).await, 200);
}
