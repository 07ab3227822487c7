//! What a request may contain, and what requests to other methods and paths get.

use reqwest::Method;
use serde_json::json;

use super::{code, secret, start_server, verify_key};
use crate::api::{expect_error, expect_invalid, expect_ok};
use crate::support::{ADMIN_KEY, Server};

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
    let wrong =
        json!({"scopes": ["no:such", 7], "ip": "here", "cost": 1_000_000_001, "dry_run": 1, "more": 1});
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
    expect_invalid(&verify_key(&admin, json!({"key": null})).await, &[("/key", "NOT_NULLABLE")]);
    let with_nul = verify_key(&admin, json!({"key": "toll_\u{0}"})).await;
    expect_invalid(&with_nul, &[("/key", "INVALID_CHARACTER")]);
    for cost in [json!(-1), json!(1.5), json!("1"), json!(1_000_000_001), json!(u64::MAX)] {
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
