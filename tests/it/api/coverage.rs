//! Authorisation, route by route: the table that the server serves from is walked, and whoever may not
//! call a route is turned away from it with the exact code, and without having changed anything.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, IF_MATCH};
use serde_json::{Value, json};
use tollhouse::domain::invalidation::Invalidation;
use tollhouse::domain::time::Timestamp;
use tollhouse::http::pages::FILES;
use tollhouse::http::routes::{ANY, AuthRequirement, ROUTES, Route};

use super::{column, done, refused};
use crate::support::{ADMIN_KEY, Answer, Client, NOW, Server};

/// What the key of another organization, with all scopes, meets.
#[derive(Clone, Copy, PartialEq)]
enum Foreign {
    /// There is no such thing for it: 404.
    NotThere,
    /// It is not of the platform: 403.
    Platform,
    /// It may call, and hears of its own things alone.
    OwnThings,
    /// It may ask, and hears that there is no such key.
    Unknown,
}
use Foreign::{NotThere, OwnThings, Platform, Unknown};

/// Its body is a form, and its refusals have the form of OAuth.
const INTROSPECT: &str = "/v1/introspect";

/// A call of a route that succeeds with the right key, about things of the organization `org_alpha`.
struct Row {
    method: &'static str,
    path: &'static str,
    /// The path as called; `EVENT` stands for an audit event of the organization, `ASSET` for a page's file.
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
        row("GET", "/", "/", OwnThings, None),
        row("GET", "/healthz", "/healthz", OwnThings, None),
        row("GET", "/readyz", "/readyz", OwnThings, None),
        row("GET", "/openapi.json", "/openapi.json", OwnThings, None),

        row("GET", "/docs", "/docs", OwnThings, None),
        row("GET", "/docs/", "/docs/", OwnThings, None),
        row("GET", "/docs/{*path}", "/docs/ASSET", OwnThings, None),
        row("GET", "/console", "/console", OwnThings, None),
        row("GET", "/console/", "/console/", OwnThings, None),
        row("GET", "/console/{*path}", "/console/ASSET", OwnThings, None),

        row("POST", "/v1/keys/verify", "/v1/keys/verify", Unknown, Some(json!({"key": "SECRET"}))),
        row("POST", INTROSPECT, INTROSPECT, Unknown, Some(json!({"token": "SECRET"}))),
        row(ANY, "/v1/forward-auth", "/v1/forward-auth", OwnThings, None),
        row(ANY, "/v1/forward-auth/{path}", "/v1/forward-auth/the/clients/own", OwnThings, None),

        row("GET", "/admin/v1/whoami", "/admin/v1/whoami", OwnThings, None),

        row("GET", "/admin/v1/organizations", "/admin/v1/organizations", OwnThings, None),
        row("POST", "/admin/v1/organizations", "/admin/v1/organizations", Platform, Some(json!({"name": "n", "email": "n@example.com"}))),
        row("GET", "/admin/v1/organizations/{id}", "/admin/v1/organizations/org_alpha", NotThere, None),
        row("PATCH", "/admin/v1/organizations/{id}", "/admin/v1/organizations/org_alpha", NotThere, Some(json!({"name": "taken over"}))),
        row("DELETE", "/admin/v1/organizations/{id}", "/admin/v1/organizations/org_alpha", NotThere, None),

        row("GET", "/admin/v1/organizations/{id}/members", "/admin/v1/organizations/org_alpha/members", NotThere, None),
        row("POST", "/admin/v1/organizations/{id}/members", "/admin/v1/organizations/org_alpha/members", NotThere, Some(json!({"user_id": "user_free", "role": "owner"}))),
        row("GET", "/admin/v1/organizations/{id}/members/{user_id}", "/admin/v1/organizations/org_alpha/members/user_alpha", NotThere, None),
        row("PATCH", "/admin/v1/organizations/{id}/members/{user_id}", "/admin/v1/organizations/org_alpha/members/user_alpha", NotThere, Some(json!({"role": "owner"}))),
        row("DELETE", "/admin/v1/organizations/{id}/members/{user_id}", "/admin/v1/organizations/org_alpha/members/user_alpha", NotThere, None),

        row("GET", "/admin/v1/users", "/admin/v1/users", OwnThings, None),
        row("POST", "/admin/v1/users", "/admin/v1/users", OwnThings, Some(json!({"name": "n", "email": "n@example.com"}))),
        row("GET", "/admin/v1/users/{id}", "/admin/v1/users/user_alpha", NotThere, None),
        row("PATCH", "/admin/v1/users/{id}", "/admin/v1/users/user_alpha", NotThere, Some(json!({"email": "taken@over.example"}))),
        row("DELETE", "/admin/v1/users/{id}", "/admin/v1/users/user_alpha", NotThere, None),
        row("GET", "/admin/v1/users/{id}/memberships", "/admin/v1/users/user_alpha/memberships", NotThere, None),

        row("GET", "/admin/v1/api-keys", "/admin/v1/api-keys", OwnThings, None),
        row("POST", "/admin/v1/api-keys", "/admin/v1/api-keys", NotThere, Some(key)),
        row("GET", "/admin/v1/api-keys/{id}", "/admin/v1/api-keys/key_alpha", NotThere, None),
        row("PATCH", "/admin/v1/api-keys/{id}", "/admin/v1/api-keys/key_alpha", NotThere, Some(json!({"status": "disabled"}))),
        row("DELETE", "/admin/v1/api-keys/{id}", "/admin/v1/api-keys/key_alpha", NotThere, None),
        row("POST", "/admin/v1/api-keys/{id}/revoke", "/admin/v1/api-keys/key_alpha/revoke", NotThere, Some(json!({"reason": "r"}))),
        row("POST", "/admin/v1/api-keys/{id}/rotate", "/admin/v1/api-keys/key_alpha/rotate", NotThere, Some(json!({"grace_period_seconds": 0}))),
        row("POST", "/admin/v1/api-keys/{id}/expire-previous", "/admin/v1/api-keys/key_alpha/expire-previous", NotThere, None),

        row("GET", "/admin/v1/scopes", "/admin/v1/scopes", OwnThings, None),
        row("POST", "/admin/v1/scopes", "/admin/v1/scopes", Platform, Some(json!({"scope": "reports:read"}))),
        row("DELETE", "/admin/v1/scopes/{scope}", "/admin/v1/scopes/invoices:read", Platform, None),

        row("GET", "/admin/v1/config", "/admin/v1/config", Platform, None),
        row("PATCH", "/admin/v1/config", "/admin/v1/config", Platform, Some(json!({"keys": {"prefix": "mine"}}))),

        row("GET", "/admin/v1/analytics/usage", "/admin/v1/analytics/usage?key_id=key_alpha", NotThere, None),
        row("GET", "/admin/v1/analytics/overview", "/admin/v1/analytics/overview", OwnThings, None),
        row("GET", "/admin/v1/analytics/logs", "/admin/v1/analytics/logs", OwnThings, None),

        row("GET", "/admin/v1/audit-logs", "/admin/v1/audit-logs", OwnThings, None),
        row("GET", "/admin/v1/audit-logs/export", "/admin/v1/audit-logs/export", OwnThings, None),
        row("GET", "/admin/v1/audit-logs/verify", "/admin/v1/audit-logs/verify", Platform, None),
        row("GET", "/admin/v1/audit-logs/{id}", "/admin/v1/audit-logs/EVENT", NotThere, None),

        // What it holds is each operation's own; those of all routes are tried in batches, too.
        row("POST", "/admin/v1/batch", "/admin/v1/batch", OwnThings, Some(json!({"atomic": false, "operations": [{"method": "GET", "path": "/organizations/org_alpha"}]}))),
    ]
}

/// Routes that answer without a key. Whoever adds one explains it here.
const OPEN: &[&str] = &[
    "/",             // The addresses of the others here, no more.
    "/healthz",      // A probe has no key; it tells that the process answers, no more.
    "/readyz",       // The same, and whether the database can be written.
    "/openapi.json", // The contract is public.
    // Pages hold nothing but themselves: what they show they ask for, with a key that somebody types in.
    "/docs",
    "/docs/",
    "/docs/{*path}",
    "/console",
    "/console/",
    "/console/{*path}",
    // Who asks is a proxy without a key. The key that it asks about is the client's own: who knows it
    // learns what it may do, and nobody passes without; failures are limited by address.
    "/v1/forward-auth",
    "/v1/forward-auth/{path}",
];

/// What `org_alpha` is made of.
const THINGS: &[&str] = &[
    "/organizations/org_alpha",
    "/organizations/org_alpha/members",
    "/users/user_alpha",
    "/users/user_free",
    "/api-keys/key_alpha",
    "/api-keys?organization_id=org_alpha&limit=100",
    "/scopes?limit=100",
];

/// A server with `org_alpha`, its things, and keys of all kinds.
struct World {
    server: Server,
    /// Everything in the catalogue.
    scopes: Vec<String>,
    /// An audit event of `org_alpha`.
    event: String,
    /// Of `key_alpha`.
    secret: String,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let admin = server.admin();
        server.organization("org_alpha").await;
        server.user("user_alpha").await;
        server.user("user_free").await;
        let member = json!({"user_id": "user_alpha", "role": "member"});
        done(admin.post("/organizations/org_alpha/members", member).await, 201);
        done(admin.post("/scopes", json!({"scope": "invoices:read"})).await, 201);
        let of_alpha =
            json!({"id": "key_alpha", "organization_id": "org_alpha", "name": "alpha", "scopes": ["*"]});
        let secret = server.key_with(of_alpha).await.0.key.unwrap();
        let scopes = column(&done(admin.get("/scopes?limit=100").await, 200), "scope");
        let events = done(admin.get("/audit-logs?org_id=org_alpha&limit=1").await, 200);
        Self { event: column(&events, "id").remove(0), server, scopes, secret }
    }

    /// The call as the one operation of a batch.
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

    /// Everything that `org_alpha` has, as answered, with its ETags.
    async fn things(&self) -> Vec<(Option<String>, Value)> {
        let mut things = Vec::new();
        for path in THINGS {
            let answer = self.server.admin().get(path).await;
            let etag = answer.header("etag").map(str::to_owned);
            things.push((etag, done(answer, 200)));
        }
        things
    }
}

/// A new key with `*`: its id and its secret.
async fn secret(server: &Server, more: Value) -> (String, String) {
    let mut body = json!({"name": "n", "scopes": ["*"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (client, key) = server.key_with(body).await;
    (key["id"].as_str().unwrap().to_owned(), client.key.unwrap())
}

/// Makes good keys and takes from each what made it good.
async fn spoil(server: &Server) -> Vec<(&'static str, String)> {
    let admin = server.admin();
    for organization in ["org_beta", "org_suspended", "org_deleted"] {
        server.organization(organization).await;
    }
    server.user("user_suspended").await;
    let member = json!({"user_id": "user_suspended", "role": "member"});
    done(admin.post("/organizations/org_beta/members", member).await, 201);
    let (disabled_id, disabled) = secret(server, json!({})).await;
    done(admin.patch(&format!("/api-keys/{disabled_id}"), json!({"status": "disabled"})).await, 200);
    let (revoked_id, revoked) = secret(server, json!({})).await;
    done(admin.delete(&format!("/api-keys/{revoked_id}")).await, 200);
    let (rotated_id, rotated) = secret(server, json!({})).await;
    let rotate = format!("/api-keys/{rotated_id}/rotate");
    let graced = done(admin.post(&rotate, json!({"grace_period_seconds": 0})).await, 200);
    done(admin.post(&rotate, json!({"grace_period_seconds": 60})).await, 200);
    let (_, suspended) = secret(server, json!({"organization_id": "org_suspended"})).await;
    done(admin.patch("/organizations/org_suspended", json!({"status": "suspended"})).await, 200);
    let (_, deleted) = secret(server, json!({"organization_id": "org_deleted"})).await;
    done(admin.delete("/organizations/org_deleted").await, 200);
    let owned = json!({"organization_id": "org_beta", "user_id": "user_suspended"});
    let (_, owned) = secret(server, owned).await;
    done(admin.patch("/users/user_suspended", json!({"status": "suspended"})).await, 200);
    let soon = Timestamp::from_millis(NOW + 1000).to_string();
    let (_, expired) = secret(server, json!({"expires_at": soon})).await;
    server.advance(Duration::from_secs(60));
    let mut mistyped = expired.clone();
    mistyped.replace_range(10..11, if &expired[10..11] == "x" { "y" } else { "x" });
    vec![
        ("malformed", "nonsense".to_owned()),
        ("of our form with a wrong checksum", mistyped),
        ("unknown", format!("{ADMIN_KEY}0")),
        ("disabled", disabled),
        ("revoked", revoked),
        ("replaced without grace", rotated),
        ("replaced, the grace over", graced["key"].as_str().unwrap().to_owned()),
        ("expired", expired),
        ("of a suspended organization", suspended),
        ("of a deleted organization", deleted),
        ("of a suspended owner", owned),
    ]
}

#[test]
fn the_table_of_this_test_is_the_table_of_the_server() {
    let served: Vec<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    let tried: Vec<_> = rows().iter().map(|row| (row.method, row.path)).collect();
    for route in &served {
        assert!(tried.contains(route), "{route:?} is served, but nobody tries to break in");
    }
    for route in &tried {
        assert!(served.contains(route), "{route:?} is not served any more");
    }
    assert_eq!(served.len(), tried.len(), "a row is there twice");
    let open: Vec<_> =
        ROUTES.iter().filter(|route| route.auth == AuthRequirement::Open).map(|route| route.path).collect();
    assert_eq!(open, OPEN);
}

#[tokio::test]
async fn every_route_refuses_who_may_not_call_it() {
    let world = World::new().await;
    let bad = spoil(&world.server).await;
    let (_, elsewhere) = secret(&world.server, json!({"allowed_ips": ["203.0.113.0/24"]})).await;
    for (nth, row) in rows().iter().enumerate() {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path)).unwrap();
        if row.path.starts_with("/v1/forward-auth") {
            nobody_passes_without_a_good_key(&world, row, &bad).await;
        }
        if route.auth == AuthRequirement::Open {
            continue;
        }
        let (weak, foreign) = callers(&world, route, nth).await;
        let before = world.things().await;
        without_a_good_key(&world, row, &bad).await;
        for key in &weak {
            without_the_scope(&world, row, route, key).await;
        }
        turned_away(row, &world.call(row, Some(&elsewhere)).await, 403, "IP_NOT_ALLOWED");
        i5_from_another_organization(&world, row, &foreign).await;
        in_a_batch_as_alone(&world, row, route, [weak.as_slice(), &[foreign]].concat()).await;
        assert_eq!(world.things().await, before, "{} {}: a refused call did something", row.method, row.path);
    }
}

/// What is refused above is refused for who calls, not for what it asks.
#[tokio::test]
async fn every_route_answers_who_may_call_it() {
    for row in rows() {
        let world = World::new().await;
        let key = Some(ADMIN_KEY).filter(|_| row.method == ANY || !OPEN.contains(&row.path));
        let answer = world.call(&row, key).await;
        assert!((200..300).contains(&answer.status), "{} {}: {}", row.method, row.path, answer.text);
        assert!(row.foreign != Unknown || answer.text.contains("key_alpha"), "{}", answer.text);
    }
}

/// Keys that have every scope but those of which the route asks one, of the platform and of another
/// organization, and a key of that organization that has all.
async fn callers(world: &World, route: &Route, nth: usize) -> (Vec<String>, String) {
    let organization = format!("org_foreign{nth}");
    world.server.organization(&organization).await;
    let (_, foreign) = secret(&world.server, json!({"organization_id": organization})).await;
    let asked = match route.auth {
        AuthRequirement::Scope(asked) | AuthRequirement::Platform(asked) => asked,
        AuthRequirement::AnyKey | AuthRequirement::Open => return (Vec::new(), foreign),
    };
    let others: Vec<_> =
        world.scopes.iter().map(String::as_str).filter(|scope| !asked.contains(scope)).collect();
    let mut weak = Vec::new();
    for organization in [None, Some(organization.as_str())] {
        weak.extend(world.server.key(organization, &others).await.0.key);
    }
    (weak, foreign)
}

/// The answer must be this refusal, in the form that the route gives it.
#[track_caller]
fn turned_away(row: &Row, answer: &Answer, status: u16, code: &str) {
    if row.path != INTROSPECT {
        return refused(answer, status, code);
    }
    let error = match code {
        "UNAUTHENTICATED" => "invalid_client",
        "INVALID_API_KEY" => "invalid_token",
        _ => "insufficient_scope",
    };
    assert_eq!((answer.status, answer.json["error"].as_str()), (status, Some(error)), "{}", answer.text);
}

async fn nobody_passes_without_a_good_key(world: &World, row: &Row, bad: &[(&str, String)]) {
    assert_eq!(world.call(row, None).await.status, 401, "{}", row.path);
    for (why, key) in bad {
        let answer = world.call(row, Some(key)).await;
        assert!([401, 403].contains(&answer.status), "{} {why}: {}", row.path, answer.text);
    }
}

async fn without_a_good_key(world: &World, row: &Row, bad: &[(&str, String)]) {
    let answer = world.call(row, None).await;
    turned_away(row, &answer, 401, "UNAUTHENTICATED");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let anonymous = world.server.anonymous();
    for given in ["", "Bearer", "Bearer ", "Basic a2V5OnNlY3JldA==", ADMIN_KEY] {
        let request = world.request(row, row.method, &anonymous).header(AUTHORIZATION, given);
        turned_away(row, &anonymous.send(request).await, 401, "UNAUTHENTICATED");
    }
    let admin = world.server.admin();
    let twice = world.request(row, row.method, &admin).bearer_auth(ADMIN_KEY);
    turned_away(row, &admin.send(twice).await, 401, "UNAUTHENTICATED");
    if row.method == "GET" {
        let head = anonymous.send(world.request(row, Method::HEAD.as_str(), &anonymous)).await;
        assert_eq!(head.status, 401, "HEAD {}", row.path);
    }
    for (why, key) in bad {
        let answer = world.call(row, Some(key)).await;
        turned_away(row, &answer, 401, "INVALID_API_KEY");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        // Which reason it was is nobody's business.
        let place = if row.path == INTROSPECT { "/error_description" } else { "/error/message" };
        let message = answer.json.pointer(place).and_then(Value::as_str);
        assert_eq!(message, Some("The API key is not valid."), "{why}");
    }
}

async fn without_the_scope(world: &World, row: &Row, route: &Route, key: &str) {
    let (AuthRequirement::Scope(asked) | AuthRequirement::Platform(asked)) = route.auth else {
        panic!("{:?}", route.auth)
    };
    assert!(!asked.is_empty(), "{} asks for nothing", row.path);
    let answer = world.call(row, Some(key)).await;
    turned_away(row, &answer, 403, "INSUFFICIENT_SCOPE");
    for scope in asked {
        assert!(answer.text.contains(scope), "it must name {scope}: {}", answer.text);
    }
}

/// The key has all scopes, in its own organization.
async fn i5_from_another_organization(world: &World, row: &Row, key: &str) {
    let answer = world.call(row, Some(key)).await;
    match row.foreign {
        NotThere => refused(&answer, 404, "NOT_FOUND"),
        Platform => refused(&answer, 403, "PLATFORM_KEY_REQUIRED"),
        Unknown => {
            let told = if row.path == INTROSPECT { json!({"active": false}) } else { json!("NOT_FOUND") };
            let found = if row.path == INTROSPECT { &answer.json } else { &answer.data()["code"] };
            assert_eq!((answer.status, found), (200, &told), "{}", answer.text);
        }
        OwnThings => assert!((200..300).contains(&answer.status), "{} {}", row.path, answer.text),
    }
    assert!(!answer.text.contains("alpha"), "{} tells of another organization: {}", row.path, answer.text);
    assert!(!answer.text.contains(&world.event), "{} tells of another's event", row.path);
}

/// Who is turned away from a route is turned away from it in a batch, in the same words.
async fn in_a_batch_as_alone(world: &World, row: &Row, route: &Route, keys: Vec<String>) {
    for key in keys {
        if !route.in_batch {
            if row.path.starts_with("/admin/") {
                let answer = world.in_batch(row, &key, true).await;
                let expected = [("/operations/0/path".to_owned(), "NOT_IN_BATCH".to_owned())];
                let method_too = answer.details().iter().any(|(at, _)| at == "/operations/0/method");
                assert!(answer.details() == expected || method_too, "{} {}", row.path, answer.text);
            }
            continue;
        }
        let alone = world.call(row, Some(&key)).await;
        if alone.status < 300 {
            continue;
        }
        for atomic in [true, false] {
            let answer = world.in_batch(row, &key, atomic).await;
            let (status, results) = match atomic {
                true => (409, &answer.json["error"]["results"]),
                false => (200, &answer.json["data"]["results"]),
            };
            assert_eq!(answer.status, status, "{} {}", row.path, answer.text);
            assert_eq!(results[0]["status"], alone.status, "{} {}", row.path, answer.text);
            assert_eq!(results[0]["body"]["error"], alone.json["error"], "{} {}", row.path, answer.text);
            assert!(!answer.text.contains("alpha"), "{} tells of another: {}", row.path, answer.text);
        }
    }
}

/// Every route that a batch takes answers there what it answers alone.
#[tokio::test]
async fn every_route_of_a_batch_answers_as_alone() {
    for row in rows() {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path)).unwrap();
        if !route.in_batch {
            continue;
        }
        // The answers of two worlds that are the same, but for what chance makes.
        let (one, other) = (World::new().await, World::new().await);
        // Nothing that is remembered may be used: what a handler needs it finds in the transaction.
        other.server.app.version_clock.publish(&[Invalidation::All]);
        let alone = one.call(&row, Some(ADMIN_KEY)).await;
        let answer = other.in_batch(&row, ADMIN_KEY, true).await;
        let result = &done(answer, 200)["results"][0];
        assert_eq!(result["status"], alone.status, "{} {}: {result}", row.method, row.path);
        assert_eq!(result["etag"].as_str().is_some(), alone.header("etag").is_some(), "{result}");
        let fields = |data: &Value| {
            data.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(fields(&result["body"]["data"]), fields(alone.data()), "{} {}", row.method, row.path);
        assert_eq!(result["body"]["success"], true);
    }
}

/// A key without any scope may ask what every key may ask, and no more.
#[tokio::test]
async fn any_key_means_any_key() {
    let world = World::new().await;
    let (none, _) = world.server.key(None, &[]).await;
    for row in rows() {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path)).unwrap();
        let answer = world.call(&row, none.key.as_deref()).await;
        match route.auth {
            AuthRequirement::Open | AuthRequirement::AnyKey => {
                assert_eq!(answer.status, 200, "{} {}", row.path, answer.text)
            }
            AuthRequirement::Scope(_) | AuthRequirement::Platform(_) => {
                turned_away(&row, &answer, 403, "INSUFFICIENT_SCOPE")
            }
        }
    }
}
