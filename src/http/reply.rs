//! Answers: the envelope, errors, and the headers that every answer has.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use warp::Reply as _;
use warp::reply::Response as WarpResponse;

use crate::domain::time::Timestamp;
use crate::error::{Code, Detail, Error, Result};
use crate::service::Listed;
use crate::service::idempotency::StoredResponse;
use crate::verify::bucket::RateLimitDecision;

/// There was a credential, and it isn't good (RFC 6750 §3.1).
pub(crate) const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// The answer was given before, and nothing was done now.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Bytes of a body that are written in one go. It takes about as long as ten verifications.
const PIECE: usize = 32 * 1024;

/// A handler's answer before it is written out.
pub enum Reply {
    /// In the envelope.
    Data(Data),
    /// As it is: an export's stream, the OpenAPI document.
    Raw(Box<WarpResponse>),
}

/// The answer to a deletion.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Deleted {
    /// What is gone.
    pub(crate) id: String,
    /// Always `true`.
    pub(crate) deleted: bool,
}

/// An answer in the envelope.
pub struct Data {
    status: StatusCode,
    /// `data` as JSON; of a failure `error`.
    data: String,
    /// `hasMore` and `nextCursor` of a list.
    page: Option<Option<String>>,
    etag: Option<String>,
    /// Does it show a secret?
    secret: bool,
    /// Was it given before?
    replayed: bool,
    /// Of a failure, for the log.
    code: Option<Code>,
}

impl Reply {
    /// 200 with `data`.
    pub(crate) fn ok(data: &impl Serialize) -> Result<Self> {
        Self::with(StatusCode::OK, data, None)
    }

    /// 200 with `data` and its strong ETag.
    pub(crate) fn tagged(data: &impl Serialize, etag: String) -> Result<Self> {
        Self::with(StatusCode::OK, data, Some(etag))
    }

    /// 201 with `data` and its strong ETag.
    pub(crate) fn created(data: &impl Serialize, etag: Option<String>) -> Result<Self> {
        Self::with(StatusCode::CREATED, data, etag)
    }

    /// 200 with a page of a list.
    pub(crate) fn list<T: Serialize>(listed: &Listed<T>) -> Result<Self> {
        let data = serde_json::to_string(&listed.rows).map_err(Error::internal)?;
        let page = Some(listed.next_cursor.clone());
        Ok(Self::Data(Data { page, ..Data::new(StatusCode::OK, data) }))
    }

    fn with(status: StatusCode, data: &impl Serialize, etag: Option<String>) -> Result<Self> {
        let data = serde_json::to_string(data).map_err(Error::internal)?;
        Ok(Self::Data(Data { etag, ..Data::new(status, data) }))
    }

    /// The same, which shows a secret: kept for a repetition, it is sealed.
    pub(crate) fn with_secret(self) -> Self {
        match self {
            Self::Data(data) => Self::Data(Data { secret: true, ..data }),
            raw @ Self::Raw(_) => raw,
        }
    }

    /// A refusal or a failure that is recorded already.
    pub(crate) fn failed(error: &Error) -> Self {
        Self::Data(Data::failed(error))
    }

    /// A failure that says more than an [`Error`] can.
    pub(crate) fn failed_with(code: Code, error: &impl Serialize) -> Result<Self> {
        let error = serde_json::to_string(error).map_err(Error::internal)?;
        Ok(Self::Data(Data { code: Some(code), ..Data::new(status(code), error) }))
    }

    /// The code of a failure.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Data(data) => data.code,
            Self::Raw(_) => None,
        }
    }

    /// What was kept of an earlier answer.
    pub(crate) fn from_stored(stored: StoredResponse) -> Result<Self> {
        let status = StatusCode::from_u16(stored.status).map_err(Error::internal)?;
        let StoredResponse { etag, secret, body, .. } = stored;
        Ok(Self::Data(Data { etag, secret, replayed: true, ..Data::new(status, body) }))
    }

    /// What is kept of it.
    pub(crate) fn to_stored(&self) -> Option<StoredResponse> {
        let Self::Data(Data { status, data, etag, secret, .. }) = self else { return None };
        Some(StoredResponse {
            status: status.as_u16(),
            etag: etag.clone(),
            secret: *secret,
            body: data.clone(),
        })
    }
}

impl Data {
    fn new(status: StatusCode, data: String) -> Self {
        Self { status, data, page: None, etag: None, secret: false, replayed: false, code: None }
    }

    fn failed(error: &Error) -> Self {
        let body = ErrorBody { code: error.code.name(), message: &error.message, details: &error.details };
        let body = serde_json::to_string(&body).unwrap_or_default();
        Self { code: Some(error.code), ..Self::new(status(error.code), body) }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its ETag.
    pub(crate) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Does it show a secret?
    pub(crate) fn shows_secret(&self) -> bool {
        self.secret
    }

    /// The answer's body.
    pub(crate) fn body(&self, now: Timestamp, request_id: &str) -> String {
        let metadata = metadata(now, request_id, self.page.as_ref().map(Option::as_deref));
        let (success, name) = if self.status.is_success() { (true, "data") } else { (false, "error") };
        format!("{{\"success\":{success},\"{name}\":{},\"metadata\":{metadata}}}", self.data)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    timestamp: Timestamp,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_more: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Option<&'a str>>,
}

fn metadata(now: Timestamp, request_id: &str, page: Option<Option<&str>>) -> String {
    let metadata = Metadata {
        timestamp: now,
        request_id,
        has_more: page.map(|cursor| cursor.is_some()),
        next_cursor: page,
    };
    serde_json::to_string(&metadata).unwrap_or_default()
}

/// Writes an answer out.
pub(crate) fn write(reply: Reply, now: Timestamp, request_id: &str) -> WarpResponse {
    match reply {
        Reply::Raw(response) => *response,
        Reply::Data(data) => {
            let mut response = json(data.status, data.body(now, request_id));
            if data.replayed {
                response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            }
            if let Some(etag) = data.etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
                response.headers_mut().insert(ETAG, etag);
            }
            response
        }
    }
}

/// The member `metadata` of an answer that is written by hand. A request id holds nothing to escape.
pub(crate) fn push_metadata(json: &mut String, now: Timestamp, request_id: &str) {
    json.push_str(r#""metadata":{"timestamp":""#);
    now.push_to(json);
    for piece in [r#"","requestId":""#, request_id, r#""}"#] {
        json.push_str(piece);
    }
}

/// 200 without a body.
pub(crate) fn empty() -> WarpResponse {
    let mut response = WarpResponse::new("".into());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Writes a denied verification out, in the form of an error.
pub(crate) fn write_denial(
    status: StatusCode,
    code: &str,
    message: &str,
    now: Timestamp,
    request_id: &str,
) -> WarpResponse {
    let error = ErrorBody { code, message, details: &[] };
    let mut response = json(status, failure(&error, now, request_id));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, INVALID_TOKEN);
    }
    response
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    details: &'a [Detail],
}

fn failure(error: &ErrorBody<'_>, now: Timestamp, request_id: &str) -> String {
    let error = serde_json::to_string(error).unwrap_or_default();
    let metadata = metadata(now, request_id, None);
    format!("{{\"success\":false,\"error\":{error},\"metadata\":{metadata}}}")
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Writes a refusal or a failure out.
pub(crate) fn write_error(error: &Error, now: Timestamp, request_id: &str) -> WarpResponse {
    let failure = Data::failed(error);
    let mut response = json(failure.status, failure.body(now, request_id));
    let headers = response.headers_mut();
    match error.code {
        // RFC 6750 §3: no error code when there was no credential.
        Code::Unauthenticated => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        Code::InvalidApiKey => drop(headers.insert(WWW_AUTHENTICATE, INVALID_TOKEN)),
        _ => {}
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// 200 with a body. A long one goes out in pieces, so that the connection's worker serves others in between.
pub(crate) fn whole(body: Bytes) -> WarpResponse {
    if body.len() <= PIECE {
        return Response::new(body.into());
    }
    let length = HeaderValue::from(body.len());
    let pieces = stream::unfold(body, |mut rest| async {
        let piece = rest.split_to(rest.len().min(PIECE));
        tokio::task::yield_now().await;
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), rest))
    });
    let mut response = warp::reply::stream(pieces).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// JSON that is written already.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> WarpResponse {
    let mut response = whole(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What is left in a bucket: the widespread headers, and those of the IETF's draft
/// (draft-ietf-httpapi-ratelimit-headers), in which the policy has a name.
pub(crate) fn add_limits(
    headers: &mut HeaderMap,
    policy: &str,
    decision: &RateLimitDecision,
    now: Timestamp,
) {
    let (limit, window) = (decision.limit, decision.window.as_secs());
    let reset = (now + decision.full_after).as_seconds_ceil();
    let next = seconds_ceil(decision.next_token);
    let values = [
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", decision.remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
        ("ratelimit-policy", format!("\"{policy}\";q={limit};w={window}")),
        ("ratelimit", format!("\"{policy}\";r={};t={next}", decision.remaining)),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Whole seconds, never too few.
pub(crate) fn seconds_ceil(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn others_have_their_turn_between_the_pieces_of_a_long_answer() {
        let body: Bytes = (0..3 * PIECE + 1).map(|place| (place % 251) as u8).collect();
        let turns = Arc::new(AtomicUsize::new(0));
        let decision = turns.clone();
        tokio::spawn(async move {
            loop {
                decision.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let mut response = whole(body.clone());
        assert_eq!(response.headers()[CONTENT_LENGTH], body.len().to_string());
        let (mut got, mut before) = (Vec::new(), 0);
        while let Some(frame) = response.body_mut().frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            let now = turns.load(Ordering::Relaxed);
            assert!(piece.len() <= PIECE && now > before, "{} bytes after {now} turns", piece.len());
            before = now;
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, body);
    }
}
