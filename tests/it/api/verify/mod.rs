//! `POST /v1/keys/verify`.

mod batch;
mod limits;
mod requests;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::expect_ok;
use crate::support::{ADMIN_KEY, Answer, Client, Server};

/// Calls `POST /v1/keys/verify`.
pub(super) async fn verify_key(client: &Client, body: Value) -> Answer {
    client.send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await
}

/// Verifies a key and returns `data`.
pub(super) async fn verify_data(client: &Client, body: Value) -> Value {
    expect_ok(verify_key(client, body).await, 200)
}

pub(super) async fn code(client: &Client, body: Value) -> String {
    let data = verify_data(client, body).await;
    let code = data["code"].as_str().unwrap().to_owned();
    assert_eq!(data["valid"], code == "VALID", "{data}");
    code
}

pub(super) async fn patch(server: &Server, path: &str, body: Value) {
    expect_ok(server.admin().patch(path, body).await, 200);
}

/// Creates a key of `org_1` with these additional fields and returns its secret.
pub(super) async fn secret(server: &Server, fields: Value) -> String {
    let mut body = json!({"organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.key_with(body).await.0.key.unwrap()
}

/// The result for a key that is malformed or doesn't exist.
fn unknown_key(code: &str, message: &str) -> Value {
    json!({
        "valid": false, "code": code, "message": message, "key_id": null, "organization_id": null, "user_id": null,
        "user_external_id": null, "name": null, "plan": null, "scopes": [], "expires_at": null, "metadata": {},
        "limits": [], "limited_by": null, "retry_after_seconds": null,
    })
}

/// Starts a server with `org_1`, its member `user_1`, and `org_2`.
pub(super) async fn start_server() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.organization("org_2").await;
    server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(server.admin().post("/organizations/org_1/members", member).await, 201);
    server
}

#[tokio::test]
async fn a_valid_key_is_described_completely() {
    let server = start_server().await;
    let (verifier, _) = server.key(None, &["keys:verify"]).await;
    let key = secret(
        &server,
        json!({"id": "key_1", "user_id": "user_1", "name": "Production", "metadata": {"tier": "gold"},
            "scopes": ["workflows:*"], "expires_at": "2027-01-01T00:00:00Z"}),
    )
    .await;
    let expected = json!({
        "valid": true, "code": "VALID", "message": "The key is valid.",
        "key_id": "key_1", "organization_id": "org_1", "user_id": "user_1", "user_external_id": "crm-4711",
        "name": "Production", "plan": "standard", "scopes": ["workflows:*"],
        "expires_at": "2027-01-01T00:00:00.000Z", "metadata": {"tier": "gold"},
        "limits": [
            {"on": "key", "meter": "requests", "limit": 100, "window_seconds": 60, "remaining": 99,
                "resets_at": "2026-11-23T07:08:09.600Z"},
            {"on": "organization", "meter": "requests", "limit": 1000, "window_seconds": 60, "remaining": 999,
                "resets_at": "2026-11-23T07:08:09.060Z"},
        ],
        "limited_by": null, "retry_after_seconds": null,
    });
    patch(&server, "/users/user_1", json!({"external_id": "crm-4711"})).await;
    let request = verifier.request_at_root(Method::POST, "/v1/keys/verify").header("x-request-id", "mine");
    let verified = verifier.send(request.json(&json!({"key": key}))).await;
    assert_eq!(verified.data(), &expected);
    assert_eq!(
        verified.json["metadata"],
        json!({"timestamp": "2026-11-23T07:08:09.000Z", "requestId": "mine"})
    );
    let headers = ["x-request-id", "cache-control", "content-type", "x-ratelimit-limit", "ratelimit"];
    let headers = headers.map(|name| verified.header(name));
    assert_eq!(headers, [Some("mine"), Some("no-store"), Some("application/json"), None, None]);

    let data = verify_data(&verifier, json!({"key": ADMIN_KEY})).await;
    for field in ["organization_id", "user_id", "user_external_id", "plan", "expires_at", "limited_by"] {
        assert_eq!(data[field], Value::Null, "a platform key has no {field}: {data}");
    }
    assert_eq!((&data["scopes"], &data["limits"]), (&json!(["*"]), &json!([])));
    for _ in 0..3 {
        let expensive = json!({"key": ADMIN_KEY, "cost": 1_000_000_000});
        assert_eq!(code(&verifier, expensive).await, "VALID", "a platform key has no limit");
    }
}

/// Each step adds a denial reason that takes precedence over the earlier ones.
#[tokio::test]
async fn the_first_denial_reason_in_the_documented_order_is_returned() {
    let server = start_server().await;
    let admin = server.admin();
    let limit = json!({"limit": 1, "window_seconds": 86_400});
    let key = secret(
        &server,
        json!({"id": "key_1", "user_id": "user_1", "allowed_ips": ["10.0.0.0/8"], "limits": [limit]}),
    )
    .await;
    let expect_code = async |code: &str, request_body: &Value| {
        for dry_run in [true, false] {
            let mut request_body = request_body.clone();
            request_body["dry_run"] = json!(dry_run);
            let data = verify_data(&admin, request_body).await;
            assert_eq!(data["code"], code, "{data}");
            assert_eq!((&data["key_id"], data["valid"].as_bool()), (&json!("key_1"), Some(code == "VALID")));
        }
    };
    let mut request_body = json!({"key": key, "ip": "10.1.2.3", "scopes": ["workflows:read"]});
    expect_code("VALID", &request_body).await;
    expect_code("RATE_LIMITED", &request_body).await;
    request_body["scopes"] = json!(["workflows:read", "workflows:write"]);
    expect_code("INSUFFICIENT_SCOPE", &request_body).await;
    request_body["ip"] = json!("11.0.0.1");
    expect_code("IP_NOT_ALLOWED", &request_body).await;
    patch(&server, "/users/user_1", json!({"status": "suspended"})).await;
    expect_code("OWNER_INACTIVE", &request_body).await;
    patch(&server, "/organizations/org_1", json!({"status": "suspended"})).await;
    expect_code("ORGANIZATION_SUSPENDED", &request_body).await;
    patch(&server, "/api-keys/key_1", json!({"expires_at": "2026-11-23T07:09:09Z"})).await;
    server.advance(Duration::from_millis(59_999));
    expect_code("ORGANIZATION_SUSPENDED", &request_body).await;
    server.advance(Duration::from_millis(1));
    expect_code("EXPIRED", &request_body).await;
    patch(&server, "/api-keys/key_1", json!({"status": "disabled"})).await;
    expect_code("DISABLED", &request_body).await;
    expect_ok(admin.delete("/api-keys/key_1").await, 200);
    expect_code("REVOKED", &request_body).await;
    let (foreign, _) = server.key(Some("org_2"), &["keys:verify"]).await;
    assert_eq!(code(&foreign, request_body.clone()).await, "NOT_FOUND");
    request_body["key"] = json!("");
    let message = "Not a valid key: it is empty, too long, or has a wrong checksum.";
    assert_eq!(verify_data(&foreign, request_body).await, unknown_key("MALFORMED", message));
}

#[tokio::test]
async fn a_rotated_secret_is_valid_until_its_grace_period_ends() {
    let server = start_server().await;
    let admin = server.admin();
    let limit = json!({"limit": 10, "window_seconds": 86_400});
    let first = secret(&server, json!({"id": "key_1", "limits": [limit]})).await;
    let rotate = async |seconds: u32| {
        let body = json!({"grace_period_seconds": seconds});
        let key = expect_ok(admin.post("/api-keys/key_1/rotate", body).await, 200);
        key["key"].as_str().unwrap().to_owned()
    };
    let remaining = async |key: &str| {
        let data = verify_data(&admin, json!({"key": key})).await;
        (data["code"].as_str().unwrap().to_owned(), data["limits"][0]["remaining"].as_u64().unwrap())
    };
    let outcome = |code: &str, remaining: u64| (code.to_owned(), remaining);
    let second = rotate(60).await;
    assert_eq!(remaining(&first).await, outcome("VALID", 9));
    assert_eq!(remaining(&second).await, outcome("VALID", 8), "both secrets share one bucket");
    server.advance(Duration::from_millis(59_999));
    assert_eq!(remaining(&first).await, outcome("VALID", 7));
    server.advance(Duration::from_millis(1));
    assert_eq!(remaining(&first).await, outcome("EXPIRED", 7));
    assert_eq!(remaining(&second).await, outcome("VALID", 6));
    let third = rotate(3600).await;
    let fourth = rotate(3600).await;
    assert_eq!(remaining(&second).await, outcome("EXPIRED", 6), "at most two secrets are valid");
    assert_eq!(remaining(&third).await, outcome("VALID", 5));
    expect_ok(admin.post("/api-keys/key_1/expire-previous", json!({})).await, 200);
    assert_eq!(remaining(&third).await, outcome("EXPIRED", 5));
    let fifth = rotate(0).await;
    assert_eq!(remaining(&fourth).await, outcome("EXPIRED", 5));
    assert_eq!(remaining(&fifth).await, outcome("VALID", 4));
    expect_ok(admin.delete("/api-keys/key_1").await, 200);
    for replaced in [&first, &fourth, &fifth] {
        assert_eq!(remaining(replaced).await.0, "REVOKED");
    }
}

#[tokio::test]
async fn i3_keys_follow_the_status_of_their_owner_and_organization() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"id": "key_1", "user_id": "user_1"})).await;
    let expect_code = async |expected: &str| {
        assert_eq!(code(&admin, json!({"key": key, "dry_run": true})).await, expected);
    };
    expect_code("VALID").await;
    for (path, status, expected) in [
        ("/organizations/org_1", "suspended", "ORGANIZATION_SUSPENDED"),
        ("/users/user_1", "suspended", "OWNER_INACTIVE"),
        ("/api-keys/key_1", "disabled", "DISABLED"),
    ] {
        for (status, expected) in [(status, expected), ("active", "VALID")] {
            patch(&server, path, json!({ "status": status })).await;
            expect_code(expected).await;
        }
    }
    expect_ok(admin.delete("/organizations/org_1/members/user_1").await, 200);
    expect_code("REVOKED").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(admin.post("/organizations/org_1/members", member).await, 201);
    expect_code("REVOKED").await;

    let owned = secret(&server, json!({"user_id": "user_1"})).await;
    let unowned = secret(&server, json!({})).await;
    assert_eq!(code(&admin, json!({"key": owned})).await, "VALID");
    expect_ok(admin.delete("/users/user_1").await, 200);
    assert_eq!(code(&admin, json!({"key": owned})).await, "REVOKED");
    assert_eq!(code(&admin, json!({"key": unowned})).await, "VALID");
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    assert_eq!(code(&admin, json!({"key": unowned})).await, "REVOKED");
}

/// The responses for a key of another organization and for an unknown key are identical.
#[tokio::test]
async fn i5_an_organizations_verifier_sees_only_its_own_keys() {
    let server = start_server().await;
    let own = secret(&server, json!({})).await;
    let foreign = secret(&server, json!({"organization_id": "org_2"})).await;
    let revoked = secret(&server, json!({"id": "key_9", "organization_id": "org_2"})).await;
    expect_ok(server.admin().delete("/api-keys/key_9").await, 200);
    for scope in ["keys:verify", "admin:keys", "*"] {
        let (verifier, _) = server.key(Some("org_1"), &[scope]).await;
        assert_eq!(code(&verifier, json!({"key": own})).await, "VALID");
        let mut texts = Vec::new();
        for key in ["nobody-made-this", &foreign, &revoked, ADMIN_KEY] {
            let request = verifier.request_at_root(Method::POST, "/v1/keys/verify");
            let request_body = json!({"key": key, "scopes": ["workflows:write"]});
            let answer = verifier.send(request.header("x-request-id", "same").json(&request_body)).await;
            let names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
            texts.push((answer.status, answer.text, names));
        }
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:#?}");
        let data: Value = serde_json::from_str(&texts[0].1).unwrap();
        assert_eq!(data["data"], unknown_key("NOT_FOUND", "Key not found."));
    }
}

/// Verifications are not rate-limited for the caller and not in the audit log.
#[tokio::test]
async fn verifying_costs_the_caller_nothing() {
    let server = Server::with(|config| config.rate_limits.admin_per_minute = 2).await;
    let admin = server.admin();
    for _ in 0..5 {
        assert_eq!(code(&admin, json!({"key": ADMIN_KEY})).await, "VALID");
    }
    let events = admin.get("/audit-logs").await;
    assert_eq!(events.header("x-ratelimit-remaining"), Some("1"));
    assert!(!events.text.contains("verify"), "{}", events.text);
}
