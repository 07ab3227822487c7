//! The control plane, one file per resource, the conventions of all resources, and the data plane.

mod analytics;
mod api_keys;
mod batch;
mod browser_headers;
mod conventions;
mod coverage;
mod expand;
mod forward_auth;
mod forward_auth_limits;
mod idempotency;
mod introspect;
mod key_filters;
mod key_lifecycle;
mod key_policy;
mod key_prefixes;
mod limits;
mod lists;
mod maintenance;
mod memberships;
mod meters;
mod missing_scopes;
mod names;
mod organizations;
mod own_key;
mod patches;
mod plans;
mod scopes;
mod search;
mod settings;
mod usage_reports;
mod users;
mod verify;
mod verify_costs;

use serde_json::Value;

use crate::support::Answer;

/// Asserts that the call succeeded with this status, and returns `data`.
#[track_caller]
fn expect_ok(answer: Answer, status: u16) -> Value {
    assert_eq!((answer.status, answer.code()), (status, ""), "{}", answer.text);
    answer.json["data"].clone()
}

/// Asserts that the call failed with this status and error code.
#[track_caller]
fn expect_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text);
}

/// Asserts that the request was rejected with exactly these details (pointer or parameter, code), in any
/// order.
#[track_caller]
fn expect_invalid(answer: &Answer, details: &[(&str, &str)]) {
    expect_error(answer, 400, "INVALID_REQUEST");
    let mut expected: Vec<_> =
        details.iter().map(|(location, code)| (location.to_string(), code.to_string())).collect();
    let mut actual = answer.details();
    expected.sort();
    actual.sort();
    assert_eq!(actual, expected, "{}", answer.text);
}

/// Returns one field of each row of a list.
#[track_caller]
fn column(list: &Value, field: &str) -> Vec<String> {
    let rows = list.as_array().unwrap_or_else(|| panic!("not a list: {list}"));
    rows.iter().map(|row| row[field].as_str().unwrap_or_default().to_owned()).collect()
}
