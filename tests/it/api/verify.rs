//! `POST /v1/keys/verify`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{ADMIN_KEY, Answer, Client, NOW, Server};

/// Calls `POST /v1/keys/verify`.
pub(super) async fn verify_key(client: &Client, body: Value) -> Answer {
    client.send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await
}

/// Verifies a key and returns `data`.
async fn verify_data(client: &Client, body: Value) -> Value {
    expect_ok(verify_key(client, body).await, 200)
}

async fn code(client: &Client, body: Value) -> String {
    let data = verify_data(client, body).await;
    let code = data["code"].as_str().unwrap().to_owned();
    assert_eq!(data["valid"], code == "VALID", "{data}");
    code
}

async fn patch(server: &Server, path: &str, body: Value) {
    expect_ok(server.admin().patch(path, body).await, 200);
}

/// Creates a key of `org_1` with these additional fields and returns its secret.
async fn secret(server: &Server, fields: Value) -> String {
    let mut body = json!({"organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.key_with(body).await.0.key.unwrap()
}

/// Starts a server with `org_1`, its member `user_1`, and `org_2`.
async fn start_server() -> Server {
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
        "key_id": "key_1", "organization_id": "org_1", "user_id": "user_1", "name": "Production",
        "plan": "standard", "scopes": ["workflows:*"], "expires_at": "2027-01-01T00:00:00.000Z",
        "metadata": {"tier": "gold"},
        "rate_limit": {"limit": 100, "remaining": 99, "reset": NOW / 1000 + 1}, "quota": null,
    });
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
    for field in ["organization_id", "user_id", "plan", "expires_at", "rate_limit", "quota"] {
        assert_eq!(data[field], Value::Null, "a platform key has no {field}: {data}");
    }
    for _ in 0..3 {
        let expensive = json!({"key": ADMIN_KEY, "cost": 1000});
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
        json!({"id": "key_1", "user_id": "user_1", "allowed_ips": ["10.0.0.0/8"], "rate_limit": limit}),
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
    assert_eq!(code(&foreign, request_body).await, "MALFORMED");
}

#[tokio::test]
async fn i8_denials_and_dry_runs_spend_nothing_and_a_cost_is_never_spent_partially() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"rate_limit": {"limit": 1000, "window_seconds": 60}})).await;
    for (fields, code, remaining) in [
        (json!({"cost": 0}), "VALID", 1000),
        (json!({}), "VALID", 999),
        (json!({"cost": null, "dry_run": null, "ip": null, "scopes": null}), "VALID", 998),
        (json!({"cost": 1000}), "RATE_LIMITED", 998),
        (json!({"scopes": ["workflows:write"], "cost": 5}), "INSUFFICIENT_SCOPE", 998),
        (json!({"cost": 998, "dry_run": true}), "VALID", 998),
        (json!({"cost": 999, "dry_run": true}), "RATE_LIMITED", 998),
        (json!({"cost": 998}), "VALID", 0),
        (json!({}), "RATE_LIMITED", 0),
        (json!({"dry_run": true}), "RATE_LIMITED", 0),
        (json!({"cost": 0}), "VALID", 0),
    ] {
        let mut request_body = json!({"key": key});
        request_body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let data = verify_data(&admin, request_body).await;
        assert_eq!(
            (&data["code"], &data["rate_limit"]["remaining"]),
            (&json!(code), &json!(remaining)),
            "{fields}"
        );
    }
    server.advance(Duration::from_secs(60));
    let data = verify_data(&admin, json!({"key": key, "cost": 1000})).await;
    let full = NOW / 1000 + 120;
    assert_eq!(data["rate_limit"], json!({"limit": 1000, "remaining": 0, "reset": full}));
    let small = secret(&server, json!({"rate_limit": {"limit": 10, "window_seconds": 1}})).await;
    assert_eq!(
        code(&admin, json!({"key": small, "cost": 11})).await,
        "RATE_LIMITED",
        "the cost exceeds the limit"
    );
    assert_eq!(code(&admin, json!({"key": small, "cost": 10})).await, "VALID");
}

#[tokio::test]
async fn i7_a_keys_own_limit_overrides_its_plans_and_changes_keep_what_was_spent() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"id": "key_1"})).await;
    let remaining = async |cost: u32| {
        let data = verify_data(&admin, json!({"key": key, "cost": cost})).await;
        (data["rate_limit"]["limit"].as_u64().unwrap(), data["rate_limit"]["remaining"].as_u64().unwrap())
    };
    assert_eq!(remaining(4).await, (100, 96), "the limit of the plan");
    patch(&server, "/organizations/org_1", json!({"plan": "enterprise"})).await;
    assert_eq!(remaining(0).await, (1000, 996));
    let own = |limit: u32, window: u32| json!({"rate_limit": {"limit": limit, "window_seconds": window}});
    for (body, expected) in [
        (own(10, 60), (10, 6)),
        (json!({"name": "renamed"}), (10, 6)),
        (own(5, 60), (5, 1)),
        (own(5, 3600), (5, 1)),
        (own(3, 60), (3, 0)),
        (own(10, 60), (10, 6)),
        (json!({"rate_limit": null}), (1000, 996)),
    ] {
        patch(&server, "/api-keys/key_1", body.clone()).await;
        assert_eq!(remaining(0).await, expected, "{body}");
    }
    patch(&server, "/organizations/org_1", json!({"plan": "standard"})).await;
    assert_eq!(remaining(96).await, (100, 0));
    assert_eq!(code(&admin, json!({"key": key})).await, "RATE_LIMITED");
    let other = secret(&server, json!({})).await;
    assert_eq!(code(&admin, json!({"key": other})).await, "VALID", "each key has its own bucket");
}

#[tokio::test]
async fn an_allowlist_requires_the_clients_address() {
    let server = start_server().await;
    let admin = server.admin();
    let listed = secret(&server, json!({"allowed_ips": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]})).await;
    let unlisted = secret(&server, json!({})).await;
    for (ip, allowed) in [
        (json!("10.255.0.1"), true),
        (json!("192.0.2.7"), true),
        (json!("::ffff:10.0.0.1"), true),
        (json!("::FFFF:c000:207"), true),
        (json!("2001:0DB8::1"), true),
        // Proxies add ports, brackets and zones.
        (json!("10.0.0.1:80"), true),
        (json!("[2001:db8::1]"), true),
        (json!("[2001:db8::1]:443"), true),
        (json!("[::ffff:10.0.0.1]:443"), true),
        (json!("2001:db8::1%eth0"), true),
        (json!("11.0.0.1:80"), false),
        (json!("fe80::1%eth0"), false),
        (json!("11.0.0.1"), false),
        (json!("192.0.2.8"), false),
        (json!("::ffff:11.0.0.1"), false),
        (json!("::10.0.0.1"), false),
        (json!("2001:db9::1"), false),
        // The address of the verifier is not the address of the client.
        (json!("127.0.0.1"), false),
        (json!(null), false),
    ] {
        let expected = if allowed { "VALID" } else { "IP_NOT_ALLOWED" };
        assert_eq!(code(&admin, json!({"key": listed, "ip": ip})).await, expected, "{ip}");
        assert_eq!(code(&admin, json!({"key": unlisted, "ip": ip})).await, "VALID", "{ip}");
    }
    assert_eq!(code(&admin, json!({"key": listed})).await, "IP_NOT_ALLOWED");
    for ip in ["", "10.0.0.1:", "10.0.0.0/8", "10.0.0", "[2001:db8::1", " 10.0.0.1", "10.0.0.1%eth0"] {
        expect_invalid(
            &verify_key(&admin, json!({"key": listed, "ip": ip})).await,
            &[("/ip", "INVALID_ADDRESS")],
        );
    }
}

#[tokio::test]
async fn a_rotated_secret_is_valid_until_its_grace_period_ends() {
    let server = start_server().await;
    let admin = server.admin();
    let limit = json!({"limit": 10, "window_seconds": 86_400});
    let first = secret(&server, json!({"id": "key_1", "rate_limit": limit})).await;
    let rotate = async |seconds: u32| {
        let body = json!({"grace_period_seconds": seconds});
        let key = expect_ok(admin.post("/api-keys/key_1/rotate", body).await, 200);
        key["key"].as_str().unwrap().to_owned()
    };
    let remaining = async |key: &str| {
        let data = verify_data(&admin, json!({"key": key})).await;
        (data["code"].as_str().unwrap().to_owned(), data["rate_limit"]["remaining"].as_u64().unwrap())
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
        let expected = json!({"valid": false, "code": "NOT_FOUND", "message": "Key not found."});
        assert_eq!(data["data"], expected);
    }
}

#[tokio::test]
async fn every_requested_scope_must_be_covered() {
    let server = start_server().await;
    let admin = server.admin();
    for (held, requested, covered) in [
        (&["workflows:read"][..], &["workflows:read", "workflows:read"][..], true),
        (&["workflows:read"], &[], true),
        (&[], &[], true),
        (&[], &["workflows:read"], false),
        (&["workflows:read", "transactions:read"], &["workflows:read", "transactions:read"], true),
        (&["workflows:read"], &["workflows:read", "transactions:read"], false),
        (&["workflows:*"], &["workflows:read", "workflows:write", "workflows:*"], true),
        (&["workflows:*"], &["transactions:read"], false),
        (&["workflows:read", "workflows:write"], &["workflows:*"], false),
        (&["*"], &["workflows:read", "admin:keys", "*"], true),
        (&["workflows:*", "transactions:*", "admin:*", "keys:verify"], &["*"], false),
    ] {
        let (client, _) = server.key(Some("org_1"), held).await;
        let expected = if covered { "VALID" } else { "INSUFFICIENT_SCOPE" };
        assert_eq!(
            code(&admin, json!({"key": client.key, "scopes": requested})).await,
            expected,
            "{held:?} {requested:?}"
        );
    }
    let unknown = json!({"key": ADMIN_KEY, "scopes": ["workflows:read", "workflows:reed", "invoices:*"]});
    expect_invalid(
        &verify_key(&admin, unknown).await,
        &[("/scopes/1", "UNKNOWN_SCOPE"), ("/scopes/2", "UNKNOWN_SCOPE")],
    );
    expect_ok(admin.post("/scopes", json!({"scope": "invoices:read"})).await, 201);
    assert_eq!(code(&admin, json!({"key": ADMIN_KEY, "scopes": ["invoices:*"]})).await, "VALID");
}

#[tokio::test]
async fn all_errors_of_a_request_are_reported() {
    let server = start_server().await;
    let admin = server.admin();
    let wrong = json!({"scopes": ["no:such", 7], "ip": "here", "cost": 1001, "dry_run": 1, "more": 1});
    let details = [
        ("/key", "REQUIRED"),
        ("/scopes/0", "UNKNOWN_SCOPE"),
        ("/scopes/1", "INVALID_TYPE"),
        ("/ip", "INVALID_ADDRESS"),
        ("/cost", "INVALID_VALUE"),
        ("/dry_run", "INVALID_TYPE"),
        ("/more", "UNKNOWN_FIELD"),
    ];
    expect_invalid(&verify_key(&admin, wrong).await, &details);
    expect_invalid(&verify_key(&admin, json!({"key": null})).await, &[("/key", "INVALID_TYPE")]);
    for cost in [json!(-1), json!(1.5), json!("1"), json!(1001), json!(u64::MAX)] {
        expect_invalid(
            &verify_key(&admin, json!({"key": "k", "cost": cost})).await,
            &[("/cost", "INVALID_VALUE")],
        );
    }
    // An array of the values in the order of the fields is not accepted as an object.
    let array = verify_key(&admin, json!([ADMIN_KEY, null, null, 1, false])).await;
    expect_invalid(&array, &[("", "INVALID_TYPE"), ("/key", "REQUIRED")]);
    let queried = admin.request_at_root(Method::POST, "/v1/keys/verify?dry_run=true");
    expect_invalid(
        &admin.send(queried.json(&json!({"key": "k"}))).await,
        &[("dry_run", "UNKNOWN_PARAMETER")],
    );
    // Escape sequences in names and values are decoded.
    let escaped =
        admin.request_at_root(Method::POST, "/v1/keys/verify").header("content-type", "application/json");
    let body = format!(" {{\"\\u006bey\": \"\\u0074{}\"}}\n", &ADMIN_KEY[1..]);
    assert_eq!(expect_ok(admin.send(escaped.body(body)).await, 200)["code"], "VALID");
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

#[tokio::test]
async fn other_methods_are_405_and_other_paths_404() {
    let server = Server::start().await;
    let admin = server.admin();
    for path in ["/v1/keys/verify", "/v1/introspect"] {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS]
        {
            let answer = admin.send(admin.request_at_root(method.clone(), path)).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method} {path}");
            if method != Method::HEAD {
                expect_error(&answer, 405, "METHOD_NOT_ALLOWED");
            }
        }
    }
    for path in [
        "/v1",
        "/v1/",
        "/v1/keys",
        "/v1/verify",
        "/v1/keys/verify/",
        "/v1/introspect/x",
        "/v1/forward-authority",
    ] {
        for method in [Method::GET, Method::POST] {
            expect_error(&admin.send(admin.request_at_root(method, path)).await, 404, "NOT_FOUND");
        }
    }
}
