//! Serves connections: timeouts and the graceful shutdown. [`accept`](super::accept) limits their number.
//!
//! warp's own accept loop has no timeouts and no deadline for its graceful shutdown. This one serves
//! HTTP/1.1 without TLS, and with TLS the protocol negotiated by ALPN. hyper's `auto` builder isn't used,
//! because it waits without a timeout for the first bytes, which distinguish HTTP/1 from HTTP/2.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio_io_timeout::TimeoutWriter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::accept::{AcceptedConnection, Acceptor};
use super::auth::ConnectionAuth;
use super::listeners::Listeners;
use super::request_head::{RequestHead, RequestHeadParts};
use super::streams;
use super::timer::ConnectionTimer;
use super::tls::{self, Tls};
use super::workers::Workers;
use crate::config::HttpConfig;
use crate::telemetry::connections::ListenerConnections;

/// Maximum size of a request head (request line and headers), and of a connection's buffer, in bytes.
/// The number of headers stays at hyper's default of 100, the only limit that needs no allocation per
/// request. A request that exceeds either limit gets a 431.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The error that ended a connection, for the log.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Limits and timeouts of connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Maximum number of connections served at once (at least 1). Further connections are closed.
    pub max_connections: usize,
    /// Maximum number of connections of one client address (an IPv6 /64) on which no key has authenticated yet;
    /// 0 means unlimited. Further connections are closed.
    pub max_unauthenticated_per_address: usize,
    /// The networks whose addresses `max_unauthenticated_per_address` doesn't limit, because many clients share a
    /// proxy.
    pub trusted_proxies: Vec<IpNet>,
    /// Maximum time from the start of the connection, or the end of a response, to the end of the next
    /// request's head. This is therefore also the idle timeout. A TLS handshake has its own timeout of
    /// the same length.
    pub header_timeout: Duration,
    /// Maximum time for which a client may read no byte of a response; then the server closes the
    /// connection, or resets the HTTP/2 stream.
    pub write_timeout: Duration,
    /// Maximum time that running requests have to finish after the shutdown has begun.
    pub drain_timeout: Duration,
}

impl From<&HttpConfig> for ConnectionLimits {
    fn from(http: &HttpConfig) -> Self {
        Self {
            max_connections: http.max_connections,
            max_unauthenticated_per_address: http.max_unauthenticated_per_address,
            trusted_proxies: http.trusted_proxies.clone(),
            header_timeout: http.header_timeout,
            write_timeout: http.write_timeout,
            drain_timeout: http.drain_timeout,
        }
    }
}

/// Signals to all connections that the server is shutting down. Each connection polls the signal whenever the
/// connection is woken, so polling takes no shared lock.
#[derive(Default)]
pub(super) struct DrainSignal {
    begun: AtomicBool,
    notify: Notify,
}

impl DrainSignal {
    fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Resolves when the drain begins.
    pub(super) async fn wait(&self) {
        let mut notified = pin!(self.notify.notified());
        let mut is_registered = false;
        poll_fn(|context| {
            // The waker is registered only once, because every waker of this future wakes the same task.
            if !is_registered && notified.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            is_registered = true;
            // The flag is checked after registering, so that a drain that begins in between isn't missed.
            if self.has_begun() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Serves connections on the workers, with or without TLS, until `shutdown` resolves, then drains: new
/// connections are refused, idle ones are closed, and running requests finish with `Connection: close`
/// (HTTP/2: GOAWAY). Connections that are still open after `drain_timeout` are aborted; returns their number.
///
/// A handler that panics only loses its own connection; the process's panic hook logs where it panicked.
pub async fn serve(
    listener: impl Into<Listeners>,
    tls: Option<Arc<Tls>>,
    routes: BoxedFilter<(Response,)>,
    limits: ConnectionLimits,
    counts: &Arc<ListenerConnections>,
    workers: &Workers,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let limits = Arc::new(limits);
    let mut acceptor = Acceptor::new(listener.into(), limits.clone(), counts.clone());
    let draining = Arc::new(DrainSignal::default());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(result) = connections.join_next() => log_connection_panic(&result),
            accepted = acceptor.accept() => {
                let connection =
                    serve_connection(accepted, tls.clone(), routes.clone(), limits.clone(), draining.clone());
                workers.spawn(&mut connections, connection);
            }
        }
    }
    drop(acceptor);
    draining.begin();
    let all_ended = async {
        while let Some(result) = connections.join_next().await {
            log_connection_panic(&result);
        }
    };
    if tokio::time::timeout(limits.drain_timeout, all_ended).await.is_ok() {
        return 0;
    }
    connections.abort_all();
    let mut aborted = 0;
    while let Some(result) = connections.join_next().await {
        log_connection_panic(&result);
        aborted += usize::from(result.is_err_and(|error| error.is_cancelled()));
    }
    aborted
}

/// Serves one connection to its end.
async fn serve_connection(
    accepted: AcceptedConnection,
    tls: Option<Arc<Tls>>,
    routes: BoxedFilter<(Response,)>,
    limits: Arc<ConnectionLimits>,
    draining: Arc<DrainSignal>,
) {
    let AcceptedConnection { stream, peer, open: _open, unauthenticated } = accepted;
    let is_tls = tls.is_some();
    let routes = TowerToHyperService::new(warp::service(routes));
    let connection_auth = Arc::new(ConnectionAuth::new(unauthenticated));
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let headers = std::mem::take(request.headers_mut());
        let head = RequestHeadParts {
            peer,
            is_tls,
            connection_auth: connection_auth.clone(),
            version: request.version(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers,
            has_body: !request.body().is_end_stream(),
            declared_body_bytes: request.body().size_hint().exact(),
        };
        request.extensions_mut().insert(RequestHead(Arc::new(head)));
        routes.call(request)
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
        None => serve_http1(stream, service, &limits, &draining).await,
        // Boxed so that connections without TLS don't reserve space for the larger future.
        Some(tls) => Box::pin(serve_tls(stream, &tls, service, &limits, &draining)).await,
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection failed");
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
    let handshake = tokio::time::timeout(limits.header_timeout, tls.accept(stream));
    let stream = tokio::select! {
        stream = handshake => stream??,
        () = draining.wait() => return Ok(()),
    };
    if tls::negotiated_http2(&stream) {
        return streams::serve_http2(stream, service, limits, draining).await.map_err(Into::into);
    }
    serve_http1(stream, service, limits, draining).await
}

async fn serve_http1<IO, S>(
    stream: IO,
    service: S,
    limits: &ConnectionLimits,
    draining: &DrainSignal,
) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<http::Request<Incoming>, Response = Response, Error = Infallible>,
{
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
        .header_read_timeout(limits.header_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        // Biased so that a request that has already arrived is answered before the drain begins.
        biased;
        result = connection.as_mut() => result,
        () = draining.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(Into::into)
}

fn log_connection_panic(result: &Result<(), JoinError>) {
    if result.as_ref().is_err_and(JoinError::is_panic) {
        tracing::error!("handler panicked; connection closed");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
