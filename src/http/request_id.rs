//! `X-Request-Id`, which identifies a request in the response, the log and the audit log.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use warp::reply::Response;

use super::auth;
use crate::domain::id::Kind;
use crate::domain::redaction;
use crate::domain::time::Timestamp;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The `X-Request-Id` that the client sent if that id is valid and holds nothing that may be a secret, otherwise a
/// new id.
pub(crate) fn received_or_new_request_id(headers: &HeaderMap, now: Timestamp) -> String {
    let is_accepted = |id: &&str| {
        is_valid_request_id(id)
            && !auth::request_redactor(headers).contains_secret(id)
            && !redaction::has_mistyped_secret(id)
    };
    let client_id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_accepted);
    // The id protects nothing, so it doesn't need randomness from the operating system.
    client_id.map_or_else(|| Kind::Request.new_id(now, fastrand::u128(..)), str::to_owned)
}

fn is_valid_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

pub(crate) fn add_request_id(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
