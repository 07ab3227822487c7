//! What a handler gets: who calls, the path's parameters, the query and the body.

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

/// A call that has passed the gates of its route.
#[derive(Clone)]
pub struct Call {
    /// The house.
    pub(crate) app: Arc<App>,
    /// Who calls and how.
    pub(crate) ctx: Arc<RequestContext>,
    /// The path's parameters, decoded, in the order of the path.
    pub(crate) params: Vec<String>,
    /// The raw query string.
    pub(crate) query: String,
    /// The `Accept` headers; none for an operation of a batch.
    pub(crate) accept: Vec<HeaderValue>,
    /// The body; `None` when there was none.
    pub(crate) body: Option<Json>,
    /// What is left in the caller's bucket; `None` when it has no limit.
    pub(crate) limits: Option<RateLimitDecision>,
}

impl Call {
    /// A parameter of the path by its place.
    pub(crate) fn param(&self, index: usize) -> String {
        self.params.get(index).cloned().unwrap_or_default()
    }

    /// The body, which must be there.
    pub(crate) fn body(&self) -> Result<&Json> {
        self.body
            .as_ref()
            .ok_or_else(|| Error::new(Code::InvalidJson, "The body is empty; send a JSON object."))
    }

    /// The query, to be read by its parameters.
    pub(crate) fn query(&self) -> Query {
        query(&self.query)
    }

    /// Refuses parameters where a route has none.
    pub(crate) fn no_query(&self) -> Result<()> {
        self.query().finish(())
    }
}

/// A query string, to be read by its parameters.
pub(crate) fn query(text: &str) -> Query {
    Query::of(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
}

/// Does the request say that its body is compressed?
pub(crate) fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

/// Is this a body that we read: JSON, not compressed, and in a PATCH also a merge patch (RFC 7396)?
pub(crate) fn media_type(headers: &HeaderMap, merge_patch: bool) -> Result<()> {
    let unsupported = |message| Err(Error::new(Code::UnsupportedMediaType, message));
    if is_compressed(headers) {
        return unsupported("The body must not be compressed.");
    }
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if given == "application/json" {
        return Ok(()); // What nearly everybody sends.
    }
    let (essence, parameters) = given.split_once(';').unwrap_or((given, ""));
    let essence = essence.trim().to_ascii_lowercase();
    let parameters = parameters.trim().to_ascii_lowercase().replace('"', "");
    let known = essence == "application/json" || merge_patch && essence == "application/merge-patch+json";
    if known && (parameters.is_empty() || parameters == "charset=utf-8") {
        return Ok(());
    }
    unsupported("Send the body as application/json in UTF-8.")
}

/// Collects a body of at most `max` bytes within the time. What is longer is read on and thrown away
/// up to four times that, so that the client hears the 413 instead of a reset connection.
pub(crate) async fn collect<S, B>(body: S, max: usize, within: Duration) -> Result<Bytes>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    let reading = async {
        // Most bodies come in one piece, which need not be copied.
        let (mut first, mut all, mut length) = (Bytes::new(), BytesMut::new(), 0);
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|_| Error::new(Code::InvalidRequest, "The body broke off."))?;
            length += piece.remaining();
            if length <= max && first.is_empty() {
                first = piece.copy_to_bytes(piece.remaining());
            } else if length <= max {
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
            } else if length > max.saturating_mul(4) {
                break;
            }
        }
        if length <= max {
            return Ok(if all.is_empty() { first } else { all.freeze() });
        }
        Err(Error::new(Code::PayloadTooLarge, format!("The body is larger than {max} bytes.")))
    };
    let late = || Error::new(Code::InvalidRequest, format!("The body did not arrive within {within:?}."));
    let mut reading = std::pin::pin!(reading);
    // Mostly all of it is here already, and there is nothing to wait for.
    if let Poll::Ready(read) = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
        return read;
    }
    tokio::time::timeout(within, reading).await.unwrap_or_else(|_| Err(late()))
}

/// Reads a body away that nobody wants to know, so that the connection can go on.
pub(crate) async fn discard<S, B>(body: S, max: usize, within: Duration)
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    // Nothing of it is kept: this is what somebody without a key can make us do.
    let reading = async {
        let mut length = 0usize;
        while let Some(Ok(piece)) = body.next().await {
            length = length.saturating_add(piece.remaining());
            if length > max.saturating_mul(4) {
                break;
            }
        }
    };
    // The answer is decided; whether the rest comes or not changes nothing.
    let _ = tokio::time::timeout(within, reading).await;
}
