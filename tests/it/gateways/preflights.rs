//! CORS preflights reach the application without a key; nothing else does.

use reqwest::{Method, RequestBuilder};

use super::Setup;
use super::guarantees::{IDENTITY, assert_refused, identity};
use super::peers::APPLICATION_BODY;
use crate::support::Raw;

/// Headers by which clients override the method in applications that support it.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

fn preflight(setup: &Setup) -> RequestBuilder {
    let request = setup.request(Method::OPTIONS, "/things?a=b");
    let request = request.header("origin", "https://app.example.com");
    request.header("access-control-request-method", "PUT")
}

pub(super) async fn preflights_need_no_key(setup: &Setup) {
    let headers = preflight(setup).header("access-control-request-headers", "authorization");
    for request in [preflight(setup), headers] {
        let (answer, received) = setup.send(request).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, APPLICATION_BODY));
        let [received] = received.as_slice() else { panic!("{} requests", received.len()) };
        assert_eq!((received.method.as_str(), received.uri.as_str()), ("OPTIONS", "/things?a=b"));
        assert_eq!(received.headers["origin"], "https://app.example.com");
        assert_eq!(received.headers["access-control-request-method"], "PUT");
    }
}

/// The exception depends on the method of the request line, not on a header that names one.
pub(super) async fn only_preflights_need_no_key(setup: &Setup) {
    let with_both = |request: RequestBuilder| {
        let request = request.header("origin", "https://app.example.com");
        request.header("access-control-request-method", "GET")
    };
    let options = || setup.request(Method::OPTIONS, "/things");
    for (reason, request) in [
        ("no headers", options()),
        ("no method", options().header("origin", "https://app.example.com")),
        ("no origin", options().header("access-control-request-method", "GET")),
        ("a path", setup.request(Method::GET, "/OPTIONS")),
    ] {
        assert_refused(&setup.send(request).await, 401, reason);
    }
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        assert_refused(&setup.send(with_both(setup.request(method.clone(), "/things"))).await, 401, "no key");
        let mut forged = with_both(setup.request(method, "/things"));
        for name in METHOD_OVERRIDES.iter().chain(&[
            "x-forwarded-method",
            "x-original-method",
            "x-envoy-original-method",
        ]) {
            forged = forged.header(*name, "OPTIONS");
        }
        assert_refused(&setup.send(forged).await, 401, "a forged method");
    }
    // Methods are case-sensitive: an application may treat this one as an unknown method, or as any.
    let lower_case = Method::from_bytes(b"options").unwrap();
    let (answer, received) = setup.send(with_both(setup.request(lower_case, "/things"))).await;
    assert!([400, 401, 405, 501].contains(&answer.status) && received.is_empty(), "{answer:?}");
}

/// An application that trusts identity headers, or that lets a header override the method, can't be misled by a
/// preflight.
pub(super) async fn a_preflight_has_no_identity_and_no_other_method(setup: &Setup) {
    let host = setup.gateway.url.strip_prefix("http://").unwrap();
    let spellings: [fn(&str) -> String; 3] =
        [str::to_owned, str::to_uppercase, |name| name.replace('-', "_")];
    for spell in spellings {
        let mut head =
            format!("OPTIONS /things HTTP/1.1\r\nHost: {host}\r\nOrigin: https://app.example.com\r\n");
        head.push_str("Access-Control-Request-Method: GET\r\nAuthorization: Bearer k\r\nX-Api-Key: k\r\n");
        for name in IDENTITY.iter().chain(&METHOD_OVERRIDES) {
            head.push_str(&format!("{}: DELETE\r\n", spell(name)));
        }
        head.push_str("\r\n");
        let mut raw = Raw::connect(&setup.gateway.url).await;
        raw.send(head.as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{head}{answer:?}");
        let received = setup.application.take_requests();
        let [received] = received.as_slice() else { panic!("{} requests", received.len()) };
        assert_eq!(received.method, "OPTIONS");
        assert_eq!(identity(received), [], "{head}");
        for name in received.headers.keys() {
            let normalized = name.as_str().replace('_', "-");
            let is_forbidden = METHOD_OVERRIDES.contains(&normalized.as_str())
                || ["authorization", "x-api-key"].contains(&name.as_str());
            assert!(!is_forbidden, "{name} reached the application");
        }
    }
    // Requests with a key keep headers that override the method.
    let key = setup.key(serde_json::json!({"name": "n", "scopes": ["workflows:read"]})).await;
    let (answer, received) = setup.send(setup.get(&key).header("x-http-method-override", "PUT")).await;
    assert_eq!((answer.status, received.len()), (200, 1));
    assert_eq!(received[0].headers["x-http-method-override"], "PUT");
}
