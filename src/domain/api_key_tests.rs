//! Tests for [`super`].

use super::*;
use crate::error::Error;

fn parse_new_key(body: &str) -> Result<NewApiKey, Error> {
    let catalogue: Catalogue = ["a:read", "admin:keys"].map(str::to_owned).into_iter().collect();
    NewApiKey::read(
        &Json::parse(body.as_bytes()).unwrap(),
        Some((&catalogue, &[])),
        Timestamp::from_millis(1000),
    )
}

#[test]
fn cidrs_are_normalized_and_scopes_deduplicated() {
    let key = parse_new_key(
        r#"{"name":"n","scopes":["a:read","a:read"],"allowed_ips":["10.0.0.0/8","::ffff:10.1.2.3","::1"]}"#,
    );
    let key = key.unwrap();
    let cidrs: Vec<_> = key.allowed_ips.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.0.0.0/8", "10.1.2.3/32", "::1/128"]);
    assert_eq!(scope::without_repetitions(&key.scopes), ["a:read"]);
}

#[test]
fn a_new_key_reports_every_fault() {
    let error = parse_new_key(
        r#"{"name":"","scopes":["b:read","*"],"expires_at":"1970-01-01T00:00:01Z","allowed_ips":["10.0.0.1/8","x"],"limits":[{"limit":0,"windows":1},{"limit":1e3,"period":"year"}],"x":1,"status":"active"}"#,
    );
    let faults: Vec<_> =
        error.unwrap_err().details.into_iter().map(|d| (d.pointer.unwrap(), d.code)).collect();
    let expected = [
        ("/status", "READ_ONLY"),
        ("/name", "INVALID_LENGTH"),
        ("/scopes/0", "UNKNOWN_SCOPE"),
        ("/expires_at", "NOT_AHEAD"),
        ("/allowed_ips/0", "INVALID_CIDR"),
        ("/allowed_ips/1", "INVALID_CIDR"),
        ("/limits/0/limit", "INVALID_VALUE"),
        ("/limits/0/windows", "UNKNOWN_FIELD"),
        ("/limits/0", "INVALID_VALUE"),
        ("/limits/1/period", "INVALID_VALUE"),
        ("/limits/1/limit", "INVALID_VALUE"),
        ("/x", "UNKNOWN_FIELD"),
    ];
    assert_eq!(faults, expected.map(|(pointer, code)| (pointer.to_owned(), code.into())));
}

#[test]
fn an_empty_allowlist_is_refused() {
    assert!(parse_new_key(r#"{"name":"n","scopes":[],"allowed_ips":[]}"#).is_err());
    assert!(parse_new_key(r#"{"name":"n","scopes":[],"allowed_ips":null}"#).is_ok());
}
