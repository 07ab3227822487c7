//! `POST /v1/introspect` (RFC 7662).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::expect_ok;
use super::verify::ask;
use crate::support::{ADMIN_KEY, Answer, Client, NOW, Server};

fn question(client: &Client, token: &str) -> RequestBuilder {
    client.request_at_root(Method::POST, "/v1/introspect").form(&[("token", token)])
}

/// What is told of a token, in a form that nothing may keep.
async fn told(client: &Client, token: &str) -> Value {
    let answer = client.send(question(client, token)).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    assert!(answer.header("x-request-id").is_some() && answer.header("x-ratelimit-limit").is_none());
    answer.json
}

/// The answer must be this error of OAuth, and nothing else.
#[track_caller]
fn expect_oauth_error(answer: &Answer, status: u16, error: &str) {
    let names: Vec<_> = answer.json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((answer.status, answer.json["error"].as_str()), (status, Some(error)), "{answer:?}");
    assert_eq!(
        (names, answer.header("cache-control")),
        (vec!["error", "error_description"], Some("no-store"))
    );
}

fn inactive() -> Value {
    json!({"active": false})
}

#[tokio::test]
async fn an_active_key_is_told_in_the_terms_of_oauth() {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.user("user_1").await;
    let admin = server.admin();
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(admin.post("/organizations/org_1/members", member).await, 201);
    let (owned, _) = server
        .key_with(json!({"id": "key_1", "organization_id": "org_1", "user_id": "user_1", "name": "n",
            "scopes": ["workflows:*", "transactions:read"], "expires_at": "2026-12-01T00:00:00.999Z"}))
        .await;
    let expected = json!({
        "active": true, "scope": "transactions:read workflows:read workflows:write", "client_id": "key_1",
        "sub": "user_1", "exp": 1_796_083_200, "iat": NOW / 1000, "token_type": "Bearer",
    });
    assert_eq!(told(&admin, owned.key.as_deref().unwrap()).await, expected);
    let (own, key) = server.key(Some("org_1"), &[]).await;
    let expected = json!({
        "active": true, "scope": "", "client_id": key["id"], "sub": "org_1", "iat": NOW / 1000,
        "token_type": "Bearer",
    });
    assert_eq!(told(&admin, own.key.as_deref().unwrap()).await, expected);
    let platform = told(&admin, ADMIN_KEY).await;
    assert_eq!((platform.get("sub"), platform.get("exp")), (None, None), "{platform}");
    let scopes = platform["scope"].as_str().unwrap();
    assert!(scopes.contains("admin:keys") && !scopes.contains('*'), "spelled out: {scopes}");
}

#[tokio::test]
async fn of_a_key_that_is_not_active_nothing_else_is_told() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2", "org_suspended"] {
        server.organization(organization).await;
    }
    let mut secrets = Vec::new();
    for (id, more) in [
        ("key_revoked", json!({})),
        ("key_disabled", json!({})),
        ("key_expired", json!({"expires_at": "2026-11-23T07:08:10Z"})),
        ("key_suspended", json!({"organization_id": "org_suspended"})),
        // The question has no address.
        ("key_listed", json!({"allowed_ips": ["0.0.0.0/0", "::/0"]})),
    ] {
        let mut body = json!({"id": id, "name": "n", "scopes": ["workflows:read"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        secrets.push(server.key_with(body).await.0.key.unwrap());
    }
    for before in &secrets[..4] {
        assert_eq!(told(&admin, before).await["active"], true);
    }
    expect_ok(admin.delete("/api-keys/key_revoked").await, 200);
    expect_ok(admin.patch("/api-keys/key_disabled", json!({"status": "disabled"})).await, 200);
    expect_ok(admin.patch("/organizations/org_suspended", json!({"status": "suspended"})).await, 200);
    server.advance(Duration::from_secs(1));
    secrets
        .extend(["", "nobody-made-this", "toll_00000000000000000000000000000000000000"].map(str::to_owned));
    for secret in &secrets {
        assert_eq!(told(&admin, secret).await, inactive(), "{secret}");
    }
    // To an organization's verifier, another one's key isn't there.
    let (verifier, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let (foreign, _) = server.key(Some("org_2"), &["workflows:read"]).await;
    for secret in [foreign.key.as_deref().unwrap(), ADMIN_KEY] {
        assert_eq!(told(&admin, secret).await["active"], true);
        assert_eq!(told(&verifier, secret).await, inactive());
    }
    assert_eq!(told(&verifier, verifier.key.as_deref().unwrap()).await["active"], true);
}

#[tokio::test]
async fn a_replaced_secret_ends_with_its_grace() {
    let server = Server::start().await;
    let admin = server.admin();
    let (old, _) = server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    let rotate = admin.post("/api-keys/key_1/rotate", json!({"grace_period_seconds": 60})).await;
    let new = expect_ok(rotate, 200)["key"].as_str().unwrap().to_owned();
    let old = old.key.unwrap();
    assert_eq!(told(&admin, &old).await["exp"], NOW / 1000 + 60);
    assert_eq!(told(&admin, &new).await.get("exp"), None);
    server.advance(Duration::from_secs(60));
    assert_eq!(told(&admin, &old).await, inactive());
    assert_eq!(told(&admin, &new).await["active"], true);
}

#[tokio::test]
async fn i8_it_spends_no_limit_and_meets_none() {
    let server = Server::start().await;
    let admin = server.admin();
    let limit = json!({"limit": 1, "window_seconds": 86_400});
    let (key, _) = server.key_with(json!({"name": "n", "scopes": [], "rate_limit": limit})).await;
    let secret = key.key.unwrap();
    for (code, active) in [("VALID", true), ("RATE_LIMITED", true)] {
        for _ in 0..3 {
            assert_eq!(told(&admin, &secret).await["active"], active);
        }
        assert_eq!(ask(&admin, json!({"key": secret})).await.data()["code"], code);
    }
}

/// Every byte as `%XX`, which RFC 6749 §2.3.1 lets a client write.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn http_basic_takes_a_keys_id_with_its_own_secret() {
    let server = Server::start().await;
    let (verifier, key) = server.key(None, &["keys:verify"]).await;
    let (id, secret) = (key["id"].as_str().unwrap(), verifier.key.as_deref().unwrap());
    let anonymous = server.anonymous();
    let send = async |authorization: &str| {
        anonymous.send(question(&anonymous, ADMIN_KEY).header(AUTHORIZATION, authorization)).await
    };
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let pair = format!("{id}:{secret}");
    for good in [
        basic(&pair),
        basic(&pair).replace("Basic", "bASIC"),
        basic(&format!("{}:{}", encoded(id), encoded(secret))),
    ] {
        let answer = send(&good).await;
        assert_eq!((answer.status, &answer.json["active"]), (200, &json!(true)), "{good}: {answer:?}");
    }
    for bad in [
        basic(&format!("{id}:{ADMIN_KEY}")),
        basic(&format!("key_other:{secret}")),
        basic(&format!(":{secret}")),
        basic(&format!("{id}:")),
        basic(&format!("{id}:{secret} ")),
        basic(&format!("{id}:{secret}+")),
        basic(&format!("{}:{}", encoded(id), encoded(&encoded(secret)))),
        basic(id),
        format!("Basic {pair}"),
        "Basic ====".to_owned(),
        format!("Basic {}", STANDARD.encode(b"\xff\xfe:\xff")),
    ] {
        let answer = send(&bad).await;
        expect_oauth_error(&answer, 401, "invalid_client");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"tollhouse\""), "{bad}");
    }
    let twice = verifier.send(question(&verifier, "a").header(AUTHORIZATION, basic(&pair))).await;
    expect_oauth_error(&twice, 401, "invalid_client");
    // The one key is as good here as there, but its rights are the same by either way.
    let (narrow, key) = server.key(None, &["workflows:read"]).await;
    let pair = format!("{}:{}", key["id"].as_str().unwrap(), narrow.key.as_deref().unwrap());
    expect_oauth_error(&send(&basic(&pair)).await, 403, "insufficient_scope");
    // Elsewhere it is no credential.
    let elsewhere = anonymous.request(Method::GET, "/whoami").header(AUTHORIZATION, basic(&pair));
    assert_eq!(anonymous.send(elsewhere).await.code(), "UNAUTHENTICATED");
}

#[tokio::test]
async fn refusals_have_the_form_of_oauth() {
    let server = Server::start().await;
    let (admin, anonymous) = (server.admin(), server.anonymous());
    let answer = anonymous.send(question(&anonymous, "a")).await;
    expect_oauth_error(&answer, 401, "invalid_client");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let stranger = server.client(Some("nobody-made-this"));
    let answer = stranger.send(question(&stranger, "a")).await;
    expect_oauth_error(&answer, 401, "invalid_token");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    let (listed, _) = server
        .key_with(json!({"name": "n", "scopes": ["keys:verify"], "allowed_ips": ["192.0.2.0/24"]}))
        .await;
    expect_oauth_error(&listed.send(question(&listed, "a")).await, 403, "insufficient_scope");
    let form = |body: &'static str| {
        let request = admin.request_at_root(Method::POST, "/v1/introspect");
        request.header("content-type", "application/x-www-form-urlencoded").body(body)
    };
    for wrong in ["", "token_type_hint=a", "tokens=a", "token=a&token=a", "{\"token\":\"a\"}"] {
        expect_oauth_error(&admin.send(form(wrong)).await, 400, "invalid_request");
    }
    for fine in ["token", "token=&x=1&x=2", "%74oken=a+b%26", "token_type_hint=refresh_token&token=a"] {
        assert_eq!(admin.send(form(fine)).await.json, inactive(), "{fine}");
    }
}

#[tokio::test]
async fn failed_attempts_are_limited_and_a_good_key_never() {
    let server = Server::with(|config| config.rate_limits.failed_auth_per_minute = 2).await;
    let (stranger, admin) = (server.client(Some("nobody-made-this")), server.admin());
    for _ in 0..2 {
        expect_oauth_error(&stranger.send(question(&stranger, "a")).await, 401, "invalid_token");
    }
    let answer = stranger.send(question(&stranger, "a")).await;
    expect_oauth_error(&answer, 429, "temporarily_unavailable");
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(told(&admin, ADMIN_KEY).await["active"], true);
}
