//! An example call of every route, and a server on which all of them succeed. The tests that cover all routes take
//! their calls from here.

use std::iter::zip;

use reqwest::header::IF_MATCH;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tollhouse::http::pages::FILES;
use tollhouse::http::routes::{ANY, AuthRequirement, ROUTES, Route};

use crate::support::{ADMIN_KEY, Answer, Client, Server};

/// Stands for the ID of an audit event of `org_alpha`.
pub(crate) const EVENT: &str = "EVENT";

/// Stands for the ID of the resource that the call creates.
pub(crate) const CREATED: &str = "CREATED";

/// The route whose body is a form and whose errors are OAuth errors.
pub(crate) const INTROSPECT: &str = "/v1/introspect";

/// A call that succeeds with the key of [`Fixture::caller`] on the server of the fixture.
pub(crate) struct ExampleCall {
    pub route: &'static Route,
    /// The path and the query. [`EVENT`] stands for an ID, `ASSET` for a file of a page.
    path: String,
    /// `SECRET` stands for the secret of `key_alpha`.
    body: Option<Value>,
    pub status: u16,
    pub foreign: Foreign,
    /// The audit event that the call records. `None` for routes that aren't audited or don't record exactly one event.
    pub event: Option<ExpectedEvent>,
}

/// The result of a call by a key of another organization that has all scopes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Foreign {
    /// 404: the resource does not exist for this key.
    NotFound,
    /// 403: a platform key is required.
    Platform,
    /// A success with only the resources of its own organization.
    OwnResources,
    /// 200: the key in question is reported as unknown.
    Unknown,
}
use Foreign::{NotFound, OwnResources, Platform, Unknown};

pub(crate) struct ExpectedEvent {
    pub organization: Option<&'static str>,
    /// Type, ID and name.
    pub target: Option<[&'static str; 3]>,
    /// `(field, from, to)`; `None` means at least one, whatever it is.
    pub changes: Option<Vec<(&'static str, Value, Value)>>,
}

impl ExampleCall {
    fn new(method: &str, path: String) -> Self {
        let route = find_route(method, &path);
        Self { route, path, body: None, status: 200, foreign: OwnResources, event: None }
    }

    fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn foreign(self, foreign: Foreign) -> Self {
        Self { foreign, ..self }
    }

    /// Sets the organization and the target of the audit event.
    pub(crate) fn event(self, organization: Option<&'static str>, target: Option<[&'static str; 3]>) -> Self {
        self.update_event(|event| ExpectedEvent { organization, target, ..event })
    }

    fn changes<const N: usize>(self, changes: [(&'static str, Value, Value); N]) -> Self {
        self.update_event(|event| ExpectedEvent { changes: Some(changes.into()), ..event })
    }

    fn any_changes(self) -> Self {
        self.update_event(|event| ExpectedEvent { changes: None, ..event })
    }

    fn update_event(self, update: impl FnOnce(ExpectedEvent) -> ExpectedEvent) -> Self {
        Self { event: self.event.map(update), ..self }
    }

    fn without_event(self) -> Self {
        Self { event: None, ..self }
    }

    /// The method and path of the route, which identify the call in messages.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.route.method, self.route.path)
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.route.path.starts_with("/admin/")
    }
}

/// Finds the route of a path with a query. A literal path takes precedence over one with parameters.
fn find_route(method: &str, path: &str) -> &'static Route {
    let segments: Vec<_> = path.split('?').next().unwrap().split('/').collect();
    let matches = |template: &str| {
        let expected: Vec<_> = template.split('/').collect();
        // The parameter `path` stands for the rest of the path.
        let has_length = match template.ends_with("path}") {
            true => segments.len() >= expected.len(),
            false => segments.len() == expected.len(),
        };
        has_length
            && zip(&segments, expected).all(|(segment, part)| part.starts_with('{') || *segment == part)
    };
    let candidates = ROUTES.iter().filter(|route| route.method == method && matches(route.path));
    let route = candidates.min_by_key(|route| route.path.matches('{').count());
    route.unwrap_or_else(|| panic!("{method} {path} is an example call, but no route serves it"))
}

/// A call of a page or of the data plane.
fn call(method: &str, path: &str) -> ExampleCall {
    ExampleCall::new(method, path.to_owned())
}

/// A call of the Admin API. By default it records an event without a target and without changes.
fn admin(method: &str, path: &str) -> ExampleCall {
    let event = ExpectedEvent { organization: None, target: None, changes: Some(Vec::new()) };
    ExampleCall { event: Some(event), ..ExampleCall::new(method, format!("/admin/v1{path}")) }
}

/// A read of the Admin API.
pub(crate) fn get(path: &str) -> ExampleCall {
    admin("GET", path)
}

fn post(path: &str, status: u16, body: Value) -> ExampleCall {
    ExampleCall { status, ..admin("POST", path).body(body) }
}

/// A change through the Admin API.
pub(crate) fn patch(path: &str, body: Value) -> ExampleCall {
    admin("PATCH", path).body(body)
}

fn delete(path: &str) -> ExampleCall {
    admin("DELETE", path)
}

/// The example call of each route. Each one succeeds on a new [`Fixture`], and also after those before it.
#[rustfmt::skip]
pub(crate) fn example_calls() -> Vec<ExampleCall> {
    let alpha = Some("org_alpha");
    let organization = Some(["organization", "org_alpha", "org_alpha"]);
    let member = Some(["membership", "user_alpha", "user_alpha"]);
    let user = Some(["user", "user_alpha", "user_alpha"]);
    let key = Some(["api_key", "key_alpha", "alpha"]);
    let config = Some(["config", "config", "configuration"]);
    let null = Value::Null;
    let new_key = json!({"organization_id": "org_alpha", "user_id": "user_alpha", "name": "n", "scopes": ["workflows:read"]});
    vec![
        call("GET", "/"),
        call("GET", "/healthz"),
        call("GET", "/readyz"),
        call("GET", "/openapi.json"),

        call("GET", "/favicon.ico"),
        call("GET", "/docs"),
        call("GET", "/docs/"),
        call("GET", "/docs/ASSET"),
        call("GET", "/console"),
        call("GET", "/console/"),
        call("GET", "/console/ASSET"),

        call("POST", "/v1/keys/verify").body(json!({"key": "SECRET"})).foreign(Unknown),
        call("POST", "/v1/keys/verify-batch").body(json!({"verifications": [{"key": "SECRET"}]})).foreign(Unknown),
        call("POST", "/v1/keys/usage").body(json!({"key_id": "key_alpha", "costs": {"requests": 1}})).foreign(NotFound),
        call("POST", INTROSPECT).body(json!({"token": "SECRET"})).foreign(Unknown),
        call(ANY, "/v1/forward-auth"),
        call(ANY, "/v1/forward-auth/-/the/clients/own"),

        get("/whoami").without_event(), // Aggregated.
        get("/search?q=alpha").without_event(), // Aggregated.

        post("/organizations", 201, json!({"name": "n", "email": "n@example.com"})).foreign(Platform)
            .event(Some(CREATED), Some(["organization", CREATED, "n"]))
            .changes([("email", null.clone(), json!("n@example.com")), ("name", null.clone(), json!("n")),
                ("plan", null.clone(), json!("standard")), ("status", null.clone(), json!("active"))]),
        get("/organizations"),
        get("/organizations/org_alpha").foreign(NotFound).event(alpha, organization),
        patch("/organizations/org_alpha", json!({"plan": "enterprise", "metadata": {"a": "b"}})).foreign(NotFound)
            .event(alpha, organization)
            .changes([("metadata", json!({}), json!({"a": "b"})), ("plan", json!("standard"), json!("enterprise"))]),

        post("/organizations/org_alpha/members", 201, json!({"user_id": "user_free", "role": "owner"})).foreign(NotFound)
            .event(alpha, Some(["membership", "user_free", "user_free"])).any_changes(),
        get("/organizations/org_alpha/members").foreign(NotFound).event(alpha, organization),
        get("/organizations/org_alpha/members/user_alpha").foreign(NotFound).event(alpha, member),
        patch("/organizations/org_alpha/members/user_alpha", json!({"role": "owner"})).foreign(NotFound)
            .event(alpha, member).changes([("role", json!("member"), json!("owner"))]),

        post("/users", 201, json!({"name": "n", "email": "n@example.com"}))
            .event(None, Some(["user", CREATED, "n"])).any_changes(),
        get("/users"),
        get("/users/user_alpha").foreign(NotFound).event(None, user),
        patch("/users/user_alpha", json!({"email": "taken@over.example", "external_id": "x"})).foreign(NotFound)
            .event(alpha, user)
            .changes([("email", json!("user_alpha@example.com"), json!("taken@over.example")), ("external_id", null.clone(), json!("x"))]),
        get("/users/user_alpha/memberships").foreign(NotFound).event(None, user),

        post("/api-keys", 201, new_key.clone()).foreign(NotFound).event(alpha, Some(["api_key", CREATED, "n"])).any_changes(),
        get("/api-keys"),
        get("/api-keys/key_alpha").foreign(NotFound).event(alpha, key),
        patch("/api-keys/key_alpha", json!({"status": "disabled"})).foreign(NotFound)
            .event(alpha, key).changes([("status", json!("active"), json!("disabled"))]),
        post("/api-keys/key_alpha/rotate", 200, json!({"grace_period_seconds": 60})).foreign(NotFound).event(alpha, key).any_changes(),
        admin("POST", "/api-keys/key_alpha/expire-previous").foreign(NotFound).event(alpha, key).any_changes(),
        post("/api-keys/key_alpha/revoke", 200, json!({"reason": "r"})).foreign(NotFound).event(alpha, key).any_changes(),

        post("/scopes", 201, json!({"scope": "reports:read"})).foreign(Platform)
            .event(None, Some(["scope", "reports:read", "reports:read"])).any_changes(),
        get("/scopes"),
        delete("/scopes/invoices:read").foreign(Platform).event(None, Some(["scope", "invoices:read", "invoices:read"])),

        get("/config").foreign(Platform).event(None, config),
        patch("/config", json!({"keys": {"prefixes": ["mine", "toll"]}, "plans": {"gold": {"key_limits": [], "organization_limits": [{"limit": 9, "period": "week"}], "max_keys": 2, "max_members": 3}}})).foreign(Platform)
            .event(None, config)
            .changes([("keys.prefixes", json!(["toll"]), json!(["mine", "toll"])), ("plans.gold.key_limits", null.clone(), json!([])),
                ("plans.gold.max_keys", null.clone(), json!(2)), ("plans.gold.max_members", null.clone(), json!(3)),
                ("plans.gold.organization_limits", null, json!([{"meter": "requests", "limit": 9, "period": "week"}]))]),

        // Each operation is authorized and records an event of its own.
        post("/batch", 200, json!({"atomic": false, "operations": [{"method": "POST", "path": "/api-keys", "body": new_key}]}))
            .without_event(),

        get("/analytics/usage?key_id=key_alpha").foreign(NotFound).event(alpha, key),
        get("/analytics/overview"),
        get("/analytics/logs"),

        get("/audit-logs"),
        get("/audit-logs/export"),
        get("/audit-logs/verify").foreign(Platform),
        get("/audit-logs/EVENT").foreign(NotFound).event(None, Some(["audit_event", EVENT, ""])),

        // Last, because the calls above need these resources. The new key belongs to the user.
        delete("/api-keys/key_alpha").foreign(NotFound).event(alpha, key),
        delete("/organizations/org_alpha/members/user_alpha").foreign(NotFound)
            .event(alpha, member).changes([("revoked_keys", json!(0), json!(1))]),
        delete("/users/user_alpha").foreign(NotFound).event(None, user),
        delete("/organizations/org_alpha").foreign(NotFound)
            .event(alpha, organization).changes([("revoked_keys", json!(0), json!(0))]),

        // After all others, because they end the secret of their caller.
        call("GET", "/v1/keys/self"),
        call("POST", "/v1/keys/self/rotate").body(json!({"grace_period_seconds": 60})),
        call("POST", "/v1/keys/self/revoke").body(json!({"reason": "r"})),
    ]
}

/// A server with `org_alpha`, its member `user_alpha` and its key `key_alpha`, the user `user_free` without an
/// organization, and the scope `invoices:read`.
pub(crate) struct Fixture {
    pub server: Server,
    /// The ID of an audit event of `org_alpha`.
    pub event: String,
    /// The secret of `key_alpha`.
    secret: String,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let server = Server::start().await;
        let admin = server.admin();
        server.organization("org_alpha").await;
        server.user("user_alpha").await;
        server.user("user_free").await;
        let member = json!({"user_id": "user_alpha", "role": "member"});
        assert_eq!(admin.post("/organizations/org_alpha/members", member).await.status, 201);
        assert_eq!(admin.post("/scopes", json!({"scope": "invoices:read"})).await.status, 201);
        let key_alpha =
            json!({"id": "key_alpha", "organization_id": "org_alpha", "name": "alpha", "scopes": ["*"]});
        let secret = server.key_with(key_alpha).await.0.key.unwrap();
        let events = admin.get("/audit-logs?org_id=org_alpha&limit=1").await;
        let event = events.data()[0]["id"].as_str().unwrap().to_owned();
        Self { server, event, secret }
    }

    /// The path of a call, with its query.
    pub(crate) fn path(&self, call: &ExampleCall) -> String {
        match call.path.strip_suffix("ASSET") {
            Some(directory) => {
                let is_asset = |path: &str| path.starts_with(directory) && path.ends_with(".js");
                FILES.iter().find(|file| is_asset(file.path)).unwrap().path.to_owned()
            }
            None => call.path.replace(EVENT, &self.event),
        }
    }

    pub(crate) fn body(&self, call: &ExampleCall) -> Option<Value> {
        let text = call.body.as_ref()?.to_string().replace("SECRET", &self.secret);
        Some(serde_json::from_str(&text).unwrap())
    }

    /// A request with the client's key.
    pub(crate) fn request(&self, call: &ExampleCall, client: &Client) -> RequestBuilder {
        let method = if call.route.method == ANY { "GET" } else { call.route.method };
        let method: Method = method.parse().unwrap();
        let request = client.request_at_root(method, &self.path(call));
        // Only the configuration requires `If-Match`; `*` matches any revision.
        let request =
            if call.route.path.ends_with("/config") { request.header(IF_MATCH, "*") } else { request };
        match self.body(call) {
            Some(body) if call.route.path == INTROSPECT => request.form(&body),
            Some(body) => request.json(&body),
            None => request,
        }
    }

    /// The secret of a key with which the call succeeds: [`ADMIN_KEY`], or a new key for a call about the calling key.
    pub(crate) async fn caller(&self, call: &ExampleCall) -> String {
        match call.route.auth {
            AuthRequirement::OwnKey => self.server.own_key().await.key.unwrap(),
            _ => ADMIN_KEY.to_owned(),
        }
    }

    /// Makes the call with this key.
    pub(crate) async fn call(&self, call: &ExampleCall, key: Option<&str>) -> Answer {
        let client = self.server.client(key);
        client.send(self.request(call, &client)).await
    }
}

#[test]
fn every_route_has_one_example_call() {
    let calls = example_calls();
    let count = |route: &Route| calls.iter().filter(|call| std::ptr::eq(call.route, route)).count();
    let wrong = ROUTES.iter().filter(|route| count(route) != 1);
    let wrong: Vec<_> =
        wrong.map(|route| format!("{} {} has {}", route.method, route.path, count(route))).collect();
    assert!(
        wrong.is_empty(),
        "each route needs one entry in example_calls() of tests/it/example_calls.rs, from which the tests of authorization, \
         batches, replays, audit events and documented responses take their calls: {wrong:#?}"
    );
}
