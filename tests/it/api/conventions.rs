//! Conventions of every call: envelope, headers, methods, bodies and errors.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tollhouse::http::routes::ROUTES;

use super::patches::if_match;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Answer, Client, Server};

/// Sends an unmodified body with this content type.
pub(super) async fn send_raw(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: impl Into<String>,
) -> Answer {
    client.send(client.request(method, path).header(CONTENT_TYPE, content_type).body(body.into())).await
}

async fn post_raw(client: &Client, path: &str, body: impl Into<String>) -> Answer {
    send_raw(client, Method::POST, path, "application/json", body).await
}

fn names(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}

#[tokio::test]
async fn success_and_errors_have_the_envelope() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let single = admin.get("/organizations/org_1").await;
    assert_eq!(names(&single.json), ["data", "metadata", "success"]);
    assert_eq!(single.json["success"], json!(true));
    assert_eq!(names(&single.json["metadata"]), ["requestId", "timestamp"]);
    assert_eq!(single.json["metadata"]["timestamp"], "2026-11-23T07:08:09.000Z");
    let list = admin.get("/organizations").await;
    assert!(list.data().is_array());
    let metadata = &list.json["metadata"];
    assert_eq!(names(metadata), ["hasMore", "nextCursor", "requestId", "timestamp"]);
    assert_eq!((&metadata["hasMore"], &metadata["nextCursor"]), (&json!(false), &Value::Null));
    let missing = admin.get("/organizations/org_2").await;
    expect_error(&missing, 404, "NOT_FOUND");
    assert_eq!(names(&missing.json), ["error", "metadata", "success"]);
    assert_eq!(missing.json["success"], json!(false));
    assert_eq!(names(&missing.json["error"]), ["code", "details", "message"]);
    for answer in [single, list, missing, server.anonymous().get("/users").await, admin.get("/nowhere").await]
    {
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn the_request_id_is_the_callers_or_generated() {
    let server = Server::start().await;
    let admin = server.admin();
    let longest = "x".repeat(128);
    for (path, id) in [("/users", "a.B_c-9"), ("/nowhere", "trace-1"), ("/users/user_none", longest.as_str())]
    {
        let answer = admin.send(admin.request(Method::GET, path).header("x-request-id", id)).await;
        assert_eq!(answer.header("x-request-id"), Some(id));
        assert_eq!(answer.json["metadata"]["requestId"], id);
    }
    let mut generated = Vec::new();
    for id in ["", "has space", "semi;colon", "\u{e4}", &"x".repeat(129)] {
        let answer = admin.send(admin.request(Method::GET, "/users").header("x-request-id", id)).await;
        let request_id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(answer.json["metadata"]["requestId"], request_id);
        assert!(request_id.starts_with("req_") && request_id.len() == 30, "{request_id}");
        generated.push(request_id);
    }
    generated.sort();
    generated.dedup();
    assert_eq!(generated.len(), 5, "each call has a different ID");
    let traced = admin
        .send(
            admin
                .request(Method::POST, "/users")
                .header("x-request-id", "find-me")
                .json(&json!({"email": "a@b", "name": "a"})),
        )
        .await;
    expect_ok(traced, 201);
    let events = expect_ok(admin.get("/audit-logs?action=user.create").await, 200);
    assert_eq!(events[0]["context"]["request_id"], "find-me");
}

#[tokio::test]
async fn head_answers_wherever_get_does() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let mut tested = 0;
    for route in ROUTES.iter().filter(|route| route.method == "GET") {
        let Some(path) = route.path.strip_prefix("/admin/v1") else { continue };
        let path = path.replace("{id}", "org_1");
        let get = admin.get(&path).await;
        let head = admin.call(Method::HEAD, &path, None).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        for header in ["content-type", "cache-control", "etag"] {
            assert_eq!(head.header(header), get.header(header), "{path} {header}");
        }
        tested += 1;
    }
    assert!(tested > 10);
}

#[tokio::test]
async fn unknown_paths_are_404_and_other_methods_405_with_allow() {
    let server = Server::start().await;
    for client in [server.admin(), server.anonymous()] {
        for path in [
            "",
            "/",
            "/nowhere",
            "/users/",
            "//users",
            "/users/a/b",
            "/users/%FF",
            "/organizations/a/members/b/c",
        ] {
            expect_error(&client.get(path).await, 404, "NOT_FOUND");
        }
        for (method, path, allow) in [
            (Method::PUT, "/users", "GET, POST, HEAD"),
            (Method::DELETE, "/organizations", "GET, POST, HEAD"),
            (Method::POST, "/organizations/org_1", "GET, PATCH, DELETE, HEAD"),
            (Method::GET, "/api-keys/key_1/rotate", "POST"),
            (Method::HEAD, "/api-keys/key_1/revoke", "POST"),
            (Method::GET, "/scopes/a:b", "DELETE"),
            (Method::OPTIONS, "/whoami", "GET, HEAD"),
            (Method::POST, "/audit-logs/export", "GET, HEAD"),
        ] {
            let answer = client.call(method.clone(), path, None).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
            if method != Method::HEAD {
                expect_error(&answer, 405, "METHOD_NOT_ALLOWED");
            }
        }
    }
}

#[tokio::test]
async fn bodies_are_json_of_limited_size() {
    let server = Server::with(|config| config.http.max_body_bytes = 2000).await;
    let admin = server.admin();
    let user = |name: &str| json!({"email": format!("{name}@b"), "name": name}).to_string();
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/merge-patch+json",
        "application/json; charset=latin1",
        "application/jsonp",
    ] {
        expect_error(
            &send_raw(&admin, Method::POST, "/users", content_type, user("n")).await,
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        );
    }
    let untyped = admin.send(admin.request(Method::POST, "/users").body(user("n"))).await;
    expect_error(&untyped, 415, "UNSUPPORTED_MEDIA_TYPE");
    let compressed =
        admin.request(Method::POST, "/users").header("content-encoding", "gzip").json(&json!({}));
    expect_error(&admin.send(compressed).await, 415, "UNSUPPORTED_MEDIA_TYPE");
    for (name, content_type) in [("a", "application/json"), ("b", "Application/JSON; charset=UTF-8")] {
        expect_ok(send_raw(&admin, Method::POST, "/users", content_type, user(name)).await, 201);
    }
    for body in ["", "{", "nope", "{} {}", "{\"name\": \"a\u{1}\"}", "{'name': 'x'}"] {
        expect_error(&post_raw(&admin, "/users", body).await, 400, "INVALID_JSON");
    }
    for body in ["[]", "null", "7", "\"text\""] {
        let answer = post_raw(&admin, "/users", body).await;
        expect_error(&answer, 400, "INVALID_REQUEST");
        assert_eq!(answer.details()[0], (String::new(), "INVALID_TYPE".to_owned()));
    }
    let padded = |length: usize| format!("{:length$}", user("c"));
    expect_error(&post_raw(&admin, "/users", padded(2001)).await, 413, "PAYLOAD_TOO_LARGE");
    let chunks = futures_util::stream::iter(vec![Ok::<_, std::io::Error>(padded(1500)), Ok(padded(1500))]);
    let chunked = admin.request(Method::POST, "/users").header(CONTENT_TYPE, "application/json");
    let chunked = chunked.body(reqwest::Body::wrap_stream(chunks));
    expect_error(&admin.send(chunked).await, 413, "PAYLOAD_TOO_LARGE");
    expect_ok(post_raw(&admin, "/users", padded(2000)).await, 201);
}

/// The caller is checked before the rest of the request.
#[tokio::test]
async fn errors_are_checked_in_the_documented_order() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (weak, _) = server.key(None, &["workflows:read"]).await;
    let admin = server.admin();
    let anonymous = server.anonymous();
    expect_error(&post_raw(&anonymous, "/nowhere", "{").await, 404, "NOT_FOUND");
    expect_error(&post_raw(&anonymous, "/users", "{").await, 401, "UNAUTHENTICATED");
    expect_error(&post_raw(&weak, "/users", "{").await, 403, "INSUFFICIENT_SCOPE");
    let wrong_type = send_raw(&admin, Method::PATCH, "/users/user_none", "text/plain", "{").await;
    expect_error(&wrong_type, 415, "UNSUPPORTED_MEDIA_TYPE");
    let unknown = admin.patch("/users/user_none", json!({"nmae": "n"})).await;
    expect_invalid(&unknown, &[("/nmae", "UNKNOWN_FIELD")]);
    expect_error(&if_match(&admin, "/users/user_none", "\"0-0\"", Some(json!({}))).await, 404, "NOT_FOUND");
    expect_error(
        &if_match(&admin, "/organizations/org_1", "\"0-0\"", None).await,
        412,
        "PRECONDITION_FAILED",
    );
}

#[tokio::test]
async fn all_errors_are_reported_at_once() {
    let server = Server::start().await;
    let admin = server.admin();
    let body = r#"{"name": "", "name": 7, "email": "nobody", "plan": "gold", "status": "active",
        "created_at": "2026-11-23T07:08:09Z", "id": "acme", "a/b~c": 1,
        "metadata": {"k": 7, "a name that is longer than forty characters": "v"}}"#;
    let answer = post_raw(&admin, "/organizations", body).await;
    expect_invalid(
        &answer,
        &[
            ("/name", "DUPLICATE_FIELD"),
            ("/name", "INVALID_LENGTH"),
            ("/email", "INVALID_EMAIL"),
            ("/plan", "UNKNOWN_PLAN"),
            ("/status", "READ_ONLY"),
            ("/created_at", "READ_ONLY"),
            ("/id", "INVALID_ID"),
            ("/a~1b~0c", "UNKNOWN_FIELD"),
            ("/metadata/k", "INVALID_TYPE"),
            ("/metadata/a name that is longer than forty characters", "INVALID_LENGTH"),
        ],
    );
    expect_invalid(
        &admin.post("/organizations", json!({})).await,
        &[("/name", "REQUIRED"), ("/email", "REQUIRED")],
    );
    let wrong_types =
        admin.post("/users", json!({"email": null, "name": ["n"], "external_id": 7, "metadata": "m"})).await;
    expect_invalid(
        &wrong_types,
        &[
            ("/email", "INVALID_TYPE"),
            ("/name", "INVALID_TYPE"),
            ("/external_id", "INVALID_TYPE"),
            ("/metadata", "INVALID_TYPE"),
        ],
    );
}

#[tokio::test]
async fn unknown_query_parameters_are_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    expect_invalid(&admin.get("/whoami?x=1").await, &[("x", "UNKNOWN_PARAMETER")]);
    expect_invalid(&admin.get("/organizations/org_1?fields=name").await, &[("fields", "UNKNOWN_PARAMETER")]);
    expect_invalid(&admin.delete("/organizations/org_1?force=true").await, &[("force", "UNKNOWN_PARAMETER")]);
    let created = admin.post("/users?dry_run=1", json!({"email": "a@b", "name": "a"})).await;
    expect_invalid(&created, &[("dry_run", "UNKNOWN_PARAMETER")]);
    expect_invalid(
        &admin.get("/api-keys?limit=0&order=up&status=gone&limt=5&q=&q=").await,
        &[
            ("limit", "INVALID_VALUE"),
            ("order", "INVALID_VALUE"),
            ("status", "INVALID_VALUE"),
            ("limt", "UNKNOWN_PARAMETER"),
            ("q", "DUPLICATE_PARAMETER"),
        ],
    );
    for list in
        ["/organizations", "/organizations/org_1/members", "/users", "/api-keys", "/scopes", "/audit-logs"]
    {
        expect_invalid(&admin.get(&format!("{list}?page=2")).await, &[("page", "UNKNOWN_PARAMETER")]);
        for limit in ["0", "101", "-1", "ten", "1.5", "99999999999999999999"] {
            expect_invalid(&admin.get(&format!("{list}?limit={limit}")).await, &[("limit", "INVALID_VALUE")]);
        }
    }
    expect_ok(admin.get("/organizations/org_1").await, 200);
}

#[tokio::test]
async fn every_response_to_a_key_has_rate_limit_headers() {
    let server = Server::with(|config| config.rate_limits.admin_per_minute = 2).await;
    let admin = server.admin();
    let first = admin.get("/whoami").await;
    assert_eq!(first.data()["rate_limit"]["remaining"], 1);
    assert_eq!(first.header("ratelimit-policy"), Some("\"admin\";q=2;w=60"));
    assert_eq!(
        (first.header("x-ratelimit-limit"), first.header("x-ratelimit-remaining")),
        (Some("2"), Some("1"))
    );
    assert_eq!(first.header("x-ratelimit-reset"), Some("1795417719"), "in 30 seconds");
    expect_error(&admin.get("/users/user_none").await, 404, "NOT_FOUND");
    let limited = admin.get("/whoami").await;
    expect_error(&limited, 429, "RATE_LIMITED");
    assert_eq!(
        (limited.header("retry-after"), limited.header("ratelimit")),
        (Some("30"), Some("\"admin\";r=0;t=30"))
    );
    assert_eq!(server.anonymous().get("/whoami").await.header("x-ratelimit-limit"), None);
    server.advance(Duration::from_secs(30));
    expect_ok(admin.get("/whoami").await, 200);
    expect_error(&admin.get("/whoami").await, 429, "RATE_LIMITED");
}
