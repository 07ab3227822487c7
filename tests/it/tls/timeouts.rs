//! Idle clients, stalled readers and excessive requests can't hold a connection forever.

use bytes::Bytes;
use h2::Reason;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tokio::task::JoinHandle;

use super::{ADMIN_KEY, H2, HTTP_1_1, TlsServer, read_body, request, within_deadline};

/// Short timeouts and a limit of one connection: a connection that isn't closed blocks the next one.
const SHORT_TIMEOUTS: &[(&str, &str)] = &[
    ("TOLLHOUSE_HTTP__HEADER_TIMEOUT", "300ms"),
    ("TOLLHOUSE_HTTP__WRITE_TIMEOUT", "300ms"),
    ("TOLLHOUSE_HTTP__MAX_CONNECTIONS", "1"),
];

/// The HTTP/2 client connection preface (RFC 9113 §3.4) with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Waits until the server closes the connection; a reset counts as a close.
async fn wait_for_close(mut stream: impl AsyncReadExt + Unpin) {
    let _ = within_deadline(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server = TlsServer::start(SHORT_TIMEOUTS);
    wait_for_close(server.tcp().await).await;
    let mut partial = server.tcp().await;
    partial.write_all(&[22, 3, 1, 2, 0]).await.unwrap(); // The header of a handshake record that never follows.
    wait_for_close(partial).await;
    let mut plain = server.tcp().await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    wait_for_close(plain).await;
    wait_for_close(server.tls(HTTP_1_1).await).await;
    wait_for_close(server.tls(&[]).await).await;
    wait_for_close(server.tls(H2).await).await;
    let partial_preface = &PREFACE[..20];
    // A HEADERS frame whose CONTINUATION frame never follows.
    let partial_headers = [PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
    for bytes in [partial_preface, PREFACE, &partial_headers] {
        let mut stream = server.tls(H2).await;
        stream.write_all(bytes).await.unwrap();
        wait_for_close(stream).await;
    }
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200);
}

#[tokio::test]
async fn an_idle_http2_connection_gets_goaway_and_is_closed() {
    let server = TlsServer::start(SHORT_TIMEOUTS);
    let idle = server.http2().await;
    assert_eq!(idle.get("/healthz").await.unwrap(), 200);
    // GOAWAY tells the client that it may send further requests on another connection.
    wait_for_goaway(idle.connection).await;
    let mut another = server.http2().await;
    assert_eq!(another.get("/healthz").await.unwrap(), 200);
    wait_for_goaway(another.connection).await;
    assert!(another.sender.send_request(request("GET", "/healthz"), true).is_err());
}

/// A connection with a slow request body, for which a handler waits, is not idle.
#[tokio::test]
async fn a_running_stream_may_take_longer_than_an_idle_connection() {
    let settings = [SHORT_TIMEOUTS, &[("TOLLHOUSE_HTTP__MAX_CONNECTIONS", "2")]].concat();
    let server = TlsServer::start(&settings);
    let mut slow = server.http2().await;
    let (answer, mut body) = slow.sender.send_request(post("/v1/keys/verify"), false).unwrap();
    // These connections open later and are closed as idle, so the idle timeout has passed for the first one too.
    wait_for_close(server.tls(H2).await).await;
    wait_for_close(server.tls(H2).await).await;
    body.send_data(Bytes::from(format!("{{\"key\":\"{ADMIN_KEY}\"}}")), true).unwrap();
    let answer = within_deadline(answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = String::from_utf8(read_body(answer.into_body()).await.unwrap()).unwrap();
    assert!(answer.contains("VALID"), "{answer}");
}

/// Waits until the server ends the connection, which must be with a GOAWAY that reports no error. A client that
/// still answers the GOAWAY may find the socket closed.
async fn wait_for_goaway(connection: JoinHandle<Result<(), h2::Error>>) {
    if let Err(error) = within_deadline(connection).await.unwrap() {
        assert!(error.is_io() || error.reason() == Some(Reason::NO_ERROR), "{error}");
    }
}

fn post(path: &str) -> Request<()> {
    let mut request = request("POST", path);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    request
}

/// The client stops reading one answer while other streams on its connection continue: only that stream is reset.
#[tokio::test]
async fn a_stalled_answer_is_reset_without_closing_the_connection() {
    let server = TlsServer::start(SHORT_TIMEOUTS);
    let mut client = server.http2_with(h2::client::Builder::new().initial_window_size(20_000)).await;
    let (answer, _) = client.sender.send_request(request("GET", "/openapi.json"), true).unwrap();
    let mut stalled = within_deadline(answer).await.unwrap().into_body();
    let mut received = 0;
    let error = loop {
        tokio::select! {
            // Capacity is never released, so the flow-control window stays exhausted.
            chunk = stalled.data() => match chunk.expect("the answer exceeds the window") {
                Ok(chunk) => received += chunk.len(),
                Err(error) => break error,
            },
            status = client.get("/healthz") => assert_eq!(status.unwrap(), 200),
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
    assert_eq!(received, 20_000);
    assert_eq!(client.get("/healthz").await.unwrap(), 200, "the connection stays open");
    // A client that releases capacity gets the whole answer.
    let (answer, _) = client.sender.send_request(request("GET", "/openapi.json"), true).unwrap();
    let body = read_body(within_deadline(answer).await.unwrap().into_body()).await.unwrap();
    assert!(body.len() > 100_000 && body.ends_with(b"}"), "{}", body.len());
}

/// The server has queued the last chunk of an answer when the client stops reading: the connection is closed.
#[tokio::test]
async fn the_stalled_end_of_an_answer_holds_no_connection() {
    let server = TlsServer::start(SHORT_TIMEOUTS);
    let mut client = server.http2_with(h2::client::Builder::new().initial_window_size(10)).await;
    let (answer, _) = client.sender.send_request(request("GET", "/admin/v1/whoami"), true).unwrap();
    let stalled = within_deadline(answer).await.unwrap();
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200);
    drop(stalled);
}

#[tokio::test]
async fn concurrent_requests_above_the_stream_limit_wait_and_are_answered() {
    let server = TlsServer::start(&[]);
    let client = server.http2().await;
    // After the first answer the client knows the server's stream limit and obeys it.
    assert_eq!(client.get("/healthz").await.unwrap(), 200);
    let requests = (0..300).map(|_| client.get("/healthz"));
    for status in futures_util::future::join_all(requests).await {
        assert_eq!(status.unwrap(), 200);
    }
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let server = TlsServer::start(&[]);
    let mut client = server.http2().await;
    let request_with_header = |value: String| {
        let mut request = request("GET", "/healthz");
        request.headers_mut().insert("x-flood", value.parse().unwrap());
        request
    };
    let (answer, _) = client.sender.send_request(request_with_header("y".repeat(60 * 1024)), true).unwrap();
    assert_eq!(within_deadline(answer).await.unwrap().status(), 200);
    let (answer, _) = client.sender.send_request(request_with_header("y".repeat(70 * 1024)), true).unwrap();
    assert_eq!(within_deadline(answer).await.unwrap().status(), 431);
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200);
}

/// A client that opens streams only to reset them is disconnected, or at least delays no other client.
#[tokio::test]
async fn i10_rapid_resets_cost_others_nothing() {
    let server = TlsServer::start(&[]);
    let client = server.http2().await;
    let mut sender = client.sender.clone();
    let mut opened = 0;
    while opened < 5_000 {
        let Ok(ready) = within_deadline(sender.ready()).await else { break };
        sender = ready;
        let Ok((answer, mut stream)) = sender.send_request(request("GET", "/healthz"), true) else { break };
        stream.send_reset(Reason::CANCEL);
        drop(answer);
        opened += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200, "after {opened}");
}

#[tokio::test]
async fn i1_a_graceful_shutdown_lets_streams_finish_and_sends_goaway() {
    let mut server = TlsServer::start(&[]);
    let idle = server.http2().await;
    assert_eq!(idle.get("/healthz").await.unwrap(), 200);
    let mut running = server.http2().await;
    let (answer, mut body) = running.sender.send_request(post("/admin/v1/organizations"), false).unwrap();
    assert_eq!(running.get("/healthz").await.unwrap(), 200, "the server has received the request above");
    server.binary.signal("TERM");
    wait_for_goaway(idle.connection).await;
    let organization = r#"{"id":"org_late","name":"Late","email":"late@example.com"}"#;
    body.send_data(Bytes::from(organization), true).unwrap();
    let answer = within_deadline(answer).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(!read_body(answer.into_body()).await.unwrap().is_empty());
    wait_for_goaway(running.connection).await;
    assert_eq!(server.binary.wait(), Some(0));
}
