//! `WWW-Authenticate` of refusals with `INSUFFICIENT_SCOPE` (RFC 6750 §3): every surface names the missing scope.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::json;

use super::{expect_error, expect_ok};
use crate::support::{Answer, Client, Server};

/// The challenge of a response that has exactly one.
fn challenge(answer: &Answer) -> &str {
    let values: Vec<_> = answer.headers.get_all(WWW_AUTHENTICATE).iter().collect();
    assert_eq!(values.len(), 1, "{answer:?}");
    values[0].to_str().unwrap()
}

#[track_caller]
fn expect_missing(answer: &Answer, scope: &str) {
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(challenge(answer), format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""));
    assert!(answer.text.contains(scope), "the message must name it, too: {answer:?}");
}

/// Asserts that the key exceeds its rights, but lacks no scope that could be named.
#[track_caller]
fn expect_unnamed(answer: &Answer) {
    assert_eq!(
        (answer.status, challenge(answer)),
        (403, "Bearer error=\"insufficient_scope\""),
        "{answer:?}"
    );
}

async fn forward_auth(client: &Client, query: &str) -> Answer {
    client.send(client.request_at_root(Method::GET, &format!("/v1/forward-auth{query}"))).await
}

#[tokio::test]
async fn the_admin_api_names_the_missing_scope() {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(server.admin().post("/organizations/org_1/members", member).await, 201);
    let owned =
        json!({"organization_id": "org_1", "user_id": "user_1", "name": "n", "scopes": ["admin:audit"]});
    server.key_with(owned).await;
    let (none, _) = server.key(None, &[]).await;
    expect_missing(&none.get("/users").await, "admin:users");
    expect_missing(&none.post("/users", json!({"name": 1})).await, "admin:users");
    // Any of two scopes would do; the first is named.
    expect_missing(&none.get("/analytics/overview").await, "admin:analytics");

    let (keys, _) = server.key(None, &["admin:keys", "admin:users"]).await;
    for (wanted, missing) in [
        (json!(["workflows:read", "admin:orgs"]), "admin:orgs"),
        (json!(["admin:*"]), "admin:*"),
        (json!(["*"]), "*"),
    ] {
        expect_missing(&keys.post("/api-keys", json!({"name": "n", "scopes": wanted})).await, missing);
    }
    expect_missing(&keys.patch("/users/user_1", json!({"status": "suspended"})).await, "admin:audit");

    let limited = json!({"name": "n", "scopes": ["admin:keys"], "expires_at": "2030-01-01T00:00:00Z"});
    let (limited, _) = server.key_with(limited).await;
    let longer = limited.post("/api-keys", json!({"name": "n", "scopes": []})).await;
    expect_error(&longer, 403, "INSUFFICIENT_SCOPE");
    expect_unnamed(&longer);

    // Other refusals with 403 have no challenge: no scope would help.
    let (organization, _) = server.key(Some("org_1"), &["admin:config"]).await;
    let refused = organization.get("/config").await;
    expect_error(&refused, 403, "PLATFORM_KEY_REQUIRED");
    assert_eq!(refused.header("www-authenticate"), None);
    let elsewhere = json!({"name": "n", "scopes": [], "allowed_ips": ["192.0.2.0/24"]});
    let refused = server.key_with(elsewhere).await.0.get("/users").await;
    expect_error(&refused, 403, "IP_NOT_ALLOWED");
    assert_eq!(refused.header("www-authenticate"), None);
}

#[tokio::test]
async fn in_a_batch_only_the_body_names_the_missing_scope() {
    let server = Server::start().await;
    let (client, _) = server.key(None, &["admin:users"]).await;
    let read = json!({"method": "GET", "path": "/organizations/org_1"});
    for (atomic, status) in [(false, 200), (true, 409)] {
        let answer = client.post("/batch", json!({"atomic": atomic, "operations": [read]})).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), None);
        assert!(answer.text.contains("The key lacks the scope admin:orgs."), "{answer:?}");
    }
}

#[tokio::test]
async fn the_data_plane_names_the_scope_that_its_caller_lacks() {
    let server = Server::start().await;
    let (caller, key) = server.key(None, &["workflows:read"]).await;
    let verify = caller.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": "k"}));
    let answer = caller.send(verify).await;
    expect_error(&answer, 403, "INSUFFICIENT_SCOPE");
    expect_missing(&answer, "keys:verify");
    let introspect =
        |client: &Client| client.request_at_root(Method::POST, "/v1/introspect").form(&[("token", "t")]);
    expect_missing(&caller.send(introspect(&caller)).await, "keys:verify");
    // HTTP Basic has no challenge that could name a scope; both schemes authenticate the same keys.
    let pair = format!("{}:{}", key["id"].as_str().unwrap(), caller.key.as_deref().unwrap());
    let anonymous = server.anonymous();
    let basic = introspect(&anonymous).header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
    expect_missing(&anonymous.send(basic).await, "keys:verify");
    // In OAuth's terms, a key that can't be used from this address lacks the scope, too.
    let elsewhere = json!({"name": "n", "scopes": ["keys:verify"], "allowed_ips": ["192.0.2.0/24"]});
    let (elsewhere, _) = server.key_with(elsewhere).await;
    expect_unnamed(&elsewhere.send(introspect(&elsewhere)).await);
}

#[tokio::test]
async fn forward_auth_names_the_first_scope_that_the_clients_key_lacks() {
    let server = Server::start().await;
    expect_ok(server.admin().post("/scopes", json!({"scope": "a0-b:c-1"})).await, 201);
    let (client, _) = server.key(None, &["workflows:read"]).await;
    for (query, missing) in [
        ("?scope=workflows:write", "workflows:write"),
        ("?scope=workflows:read&scope=a0-b:c-1&scope=transactions:read", "a0-b:c-1"),
        ("?scope=workflows:*", "workflows:*"),
        ("?scope=*", "*"),
        ("/scope=workflows:read,transactions:write/things", "transactions:write"),
    ] {
        let answer = forward_auth(&client, query).await;
        expect_error(&answer, 403, "INSUFFICIENT_SCOPE");
        expect_missing(&answer, missing);
        let message = answer.json["error"]["message"].as_str().unwrap();
        assert_eq!(message, format!("The key lacks the scope {missing}."));
    }
    assert_eq!(forward_auth(&client, "?scope=workflows:read").await.header("www-authenticate"), None);
    // What the proxy got wrong, and anyone may send, is never written into the header.
    for wrong in ["?scope=none:such", "?scope=%22,%20x=%22", "?scope=a%0d%0ab", "?role=admin"] {
        let answer = forward_auth(&client, wrong).await;
        expect_error(&answer, 403, "INSUFFICIENT_SCOPE");
        expect_unnamed(&answer);
    }
}

/// The challenge is written without escapes, so that every scope must be an OAuth scope token (RFC 6749 §3.3).
#[tokio::test]
async fn every_scope_is_safe_in_a_quoted_string() {
    let server = Server::start().await;
    let admin = server.admin();
    let scopes = expect_ok(admin.get("/scopes?limit=100").await, 200);
    let names = scopes.as_array().unwrap().iter().map(|scope| scope["scope"].as_str().unwrap());
    let is_safe = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    for name in names {
        assert!(name.bytes().all(is_safe), "{name}");
    }
    for byte in (0..=0x7f_u8).filter(|byte| !is_safe(*byte)) {
        for scope in [format!("a{}:b", byte as char), format!("a:b{}", byte as char)] {
            let answer = admin.post("/scopes", json!({ "scope": scope })).await;
            expect_error(&answer, 400, "INVALID_REQUEST");
            assert_eq!(answer.details(), [("/scope".to_owned(), "INVALID_SCOPE".to_owned())], "{scope:?}");
        }
    }
    assert_eq!(expect_ok(admin.get("/scopes?limit=100").await, 200), scopes);
}
