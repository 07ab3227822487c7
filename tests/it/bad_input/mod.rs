//! Malformed input. The server answers with a precise 4xx or closes the connection. It never answers 5xx,
//! panics, leaks a connection slot or changes data.

mod bodies;
mod forms;
mod headers;
mod hosts;
mod requests;
mod transfers;

use std::time::Duration;

use serde_json::{Value, json};
use tollhouse::clock::Clock;
use tollhouse::http::routes::{AuthRequirement, Body, Dispatch, Endpoint, ROUTES, Route};

use crate::support::{Raw, RawAnswer, Server, head};

const MIB: usize = 1024 * 1024;

/// The limit of a body's size on the data plane.
const MAX_DATA_PLANE_BODY: usize = 32 * 1024;

/// Starts a server with two connection slots, so that a leaked slot is detected, and one resource of each kind.
async fn server() -> Server {
    server_with_slots(2).await
}

/// Starts a server with this number of connection slots and one resource of each kind.
async fn server_with_slots(max_connections: usize) -> Server {
    let server = Server::with(|config| {
        config.http.max_connections = max_connections;
        config.rate_limits.admin_per_minute = 0;
        config.rate_limits.batch_per_minute = 0;
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await;
    server.organization("org_a").await;
    server.user("user_a").await;
    server.wait_for_slot().await;
    let admin = server.admin();
    let member = json!({"user_id": "user_a", "role": "owner"});
    assert_eq!(admin.post("/organizations/org_a/members", member).await.status, 201);
    server.key_with(json!({"id": "key_a", "organization_id": "org_a", "name": "a", "scopes": []})).await;
    server
}

/// Returns all resources, to check that nothing changed.
async fn state(server: &Server) -> Vec<Value> {
    server.wait_for_slot().await;
    let admin = server.admin();
    let mut state = Vec::new();
    for path in ["/organizations", "/users", "/organizations/org_a/members", "/api-keys", "/scopes"] {
        let mut list = admin.get(&format!("{path}?limit=100")).await.data().clone();
        for resource in list.as_array_mut().unwrap() {
            // Using a key updates `last_used_at`, which is not a change of the key.
            resource.as_object_mut().unwrap().remove("last_used_at");
        }
        state.push(list);
    }
    state
}

/// The routes that read a JSON body.
fn routes() -> impl Iterator<Item = &'static Route> {
    let is_form = |route: &Route| matches!(route.dispatch, Dispatch::DataPlane(Endpoint::Introspect));
    ROUTES.iter().filter(move |route| route.body != Body::None && !is_form(route))
}

/// The shipped limit of the size of a route's body.
fn max_body(route: &Route) -> usize {
    match route.dispatch {
        Dispatch::DataPlane(Endpoint::VerifyBatch) => 8 * MAX_DATA_PLANE_BODY,
        Dispatch::DataPlane(_) => MAX_DATA_PLANE_BODY,
        _ if route.auth == AuthRequirement::OwnKey => MAX_DATA_PLANE_BODY,
        _ => MIB,
    }
}

/// A route's path with the IDs of existing resources.
fn path(route: &Route) -> String {
    let kind = route.path.trim_start_matches("/admin/v1/").split('/').next().unwrap();
    let id = match kind {
        "organizations" => "org_a",
        "users" => "user_a",
        "api-keys" => "key_a",
        _ => "none",
    };
    route.path.replace("{id}", id).replace("{user_id}", "user_a").replace("{scope}", "none:none")
}

/// A single connection for all requests of a test, so that a refusal that closes it is detected.
struct Connection {
    raw: Raw,
    clock: Clock,
}

impl Connection {
    async fn open(server: &Server) -> Self {
        Self { raw: server.raw().await, clock: server.clock.clone() }
    }

    async fn send(&mut self, route: &Route, headers: &[&str], body: &[u8]) -> RawAnswer {
        let length = format!("content-length: {}", body.len());
        let headers = [headers, &[&length]].concat();
        let request = head(&format!("{} {}", route.method, path(route)), &headers);
        if route.auth == AuthRequirement::OwnKey {
            self.clock.advance(Duration::from_secs(1)); // A key may send one such request per second.
        }
        self.raw.send(&[&request, body].concat()).await;
        self.raw
            .answer()
            .await
            .unwrap_or_else(|| panic!("{} {}: connection closed", route.method, route.path))
    }

    async fn send_json(&mut self, route: &Route, body: &[u8]) -> RawAnswer {
        self.send(route, &["content-type: application/json"], body).await
    }
}

fn assert_refused(answer: &RawAnswer, status: u16, code: &str, case: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{case:.80}: {answer:?}");
}
