//! How a body comes: too large, too slow, halfway, asked for first.

use std::time::Duration;

use super::{Caller, MIB, assert_refused, path, routes, server, state};
use crate::support::{Server, head};

/// Of a body, as shipped.
const MAX: usize = MIB;

/// Valid JSON of so many bytes, which no route takes.
fn of_length(length: usize) -> Vec<u8> {
    let (before, after) = ("{\"name\":\"", "\"}");
    format!("{before}{}{after}", "x".repeat(length - before.len() - after.len())).into_bytes()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let chunks = body
        .chunks(10_000)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    chunks.chain(*b"0\r\n\r\n").collect()
}

/// Who is refused while it still sends hears why: it reads only when all is sent.
#[tokio::test]
async fn what_is_too_large_is_refused_and_who_sends_it_hears_why() {
    let server = server().await;
    let before = state(&server).await;
    let json = "content-type: application/json";
    for route in routes() {
        let line = format!("{} {}", route.method, path(route));
        for (length, status, code) in [
            (MAX, 400, "INVALID_REQUEST"),
            (MAX + 1, 413, "PAYLOAD_TOO_LARGE"),
            (2 * MIB, 413, "PAYLOAD_TOO_LARGE"),
        ] {
            let body = of_length(length);
            let mut caller = Caller::to(&server).await;
            assert_refused(&caller.send_json(route, &body).await, status, code, route.path);
            caller
                .raw
                .send(&[head(&line, &[json, "transfer-encoding: chunked"]), chunked(&body)].concat())
                .await;
            assert_refused(&caller.raw.answer().await.unwrap(), status, code, route.path);
            // The connection is none the worse.
            assert_refused(&caller.send_json(route, b"[]").await, 400, "INVALID_REQUEST", route.path);
        }
        for (header, code) in [("", "UNAUTHENTICATED"), ("authorization: Bearer x\r\n", "INVALID_API_KEY")] {
            let mut raw = server.raw().await;
            let head = format!("{line} HTTP/1.1\r\n{header}content-length: {}\r\n\r\n", 2 * MIB);
            raw.send(&[head.into_bytes(), of_length(2 * MIB)].concat()).await;
            assert_refused(&raw.answer().await.unwrap(), 401, code, route.path);
        }
    }
    // A body where none belongs is read away, too large or not; an unknown path's as well.
    let mut caller = Caller::to(&server).await;
    for (line, status) in
        [("GET /admin/v1/whoami", 200), ("GET /healthz", 200), ("POST /nowhere", 404), ("POST /healthz", 405)]
    {
        let length = format!("content-length: {}", 2 * MIB);
        caller.raw.send(&[head(line, &[&length]), of_length(2 * MIB)].concat()).await;
        assert_eq!(caller.raw.answer().await.unwrap().status, status, "{line}");
    }
    drop(caller);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// RFC 9110 §10.1.1: who asks first is told to go on, or why not.
#[tokio::test]
async fn who_asks_before_sending_is_answered() {
    let server = server().await;
    let body = br#"{"id":"org_asked","name":"n","email":"a@b.c"}"#;
    let length = format!("content-length: {}", body.len());
    let headers = ["content-type: application/json", "expect: 100-continue", &length];
    let mut raw = server.raw().await;
    raw.send(&head("POST /admin/v1/organizations", &headers)).await;
    assert_eq!(raw.answer().await.unwrap().status, 100);
    raw.send(body).await;
    assert_eq!(raw.answer().await.unwrap().status, 201);
}

/// A client that breaks off in the middle of its body has asked for nothing.
#[tokio::test]
async fn half_a_body_makes_nothing() {
    let server = server().await;
    let before = state(&server).await;
    for route in routes() {
        let headers = ["content-type: application/json", "content-length: 1000"];
        let half = [head(&format!("{} {}", route.method, path(route)), &headers), of_length(500)].concat();
        for _ in 0..3 {
            let mut raw = server.raw().await;
            raw.send(&half).await;
        }
    }
    server.assert_all_slots_are_free().await;
    assert_eq!(state(&server).await, before);
}

/// Drips that keep the connection busy don't keep it for ever.
#[tokio::test]
async fn a_body_that_never_ends_frees_its_slot() {
    let server = Server::with(|config| {
        config.http.max_connections = 1;
        config.http.body_timeout = Duration::from_millis(500);
    })
    .await;
    for route in routes().take(3) {
        let headers = ["content-type: application/json", "content-length: 1000"];
        let mut raw = server.raw().await;
        raw.send(&head(&format!("{} {}", route.method, path(route)), &headers)).await;
        let answers = raw.answers().await;
        assert!(answers.iter().all(|answer| answer.status == 400), "{answers:?}");
        server.assert_all_slots_are_free().await;
    }
}
