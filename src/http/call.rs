//! The input of a handler: the caller, the path parameters, the query and the body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::domain::fields::Json;
use crate::domain::page::Query;
use crate::error::{Code, Detail, Error, Result};
use crate::service::RequestContext;
use crate::verify::bucket::RateLimitDecision;

/// A call that has passed the checks of the pipeline.
#[derive(Clone)]
pub struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) ctx: Arc<RequestContext>,
    /// The path parameters, percent-decoded, in the order of the path.
    pub(crate) params: Vec<String>,
    /// The raw query string.
    pub(crate) query: String,
    /// The `Accept` headers; empty for an operation of a batch.
    pub(crate) accept: Vec<HeaderValue>,
    /// The body; `None` if there was none.
    pub(crate) body: Option<Json>,
    /// The state of the caller's rate limit; `None` if it has none.
    pub(crate) limits: Option<RateLimitDecision>,
    /// Canceled when the client disconnects before it has the response.
    pub(crate) disconnected: CancellationToken,
}

impl Call {
    /// The path parameter at this index.
    pub(crate) fn param(&self, index: usize) -> String {
        self.params.get(index).cloned().unwrap_or_default()
    }

    /// The body.
    ///
    /// # Errors
    /// `INVALID_JSON` if there is none.
    pub(crate) fn body(&self) -> Result<&Json> {
        self.body
            .as_ref()
            .ok_or_else(|| Error::new(Code::InvalidJson, "The body is empty; send a JSON object."))
    }

    pub(crate) fn query(&self) -> Query {
        query(&self.query)
    }

    /// Rejects all query parameters, for routes that have none.
    pub(crate) fn no_query(&self) -> Result<()> {
        self.query().finish(())
    }
}

/// Parses a query string.
pub(crate) fn query(text: &str) -> Query {
    Query::of(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
}

/// The text of each line of a header that the server acts on. Taking an unreadable line for an absent one would
/// skip what the client asked for, such as the condition in `If-Match`.
///
/// # Errors
/// `INVALID_REQUEST`, naming the header, if a line has characters other than visible ASCII, spaces and tabs.
pub(crate) fn header_lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>> {
    readable(headers.get_all(name), name)
}

/// Like [`header_lines`], for lines of the header that were taken from the request before.
pub(crate) fn readable<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    name: &HeaderName,
) -> Result<Vec<&'a str>> {
    lines.into_iter().map(|line| line.to_str().map_err(|_| unreadable(name))).collect()
}

/// Like [`header_lines`], the first line only; `None` if there is none.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    headers.get(name).map(|line| line.to_str().map_err(|_| unreadable(name))).transpose()
}

fn unreadable(name: &HeaderName) -> Error {
    let name = display_name(name);
    Error::invalid(vec![Detail {
        message: format!("The {name} header must be visible ASCII characters."),
        pointer: None,
        parameter: Some(name),
        code: "INVALID_HEADER".into(),
    }])
}

/// The name as documentation writes it, such as `If-Match`.
fn display_name(name: &HeaderName) -> String {
    let capitalize = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.as_str().split('-').map(capitalize).collect::<Vec<_>>().join("-")
}

/// True if `Content-Encoding` says that the body is compressed.
///
/// # Errors
/// `INVALID_REQUEST` if the header is unreadable.
pub(crate) fn is_compressed(headers: &HeaderMap) -> Result<bool> {
    Ok(header_lines(headers, &CONTENT_ENCODING)?.iter().any(|encoding| *encoding != "identity"))
}

/// Accepts uncompressed JSON and, with `merge_patch`, a JSON merge patch (RFC 7396).
///
/// # Errors
/// `UNSUPPORTED_MEDIA_TYPE` for anything else, `INVALID_REQUEST` if a header is unreadable.
pub(crate) fn check_media_type(headers: &HeaderMap, merge_patch: bool) -> Result<()> {
    let unsupported = |message| Err(Error::new(Code::UnsupportedMediaType, message));
    if is_compressed(headers)? {
        return unsupported("The request body must not be compressed.");
    }
    let content_type = header(headers, &CONTENT_TYPE)?.unwrap_or_default();
    if content_type == "application/json" {
        return Ok(()); // By far the most common.
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

/// Reads a body of at most `max` bytes within `timeout`. Of a longer body, up to four times `max` is
/// drained, so that the client receives the 413 instead of a connection reset.
///
/// # Errors
/// `PAYLOAD_TOO_LARGE`, or `INVALID_REQUEST` if the body is incomplete or late.
pub(crate) async fn collect<S, B>(body: S, max: usize, timeout: Duration) -> Result<Bytes>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    let reading = async {
        // Most bodies arrive in one chunk, which isn't copied.
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        let mut length = 0;
        while let Some(chunk) = body.next().await {
            let mut chunk =
                chunk.map_err(|_| Error::new(Code::InvalidRequest, "The request body is incomplete."))?;
            length += chunk.remaining();
            if length <= max && first.is_empty() {
                first = chunk.copy_to_bytes(chunk.remaining());
            } else if length <= max {
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
            } else if length > max.saturating_mul(4) {
                break;
            }
        }
        if length <= max {
            return Ok(if all.is_empty() { first } else { all.freeze() });
        }
        Err(Error::new(Code::PayloadTooLarge, format!("The request body is larger than {max} bytes.")))
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

/// Drains a body that isn't needed, so that the connection can be reused. Stops after four times `max`
/// bytes, or after `timeout`.
pub(crate) async fn discard<S, B>(body: S, max: usize, timeout: Duration)
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    // Nothing is buffered, because clients without a key can cause this.
    let reading = async {
        let mut length = 0usize;
        while let Some(Ok(chunk)) = body.next().await {
            length = length.saturating_add(chunk.remaining());
            if length > max.saturating_mul(4) {
                break;
            }
        }
    };
    // The response is already decided, so a timeout doesn't matter.
    let _ = tokio::time::timeout(timeout, reading).await;
}
