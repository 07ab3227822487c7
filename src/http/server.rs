//! The accept loop: how many connections, for how long, and how they end.
//!
//! warp's own loop has no timeouts and no end to its graceful stop. This one speaks HTTP/1.1 in the clear, and
//! over TLS what both sides agree on there. hyper's `auto` builder is left alone: it waits without limit for a
//! first byte that tells HTTP/1 from HTTP/2.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Uri};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_io_timeout::TimeoutWriter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::connection_auth::ConnectionAuthCache;
use super::streams;
use super::timer::ConnectionTimer;
use super::tls::{self, Tls};
use super::workers::Workers;

/// The longest head (request line and headers) in bytes, and what a connection buffers. How many headers
/// there may be is left at hyper's 100, the one number that needs no allocation for each request. More of
/// either is a 431.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The pause after a failed accept. Such failures (no descriptors left, mostly) last until some other
/// connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a connection ended, for the log.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a connection may use of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections are served at once (at least 1). More wait in the kernel's backlog.
    pub max_connections: usize,
    /// From the first moment, or the end of an answer, to the end of the next request's head: so this is
    /// also how long an idle connection is kept. With TLS the handshake has as long for itself.
    pub header_timeout: Duration,
    /// How long a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// How long running requests may go on after the shutdown began.
    pub drain_timeout: Duration,
}

/// The head of a request, in its extensions: moved there whole, so that no filter clones it piece by
/// piece. The request that warp sees keeps its method and URI, and has no headers.
#[derive(Clone, Debug)]
pub(crate) struct Head(Arc<HeadParts>);

/// What a request begins with, and who sent it.
#[derive(Debug)]
pub(crate) struct HeadParts {
    /// The other end of the connection. It may be a proxy, and an IPv4 address may be written as IPv6:
    /// see [`client_address`](super::address::client_address).
    pub(crate) peer: SocketAddr,
    /// Who asked last over this connection: mostly that is who asks again.
    pub(crate) auth_cache: Arc<ConnectionAuthCache>,
    /// The method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) uri: Uri,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// Does a body follow? HTTP/2 needs no header to say so.
    pub(crate) has_body: bool,
}

impl Deref for Head {
    type Target = HeadParts;

    fn deref(&self) -> &HeadParts {
        &self.0
    }
}

/// Whether the server is going. Each connection asks whenever it is woken, so asking takes no lock that all of
/// them share.
#[derive(Default)]
pub(super) struct Drain {
    begun: AtomicBool,
    told: Notify,
}

impl Drain {
    fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Ends when the drain begins.
    pub(super) async fn noticed(&self) {
        let mut told = pin!(self.told.notified());
        let mut listening = false;
        poll_fn(|context| {
            // Once is enough: whichever of its wakers is told, it is this task that wakes.
            if !listening && told.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            listening = true;
            // Asked after it listens, so that a drain which begins in between is not missed.
            if self.has_begun() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Serves on the workers, with TLS or in the clear, until `shutdown` resolves, then drains: new connections are
/// refused, idle ones closed, running requests finish and say `Connection: close` (HTTP/2: GOAWAY). What is
/// left after `drain_timeout` is cut; returns how many connections that were.
///
/// A handler that panics loses its connection and nothing else; where it did is logged by the process's
/// panic hook.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    routes: BoxedFilter<(Response,)>,
    limits: &Limits,
    workers: &Workers,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let slots = Arc::new(Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let draining = Arc::new(Drain::default());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(&ended),
            (stream, peer, slot) = accept(&listener, &slots) => {
                let (tls, routes) = (tls.clone(), routes.clone());
                let connection = serve_connection(stream, peer, tls, routes, *limits, draining.clone());
                workers.spawn(&mut connections, async move {
                    connection.await;
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    draining.begin();
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report(&ended);
        }
    };
    if tokio::time::timeout(limits.drain_timeout, all_ended).await.is_ok() {
        return 0;
    }
    connections.abort_all();
    let mut cut = 0;
    while let Some(ended) = connections.join_next().await {
        report(&ended);
        cut += usize::from(ended.is_err_and(|error| error.is_cancelled()));
    }
    cut
}

/// The next connection and its slot. The slot comes first, so that what has none isn't accepted.
///
/// May be dropped and called again at any point without losing a connection.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (std::net::TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
        return std::future::pending().await; // Nobody closes the semaphore.
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match stream.into_std() {
                Ok(stream) => return (stream, peer, slot),
                Err(error) => tracing::warn!(%error, "can't hand a connection over"),
            },
            Err(error) if is_the_peers_fault(&error) => tracing::debug!(%error, "a connection was gone"),
            Err(error) => {
                tracing::warn!(%error, "can't accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Did the peer leave between its handshake and our accept? Then the next one is worth a try at once.
fn is_the_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection to its end.
async fn serve_connection(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    routes: BoxedFilter<(Response,)>,
    limits: Limits,
    draining: Arc<Drain>,
) {
    let routes = TowerToHyperService::new(warp::service(routes));
    let auth_cache = Arc::new(ConnectionAuthCache::default());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let headers = std::mem::take(request.headers_mut());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let has_body = !request.body().is_end_stream();
        let head = HeadParts { peer, auth_cache: auth_cache.clone(), method, uri, headers, has_body };
        request.extensions_mut().insert(Head(Arc::new(head)));
        routes.call(request)
    });
    // From here on it belongs to this thread's runtime. It fails only when there is no memory for it.
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // Answers are written whole; waiting to fill a packet would only delay them. It fails when the peer
    // is gone, which the first read finds out as well.
    let _ = stream.set_nodelay(true);
    // Of writes alone: hyper also reads while a handler works, when a silent client is in the right.
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_timeout));
    let stream = Box::pin(stream);
    let ended = match tls {
        None => serve_http1(stream, service, &limits, &draining).await,
        // In a box: connections in the clear need not carry the room.
        Some(tls) => Box::pin(serve_tls(stream, &tls, service, &limits, &draining)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

/// Shakes hands first, and then speaks what came of it.
async fn serve_tls<IO, S>(
    stream: IO,
    tls: &Tls,
    service: S,
    limits: &Limits,
    draining: &Drain,
) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
    S: Service<http::Request<Incoming>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    let greeted = tokio::time::timeout(limits.header_timeout, tls.accept(stream));
    let stream = tokio::select! {
        greeted = greeted => greeted??,
        () = draining.noticed() => return Ok(()),
    };
    if tls::speaks_http2(&stream) {
        return streams::serve(stream, service, limits, draining).await.map_err(Into::into);
    }
    serve_http1(stream, service, limits, draining).await
}

async fn serve_http1<IO, S>(stream: IO, service: S, limits: &Limits, draining: &Drain) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<http::Request<Incoming>, Response = Response, Error = Infallible>,
{
    let service = service_fn(|request| {
        let answer = service.call(request);
        async {
            let mut answer = answer.await?;
            // Said here, because the drain may be noticed only after this answer.
            if draining.has_begun() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(ConnectionTimer::default())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // In this order a request that has arrived is answered before the drain is noticed.
        biased;
        ended = connection.as_mut() => ended,
        () = draining.noticed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(Into::into)
}

fn report(ended: &Result<(), JoinError>) {
    if ended.as_ref().is_err_and(JoinError::is_panic) {
        tracing::error!("a handler panicked; its connection is closed");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
