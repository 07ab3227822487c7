//! The host of requests over TLS: `Strict-Transport-Security` for names, and HTTP/2's `:authority`.

use http::{HeaderMap, Request, Version};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Http2, TlsServer, read_body, within_deadline};

const HSTS: &str = "strict-transport-security";

/// Sends a GET over HTTP/2 to this URI, with this `Host` header; returns the status, headers and body.
async fn get(client: &Http2, uri: &str, host: Option<&str>) -> (u16, HeaderMap, Value) {
    let mut request = Request::builder().uri(uri).version(Version::HTTP_2);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let mut sender = within_deadline(client.sender.clone().ready()).await.unwrap();
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    let (head, body) = within_deadline(answer).await.unwrap().into_parts();
    let body = serde_json::from_slice(&read_body(body).await.unwrap()).unwrap_or_default();
    (head.status.as_u16(), head.headers, body)
}

#[tokio::test]
async fn domain_names_get_strict_transport_security() {
    let server = TlsServer::start(&[]);
    let client = server.http2().await;
    for (host, expected) in [
        ("auth.example.com", true),
        ("auth.example.com:8443", true),
        ("tollhouse", true),
        ("localhost", false),
        ("app.localhost:8443", false),
        ("127.0.0.1:8443", false),
        ("[::1]:8443", false),
    ] {
        let expected = expected.then_some("max-age=31536000");
        for path in ["/healthz", "/console/", "/nowhere", "/admin/v1/whoami"] {
            let (_, headers, _) = get(&client, &format!("https://{host}{path}"), None).await;
            assert_eq!(headers.get(HSTS).map(|value| value.to_str().unwrap()), expected, "{host}{path}");
            let mut stream = server.tls(super::HTTP_1_1).await;
            let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // The server closes without waiting for the client's close_notify.
            let _ = within_deadline(stream.read_to_end(&mut answer)).await;
            let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            assert!(answer.starts_with("http/1.1 "), "{host}{path}: {answer}");
            assert_eq!(
                answer.contains(&format!("\r\n{HSTS}: max-age=31536000\r\n")),
                expected.is_some(),
                "{host}{path}"
            );
        }
        let (_, headers, _) = get(&client, &format!("https://{host}/v1/forward-auth"), None).await;
        assert_eq!(headers.get(HSTS), None, "{host}");
    }
}

#[tokio::test]
async fn an_http2_request_names_one_host() {
    let server = TlsServer::start(&[]);
    let client = server.http2().await;
    for (authority, host) in [
        ("a.example", None),
        ("a.example", Some("a.example")),
        ("a.example", Some("A.EXAMPLE:443")),
        ("a.example:443", Some("a.example")),
        ("a.example:8443", Some("a.example:8443")),
    ] {
        let (status, ..) = get(&client, &format!("https://{authority}/healthz"), host).await;
        assert_eq!(status, 200, "{authority} {host:?}");
    }
    for (authority, host) in [("a.example", "b.example"), ("a.example", "a.example:8443"), ("a.example", "")]
    {
        let (status, _, body) = get(&client, &format!("https://{authority}/healthz"), Some(host)).await;
        assert_eq!((status, &body["error"]["code"]), (400, &"INVALID_REQUEST".into()), "{authority} {host}");
        assert_eq!(body["error"]["details"][0]["parameter"], "Host", "{body}");
    }
}
