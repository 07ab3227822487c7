//! Tests of [`super`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::*;
use crate::http::conn::limits::MAX_HEAD_BYTES;
use crate::http::conn::request_head::RequestHead;

/// A timeout short enough for a test to wait for, and long enough not to expire because the machine is busy.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
const HUGE_BYTES: usize = 64 * 1024 * 1024;

/// Limits that no test reaches unless it overrides them.
const DEFAULT_LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 100,
    max_unauthenticated_per_address: 0,
    trusted_proxies: Vec::new(),
    header_timeout: LONG_TIMEOUT,
    write_timeout: LONG_TIMEOUT,
    drain_timeout: LONG_TIMEOUT,
};

/// State that a test shares with its routes.
struct TestState {
    /// One permit per call of `/gated` that has started.
    started: Semaphore,
    /// Lets one call of `/gated` respond.
    release: Semaphore,
}

struct TestServer {
    address: SocketAddr,
    max_connections: usize,
    counts: Arc<ListenerConnections>,
    state: Arc<TestState>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<usize>,
}

fn test_routes(state: &Arc<TestState>) -> BoxedFilter<(Response,)> {
    let hello = warp::path("hello").map(|| "hello".into_response());
    let huge = warp::path("huge").map(|| vec![b'x'; HUGE_BYTES].into_response());
    let peer = warp::path("peer")
        .and(warp::ext::get())
        .map(|head: RequestHead| head.peer.to_string().into_response());
    let panic = warp::path("panic").map(|| -> Response { panic!("on purpose") });
    let shared = Arc::clone(state);
    let gated = warp::path("gated").then(move || {
        let state = Arc::clone(&shared);
        async move {
            state.started.add_permits(1);
            state.release.acquire().await.unwrap().forget();
            "released".into_response()
        }
    });
    hello.or(huge).unify().or(peer).unify().or(panic).unify().or(gated).unify().boxed()
}

async fn start_server(limits: ConnectionLimits) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(TestState { started: Semaphore::new(0), release: Semaphore::new(0) });
    let routes = test_routes(&state);
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { stopped.await.unwrap_or_default() };
    let max_connections = limits.max_connections;
    let counts: Arc<ListenerConnections> = Arc::default();
    let listener_counts = counts.clone();
    let task = tokio::spawn(async move {
        serve(listener, None, routes, limits, &listener_counts, &Workers::start().unwrap(), shutdown).await
    });
    TestServer { address, max_connections, counts, state, stop, task }
}

/// Fails a test that would otherwise hang.
async fn with_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("timed out")
}

impl TestServer {
    /// Opens a connection, which the server accepts within `max_connections`.
    async fn connect(&self) -> TcpStream {
        with_deadline(async {
            while self.counts.open_count() >= self.max_connections {
                tokio::task::yield_now().await;
            }
            let accepted = self.counts.accepted_count();
            let stream = TcpStream::connect(self.address).await.unwrap();
            while self.counts.accepted_count() == accepted {
                tokio::task::yield_now().await;
            }
            stream
        })
        .await
    }

    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect().await;
        // A server that refuses the request may close the connection while it is still being sent.
        let _ = with_deadline(stream.write_all(bytes)).await;
        stream
    }

    /// Sends a GET request on a new connection and returns the whole response.
    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        read_to_end(self.send(request.as_bytes()).await).await
    }

    /// Waits until a call of `/gated` has started.
    async fn wait_for_gated_call(&self) {
        with_deadline(self.state.started.acquire()).await.unwrap().forget();
    }
}

fn get_request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes()
}

/// Reads everything that the server sends until the server closes or resets the connection.
async fn read_to_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = with_deadline(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).unwrap()
}

/// Reads up to the known end of a response and leaves the connection open.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(with_deadline(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_request_head_has_the_peer_address() {
    let server = start_server(DEFAULT_LIMITS).await;
    let mut stream = server.send(&get_request("/peer")).await;
    let address = stream.local_addr().unwrap().to_string();
    assert!(read_until(&mut stream, &address).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let server = start_server(DEFAULT_LIMITS).await;
    let mut stream = server.send(&get_request("/hello").repeat(3)).await;
    for _ in 0..3 {
        assert!(read_until(&mut stream, "\r\n\r\nhello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let server = start_server(ConnectionLimits { header_timeout: SHORT_TIMEOUT, ..DEFAULT_LIMITS }).await;
    assert_eq!(read_to_end(server.connect().await).await, "");
    let incomplete = read_to_end(server.send(b"GET /hello HTTP/1.1\r\nhost: a\r\nx-half").await).await;
    assert!(incomplete.is_empty() || incomplete.starts_with("HTTP/1.1 408"), "{incomplete}");
    let mut idle = server.send(&get_request("/hello")).await;
    read_until(&mut idle, "\r\n\r\nhello").await;
    assert_eq!(read_to_end(idle).await, "");
}

#[tokio::test]
async fn http2_without_tls_is_refused() {
    let server = start_server(DEFAULT_LIMITS).await;
    for preface in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
        let response = read_to_end(server.send(preface.as_bytes()).await).await;
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{response}");
    }
}

#[tokio::test]
async fn a_handler_may_take_longer_than_the_header_timeout() {
    let server = start_server(ConnectionLimits {
        header_timeout: SHORT_TIMEOUT,
        write_timeout: SHORT_TIMEOUT,
        ..DEFAULT_LIMITS
    })
    .await;
    let stream = server.send(b"GET /gated HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    server.wait_for_gated_call().await;
    // This connection is newer and was closed by the timeout, so the timeout has passed for the first
    // one too.
    assert_eq!(read_to_end(server.connect().await).await, "");
    server.state.release.add_permits(1);
    assert!(read_to_end(stream).await.ends_with("\r\n\r\nreleased"));
}

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected_and_frees_its_slot() {
    let server =
        start_server(ConnectionLimits { max_connections: 1, write_timeout: SHORT_TIMEOUT, ..DEFAULT_LIMITS })
            .await;
    let stalled = server.send(&get_request("/huge")).await;
    assert!(server.get("/hello").await.ends_with("hello"));
    assert!(read_to_end(stalled).await.len() < HUGE_BYTES);
}

#[tokio::test]
async fn oversized_request_heads_are_refused() {
    let server = start_server(ConnectionLimits { max_connections: 1, ..DEFAULT_LIMITS }).await;
    let with = |headers: String| format!("GET /hello HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    let oversized = [
        with("x: y\r\n".repeat(10_000)),
        with("x: y\r\n".repeat(100)),
        with(format!("x: {}\r\n", "y".repeat(1024 * 1024))),
        with(format!("x: {}\r\n", "y".repeat(MAX_HEAD_BYTES))),
        format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(1024 * 1024)),
        "y".repeat(1024 * 1024),
    ];
    for request in oversized {
        let response = read_to_end(server.send(request.as_bytes()).await).await;
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{response}");
    }
    for request in [with("x: y\r\n".repeat(99)), with(format!("x: {}\r\n", "y".repeat(60 * 1024)))] {
        assert!(read_to_end(server.send(request.as_bytes()).await).await.ends_with("hello"));
    }
}

#[tokio::test]
async fn i10_connections_above_max_connections_are_closed_at_once() {
    let server = start_server(ConnectionLimits { max_connections: 3, ..DEFAULT_LIMITS }).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(server.send(&get_request("/gated")).await);
        server.wait_for_gated_call().await;
    }
    for _ in 0..50 {
        let refused = with_deadline(TcpStream::connect(server.address)).await.unwrap();
        assert_eq!(read_to_end(refused).await, "");
    }
    assert_eq!(server.counts.refused_counts().collect::<Vec<_>>()[0], ("max_connections", 50));
    // The open connections are not affected, and make room when they end.
    // All are released at once, because they may have begun to wait in another order.
    server.state.release.add_permits(calls.len());
    for mut call in calls {
        read_until(&mut call, "\r\n\r\nreleased").await;
    }
    assert!(server.get("/hello").await.ends_with("hello"));
}

#[tokio::test]
async fn a_handler_panic_only_closes_its_own_connection() {
    let server = start_server(ConnectionLimits { max_connections: 1, ..DEFAULT_LIMITS }).await;
    for _ in 0..3 {
        assert_eq!(server.get("/panic").await, "");
    }
    assert!(server.get("/hello").await.ends_with("hello"));
    server.stop.send(()).unwrap();
    assert_eq!(with_deadline(server.task).await.unwrap(), 0);
}

#[tokio::test]
async fn a_server_drain_finishes_running_requests_and_closes_idle_connections() {
    let server = start_server(DEFAULT_LIMITS).await;
    let fresh = server.connect().await;
    let mut idle = server.send(&get_request("/hello")).await;
    read_until(&mut idle, "\r\n\r\nhello").await;
    let running = server.send(&get_request("/gated")).await;
    server.wait_for_gated_call().await;
    server.stop.send(()).unwrap();
    assert_eq!(read_to_end(idle).await, "");
    assert_eq!(read_to_end(fresh).await, "");
    let refused = with_deadline(TcpStream::connect(server.address)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    server.state.release.add_permits(1);
    let response = read_to_end(running).await;
    assert!(response.contains("connection: close\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nreleased"), "{response}");
    assert_eq!(with_deadline(server.task).await.unwrap(), 0);
}

#[tokio::test]
async fn a_server_drain_waits_for_responses_that_are_still_being_written() {
    let server = start_server(DEFAULT_LIMITS).await;
    let mut reader = server.send(&get_request("/huge")).await;
    read_until(&mut reader, "\r\n\r\n").await;
    server.stop.send(()).unwrap();
    assert_eq!(read_to_end(reader).await.len(), HUGE_BYTES);
    assert_eq!(with_deadline(server.task).await.unwrap(), 0);
}

#[tokio::test]
async fn connections_that_outlast_the_drain_are_aborted_and_counted() {
    let server = start_server(ConnectionLimits { drain_timeout: SHORT_TIMEOUT, ..DEFAULT_LIMITS }).await;
    let first = server.send(&get_request("/gated")).await;
    let second = server.send(&get_request("/gated")).await;
    server.wait_for_gated_call().await;
    server.wait_for_gated_call().await;
    server.stop.send(()).unwrap();
    assert_eq!(with_deadline(server.task).await.unwrap(), 2);
    for aborted in [first, second] {
        assert_eq!(read_to_end(aborted).await, "");
    }
}

#[tokio::test]
async fn an_incomplete_request_head_does_not_outlast_the_drain() {
    let server = start_server(ConnectionLimits { drain_timeout: SHORT_TIMEOUT, ..DEFAULT_LIMITS }).await;
    let incomplete = server.send(b"GET /hello HTTP/1.1\r\nhost: a\r\nx-half").await;
    // This request came later and was served, so the incomplete one was accepted too. The test can't
    // know whether its bytes were read: the connection is aborted if they were, otherwise closed as
    // idle.
    assert!(server.get("/hello").await.ends_with("hello"));
    server.stop.send(()).unwrap();
    assert!(with_deadline(server.task).await.unwrap() <= 1);
    assert_eq!(read_to_end(incomplete).await, "");
}
