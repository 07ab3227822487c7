//! Serves one connection: HTTP/1.1 without TLS, and with TLS the protocol negotiated by ALPN.
//!
//! hyper's `auto` builder isn't used, because it waits without a timeout for the first bytes, which distinguish
//! HTTP/1 from HTTP/2.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutWriter;
use warp::reply::Response;

use super::accept::AcceptedConnection;
use super::auth::ConnectionAuth;
use super::drain::DrainSignal;
use super::driver::Driver;
use super::handler::Handler;
use super::limits::{ConnectionLimits, MAX_HEAD_BYTES};
use super::request_head::{RequestHead, RequestHeadParts};
use super::state::{Event, State};
use super::streams;
use super::timer::ConnectionTimer;
use super::tls::{self, Tls};
use crate::error::text_with_sources;

/// The error that ended a connection, for the log.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection to its end.
pub(super) async fn serve_connection(
    accepted: AcceptedConnection,
    tls: Option<Arc<Tls>>,
    handler: impl Handler,
    limits: Arc<ConnectionLimits>,
    draining: Arc<DrainSignal>,
) {
    let AcceptedConnection { stream, peer, open: _open, unauthenticated } = accepted;
    let is_tls = tls.is_some();
    let connection_auth = Arc::new(ConnectionAuth::new(unauthenticated));
    // An `Arc` of the connection's own: requests count references to it, not to what all connections share.
    let handler = Arc::new(handler);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let head = RequestHead(Arc::new(RequestHeadParts {
            peer,
            is_tls,
            connection_auth: connection_auth.clone(),
            version: parts.version,
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            has_body: !body.is_end_stream(),
            declared_body_bytes: body.size_hint().exact(),
        }));
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(head, body).await) }
    });
    // Registers the connection with this thread's runtime, which fails only if memory runs out.
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // Disables Nagle's algorithm: responses are written at once, so waiting to fill a packet would only delay
    // them. A failure means that the peer is gone, which the first read reports as well.
    let _ = stream.set_nodelay(true);
    // The timeout applies only to writes: hyper also reads while a handler runs, when the client is expected
    // to be silent.
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_timeout));
    let stream = Box::pin(stream);
    let result = match tls {
        None => serve_http1(stream, service, Driver::new(State::Http1, &limits, &draining)).await,
        // Boxed so that connections without TLS don't reserve space for the larger future.
        Some(tls) => Box::pin(serve_tls(stream, &tls, service, &limits, &draining)).await,
    };
    if let Err(error) = result {
        tracing::debug!(%peer, error = text_with_sources(&*error), "connection failed");
    }
}

/// Performs the TLS handshake, then serves the negotiated protocol.
async fn serve_tls<IO, S>(
    stream: IO,
    tls: &Tls,
    service: S,
    limits: &ConnectionLimits,
    draining: &DrainSignal,
) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
    S: Service<http::Request<Incoming>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut driver = Driver::new(State::handshake(limits), limits, draining);
    let handshake = pin!(tls.accept(stream));
    let Some(stream) = driver.run(handshake, |_| {}, None).await else {
        return if draining.has_begun() { Ok(()) } else { Err("TLS handshake timed out".into()) };
    };
    let stream = stream?;
    if tls::negotiated_http2(&stream) {
        driver.step(Event::Http2Negotiated);
        return streams::serve_http2(stream, service, driver).await.map_err(Into::into);
    }
    driver.step(Event::Http1Negotiated);
    serve_http1(stream, service, driver).await
}

async fn serve_http1<IO, S>(stream: IO, service: S, mut driver: Driver<'_>) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<http::Request<Incoming>, Response = Response, Error = Infallible>,
{
    let draining = driver.draining;
    let service = service_fn(|request| {
        let response = service.call(request);
        async {
            let mut response = response.await?;
            // The header is added here, because hyper may be notified of the drain only after this response.
            if draining.has_begun() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(ConnectionTimer::default())
        .header_read_timeout(driver.limits.header_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        // Most responses are short: copying the body behind the head takes less time than a vectored write.
        .writev(false)
        .serve_connection(TokioIo::new(stream), service);
    let result = driver.run(pin!(connection), |connection| connection.graceful_shutdown(), None).await;
    result.unwrap_or(Ok(())).map_err(Into::into)
}
