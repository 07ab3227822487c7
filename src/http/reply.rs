//! Responses: the envelope, errors, and common headers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde::Serialize;
use warp::Reply as _;
use warp::reply::Response as WarpResponse;

use crate::app::request_memory::MemoryReservation;
use crate::domain::scope;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::service::ListPage;
use crate::service::operation::Answer;

/// The `WWW-Authenticate` value for an invalid bearer token (RFC 6750 §3.1).
pub(crate) const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// The `WWW-Authenticate` value for a token without the required scope (RFC 6750 §3.1). Names the scope if it
/// is known.
pub(crate) fn insufficient_scope_challenge(missing_scope: Option<&str>) -> HeaderValue {
    let without_scope = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
    // The quoted string has no escapes, so only characters that need none are written.
    let Some(scope) = missing_scope.filter(|scope| scope::is_oauth_scope_token(scope)) else {
        return without_scope;
    };
    HeaderValue::from_str(&format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""))
        .unwrap_or(without_scope)
}

/// Response header that marks the replayed response of an earlier request.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Maximum number of bytes of a response body that are written at once. Writing them takes about as long as
/// ten verifications.
const CHUNK_BYTES: usize = 32 * 1024;

/// A handler's response.
pub enum Reply {
    /// A JSON response in the API's envelope.
    Enveloped(EnvelopedReply),
    /// A complete response, such as an export's stream or the OpenAPI document.
    Raw(Box<WarpResponse>),
}

/// A JSON response in the API's envelope: `success`, `data` or `error`, and `metadata`.
pub struct EnvelopedReply {
    answer: Answer,
    /// `None` if the response isn't a list, `Some(None)` for a list's last page, otherwise the next page's
    /// cursor.
    page: Option<Option<String>>,
    /// True for the stored answer of an earlier request.
    is_replayed: bool,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Enveloped(EnvelopedReply { answer, page: None, is_replayed: false })
    }
}

impl Reply {
    /// A 200 response with `data`.
    pub(crate) fn ok(data: &impl Serialize) -> Result<Self> {
        Answer::ok(data).map(Self::from)
    }

    /// A 200 response with one page of a list.
    pub(crate) fn list<T: Serialize>(listed: &ListPage<T>) -> Result<Self> {
        let page = Some(listed.next_cursor.clone());
        Ok(Self::Enveloped(EnvelopedReply { answer: Answer::ok(&listed.rows)?, page, is_replayed: false }))
    }

    /// The stored answer of an earlier request.
    pub(crate) fn replayed(answer: Answer) -> Self {
        Self::Enveloped(EnvelopedReply { answer, page: None, is_replayed: true })
    }

    /// The error code; `None` for a success and for a replayed response.
    pub(crate) fn error_code(&self) -> Option<Code> {
        match self {
            Self::Enveloped(enveloped) => enveloped.answer.code,
            Self::Raw(_) => None,
        }
    }

    /// True for the stored response of an earlier request.
    pub(crate) fn is_replayed(&self) -> bool {
        matches!(self, Self::Enveloped(enveloped) if enveloped.is_replayed)
    }

    /// Maximum memory that the response takes until it is sent, in bytes. Zero for a raw response, which is static or
    /// streamed.
    pub(crate) fn max_memory_bytes(&self) -> usize {
        match self {
            Self::Enveloped(enveloped) => enveloped.answer.max_memory_bytes(),
            Self::Raw(_) => 0,
        }
    }
}

/// The body of a response: the answer and metadata in the envelope. `page` is that of a list.
pub(crate) fn envelope(
    answer: &Answer,
    page: Option<Option<&str>>,
    now: Timestamp,
    request_id: &str,
) -> String {
    let metadata = metadata_json(now, request_id, page);
    let is_success = http_status(answer.status).is_success();
    let member = if is_success { "data" } else { "error" };
    format!("{{\"success\":{is_success},\"{member}\":{},\"metadata\":{metadata}}}", answer.data)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeMetadata<'a> {
    timestamp: Timestamp,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_more: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Option<&'a str>>,
}

fn metadata_json(now: Timestamp, request_id: &str, page: Option<Option<&str>>) -> String {
    let metadata = EnvelopeMetadata {
        timestamp: now,
        request_id,
        has_more: page.map(|cursor| cursor.is_some()),
        next_cursor: page,
    };
    serde_json::to_string(&metadata).unwrap_or_default()
}

/// Converts a handler's reply to an HTTP response. A long body keeps `memory` reserved until it is sent.
pub(crate) fn write_reply(
    reply: Reply,
    now: Timestamp,
    request_id: &str,
    memory: Option<Arc<MemoryReservation>>,
) -> WarpResponse {
    match reply {
        Reply::Raw(response) => *response,
        Reply::Enveloped(EnvelopedReply { answer, page, is_replayed }) => {
            let page = page.as_ref().map(Option::as_deref);
            let body = envelope(&answer, page, now, request_id).into();
            let mut response = as_json(http_status(answer.status), chunked_response(body, memory));
            if is_replayed {
                response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            }
            if let Some(etag) = answer.etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
                response.headers_mut().insert(ETAG, etag);
            }
            if answer.code == Some(Code::Unavailable) {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

/// Appends the member `metadata` to JSON that is written without a serializer. Request ids contain no
/// characters that JSON escapes.
pub(crate) fn push_metadata(json: &mut String, now: Timestamp, request_id: &str) {
    json.push_str(r#""metadata":{"timestamp":""#);
    now.push_to(json);
    for piece in [r#"","requestId":""#, request_id, r#""}"#] {
        json.push_str(piece);
    }
}

/// A 200 response without a body.
pub(crate) fn empty_response() -> WarpResponse {
    let mut response = WarpResponse::new("".into());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The response to a denied verification, in the format of an error response.
pub(crate) fn write_denial(
    status: StatusCode,
    code: &str,
    message: &str,
    now: Timestamp,
    request_id: &str,
) -> WarpResponse {
    let error = serde_json::to_string(&Denial { code, message, details: [] }).unwrap_or_default();
    let metadata = metadata_json(now, request_id, None);
    let body = format!("{{\"success\":false,\"error\":{error},\"metadata\":{metadata}}}");
    let mut response = json_response(status, body);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, INVALID_TOKEN);
    }
    response
}

#[derive(Serialize)]
struct Denial<'a> {
    code: &'a str,
    message: &'a str,
    details: [ErrorDetail; 0],
}

fn http_status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The error response in the envelope, with its `WWW-Authenticate` and `Retry-After` headers.
pub(crate) fn write_error(error: &Error, now: Timestamp, request_id: &str) -> WarpResponse {
    let answer = Answer::from_error(error);
    let body = envelope(&answer, None, now, request_id);
    let mut response = json_response(http_status(answer.status), body);
    let headers = response.headers_mut();
    match error.code {
        // RFC 6750 §3: the challenge has no error code if the request has no credential.
        Code::Unauthenticated => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        Code::InvalidApiKey => drop(headers.insert(WWW_AUTHENTICATE, INVALID_TOKEN)),
        Code::InsufficientScope => {
            let challenge = insufficient_scope_challenge(error.missing_scope.as_deref());
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        _ => {}
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A 200 response with this body, in chunks if it is long.
pub(crate) fn response_from_bytes(body: Bytes) -> WarpResponse {
    chunked_response(body, None)
}

/// A 200 response with this body. A long body is written in chunks, so that the connection's worker serves
/// other connections in between, and keeps `memory` reserved until its end.
fn chunked_response(body: Bytes, memory: Option<Arc<MemoryReservation>>) -> WarpResponse {
    if body.len() <= CHUNK_BYTES {
        return Response::new(body.into());
    }
    let length = HeaderValue::from(body.len());
    let chunks = stream::unfold((body, memory), |(mut rest, memory)| async {
        let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
        tokio::task::yield_now().await;
        (!chunk.is_empty()).then_some((Ok::<_, Infallible>(chunk), (rest, memory)))
    });
    let mut response = warp::reply::stream(chunks).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// A response with a body that is already serialized JSON.
pub(crate) fn json_response(status: StatusCode, body: impl Into<Bytes>) -> WarpResponse {
    as_json(status, response_from_bytes(body.into()))
}

/// Like [`json_response`]. A long body keeps `memory` reserved until it is sent.
pub(crate) fn json_response_in(
    memory: Arc<MemoryReservation>,
    status: StatusCode,
    body: impl Into<Bytes>,
) -> WarpResponse {
    as_json(status, chunked_response(body.into(), Some(memory)))
}

fn as_json(status: StatusCode, mut response: WarpResponse) -> WarpResponse {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn other_tasks_run_between_the_chunks_of_a_long_body() {
        let body: Bytes = (0..3 * CHUNK_BYTES + 1).map(|index| (index % 251) as u8).collect();
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        tokio::spawn(async move {
            loop {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let mut response = response_from_bytes(body.clone());
        assert_eq!(response.headers()[CONTENT_LENGTH], body.len().to_string());
        let mut received = Vec::new();
        let mut turns_before = 0;
        while let Some(frame) = response.body_mut().frame().await {
            let chunk = frame.unwrap().into_data().unwrap();
            let turns_now = turns.load(Ordering::Relaxed);
            let is_fair = chunk.len() <= CHUNK_BYTES && turns_now > turns_before;
            assert!(is_fair, "{} bytes after {turns_now} turns", chunk.len());
            turns_before = turns_now;
            received.extend_from_slice(&chunk);
        }
        assert_eq!(received, body);
    }
}
