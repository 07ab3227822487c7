//! `GET /openapi.json`: the API description, for client generators and the reference in `/docs/`.
//!
//! Attributes on the handlers describe the parameters and responses of each operation. [`complete`] adds what
//! is common to all operations, from the route table and the table of error codes.

mod complete;
mod data_plane;
pub(crate) mod envelope;
mod examples;
pub(crate) mod params;
mod responses;
mod security;
mod version_3_0;

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use utoipa::OpenApi;

use self::examples::Examples;
use super::call::Call;
use super::reply::Reply;
use super::route::Route;
use super::{
    analytics, api_keys, audit, batch, forward_auth, health, introspect, memberships, organizations, own_key,
    pages, report_usage, root, scopes, search, settings, users, verify, verify_batch, whoami,
};
use crate::domain::sha256::sha256;
use crate::error::{Error, Result};

#[derive(OpenApi)]
#[openapi(
    info(title = "Tollhouse", description = include_str!("openapi/about.md"), license(name = "MIT", identifier = "MIT")),
    external_docs(url = "docs/", description = "API reference"),
    // The server URL is relative to the document, so that it includes a path prefix that a proxy adds.
    servers((url = ".", description = "The server that serves this document")),
    tags(
        (name = "Verification", description = "The data plane. Checks API keys against their status, scopes, allowed addresses, rate limits and quotas. Known keys are checked in memory, without touching the database. Requests are not rate limited and not in the audit log, but are counted in usage analytics."),
        (name = "Self-service", description = "For whoever holds a key: read, revoke and rotate the calling key itself, with any scopes. A key may make 60 of these requests per minute."),
        (name = "Caller", description = "The calling API key."),
        (name = "Search", description = "Finds organizations, users and API keys."),
        (name = "Organizations", description = "Organizations own API keys, members and audit events."),
        (name = "Members", description = "Memberships connect users to organizations, with a role. Roles are informational and grant no permissions. An organization's last owner can't be removed or given another role."),
        (name = "Users", description = "Users can be members of organizations and own API keys."),
        (name = "API keys", description = "Create, find, update, rotate and revoke API keys. A key can't grant more than it has: the administrative scopes, expiry and allowlist of a key must lie within those of the key that creates or changes it."),
        (name = "Scopes", description = "The catalogue of scopes that can be granted to API keys."),
        (name = "Configuration", description = "Settings of the whole platform: rules for API keys, rate limits, plans, data retention and maintenance mode."),
        (name = "Analytics", description = "Usage of API keys: number and results of verifications, and a log of denials."),
        (name = "Audit log", description = "Records every request to the Admin API, including reads and refused requests, in a tamper-evident hash chain."),
        (name = "Batch", description = "Run several operations in one transaction."),
        (name = "Server", description = "Health checks and this document."),
    ),
    paths(
        verify::answer, verify_batch::answer, report_usage::answer, introspect::answer, forward_auth::answer, forward_auth::answer_with_path,
        own_key::get, own_key::revoke, own_key::rotate,
        whoami::get_caller,
        search::find,
        organizations::list, organizations::create,
        organizations::get, organizations::update, organizations::delete,
        memberships::list, memberships::create, memberships::get, memberships::update, memberships::delete,
        users::list, users::create, users::get, users::update, users::delete, users::list_memberships,
        api_keys::list, api_keys::create, api_keys::get, api_keys::update, api_keys::delete,
        api_keys::revoke, api_keys::rotate, api_keys::expire_previous_secret,
        scopes::list, scopes::create, scopes::delete,
        settings::get, settings::update,
        analytics::get_usage, analytics::get_overview, analytics::list_denials,
        audit::list, audit::export_events, audit::verify_chain, audit::get,
        batch::run_batch,
        root::list_addresses, health::check_liveness, health::check_readiness, get_document,
    ),
    components(schemas(
        crate::domain::settings::Plan, crate::domain::verification::Outcome,
        envelope::ErrorEnvelope, envelope::Denial, envelope::ResponseMetadata, envelope::ListMetadata, introspect::OauthError,
        crate::domain::page::Order, crate::domain::usage::GroupBy, crate::service::audit::ExportFormat,
    )),
)]
struct ApiDocument;

/// A version of the OpenAPI Specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecificationVersion {
    V3_0,
    V3_1,
}

/// The OpenAPI document as it is served.
pub struct SerializedDocument {
    json: String,
    gzip: Vec<u8>,
    /// Hash of the JSON, for the `ETag`.
    tag: String,
}

impl SerializedDocument {
    /// Creates the document of these routes.
    ///
    /// # Errors
    /// `INTERNAL` if the document can't be serialized.
    pub(super) fn new(routes: &[Route]) -> Result<Self> {
        let mut api = ApiDocument::openapi();
        complete::complete_document(&mut api, routes, &Examples::load()?);
        let json = api.to_pretty_json().map_err(Error::internal)?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let gzip =
            encoder.write_all(json.as_bytes()).and_then(|()| encoder.finish()).map_err(Error::internal)?;
        let tag = hex::encode(&sha256(json.as_bytes())[..8]);
        Ok(Self { json, gzip, tag })
    }

    /// The document as JSON.
    pub fn text(&self) -> &str {
        &self.json
    }

    /// The document in this version of the OpenAPI Specification, with this URL of the server instead of a relative one if
    /// it is given, for tools that read the document from a file.
    ///
    /// # Errors
    /// `INTERNAL` if the document can't be serialized.
    pub(crate) fn text_for_tools(
        &self,
        version: SpecificationVersion,
        server: Option<&str>,
    ) -> Result<String> {
        if version == SpecificationVersion::V3_1 && server.is_none() {
            return Ok(self.json.clone());
        }
        let mut document: Value = serde_json::from_str(&self.json).map_err(Error::internal)?;
        if let Some(url) = server {
            document["servers"] = json!([{"url": url}]);
        }
        if version == SpecificationVersion::V3_0 {
            version_3_0::convert(&mut document);
        }
        serde_json::to_string_pretty(&document).map_err(Error::internal)
    }
}

/// Get this document
///
/// Returns the OpenAPI 3.1 document that `tollhouse openapi` prints, without the response envelope.
#[utoipa::path(
    get, path = "/openapi.json", tag = "Server", operation_id = "getOpenapi",
    responses((status = 200, description = "The OpenAPI document.", body = Object, headers(("ETag")))),
)]
pub(crate) async fn get_document(call: Call, document: &'static SerializedDocument) -> Result<Reply> {
    let SerializedDocument { json, gzip, tag } = document;
    let gzip = Bytes::from_static(gzip);
    let plain = || Ok(Bytes::from_static(json.as_bytes()));
    let response = pages::negotiate(&call.negotiation, tag, "application/json", gzip, plain)?;
    Ok(Reply::Raw(Box::new(response)))
}
