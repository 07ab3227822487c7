//! The route table: for every path that is served, who may call the path, and its handler.

use std::sync::LazyLock;

use super::data_plane_request::VERIFY_SCOPES;
use super::openapi::SerializedDocument;
pub use super::route::{ANY, AuthRequirement, Body, Dispatch, Endpoint, Route};
use super::route::{Handler, Prepare};
use super::router::Router;
use super::{
    analytics, api_keys, audit, health, memberships, openapi, organizations, own_key, pages, root, scopes,
    search, settings, users, whoami,
};
use crate::domain::action::Action;
use crate::error::Result;

const ADMIN_ORGS: AuthRequirement = AuthRequirement::Scope(&["admin:orgs"]);
const ADMIN_USERS: AuthRequirement = AuthRequirement::Scope(&["admin:users"]);
const ADMIN_KEYS: AuthRequirement = AuthRequirement::Scope(&["admin:keys"]);
const ADMIN_ANALYTICS: AuthRequirement = AuthRequirement::Scope(&["admin:analytics", "admin:orgs"]);
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
    get("/openapi.json", Action::ReadOpenapi, AuthRequirement::Open, |call| Box::pin(async { openapi::get_document(call, openapi_document()?).await })),

    page_route(pages::FAVICON_PATH),
    page_route("/docs"),
    page_route("/docs/"),
    page_route("/docs/{*path}"),
    page_route("/console"),
    page_route("/console/"),
    page_route("/console/{*path}"),

    data_plane_route("POST", "/v1/keys/verify", AuthRequirement::Scope(VERIFY_SCOPES), Body::Required, Endpoint::Verify),
    data_plane_route("POST", "/v1/keys/verify-batch", AuthRequirement::Scope(VERIFY_SCOPES), Body::Required, Endpoint::VerifyBatch),
    data_plane_route("POST", "/v1/keys/usage", AuthRequirement::Scope(VERIFY_SCOPES), Body::Required, Endpoint::ReportUsage),
    get("/v1/keys/self", Action::ReadOwnKey, AuthRequirement::OwnKey, |call| Box::pin(own_key::get(call))),
    post("/v1/keys/self/revoke", Action::RevokeApiKey, AuthRequirement::OwnKey, Body::Optional, |call| Box::pin(own_key::revoke(call))),
    post("/v1/keys/self/rotate", Action::RotateApiKey, AuthRequirement::OwnKey, Body::Optional, |call| Box::pin(own_key::rotate(call))),
    data_plane_route("POST", "/v1/introspect", AuthRequirement::Scope(VERIFY_SCOPES), Body::Required, Endpoint::Introspect),
    data_plane_route(ANY, "/v1/forward-auth", AuthRequirement::Open, Body::None, Endpoint::ForwardAuth),
    data_plane_route(ANY, "/v1/forward-auth/{path}", AuthRequirement::Open, Body::None, Endpoint::ForwardAuth),

    get("/admin/v1/whoami", Action::ReadWhoami, AuthRequirement::AnyKey, |call| Box::pin(whoami::get_caller(call))),
    get("/admin/v1/search", Action::Search, AuthRequirement::AnyKey, |call| Box::pin(search::find(call))),

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

/// The router of [`ROUTES`], built once.
pub(super) fn router() -> Result<&'static Router> {
    static ROUTER: LazyLock<Result<Router>> = LazyLock::new(|| Router::new(ROUTES));
    ROUTER.as_ref().map_err(Clone::clone)
}

/// The OpenAPI document of [`ROUTES`], made once because it is the same for every caller.
///
/// # Errors
/// `INTERNAL` if the document can't be serialized.
pub fn openapi_document() -> Result<&'static SerializedDocument> {
    static DOCUMENT: LazyLock<Result<SerializedDocument>> = LazyLock::new(|| SerializedDocument::new(ROUTES));
    DOCUMENT.as_ref().map_err(Clone::clone)
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
