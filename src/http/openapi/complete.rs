//! What holds for every operation, taken from the table of routes and the table of codes, so that the
//! document can't disagree with them: who may call, what is refused, which headers come.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::json;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, Content, Header, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Required, Response,
};

use super::{data_plane, envelope};
use crate::error::CODES;
use crate::http::idempotency::LONGEST_KEY;
use crate::http::routes::{ANY, AuthRequirement, Body, Dispatch, Endpoint, ROUTES, Route};

/// The security scheme of all operations.
pub(super) const BEARER: &str = "bearer";

const BEARER_DESCRIPTION: &str = "An API key. A key of an organization reaches only that organization; everything \
else is a `404`. A platform key belongs to no organization and reaches all of them. A key needs any one of the scopes \
that an operation names; `admin:*` covers every `admin:…` scope, and `*` covers all scopes.";

/// What a PATCH takes.
const MERGE_PATCH: &str = "A JSON merge patch (RFC 7396): fields that are left out keep their values, and `null` clears a \
field that may be empty.";

const ETAG: &str = "ETag";
const IF_MATCH: &str = "If-Match";
const IDEMPOTENT_REPLAYED: &str = "Idempotent-Replayed";
pub(super) const REQUEST_ID: &str = "X-Request-Id";
pub(super) const RETRY_AFTER: &str = "Retry-After";
const WWW_AUTHENTICATE: &str = "WWW-Authenticate";
pub(super) const LIMITS: &[&str] =
    &["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Policy", "RateLimit"];

/// Headers of answers: the name, the type, an example and what it says.
#[rustfmt::skip]
const HEADERS: &[(&str, Type, &str, &str)] = &[
    (ETAG, Type::String, "\"1a2073bcba8-1\"", "Names the resource's state, for `If-Match`."),
    (IDEMPOTENT_REPLAYED, Type::String, "true", "There, and `true`, when this is the answer to an earlier request with the same `Idempotency-Key`."),
    (REQUEST_ID, Type::String, "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0", "Identifies the request, also in the audit log: the request's own `X-Request-Id` if it has 1 to 128 of the characters `A-Z a-z 0-9 _ . -`, otherwise a generated id."),
    (RETRY_AFTER, Type::Integer, "2", "Whole seconds after which a retry can succeed."),
    (WWW_AUTHENTICATE, Type::String, "Bearer error=\"invalid_token\"", "How to authenticate (RFC 6750)."),
    (LIMITS[0], Type::Integer, "500", "Calls that a full bucket of the key has. Missing, like the other rate limit headers, when the server sets no limit."),
    (LIMITS[1], Type::Integer, "499", "Calls that are left now."),
    (LIMITS[2], Type::Integer, "1795417690", "Unix seconds at which all of them are back."),
    (LIMITS[3], Type::String, "\"admin\";q=500;w=60", "The limit, as the IETF's draft has it: calls (`q`) in so many seconds (`w`)."),
    (LIMITS[4], Type::String, "\"admin\";r=499;t=1", "What is left (`r`), and seconds to the next call (`t`)."),
];

/// Completes the document that the handlers' attributes make, whose `body` is what stands in `data`.
pub(crate) fn complete(api: &mut OpenApi) {
    let components = api.components.get_or_insert_with(Components::new);
    let mut used = BTreeSet::new();
    for route in ROUTES {
        let item = api.paths.paths.get_mut(route.path);
        if let Some(operation) = item.and_then(|item| operation(item, route.method)) {
            wrap(operation, components);
            used.extend(complete_operation(operation, route));
        }
    }
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(BEARER_DESCRIPTION)).build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    data_plane::add_security_schemes(components);
    components.headers = HEADERS
        .iter()
        .chain(data_plane::HEADERS)
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
    for status in used {
        components.responses.insert(name_of(status), RefOr::T(refusal(status, describe(status))));
    }
}

fn operation<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        // Documented by the one that needs no body.
        "GET" | ANY => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PATCH" => item.patch.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// Returns the statuses of the shared refusals that the operation refers to.
fn complete_operation(operation: &mut Operation, route: &Route) -> BTreeSet<u16> {
    let said = operation.description.take().filter(|said| !said.is_empty());
    operation.description = Some(said.into_iter().chain([needs(route)]).collect::<Vec<_>>().join("\n\n"));
    operation.security = Some(security(route.auth, BEARER));
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.required = Some(if route.body == Body::Required { Required::True } else { Required::False });
        if route.method == "PATCH"
            && let Some(json) = body.content.get("application/json").cloned()
        {
            body.content.insert("application/merge-patch+json".to_owned(), json);
            body.description = Some(MERGE_PATCH.to_owned());
        }
    }
    if let Dispatch::DataPlane(endpoint) = route.dispatch {
        data_plane::complete(operation, route.auth, endpoint);
        return BTreeSet::new();
    }
    if route.is_idempotent_by_key() {
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
    }
    let mut shared = statuses(operation, route);
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        shared.remove(&status);
        if status >= 400 {
            *response = refusal(status, std::mem::take(&mut response.description));
            continue;
        }
        let tag = response.headers.contains_key(ETAG).then_some(ETAG);
        let limits = if route.auth == AuthRequirement::Open { &[] } else { LIMITS };
        let replayed = route.is_idempotent_by_key().then_some(IDEMPOTENT_REPLAYED);
        let own = tag.iter().chain(&replayed).chain([&REQUEST_ID]);
        response.headers = headers(own.chain(limits).copied());
    }
    for status in &shared {
        let reference = Ref::from_response_name(name_of(*status));
        operation.responses.responses.insert(status.to_string(), RefOr::Ref(reference));
    }
    shared
}

/// What every POST takes. Without an example: pages that try the API would send it with every request.
fn idempotency_key() -> Parameter {
    let words = format!(
        "Makes it safe to repeat the request: for 24 hours the same key from the same API key, with the same \
         path and body, is answered as the first time, with `{IDEMPOTENT_REPLAYED}: true`, and nothing is done \
         again. Kept are successes and what was refused with 404 or 409. Used for anything else it is a `422`, \
         while the first request is running a `409`. An answer that shows a secret is given again only to the \
         bearer token that got it first; after that token was rotated it is a `409`."
    );
    let schema =
        ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(LONGEST_KEY));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(words))
        .schema(Some(schema))
        .build()
}

/// Puts the envelope around what is answered.
fn wrap(operation: &mut Operation, components: &mut Components) {
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        for content in response.content.values_mut() {
            let RefOr::T(content) = content else { continue };
            if let Some((name, envelope)) = content.schema.as_ref().and_then(envelope::around) {
                content.schema = Some(RefOr::Ref(Ref::from_schema_name(name.as_str())));
                components.schemas.insert(name, RefOr::T(envelope));
            }
        }
    }
}

/// Who may call, for people.
fn needs(route: &Route) -> String {
    let any_of = |scopes: &[&str]| {
        let names: Vec<_> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
        format!("the scope {}", names.join(" or "))
    };
    match route.auth {
        AuthRequirement::Open if matches!(route.dispatch, Dispatch::DataPlane(Endpoint::ForwardAuth)) => {
            "Whoever asks needs no key; the one that it is asked about is the client's.".to_owned()
        }
        AuthRequirement::Open => "Needs no key.".to_owned(),
        AuthRequirement::AnyKey => "Needs a valid key, whatever its scopes.".to_owned(),
        AuthRequirement::Scope(scopes) => format!("Needs a key with {}.", any_of(scopes)),
        AuthRequirement::Platform(scopes) => format!("Needs a platform key with {}.", any_of(scopes)),
    }
}

/// Who may call, for programs: one requirement for each scope of which any will do.
pub(super) fn security(auth: AuthRequirement, scheme: &str) -> Vec<SecurityRequirement> {
    match auth {
        AuthRequirement::Open => Vec::new(),
        AuthRequirement::AnyKey => vec![SecurityRequirement::new(scheme, [""; 0])],
        AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => {
            scopes.iter().map(|one| SecurityRequirement::new(scheme, [*one])).collect()
        }
    }
}

/// What an operation refuses by its nature.
fn statuses(operation: &Operation, route: &Route) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::from([500]);
    if route.auth != AuthRequirement::Open {
        // Every one reads a query, if only to refuse it, and writes the audit log.
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

/// `NotFound` for 404.
fn name_of(status: u16) -> String {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    status.canonical_reason().unwrap_or_default().split([' ', '-']).collect()
}

/// The codes that come with a status.
fn codes(status: u16) -> impl Iterator<Item = &'static str> {
    CODES.iter().filter(move |(.., of)| *of == status).map(|(_, name, _)| *name)
}

fn describe(status: u16) -> String {
    codes(status).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

/// A refusal of the control plane.
pub(super) fn refusal(status: u16, description: String) -> Response {
    let example = json!({
        "success": false,
        "error": { "code": codes(status).next(), "message": "What is wrong, and what to do.", "details": [] },
        "metadata": { "timestamp": "2026-11-23T07:08:09.123Z", "requestId": "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0" },
    });
    let mut content = Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name("Error"))));
    content.example = Some(example);
    // Who the caller is, and so what it has left, is known behind the 401.
    let limits = if (400..500).contains(&status) && status != 401 { LIMITS } else { &[] };
    let mut response = Response::new(description);
    response.content.insert("application/json".to_owned(), RefOr::T(content));
    response.headers = headers([&REQUEST_ID].into_iter().chain(own_headers(status)).chain(limits).copied());
    response
}

/// The headers that belong to a status.
pub(super) fn own_headers(status: u16) -> &'static [&'static str] {
    match status {
        401 => &[WWW_AUTHENTICATE],
        429 | 503 => &[RETRY_AFTER],
        _ => &[],
    }
}

/// References to the headers of these names.
pub(super) fn headers<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, RefOr<Header>> {
    let reference = |name| RefOr::Ref(Ref::new(format!("#/components/headers/{name}")));
    names.map(|name| (name.to_owned(), reference(name))).collect()
}
