//! Answers: the envelope, errors, and the headers that every answer has.

use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde::Serialize;
use warp::reply::Response as WarpResponse;

use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::service::Listed;
use crate::verify::bucket::Taken;

/// A handler's answer before it is written out.
pub enum Reply {
    /// In the envelope.
    Data(Data),
    /// As it is: an export's stream, the OpenAPI document.
    Raw(Box<WarpResponse>),
}

/// The answer to a deletion.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Deleted {
    /// What is gone.
    pub id: String,
    /// Always `true`.
    pub deleted: bool,
}

/// An answer in the envelope.
pub struct Data {
    status: StatusCode,
    /// `data` as JSON.
    data: String,
    /// `hasMore` and `nextCursor` of a list.
    page: Option<Option<String>>,
    etag: Option<String>,
}

impl Reply {
    /// 200 with `data`.
    pub fn ok(data: &impl Serialize) -> Result<Self> {
        Self::with(StatusCode::OK, data, None)
    }

    /// 200 with `data` and its strong ETag.
    pub fn tagged(data: &impl Serialize, etag: String) -> Result<Self> {
        Self::with(StatusCode::OK, data, Some(etag))
    }

    /// 201 with `data` and its strong ETag.
    pub fn created(data: &impl Serialize, etag: Option<String>) -> Result<Self> {
        Self::with(StatusCode::CREATED, data, etag)
    }

    /// 200 with a page of a list.
    pub fn list<T: Serialize>(listed: &Listed<T>) -> Result<Self> {
        let data = serde_json::to_string(&listed.rows).map_err(Error::internal)?;
        Ok(Self::Data(Data {
            status: StatusCode::OK,
            data,
            page: Some(listed.next_cursor.clone()),
            etag: None,
        }))
    }

    fn with(status: StatusCode, data: &impl Serialize, etag: Option<String>) -> Result<Self> {
        let data = serde_json::to_string(data).map_err(Error::internal)?;
        Ok(Self::Data(Data { status, data, page: None, etag }))
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
pub fn write(reply: Reply, now: Timestamp, request_id: &str) -> WarpResponse {
    match reply {
        Reply::Raw(response) => *response,
        Reply::Data(data) => {
            let metadata = metadata(now, request_id, data.page.as_ref().map(Option::as_deref));
            let body = format!("{{\"success\":true,\"data\":{},\"metadata\":{metadata}}}", data.data);
            let mut response = json(data.status, body);
            if let Some(etag) = data.etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
                response.headers_mut().insert(ETAG, etag);
            }
            response
        }
    }
}

/// Writes a refusal or a failure out.
pub fn write_error(error: &Error, now: Timestamp, request_id: &str) -> WarpResponse {
    #[derive(Serialize)]
    struct Body<'a> {
        code: &'static str,
        message: &'a str,
        details: &'a [crate::error::Detail],
    }
    let body = Body { code: error.code.name(), message: &error.message, details: &error.details };
    let body = serde_json::to_string(&body).unwrap_or_default();
    let metadata = metadata(now, request_id, None);
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        json(status, format!("{{\"success\":false,\"error\":{body},\"metadata\":{metadata}}}"));
    let headers = response.headers_mut();
    match error.code {
        // RFC 6750 §3: no error code when there was no credential.
        Code::Unauthenticated => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        Code::InvalidApiKey => {
            let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            headers.insert(WWW_AUTHENTICATE, value);
        }
        _ => {}
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn json(status: StatusCode, body: String) -> WarpResponse {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What is left in the caller's bucket: the widespread headers, and those of the IETF's draft
/// (draft-ietf-httpapi-ratelimit-headers).
pub fn add_limits(response: &mut WarpResponse, taken: &Taken, now: Timestamp) {
    let limit = taken.limit;
    let reset = (now + taken.full).as_seconds_ceil();
    let next = seconds_ceil(taken.next_token);
    let headers = [
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", taken.remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
        ("ratelimit-policy", format!("\"admin\";q={limit};w=60")),
        ("ratelimit", format!("\"admin\";r={};t={next}", taken.remaining)),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}

/// Whole seconds, never too few.
pub fn seconds_ceil(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() != 0)
}
