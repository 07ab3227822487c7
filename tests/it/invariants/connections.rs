//! A client without a key can't keep others from connecting.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tollhouse::config::Config;

use crate::support::{ADMIN_KEY, DEADLINE, Raw, Server, head};

const MAX_UNAUTHENTICATED: usize = 3;
/// The head of a request, without its end.
const HALF_A_HEAD: &[u8] = b"GET /admin/v1/whoami HTTP/1.1\r\nhost: a\r\nx-half";

async fn start_server(change: impl FnOnce(&mut Config)) -> Server {
    Server::with(|config| {
        config.http.max_connections = 50;
        config.http.max_unauthenticated_per_address = MAX_UNAUTHENTICATED;
        config.http.header_timeout = Duration::from_secs(60);
        config.rate_limits.failed_auth_per_minute = 0;
        change(config);
    })
    .await
}

/// A connection from this address; `None` if the server closes it instead of answering a request for `/healthz`.
async fn connect(server: &Server, address: [u8; 4]) -> Option<Raw> {
    let mut raw = Raw::connect_from(&server.url, address).await;
    raw.send(&head("GET /healthz", &[])).await;
    raw.answer().await.map(|answer| {
        assert_eq!(answer.status, 200);
        raw
    })
}

#[tokio::test]
async fn i10_one_address_cannot_take_all_connections() {
    let server = start_server(|_| ()).await;
    let attacker = [127, 0, 0, 2];
    let mut half_sent = Vec::new();
    for _ in 0..MAX_UNAUTHENTICATED {
        let mut raw = Raw::connect_from(&server.url, attacker).await;
        raw.send(HALF_A_HEAD).await;
        half_sent.push(raw);
    }
    for _ in 0..100 {
        let mut refused = Raw::connect_from(&server.url, attacker).await;
        assert!(refused.answer().await.is_none(), "closed without an answer");
    }
    assert_eq!(server.app.traffic.http_connections.open_count(), MAX_UNAUTHENTICATED);
    assert!(connect(&server, [127, 0, 0, 3]).await.is_some(), "other addresses are served");
    assert_eq!(server.admin().get("/whoami").await.status, 200);

    // A connection that ends makes room for another one, once the server has noticed the end.
    drop(half_sent.pop());
    let connected = async { while connect(&server, attacker).await.is_none() {} };
    tokio::time::timeout(DEADLINE, connected).await.expect("there is room");
}

/// Every way to authenticate ends the limit for its connection, also while the connection stays open.
#[tokio::test]
async fn connections_on_which_a_key_authenticated_are_not_limited() {
    let server = start_server(|_| ()).await;
    let verify = json!({"key": ADMIN_KEY}).to_string();
    let json = "content-type: application/json";
    let form = "content-type: application/x-www-form-urlencoded";
    let key = server.admin().get("/whoami").await.data()["api_key"]["id"].as_str().unwrap().to_owned();
    let basic = STANDARD.encode(format!("{key}:{ADMIN_KEY}"));
    let token = format!("token={ADMIN_KEY}");
    let request = |line: &str, headers: &[&str], body: &str| {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        format!("{line} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {length}\r\n\r\n{body}")
    };
    let bearer = format!("authorization: Bearer {ADMIN_KEY}");
    for request in [
        request("GET /admin/v1/whoami", &[&bearer], ""),
        request("POST /v1/keys/verify", &[&bearer, json], &verify),
        request("POST /v1/introspect", &[&bearer, form], &token),
        request("POST /v1/introspect", &[&format!("authorization: Basic {basic}"), form], &token),
        request("GET /v1/forward-auth", &[&bearer], ""),
        request("GET /v1/forward-auth", &[&format!("x-api-key: {ADMIN_KEY}")], ""),
    ] {
        let mut authenticated = Vec::new();
        for _ in 0..2 * MAX_UNAUTHENTICATED {
            let mut raw = server.raw().await;
            raw.send(request.as_bytes()).await;
            assert_eq!(raw.answer().await.map(|answer| answer.status), Some(200), "{request}");
            authenticated.push(raw);
        }
        drop(authenticated);
        server.wait_until_disconnected().await;
    }
}

#[tokio::test]
async fn requests_without_a_valid_key_do_not_lift_the_limit() {
    let server = start_server(|_| ()).await;
    for (line, header, status) in [
        ("GET /healthz", "x: y", 200),
        ("GET /console/", "x: y", 200),
        ("GET /admin/v1/whoami", "authorization: Bearer toll_unknown", 401),
        ("GET /v1/forward-auth", "x-api-key: unknown", 401),
        ("POST /v1/introspect", "authorization: Basic eDp5", 401),
    ] {
        let mut open = Vec::new();
        for _ in 0..MAX_UNAUTHENTICATED {
            let mut raw = server.raw().await;
            raw.send(format!("{line} HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n").as_bytes()).await;
            let answer = raw.answer().await.unwrap();
            assert_eq!(answer.status, status, "{line} {answer:?}");
            open.push(raw);
        }
        assert!(server.raw().await.answer().await.is_none(), "{line}");
        drop(open);
        server.wait_until_disconnected().await;
    }
}

#[tokio::test]
async fn trusted_proxies_are_not_limited_and_0_means_no_limit() {
    let trusted = |config: &mut Config| config.http.trusted_proxies = vec!["127.0.0.8/32".parse().unwrap()];
    let unlimited = |config: &mut Config| config.http.max_unauthenticated_per_address = 0;
    for (server, address) in
        [(start_server(trusted).await, [127, 0, 0, 8]), (start_server(unlimited).await, [127, 0, 0, 9])]
    {
        let mut open = Vec::new();
        for _ in 0..2 * MAX_UNAUTHENTICATED {
            open.push(connect(&server, address).await.expect("served"));
        }
    }
}
