//! `GET /openapi.json`: what is served, for programs that make clients and for people who try it.
//!
//! The attributes beside the handlers say what each operation takes and gives; what holds for all of them
//! is [completed](complete) from the tables of routes and codes.

mod complete;
mod data_plane;
pub(crate) mod envelope;
pub(crate) mod params;

use std::sync::LazyLock;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use utoipa::OpenApi;

use super::call::Call;
use super::reply::{self, Reply};
use super::{
    analytics, api_keys, audit, batch, forward_auth, health, introspect, memberships, organizations, root,
    scopes, settings, users, verify, whoami,
};
use crate::error::{Error, Result};

#[derive(OpenApi)]
#[openapi(
    info(title = "Tollhouse", description = include_str!("openapi/about.md"), license(name = "MIT", identifier = "MIT")),
    external_docs(url = "docs/", description = "API reference"),
    // Relative to the document, so that behind a proxy which adds a path it leads through that path.
    servers((url = ".", description = "The server that gives this document")),
    tags(
        (name = "Verification", description = "Is this key good, now? The data plane: answered from memory, by scopes, addresses, limits and quotas of the key. Its calls are not limited and not in the audit log; the usage analytics count them."),
        (name = "Caller", description = "The key that you call with."),
        (name = "Organizations", description = "Whose keys, members and events are whose."),
        (name = "Members", description = "Which user is what in an organization. Roles are the platform's record: nothing is gated on them, but the last owner stays."),
        (name = "Users", description = "The people behind memberships and keys."),
        (name = "API keys", description = "Make, find, change, rotate and revoke keys. Nobody gives away what they don't have: administrative scopes, expiry and allowlist of a key lie within its maker's."),
        (name = "Scopes", description = "The catalogue of what keys can be allowed."),
        (name = "Configuration", description = "What is set for the whole platform: rules for keys, limits, plans, how long things are kept, maintenance."),
        (name = "Analytics", description = "How often keys are verified, with what outcome, and what was denied."),
        (name = "Audit log", description = "Every call of this API, refusals and looks too, chained by hashes so that tampering shows."),
        (name = "Batch", description = "Several operations in one transaction."),
        (name = "Server", description = "Health, and this document."),
    ),
    paths(
        verify::answer, introspect::answer, forward_auth::answer, forward_auth::with_path,
        whoami::whoami,
        organizations::list, organizations::create,
        organizations::get, organizations::update, organizations::delete,
        memberships::list, memberships::create, memberships::get, memberships::update, memberships::delete,
        users::list, users::create, users::get, users::update, users::delete, users::memberships,
        api_keys::list, api_keys::create, api_keys::get, api_keys::update, api_keys::delete,
        api_keys::revoke, api_keys::rotate, api_keys::expire_previous,
        scopes::list, scopes::create, scopes::delete,
        settings::get, settings::update,
        analytics::usage, analytics::overview, analytics::logs,
        audit::list, audit::export, audit::verify, audit::get,
        batch::run,
        root::addresses, health::live, health::ready, document,
    ),
    components(schemas(
        crate::domain::settings::Plan, crate::domain::settings::PlanPatch,
        envelope::Failure, envelope::Denial, envelope::ResponseMetadata, envelope::ListMetadata, introspect::OauthError,
        crate::domain::page::Order, crate::domain::usage::GroupBy, crate::service::audit::Format,
    )),
)]
struct Api;

/// Made once: it is the same for every caller.
static TEXT: LazyLock<Result<String>> = LazyLock::new(|| {
    let mut api = Api::openapi();
    complete::complete(&mut api);
    api.to_pretty_json().map_err(Error::internal)
});

/// The document.
pub fn text() -> Result<&'static str> {
    TEXT.as_deref().map_err(Clone::clone)
}

/// This document
///
/// OpenAPI 3.1, the same that `tollhouse openapi` prints. As it is, without the envelope.
#[utoipa::path(
    get, path = "/openapi.json", tag = "Server", operation_id = "getOpenapi",
    responses((status = 200, description = "The document.", body = Object)),
)]
pub(crate) async fn document(_: Call) -> Result<Reply> {
    let mut response = reply::whole(text()?.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(Reply::Raw(Box::new(response)))
}
