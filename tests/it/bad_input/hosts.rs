//! `Host`: missing, repeated or malformed, it is refused (RFC 9112 §3.2), before anything else and on every path.

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, RawAnswer, Server};

const MISSING: &[&str] = &[];

/// Sends a request with these `Host` headers, and no others but the admin key.
async fn get(server: &Server, path: &str, version: &str, hosts: &[&str]) -> RawAnswer {
    let mut raw = server.raw().await;
    let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
    let request = format!(
        "GET {path} HTTP/{version}\r\n{hosts}authorization: Bearer {ADMIN_KEY}\r\nconnection: close\r\n\r\n"
    );
    raw.send(request.as_bytes()).await;
    raw.answer().await.expect("an answer")
}

#[track_caller]
fn assert_refused(answer: &RawAnswer, message: &str, case: &str) {
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    let detail =
        json!([{"parameter": "Host", "code": "INVALID_HEADER", "message": json["error"]["message"]}]);
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_REQUEST"), "{case}: {answer:?}");
    assert_eq!(json["error"]["details"], detail, "{case}");
    assert!(json["error"]["message"].as_str().unwrap().contains(message), "{case}: {answer:?}");
    let id = json["metadata"]["requestId"].as_str().unwrap().to_ascii_lowercase();
    assert!(answer.head.contains(&format!("\r\nx-request-id: {id}\r\n")), "{case}: {answer:?}");
}

#[tokio::test]
async fn a_request_without_a_single_valid_host_is_refused() {
    let server = Server::start().await;
    for path in [
        "/healthz",
        "/",
        "/console/",
        "/openapi.json",
        "/nowhere",
        "/admin/v1/whoami",
        "/v1/forward-auth",
        "/v1/forward-auth/scope=workflows:read/a",
        "http://a/healthz",
    ] {
        assert_refused(&get(&server, path, "1.1", MISSING).await, "missing", path);
        for version in ["1.0", "1.1"] {
            for hosts in [["a", "a"], ["a", "b"], ["", "a"]] {
                assert_refused(&get(&server, path, version, &hosts).await, "only once", path);
            }
        }
    }
    for host in ["a b", "a/b", "user@a", "a\\b", "a#b", "a?b", "<a>", "\u{fc}.example"] {
        assert_refused(&get(&server, "/healthz", "1.1", &[host]).await, "name or an IP address", host);
    }
}

#[tokio::test]
async fn a_valid_host_is_accepted() {
    let server = Server::start().await;
    for host in ["a", "A.example", "a_b.example:8080", "127.0.0.1:80", "[::1]:8080", "a.example.", ""] {
        assert_eq!(get(&server, "/healthz", "1.1", &[host]).await.status, 200, "{host}");
    }
    assert_eq!(get(&server, "/healthz", "1.0", MISSING).await.status, 200);
    // The host of an absolute target replaces `Host`, as RFC 9112 §3.2.2 requires.
    assert_eq!(get(&server, "http://b/healthz", "1.1", &["a"]).await.status, 200);
}

/// Refused calls of the Admin API are recorded, also these.
#[tokio::test]
async fn a_refusal_for_its_host_changes_nothing_and_is_recorded() {
    let server = Server::start().await;
    let body = r#"{"id":"org_a","name":"n","email":"a@b.c"}"#;
    let mut raw = server.raw().await;
    let request = format!(
        "POST /admin/v1/organizations HTTP/1.1\r\nHost: a\r\nHost: b\r\nauthorization: Bearer {ADMIN_KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    raw.send(request.as_bytes()).await;
    assert_refused(&raw.answer().await.unwrap(), "only once", "POST");
    assert_eq!(server.admin().get("/organizations/org_a").await.status, 404);
    server.advance(std::time::Duration::from_secs(60));
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
    let events = server.admin().get("/audit-logs?limit=100").await;
    let is_recorded =
        |event: &Value| event["code"] == "INVALID_REQUEST" && event["actor"]["type"] == "anonymous";
    assert!(events.data().as_array().unwrap().iter().any(is_recorded), "{events:?}");
}
