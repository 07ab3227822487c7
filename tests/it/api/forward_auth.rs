//! `/v1/forward-auth`: the responses for proxies.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tollhouse::config::Config;
use tollhouse::service::lifecycle;

use super::expect_ok;
use crate::support::{ADMIN_KEY, Answer, Client, Server, head};

pub(super) const PATH: &str = "/v1/forward-auth";

/// Returns the identity headers of every response: key, organization, user, plan, scopes, status.
#[track_caller]
pub(super) fn identity(answer: &Answer) -> [&str; 6] {
    ["key-id", "organization-id", "user-id", "plan", "scopes", "status"].map(|name| {
        let values: Vec<_> = answer.headers.get_all(format!("x-auth-{name}")).iter().collect();
        assert_eq!(values.len(), 1, "x-auth-{name}: {answer:?}");
        values[0].to_str().unwrap()
    })
}

fn get(client: &Client, path: &str) -> RequestBuilder {
    client.request_at_root(Method::GET, path)
}

pub(super) async fn call(client: &Client, path: &str) -> Answer {
    client.send(get(client, path)).await
}

/// Asserts that the request is denied with this status and code, also in `X-Auth-Status`.
#[track_caller]
pub(super) fn expect_denied(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code(), identity(answer)[5]), (status, code, code), "{answer:?}");
    let has_challenge = status == 401 || code == "INSUFFICIENT_SCOPE";
    assert_eq!(answer.header("www-authenticate").is_some(), has_challenge, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

pub(super) async fn key(server: &Server, fields: Value) -> Client {
    let mut body = json!({"organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.key_with(body).await.0
}

pub(super) async fn start_server() -> Server {
    start_server_with(|_| ()).await
}

pub(super) async fn start_server_with(change: impl FnOnce(&mut Config)) -> Server {
    let server = Server::with(|config| {
        config.rate_limits.failed_auth_per_minute = 0;
        change(config);
    })
    .await;
    server.organization("org_1").await;
    server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(server.admin().post("/organizations/org_1/members", member).await, 201);
    server
}

#[tokio::test]
async fn identity_headers_describe_the_key() {
    let server = start_server().await;
    let scopes = ["workflows:*", "transactions:read"];
    let owned = key(&server, json!({"id": "key_1", "user_id": "user_1", "scopes": scopes})).await;
    let answer = call(&owned, PATH).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    let expected = ["key_1", "org_1", "user_1", "standard", "workflows:* transactions:read", "VALID"];
    assert_eq!(identity(&answer), expected);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let limits = ["x-ratelimit-limit", "x-ratelimit-remaining", "ratelimit-policy", "ratelimit"];
    let limits = limits.map(|name| answer.header(name).unwrap());
    let policy = "\"key-requests-60s\";q=100;w=60, \"organization-requests-60s\";q=1000;w=60";
    let state = "\"key-requests-60s\";r=99;t=1, \"organization-requests-60s\";r=999;t=1";
    assert_eq!(limits, ["100", "99", policy, state]);

    let platform = key(&server, json!({"id": "key_2", "organization_id": null, "scopes": []})).await;
    let answer = call(&platform, PATH).await;
    assert_eq!((answer.status, identity(&answer)), (200, ["key_2", "-", "-", "-", "-", "VALID"]));
    assert_eq!(answer.header("x-ratelimit-limit"), None, "a platform key has no limit");
    // `X-Auth-…` headers of the request do not appear in the response.
    let forged = get(&platform, PATH).header("x-auth-user-id", "user_1").header("x-auth-scopes", "*");
    assert_eq!(identity(&server.anonymous().send(forged).await)[2..5], ["-", "-", "-"]);
}

#[tokio::test]
async fn every_denial_has_its_status_and_all_headers() {
    let server = start_server().await;
    let admin = server.admin();
    server.organization("org_2").await;
    server.user("user_2").await;
    let member = json!({"user_id": "user_2", "role": "member"});
    expect_ok(admin.post("/organizations/org_1/members", member).await, 201);
    let anonymous = server.anonymous();
    let mut cases = vec![
        (401, "UNAUTHENTICATED", anonymous.clone()),
        (401, "INVALID_API_KEY", anonymous.with_key("nobody-made-this")),
        (401, "INVALID_API_KEY", anonymous.with_key("toll_00000000000000000000000000000000000000")),
    ];
    for (status, code, fields) in [
        (401, "REVOKED", json!({})),
        (401, "DISABLED", json!({})),
        (401, "EXPIRED", json!({"expires_at": "2026-11-23T07:08:10Z"})),
        (403, "ORGANIZATION_SUSPENDED", json!({"organization_id": "org_2"})),
        (403, "OWNER_INACTIVE", json!({"user_id": "user_2"})),
        (403, "IP_NOT_ALLOWED", json!({"allowed_ips": ["192.0.2.0/24"]})),
        (403, "INSUFFICIENT_SCOPE", json!({"scopes": ["workflows:write"]})),
        (429, "RATE_LIMITED", json!({"limits": [{"limit": 1, "window_seconds": 86_400}]})),
    ] {
        let mut body = fields;
        body["id"] = format!("key_{}", code.replace('_', "-")).into();
        cases.push((status, code, key(&server, body).await));
    }
    assert_eq!(call(&cases.last().unwrap().2, PATH).await.status, 200);
    expect_ok(admin.delete("/api-keys/key_REVOKED").await, 200);
    expect_ok(admin.patch("/api-keys/key_DISABLED", json!({"status": "disabled"})).await, 200);
    expect_ok(admin.patch("/organizations/org_2", json!({"status": "suspended"})).await, 200);
    expect_ok(admin.patch("/users/user_2", json!({"status": "suspended"})).await, 200);
    server.advance(Duration::from_secs(1));
    for (status, code, client) in &cases {
        let answer = call(client, &format!("{PATH}?scope=workflows:read")).await;
        expect_denied(&answer, *status, code);
        let known = identity(&answer)[0].starts_with("key_");
        assert_eq!(known, !["UNAUTHENTICATED", "INVALID_API_KEY"].contains(code), "{answer:?}");
        assert_eq!(answer.header("retry-after").is_some(), *status == 429, "{answer:?}");
        let request = client.request_at_root(Method::HEAD, &format!("{PATH}?scope=workflows:read"));
        let head = client.send(request).await;
        assert_eq!((head.status, identity(&head), head.text.as_str()), (*status, identity(&answer), ""));
        let query = "?scope=workflows:read&limit_status=403";
        let answer = call(client, &format!("{PATH}{query}")).await;
        expect_denied(&answer, if *status == 429 { 403 } else { *status }, code);
    }
}

/// Fails closed: if the key can't be checked, the request is denied.
#[tokio::test]
async fn requests_are_denied_while_the_database_is_closed() {
    let server = start_server().await;
    let client = key(&server, json!({})).await;
    lifecycle::close(&server.app).await.unwrap();
    let answer = call(&client, PATH).await;
    expect_denied(&answer, 503, "UNAVAILABLE");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn either_header_is_accepted_but_not_two_different_keys() {
    let server = start_server().await;
    let anonymous = server.anonymous();
    let other = key(&server, json!({})).await.key.unwrap();
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let x_api_key = |key: &str| ("x-api-key", key.to_owned());
    let basic = || ("authorization", "Basic eDp5".to_owned());
    for (headers, status, code) in [
        (vec![x_api_key(ADMIN_KEY)], 200, ""),
        (vec![bearer(ADMIN_KEY)], 200, ""),
        (vec![("authorization", format!("bEARER  {ADMIN_KEY}"))], 200, ""),
        (vec![bearer(ADMIN_KEY), x_api_key(ADMIN_KEY)], 200, ""),
        (vec![basic(), x_api_key(ADMIN_KEY)], 200, ""),
        (vec![bearer(ADMIN_KEY), x_api_key(&other)], 401, "UNAUTHENTICATED"),
        (vec![bearer(&other), x_api_key(ADMIN_KEY)], 401, "UNAUTHENTICATED"),
        (vec![bearer(ADMIN_KEY), x_api_key("")], 401, "UNAUTHENTICATED"),
        (vec![x_api_key(ADMIN_KEY), x_api_key(ADMIN_KEY)], 401, "UNAUTHENTICATED"),
        (vec![x_api_key(ADMIN_KEY), x_api_key(&other)], 401, "UNAUTHENTICATED"),
        (vec![bearer(ADMIN_KEY), bearer(ADMIN_KEY)], 401, "UNAUTHENTICATED"),
        (vec![bearer(ADMIN_KEY), basic()], 401, "UNAUTHENTICATED"),
        (vec![basic(), bearer(&other), x_api_key(ADMIN_KEY)], 401, "UNAUTHENTICATED"),
        (vec![basic(), basic(), x_api_key(ADMIN_KEY)], 401, "UNAUTHENTICATED"),
        (vec![basic()], 401, "UNAUTHENTICATED"),
        (vec![("authorization", ADMIN_KEY.to_owned())], 401, "UNAUTHENTICATED"),
        (vec![bearer("")], 401, "UNAUTHENTICATED"),
        (vec![x_api_key("")], 401, "INVALID_API_KEY"),
        (vec![x_api_key("nobody-made-this")], 401, "INVALID_API_KEY"),
        (vec![x_api_key(&format!("Bearer {ADMIN_KEY}"))], 401, "INVALID_API_KEY"),
    ] {
        let request =
            headers.iter().fold(get(&anonymous, PATH), |request, (name, value)| request.header(*name, value));
        let answer = anonymous.send(request).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{headers:?}");
        assert_eq!(identity(&answer)[5], if status == 200 { "VALID" } else { code });
    }
}

#[tokio::test]
async fn the_query_names_required_scopes_and_unknown_parameters_are_denied() {
    let server = start_server().await;
    let client = key(&server, json!({"scopes": ["workflows:read", "transactions:*"]})).await;
    for (query, passes) in [
        ("", true),
        ("?", true),
        ("?scope=workflows:read", true),
        ("?scope=workflows%3Aread", true),
        ("?scope=workflows:read&scope=transactions:write&limit_status=403", true),
        ("?limit_status=429", true),
        ("?scope=workflows:read&scope=workflows:write", false),
        ("?scope=workflows:*", false),
        ("?scope=no:such", false),
        ("?scope=", false),
        ("?scope", false),
        ("?scope=workflows:read,transactions:read", false),
        ("?Scope=workflows:read", false),
        ("?scopes=workflows:read", false),
        ("?limit_status=404", false),
        ("?limit_status=200", false),
        ("?limit_status=", false),
        ("?anything", false),
    ] {
        for client in [&client, &server.admin()] {
            let answer = call(client, &format!("{PATH}{query}")).await;
            // The admin key has all scopes, but unknown scopes and parameters are denied for it, too.
            let known = query.starts_with("?scope=workflows:read&") || query == "?scope=workflows:*";
            if passes || known && client.key.as_deref() == Some(ADMIN_KEY) {
                assert_eq!(answer.status, 200, "{query}: {answer:?}");
            } else {
                expect_denied(&answer, 403, "INSUFFICIENT_SCOPE");
            }
        }
    }
}

/// Envoy appends the path and query of the client's request to the configured path.
#[tokio::test]
async fn the_path_can_name_required_scopes_before_the_clients_path() {
    let server = start_server().await;
    let client = key(&server, json!({"scopes": ["workflows:read", "transactions:read"]})).await;
    for (path, passes) in [
        ("/scope=workflows:read", true),
        ("/-", true),
        ("/-/", true),
        ("/%2d/orders/7", true),
        ("/-/scope=workflows:write?scope=workflows:write", true),
        ("/scope=workflows:read,transactions:read/orders", true),
        ("/scope=workflows%3Aread%2Ctransactions%3Aread/orders", true),
        ("/scope=workflows:read/orders?scope=workflows:write&limit_status=1&a", true),
        ("/scope=workflows:read//%ff/%2e%2e/a%00b;c?%ff", true),
        ("/scope%3dworkflows:read/orders", true),
        ("/scope%3Dworkflows:write/orders", false),
        ("/scope=workflows:write/orders", false),
        ("/scope=workflows:write/scope=workflows:read", false),
        ("/scope=workflows:write/orders?scope=workflows:read", false),
        ("/scope=workflows:read,workflows:write/", false),
        ("/scope=no:such/", false),
        ("/scope=/orders", false),
        ("/scope=workflows:read,/orders", false),
        ("/scope=%ff/orders", false),
    ] {
        // Sent raw, because an HTTP client would normalize some of these paths.
        let mut raw = server.raw().await;
        let key = format!("x-api-key: {}", client.key.as_deref().unwrap());
        let line = format!("GET {PATH}{path} HTTP/1.1\r\nhost: a\r\n{key}\r\n\r\n");
        raw.send(line.as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, if passes { 200 } else { 403 }, "{path}: {answer:?}");
        let status = if passes { "valid" } else { "insufficient_scope" };
        assert!(answer.head.contains(&format!("\r\nx-auth-status: {status}\r\n")), "{}", answer.head);
    }
}

/// Fails closed: without requirements before the client's path, a client could send its own. So a proxy that is
/// configured without them, or with misspelled ones, lets no request through.
#[tokio::test]
async fn a_path_without_valid_requirements_is_denied() {
    let server = start_server().await;
    let client = key(&server, json!({"limits": [{"limit": 9, "period": "total"}]})).await;
    for path in [
        "/",
        "//",
        "/?scope=workflows:read",
        "/orders/7",
        "/orders/scope=workflows:read",
        "/orders/cost=0",
        "//scope=workflows:read",
        "/--/orders",
        "/-;scope=workflows:read/orders",
        "/-;cost=1/orders",
        "/-,/orders",
        "/%252d/orders",
        "/scopes=workflows:read/orders",
        "/Scope=workflows:read/orders",
        "/%20scope=workflows:read/orders",
        "/costs=0/orders",
        "/;scope=workflows:read/orders",
        "/;/orders",
        "/limit_status=403;scope=workflows:read/orders",
        "/scope=workflows:read;limit_status=403/orders",
        "/scope%253dworkflows:read/orders",
        "/scope/orders",
    ] {
        for client in [&client, &server.admin()] {
            let answer = call(client, &format!("{PATH}{path}")).await;
            expect_denied(&answer, 403, "INSUFFICIENT_SCOPE");
            assert!(answer.text.contains("/v1/forward-auth/"), "{path}: {}", answer.text);
        }
    }
    let answer = call(&client, &format!("{PATH}/-/")).await;
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("8"), "the denials charged nothing");
}

#[tokio::test]
async fn any_method_is_accepted_without_waiting_for_a_body() {
    let server = start_server_with(|config| config.http.max_connections = 50).await;
    let admin = server.admin();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "brew"] {
        for path in [PATH.to_owned(), format!("{PATH}/scope=workflows:read/a")] {
            let answer = admin.send(admin.request_at_root(method.parse().unwrap(), &path)).await;
            assert_eq!((answer.status, identity(&answer)[5]), (200, "VALID"), "{method} {path}");
        }
    }
    // These bodies are never sent, so a server that waited for them would answer late or never.
    for headers in [
        &["content-length: 100000000"][..],
        &["transfer-encoding: chunked"],
        &["content-length: 5", "expect: 100-continue"],
        &["content-length: 5", "content-type: nonsense", "content-encoding: gzip"],
    ] {
        let mut raw = server.raw().await;
        raw.send(&head(&format!("POST {PATH}"), headers)).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{headers:?}: {answer:?}");
    }
    // A body that is sent is ignored.
    let large = admin.request_at_root(Method::POST, PATH).body(vec![b'x'; 100_000]);
    assert_eq!(admin.send(large).await.status, 200);
    server.assert_all_slots_are_free().await;
}

pub(super) fn trust_loopback(config: &mut Config) {
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
}

#[tokio::test]
async fn an_allowlist_checks_the_address_from_a_trusted_proxy() {
    let server = start_server_with(trust_loopback).await;
    let client = key(&server, json!({"allowed_ips": ["203.0.113.0/24"]})).await;
    for (forwarded, passes) in [
        (&["203.0.113.7"][..], true),
        (&["203.0.113.7:4711"], true),
        (&["::ffff:203.0.113.7"], true),
        (&["198.51.100.1, 203.0.113.7"], true),
        (&["198.51.100.1", "203.0.113.7"], true),
        (&["203.0.113.7, 127.0.0.9"], true),
        // Addresses that the client itself claims are on the left and are ignored.
        (&["203.0.113.7, 198.51.100.1"], false),
        (&["203.0.113.7", "198.51.100.1"], false),
        (&["203.0.113.7, nonsense"], false),
        (&[""], false),
        (&[], false),
    ] {
        let request = forwarded
            .iter()
            .fold(get(&client, PATH), |request, line| request.header("x-forwarded-for", *line));
        let answer = client.send(request).await;
        if passes {
            assert_eq!(answer.status, 200, "{forwarded:?}: {answer:?}");
        } else {
            expect_denied(&answer, 403, "IP_NOT_ALLOWED");
        }
    }
    // The header of an untrusted proxy is ignored.
    let server = start_server().await;
    let client = key(&server, json!({"allowed_ips": ["203.0.113.0/24"]})).await;
    let claimed = client.send(get(&client, PATH).header("x-forwarded-for", "203.0.113.7")).await;
    expect_denied(&claimed, 403, "IP_NOT_ALLOWED");
}

#[tokio::test]
async fn failed_attempts_are_limited_by_address_and_valid_keys_are_not() {
    let server = start_server_with(|config| {
        trust_loopback(config);
        config.rate_limits.failed_auth_per_minute = 2;
    })
    .await;
    let admin = server.admin();
    let unknown = server.client(Some("nobody-made-this"));
    let from = async |client: &Client, address: &str, query: &str| {
        let request = get(client, &format!("{PATH}{query}")).header("x-forwarded-for", address);
        client.send(request).await
    };
    expect_denied(&from(&unknown, "192.0.2.1", "").await, 401, "INVALID_API_KEY");
    expect_denied(&from(&server.anonymous(), "192.0.2.1", "").await, 401, "UNAUTHENTICATED");
    let limited = from(&unknown, "192.0.2.1", "").await;
    expect_denied(&limited, 429, "RATE_LIMITED");
    assert_eq!(limited.header("retry-after"), Some("30"));
    expect_denied(&from(&unknown, "192.0.2.1", "?limit_status=403").await, 403, "RATE_LIMITED");
    assert_eq!(from(&admin, "192.0.2.1", "").await.status, 200);
    expect_denied(&from(&unknown, "192.0.2.2", "").await, 401, "INVALID_API_KEY");
    server.advance(Duration::from_secs(30));
    expect_denied(&from(&unknown, "192.0.2.1", "").await, 401, "INVALID_API_KEY");
}

#[tokio::test]
async fn i8_a_rate_limit_is_enforced_and_denials_spend_nothing() {
    let server = start_server().await;
    let client = key(&server, json!({"limits": [{"limit": 2, "window_seconds": 60}]})).await;
    let denied = call(&client, &format!("{PATH}?scope=workflows:write")).await;
    expect_denied(&denied, 403, "INSUFFICIENT_SCOPE");
    assert_eq!(denied.header("x-ratelimit-remaining"), Some("2"));
    for left in ["1", "0"] {
        let answer = call(&client, PATH).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, Some(left)));
    }
    let limited = call(&client, PATH).await;
    expect_denied(&limited, 429, "RATE_LIMITED");
    assert_eq!((limited.header("retry-after"), limited.header("x-ratelimit-limit")), (Some("30"), Some("2")));
    server.advance(Duration::from_millis(29_999));
    expect_denied(&call(&client, PATH).await, 429, "RATE_LIMITED");
    server.advance(Duration::from_millis(1));
    assert_eq!(call(&client, PATH).await.status, 200);
}
