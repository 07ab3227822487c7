//! `POST /v1/introspect` (RFC 7662).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::expect_ok;
use super::verify::verify_key;
use crate::support::{ADMIN_KEY, Answer, Client, NOW, Server};

fn request(client: &Client, token: &str) -> RequestBuilder {
    client.request_at_root(Method::POST, "/v1/introspect").form(&[("token", token)])
}

/// Introspects a token and returns the response, which must not be cacheable.
async fn introspect(client: &Client, token: &str) -> Value {
    let answer = client.send(request(client, token)).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    assert!(answer.header("x-request-id").is_some() && answer.header("x-ratelimit-limit").is_none());
    answer.json
}

/// Asserts that the response is exactly this OAuth error.
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
async fn an_active_key_is_described_in_oauth_terms() {
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
    assert_eq!(introspect(&admin, owned.key.as_deref().unwrap()).await, expected);
    let (org_client, key) = server.key(Some("org_1"), &[]).await;
    let expected = json!({
        "active": true, "scope": "", "client_id": key["id"], "sub": "org_1", "iat": NOW / 1000,
        "token_type": "Bearer",
    });
    assert_eq!(introspect(&admin, org_client.key.as_deref().unwrap()).await, expected);
    let platform = introspect(&admin, ADMIN_KEY).await;
    assert_eq!((platform.get("sub"), platform.get("exp")), (None, None), "{platform}");
    let scopes = platform["scope"].as_str().unwrap();
    assert!(scopes.contains("admin:keys") && !scopes.contains('*'), "the wildcard is expanded: {scopes}");
}

#[tokio::test]
async fn an_inactive_key_is_not_described() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2", "org_suspended"] {
        server.organization(organization).await;
    }
    let mut secrets = Vec::new();
    for (id, fields) in [
        ("key_revoked", json!({})),
        ("key_disabled", json!({})),
        ("key_expired", json!({"expires_at": "2026-11-23T07:08:10Z"})),
        ("key_suspended", json!({"organization_id": "org_suspended"})),
        // An introspection has no client address.
        ("key_listed", json!({"allowed_ips": ["0.0.0.0/0", "::/0"]})),
    ] {
        let mut body = json!({"id": id, "name": "n", "scopes": ["workflows:read"]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        secrets.push(server.key_with(body).await.0.key.unwrap());
    }
    for secret in &secrets[..4] {
        assert_eq!(introspect(&admin, secret).await["active"], true);
    }
    expect_ok(admin.delete("/api-keys/key_revoked").await, 200);
    expect_ok(admin.patch("/api-keys/key_disabled", json!({"status": "disabled"})).await, 200);
    expect_ok(admin.patch("/organizations/org_suspended", json!({"status": "suspended"})).await, 200);
    server.advance(Duration::from_secs(1));
    secrets
        .extend(["", "nobody-made-this", "toll_00000000000000000000000000000000000000"].map(str::to_owned));
    for secret in &secrets {
        assert_eq!(introspect(&admin, secret).await, inactive(), "{secret}");
    }
    // An organization's verifier does not see keys of other organizations.
    let (verifier, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let (foreign, _) = server.key(Some("org_2"), &["workflows:read"]).await;
    for secret in [foreign.key.as_deref().unwrap(), ADMIN_KEY] {
        assert_eq!(introspect(&admin, secret).await["active"], true);
        assert_eq!(introspect(&verifier, secret).await, inactive());
    }
    assert_eq!(introspect(&verifier, verifier.key.as_deref().unwrap()).await["active"], true);
}

#[tokio::test]
async fn a_rotated_secret_expires_with_its_grace_period() {
    let server = Server::start().await;
    let admin = server.admin();
    let (old, _) = server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    let rotate = admin.post("/api-keys/key_1/rotate", json!({"grace_period_seconds": 60})).await;
    let new = expect_ok(rotate, 200)["key"].as_str().unwrap().to_owned();
    let old = old.key.unwrap();
    assert_eq!(introspect(&admin, &old).await["exp"], NOW / 1000 + 60);
    assert_eq!(introspect(&admin, &new).await.get("exp"), None);
    server.advance(Duration::from_secs(60));
    assert_eq!(introspect(&admin, &old).await, inactive());
    assert_eq!(introspect(&admin, &new).await["active"], true);
}

#[tokio::test]
async fn i8_introspection_neither_spends_nor_checks_limits() {
    let server = Server::start().await;
    let admin = server.admin();
    let limit = json!({"limit": 1, "window_seconds": 86_400});
    let (key, _) = server.key_with(json!({"name": "n", "scopes": [], "limits": [limit]})).await;
    let secret = key.key.unwrap();
    for (code, active) in [("VALID", true), ("RATE_LIMITED", true)] {
        for _ in 0..3 {
            assert_eq!(introspect(&admin, &secret).await["active"], active);
        }
        assert_eq!(verify_key(&admin, json!({"key": secret})).await.data()["code"], code);
    }
}

/// Percent-encodes every byte, which RFC 6749 §2.3.1 allows.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn http_basic_accepts_a_key_id_with_the_keys_secret() {
    let server = Server::start().await;
    let (verifier, key) = server.key(None, &["keys:verify"]).await;
    let id = key["id"].as_str().unwrap();
    let secret = verifier.key.as_deref().unwrap();
    let anonymous = server.anonymous();
    let send = async |authorization: &str| {
        anonymous.send(request(&anonymous, ADMIN_KEY).header(AUTHORIZATION, authorization)).await
    };
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let pair = format!("{id}:{secret}");
    for valid in [
        basic(&pair),
        basic(&pair).replace("Basic", "bASIC"),
        basic(&format!("{}:{}", encoded(id), encoded(secret))),
    ] {
        let answer = send(&valid).await;
        assert_eq!((answer.status, &answer.json["active"]), (200, &json!(true)), "{valid}: {answer:?}");
    }
    for invalid in [
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
        let answer = send(&invalid).await;
        expect_oauth_error(&answer, 401, "invalid_client");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"tollhouse\""), "{invalid}");
    }
    let twice = verifier.send(request(&verifier, "a").header(AUTHORIZATION, basic(&pair))).await;
    expect_oauth_error(&twice, 401, "invalid_client");
    // A key has the same scopes with HTTP Basic as with Bearer.
    let (narrow, key) = server.key(None, &["workflows:read"]).await;
    let pair = format!("{}:{}", key["id"].as_str().unwrap(), narrow.key.as_deref().unwrap());
    expect_oauth_error(&send(&basic(&pair)).await, 403, "insufficient_scope");
    // Other routes don't accept HTTP Basic.
    let elsewhere = anonymous.request(Method::GET, "/whoami").header(AUTHORIZATION, basic(&pair));
    assert_eq!(anonymous.send(elsewhere).await.code(), "UNAUTHENTICATED");
}

#[tokio::test]
async fn client_secret_post_accepts_a_key_id_with_the_keys_secret() {
    let server = Server::start().await;
    let (verifier, key) = server.key(None, &["keys:verify"]).await;
    let id = key["id"].as_str().unwrap();
    let secret = verifier.key.as_deref().unwrap();
    let anonymous = server.anonymous();
    let send = async |client: &Client, form: &[(&str, &str)]| {
        client.send(client.request_at_root(Method::POST, "/v1/introspect").form(form)).await
    };
    let token = ("token", ADMIN_KEY);
    let valid = [token, ("client_id", id), ("client_secret", secret)];
    assert_eq!(send(&anonymous, &valid).await.json["active"], true);
    for invalid in [
        vec![token, ("client_id", id)],
        vec![token, ("client_secret", secret)],
        vec![token, ("client_id", id), ("client_secret", ADMIN_KEY)],
        vec![token, ("client_id", "key_other"), ("client_secret", secret)],
        vec![token, ("client_id", id), ("client_id", id), ("client_secret", secret)],
        vec![token, ("client_id", id), ("client_secret", secret), ("client_secret", secret)],
        // In the body, the encoding of a secret is not in doubt.
        vec![token, ("client_id", id), ("client_secret", &encoded(secret))],
    ] {
        let answer = send(&anonymous, &invalid).await;
        expect_oauth_error(&answer, 401, "invalid_client");
        assert!(answer.header("www-authenticate").is_some(), "{invalid:?}");
    }
    // With an `Authorization` header, the body's credentials are ignored.
    let (narrow, _) = server.key(None, &["workflows:read"]).await;
    expect_oauth_error(&send(&narrow, &valid).await, 403, "insufficient_scope");
    let (narrow, key) = server.key(None, &["workflows:read"]).await;
    let narrow_secret = narrow.key.as_deref().unwrap();
    let form = [token, ("client_id", key["id"].as_str().unwrap()), ("client_secret", narrow_secret)];
    expect_oauth_error(&send(&anonymous, &form).await, 403, "insufficient_scope");
    expect_oauth_error(&send(&anonymous, &valid[1..]).await, 400, "invalid_request");
    let too_large = "a".repeat(64 * 1024);
    let answer = send(&anonymous, &[("token", &too_large), valid[1], valid[2]]).await;
    expect_oauth_error(&answer, 413, "invalid_request");
}

/// A secret that belongs to another key is refused like one that nobody has, in both readings.
#[tokio::test]
async fn i6_basic_does_not_reveal_the_secrets_of_other_keys() {
    let server = Server::start().await;
    let (_, key) = server.key(None, &["keys:verify"]).await;
    let (other, _) = server.key(None, &["keys:verify"]).await;
    let id = key["id"].as_str().unwrap();
    let existing = other.key.unwrap();
    let anonymous = server.anonymous();
    let mut refusals = Vec::new();
    for secret in [encoded(&existing), existing, encoded("an-unknown-secret"), "an-unknown-secret".to_owned()]
    {
        let basic = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
        let answer = anonymous.send(request(&anonymous, "a").header(AUTHORIZATION, basic)).await;
        let challenge = answer.header("www-authenticate").map(str::to_owned);
        refusals.push((answer.status, answer.text, challenge));
    }
    assert_eq!(refusals[0].0, 401);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
}

#[tokio::test]
async fn errors_are_oauth_errors() {
    let server = Server::start().await;
    let admin = server.admin();
    let anonymous = server.anonymous();
    let answer = anonymous.send(request(&anonymous, "a")).await;
    expect_oauth_error(&answer, 401, "invalid_client");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let unknown = server.client(Some("nobody-made-this"));
    let answer = unknown.send(request(&unknown, "a")).await;
    expect_oauth_error(&answer, 401, "invalid_token");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    let (listed, _) = server
        .key_with(json!({"name": "n", "scopes": ["keys:verify"], "allowed_ips": ["192.0.2.0/24"]}))
        .await;
    expect_oauth_error(&listed.send(request(&listed, "a")).await, 403, "insufficient_scope");
    let form = |body: &'static str| {
        let request = admin.request_at_root(Method::POST, "/v1/introspect");
        request.header("content-type", "application/x-www-form-urlencoded").body(body)
    };
    for wrong in ["", "token_type_hint=a", "tokens=a", "token=a&token=a", "{\"token\":\"a\"}"] {
        expect_oauth_error(&admin.send(form(wrong)).await, 400, "invalid_request");
    }
    for valid in ["token", "token=&x=1&x=2", "%74oken=a+b%26", "token_type_hint=refresh_token&token=a"] {
        assert_eq!(admin.send(form(valid)).await.json, inactive(), "{valid}");
    }
}

#[tokio::test]
async fn failed_attempts_are_limited_and_valid_keys_are_not() {
    let server = Server::with(|config| config.rate_limits.failed_auth_per_minute = 2).await;
    let unknown = server.client(Some("nobody-made-this"));
    let admin = server.admin();
    for _ in 0..2 {
        expect_oauth_error(&unknown.send(request(&unknown, "a")).await, 401, "invalid_token");
    }
    let answer = unknown.send(request(&unknown, "a")).await;
    expect_oauth_error(&answer, 429, "temporarily_unavailable");
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(introspect(&admin, ADMIN_KEY).await["active"], true);
}
