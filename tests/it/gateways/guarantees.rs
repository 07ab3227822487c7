//! The guarantees of `docs/guides/gateways.md`, which every gateway must meet.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::peers::{APPLICATION_BODY, ReceivedRequest};
use super::{MAX_FAILURES, Setup, preflights};
use crate::support::{Answer, Client, Raw, http_from};

pub(super) const IDENTITY: [&str; 6] = [
    "x-auth-key-id",
    "x-auth-organization-id",
    "x-auth-user-id",
    "x-auth-plan",
    "x-auth-scopes",
    "x-auth-status",
];

/// Checks all guarantees. The last checks leave a setup in which no request passes.
pub(super) async fn check_all(mut setup: Setup) {
    setup.server.organization("org_1").await;
    setup.server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    assert_eq!(setup.server.admin().post("/organizations/org_1/members", member).await.status, 201);

    the_application_receives_the_identity(&setup).await;
    identity_headers_cannot_be_forged(&setup).await;
    the_body_reaches_only_the_application(&setup).await;
    connections_to_tollhouse_are_reused(&setup).await;
    preflights::preflights_need_no_key(&setup).await;
    preflights::only_preflights_need_no_key(&setup).await;
    preflights::a_preflight_has_no_identity_and_no_other_method(&setup).await;
    a_key_with_many_scopes_is_admitted(&setup).await;
    the_applications_refusals_pass_through(&setup).await;
    invalid_keys_are_refused(&setup).await;
    a_key_over_its_limits_is_refused(&setup).await;
    a_revoked_key_is_refused_immediately(&setup).await;
    a_client_address_cannot_be_forged(&setup).await;
    guesses_are_rate_limited(&setup).await;
    no_request_passes_while_tollhouse_is_down(&mut setup).await;
}

/// Valid keys of each kind of owner, with the values of [`IDENTITY`] that the application must receive.
async fn valid_keys(setup: &Setup) -> Vec<(String, [String; 6])> {
    let scopes = json!(["workflows:read", "transactions:write"]);
    let mut keys = Vec::new();
    for (owner, identity) in [
        (json!({"organization_id": "org_1", "user_id": "user_1"}), ["org_1", "user_1", "standard"]),
        (json!({"organization_id": "org_1"}), ["org_1", "-", "standard"]),
        (json!({}), ["-", "-", "-"]),
    ] {
        let mut body = owner;
        body["name"] = json!("valid");
        body["scopes"] = scopes.clone();
        let (_, key) = setup.server.key_with(body).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let [organization, user, plan] = identity.map(str::to_owned);
        let scopes = "workflows:read transactions:write".to_owned();
        let identity = [text(&key["id"]), organization, user, plan, scopes, "VALID".to_owned()];
        keys.push((text(&key["key"]), identity));
    }
    keys
}

/// The headers that the application may read as identity headers, in any spelling. CGI doesn't distinguish case,
/// `-` and `_`.
pub(super) fn identity(received: &ReceivedRequest) -> Vec<(String, String)> {
    let normalized = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let mut headers: Vec<_> = received
        .headers
        .iter()
        .map(|(name, value)| (normalized(name.as_str()), value.to_str().unwrap().to_owned()))
        .filter(|(name, _)| name.starts_with("x-auth"))
        .collect();
    headers.sort();
    headers
}

/// Asserts that the application received one request, with this identity and without the key.
#[track_caller]
fn assert_identified(received: &[ReceivedRequest], expected: &[String; 6]) {
    let [received] = received else { panic!("{} requests reached the application", received.len()) };
    let mut expected: Vec<_> = IDENTITY.map(str::to_owned).into_iter().zip(expected.clone()).collect();
    expected.sort();
    assert_eq!(identity(received), expected);
    for name in ["authorization", "x-api-key"] {
        assert_eq!(received.headers.get(name), None, "{name} reached the application");
    }
}

/// Why a key without the required scope is refused.
const WITHOUT_SCOPE: &str = "without the scope";

/// Asserts that the request was refused with this status and did not reach the application.
#[track_caller]
pub(super) fn assert_refused((answer, received): &(Answer, Vec<ReceivedRequest>), status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{reason}: {answer:?}");
    assert_eq!(received.len(), 0, "{reason}: it reached the application");
    assert_ne!(answer.text, APPLICATION_BODY, "{reason}");
    let challenges = usize::from(status == 401 || reason == WITHOUT_SCOPE);
    let has = |name| answer.header(name).is_some_and(|value| !value.is_empty());
    assert_eq!(answer.headers.get_all("www-authenticate").iter().count(), challenges, "{reason}: {answer:?}");
    assert_eq!(has("retry-after"), status == 429, "{reason}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{reason}: {answer:?}");
    assert_eq!(answer.json["success"], false, "{reason}: {answer:?}");
    assert!(answer.json["error"]["message"].is_string(), "{reason}: {answer:?}");
    assert!(!answer.code().is_empty(), "{reason}: {answer:?}");
}

async fn the_application_receives_the_identity(setup: &Setup) {
    for (key, identity) in valid_keys(setup).await {
        let get = || setup.request(Method::GET, "/things");
        for request in [get().bearer_auth(&key), get().header("x-api-key", &key)] {
            let (answer, received) = setup.send(request).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, APPLICATION_BODY));
            assert_identified(&received, &identity);
        }
    }
}

async fn identity_headers_cannot_be_forged(setup: &Setup) {
    let spellings: [fn(&str) -> String; 5] = [
        str::to_owned,
        str::to_uppercase,
        |name| name.replace('-', "_"),
        |name| name.replacen('-', "_", 1),
        |name| name.replacen("auth-", "AUTH_", 1),
    ];
    let host = setup.gateway.url.strip_prefix("http://").unwrap();
    for (key, identity) in valid_keys(setup).await {
        for spell in spellings {
            for connection in ["keep-alive".to_owned(), format!("keep-alive, {}", IDENTITY.join(", "))] {
                let mut head =
                    format!("GET /things HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n");
                head.push_str(&format!("Authorization: Bearer {key}\r\n"));
                for name in IDENTITY {
                    head.push_str(&format!("{}: forged\r\n", spell(name)));
                }
                head.push_str("\r\n");
                let mut raw = Raw::connect(&setup.gateway.url).await;
                raw.send(head.as_bytes()).await;
                let answer = raw.answer().await.unwrap();
                assert_eq!(answer.status, 200, "{head}{answer:?}");
                assert_identified(&setup.application.take_requests(), &identity);
            }
        }
    }
}

async fn the_body_reaches_only_the_application(setup: &Setup) {
    let (key, _) = valid_keys(setup).await.remove(0);
    let path = "/things/a%2Fb?scope=admin:keys&limit_status=200";
    let body = "nobody-else's-business ".repeat(5000);
    let parts: Vec<Result<String, std::io::Error>> =
        vec![Ok(body[..50_000].into()), Ok(body[50_000..].into())];
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    for sent in [reqwest::Body::from(body.clone()), chunked] {
        let request = setup.request(Method::POST, path).bearer_auth(&key).body(sent);
        let (answer, received) = setup.send(request).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, APPLICATION_BODY));
        let [received] = received.as_slice() else { panic!("{} requests", received.len()) };
        assert_eq!((received.method.as_str(), received.uri.as_str()), ("POST", path));
        assert!(received.body == body, "{} bytes of {}", received.body.len(), body.len());
    }
    let recorded = setup.proxy.recorded();
    assert!(recorded.contains(&key), "the proxy recorded nothing");
    assert!(!recorded.contains("nobody-else's-business"), "the body went to Tollhouse");
}

async fn connections_to_tollhouse_are_reused(setup: &Setup) {
    let (key, _) = valid_keys(setup).await.remove(0);
    let before = setup.proxy.connection_count();
    for _ in 0..50 {
        assert_eq!(setup.send(setup.get(&key)).await.0.status, 200);
    }
    let connections = setup.proxy.connection_count() - before;
    assert!(connections < 10, "{connections} connections for 50 requests");
}

async fn the_applications_refusals_pass_through(setup: &Setup) {
    let (key, _) = valid_keys(setup).await.remove(0);
    let request = setup.request(Method::GET, "/forbidden").bearer_auth(key);
    let (answer, received) = setup.send(request).await;
    assert_eq!((answer.status, answer.text.as_str(), received.len()), (403, APPLICATION_BODY, 1));
}

async fn invalid_keys_are_refused(setup: &Setup) {
    let server = &setup.server;
    let admin = server.admin();
    let read = json!(["workflows:read"]);
    let (valid, _) = valid_keys(setup).await.remove(0);
    assert_refused(&setup.send(setup.request(Method::GET, "/things")).await, 401, "no key");
    assert_refused(&setup.send(setup.get(&format!("toll_{}", "0".repeat(38)))).await, 401, "malformed");
    let unknown = "an-unknown-key-that-could-have-been-imported";
    assert_refused(&setup.send(setup.get(unknown)).await, 401, "unknown");
    assert_refused(&setup.send(setup.get(&valid).header("x-api-key", unknown)).await, 401, "two keys");
    // nginx and other gateways refuse this without asking Tollhouse.
    let (answer, received) = setup.send(setup.get(&valid).bearer_auth(unknown)).await;
    assert!(
        [400, 401].contains(&answer.status) && received.is_empty(),
        "two Authorization headers: {answer:?}"
    );

    let disabled = json!({"id": "key_disabled", "name": "n", "scopes": read});
    let disabled = setup.key(disabled).await;
    assert_eq!(admin.patch("/api-keys/key_disabled", json!({"status": "disabled"})).await.status, 200);
    assert_refused(&setup.send(setup.get(&disabled)).await, 401, "disabled");

    let expiring = json!({"name": "n", "scopes": read, "expires_at": "2026-11-23T08:00:00Z"});
    let expiring = setup.key(expiring).await;
    assert_eq!(setup.send(setup.get(&expiring)).await.0.status, 200);
    server.advance(Duration::from_secs(3600));
    assert_refused(&setup.send(setup.get(&expiring)).await, 401, "expired");

    let narrow = setup.key(json!({"name": "n", "scopes": ["workflows:write", "admin:keys"]})).await;
    assert_refused(&setup.send(setup.get(&narrow)).await, 403, WITHOUT_SCOPE);

    server.organization("org_2").await;
    server.user("user_2").await;
    let member = json!({"user_id": "user_2", "role": "member"});
    assert_eq!(admin.post("/organizations/org_2/members", member).await.status, 201);
    let owned = json!({"organization_id": "org_2", "user_id": "user_2", "name": "n", "scopes": read});
    let owned = setup.key(owned).await;
    assert_eq!(setup.send(setup.get(&owned)).await.0.status, 200);
    for (path, reason) in [("/users/user_2", "inactive owner"), ("/organizations/org_2", "suspended")] {
        assert_eq!(admin.patch(path, json!({"status": "suspended"})).await.status, 200);
        assert_refused(&setup.send(setup.get(&owned)).await, 403, reason);
        assert_eq!(admin.patch(path, json!({"status": "active"})).await.status, 200);
        assert_eq!(setup.send(setup.get(&owned)).await.0.status, 200);
    }
}

async fn a_key_over_its_limits_is_refused(setup: &Setup) {
    for (kind, limit) in [
        ("rate limit", json!({"limit": 2, "window_seconds": 60})),
        ("quota", json!({"limit": 2, "period": "day"})),
    ] {
        let key = setup.key(json!({"name": "n", "scopes": ["workflows:read"], "limits": [limit]})).await;
        for remaining in ["1", "0"] {
            let (answer, received) = setup.send(setup.get(&key)).await;
            assert_eq!(answer.status, 200, "{kind}");
            if kind == "rate limit" && setup.passes_limits {
                assert_limits(&answer, remaining);
            }
            let [received] = received.as_slice() else { panic!("{} requests", received.len()) };
            assert!(
                LIMITS.iter().all(|name| !received.headers.contains_key(*name)),
                "{:?}",
                received.headers
            );
        }
        let refused = setup.send(setup.get(&key)).await;
        assert_refused(&refused, 429, kind);
        if kind == "rate limit" {
            assert_limits(&refused.0, "0");
        }
    }
    // A client can't set these headers of the response.
    let unlimited = setup.key(json!({"name": "n", "scopes": ["workflows:read"]})).await;
    let request =
        LIMITS.iter().fold(setup.get(&unlimited), |request, name| request.header(*name, "\"forged\""));
    let (answer, _) = setup.send(request).await;
    assert_eq!(answer.status, 200);
    assert!(LIMITS.iter().all(|name| answer.header(name).is_none()), "{answer:?}");
}

/// The headers that tell a client its limits.
const LIMITS: [&str; 5] =
    ["ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// Asserts that the client learns its rate limit of 2 requests per minute, once per header.
#[track_caller]
fn assert_limits(answer: &Answer, remaining: &str) {
    for name in LIMITS {
        assert_eq!(answer.headers.get_all(name).iter().count(), 1, "{name}: {answer:?}");
    }
    assert_eq!(answer.header("ratelimit-policy"), Some("\"key-requests-60s\";q=2;w=60"), "{answer:?}");
    let state = format!("\"key-requests-60s\";r={remaining};");
    assert!(answer.header("ratelimit").unwrap().starts_with(&state), "{answer:?}");
    assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining), "{answer:?}");
}

/// The header with these scopes is larger than the buffers of some gateways.
async fn a_key_with_many_scopes_is_admitted(setup: &Setup) {
    let mut scopes = vec!["workflows:read".to_owned()];
    for number in 0..99 {
        let scope = format!("resource-{number:02}-{}:write-{}", "x".repeat(20), "x".repeat(26));
        let created = setup.server.admin().post("/scopes", json!({"scope": scope})).await;
        assert_eq!(created.status, 201, "{created:?}");
        scopes.push(scope);
    }
    let key = setup.key(json!({"name": "n", "scopes": scopes})).await;
    let (answer, received) = setup.send(setup.get(&key)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let [received] = received.as_slice() else { panic!("{} requests", received.len()) };
    let mut received: Vec<_> = received.headers["x-auth-scopes"].to_str().unwrap().split(' ').collect();
    received.sort_unstable();
    scopes.sort_unstable();
    assert_eq!(received, scopes);
}

async fn a_revoked_key_is_refused_immediately(setup: &Setup) {
    let admin = setup.server.admin();
    for id in ["key_1", "key_2", "key_3"] {
        let key = setup.key(json!({"id": id, "name": "n", "scopes": ["workflows:read"]})).await;
        assert_eq!(setup.send(setup.get(&key)).await.0.status, 200);
        assert_eq!(admin.delete(&format!("/api-keys/{id}")).await.status, 200);
        assert_refused(&setup.send(setup.get(&key)).await, 401, "revoked");
    }
}

async fn a_client_address_cannot_be_forged(setup: &Setup) {
    let key = |allowed| json!({"name": "n", "scopes": ["workflows:read"], "allowed_ips": [allowed]});
    let remote = setup.key(key("203.0.113.7/32")).await;
    let client = setup.key(key("127.0.0.9/32")).await;
    let gateway = setup.key(key("127.0.0.1/32")).await;
    let other_client = http_from([127, 0, 0, 8]);
    let from_other_address = |key| other_client.get(format!("{}/things", setup.gateway.url)).bearer_auth(key);
    assert_eq!(setup.send(setup.get(&client)).await.0.status, 200);
    for forged in ["203.0.113.7", "203.0.113.7, 127.0.0.1", "203.0.113.7,", "127.0.0.1, 203.0.113.7"] {
        let request = setup.get(&remote).header("x-forwarded-for", forged).header("x-real-ip", "203.0.113.7");
        let request = request.header("x-forwarded-for", "203.0.113.7").header("forwarded", "for=203.0.113.7");
        assert_refused(&setup.send(request).await, 403, forged);
    }
    for forged in ["127.0.0.9", "127.0.0.9, 127.0.0.1", "127.0.0.1, 127.0.0.9"] {
        let request = from_other_address(&client).header("x-forwarded-for", forged);
        assert_refused(&setup.send(request).await, 403, forged);
        // Forged headers don't cause a valid request to be refused either.
        let request =
            setup.get(&client).header("x-forwarded-for", "203.0.113.7").header("x-forwarded-for", "?");
        assert_eq!(setup.send(request).await.0.status, 200);
    }
    assert_refused(&setup.send(setup.get(&gateway)).await, 403, "the gateway's own address");
}

async fn guesses_are_rate_limited(setup: &Setup) {
    let (valid, _) = valid_keys(setup).await.remove(0);
    for guess in 0.. {
        let guessed = setup.send(setup.get(&format!("toll_guess{guess}"))).await;
        if guessed.0.status == 429 {
            assert_refused(&guessed, 429, "too many guesses");
            break;
        }
        assert_refused(&guessed, 401, "a guess");
        assert!(guess < MAX_FAILURES, "guesses are not limited");
    }
    assert_eq!(setup.send(setup.get(&valid)).await.0.status, 200);
    // Other addresses have their own limit.
    let request = http_from([127, 0, 0, 8]).get(&setup.gateway.url).bearer_auth("toll_guess");
    let answer = Client::try_send(request).await.unwrap();
    assert_eq!(answer.status, 401);
}

async fn no_request_passes_while_tollhouse_is_down(setup: &mut Setup) {
    let (valid, _) = valid_keys(setup).await.remove(0);
    setup.proxy.stop().await;
    let (answer, received) = setup.send(setup.get(&valid)).await;
    assert!((500..=504).contains(&answer.status), "{answer:?}");
    assert_eq!(received.len(), 0);
}
