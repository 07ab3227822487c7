//! Who says nothing, asks for too much or takes nothing doesn't stay for ever.

use bytes::Bytes;
use h2::Reason;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tokio::task::JoinHandle;

use super::{ADMIN_KEY, H2, HTTP_1_1, Secured, read, request, soon};

/// Short, and room for one connection: whatever isn't cut keeps the next one out.
const SHORT: &[(&str, &str)] = &[
    ("TOLLHOUSE_HTTP__HEADER_TIMEOUT", "300ms"),
    ("TOLLHOUSE_HTTP__WRITE_TIMEOUT", "300ms"),
    ("TOLLHOUSE_HTTP__MAX_CONNECTIONS", "1"),
];

/// The first bytes of a client of HTTP/2 (RFC 9113 §3.4), with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Waits until the server closes; a reset is a close, too.
async fn closes(mut stream: impl AsyncReadExt + Unpin) {
    let _ = soon(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn who_says_nothing_is_cut() {
    let server = Secured::start(SHORT);
    closes(server.tcp().await).await;
    let mut half = server.tcp().await;
    half.write_all(&[22, 3, 1, 2, 0]).await.unwrap(); // A record of the handshake that never comes.
    closes(half).await;
    let mut plain = server.tcp().await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    closes(plain).await;
    closes(server.tls(HTTP_1_1).await).await;
    closes(server.tls(&[]).await).await;
    closes(server.tls(H2).await).await;
    let half_of_it = &PREFACE[..20];
    // The head of a request that goes on in a frame that never comes.
    let half_a_head = [PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
    for bytes in [half_of_it, PREFACE, &half_a_head] {
        let mut stream = server.tls(H2).await;
        stream.write_all(bytes).await.unwrap();
        closes(stream).await;
    }
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200);
}

#[tokio::test]
async fn an_idle_connection_of_http2_is_told_and_closed() {
    let server = Secured::start(SHORT);
    let idle = server.http2().await;
    assert_eq!(idle.get("/healthz").await.unwrap(), 200);
    // What the client didn't send yet it may send elsewhere.
    goodbye(idle.connection).await;
    let mut another = server.http2().await;
    assert_eq!(another.get("/healthz").await.unwrap(), 200);
    goodbye(another.connection).await;
    assert!(another.sender.send_request(request("GET", "/healthz"), true).is_err());
}

/// A body that takes its time, and a handler that waits for it, are not idle.
#[tokio::test]
async fn a_running_stream_may_take_longer_than_an_idle_connection() {
    let short = [SHORT, &[("TOLLHOUSE_HTTP__MAX_CONNECTIONS", "2")]].concat();
    let server = Secured::start(&short);
    let mut slow = server.http2().await;
    let (answer, mut body) = slow.sender.send_request(post("/v1/keys/verify"), false).unwrap();
    // Connected later and closed for its silence: so the time has passed for the first one, too.
    closes(server.tls(H2).await).await;
    closes(server.tls(H2).await).await;
    body.send_data(Bytes::from(format!("{{\"key\":\"{ADMIN_KEY}\"}}")), true).unwrap();
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = String::from_utf8(read(answer.into_body()).await.unwrap()).unwrap();
    assert!(answer.contains("VALID"), "{answer}");
}

/// Waits for the end of a connection, which is no fault: GOAWAY says so. A client that still answers it may find
/// the socket closed.
async fn goodbye(connection: JoinHandle<Result<(), h2::Error>>) {
    if let Err(error) = soon(connection).await.unwrap() {
        assert!(error.is_io() || error.reason() == Some(Reason::NO_ERROR), "{error}");
    }
}

fn post(path: &str) -> Request<()> {
    let mut request = request("POST", path);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    request
}

/// The client takes a little of one answer and nothing more, while others on its connection go on.
#[tokio::test]
async fn an_answer_that_nobody_takes_is_cut_alone() {
    let server = Secured::start(SHORT);
    let mut client = server.http2_with(h2::client::Builder::new().initial_window_size(20_000)).await;
    let (answer, _) = client.sender.send_request(request("GET", "/openapi.json"), true).unwrap();
    let mut deaf = soon(answer).await.unwrap().into_body();
    let mut heard = 0;
    let error = loop {
        tokio::select! {
            // Not one of these is ever let go, so the window stays shut.
            piece = deaf.data() => match piece.expect("it can't all be there") {
                Ok(piece) => heard += piece.len(),
                Err(error) => break error,
            },
            status = client.get("/healthz") => assert_eq!(status.unwrap(), 200),
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
    assert_eq!(heard, 20_000);
    assert_eq!(client.get("/healthz").await.unwrap(), 200, "the connection goes on");
    // Whoever takes it in small pieces gets all of it.
    let (answer, _) = client.sender.send_request(request("GET", "/openapi.json"), true).unwrap();
    let whole = read(soon(answer).await.unwrap().into_body()).await.unwrap();
    assert!(whole.len() > 100_000 && whole.ends_with(b"}"), "{}", whole.len());
}

/// The last piece is on its way already when the client stops to take: its connection ends with it.
#[tokio::test]
async fn the_end_of_an_answer_that_nobody_takes_holds_no_connection() {
    let server = Secured::start(SHORT);
    let mut client = server.http2_with(h2::client::Builder::new().initial_window_size(10)).await;
    let (answer, _) = client.sender.send_request(request("GET", "/admin/v1/whoami"), true).unwrap();
    let deaf = soon(answer).await.unwrap();
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200);
    drop(deaf);
}

#[tokio::test]
async fn many_requests_at_once_wait_and_are_answered() {
    let server = Secured::start(&[]);
    let client = server.http2().await;
    // With the first answer the client knows how many streams there may be, and keeps to it.
    assert_eq!(client.get("/healthz").await.unwrap(), 200);
    let all = (0..300).map(|_| client.get("/healthz"));
    for status in futures_util::future::join_all(all).await {
        assert_eq!(status.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let server = Secured::start(&[]);
    let mut client = server.http2().await;
    let with = |value: String| {
        let mut request = request("GET", "/healthz");
        request.headers_mut().insert("x-flood", value.parse().unwrap());
        request
    };
    let (answer, _) = client.sender.send_request(with("y".repeat(60 * 1024)), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
    let (answer, _) = client.sender.send_request(with("y".repeat(70 * 1024)), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 431);
    assert_eq!(server.http2().await.get("/healthz").await.unwrap(), 200);
}

/// Who opens streams only to reset them is sent away, or keeps nobody else from an answer.
#[tokio::test]
async fn i10_rapid_resets_cost_others_nothing() {
    let server = Secured::start(&[]);
    let client = server.http2().await;
    let mut sender = client.sender.clone();
    let mut opened = 0;
    while opened < 5_000 {
        let Ok(ready) = soon(sender.ready()).await else { break };
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
async fn i1_a_stop_lets_streams_finish_and_says_goodbye() {
    let mut server = Secured::start(&[]);
    let idle = server.http2().await;
    assert_eq!(idle.get("/healthz").await.unwrap(), 200);
    let mut running = server.http2().await;
    let (answer, mut body) = running.sender.send_request(post("/admin/v1/organizations"), false).unwrap();
    assert_eq!(running.get("/healthz").await.unwrap(), 200, "by now both have arrived");
    server.binary.signal("TERM");
    goodbye(idle.connection).await;
    let organization = r#"{"id":"org_late","name":"Late","email":"late@example.com"}"#;
    body.send_data(Bytes::from(organization), true).unwrap();
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(!read(answer.into_body()).await.unwrap().is_empty());
    goodbye(running.connection).await;
    assert_eq!(server.binary.wait(), Some(0));
}
