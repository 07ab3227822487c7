//! Authorization of every route. The tests walk the server's route table and check that a caller without
//! access gets the exact error and changes nothing.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, IF_MATCH};
use serde_json::{Value, json};
use tollhouse::domain::invalidation::Invalidation;
use tollhouse::domain::time::Timestamp;
use tollhouse::http::pages::FILES;
use tollhouse::http::routes::{ANY, AuthRequirement, ROUTES, Route};

use super::{column, expect_error, expect_ok};
use crate::support::{ADMIN_KEY, Answer, Client, NOW, Server};

/// The result of a call by a key of another organization that has all scopes.
#[derive(Clone, Copy, PartialEq)]
enum Foreign {
    /// 404: the resource does not exist for this key.
    NotFound,
    /// 403: a platform key is required.
    Platform,
    /// 200 with only the resources of its own organization.
    OwnResources,
    /// 200: the key in question is reported as unknown.
    Unknown,
}
use Foreign::{NotFound, OwnResources, Platform, Unknown};

/// The route whose body is a form and whose errors are OAuth errors.
const INTROSPECT: &str = "/v1/introspect";

/// A call that succeeds with the right key and concerns resources of the organization `org_alpha`.
struct Row {
    method: &'static str,
    path: &'static str,
    /// The path of the call. `EVENT` stands for an audit event of the organization, `ASSET` for a file of a
    /// page.
    call: &'static str,
    /// `SECRET` stands for the secret of the organization's key.
    body: Option<Value>,
    foreign: Foreign,
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let row = |method, path, call, foreign, body| Row { method, path, call, body, foreign };
    let key = json!({"organization_id": "org_alpha", "name": "n", "scopes": ["workflows:read"]});
    vec![
        row("GET", "/", "/", OwnResources, None),
        row("GET", "/healthz", "/healthz", OwnResources, None),
        row("GET", "/readyz", "/readyz", OwnResources, None),
        row("GET", "/openapi.json", "/openapi.json", OwnResources, None),

        row("GET", "/favicon.ico", "/favicon.ico", OwnResources, None),
        row("GET", "/docs", "/docs", OwnResources, None),
        row("GET", "/docs/", "/docs/", OwnResources, None),
        row("GET", "/docs/{*path}", "/docs/ASSET", OwnResources, None),
        row("GET", "/console", "/console", OwnResources, None),
        row("GET", "/console/", "/console/", OwnResources, None),
        row("GET", "/console/{*path}", "/console/ASSET", OwnResources, None),

        row("POST", "/v1/keys/verify", "/v1/keys/verify", Unknown, Some(json!({"key": "SECRET"}))),
        row("POST", INTROSPECT, INTROSPECT, Unknown, Some(json!({"token": "SECRET"}))),
        row(ANY, "/v1/forward-auth", "/v1/forward-auth", OwnResources, None),
        row(ANY, "/v1/forward-auth/{path}", "/v1/forward-auth/the/clients/own", OwnResources, None),

        row("GET", "/admin/v1/whoami", "/admin/v1/whoami", OwnResources, None),

        row("GET", "/admin/v1/organizations", "/admin/v1/organizations", OwnResources, None),
        row("POST", "/admin/v1/organizations", "/admin/v1/organizations", Platform, Some(json!({"name": "n", "email": "n@example.com"}))),
        row("GET", "/admin/v1/organizations/{id}", "/admin/v1/organizations/org_alpha", NotFound, None),
        row("PATCH", "/admin/v1/organizations/{id}", "/admin/v1/organizations/org_alpha", NotFound, Some(json!({"name": "taken over"}))),
        row("DELETE", "/admin/v1/organizations/{id}", "/admin/v1/organizations/org_alpha", NotFound, None),

        row("GET", "/admin/v1/organizations/{id}/members", "/admin/v1/organizations/org_alpha/members", NotFound, None),
        row("POST", "/admin/v1/organizations/{id}/members", "/admin/v1/organizations/org_alpha/members", NotFound, Some(json!({"user_id": "user_free", "role": "owner"}))),
        row("GET", "/admin/v1/organizations/{id}/members/{user_id}", "/admin/v1/organizations/org_alpha/members/user_alpha", NotFound, None),
        row("PATCH", "/admin/v1/organizations/{id}/members/{user_id}", "/admin/v1/organizations/org_alpha/members/user_alpha", NotFound, Some(json!({"role": "owner"}))),
        row("DELETE", "/admin/v1/organizations/{id}/members/{user_id}", "/admin/v1/organizations/org_alpha/members/user_alpha", NotFound, None),

        row("GET", "/admin/v1/users", "/admin/v1/users", OwnResources, None),
        row("POST", "/admin/v1/users", "/admin/v1/users", OwnResources, Some(json!({"name": "n", "email": "n@example.com"}))),
        row("GET", "/admin/v1/users/{id}", "/admin/v1/users/user_alpha", NotFound, None),
        row("PATCH", "/admin/v1/users/{id}", "/admin/v1/users/user_alpha", NotFound, Some(json!({"email": "taken@over.example"}))),
        row("DELETE", "/admin/v1/users/{id}", "/admin/v1/users/user_alpha", NotFound, None),
        row("GET", "/admin/v1/users/{id}/memberships", "/admin/v1/users/user_alpha/memberships", NotFound, None),

        row("GET", "/admin/v1/api-keys", "/admin/v1/api-keys", OwnResources, None),
        row("POST", "/admin/v1/api-keys", "/admin/v1/api-keys", NotFound, Some(key)),
        row("GET", "/admin/v1/api-keys/{id}", "/admin/v1/api-keys/key_alpha", NotFound, None),
        row("PATCH", "/admin/v1/api-keys/{id}", "/admin/v1/api-keys/key_alpha", NotFound, Some(json!({"status": "disabled"}))),
        row("DELETE", "/admin/v1/api-keys/{id}", "/admin/v1/api-keys/key_alpha", NotFound, None),
        row("POST", "/admin/v1/api-keys/{id}/revoke", "/admin/v1/api-keys/key_alpha/revoke", NotFound, Some(json!({"reason": "r"}))),
        row("POST", "/admin/v1/api-keys/{id}/rotate", "/admin/v1/api-keys/key_alpha/rotate", NotFound, Some(json!({"grace_period_seconds": 0}))),
        row("POST", "/admin/v1/api-keys/{id}/expire-previous", "/admin/v1/api-keys/key_alpha/expire-previous", NotFound, None),

        row("GET", "/admin/v1/scopes", "/admin/v1/scopes", OwnResources, None),
        row("POST", "/admin/v1/scopes", "/admin/v1/scopes", Platform, Some(json!({"scope": "reports:read"}))),
        row("DELETE", "/admin/v1/scopes/{scope}", "/admin/v1/scopes/invoices:read", Platform, None),

        row("GET", "/admin/v1/config", "/admin/v1/config", Platform, None),
        row("PATCH", "/admin/v1/config", "/admin/v1/config", Platform, Some(json!({"keys": {"prefix": "mine"}}))),

        row("GET", "/admin/v1/analytics/usage", "/admin/v1/analytics/usage?key_id=key_alpha", NotFound, None),
        row("GET", "/admin/v1/analytics/overview", "/admin/v1/analytics/overview", OwnResources, None),
        row("GET", "/admin/v1/analytics/logs", "/admin/v1/analytics/logs", OwnResources, None),

        row("GET", "/admin/v1/audit-logs", "/admin/v1/audit-logs", OwnResources, None),
        row("GET", "/admin/v1/audit-logs/export", "/admin/v1/audit-logs/export", OwnResources, None),
        row("GET", "/admin/v1/audit-logs/verify", "/admin/v1/audit-logs/verify", Platform, None),
        row("GET", "/admin/v1/audit-logs/{id}", "/admin/v1/audit-logs/EVENT", NotFound, None),

        // Each operation is authorized separately; the tests also call all routes in batches.
        row("POST", "/admin/v1/batch", "/admin/v1/batch", OwnResources, Some(json!({"atomic": false, "operations": [{"method": "GET", "path": "/organizations/org_alpha"}]}))),
    ]
}

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

/// The resources of `org_alpha`.
const RESOURCES: &[&str] = &[
    "/organizations/org_alpha",
    "/organizations/org_alpha/members",
    "/users/user_alpha",
    "/users/user_free",
    "/api-keys/key_alpha",
    "/api-keys?organization_id=org_alpha&limit=100",
    "/scopes?limit=100",
];

/// A server with `org_alpha`, its resources, and keys of all kinds.
struct Fixture {
    server: Server,
    /// All scopes of the catalogue.
    scopes: Vec<String>,
    /// The ID of an audit event of `org_alpha`.
    event: String,
    /// The secret of `key_alpha`.
    secret: String,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start().await;
        let admin = server.admin();
        server.organization("org_alpha").await;
        server.user("user_alpha").await;
        server.user("user_free").await;
        let member = json!({"user_id": "user_alpha", "role": "member"});
        expect_ok(admin.post("/organizations/org_alpha/members", member).await, 201);
        expect_ok(admin.post("/scopes", json!({"scope": "invoices:read"})).await, 201);
        let key_alpha =
            json!({"id": "key_alpha", "organization_id": "org_alpha", "name": "alpha", "scopes": ["*"]});
        let secret = server.key_with(key_alpha).await.0.key.unwrap();
        let scopes = column(&expect_ok(admin.get("/scopes?limit=100").await, 200), "scope");
        let events = expect_ok(admin.get("/audit-logs?org_id=org_alpha&limit=1").await, 200);
        Self { event: column(&events, "id").remove(0), server, scopes, secret }
    }

    /// Makes the call as the only operation of a batch.
    async fn in_batch(&self, row: &Row, key: &str, atomic: bool) -> Answer {
        let mut operation = json!({"method": row.method, "path": row.call.replace("EVENT", &self.event)});
        if let Some(body) = &row.body {
            operation["body"] = body.clone();
        }
        if row.path.ends_with("/config") {
            operation["if_match"] = "*".into();
        }
        let batch = json!({"atomic": atomic, "operations": [operation]});
        self.server.client(Some(key)).post("/batch", batch).await
    }

    async fn call(&self, row: &Row, key: Option<&str>) -> Answer {
        let client = self.server.client(key);
        client.send(self.request(row, row.method, &client)).await
    }

    fn request(&self, row: &Row, method: &str, client: &Client) -> reqwest::RequestBuilder {
        let call = row.call.replace("EVENT", &self.event);
        let page = FILES.iter().find(|file| {
            row.path.contains('*') && file.path.starts_with(&row.path[..6]) && file.path.ends_with(".js")
        });
        let url = format!("{}{}", self.server.url, page.map_or(call.as_str(), |file| file.path));
        let method = if method == ANY { "GET" } else { method };
        let request = reqwest::Client::new().request(method.parse().unwrap(), url);
        let request = if row.path.ends_with("/config") { request.header(IF_MATCH, "*") } else { request };
        let request = row.body.iter().fold(request, |request, body| {
            let body: Value =
                serde_json::from_str(&body.to_string().replace("SECRET", &self.secret)).unwrap();
            if row.path == INTROSPECT { request.form(&body) } else { request.json(&body) }
        });
        client.key.iter().fold(request, |request, key| request.bearer_auth(key))
    }

    /// Returns the resources of `org_alpha` with their ETags.
    async fn resources(&self) -> Vec<(Option<String>, Value)> {
        let mut resources = Vec::new();
        for path in RESOURCES {
            let answer = self.server.admin().get(path).await;
            let etag = answer.header("etag").map(str::to_owned);
            resources.push((etag, expect_ok(answer, 200)));
        }
        resources
    }
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
fn rows_match_the_route_table() {
    let served: Vec<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    let tested: Vec<_> = rows().iter().map(|row| (row.method, row.path)).collect();
    for route in &served {
        assert!(tested.contains(route), "{route:?} is served, but its authorization is not tested");
    }
    for route in &tested {
        assert!(served.contains(route), "{route:?} is tested, but not served");
    }
    assert_eq!(served.len(), tested.len(), "duplicate row");
    let open: Vec<_> =
        ROUTES.iter().filter(|route| route.auth == AuthRequirement::Open).map(|route| route.path).collect();
    assert_eq!(open, OPEN);
}

#[tokio::test]
async fn every_route_refuses_callers_without_access() {
    let fixture = Fixture::new().await;
    let invalid = invalid_keys(&fixture.server).await;
    let (_, elsewhere) = secret(&fixture.server, json!({"allowed_ips": ["203.0.113.0/24"]})).await;
    for (index, row) in rows().iter().enumerate() {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path)).unwrap();
        if row.path.starts_with("/v1/forward-auth") {
            forward_auth_without_a_valid_key(&fixture, row, &invalid).await;
        }
        if route.auth == AuthRequirement::Open {
            continue;
        }
        let (weak, foreign) = callers(&fixture, route, index).await;
        let before = fixture.resources().await;
        without_a_valid_key(&fixture, row, &invalid).await;
        for key in &weak {
            without_the_scope(&fixture, row, route, key).await;
        }
        expect_refusal(row, &fixture.call(row, Some(&elsewhere)).await, 403, "IP_NOT_ALLOWED");
        i5_from_another_organization(&fixture, row, &foreign).await;
        refused_in_a_batch(&fixture, row, route, [weak.as_slice(), &[foreign]].concat()).await;
        assert_eq!(
            fixture.resources().await,
            before,
            "{} {}: a refused call changed something",
            row.method,
            row.path
        );
    }
}

/// The same calls succeed with the right key, so that the refusals above are caused by the caller.
#[tokio::test]
async fn every_route_answers_callers_with_access() {
    for row in rows() {
        let fixture = Fixture::new().await;
        let key = Some(ADMIN_KEY).filter(|_| row.method == ANY || !OPEN.contains(&row.path));
        let answer = fixture.call(&row, key).await;
        assert!((200..300).contains(&answer.status), "{} {}: {}", row.method, row.path, answer.text);
        assert!(row.foreign != Unknown || answer.text.contains("key_alpha"), "{}", answer.text);
    }
}

/// Creates keys of the platform and of another organization that have all scopes but those that the route
/// accepts, and a key of that organization with all scopes.
async fn callers(fixture: &Fixture, route: &Route, index: usize) -> (Vec<String>, String) {
    let organization = format!("org_foreign{index}");
    fixture.server.organization(&organization).await;
    let (_, foreign) = secret(&fixture.server, json!({"organization_id": organization})).await;
    let accepted = match route.auth {
        AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => scopes,
        AuthRequirement::AnyKey | AuthRequirement::Open => return (Vec::new(), foreign),
    };
    let others: Vec<_> =
        fixture.scopes.iter().map(String::as_str).filter(|scope| !accepted.contains(scope)).collect();
    let mut weak = Vec::new();
    for organization in [None, Some(organization.as_str())] {
        weak.extend(fixture.server.key(organization, &others).await.0.key);
    }
    (weak, foreign)
}

/// Asserts that the response is this error, in the form of the route.
#[track_caller]
fn expect_refusal(row: &Row, answer: &Answer, status: u16, code: &str) {
    if row.path != INTROSPECT {
        return expect_error(answer, status, code);
    }
    let error = match code {
        "UNAUTHENTICATED" => "invalid_client",
        "INVALID_API_KEY" => "invalid_token",
        _ => "insufficient_scope",
    };
    assert_eq!((answer.status, answer.json["error"].as_str()), (status, Some(error)), "{}", answer.text);
}

async fn forward_auth_without_a_valid_key(fixture: &Fixture, row: &Row, invalid: &[(&str, String)]) {
    assert_eq!(fixture.call(row, None).await.status, 401, "{}", row.path);
    for (reason, key) in invalid {
        let answer = fixture.call(row, Some(key)).await;
        assert!([401, 403].contains(&answer.status), "{} {reason}: {}", row.path, answer.text);
    }
}

async fn without_a_valid_key(fixture: &Fixture, row: &Row, invalid: &[(&str, String)]) {
    let answer = fixture.call(row, None).await;
    expect_refusal(row, &answer, 401, "UNAUTHENTICATED");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let anonymous = fixture.server.anonymous();
    for authorization in ["", "Bearer", "Bearer ", "Basic a2V5OnNlY3JldA==", ADMIN_KEY] {
        let request = fixture.request(row, row.method, &anonymous).header(AUTHORIZATION, authorization);
        expect_refusal(row, &anonymous.send(request).await, 401, "UNAUTHENTICATED");
    }
    let admin = fixture.server.admin();
    let twice = fixture.request(row, row.method, &admin).bearer_auth(ADMIN_KEY);
    expect_refusal(row, &admin.send(twice).await, 401, "UNAUTHENTICATED");
    if row.method == "GET" {
        let head = anonymous.send(fixture.request(row, Method::HEAD.as_str(), &anonymous)).await;
        assert_eq!(head.status, 401, "HEAD {}", row.path);
    }
    for (reason, key) in invalid {
        let answer = fixture.call(row, Some(key)).await;
        expect_refusal(row, &answer, 401, "INVALID_API_KEY");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        // The message doesn't reveal the reason.
        let pointer = if row.path == INTROSPECT { "/error_description" } else { "/error/message" };
        let message = answer.json.pointer(pointer).and_then(Value::as_str);
        assert_eq!(message, Some("The API key is not valid."), "{reason}");
    }
}

async fn without_the_scope(fixture: &Fixture, row: &Row, route: &Route, key: &str) {
    let (AuthRequirement::Scope(accepted) | AuthRequirement::Platform(accepted)) = route.auth else {
        panic!("{:?}", route.auth)
    };
    assert!(!accepted.is_empty(), "{} requires no scope", row.path);
    let answer = fixture.call(row, Some(key)).await;
    expect_refusal(row, &answer, 403, "INSUFFICIENT_SCOPE");
    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", accepted[0]);
    assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()), "{}", row.path);
    for scope in accepted {
        assert!(answer.text.contains(scope), "the message must name {scope}: {}", answer.text);
    }
}

/// The key has all scopes in another organization.
async fn i5_from_another_organization(fixture: &Fixture, row: &Row, key: &str) {
    let answer = fixture.call(row, Some(key)).await;
    match row.foreign {
        NotFound => expect_error(&answer, 404, "NOT_FOUND"),
        Platform => expect_error(&answer, 403, "PLATFORM_KEY_REQUIRED"),
        Unknown => {
            let (expected, actual) = if row.path == INTROSPECT {
                (json!({"active": false}), &answer.json)
            } else {
                (json!("NOT_FOUND"), &answer.data()["code"])
            };
            assert_eq!((answer.status, actual), (200, &expected), "{}", answer.text);
        }
        OwnResources => assert!((200..300).contains(&answer.status), "{} {}", row.path, answer.text),
    }
    assert!(!answer.text.contains("alpha"), "{} reveals another organization: {}", row.path, answer.text);
    assert!(!answer.text.contains(&fixture.event), "{} reveals an event of another organization", row.path);
}

/// A call that is refused is refused in a batch, too, with the same error.
async fn refused_in_a_batch(fixture: &Fixture, row: &Row, route: &Route, keys: Vec<String>) {
    for key in keys {
        if !route.is_in_batch() {
            if row.path.starts_with("/admin/") {
                let answer = fixture.in_batch(row, &key, true).await;
                let expected = [("/operations/0/path".to_owned(), "NOT_IN_BATCH".to_owned())];
                let method_too = answer.details().iter().any(|(at, _)| at == "/operations/0/method");
                assert!(answer.details() == expected || method_too, "{} {}", row.path, answer.text);
            }
            continue;
        }
        let alone = fixture.call(row, Some(&key)).await;
        if alone.status < 300 {
            continue;
        }
        for atomic in [true, false] {
            let answer = fixture.in_batch(row, &key, atomic).await;
            let (status, results) = match atomic {
                true => (409, &answer.json["error"]["results"]),
                false => (200, &answer.json["data"]["results"]),
            };
            assert_eq!(answer.status, status, "{} {}", row.path, answer.text);
            assert_eq!(results[0]["status"], alone.status, "{} {}", row.path, answer.text);
            assert_eq!(results[0]["body"]["error"], alone.json["error"], "{} {}", row.path, answer.text);
            assert!(
                !answer.text.contains("alpha"),
                "{} reveals another organization: {}",
                row.path,
                answer.text
            );
        }
    }
}

/// Every route that can be used in a batch has the same result there as in a single call.
#[tokio::test]
async fn every_route_has_the_same_result_in_a_batch() {
    for row in rows() {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path)).unwrap();
        if !route.is_in_batch() {
            continue;
        }
        // Two servers with the same resources, except for random values.
        let single = Fixture::new().await;
        let batch = Fixture::new().await;
        // Empties the caches: in a batch a handler reads what it needs in the transaction.
        batch.server.app.version_clock.publish(&[Invalidation::All]);
        let alone = single.call(&row, Some(ADMIN_KEY)).await;
        let answer = batch.in_batch(&row, ADMIN_KEY, true).await;
        let result = &expect_ok(answer, 200)["results"][0];
        assert_eq!(result["status"], alone.status, "{} {}: {result}", row.method, row.path);
        assert_eq!(result["etag"].as_str().is_some(), alone.header("etag").is_some(), "{result}");
        let fields = |data: &Value| {
            data.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(fields(&result["body"]["data"]), fields(alone.data()), "{} {}", row.method, row.path);
        assert_eq!(result["body"]["success"], true);
    }
}

/// A key without scopes can call exactly the routes that accept any key.
#[tokio::test]
async fn a_key_without_scopes_calls_only_routes_for_any_key() {
    let fixture = Fixture::new().await;
    let (none, _) = fixture.server.key(None, &[]).await;
    for row in rows() {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path)).unwrap();
        let answer = fixture.call(&row, none.key.as_deref()).await;
        match route.auth {
            AuthRequirement::Open | AuthRequirement::AnyKey => {
                assert_eq!(answer.status, 200, "{} {}", row.path, answer.text)
            }
            AuthRequirement::Scope(_) | AuthRequirement::Platform(_) => {
                expect_refusal(&row, &answer, 403, "INSUFFICIENT_SCOPE")
            }
        }
    }
}
