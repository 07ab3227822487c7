//! Adds the required scopes, error responses and headers to all operations of the OpenAPI document. They come
//! from the route table and the table of error codes, so that the document can't disagree with these tables.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::json;
use strum::VariantArray;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, Content, Header, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Required, Response,
};

use super::{data_plane, envelope};
use crate::error::Code;
use crate::http::idempotency::MAX_IDEMPOTENCY_KEY_LENGTH;
use crate::http::routes::{ANY, AuthRequirement, Body, Dispatch, Endpoint, ROUTES, Route};

/// Name of the OpenAPI security scheme for bearer tokens, which every operation that requires a key
/// supports.
pub(super) const BEARER_SCHEME: &str = "bearer";

const BEARER_DESCRIPTION: &str = "An API key. An organization key can only access its own organization; anything else \
is a `404`. A platform key belongs to no organization and can access all of them. A key needs one of the scopes that \
an operation lists; `admin:*` covers every `admin:…` scope, and `*` covers all scopes.";

/// The description of a PATCH body.
const MERGE_PATCH_DESCRIPTION: &str = "A JSON merge patch (RFC 7396): omitted fields keep their values, and `null` clears a field \
 that is optional.";

const ETAG: &str = "ETag";
const IF_MATCH: &str = "If-Match";
const IDEMPOTENT_REPLAYED: &str = "Idempotent-Replayed";
pub(super) const REQUEST_ID: &str = "X-Request-Id";
pub(super) const RETRY_AFTER: &str = "Retry-After";
const WWW_AUTHENTICATE: &str = "WWW-Authenticate";
pub(super) const RATE_LIMIT_HEADERS: &[&str] =
    &["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Policy", "RateLimit"];

/// Response headers: name, type, example and description.
#[rustfmt::skip]
const RESPONSE_HEADERS: &[(&str, Type, &str, &str)] = &[
    (ETAG, Type::String, "\"1a2073bcba8-1\"", "Version of the resource, for use in `If-Match`; of `/openapi.json`, for use in `If-None-Match`."),
    (IDEMPOTENT_REPLAYED, Type::String, "true", "`true` if this is the replayed response of an earlier request with the same `Idempotency-Key`; otherwise absent."),
    (REQUEST_ID, Type::String, "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0", "Identifies the request, also in the audit log: the `X-Request-Id` of the request if it has 1 to 128 of the characters `A-Z a-z 0-9 _ . -` and holds no secret, otherwise a generated id."),
    (RETRY_AFTER, Type::Integer, "2", "Whole seconds to wait before retrying."),
    (WWW_AUTHENTICATE, Type::String, "Bearer error=\"invalid_token\"", "The authentication scheme to use and the error (RFC 6750 §3). A `401` always has this header. A `403` has it if the code is `INSUFFICIENT_SCOPE`: `Bearer error=\"insufficient_scope\", scope=\"admin:keys\"`, with the missing scope if there is one; an operation that accepts any of several scopes names the first."),
    (RATE_LIMIT_HEADERS[0], Type::Integer, "500", "Requests that a full bucket allows. If several limits apply, this header, `X-RateLimit-Remaining` and `X-RateLimit-Reset` show the limit that refused the request, otherwise the one with the fewest requests left. All rate limit headers are absent if no limit is set."),
    (RATE_LIMIT_HEADERS[1], Type::Integer, "499", "Requests left now."),
    (RATE_LIMIT_HEADERS[2], Type::Integer, "1795417690", "Unix time, in seconds, at which all requests are available again."),
    (RATE_LIMIT_HEADERS[3], Type::String, "\"admin\";q=500;w=60, \"admin-organization\";q=2500;w=60", "The limits, as in the IETF draft: `q` requests per `w` seconds. In the Admin API, `admin` (for a batch, `batch`) is the limit of the calling key, and `admin-organization` (`batch-organization`) the one that all keys of its organization share."),
    (RATE_LIMIT_HEADERS[4], Type::String, "\"admin\";r=499;t=1, \"admin-organization\";r=2499;t=1", "For each limit, requests left (`r`) and seconds until the next one is available (`t`)."),
];

/// Completes the OpenAPI document generated from the handlers' attributes. In these attributes, the `body` of
/// a response is the type of `data` in the envelope.
pub(crate) fn complete_document(api: &mut OpenApi) {
    let components = api.components.get_or_insert_with(Components::new);
    let mut shared_statuses = BTreeSet::new();
    for route in ROUTES {
        let item = api.paths.paths.get_mut(route.path);
        if let Some(operation) = item.and_then(|item| find_operation(item, route.method)) {
            wrap_in_envelopes(operation, components);
            shared_statuses.extend(complete_operation(operation, route));
        }
    }
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(BEARER_DESCRIPTION)).build();
    components.add_security_scheme(BEARER_SCHEME, SecurityScheme::Http(bearer));
    data_plane::add_security_schemes(components);
    components.headers = RESPONSE_HEADERS
        .iter()
        .chain(data_plane::DATA_PLANE_HEADERS)
        .map(|(name, kind, example, description)| {
            let mut header = Header::new(ObjectBuilder::new().schema_type(kind.clone()).build());
            header.description = Some((*description).to_owned());
            header.example = Some(match kind {
                Type::Integer => example.parse::<u64>().map(Into::into).unwrap_or_default(),
                _ => (*example).into(),
            });
            ((*name).to_owned(), RefOr::T(header))
        })
        .collect();
    for status in shared_statuses {
        components.responses.insert(
            response_name_of(status),
            RefOr::T(error_response(status, describe_error_status(status))),
        );
    }
}

fn find_operation<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        // A route for any method is documented as a GET, which has no body.
        "GET" | ANY => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PATCH" => item.patch.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// Adds scopes, error responses and headers to an operation. Returns the statuses of the shared error
/// responses that the operation refers to.
fn complete_operation(operation: &mut Operation, route: &Route) -> BTreeSet<u16> {
    let description = operation.description.take().filter(|description| !description.is_empty());
    let mut access = describe_required_access(route);
    if route.action.requires_current_secret() {
        access.push_str(" The previous secret of a rotated key is refused with `403` (`SECRET_SUPERSEDED`).");
    }
    let paragraphs: Vec<_> = description.into_iter().chain([access]).collect();
    operation.description = Some(paragraphs.join("\n\n"));
    operation.security = Some(security_requirements(route.auth, BEARER_SCHEME));
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.required = Some(if route.body == Body::Required { Required::True } else { Required::False });
        if route.method == "PATCH"
            && let Some(json) = body.content.get("application/json").cloned()
        {
            body.content.insert("application/merge-patch+json".to_owned(), json);
            body.description = Some(MERGE_PATCH_DESCRIPTION.to_owned());
        }
    }
    if let Dispatch::DataPlane(endpoint) = route.dispatch {
        data_plane::complete_operation(operation, route.auth, endpoint);
        return BTreeSet::new();
    }
    if route.is_idempotent_by_key() {
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key_parameter()));
    }
    let mut shared = error_statuses(operation, route);
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        shared.remove(&status);
        if status >= 400 {
            *response = error_response(status, std::mem::take(&mut response.description));
            continue;
        }
        let etag = response.headers.contains_key(ETAG).then_some(ETAG);
        let limits = if route.auth == AuthRequirement::Open { &[] } else { RATE_LIMIT_HEADERS };
        let replayed = route.is_idempotent_by_key().then_some(IDEMPOTENT_REPLAYED);
        let names = etag.iter().chain(&replayed).chain([&REQUEST_ID]).chain(limits);
        response.headers = header_references(names.copied());
    }
    for status in &shared {
        let reference = Ref::from_response_name(response_name_of(*status));
        operation.responses.responses.insert(status.to_string(), RefOr::Ref(reference));
    }
    shared
}

/// The `Idempotency-Key` parameter of every POST of the Admin API. It has no example, because the API
/// reference would send the example with every request that a user tries.
fn idempotency_key_parameter() -> Parameter {
    let description = format!(
        "A unique value, such as a UUID, that makes it safe to retry the request. For 24 hours, a repeated \
         request with the same idempotency key, API key, path and body gets the original response again, with \
         `{IDEMPOTENT_REPLAYED}: true`, and no change is made. Successful responses and errors with status \
         404 or 409 are stored. Using the key for a different request returns `422`; repeating the request \
         while the first one is still running returns `409`. A response that contains a secret is only \
         replayed to the bearer token that received it. After that token was rotated, the request returns `409` \
         with the new token, and `403` with the previous one. A replay is authorized again: `403` if the API key \
         has lost a scope that the request, or an operation of a batch, requires. The reads of a batch run again \
         and return their current results. If there is no room to store the response, nothing is changed and \
         the request returns `503`; it can be sent without an idempotency key."
    );
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_IDEMPOTENCY_KEY_LENGTH));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// Replaces the schema of each response's data by the schema of its envelope.
fn wrap_in_envelopes(operation: &mut Operation, components: &mut Components) {
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        for content in response.content.values_mut() {
            let RefOr::T(content) = content else { continue };
            if let Some((name, envelope)) = content.schema.as_ref().and_then(envelope::envelope_schema) {
                content.schema = Some(RefOr::Ref(Ref::from_schema_name(name.as_str())));
                components.schemas.insert(name, RefOr::T(envelope));
            }
        }
    }
}

/// The sentence about who may call the operation, for the end of its description.
fn describe_required_access(route: &Route) -> String {
    let any_of = |scopes: &[&str]| {
        let names: Vec<_> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
        format!("the scope {}", names.join(" or "))
    };
    match route.auth {
        AuthRequirement::Open if matches!(route.dispatch, Dispatch::DataPlane(Endpoint::ForwardAuth)) => {
            "The proxy needs no key of its own; the key is the client's.".to_owned()
        }
        AuthRequirement::Open => "Requires no API key.".to_owned(),
        AuthRequirement::AnyKey => "Requires a valid API key with any scopes.".to_owned(),
        AuthRequirement::Scope(scopes) => format!("Requires an API key with {}.", any_of(scopes)),
        AuthRequirement::Platform(scopes) => format!("Requires a platform key with {}.", any_of(scopes)),
    }
}

/// The OpenAPI security requirements: one alternative for each scope, because any one of the scopes suffices.
pub(super) fn security_requirements(auth: AuthRequirement, scheme: &str) -> Vec<SecurityRequirement> {
    match auth {
        AuthRequirement::Open => Vec::new(),
        AuthRequirement::AnyKey => vec![SecurityRequirement::new(scheme, [""; 0])],
        AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => {
            scopes.iter().map(|scope| SecurityRequirement::new(scheme, [*scope])).collect()
        }
    }
}

/// The error statuses that follow from an operation's route and parameters.
fn error_statuses(operation: &Operation, route: &Route) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::from([500]);
    if route.auth != AuthRequirement::Open {
        // Every operation that requires a key parses the query, if only to reject it (400), and writes the
        // audit log (503, 507).
        statuses.extend([400, 401, 403, 429, 503, 507]);
    }
    if route.path.contains('{') {
        statuses.insert(404);
    }
    if route.body != Body::None {
        statuses.extend([413, 415]);
    }
    let takes_if_match =
        |parameter: &RefOr<_>| matches!(parameter, RefOr::T(Parameter { name, .. }) if name == IF_MATCH);
    if operation.parameters.iter().flatten().any(takes_if_match) {
        statuses.insert(412);
    }
    if route.is_idempotent_by_key() {
        statuses.extend([409, 422]);
    }
    statuses
}

/// The name of a shared error response, such as `NotFound` for 404.
fn response_name_of(status: u16) -> String {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    status.canonical_reason().unwrap_or_default().split([' ', '-']).collect()
}

/// The names of the error codes with this HTTP status.
fn error_codes(status: u16) -> impl Iterator<Item = &'static str> {
    Code::VARIANTS.iter().filter(move |code| code.status() == status).map(|code| code.name())
}

fn describe_error_status(status: u16) -> String {
    error_codes(status).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

/// An error response in the Admin API's envelope.
pub(super) fn error_response(status: u16, description: String) -> Response {
    let example = json!({
        "success": false,
        "error": { "code": error_codes(status).next(), "message": "What is wrong and what to do.", "details": [] },
        "metadata": { "timestamp": "2026-11-23T07:08:09.123Z", "requestId": "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0" },
    });
    let mut content = Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name("Error"))));
    content.example = Some(example);
    // A 401 has no rate limit headers, because the rate limit is that of an authenticated caller.
    let limits = if (400..500).contains(&status) && status != 401 { RATE_LIMIT_HEADERS } else { &[] };
    let mut response = Response::new(description);
    response.content.insert("application/json".to_owned(), RefOr::T(content));
    response.headers =
        header_references([&REQUEST_ID].into_iter().chain(headers_of_status(status)).chain(limits).copied());
    response
}

/// The names of the response headers that this status adds.
pub(super) fn headers_of_status(status: u16) -> &'static [&'static str] {
    match status {
        401 | 403 => &[WWW_AUTHENTICATE],
        429 | 503 => &[RETRY_AFTER],
        _ => &[],
    }
}

/// References to the document's header components with these names.
pub(super) fn header_references<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, RefOr<Header>> {
    let reference = |name| RefOr::Ref(Ref::new(format!("#/components/headers/{name}")));
    names.map(|name| (name.to_owned(), reference(name))).collect()
}
