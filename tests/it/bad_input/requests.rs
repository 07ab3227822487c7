//! Malformed and unusual requests: paths, queries, methods, headers, versions and lengths.

use std::time::Duration;

use super::MIB;
use crate::support::{ADMIN_KEY, RawAnswer, Server, head};

/// Starts a server with two slots, so that a leaked slot is detected, and with short timeouts.
async fn server() -> Server {
    let server = Server::with(|config| {
        config.http.max_connections = 2;
        config.http.header_timeout = Duration::from_millis(500);
        config.http.body_timeout = Duration::from_millis(500);
        config.rate_limits.admin_per_minute = 0;
        config.rate_limits.batch_per_minute = 0;
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await;
    server.organization("org_a").await;
    server
}

/// Sends the bytes on a new connection and returns all responses until the server closes it.
async fn send_and_read(server: &Server, bytes: &[u8]) -> Vec<RawAnswer> {
    let mut raw = server.raw().await;
    raw.send(bytes).await;
    let answers = raw.answers().await;
    server.assert_all_slots_are_free().await;
    answers
}

/// Status and error code of the first response; `(0, "")` if the server closed without a response.
fn first_outcome(answers: &[RawAnswer]) -> (u16, String) {
    answers.first().map_or((0, String::new()), |answer| (answer.status, answer.code()))
}

/// A request with `Connection: close`, so that the server closes after the response.
fn request(line: &str) -> Vec<u8> {
    head(line, &["connection: close"])
}

/// A POST that creates an organization, with these headers and body.
fn create_request(headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut headers = headers.to_vec();
    headers.push("content-type: application/json");
    [head("POST /admin/v1/organizations", &headers), body.to_vec()].concat()
}

const BODY: &[u8] = br#"{"name":"n","email":"a@b.c"}"#;

async fn organizations(server: &Server) -> usize {
    server.wait_for_slot().await;
    server.admin().get("/organizations?limit=100").await.data().as_array().unwrap().len()
}

#[tokio::test]
async fn unusual_paths_are_not_found() {
    let server = server().await;
    let long = format!("GET /admin/v1/organizations/{}", "x".repeat(50_000));
    for line in [
        "GET //admin/v1/whoami",
        "GET /admin//v1/whoami",
        "GET /admin/v1/whoami/",
        "GET /admin/v1/../v1/whoami",
        "GET /admin/v1/./whoami",
        "GET /admin/v1/%2e%2e/v1/whoami",
        "GET /admin%2fv1%2fwhoami",
        "GET /admin/v1/WHOAMI",
        "GET /admin/v1/organizations/",
        "GET /admin/v1/organizations//members",
        "GET /admin/v1/organizations/org_a%2F",
        "GET /admin/v1/organizations/org_a%2Fmembers",
        "GET /admin/v1/organizations/..%2Forg_a",
        "GET /admin/v1/organizations/org_a%00",
        "GET /admin/v1/organizations/%FF%FE",
        "GET /admin/v1/organizations/%C0%AF",
        "GET /admin/v1/organizations/%",
        "GET /admin/v1/organizations/%zz",
        "GET /admin/v1/organizations/org_a;x=y",
        "GET /admin/v1/organizations/*",
        "GET /admin/v1/organizations/{id}",
        "GET /%",
        "OPTIONS *",
        &long,
    ] {
        assert_eq!(
            first_outcome(&send_and_read(&server, &request(line)).await),
            (404, "NOT_FOUND".to_owned()),
            "{line:.80}"
        );
    }
    // In the absolute form, as proxies send it, only the path counts.
    assert_eq!(first_outcome(&send_and_read(&server, &request("GET http://elsewhere/healthz")).await).0, 200);
    let answers = send_and_read(&server, &request(&format!("GET /{}", "x".repeat(MIB)))).await;
    assert!(matches!(first_outcome(&answers).0, 0 | 414 | 431), "{answers:?}");
}

#[tokio::test]
async fn invalid_queries_are_refused() {
    let server = server().await;
    let long = format!("q={}", "x".repeat(50_000));
    let many = "a=b&".repeat(10_000);
    for query in [
        "limit=0",
        "limit=-1",
        "limit=101",
        "limit=99999999999999999999",
        "limit=1e1",
        "limit=%00",
        "limit=1&limit=1",
        "%6cimit=5&limit=5",
        "order=sideways",
        "cursor=%FF",
        "cursor=AAAA",
        "q=%00",
        "q=a%00b",
        "q=%FF",
        "q=%F0%9F%9A%A7",
        "q=%25_",
        "status=active%20",
        "=",
        "%FF=%FF",
        "unknown",
        "limit[]=1",
        &long,
        &many,
    ] {
        let answers = send_and_read(&server, &request(&format!("GET /admin/v1/organizations?{query}"))).await;
        let (status, code) = first_outcome(&answers);
        assert_eq!(status, 400, "{query:.80}: {answers:.200?}");
        assert!(["INVALID_REQUEST", "INVALID_CURSOR"].contains(&code.as_str()), "{query:.80}: {code}");
        assert!(answers[0].body.len() < 50_000, "{query:.80}: a response of {} bytes", answers[0].body.len());
    }
    for query in [
        "",
        "&&&",
        "limit=",
        "cursor=&q=&status=",
        "limit=5&",
        "limit=%35",
        "q=ab%FF",
        "q=%F0%9F%9A%A7ab",
        "q=ab%25_",
    ] {
        let answers = send_and_read(&server, &request(&format!("GET /admin/v1/organizations?{query}"))).await;
        assert_eq!(first_outcome(&answers).0, 200, "{query}: {answers:?}");
    }
}

#[tokio::test]
async fn unsupported_methods_are_refused() {
    let server = server().await;
    for method in ["get", "Get", "BREW", "PUT", "TRACE", "OPTIONS", "PROPFIND", "M-SEARCH", "CONNECT"] {
        let answers = send_and_read(&server, &request(&format!("{method} /admin/v1/organizations"))).await;
        if method == "CONNECT" {
            // The target of CONNECT must be a host and a port; this one is a path.
            assert!(matches!(first_outcome(&answers).0, 0 | 400 | 404 | 405), "{answers:?}");
            continue;
        }
        assert_eq!(first_outcome(&answers), (405, "METHOD_NOT_ALLOWED".to_owned()), "{method}");
        assert!(answers[0].head.contains("\r\nallow: get, post, head\r\n"), "{}", answers[0].head);
    }
    let answers = send_and_read(&server, &request("CONNECT example.com:443")).await;
    assert!(matches!(first_outcome(&answers).0, 0 | 400 | 404 | 405), "{answers:?}");
}

#[tokio::test]
async fn malformed_credentials_are_refused() {
    let server = server().await;
    let long = format!("authorization: Bearer {}\r\n", "x".repeat(60_000));
    let twice = format!("authorization: Bearer {ADMIN_KEY}\r\n").repeat(2);
    let mixed = format!("authorization: Bearer {ADMIN_KEY}\r\nAuthorization: Basic eDp5\r\n");
    let cut = format!("authorization: Bearer {}\r\n", &ADMIN_KEY[..ADMIN_KEY.len() - 1]);
    let more = format!("authorization: Bearer {ADMIN_KEY} {ADMIN_KEY}\r\n");
    let listed = format!("authorization: Bearer {ADMIN_KEY}, Bearer {ADMIN_KEY}\r\n");
    for (headers, code) in [
        ("", "UNAUTHENTICATED"),
        (twice.as_str(), "UNAUTHENTICATED"),
        (&mixed, "UNAUTHENTICATED"),
        ("authorization:\r\n", "UNAUTHENTICATED"),
        ("authorization: Bearer\r\n", "UNAUTHENTICATED"),
        ("authorization: Bearer \t \r\n", "UNAUTHENTICATED"),
        ("authorization: Basic eDp5\r\n", "UNAUTHENTICATED"),
        ("authorization: Bearer \u{fc}\u{fc}\r\n", "UNAUTHENTICATED"),
        ("x-api-key: the-first-admin-key-of-a-test-server-0123456789\r\n", "UNAUTHENTICATED"),
        ("authorization: Bearer x\r\n", "INVALID_API_KEY"),
        ("authorization: Bearer toll_0123456789abcdefABCDEF0123456789000000\r\n", "INVALID_API_KEY"),
        (&long, "INVALID_API_KEY"),
        (&cut, "INVALID_API_KEY"),
        (&more, "INVALID_API_KEY"),
        (&listed, "INVALID_API_KEY"),
    ] {
        let request =
            format!("GET /admin/v1/whoami HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        assert_eq!(
            first_outcome(&send_and_read(&server, request.as_bytes()).await),
            (401, code.to_owned()),
            "{headers:.60}"
        );
    }
    let request = format!("GET /admin/v1/whoami HTTP/1.0\r\nauthorization: bEARER  {ADMIN_KEY}\r\n\r\n");
    assert_eq!(
        first_outcome(&send_and_read(&server, request.as_bytes()).await).0,
        200,
        "the scheme is case-insensitive"
    );
}

#[tokio::test]
async fn too_many_headers_are_refused_and_unusual_headers_are_ignored() {
    let server = server().await;
    let many = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(MIB));
    for headers in [many.as_str(), &long, "x\0: y\r\n", "x: a\0b\r\n", ": y\r\n", "x y: z\r\n", " folded\r\n"]
    {
        let request = format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        let answers = send_and_read(&server, request.as_bytes()).await;
        assert!(matches!(first_outcome(&answers).0, 0 | 400 | 431), "{headers:.20}: {answers:?}");
    }
    // Headers with unusable values are ignored.
    for header in [
        "x-request-id: two words",
        "x-request-id: \u{fc}",
        "if-match: \"\u{fc}\"",
        "traceparent: \u{fc}",
        "x-forwarded-for: nobody",
        "user-agent: \u{fc}\u{202e}",
        "accept: nothing/at-all",
        "cookie: x",
        "upgrade: websocket",
        "range: bytes=0-1",
    ] {
        let close = "connection: close";
        let answers =
            send_and_read(&server, &head("GET /admin/v1/organizations/org_a", &[header, close])).await;
        assert_eq!(first_outcome(&answers).0, 200, "{header}");
    }
    // The request ID of the client is replaced if it could inject a header into the response.
    let answers =
        send_and_read(&server, &head("GET /admin/v1/whoami", &["x-request-id: a%0d%0ax-evil:b"])).await;
    assert!(answers[0].head.contains("\r\nx-request-id: req_"), "{}", answers[0].head);
}

#[tokio::test]
async fn other_http_versions_are_answered_or_closed() {
    let server = server().await;
    for (bytes, statuses) in [
        ("GET /healthz HTTP/1.0\r\n\r\n", &[200][..]),
        ("GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n", &[200, 200]),
        (
            "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
            &[200],
        ),
        ("GET /healthz\r\n\r\n", &[400]),
        ("GET /healthz HTTP/3.0\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1 x\r\n\r\n", &[400]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400]),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}", &[400]),
        ("\r\n\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n", &[200]),
    ] {
        let answers = send_and_read(&server, bytes.as_bytes()).await;
        let actual: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert!(actual == statuses || statuses == [400] && actual.is_empty(), "{bytes:?}: {actual:?}");
    }
    // Pipelined requests are answered in order.
    let pipelined: Vec<u8> = (0..20)
        .flat_map(|index| head("GET /admin/v1/whoami", &[&format!("x-request-id: index-{index}")]))
        .collect();
    let answers = send_and_read(&server, &pipelined).await;
    assert_eq!(answers.len(), 20);
    for (index, answer) in answers.iter().enumerate() {
        assert!(answer.head.contains(&format!("x-request-id: index-{index}\r\n")), "{}", answer.head);
    }
}

#[tokio::test]
async fn a_request_with_a_wrong_length_changes_nothing() {
    let server = server().await;
    let before = organizations(&server).await;
    let chunked = [b"1c\r\n", BODY, b"\r\n0\r\n\r\n"].concat();
    for (headers, body) in [
        (&["content-length: 29"][..], BODY),
        (&["content-length: 1000000"], BODY),
        (&["content-length: 18446744073709551615"], BODY),
        (&["content-length: 18446744073709551616"], BODY),
        (&["content-length: -1"], BODY),
        (&["content-length: +28"], BODY),
        (&["content-length: 0x1c"], BODY),
        (&["content-length: 28, 29"], BODY),
        (&["content-length: 28", "content-length: 29"], BODY),
        (&["content-length: 27"], BODY),
        (&["content-length: 0"], BODY),
        (&[], BODY),
        (&["transfer-encoding: chunked"], BODY),
        (&["transfer-encoding: chunked"], b"1c\r\n{"),
        (&["transfer-encoding: chunked"], b"-1\r\n\r\n"),
        (&["transfer-encoding: chunked"], b"fffffffffffffffff\r\n{"),
        (&["transfer-encoding: chunked, identity"], &chunked),
        (&["transfer-encoding: gzip"], BODY),
        (&["content-length: 28", "transfer-encoding: gzip"], BODY),
    ] {
        let answers = send_and_read(&server, &create_request(headers, body)).await;
        assert!(answers.iter().all(|answer| (400..500).contains(&answer.status)), "{headers:?}: {answers:?}");
        // The same from a client that shuts down its sending direction and reads.
        let mut raw = server.raw().await;
        raw.send(&create_request(headers, body)).await;
        raw.finish().await;
        let answers = raw.answers().await;
        assert!(answers.iter().all(|answer| (400..500).contains(&answer.status)), "{headers:?}: {answers:?}");
    }
    assert_eq!(organizations(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// Request smuggling: a request with both `Content-Length` and `Transfer-Encoding` could hide a second
/// request in its body (RFC 9112 §6.1).
#[tokio::test]
async fn a_request_with_two_body_lengths_hides_no_second_request() {
    let server = server().await;
    let hidden = create_request(&["content-length: 28"], BODY);
    let body = [b"0\r\n\r\n".to_vec(), hidden].concat();
    let length = format!("content-length: {}", body.len());
    for headers in [[length.as_str(), "transfer-encoding: chunked"], ["transfer-encoding: chunked", &length]]
    {
        let before = organizations(&server).await;
        let answers = send_and_read(&server, &create_request(&headers, &body)).await;
        assert_eq!(first_outcome(&answers).0, 400, "{answers:?}");
        assert_eq!((answers.len(), organizations(&server).await), (1, before), "{answers:?}");
    }
}
