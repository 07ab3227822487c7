//! A header that the server acts on and can't read is refused, never taken for absent.

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::server_with_slots;
use crate::support::{ADMIN_KEY, Answer, Server};

/// A value that no text can be read from: an otherwise valid one with a byte above 0x7F.
fn unreadable(value: &str) -> HeaderValue {
    HeaderValue::from_bytes(&[value.as_bytes(), b"\xff"].concat()).unwrap()
}

#[track_caller]
fn expect_refused(answer: &Answer, name: &str, case: &str) {
    assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{case} {name}: {answer:?}");
    assert_eq!(answer.details(), [(name.to_owned(), "INVALID_HEADER".to_owned())], "{case} {name}");
}

async fn organization(server: &Server) -> Value {
    server.admin().get("/organizations/org_a").await.data().clone()
}

#[tokio::test]
async fn an_unreadable_header_is_refused_and_nothing_changes() {
    let server = server_with_slots(20).await;
    let admin = server.admin();
    let before = organization(&server).await;
    let etag = admin.get("/organizations/org_a").await.header("etag").unwrap().to_owned();
    let patch = || admin.request(Method::PATCH, "/organizations/org_a").body(r#"{"name":"changed"}"#);
    let json = "application/json";
    let typed = |request: RequestBuilder| request.header("content-type", json);
    let create = || admin.request(Method::POST, "/users").body(r#"{"name":"n","email":"n@example.com"}"#);
    for (name, request) in [
        ("If-Match", typed(patch()).header("if-match", unreadable(&etag))),
        ("If-Match", typed(patch()).header("if-match", &etag).header("if-match", unreadable(""))),
        (
            "If-Match",
            admin.request(Method::DELETE, "/organizations/org_a").header("if-match", unreadable(&etag)),
        ),
        ("If-Match", admin.request(Method::DELETE, "/api-keys/key_a").header("if-match", unreadable("*"))),
        (
            "If-Match",
            typed(admin.request(Method::PATCH, "/config").header("if-match", unreadable("*"))).body("{}"),
        ),
        (
            "If-Match",
            admin.request(Method::POST, "/api-keys/key_a/revoke").header("if-match", unreadable("*")),
        ),
        ("Content-Type", patch().header("content-type", unreadable(json))),
        ("Content-Encoding", typed(patch()).header("content-encoding", unreadable("identity"))),
        (
            "Content-Encoding",
            typed(create()).header("content-encoding", "identity").header("content-encoding", unreadable("")),
        ),
        ("Idempotency-Key", typed(create()).header("idempotency-key", unreadable("once"))),
        (
            "Content-Type",
            admin
                .request_at_root(Method::POST, "/v1/keys/verify")
                .header("content-type", unreadable(json))
                .body("{}"),
        ),
        (
            "Content-Encoding",
            typed(admin.request_at_root(Method::POST, "/v1/keys/verify"))
                .header("content-encoding", unreadable("identity"))
                .body("{}"),
        ),
        ("Accept", admin.request_at_root(Method::GET, "/").header("accept", unreadable("text/html"))),
        (
            "Accept-Encoding",
            admin.request_at_root(Method::GET, "/console/").header("accept-encoding", unreadable("gzip")),
        ),
        (
            "If-None-Match",
            admin.request_at_root(Method::GET, "/docs/").header("if-none-match", unreadable("*")),
        ),
    ] {
        let case = format!("{request:?}");
        expect_refused(&admin.send(request).await, name, &case);
    }
    let form = || admin.request_at_root(Method::POST, "/v1/introspect").body("token=x");
    let form_type = "application/x-www-form-urlencoded";
    for (name, request) in [
        ("Content-Type", form().header("content-type", unreadable(form_type))),
        (
            "Content-Encoding",
            form().header("content-type", form_type).header("content-encoding", unreadable("identity")),
        ),
    ] {
        let answer = admin.send(request).await;
        assert_eq!((answer.status, &answer.json["error"]), (400, &json!("invalid_request")), "{answer:?}");
        assert!(answer.text.contains(name), "{answer:?}");
    }
    assert_eq!(organization(&server).await, before);
    assert_eq!(admin.get("/users?q=n@").await.data().as_array().map_or(0, Vec::len), 0);
}

/// It is refused in its place: after the credential and the scope, before the body and the resource.
#[tokio::test]
async fn an_unreadable_condition_keeps_its_place_in_the_order_of_refusals() {
    let server = server_with_slots(20).await;
    let (reader, _) = server.key(None, &["admin:audit"]).await;
    let patch = |client: &crate::support::Client, id: &str| {
        let request = client.request(Method::PATCH, &format!("/organizations/{id}"));
        request.header("if-match", unreadable("\"1\"")).header("content-type", "application/json")
    };
    for (client, status) in [(server.anonymous(), 401), (reader, 403), (server.admin(), 400)] {
        assert_eq!(client.send(patch(&client, "org_nobody").body("{")).await.status, status);
    }
    // Where a condition means nothing, the header is ignored.
    let admin = server.admin();
    let get = admin.request(Method::GET, "/organizations/org_a").header("if-match", unreadable("\"1\""));
    assert_eq!(admin.send(get).await.status, 200);
    // Several lines are one list.
    let etag = admin.get("/organizations/org_a").await.header("etag").unwrap().to_owned();
    let listed = |tags: &[&str]| {
        let request = admin.request(Method::PATCH, "/organizations/org_a").json(&json!({"metadata": {}}));
        tags.iter().fold(request, |request, tag| request.header("if-match", *tag))
    };
    assert_eq!(admin.send(listed(&["\"stale\"", &etag])).await.status, 200);
    assert_eq!(admin.send(listed(&["\"stale\"", "\"older\""])).await.status, 412);
}

/// An unreadable credential is no credential of another scheme beside which `X-Api-Key` counts.
#[tokio::test]
async fn an_unreadable_credential_is_unauthenticated() {
    let server = server_with_slots(20).await;
    let anonymous = server.anonymous();
    let bearer = format!("Bearer {ADMIN_KEY}");
    for (path, headers, status) in [
        ("/admin/v1/whoami", vec![("authorization", unreadable(&bearer))], 401),
        ("/v1/forward-auth", vec![("authorization", unreadable(&bearer))], 401),
        ("/v1/forward-auth", vec![("x-api-key", unreadable(ADMIN_KEY))], 401),
        (
            "/v1/forward-auth",
            vec![("authorization", unreadable(&bearer)), ("x-api-key", ADMIN_KEY.parse().unwrap())],
            401,
        ),
        (
            "/v1/forward-auth",
            vec![("authorization", unreadable("bEARER\t")), ("x-api-key", ADMIN_KEY.parse().unwrap())],
            401,
        ),
        (
            "/v1/forward-auth",
            vec![("authorization", bearer.parse().unwrap()), ("x-api-key", unreadable(ADMIN_KEY))],
            401,
        ),
        (
            "/v1/forward-auth",
            vec![("authorization", unreadable("Basic eDp5")), ("x-api-key", ADMIN_KEY.parse().unwrap())],
            200,
        ),
    ] {
        let request = anonymous.request_at_root(Method::GET, path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let answer = anonymous.send(request).await;
        assert_eq!(answer.status, status, "{path} {headers:?}: {answer:?}");
    }
    let introspect = anonymous.request_at_root(Method::POST, "/v1/introspect").form(&[("token", "x")]);
    let answer = anonymous.send(introspect.header("authorization", unreadable("Basic eDp5"))).await;
    assert_eq!((answer.status, &answer.json["error"]), (401, &json!("invalid_client")));
}
