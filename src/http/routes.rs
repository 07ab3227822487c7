//! The whole API in one place: what is served, who may call it, who answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;

use super::call::Call;
use super::gates::{self, Request};
use super::reply::Reply;
use super::server::Peer;
use super::{api_keys, audit, health, memberships, openapi, organizations, scopes, users, whoami};
use crate::app::App;
use crate::error::{Code, Error, Result};

/// A handler at work.
pub type Handling = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Everybody, without a key; not audited.
    Open,
    /// Any valid key.
    AnyKey,
    /// A key with one of these scopes.
    Scope(&'static [&'static str]),
    /// A platform key with one of these scopes. Where the thing in the path may be another
    /// organization's, the handler asks instead, since then it is a 404.
    Platform(&'static [&'static str]),
}

/// What a route does with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It has none; one that comes is read away.
    None,
    /// It may have one.
    Optional,
    /// It must have one.
    Required,
}

/// One row of the table.
pub struct Route {
    /// `GET`, `POST`, `PATCH` or `DELETE`; `HEAD` answers wherever `GET` does.
    pub method: &'static str,
    /// The path with `{parameters}`.
    pub path: &'static str,
    /// What the audit log calls it.
    pub action: &'static str,
    /// Who may call it.
    pub gate: Gate,
    /// What it does with a body.
    pub body: Body,
    /// Who does it.
    pub handler: fn(Call) -> Handling,
}

const ORGS: Gate = Gate::Scope(&["admin:orgs"]);
const USERS: Gate = Gate::Scope(&["admin:users"]);
const KEYS: Gate = Gate::Scope(&["admin:keys"]);
const AUDIT: Gate = Gate::Scope(&["admin:audit", "admin:orgs"]);

const fn get(path: &'static str, action: &'static str, gate: Gate, handler: fn(Call) -> Handling) -> Route {
    Route { method: "GET", path, action, gate, body: Body::None, handler }
}

const fn post(
    path: &'static str,
    action: &'static str,
    gate: Gate,
    body: Body,
    handler: fn(Call) -> Handling,
) -> Route {
    Route { method: "POST", path, action, gate, body, handler }
}

const fn patch(path: &'static str, action: &'static str, gate: Gate, handler: fn(Call) -> Handling) -> Route {
    Route { method: "PATCH", path, action, gate, body: Body::Required, handler }
}

const fn delete(
    path: &'static str,
    action: &'static str,
    gate: Gate,
    handler: fn(Call) -> Handling,
) -> Route {
    Route { method: "DELETE", path, action, gate, body: Body::None, handler }
}

/// The action of the one read that is folded like a refusal: a client may ask it all the time.
pub(super) const WHOAMI: &str = "whoami.read";

/// Everything that is served.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    get("/healthz", "health.live", Gate::Open, |call| Box::pin(health::live(call))),
    get("/readyz", "health.ready", Gate::Open, |call| Box::pin(health::ready(call))),
    get("/openapi.json", "openapi.read", Gate::Open, |call| Box::pin(openapi::document(call))),

    get("/admin/v1/whoami", WHOAMI, Gate::AnyKey, |call| Box::pin(whoami::whoami(call))),

    get("/admin/v1/organizations", "organization.list", ORGS, |call| Box::pin(organizations::list(call))),
    post("/admin/v1/organizations", "organization.create", Gate::Platform(&["admin:orgs"]), Body::Required, |call| Box::pin(organizations::create(call))),
    get("/admin/v1/organizations/{id}", "organization.read", ORGS, |call| Box::pin(organizations::get(call))),
    patch("/admin/v1/organizations/{id}", "organization.update", ORGS, |call| Box::pin(organizations::update(call))),
    delete("/admin/v1/organizations/{id}", "organization.delete", ORGS, |call| Box::pin(organizations::delete(call))),

    get("/admin/v1/organizations/{id}/members", "membership.list", USERS, |call| Box::pin(memberships::list(call))),
    post("/admin/v1/organizations/{id}/members", "membership.create", USERS, Body::Required, |call| Box::pin(memberships::create(call))),
    get("/admin/v1/organizations/{id}/members/{user_id}", "membership.read", USERS, |call| Box::pin(memberships::get(call))),
    patch("/admin/v1/organizations/{id}/members/{user_id}", "membership.update", USERS, |call| Box::pin(memberships::update(call))),
    delete("/admin/v1/organizations/{id}/members/{user_id}", "membership.delete", USERS, |call| Box::pin(memberships::delete(call))),

    get("/admin/v1/users", "user.list", USERS, |call| Box::pin(users::list(call))),
    post("/admin/v1/users", "user.create", USERS, Body::Required, |call| Box::pin(users::create(call))),
    get("/admin/v1/users/{id}", "user.read", USERS, |call| Box::pin(users::get(call))),
    patch("/admin/v1/users/{id}", "user.update", USERS, |call| Box::pin(users::update(call))),
    delete("/admin/v1/users/{id}", "user.delete", USERS, |call| Box::pin(users::delete(call))),
    get("/admin/v1/users/{id}/memberships", "user.memberships", USERS, |call| Box::pin(users::memberships(call))),

    get("/admin/v1/api-keys", "api_key.list", KEYS, |call| Box::pin(api_keys::list(call))),
    post("/admin/v1/api-keys", "api_key.create", KEYS, Body::Required, |call| Box::pin(api_keys::create(call))),
    get("/admin/v1/api-keys/{id}", "api_key.read", KEYS, |call| Box::pin(api_keys::get(call))),
    patch("/admin/v1/api-keys/{id}", "api_key.update", KEYS, |call| Box::pin(api_keys::update(call))),
    delete("/admin/v1/api-keys/{id}", "api_key.revoke", KEYS, |call| Box::pin(api_keys::delete(call))),
    post("/admin/v1/api-keys/{id}/revoke", "api_key.revoke", KEYS, Body::Optional, |call| Box::pin(api_keys::revoke(call))),
    post("/admin/v1/api-keys/{id}/rotate", "api_key.rotate", KEYS, Body::Optional, |call| Box::pin(api_keys::rotate(call))),
    post("/admin/v1/api-keys/{id}/expire-previous", "api_key.expire_previous", KEYS, Body::None, |call| Box::pin(api_keys::expire_previous(call))),

    get("/admin/v1/scopes", "scope.list", Gate::AnyKey, |call| Box::pin(scopes::list(call))),
    post("/admin/v1/scopes", "scope.create", Gate::Platform(&["admin:config"]), Body::Required, |call| Box::pin(scopes::create(call))),
    delete("/admin/v1/scopes/{scope}", "scope.delete", Gate::Platform(&["admin:config"]), |call| Box::pin(scopes::delete(call))),

    get("/admin/v1/audit-logs", "audit_log.list", AUDIT, |call| Box::pin(audit::list(call))),
    get("/admin/v1/audit-logs/export", "audit_log.export", AUDIT, |call| Box::pin(audit::export(call))),
    get("/admin/v1/audit-logs/verify", "audit_log.verify", Gate::Platform(&["admin:audit"]), |call| Box::pin(audit::verify(call))),
    get("/admin/v1/audit-logs/{id}", "audit_log.read", AUDIT, |call| Box::pin(audit::get(call))),
];

/// Builds the one filter that serves everything. Calls run in tasks of the tracker: a client that goes
/// away neither cancels what it began nor escapes the audit log.
pub fn filter(app: Arc<App>, tasks: TaskTracker) -> Result<BoxedFilter<(Response,)>> {
    let router = Arc::new(Router::new()?);
    let filter = warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Peer>())
        .and(warp::body::stream())
        .then(move |method: Method, path: FullPath, query: String, headers: HeaderMap, peer: Peer, body| {
            let (app, router, tasks) = (app.clone(), router.clone(), tasks.clone());
            async move {
                let found = router.find(&method, path.as_str());
                let request = Request::new(&app, method, path.as_str(), query, headers, peer);
                gates::answer(app, request, found, body, &tasks).await
            }
        });
    Ok(filter.boxed())
}

/// Finds rows of the table.
struct Router(matchit::Router<Vec<(&'static str, &'static Route)>>);

/// A row of the table with the path's parameters, decoded.
pub(super) type Found = Result<(&'static Route, Vec<String>), NotFound>;

/// Why there is none.
pub(super) struct NotFound {
    /// `NOT_FOUND` or `METHOD_NOT_ALLOWED`.
    pub error: Error,
    /// The methods that the path knows, for `Allow`.
    pub allow: Option<String>,
}

impl Router {
    fn new() -> Result<Self> {
        let mut router: matchit::Router<Vec<(&'static str, &'static Route)>> = matchit::Router::new();
        for route in ROUTES {
            match router.at_mut(route.path) {
                // `at_mut` matches as a request would; only the path's own entry is meant.
                Ok(found) if found.value.iter().any(|(_, other)| other.path == route.path) => {
                    found.value.push((route.method, route));
                }
                _ => router.insert(route.path, vec![(route.method, route)]).map_err(Error::internal)?,
            }
        }
        Ok(Self(router))
    }

    fn find(&self, method: &Method, path: &str) -> Found {
        let unknown = || {
            let message = "There is no such path; GET /openapi.json lists them.";
            NotFound { error: Error::new(Code::NotFound, message), allow: None }
        };
        let matched = self.0.at(path).map_err(|_| unknown())?;
        let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some((_, route)) = matched.value.iter().find(|(method, _)| *method == wanted) else {
            let mut allow: Vec<&str> = matched.value.iter().map(|(method, _)| *method).collect();
            if allow.contains(&"GET") {
                allow.push("HEAD");
            }
            let allow = allow.join(", ");
            let error = Error::new(Code::MethodNotAllowed, format!("This path knows {allow}."));
            return Err(NotFound { error, allow: Some(allow) });
        };
        let decode = |value: &str| percent_decode_str(value).decode_utf8().ok().map(|text| text.into_owned());
        // What doesn't decode can't be the name of anything.
        let params: Option<Vec<_>> = matched.params.iter().map(|(_, value)| decode(value)).collect();
        Ok((route, params.ok_or_else(unknown)?))
    }
}
