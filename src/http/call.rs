//! The input of a control-plane handler: the caller, the path parameters, the query and the body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt};
use http::HeaderMap;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderName, IF_NONE_MATCH,
};
use tokio_util::sync::CancellationToken;

use super::conn::request_head::RequestHead;
use crate::app::App;
use crate::app::request_memory::MemoryReservation;
use crate::config::HttpConfig;
use crate::domain::fields::Json;
use crate::domain::page::Query;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::service::RequestContext;
use crate::verify::call_buckets::CallDecision;

/// A control-plane request that has passed the checks of the pipeline: the input of its handler.
#[derive(Clone)]
pub struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) ctx: Arc<RequestContext>,
    /// The path parameters, percent-decoded, in the order of the path.
    pub(crate) path_params: Vec<String>,
    /// The raw query string.
    pub(crate) query: String,
    /// The headers [`NEGOTIATION_HEADERS`] of the request; empty for an operation of a batch.
    pub(crate) negotiation: HeaderMap,
    /// The request's JSON body; `None` if the request has no body.
    pub(crate) body: Option<Json>,
    /// The memory reserved for this request: for its body and, as far as known, its response.
    pub(crate) memory: Arc<MemoryReservation>,
    /// The state of the caller's rate limits; `None` if it has none.
    pub(crate) rate_limit: Option<CallDecision>,
    /// Canceled when the client disconnects before it has the response.
    pub(crate) disconnected: CancellationToken,
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

/// The headers by which the response to a read may differ.
const NEGOTIATION_HEADERS: [HeaderName; 3] = [ACCEPT, ACCEPT_ENCODING, IF_NONE_MATCH];

/// Copies the headers by which the response to a read may differ.
pub(crate) fn negotiation_headers(headers: &HeaderMap) -> HeaderMap {
    let mut negotiation = HeaderMap::new();
    for name in NEGOTIATION_HEADERS {
        for value in headers.get_all(&name) {
            negotiation.append(name.clone(), value.clone());
        }
    }
    negotiation
}

/// Parses a query string.
pub(crate) fn parse_query_string(text: &str) -> Query {
    Query::of(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
}

/// The text of each line of a header that the server acts on. Taking an unreadable line for an absent one would
/// skip what the client asked for, such as the condition in `If-Match`.
///
/// # Errors
/// `INVALID_REQUEST`, naming the header, if a line has characters other than visible ASCII, spaces and tabs.
pub(crate) fn readable_header_lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>> {
    let lines = headers.get_all(name).iter();
    lines.map(|line| line.to_str().map_err(|_| unreadable_header_error(name))).collect()
}

/// Like [`readable_header_lines`], the first line only; `None` if there is none.
pub(crate) fn readable_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    headers.get(name).map(|line| line.to_str().map_err(|_| unreadable_header_error(name))).transpose()
}

fn unreadable_header_error(name: &HeaderName) -> Error {
    let name = display_name(name);
    Error::invalid_request(vec![ErrorDetail {
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
pub(crate) fn has_compressed_body(headers: &HeaderMap) -> Result<bool> {
    let encodings = readable_header_lines(headers, &CONTENT_ENCODING)?;
    Ok(encodings.iter().any(|encoding| *encoding != "identity"))
}

/// Checks that the body is uncompressed JSON or, if `merge_patch` is true, a JSON merge patch (RFC 7396).
///
/// # Errors
/// `UNSUPPORTED_MEDIA_TYPE` for any other media type or encoding, `INVALID_REQUEST` if a header is unreadable.
pub(crate) fn check_media_type(headers: &HeaderMap, merge_patch: bool) -> Result<()> {
    // Fast path for by far the most common headers.
    if headers.get(CONTENT_TYPE).is_some_and(|value| value == "application/json")
        && !headers.contains_key(CONTENT_ENCODING)
    {
        return Ok(());
    }
    let unsupported = |message| Err(Error::new(Code::UnsupportedMediaType, message));
    if has_compressed_body(headers)? {
        return unsupported("The request body must not be compressed.");
    }
    let content_type = readable_header(headers, &CONTENT_TYPE)?.unwrap_or_default();
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

/// The limits of a request body.
#[derive(Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Maximum size.
    pub(crate) max_bytes: usize,
    /// Maximum number of bytes that are read of a larger body, or of one that isn't needed, so that the client
    /// receives the response instead of a connection reset.
    pub(crate) max_drained_bytes: usize,
    /// Maximum time for receiving the whole body.
    pub(crate) timeout: Duration,
}

impl BodyLimits {
    /// The configured limits, for a surface whose bodies have at most `max_bytes`.
    pub(crate) fn new(config: &HttpConfig, max_bytes: usize) -> Self {
        Self {
            max_bytes: max_bytes.min(config.max_body_bytes),
            max_drained_bytes: config.max_body_bytes.saturating_mul(4),
            timeout: config.body_timeout,
        }
    }
}

/// Memory is reserved in steps of this many bytes for a body whose length isn't known, because most are short.
const RESERVED_STEP_BYTES: usize = 16 * 1024;

/// Reads a body within its limits. Before it waits for the client, it reserves memory: `reserve` is called with the
/// number of bytes in `Content-Length`, or, without that header, repeatedly as the body grows. What it returns is
/// dropped after the last byte.
///
/// A body whose `Content-Length` is too large is refused without waiting for it.
///
/// # Errors
/// `PAYLOAD_TOO_LARGE`, `INVALID_REQUEST` if the body is incomplete or doesn't arrive in time, and the errors of
/// `reserve`.
pub(crate) async fn read_body<S, B, E, R>(
    body: S,
    head: &RequestHead,
    limits: BodyLimits,
    reserve: impl Fn(usize) -> Result<R>,
) -> Result<Bytes>
where
    S: Stream<Item = Result<B, E>> + Send + 'static,
    B: Buf + Send + 'static,
    E: Send + 'static,
{
    let BodyLimits { max_bytes, max_drained_bytes, timeout } = limits;
    let declared_bytes = head.declared_body_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if declared_bytes.is_some_and(|bytes| bytes > max_bytes) {
        discard_body(body, head, limits).await;
        return Err(payload_too_large_error(max_bytes));
    }
    let mut body = std::pin::pin!(body);
    let reading = async {
        // Most bodies arrive in one chunk, which is returned without a copy.
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        let mut length: usize = 0;
        let mut reservations = Vec::new();
        let mut reserved_bytes = 0;
        loop {
            let next = match body.next().now_or_never() {
                Some(next) => next,
                None => {
                    let needed_bytes =
                        declared_bytes.unwrap_or((length + 1).next_multiple_of(RESERVED_STEP_BYTES));
                    let needed_bytes = needed_bytes.min(max_bytes);
                    if needed_bytes > reserved_bytes {
                        reservations.push(reserve(needed_bytes - reserved_bytes)?);
                        reserved_bytes = needed_bytes;
                    }
                    body.next().await
                }
            };
            let Some(chunk) = next else { break };
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
            } else if length > max_drained_bytes {
                break;
            }
        }
        if length <= max_bytes {
            return Ok(if all.is_empty() { first } else { all.freeze() });
        }
        Err(payload_too_large_error(max_bytes))
    };
    let late =
        || Error::new(Code::InvalidRequest, format!("The request body did not arrive within {timeout:?}."));
    let read = {
        let mut reading = std::pin::pin!(reading);
        // Usually the whole body has arrived already, and no timer is needed.
        match poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
            Poll::Ready(read) => read,
            Poll::Pending => tokio::time::timeout(timeout, reading).await.unwrap_or_else(|_| Err(late())),
        }
    };
    if read.as_ref().is_err_and(|error| error.code == Code::Unavailable) {
        // No memory could be reserved, so the rest is still to come.
        drain_body(body, limits).await;
    }
    read
}

fn payload_too_large_error(max_bytes: usize) -> Error {
    Error::new(Code::PayloadTooLarge, format!("The request body is larger than {max_bytes} bytes."))
}

/// Drops a body that isn't needed. What has not arrived yet is drained while the response is sent.
pub(crate) async fn discard_body<S, B, E>(body: S, head: &RequestHead, limits: BodyLimits)
where
    S: Stream<Item = Result<B, E>> + Send + 'static,
    B: Buf + Send + 'static,
    E: Send + 'static,
{
    // Polling the body would tell a client that waits for `100 Continue` to send it.
    if !head.has_body || head.headers.contains_key(EXPECT) {
        return;
    }
    let mut draining = Box::pin(drain_body(body, limits));
    if poll_fn(|context| Poll::Ready(draining.as_mut().poll(context))).await.is_pending() {
        tokio::spawn(draining);
    }
}

/// Reads and drops a body that isn't needed, within its limits, so that the connection can be reused.
pub(crate) async fn drain_body<S, B, E>(body: S, limits: BodyLimits)
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    // The body isn't buffered, because clients without a key can make the server drain one.
    let reading = async {
        let mut length = 0usize;
        while let Some(Ok(chunk)) = body.next().await {
            length = length.saturating_add(chunk.remaining());
            if length > limits.max_drained_bytes {
                break;
            }
        }
    };
    // The response is already decided, so a timeout doesn't matter.
    let _ = tokio::time::timeout(limits.timeout, reading).await;
}
