//! What stands in a body, over every route that reads one.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRng, TestRunner};
use serde_json::{Value, json};
use tollhouse::http::routes::Body;

use super::{Caller, assert_refused, routes, server, state};

/// Fields that bodies have, and one that none has.
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
async fn what_is_no_json_is_said_to_be_none() {
    let server = server().await;
    let before = state(&server).await;
    let deep = "[".repeat(100_000);
    let deep_objects = "{\"a\":".repeat(100_000);
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
    let mut caller = Caller::to(&server).await;
    for route in routes() {
        for body in bodies {
            let answer = caller.send_json(route, body).await;
            assert_refused(&answer, 400, "INVALID_JSON", &format!("{} {body:?}", route.path));
        }
        if route.body == Body::Required {
            assert_refused(&caller.send_json(route, b"").await, 400, "INVALID_JSON", route.path);
        }
    }
    drop(caller);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

#[tokio::test]
async fn json_that_is_no_body_is_refused_with_its_place() {
    let server = server().await;
    let before = state(&server).await;
    let mut caller = Caller::to(&server).await;
    for route in routes() {
        for body in ["null", "true", "7", "-0", "1e308", "\"{}\"", "[]", "[{}]", "[[[[]]]]", "[\"a\"]"] {
            let answer = caller.send_json(route, body.as_bytes()).await;
            assert_refused(&answer, 400, "INVALID_REQUEST", &format!("{} {body}", route.path));
        }
        for field in FIELDS {
            let twice = format!("{{\"{field}\":null,\"{field}\":null}}");
            let answer = caller.send_json(route, twice.as_bytes()).await;
            assert_refused(&answer, 400, "INVALID_REQUEST", &twice);
            assert!(answer.body.contains("DUPLICATE_FIELD"), "{}", answer.body);
            for value in wrong_values(field) {
                let body = json!({ *field: value }).to_string();
                let answer = caller.send_json(route, body.as_bytes()).await;
                assert_refused(&answer, 400, "INVALID_REQUEST", &format!("{} {body}", route.path));
                let at = format!("\"pointer\":\"/{field}");
                assert!(answer.body.contains(&at), "{body:.80}: {}", answer.body);
            }
        }
    }
    drop(caller);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// Values that the field never takes, in any body.
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
        wrong
            .push((0..51).map(|nth| (nth.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into());
    }
    if matches!(field, "scopes" | "allowed_ips") {
        wrong.push(json!(["*:*"]));
        wrong.push(json!([null]));
        wrong.push(json!(vec!["127.0.0.1"; 10_000]));
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
async fn a_body_of_another_kind_is_not_looked_at() {
    let server = server().await;
    let before = state(&server).await;
    let mut caller = Caller::to(&server).await;
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
            &["content-type: application/json\u{fc}"],
            &["content-type: application/json, application/json"],
            &["content-type: application/json", "content-encoding: gzip"],
            &["content-type: application/json", "content-encoding: br"],
            &["content-type: application/json", "content-encoding: identity, gzip"],
        ] {
            let answer = caller.send(route, headers, b"{}").await;
            assert_refused(&answer, 415, "UNSUPPORTED_MEDIA_TYPE", &format!("{} {headers:?}", route.path));
        }
        let merge_patch = caller.send(route, &["content-type: application/merge-patch+json"], b"[]").await;
        assert_eq!(merge_patch.status, if route.method == "PATCH" { 400 } else { 415 }, "{}", route.path);
        let fine = caller.send(route, &["content-type: Application/JSON; charset=\"UTF-8\""], b"[]").await;
        assert_refused(&fine, 400, "INVALID_REQUEST", route.path);
    }
    drop(caller);
    assert_eq!(state(&server).await, before);
    server.assert_all_slots_are_free().await;
}

/// JSON of any shape, with names that bodies have.
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

/// Whatever comes, the answer is in the envelope and never a 5xx.
#[test]
fn no_body_is_the_servers_fault() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(server());
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let body = prop_oneof![bytes, any_json().prop_map(|json| json.to_string().into_bytes())];
    // The same cases each time: what fails once can be looked at.
    let cases = Cases { cases: 150, failure_persistence: None, ..Cases::default() };
    let mut runner = TestRunner::new_with_rng(cases, TestRng::deterministic_rng(Default::default()));
    let result = runner.run(&body, |body| {
        runtime.block_on(async {
            let mut caller = Caller::to(&server).await;
            for route in routes() {
                let answer = caller.send_json(route, &body).await;
                let json: Value = serde_json::from_str(&answer.body).unwrap();
                prop_assert!(answer.status < 500, "{} {}: {answer:?}", route.method, route.path);
                prop_assert_eq!(&json["success"], answer.status < 300, "{}", answer.body);
            }
            Ok(())
        })
    });
    result.unwrap();
}
