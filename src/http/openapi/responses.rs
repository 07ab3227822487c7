//! The headers of responses, and the error responses, in the OpenAPI document.

use std::collections::BTreeMap;

use http::StatusCode;
use utoipa::openapi::example::Example;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{Content, Header, Ref, RefOr, Response};

pub(super) const ETAG: &str = "ETag";
pub(super) const IDEMPOTENT_REPLAYED: &str = "Idempotent-Replayed";
pub(super) const REQUEST_ID: &str = "X-Request-Id";
pub(super) const RETRY_AFTER: &str = "Retry-After";
const WWW_AUTHENTICATE: &str = "WWW-Authenticate";
pub(super) const RATE_LIMIT_HEADERS: &[&str] =
    &["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Policy", "RateLimit"];

/// Response headers: name, type, example and description.
#[rustfmt::skip]
pub(super) const RESPONSE_HEADERS: &[(&str, Type, &str, &str)] = &[
    (ETAG, Type::String, "\"1a2073bcba8-1\"", "Version of the resource, for use in `If-Match`; of `/openapi.json`, for use in `If-None-Match`."),
    (IDEMPOTENT_REPLAYED, Type::String, "true", "`true` if this is the replayed response of an earlier request with the same `Idempotency-Key`; otherwise absent."),
    (REQUEST_ID, Type::String, "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0", "Identifies the request, also in the audit log: the `X-Request-Id` of the request if it has 1 to 128 of the characters `A-Z a-z 0-9 _ . -` and holds no secret, otherwise a generated id."),
    (RETRY_AFTER, Type::Integer, "2", "Whole seconds to wait before retrying."),
    (WWW_AUTHENTICATE, Type::String, "Bearer error=\"invalid_token\"", "The authentication scheme to use and the error (RFC 6750 §3). A `401` always has this header. A `403` has it if the code is `INSUFFICIENT_SCOPE`: `Bearer error=\"insufficient_scope\", scope=\"admin:keys\"`, with the missing scope if there is one; an operation that accepts any of several scopes names the first."),
    (RATE_LIMIT_HEADERS[0], Type::Integer, "500", "Requests that a full bucket allows. If several limits apply, this header, `X-RateLimit-Remaining` and `X-RateLimit-Reset` show the limit that refused the request, otherwise the one with the fewest requests left. All rate limit headers are absent if no limit is set."),
    (RATE_LIMIT_HEADERS[1], Type::Integer, "499", "Requests left now."),
    (RATE_LIMIT_HEADERS[2], Type::Integer, "1795417690", "Unix time, in seconds, at which all requests are available again."),
    (RATE_LIMIT_HEADERS[3], Type::String, "\"admin\";q=500;w=60, \"admin-organization\";q=2500;w=60", "The limits, as in the IETF draft: `q` requests per `w` seconds. In the Admin API, `admin` (for a batch, `batch`) is the limit of the calling key, and `admin-organization` (`batch-organization`) the one that all keys of its organization share. Under `/v1/keys/self`, they are `self` and `self-organization`."),
    (RATE_LIMIT_HEADERS[4], Type::String, "\"admin\";r=499;t=1, \"admin-organization\";r=2499;t=1", "For each limit, requests left (`r`) and seconds until the next one is available (`t`)."),
];

/// The name of a shared error response, such as `NotFound` for 404.
pub(super) fn response_name_of(status: u16) -> String {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    status.canonical_reason().unwrap_or_default().split([' ', '-']).collect()
}

/// The description of an error response with these codes.
pub(super) fn describe_codes<'a>(codes: impl Iterator<Item = &'a String>) -> String {
    codes.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

/// An error response in the Admin API's envelope, with an example for each code.
pub(super) fn error_response(
    status: u16,
    description: String,
    examples: BTreeMap<String, RefOr<Example>>,
) -> Response {
    let mut content = Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name("ErrorResponse"))));
    content.examples = examples;
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
