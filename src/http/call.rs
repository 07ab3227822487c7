//! The input of a control-plane handler: the caller, the path parameters, the query and the body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

use crate::app::App;
use crate::domain::fields::Json;
use crate::domain::page::Query;
use crate::error::{Code, Error, Result};
use crate::service::RequestContext;
use crate::verify::bucket::RateLimitDecision;

/// A control-plane request that has passed the checks of the pipeline: the input of its handler.
#[derive(Clone)]
pub struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) ctx: Arc<RequestContext>,
    /// The path parameters, percent-decoded, in the order of the path.
    pub(crate) path_params: Vec<String>,
    /// The raw query string.
    pub(crate) query: String,
    /// The values of the `Accept` headers; empty for an operation of a batch.
    pub(crate) accept: Vec<HeaderValue>,
    /// The request's JSON body; `None` if the request has no body.
    pub(crate) body: Option<Json>,
    /// The state of the caller's rate limit; `None` if the caller has no rate limit.
    pub(crate) rate_limit: Option<RateLimitDecision>,
}

impl Call {
    /// The path parameter at this index, in the order of the path; empty if there is no such parameter.
    pub(crate) fn path_param(&self, index: usize) -> String {
        self.path_params.get(index).cloned().unwrap_or_default()
    }

    /// The request's JSON body.
    ///
    /// # Errors
    /// `INVALID_JSON` if the request has no body.
    pub(crate) fn require_body(&self) -> Result<&Json> {
        self.body
            .as_ref()
            .ok_or_else(|| Error::new(Code::InvalidJson, "The body is empty; send a JSON object."))
    }

    pub(crate) fn parse_query(&self) -> Query {
        parse_query_string(&self.query)
    }

    /// Rejects every query parameter, for routes that accept none.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if the request has a query parameter.
    pub(crate) fn reject_query(&self) -> Result<()> {
        self.parse_query().finish(())
    }
}

/// Parses a query string.
pub(crate) fn parse_query_string(text: &str) -> Query {
    Query::of(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
}

/// True if `Content-Encoding` says that the body is compressed.
pub(crate) fn has_compressed_body(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

/// Checks that the body is uncompressed JSON or, if `merge_patch` is true, a JSON merge patch (RFC 7396).
///
/// # Errors
/// `UNSUPPORTED_MEDIA_TYPE` for any other media type or encoding.
pub(crate) fn check_media_type(headers: &HeaderMap, merge_patch: bool) -> Result<()> {
    let unsupported = |message| Err(Error::new(Code::UnsupportedMediaType, message));
    if has_compressed_body(headers) {
        return unsupported("The request body must not be compressed.");
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type == "application/json" {
        return Ok(()); // Fast path for by far the most common value.
    }
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let essence = essence.trim().to_ascii_lowercase();
    let parameters = parameters.trim().to_ascii_lowercase().replace('"', "");
    let is_supported =
        essence == "application/json" || merge_patch && essence == "application/merge-patch+json";
    if is_supported && (parameters.is_empty() || parameters == "charset=utf-8") {
        return Ok(());
    }
    unsupported("Send the request body as application/json in UTF-8.")
}

/// Reads a body of at most `max_bytes` within `timeout`. Of a longer body, up to four times `max_bytes` are
/// drained, so that the client receives the 413 response instead of a connection reset.
///
/// # Errors
/// `PAYLOAD_TOO_LARGE`, or `INVALID_REQUEST` if the body is incomplete or doesn't arrive in time.
pub(crate) async fn read_body<S, B>(body: S, max_bytes: usize, timeout: Duration) -> Result<Bytes>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    let reading = async {
        // Most bodies arrive in one chunk, which is returned without a copy.
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        let mut length = 0;
        while let Some(chunk) = body.next().await {
            let mut chunk =
                chunk.map_err(|_| Error::new(Code::InvalidRequest, "The request body is incomplete."))?;
            length += chunk.remaining();
            if length <= max_bytes && first.is_empty() {
                first = chunk.copy_to_bytes(chunk.remaining());
            } else if length <= max_bytes {
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
            } else if length > max_bytes.saturating_mul(4) {
                break;
            }
        }
        if length <= max_bytes {
            return Ok(if all.is_empty() { first } else { all.freeze() });
        }
        Err(Error::new(Code::PayloadTooLarge, format!("The request body is larger than {max_bytes} bytes.")))
    };
    let late =
        || Error::new(Code::InvalidRequest, format!("The request body did not arrive within {timeout:?}."));
    let mut reading = std::pin::pin!(reading);
    // Usually the whole body has arrived already and no timer is needed.
    if let Poll::Ready(read) = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
        return read;
    }
    tokio::time::timeout(timeout, reading).await.unwrap_or_else(|_| Err(late()))
}

/// Reads and drops a body that isn't needed, so that the connection can be reused. Stops after four times
/// `max_bytes`, or after `timeout`.
pub(crate) async fn drain_body<S, B>(body: S, max_bytes: usize, timeout: Duration)
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    // The body isn't buffered, because clients without a key can make the server drain one.
    let reading = async {
        let mut length = 0usize;
        while let Some(Ok(chunk)) = body.next().await {
            length = length.saturating_add(chunk.remaining());
            if length > max_bytes.saturating_mul(4) {
                break;
            }
        }
    };
    // The response is already decided, so a timeout doesn't matter.
    let _ = tokio::time::timeout(timeout, reading).await;
}
