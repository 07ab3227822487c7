//! Authorization of every route: a caller without access gets the exact error and changes nothing.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use tollhouse::domain::invalidation::Invalidation;
use tollhouse::domain::time::Timestamp;
use tollhouse::http::routes::{ANY, AuthRequirement, ROUTES, Route};

use super::{column, expect_error, expect_ok};
use crate::example_calls::Foreign::{NotFound, OwnResources, Platform, Unknown};
use crate::example_calls::{ExampleCall, Fixture, INTROSPECT, example_calls};
use crate::support::{ADMIN_KEY, Answer, NOW, Server};

/// Routes that require no key, each with the reason.
const OPEN: &[&str] = &[
    "/",             // Reveals only the addresses of the routes listed here.
    "/healthz",      // Probes have no key. Reveals only that the process answers.
    "/readyz",       // Probes have no key. Also reveals whether the database can be written.
    "/openapi.json", // The API document is public.
    "/favicon.ico",  // The icon is public.
    // Pages contain no data. They request it from the API with a key that the user enters.
    "/docs",
    "/docs/",
    "/docs/{*path}",
    "/console",
    "/console/",
    "/console/{*path}",
    // The caller is a proxy without a key of its own. The request carries the client's key, and without a
    // valid key it is denied. Failed attempts are rate-limited by address.
    "/v1/forward-auth",
    "/v1/forward-auth/{path}",
];

/// What a refused call must not change either, besides the resources that example calls read.
const OTHER_RESOURCES: &[&str] =
    &["/users/user_free", "/api-keys?organization_id=org_alpha&limit=100", "/scopes?limit=100", "/config"];

/// Makes the call as the only operation of a batch.
async fn in_batch(fixture: &Fixture, call: &ExampleCall, key: &str, atomic: bool) -> Answer {
    let mut operation = json!({"method": call.route.method, "path": fixture.path(call)});
    if let Some(body) = fixture.body(call) {
        operation["body"] = body;
    }
    if call.route.path.ends_with("/config") {
        operation["if_match"] = "*".into();
    }
    let batch = json!({"atomic": atomic, "operations": [operation]});
    fixture.server.client(Some(key)).post("/batch", batch).await
}

/// Returns the resources of `org_alpha` that example calls read, and others, with their ETags.
async fn resources(fixture: &Fixture) -> Vec<(Option<String>, Value)> {
    let paths = example_calls().into_iter().filter(|call| call.is_admin() && call.route.method == "GET");
    let paths = paths.map(|call| fixture.path(&call).replacen("/admin/v1", "", 1));
    let paths = paths.filter(|path| path.contains("_alpha") && !path.contains('?'));
    let mut resources = Vec::new();
    for path in paths.chain(OTHER_RESOURCES.iter().map(|path| path.to_string())) {
        let answer = fixture.server.admin().get(&path).await;
        let etag = answer.header("etag").map(str::to_owned);
        resources.push((etag, expect_ok(answer, 200)));
    }
    resources
}

/// Creates a key with the scope `*`. Returns its ID and its secret.
async fn secret(server: &Server, fields: Value) -> (String, String) {
    let mut body = json!({"name": "n", "scopes": ["*"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let (client, key) = server.key_with(body).await;
    (key["id"].as_str().unwrap().to_owned(), client.key.unwrap())
}

/// Creates keys that are invalid, each for another reason.
async fn invalid_keys(server: &Server) -> Vec<(&'static str, String)> {
    let admin = server.admin();
    for organization in ["org_beta", "org_suspended", "org_deleted"] {
        server.organization(organization).await;
    }
    server.user("user_suspended").await;
    let member = json!({"user_id": "user_suspended", "role": "member"});
    expect_ok(admin.post("/organizations/org_beta/members", member).await, 201);
    let (disabled_id, disabled) = secret(server, json!({})).await;
    expect_ok(admin.patch(&format!("/api-keys/{disabled_id}"), json!({"status": "disabled"})).await, 200);
    let (revoked_id, revoked) = secret(server, json!({})).await;
    expect_ok(admin.delete(&format!("/api-keys/{revoked_id}")).await, 200);
    let (rotated_id, rotated) = secret(server, json!({})).await;
    let rotate = format!("/api-keys/{rotated_id}/rotate");
    let grace_ended = expect_ok(admin.post(&rotate, json!({"grace_period_seconds": 0})).await, 200);
    expect_ok(admin.post(&rotate, json!({"grace_period_seconds": 60})).await, 200);
    let (_, suspended) = secret(server, json!({"organization_id": "org_suspended"})).await;
    expect_ok(admin.patch("/organizations/org_suspended", json!({"status": "suspended"})).await, 200);
    let (_, deleted) = secret(server, json!({"organization_id": "org_deleted"})).await;
    expect_ok(admin.delete("/organizations/org_deleted").await, 200);
    let owned = json!({"organization_id": "org_beta", "user_id": "user_suspended"});
    let (_, owned) = secret(server, owned).await;
    expect_ok(admin.patch("/users/user_suspended", json!({"status": "suspended"})).await, 200);
    let soon = Timestamp::from_millis(NOW + 1000).to_string();
    let (_, expired) = secret(server, json!({"expires_at": soon})).await;
    server.advance(Duration::from_secs(60));
    let mut mistyped = expired.clone();
    mistyped.replace_range(10..11, if &expired[10..11] == "x" { "y" } else { "x" });
    vec![
        ("malformed", "nonsense".to_owned()),
        ("wrong checksum", mistyped),
        ("unknown", format!("{ADMIN_KEY}0")),
        ("disabled", disabled),
        ("revoked", revoked),
        ("rotated without a grace period", rotated),
        ("rotated, grace period ended", grace_ended["key"].as_str().unwrap().to_owned()),
        ("expired", expired),
        ("of a suspended organization", suspended),
        ("of a deleted organization", deleted),
        ("of a suspended owner", owned),
    ]
}

#[test]
fn only_listed_routes_require_no_key() {
    let open: Vec<_> =
        ROUTES.iter().filter(|route| route.auth == AuthRequirement::Open).map(|route| route.path).collect();
    assert_eq!(open, OPEN);
}

#[tokio::test]
async fn every_route_refuses_callers_without_access() {
    let fixture = Fixture::new().await;
    let invalid = invalid_keys(&fixture.server).await;
    let (_, elsewhere) = secret(&fixture.server, json!({"allowed_ips": ["203.0.113.0/24"]})).await;
    for (index, call) in example_calls().iter().enumerate() {
        let route = call.route;
        if call.route.path.starts_with("/v1/forward-auth") {
            forward_auth_without_a_valid_key(&fixture, call, &invalid).await;
        }
        if route.auth == AuthRequirement::Open {
            continue;
        }
        let (weak, foreign) = callers(&fixture, route, index).await;
        let before = resources(&fixture).await;
        without_a_valid_key(&fixture, call, &invalid).await;
        for key in &weak {
            without_the_scope(&fixture, call, key).await;
        }
        expect_refusal(call, &fixture.call(call, Some(&elsewhere)).await, 403, "IP_NOT_ALLOWED");
        i5_from_another_organization(&fixture, call, &foreign).await;
        refused_in_a_batch(&fixture, call, [weak.as_slice(), &[foreign]].concat()).await;
        assert_eq!(resources(&fixture).await, before, "{}: a refused call changed something", call.name());
    }
}

/// The same calls succeed with the right key, so that the refusals above are caused by the caller.
#[tokio::test]
async fn every_route_answers_callers_with_access() {
    for call in example_calls() {
        let fixture = Fixture::new().await;
        let key = fixture.caller(&call).await;
        let key = Some(&*key).filter(|_| call.route.method == ANY || !OPEN.contains(&call.route.path));
        let answer = fixture.call(&call, key).await;
        assert_eq!(answer.status, call.status, "{}: {}", call.name(), answer.text);
        assert!(call.foreign != Unknown || answer.text.contains("key_alpha"), "{}", answer.text);
    }
}

/// Creates keys of the platform and of another organization that have all scopes but those that the route
/// accepts, and a key of that organization with all scopes.
async fn callers(fixture: &Fixture, route: &Route, index: usize) -> (Vec<String>, String) {
    let organization = format!("org_foreign{index}");
    fixture.server.organization(&organization).await;
    let foreign = json!({"organization_id": organization, "self_rotation": true});
    let (_, foreign) = secret(&fixture.server, foreign).await;
    let accepted = match route.auth {
        AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => scopes,
        AuthRequirement::AnyKey | AuthRequirement::OwnKey | AuthRequirement::Open => {
            return (Vec::new(), foreign);
        }
    };
    let all = expect_ok(fixture.server.admin().get("/scopes?limit=100").await, 200);
    let all = column(&all, "scope");
    let others: Vec<_> = all.iter().map(String::as_str).filter(|scope| !accepted.contains(scope)).collect();
    let mut weak = Vec::new();
    for organization in [None, Some(organization.as_str())] {
        weak.extend(fixture.server.key(organization, &others).await.0.key);
    }
    (weak, foreign)
}

/// Asserts that the response is this error, in the form of the route.
#[track_caller]
fn expect_refusal(call: &ExampleCall, answer: &Answer, status: u16, code: &str) {
    if call.route.path != INTROSPECT {
        return expect_error(answer, status, code);
    }
    let error = match code {
        "UNAUTHENTICATED" => "invalid_client",
        "INVALID_API_KEY" => "invalid_token",
        _ => "insufficient_scope",
    };
    assert_eq!((answer.status, answer.json["error"].as_str()), (status, Some(error)), "{}", answer.text);
}

async fn forward_auth_without_a_valid_key(fixture: &Fixture, call: &ExampleCall, invalid: &[(&str, String)]) {
    assert_eq!(fixture.call(call, None).await.status, 401, "{}", call.route.path);
    for (reason, key) in invalid {
        let answer = fixture.call(call, Some(key)).await;
        assert!([401, 403].contains(&answer.status), "{} {reason}: {}", call.route.path, answer.text);
    }
}

async fn without_a_valid_key(fixture: &Fixture, call: &ExampleCall, invalid: &[(&str, String)]) {
    let answer = fixture.call(call, None).await;
    expect_refusal(call, &answer, 401, "UNAUTHENTICATED");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let anonymous = fixture.server.anonymous();
    for authorization in ["", "Bearer", "Bearer ", "Basic a2V5OnNlY3JldA==", ADMIN_KEY] {
        let request = fixture.request(call, &anonymous).header(AUTHORIZATION, authorization);
        expect_refusal(call, &anonymous.send(request).await, 401, "UNAUTHENTICATED");
    }
    let admin = fixture.server.admin();
    let twice = fixture.request(call, &admin).bearer_auth(ADMIN_KEY);
    expect_refusal(call, &admin.send(twice).await, 401, "UNAUTHENTICATED");
    if call.route.method == "GET" {
        let head = anonymous.send(anonymous.request_at_root(Method::HEAD, &fixture.path(call))).await;
        assert_eq!(head.status, 401, "HEAD {}", call.route.path);
    }
    for (reason, key) in invalid {
        let answer = fixture.call(call, Some(key)).await;
        expect_refusal(call, &answer, 401, "INVALID_API_KEY");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        // The message doesn't reveal the reason.
        let pointer = if call.route.path == INTROSPECT { "/error_description" } else { "/error/message" };
        let message = answer.json.pointer(pointer).and_then(Value::as_str);
        assert_eq!(message, Some("The API key is not valid."), "{reason}");
    }
}

async fn without_the_scope(fixture: &Fixture, call: &ExampleCall, key: &str) {
    let (AuthRequirement::Scope(accepted) | AuthRequirement::Platform(accepted)) = call.route.auth else {
        panic!("{:?}", call.route.auth)
    };
    assert!(!accepted.is_empty(), "{} requires no scope", call.route.path);
    let answer = fixture.call(call, Some(key)).await;
    expect_refusal(call, &answer, 403, "INSUFFICIENT_SCOPE");
    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", accepted[0]);
    assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()), "{}", call.route.path);
    for scope in accepted {
        assert!(answer.text.contains(scope), "the message must name {scope}: {}", answer.text);
    }
}

/// The key has all scopes in another organization.
async fn i5_from_another_organization(fixture: &Fixture, call: &ExampleCall, key: &str) {
    let answer = fixture.call(call, Some(key)).await;
    match call.foreign {
        NotFound => expect_error(&answer, 404, "NOT_FOUND"),
        Platform => expect_error(&answer, 403, "PLATFORM_KEY_REQUIRED"),
        Unknown => {
            let (expected, actual) = if call.route.path == INTROSPECT {
                (json!({"active": false}), &answer.json)
            } else {
                // One result, or a list of them.
                let results = answer.data();
                (json!("NOT_FOUND"), results.get(0).unwrap_or(results).get("code").unwrap_or(&Value::Null))
            };
            assert_eq!((answer.status, actual), (200, &expected), "{}", answer.text);
        }
        OwnResources => assert!((200..300).contains(&answer.status), "{} {}", call.route.path, answer.text),
    }
    assert!(
        !answer.text.contains("alpha"),
        "{} reveals another organization: {}",
        call.route.path,
        answer.text
    );
    assert!(
        !answer.text.contains(&fixture.event),
        "{} reveals an event of another organization",
        call.route.path
    );
}

/// A call that is refused is refused in a batch, too, with the same error.
async fn refused_in_a_batch(fixture: &Fixture, call: &ExampleCall, keys: Vec<String>) {
    for key in keys {
        if !call.route.is_in_batch() {
            if call.is_admin() {
                let answer = in_batch(fixture, call, &key, true).await;
                let expected = [("/operations/0/path".to_owned(), "NOT_IN_BATCH".to_owned())];
                let method_too = answer.details().iter().any(|(at, _)| at == "/operations/0/method");
                assert!(answer.details() == expected || method_too, "{} {}", call.route.path, answer.text);
            }
            continue;
        }
        let alone = fixture.call(call, Some(&key)).await;
        if alone.status < 300 {
            continue;
        }
        for atomic in [true, false] {
            let answer = in_batch(fixture, call, &key, atomic).await;
            let (status, results) = match atomic {
                true => (409, &answer.json["error"]["results"]),
                false => (200, &answer.json["data"]["results"]),
            };
            assert_eq!(answer.status, status, "{} {}", call.route.path, answer.text);
            assert_eq!(results[0]["status"], alone.status, "{} {}", call.route.path, answer.text);
            assert_eq!(
                results[0]["body"]["error"], alone.json["error"],
                "{} {}",
                call.route.path, answer.text
            );
            assert!(
                !answer.text.contains("alpha"),
                "{} reveals another organization: {}",
                call.route.path,
                answer.text
            );
        }
    }
}

/// Every route that can be used in a batch has the same result there as in a single call.
#[tokio::test]
async fn every_route_has_the_same_result_in_a_batch() {
    for call in example_calls() {
        if !call.route.is_in_batch() {
            continue;
        }
        // Two servers with the same resources, except for random values.
        let single = Fixture::new().await;
        let batch = Fixture::new().await;
        // Empties the caches: in a batch a handler reads what it needs in the transaction.
        batch.server.app.version_clock.publish(&[Invalidation::All]);
        let alone = single.call(&call, Some(ADMIN_KEY)).await;
        let answer = in_batch(&batch, &call, ADMIN_KEY, true).await;
        let result = &expect_ok(answer, 200)["results"][0];
        assert_eq!(result["status"], alone.status, "{}: {result}", call.name());
        assert_eq!(result["etag"].as_str().is_some(), alone.header("etag").is_some(), "{result}");
        let fields = |data: &Value| {
            data.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(fields(&result["body"]["data"]), fields(alone.data()), "{}", call.name());
        assert_eq!(result["body"]["success"], true);
    }
}

/// A key without scopes can call exactly the routes that accept any key.
#[tokio::test]
async fn a_key_without_scopes_calls_only_routes_for_any_key() {
    let fixture = Fixture::new().await;
    let none = fixture.server.own_key().await;
    for call in example_calls() {
        let answer = fixture.call(&call, none.key.as_deref()).await;
        match call.route.auth {
            AuthRequirement::Open | AuthRequirement::AnyKey | AuthRequirement::OwnKey => {
                assert_eq!(answer.status, 200, "{} {}", call.route.path, answer.text)
            }
            AuthRequirement::Scope(_) | AuthRequirement::Platform(_) => {
                expect_refusal(&call, &answer, 403, "INSUFFICIENT_SCOPE")
            }
        }
    }
}
