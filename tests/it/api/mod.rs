//! The control plane, a file for each resource, and what goes for all of them; and the data plane.

mod analytics;
mod api_keys;
mod batch;
mod conventions;
mod coverage;
mod forward_auth;
mod idempotency;
mod introspect;
mod key_lifecycle;
mod key_limits;
mod key_policy;
mod lists;
mod maintenance;
mod memberships;
mod organizations;
mod patches;
mod plans;
mod scopes;
mod settings;
mod users;
mod verify;

use serde_json::Value;

use crate::support::Answer;

/// `data` of an answer that must have succeeded with this status.
#[track_caller]
fn done(answer: Answer, status: u16) -> Value {
    assert_eq!((answer.status, answer.code()), (status, ""), "{}", answer.text);
    answer.json["data"].clone()
}

/// The answer must be a refusal with this status and code.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text);
}

/// The answer must name exactly these faults, in any order.
#[track_caller]
fn at_fault(answer: &Answer, faults: &[(&str, &str)]) {
    refused(answer, 400, "INVALID_REQUEST");
    let mut expected: Vec<_> = faults.iter().map(|(at, code)| (at.to_string(), code.to_string())).collect();
    let mut found = answer.details();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{}", answer.text);
}

/// One field of each row of a list.
#[track_caller]
fn column(list: &Value, field: &str) -> Vec<String> {
    let rows = list.as_array().unwrap_or_else(|| panic!("not a list: {list}"));
    rows.iter().map(|row| row[field].as_str().unwrap_or_default().to_owned()).collect()
}
