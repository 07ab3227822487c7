//! Input that nobody should send: each gets a clear 4xx or a closed connection, never a 5xx, a panic or a
//! slot that stays held, and changes nothing.

mod bodies;
mod forms;
mod requests;
mod transfers;

use serde_json::{Value, json};
use tollhouse::http::routes::{Body, Dispatch, Endpoint, ROUTES, Route};

use crate::support::{Raw, RawAnswer, Server, head};

const MIB: usize = 1024 * 1024;

/// A server with few slots, and one thing of each kind.
async fn server() -> Server {
    let server = Server::with(|config| {
        config.http.max_connections = 2;
        config.rate_limits.admin_per_minute = 0;
        config.rate_limits.batch_per_minute = 0;
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await;
    server.organization("org_a").await;
    server.user("user_a").await;
    let admin = server.admin();
    let member = json!({"user_id": "user_a", "role": "owner"});
    assert_eq!(admin.post("/organizations/org_a/members", member).await.status, 201);
    server.key_with(json!({"id": "key_a", "organization_id": "org_a", "name": "a", "scopes": []})).await;
    server
}

/// All that the server has of them, to see that nothing changed.
async fn state(server: &Server) -> Vec<Value> {
    let admin = server.admin();
    let mut state = Vec::new();
    for path in ["/organizations", "/users", "/organizations/org_a/members", "/api-keys", "/scopes"] {
        let mut list = admin.get(&format!("{path}?limit=100")).await.data().clone();
        for thing in list.as_array_mut().unwrap() {
            // Using a key is no change of it.
            thing.as_object_mut().unwrap().remove("last_used_at");
        }
        state.push(list);
    }
    state
}

/// The routes that read a body as JSON.
fn routes() -> impl Iterator<Item = &'static Route> {
    let is_form = |route: &Route| matches!(route.dispatch, Dispatch::DataPlane(Endpoint::Introspect));
    ROUTES.iter().filter(move |route| route.body != Body::None && !is_form(route))
}

/// A route's path with things that exist.
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

/// One connection that all requests of a test take, so that a refusal that costs it is seen.
struct Caller {
    raw: Raw,
}

impl Caller {
    async fn to(server: &Server) -> Self {
        Self { raw: server.raw().await }
    }

    async fn send(&mut self, route: &Route, headers: &[&str], body: &[u8]) -> RawAnswer {
        let length = format!("content-length: {}", body.len());
        let headers = [headers, &[&length]].concat();
        let request = head(&format!("{} {}", route.method, path(route)), &headers);
        self.raw.send(&[&request, body].concat()).await;
        self.raw.answer().await.unwrap_or_else(|| panic!("{} {}: closed", route.method, route.path))
    }

    async fn send_json(&mut self, route: &Route, body: &[u8]) -> RawAnswer {
        self.send(route, &["content-type: application/json"], body).await
    }
}

fn assert_refused(answer: &RawAnswer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what:.80}: {answer:?}");
}
