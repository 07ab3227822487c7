//! The route table: for every path that is served, who may call the path, and its handler.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use http::Method;
use percent_encoding::percent_decode_str;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::call::Call;
use super::conn::request_head::RequestHead;
use super::data_plane;
pub use super::data_plane::Endpoint;
use super::pipeline::{self, AdminRequestTasks, Request};
use super::reply::Reply;
use super::{
    analytics, api_keys, audit, health, host, memberships, openapi, organizations, pages, root, scopes,
    settings, users, whoami,
};
use crate::app::App;
use crate::domain::action::Action;
use crate::error::{Code, Error, Result};
use crate::service::operation::Operation;

/// The future of a handler's response.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// A handler of the control plane.
pub(crate) type Handler = fn(Call) -> HandlerFuture;

/// Prepares an operation on a single resource.
pub(crate) type Prepare = fn(Call) -> Pin<Box<dyn Future<Output = Result<Operation>> + Send>>;

/// Which part of the server handles a route.
#[derive(Clone, Copy)]
pub enum Dispatch {
    /// The control plane's request pipeline with an operation on a single resource: rate limited, audited, in a task that
    /// outlives the connection.
    Operation(Prepare),
    /// The pipeline with a batch of operations.
    Batch,
    /// The pipeline with another handler, such as that of a list.
    Pipeline(Handler),
    /// The data plane, which bypasses the pipeline.
    DataPlane(Endpoint),
    /// A file of the console or the API reference, which are not part of the API.
    Page,
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRequirement {
    /// Anyone may call the route without a key; its calls are not audited.
    Open,
    /// Any valid key.
    AnyKey,
    /// A key with one of these scopes.
    Scope(&'static [&'static str]),
    /// A platform key with one of these scopes. Routes with a path that can name another organization's
    /// resource use [`Scope`](Self::Scope) instead, and their handler requires the platform key, because such
    /// a resource must be a 404.
    Platform(&'static [&'static str]),
}

impl AuthRequirement {
    /// Any one of these scopes suffices; empty means no scope is required.
    pub(crate) fn scopes(self) -> &'static [&'static str] {
        match self {
            AuthRequirement::Open | AuthRequirement::AnyKey => &[],
            AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => scopes,
        }
    }

    /// True if only platform keys are admitted.
    pub(crate) fn requires_platform_key(self) -> bool {
        matches!(self, AuthRequirement::Platform(_))
    }
}

/// Whether a route has a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The route has no request body; a body that is sent is drained and ignored.
    None,
    /// The body may be omitted.
    Optional,
    /// The body is required.
    Required,
}

/// An entry of [`ROUTES`].
pub struct Route {
    /// `GET`, `POST`, `PATCH`, `DELETE`, or [`ANY`]; `HEAD` is supported wherever `GET` is.
    pub method: &'static str,
    /// The route's URL path, with `{name}` for parameters.
    pub path: &'static str,
    /// The action in the audit log.
    pub action: Action,
    /// Who may call the route.
    pub auth: AuthRequirement,
    /// Whether the route has a request body.
    pub body: Body,
    /// Which part of the server handles the route.
    pub dispatch: Dispatch,
}

impl Route {
    /// True if the route can be an operation of a batch.
    pub fn is_in_batch(&self) -> bool {
        matches!(self.dispatch, Dispatch::Operation(_))
    }

    /// True if the route honors the `Idempotency-Key` header.
    pub fn is_idempotent_by_key(&self) -> bool {
        self.method == "POST" && matches!(self.dispatch, Dispatch::Operation(_) | Dispatch::Batch)
    }
}

/// The [`Route::method`] of routes that accept any method.
pub const ANY: &str = "ANY";

const ADMIN_ORGS: AuthRequirement = AuthRequirement::Scope(&["admin:orgs"]);
const ADMIN_USERS: AuthRequirement = AuthRequirement::Scope(&["admin:users"]);
const ADMIN_KEYS: AuthRequirement = AuthRequirement::Scope(&["admin:keys"]);
const ADMIN_ANALYTICS: AuthRequirement = AuthRequirement::Scope(&["admin:analytics", "admin:orgs"]);
/// Any one of these scopes permits a key to verify other keys.
pub(super) const VERIFY_SCOPES: &[&str] = &["keys:verify", "admin:keys"];
/// Path of the forward-auth endpoint. Some proxies append the client's own path to it.
const FORWARD_AUTH_PATH: &str = "/v1/forward-auth";
const ADMIN_AUDIT: AuthRequirement = AuthRequirement::Scope(&["admin:audit", "admin:orgs"]);

/// A GET route other than that of a single resource.
const fn get(path: &'static str, action: Action, auth: AuthRequirement, handler: Handler) -> Route {
    let dispatch = Dispatch::Pipeline(handler);
    Route { method: "GET", path, action, auth, body: Body::None, dispatch }
}

/// A GET route that reads a single resource.
const fn read(path: &'static str, action: Action, auth: AuthRequirement, prepare: Prepare) -> Route {
    operation("GET", path, action, auth, Body::None, prepare)
}

const fn post(
    path: &'static str,
    action: Action,
    auth: AuthRequirement,
    body: Body,
    prepare: Prepare,
) -> Route {
    operation("POST", path, action, auth, body, prepare)
}

const fn patch(path: &'static str, action: Action, auth: AuthRequirement, prepare: Prepare) -> Route {
    operation("PATCH", path, action, auth, Body::Required, prepare)
}

const fn delete(path: &'static str, action: Action, auth: AuthRequirement, prepare: Prepare) -> Route {
    operation("DELETE", path, action, auth, Body::None, prepare)
}

const fn operation(
    method: &'static str,
    path: &'static str,
    action: Action,
    auth: AuthRequirement,
    body: Body,
    prepare: Prepare,
) -> Route {
    Route { method, path, action, auth, body, dispatch: Dispatch::Operation(prepare) }
}

const fn data_plane_route(
    method: &'static str,
    path: &'static str,
    auth: AuthRequirement,
    body: Body,
    endpoint: Endpoint,
) -> Route {
    Route { method, path, action: Action::VerifyKey, auth, body, dispatch: Dispatch::DataPlane(endpoint) }
}

const fn batch_route(path: &'static str) -> Route {
    let auth = AuthRequirement::AnyKey;
    Route {
        method: "POST",
        path,
        action: Action::RunBatch,
        auth,
        body: Body::Required,
        dispatch: Dispatch::Batch,
    }
}

const fn page_route(path: &'static str) -> Route {
    Route {
        method: "GET",
        path,
        action: Action::ReadPage,
        auth: AuthRequirement::Open,
        body: Body::None,
        dispatch: Dispatch::Page,
    }
}

/// All routes.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    get("/", Action::ReadRoot, AuthRequirement::Open, |call| Box::pin(root::list_addresses(call))),
    get("/healthz", Action::CheckLiveness, AuthRequirement::Open, |call| Box::pin(health::check_liveness(call))),
    get("/readyz", Action::CheckReadiness, AuthRequirement::Open, |call| Box::pin(health::check_readiness(call))),
    get("/openapi.json", Action::ReadOpenapi, AuthRequirement::Open, |call| Box::pin(openapi::get_document(call))),

    page_route(pages::FAVICON_PATH),
    page_route("/docs"),
    page_route("/docs/"),
    page_route("/docs/{*path}"),
    page_route("/console"),
    page_route("/console/"),
    page_route("/console/{*path}"),

    data_plane_route("POST", "/v1/keys/verify", AuthRequirement::Scope(VERIFY_SCOPES), Body::Required, Endpoint::Verify),
    data_plane_route("POST", "/v1/introspect", AuthRequirement::Scope(VERIFY_SCOPES), Body::Required, Endpoint::Introspect),
    data_plane_route(ANY, FORWARD_AUTH_PATH, AuthRequirement::Open, Body::None, Endpoint::ForwardAuth),
    data_plane_route(ANY, "/v1/forward-auth/{path}", AuthRequirement::Open, Body::None, Endpoint::ForwardAuth),

    get("/admin/v1/whoami", Action::ReadWhoami, AuthRequirement::AnyKey, |call| Box::pin(whoami::get_caller(call))),

    get("/admin/v1/organizations", Action::ListOrganizations, ADMIN_ORGS, |call| Box::pin(organizations::list(call))),
    post("/admin/v1/organizations", Action::CreateOrganization, AuthRequirement::Platform(&["admin:orgs"]), Body::Required, |call| Box::pin(organizations::create(call))),
    read("/admin/v1/organizations/{id}", Action::ReadOrganization, ADMIN_ORGS, |call| Box::pin(organizations::get(call))),
    patch("/admin/v1/organizations/{id}", Action::UpdateOrganization, ADMIN_ORGS, |call| Box::pin(organizations::update(call))),
    delete("/admin/v1/organizations/{id}", Action::DeleteOrganization, ADMIN_ORGS, |call| Box::pin(organizations::delete(call))),

    get("/admin/v1/organizations/{id}/members", Action::ListMemberships, ADMIN_USERS, |call| Box::pin(memberships::list(call))),
    post("/admin/v1/organizations/{id}/members", Action::CreateMembership, ADMIN_USERS, Body::Required, |call| Box::pin(memberships::create(call))),
    read("/admin/v1/organizations/{id}/members/{user_id}", Action::ReadMembership, ADMIN_USERS, |call| Box::pin(memberships::get(call))),
    patch("/admin/v1/organizations/{id}/members/{user_id}", Action::UpdateMembership, ADMIN_USERS, |call| Box::pin(memberships::update(call))),
    delete("/admin/v1/organizations/{id}/members/{user_id}", Action::DeleteMembership, ADMIN_USERS, |call| Box::pin(memberships::delete(call))),

    get("/admin/v1/users", Action::ListUsers, ADMIN_USERS, |call| Box::pin(users::list(call))),
    post("/admin/v1/users", Action::CreateUser, ADMIN_USERS, Body::Required, |call| Box::pin(users::create(call))),
    read("/admin/v1/users/{id}", Action::ReadUser, ADMIN_USERS, |call| Box::pin(users::get(call))),
    patch("/admin/v1/users/{id}", Action::UpdateUser, ADMIN_USERS, |call| Box::pin(users::update(call))),
    delete("/admin/v1/users/{id}", Action::DeleteUser, ADMIN_USERS, |call| Box::pin(users::delete(call))),
    get("/admin/v1/users/{id}/memberships", Action::ListMembershipsOfUser, ADMIN_USERS, |call| Box::pin(users::list_memberships(call))),

    get("/admin/v1/api-keys", Action::ListApiKeys, ADMIN_KEYS, |call| Box::pin(api_keys::list(call))),
    post("/admin/v1/api-keys", Action::CreateApiKey, ADMIN_KEYS, Body::Required, |call| Box::pin(api_keys::create(call))),
    read("/admin/v1/api-keys/{id}", Action::ReadApiKey, ADMIN_KEYS, |call| Box::pin(api_keys::get(call))),
    patch("/admin/v1/api-keys/{id}", Action::UpdateApiKey, ADMIN_KEYS, |call| Box::pin(api_keys::update(call))),
    delete("/admin/v1/api-keys/{id}", Action::RevokeApiKey, ADMIN_KEYS, |call| Box::pin(api_keys::delete(call))),
    post("/admin/v1/api-keys/{id}/revoke", Action::RevokeApiKey, ADMIN_KEYS, Body::Optional, |call| Box::pin(api_keys::revoke(call))),
    post("/admin/v1/api-keys/{id}/rotate", Action::RotateApiKey, ADMIN_KEYS, Body::Optional, |call| Box::pin(api_keys::rotate(call))),
    post("/admin/v1/api-keys/{id}/expire-previous", Action::ExpirePreviousSecret, ADMIN_KEYS, Body::None, |call| Box::pin(api_keys::expire_previous_secret(call))),

    get("/admin/v1/scopes", Action::ListScopes, AuthRequirement::AnyKey, |call| Box::pin(scopes::list(call))),
    post("/admin/v1/scopes", Action::CreateScope, AuthRequirement::Platform(&["admin:config"]), Body::Required, |call| Box::pin(scopes::create(call))),
    delete("/admin/v1/scopes/{scope}", Action::DeleteScope, AuthRequirement::Platform(&["admin:config"]), |call| Box::pin(scopes::delete(call))),

    read("/admin/v1/config", Action::ReadConfig, AuthRequirement::Platform(&["admin:config"]), |call| Box::pin(settings::get(call))),
    patch("/admin/v1/config", Action::UpdateConfig, AuthRequirement::Platform(&["admin:config"]), |call| Box::pin(settings::update(call))),

    get("/admin/v1/analytics/usage", Action::ReadUsage, ADMIN_ANALYTICS, |call| Box::pin(analytics::get_usage(call))),
    get("/admin/v1/analytics/overview", Action::ReadOverview, ADMIN_ANALYTICS, |call| Box::pin(analytics::get_overview(call))),
    get("/admin/v1/analytics/logs", Action::ListVerificationLog, ADMIN_ANALYTICS, |call| Box::pin(analytics::list_denials(call))),

    get("/admin/v1/audit-logs", Action::ListAuditLog, ADMIN_AUDIT, |call| Box::pin(audit::list(call))),
    get("/admin/v1/audit-logs/export", Action::ExportAuditLog, ADMIN_AUDIT, |call| Box::pin(audit::export_events(call))),
    get("/admin/v1/audit-logs/verify", Action::VerifyAuditLog, AuthRequirement::Platform(&["admin:audit"]), |call| Box::pin(audit::verify_chain(call))),
    read("/admin/v1/audit-logs/{id}", Action::ReadAuditLog, ADMIN_AUDIT, |call| Box::pin(audit::get(call))),

    batch_route("/admin/v1/batch"),
];

/// Builds the filter that serves all routes. Control-plane calls run as tasks of `tracker`, on the current
/// runtime, so that a client that disconnects neither cancels its call nor escapes the audit log.
///
/// # Errors
/// `INTERNAL` if two routes of the table conflict.
pub fn filter(app: Arc<App>, tracker: TaskTracker) -> Result<BoxedFilter<(Response,)>> {
    let tasks = AdminRequestTasks { tracker, runtime: Handle::current() };
    // One `Arc` for all three values, because every core writes each reference count on every request.
    let state = Arc::new((app, router()?, tasks));
    let filter =
        warp::ext::get::<RequestHead>().and(warp::body::stream()).then(move |head: RequestHead, body| {
            let state = state.clone();
            async move {
                let (app, router, tasks) = &*state;
                let found = match host::validate(&head) {
                    Ok(()) => router.find(&head.method, head.uri.path()),
                    Err(error) => Err(UnmatchedRoute { error: Box::new(error), allow: None }),
                };
                let (route_index, matched) = match found {
                    Ok(RouteMatch { route_index, route, params }) => match route.dispatch {
                        Dispatch::DataPlane(endpoint) => {
                            let response = data_plane::answer(app, endpoint, &head, body).await;
                            app.traffic.responses.count_response(route_index, response.status().as_u16());
                            return response;
                        }
                        Dispatch::Page => {
                            let mut response = pages::answer(app, &head);
                            host::add_security_headers(response.headers_mut(), &head);
                            app.traffic.responses.count_response(route_index, response.status().as_u16());
                            return response;
                        }
                        _ => (route_index, Ok((route, params))),
                    },
                    Err(unmatched) => (ROUTES.len(), Err(unmatched)),
                };
                let request = Request::new(app, route_index, head.clone());
                // Boxed so that data-plane futures don't reserve space for the larger control-plane future.
                let answer = Box::pin(pipeline::answer(app.clone(), request, matched, body, tasks));
                let mut response = answer.await;
                host::add_security_headers(response.headers_mut(), &head);
                response
            }
        });
    Ok(filter.boxed())
}

/// Finds the route of a request.
pub(super) fn find_route(method: &Method, path: &str) -> Result<Result<RouteMatch, UnmatchedRoute>> {
    Ok(router()?.find(method, path))
}

/// The router, built once.
fn router() -> Result<&'static Router> {
    static ROUTER: LazyLock<Result<Router>> = LazyLock::new(Router::new);
    ROUTER.as_ref().map_err(Clone::clone)
}

/// Matches methods and paths against [`ROUTES`].
struct Router {
    /// The routes of each path, with their indexes in the table.
    paths: matchit::Router<Vec<(usize, &'static Route)>>,
    forward_auth: (usize, &'static Route),
}

/// The route that serves a request.
pub(super) struct RouteMatch {
    /// Index into [`ROUTES`].
    pub(super) route_index: usize,
    pub(super) route: &'static Route,
    /// The path's parameters, percent-decoded.
    pub(super) params: Vec<String>,
}

/// Why no route serves a request.
pub(super) struct UnmatchedRoute {
    /// `NOT_FOUND`, `METHOD_NOT_ALLOWED`, or `INVALID_REQUEST` for an invalid `Host`. Boxed, so that the result of
    /// every request's routing stays small.
    pub(crate) error: Box<Error>,
    /// The methods that the path supports, for `Allow`.
    pub(crate) allow: Option<String>,
}

impl Router {
    fn new() -> Result<Self> {
        let mut paths: matchit::Router<Vec<(usize, &'static Route)>> = matchit::Router::new();
        for (route_index, route) in ROUTES.iter().enumerate() {
            match paths.at_mut(route.path) {
                // `at_mut` matches like a request; the entry must be for this exact path.
                Ok(entry) if entry.value.iter().any(|(_, other)| other.path == route.path) => {
                    entry.value.push((route_index, route));
                }
                _ => paths.insert(route.path, vec![(route_index, route)]).map_err(Error::internal)?,
            }
        }
        let forward_auth = ROUTES.iter().enumerate().find(|(_, route)| route.path == FORWARD_AUTH_PATH);
        Ok(Self { paths, forward_auth: forward_auth.ok_or_else(|| Error::internal("no forward-auth"))? })
    }

    fn find(&self, method: &Method, path: &str) -> Result<RouteMatch, UnmatchedRoute> {
        if path.strip_prefix(FORWARD_AUTH_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            // Any path of the client may follow the prefix, even a path that the router couldn't match.
            let (route_index, route) = self.forward_auth;
            return Ok(RouteMatch { route_index, route, params: Vec::new() });
        }
        let unknown = || {
            let message = "This path doesn't exist; see /openapi.json for all paths.";
            UnmatchedRoute { error: Box::new(Error::new(Code::NotFound, message)), allow: None }
        };
        let matched = self.paths.at(path).map_err(|_| unknown())?;
        let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some(&(route_index, route)) = matched.value.iter().find(|(_, route)| route.method == wanted)
        else {
            let mut methods: Vec<&str> = matched.value.iter().map(|(_, route)| route.method).collect();
            if methods.contains(&"GET") {
                methods.push("HEAD");
            }
            let allow = methods.join(", ");
            let message = match allow.rsplit_once(", ") {
                None => format!("Only {allow} is allowed here."),
                Some((others, last)) => format!("Only {others} and {last} are allowed here."),
            };
            let error = Box::new(Error::new(Code::MethodNotAllowed, message));
            return Err(UnmatchedRoute { error, allow: Some(allow) });
        };
        let decode = |value: &str| percent_decode_str(value).decode_utf8().ok().map(|text| text.into_owned());
        // A path parameter that isn't valid UTF-8 names no resource, so the response is a 404.
        let params: Option<Vec<_>> = matched.params.iter().map(|(_, value)| decode(value)).collect();
        Ok(RouteMatch { route_index, route, params: params.ok_or_else(unknown)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::action::Access;

    #[test]
    fn the_access_and_the_target_of_an_action_fit_its_routes() {
        for route in
            ROUTES.iter().filter(|route| !matches!(route.dispatch, Dispatch::DataPlane(_) | Dispatch::Page))
        {
            let Route { method, path, action, .. } = route;
            assert_eq!(*method == "GET", action.access() == Access::Read, "{method} {path}");
            assert!(!path.contains('{') || action.target_kind().is_some(), "{method} {path}");
        }
    }
}
