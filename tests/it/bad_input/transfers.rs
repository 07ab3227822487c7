//! The transfer of bodies: too large, too slow, incomplete, and with `Expect: 100-continue`.

use std::time::Duration;

use super::{Connection, MIB, assert_refused, max_body, path, routes, server, state};
use crate::support::{Server, head};

/// Builds valid JSON of this length in bytes. No route accepts its `name`.
fn json_of_length(length: usize) -> Vec<u8> {
    let before = "{\"name\":\"";
    let after = "\"}";
    format!("{before}{}{after}", "x".repeat(length - before.len() - after.len())).into_bytes()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let chunks = body
        .chunks(10_000)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    chunks.chain(*b"0\r\n\r\n").collect()
}

/// The server reads and discards the rest of a refused body, so that a client that reads the response only
/// after sending everything receives it.
#[tokio::test]
async fn a_too_large_body_is_refused_and_the_client_receives_the_error() {
    let server = server().await;
    let before = state(&server).await;
    let json = "content-type: application/json";
    for route in routes() {
        let line = format!("{} {}", route.method, path(route));
        let max_body = max_body(route);
        for (length, status, code) in [
            (max_body, 400, "INVALID_REQUEST"),
            (max_body + 1, 413, "PAYLOAD_TOO_LARGE"),
            (2 * MIB, 413, "PAYLOAD_TOO_LARGE"),
        ] {
            let body = json_of_length(length);
            let mut connection = Connection::open(&server).await;
            assert_refused(&connection.send_json(route, &body).await, status, code, route.path);
            connection
                .raw
                .send(&[head(&line, &[json, "transfer-encoding: chunked"]), chunked(&body)].concat())
                .await;
            assert_refused(&connection.raw.answer().await.unwrap(), status, code, route.path);
            // The connection can still be used.
            assert_refused(&connection.send_json(route, b"[]").await, 400, "INVALID_REQUEST", route.path);
        }
        for (header, code) in [("", "UNAUTHENTICATED"), ("authorization: Bearer x\r\n", "INVALID_API_KEY")] {
            let mut raw = server.raw().await;
            let head = format!("{line} HTTP/1.1\r\nhost: a\r\n{header}content-length: {}\r\n\r\n", 2 * MIB);
            raw.send(&[head.into_bytes(), json_of_length(2 * MIB)].concat()).await;
            assert_refused(&raw.answer().await.unwrap(), 401, code, route.path);
        }
    }
    // A body of any size is drained and ignored where the route reads none, and on unknown paths.
    let mut connection = Connection::open(&server).await;
    for (line, status) in
        [("GET /admin/v1/whoami", 200), ("GET /healthz", 200), ("POST /nowhere", 404), ("POST /healthz", 405)]
    {
        let length = format!("content-length: {}", 2 * MIB);
        connection.raw.send(&[head(line, &[&length]), json_of_length(2 * MIB)].concat()).await;
        assert_eq!(connection.raw.answer().await.unwrap().status, status, "{line}");
    }
    drop(connection);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// RFC 9110 §10.1.1: `Expect: 100-continue` is answered with 100.
#[tokio::test]
async fn expect_100_continue_is_answered() {
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

/// A request whose client disconnects in the middle of the body is not executed.
#[tokio::test]
async fn an_incomplete_body_changes_nothing() {
    let server = server().await;
    let before = state(&server).await;
    for route in routes() {
        let headers = ["content-type: application/json", "content-length: 1000"];
        let half =
            [head(&format!("{} {}", route.method, path(route)), &headers), json_of_length(500)].concat();
        for _ in 0..3 {
            let mut raw = server.raw().await;
            raw.send(&half).await;
        }
    }
    server.assert_all_slots_are_free().await;
    assert_eq!(state(&server).await, before);
}

/// The body timeout frees the slot of a connection whose body never completes.
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
