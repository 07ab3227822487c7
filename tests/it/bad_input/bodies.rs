//! The content of bodies, tested on every route that reads a JSON body.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRng, TestRunner};
use serde_json::{Value, json};
use tollhouse::http::routes::Body;

use super::{Connection, assert_refused, routes, server, state};

/// Fields of the bodies, and one that no body has.
const FIELDS: &[&str] = &[
    "id",
    "name",
    "email",
    "plan",
    "status",
    "metadata",
    "user_id",
    "role",
    "external_id",
    "organization_id",
    "scopes",
    "expires_at",
    "allowed_ips",
    "reason",
    "grace_period_seconds",
    "scope",
    "description",
    "ip",
    "cost",
    "no_such_field",
];

#[tokio::test]
async fn invalid_json_is_refused_as_invalid_json() {
    let server = server().await;
    let before = state(&server).await;
    let deep = "[".repeat(30_000);
    let deep_objects = "{\"a\":".repeat(6_000);
    let closed = format!("{{\"name\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let bodies: &[&[u8]] = &[
        b"{",
        b"}",
        b"{\"name\":}",
        b"{\"name\":\"a\",}",
        b"{'name':'a'}",
        b"{name:1}",
        b"{\"name\":\"a\"} {}",
        b"{\"name\":\"a\"}\0",
        b"{\"name\":\"a\nb\"}",
        b"{\"name\":\"a\0b\"}",
        b"{\"name\":\"\\x41\"}",
        b"{\"name\":\"\\ud800\"}",
        b"{\"name\":\"\xff\xfe\"}",
        b"{\"name\":\"\xc0\xaf\"}",
        b"{\"\xff\":1}",
        b"{\"name\":NaN}",
        b"{\"name\":01}",
        b"{\"name\":1e999}",
        b"{\"name\":-}",
        b"\xef\xbb\xbf{\"name\":\"a\"}",
        b"\xff\xfe{\0}\0",
        b"name=a",
        b"--x\r\ncontent-disposition: form-data\r\n\r\n--x--",
        b" ",
        b"\0",
        b"nul",
        deep.as_bytes(),
        deep_objects.as_bytes(),
        closed.as_bytes(),
    ];
    let mut connection = Connection::open(&server).await;
    for route in routes() {
        for body in bodies {
            let answer = connection.send_json(route, body).await;
            assert_refused(&answer, 400, "INVALID_JSON", &format!("{} {body:?}", route.path));
        }
        if route.body == Body::Required {
            assert_refused(&connection.send_json(route, b"").await, 400, "INVALID_JSON", route.path);
        }
    }
    drop(connection);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

#[tokio::test]
async fn wrong_types_and_values_are_refused_with_a_pointer() {
    let server = server().await;
    let before = state(&server).await;
    let mut connection = Connection::open(&server).await;
    for route in routes() {
        for body in ["null", "true", "7", "-0", "1e308", "\"{}\"", "[]", "[{}]", "[[[[]]]]", "[\"a\"]"] {
            let answer = connection.send_json(route, body.as_bytes()).await;
            assert_refused(&answer, 400, "INVALID_REQUEST", &format!("{} {body}", route.path));
        }
        for field in FIELDS {
            let twice = format!("{{\"{field}\":null,\"{field}\":null}}");
            let answer = connection.send_json(route, twice.as_bytes()).await;
            assert_refused(&answer, 400, "INVALID_REQUEST", &twice);
            assert!(answer.body.contains("DUPLICATE_FIELD"), "{}", answer.body);
            for value in wrong_values(field) {
                let body = json!({ *field: value }).to_string();
                let answer = connection.send_json(route, body.as_bytes()).await;
                assert_refused(&answer, 400, "INVALID_REQUEST", &format!("{} {body}", route.path));
                let at = format!("\"pointer\":\"/{field}");
                assert!(answer.body.contains(&at), "{body:.80}: {}", answer.body);
            }
        }
    }
    drop(connection);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// Values that are invalid for the field in every body.
fn wrong_values(field: &str) -> Vec<Value> {
    let mut wrong = vec![
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(true),
        json!([[[["deep"]]]]),
        json!({"a": {"b": {}}}),
        json!("x".repeat(10_000)),
        json!("é".repeat(10_000)),
        json!("nul\u{0}nul"),
        json!("\u{1b}[31m"),
    ];
    if field != "scopes" {
        wrong.push(json!([]));
    }
    if field != "metadata" {
        wrong.push(json!({}));
    } else {
        let value = |value: Value| json!({ "name": value });
        wrong.extend([
            value(json!(7)),
            value(json!([])),
            value(json!("x".repeat(501))),
            value(json!("\u{0}")),
        ]);
        wrong.extend([json!({"": "x"}), json!({"a\nb": "x"}), json!({"x".repeat(41): "x"})]);
        wrong.push(
            (0..51).map(|index| (index.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into(),
        );
    }
    if matches!(field, "scopes" | "allowed_ips") {
        wrong.push(json!(["*:*"]));
        wrong.push(json!([null]));
        wrong.push(json!(vec!["127.0.0.1"; 2_000]));
    }
    if field == "expires_at" {
        wrong.extend(
            ["2026-11-23", "2026-13-01T00:00:00Z", "+999999-01-01T00:00:00Z", "2001-01-01T00:00:00Z"]
                .map(Value::from),
        );
    }
    wrong
}

#[tokio::test]
async fn unsupported_content_types_and_encodings_are_refused() {
    let server = server().await;
    let before = state(&server).await;
    let mut connection = Connection::open(&server).await;
    for route in routes() {
        for headers in [
            &[][..],
            &["content-type:"],
            &["content-type: text/plain"],
            &["content-type: application/jsonp"],
            &["content-type: application/json-patch+json"],
            &["content-type: application/json/x"],
            &["content-type: */*"],
            &["content-type: application/x-www-form-urlencoded"],
            &["content-type: multipart/form-data; boundary=x"],
            &["content-type: application/json; charset=utf-16"],
            &["content-type: application/json; charset=utf-8; charset=utf-16"],
            &["content-type: application/json, application/json"],
            &["content-type: application/json", "content-encoding: gzip"],
            &["content-type: application/json", "content-encoding: br"],
            &["content-type: application/json", "content-encoding: identity, gzip"],
        ] {
            let answer = connection.send(route, headers, b"{}").await;
            assert_refused(&answer, 415, "UNSUPPORTED_MEDIA_TYPE", &format!("{} {headers:?}", route.path));
        }
        let unreadable = connection.send(route, &["content-type: application/json\u{fc}"], b"{}").await;
        assert_refused(&unreadable, 400, "INVALID_REQUEST", route.path);
        let merge_patch =
            connection.send(route, &["content-type: application/merge-patch+json"], b"[]").await;
        assert_eq!(merge_patch.status, if route.method == "PATCH" { 400 } else { 415 }, "{}", route.path);
        let supported =
            connection.send(route, &["content-type: Application/JSON; charset=\"UTF-8\""], b"[]").await;
        assert_refused(&supported, 400, "INVALID_REQUEST", route.path);
    }
    drop(connection);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// Arbitrary JSON that often uses field names of real bodies.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "org_a",
            "user_a",
            "key_a",
            "*",
            "admin:keys",
            "owner",
            "active",
            "10.0.0.0/8"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let name = prop_oneof![prop::sample::select(FIELDS).prop_map(str::to_owned), ".{0,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// For any body, the response has the envelope and is never a 5xx.
#[test]
fn no_body_causes_a_server_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(server());
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let body = prop_oneof![bytes, any_json().prop_map(|json| json.to_string().into_bytes())];
    // A fixed seed makes failures reproducible.
    let cases = Cases { cases: 150, failure_persistence: None, ..Cases::default() };
    let mut runner = TestRunner::new_with_rng(cases, TestRng::deterministic_rng(Default::default()));
    let result = runner.run(&body, |body| {
        runtime.block_on(async {
            let mut connection = Connection::open(&server).await;
            for route in routes() {
                let answer = connection.send_json(route, &body).await;
                let json: Value = serde_json::from_str(&answer.body).unwrap();
                prop_assert!(answer.status < 500, "{} {}: {answer:?}", route.method, route.path);
                prop_assert_eq!(&json["success"], answer.status < 300, "{}", answer.body);
            }
            Ok(())
        })
    });
    result.unwrap();
}
