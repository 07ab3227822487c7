//! Tests of [`super`].

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use warp::{Filter, Reply};

use super::*;

/// Runs out while a test waits for it, and not while a busy machine lets the test itself wait.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(60);
const HUGE: usize = 64 * 1024 * 1024;

/// Nothing runs out unless the test shortens it.
const PATIENT: Limits =
    Limits { max_connections: 100, header_timeout: LONG, write_timeout: LONG, drain_timeout: LONG };

/// What the test's routes and the test tell each other.
struct Stage {
    /// A permit for each call of `/gated` that has begun.
    begun: Semaphore,
    /// Lets one call of `/gated` answer.
    release: Notify,
    running: AtomicUsize,
    max_running: AtomicUsize,
}

struct Server {
    address: SocketAddr,
    stage: Arc<Stage>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<usize>,
}

fn routes(stage: &Arc<Stage>) -> BoxedFilter<(Response,)> {
    let hello = warp::path("hello").map(|| "hello".into_response());
    let huge = warp::path("huge").map(|| vec![b'x'; HUGE].into_response());
    let peer =
        warp::path("peer").and(warp::ext::get()).map(|head: Head| head.peer.to_string().into_response());
    let panic = warp::path("panic").map(|| -> Response { panic!("on purpose") });
    let on_stage = Arc::clone(stage);
    let gated = warp::path("gated").then(move || {
        let stage = Arc::clone(&on_stage);
        async move {
            stage.begun.add_permits(1);
            stage.release.notified().await;
            "released".into_response()
        }
    });
    let on_stage = Arc::clone(stage);
    let counted = warp::path("counted").then(move || {
        let stage = Arc::clone(&on_stage);
        async move {
            let running = stage.running.fetch_add(1, Ordering::SeqCst) + 1;
            stage.max_running.fetch_max(running, Ordering::SeqCst);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            stage.running.fetch_sub(1, Ordering::SeqCst);
            "counted".into_response()
        }
    });
    hello.or(huge).unify().or(peer).unify().or(panic).unify().or(gated).unify().or(counted).unify().boxed()
}

async fn start(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stage = Arc::new(Stage {
        begun: Semaphore::new(0),
        release: Notify::new(),
        running: AtomicUsize::new(0),
        max_running: AtomicUsize::new(0),
    });
    let routes = routes(&stage);
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { stopped.await.unwrap_or_default() };
    let task = tokio::spawn(async move {
        serve(listener, None, routes, &limits, &Workers::start().unwrap(), shutdown).await
    });
    Server { address, stage, stop, task }
}

/// A test that would hang fails instead.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should have happened by now")
}

impl Server {
    async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.address)).await.unwrap()
    }

    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect().await;
        // A server that has heard enough may close while we still talk.
        let _ = soon(stream.write_all(bytes)).await;
        stream
    }

    /// The whole answer to a request on a connection of its own.
    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        rest(self.send(request.as_bytes()).await).await
    }

    /// Waits until a call of `/gated` has begun.
    async fn begun(&self) {
        soon(self.stage.begun.acquire()).await.unwrap().forget();
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes()
}

/// What comes until the server closes; a reset is a close, too.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).unwrap()
}

/// Reads an answer up to its known end and leaves the connection open.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn requests_know_their_peer() {
    let server = start(PATIENT).await;
    let mut stream = server.send(&request("/peer")).await;
    let own = stream.local_addr().unwrap().to_string();
    assert!(read_until(&mut stream, &own).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let server = start(PATIENT).await;
    let mut stream = server.send(&request("/hello").repeat(3)).await;
    for _ in 0..3 {
        assert!(read_until(&mut stream, "\r\n\r\nhello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn the_silent_and_the_slow_are_closed() {
    let server = start(Limits { header_timeout: SHORT, ..PATIENT }).await;
    assert_eq!(rest(server.connect().await).await, "");
    let half = rest(server.send(b"GET /hello HTTP/1.1\r\nhost: a\r\nx-half").await).await;
    assert!(half.is_empty() || half.starts_with("HTTP/1.1 408"), "{half}");
    let mut idle = server.send(&request("/hello")).await;
    read_until(&mut idle, "\r\n\r\nhello").await;
    assert_eq!(rest(idle).await, "");
}

#[tokio::test]
async fn http2_in_the_clear_is_refused() {
    let server = start(PATIENT).await;
    for preface in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
        let answer = rest(server.send(preface.as_bytes()).await).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[tokio::test]
async fn a_handler_may_take_longer_than_the_header_timeout() {
    let server = start(Limits { header_timeout: SHORT, write_timeout: SHORT, ..PATIENT }).await;
    let stream = server.send(b"GET /gated HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    server.begun().await;
    // Connected later and closed for its silence: so the timeout has passed for the first one, too.
    assert_eq!(rest(server.connect().await).await, "");
    server.stage.release.notify_one();
    assert!(rest(stream).await.ends_with("\r\n\r\nreleased"));
}

#[tokio::test]
async fn who_never_reads_is_cut_and_frees_the_slot() {
    let server = start(Limits { max_connections: 1, write_timeout: SHORT, ..PATIENT }).await;
    let deaf = server.send(&request("/huge")).await;
    assert!(server.get("/hello").await.ends_with("hello"));
    assert!(rest(deaf).await.len() < HUGE);
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let server = start(Limits { max_connections: 1, ..PATIENT }).await;
    let with = |headers: String| format!("GET /hello HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    let floods = [
        with("x: y\r\n".repeat(10_000)),
        with("x: y\r\n".repeat(100)),
        with(format!("x: {}\r\n", "y".repeat(1024 * 1024))),
        with(format!("x: {}\r\n", "y".repeat(MAX_HEAD_BYTES))),
        format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(1024 * 1024)),
        "y".repeat(1024 * 1024),
    ];
    for flood in floods {
        let answer = rest(server.send(flood.as_bytes()).await).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for fair in [with("x: y\r\n".repeat(99)), with(format!("x: {}\r\n", "y".repeat(60 * 1024)))] {
        assert!(rest(server.send(fair.as_bytes()).await).await.ends_with("hello"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_more_connections_than_the_cap_wait_and_are_served() {
    let server = Arc::new(start(Limits { max_connections: 3, ..PATIENT }).await);
    let call = |_| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.get("/counted").await })
    };
    let calls: Vec<_> = (0..50).map(call).collect();
    for call in calls {
        assert!(call.await.unwrap().ends_with("counted"));
    }
    let max = server.stage.max_running.load(Ordering::SeqCst);
    assert!((1..=3).contains(&max), "{max} at once");
}

#[tokio::test]
async fn a_panic_costs_its_own_connection_only() {
    let server = start(Limits { max_connections: 1, ..PATIENT }).await;
    for _ in 0..3 {
        assert_eq!(server.get("/panic").await, "");
    }
    assert!(server.get("/hello").await.ends_with("hello"));
    server.stop.send(()).unwrap();
    assert_eq!(soon(server.task).await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_closes_what_idles() {
    let server = start(PATIENT).await;
    let fresh = server.connect().await;
    let mut idle = server.send(&request("/hello")).await;
    read_until(&mut idle, "\r\n\r\nhello").await;
    let running = server.send(&request("/gated")).await;
    server.begun().await;
    server.stop.send(()).unwrap();
    assert_eq!(rest(idle).await, "");
    assert_eq!(rest(fresh).await, "");
    let refused = soon(TcpStream::connect(server.address)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    server.stage.release.notify_one();
    let answer = rest(running).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nreleased"), "{answer}");
    assert_eq!(soon(server.task).await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_reaches_answers_that_are_still_being_written() {
    let server = start(PATIENT).await;
    let mut reader = server.send(&request("/huge")).await;
    read_until(&mut reader, "\r\n\r\n").await;
    server.stop.send(()).unwrap();
    assert_eq!(rest(reader).await.len(), HUGE);
    assert_eq!(soon(server.task).await.unwrap(), 0);
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut_and_counted() {
    let server = start(Limits { drain_timeout: SHORT, ..PATIENT }).await;
    let (first, second) = (server.send(&request("/gated")).await, server.send(&request("/gated")).await);
    server.begun().await;
    server.begun().await;
    server.stop.send(()).unwrap();
    assert_eq!(soon(server.task).await.unwrap(), 2);
    for cut in [first, second] {
        assert_eq!(rest(cut).await, "");
    }
}

#[tokio::test]
async fn a_head_that_never_ends_does_not_outlast_the_drain() {
    let server = start(Limits { drain_timeout: SHORT, ..PATIENT }).await;
    let half = server.send(b"GET /hello HTTP/1.1\r\nhost: a\r\nx-half").await;
    // It came later and was served, so the half one was accepted, too. Whether its bytes were read can't be
    // known from here: it is cut if they were, and otherwise closed as one that is silent.
    assert!(server.get("/hello").await.ends_with("hello"));
    server.stop.send(()).unwrap();
    assert!(soon(server.task).await.unwrap() <= 1);
    assert_eq!(rest(half).await, "");
}

#[test]
fn only_a_lost_peer_is_worth_an_immediate_retry() {
    assert!(is_the_peers_fault(&io::ErrorKind::ConnectionAborted.into()));
    const EMFILE: i32 = 24;
    assert!(!is_the_peers_fault(&io::Error::from_raw_os_error(EMFILE)));
}
