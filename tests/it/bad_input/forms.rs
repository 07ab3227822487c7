//! Malformed forms. Introspection is the only route that reads a form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRng, TestRunner};
use serde_json::{Value, json};

use super::{MAX_DATA_PLANE_BODY, MIB, server, state};
use crate::support::{Raw, RawAnswer, Server, head};

const LINE: &str = "POST /v1/introspect";
const FORM: &str = "content-type: application/x-www-form-urlencoded";

async fn send(raw: &mut Raw, headers: &[&str], body: &[u8]) -> RawAnswer {
    let length = format!("content-length: {}", body.len());
    raw.send(&[&head(LINE, &[headers, &[&length]].concat()), body].concat()).await;
    raw.answer().await.expect("the connection stays open")
}

/// Asserts that the response is this OAuth error.
#[track_caller]
fn assert_error(answer: &RawAnswer, status: u16, error: &str) {
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &json["error"]), (status, &json!(error)), "{answer:?}");
}

async fn assert_unchanged(server: &Server, before: &[Value]) {
    assert_eq!(state(server).await, before);
    server.assert_all_slots_are_free().await;
}

#[tokio::test]
async fn unusual_forms_are_invalid_or_name_an_unknown_token() {
    let server = server().await;
    let before = state(&server).await;
    let mut raw = server.raw().await;
    let many = "a=b&".repeat(MAX_DATA_PLANE_BODY / 4);
    let long = format!("token={}", "x".repeat(MAX_DATA_PLANE_BODY - 6));
    for body in ["", "&&&", "=", "tokens=a", "Token=a", "token[]=a", "token=a&%74oken=a", "{}", "\0", &many] {
        assert_error(&send(&mut raw, &[FORM], body.as_bytes()).await, 400, "invalid_request");
    }
    for body in
        ["token", "token=%", "token=%zz", "token=%FF", "token=%00", "token=a;b", "token=\u{1f6a7}", &long]
    {
        let answer = send(&mut raw, &[FORM], body.as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{\"active\":false}"), "{body:.20}");
    }
    assert_error(&send(&mut raw, &[FORM], b"\xff\xfe").await, 400, "invalid_request");
    assert_eq!(send(&mut raw, &[FORM], b"token=\xff\xfe").await.body, "{\"active\":false}");
    drop(raw);
    assert_unchanged(&server, &before).await;
}

#[tokio::test]
async fn unsupported_and_too_large_forms_are_refused_and_the_connection_stays_open() {
    let server = server().await;
    let before = state(&server).await;
    let mut raw = server.raw().await;
    for headers in [
        &[][..],
        &["content-type:"],
        &["content-type: application/json"],
        &["content-type: application/x-www-form-urlencodedx"],
        &["content-type: multipart/form-data; boundary=x"],
        &[FORM, "content-encoding: gzip"],
    ] {
        assert_error(&send(&mut raw, headers, b"token=a").await, 415, "invalid_request");
    }
    assert_error(&send(&mut raw, &["content-type: \u{fc}"], b"token=a").await, 400, "invalid_request");
    let parameter = format!("{}; charset=UTF-8", FORM.to_uppercase());
    assert_eq!(send(&mut raw, &[&parameter], b"token=a").await.status, 200);
    for length in [MAX_DATA_PLANE_BODY + 1, 2 * MIB] {
        assert_error(&send(&mut raw, &[FORM], &vec![b'a'; length]).await, 413, "invalid_request");
    }
    // The connection also stays open when the caller is not authenticated.
    let length = format!("content-length: {}", 2 * MIB);
    for authorization in ["", "authorization: Bearer x\r\n", "authorization: Basic ====\r\n"] {
        let head = format!("{LINE} HTTP/1.1\r\nhost: a\r\n{authorization}{length}\r\n\r\n");
        raw.send(&[head.into_bytes(), vec![b'a'; 2 * MIB]].concat()).await;
        assert_eq!(raw.answer().await.unwrap().status, 401, "{authorization}");
    }
    drop(raw);
    for _ in 0..3 {
        let mut raw = server.raw().await;
        raw.send(&[head(LINE, &[FORM, "content-length: 100"]), b"token=a".to_vec()].concat()).await;
    }
    assert_unchanged(&server, &before).await;
}

/// For any form and any credential, the response is complete and never a 5xx.
#[test]
fn no_form_causes_a_server_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(server());
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let form = prop_oneof![bytes(), "(token|[a-z%=&+]{0,5})=[ -~]{0,30}".prop_map(String::into_bytes)];
    let cases = Cases { cases: 150, failure_persistence: None, ..Cases::default() };
    let mut runner = TestRunner::new_with_rng(cases, TestRng::deterministic_rng(Default::default()));
    let result = runner.run(&(form, bytes()), |(form, credential)| {
        runtime.block_on(async {
            let mut raw = server.raw().await;
            let answer = send(&mut raw, &[FORM], &form).await;
            prop_assert!([200, 400].contains(&answer.status), "{:?}", answer);
            let basic = STANDARD.encode(credential);
            let request =
                format!("{LINE} HTTP/1.1\r\nhost: a\r\nauthorization: Basic {basic}\r\n{FORM}\r\n\r\n");
            raw.send(request.as_bytes()).await;
            let answer = raw.answer().await.unwrap();
            prop_assert_eq!(answer.status, 401, "{:?}", answer);
            Ok(())
        })
    });
    result.unwrap();
}
