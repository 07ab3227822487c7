//! `meters` of the configuration: valid lists, and meters that are in use.

use serde_json::{Value, json};

use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Answer, Server};

/// A quota on a meter.
fn quota(meter: &str) -> Value {
    json!({"meter": meter, "limit": 1, "period": "day"})
}

async fn set_meters(server: &Server, meters: Value) -> Answer {
    server.configure(json!({ "meters": meters })).await
}

#[tokio::test]
async fn meters_are_replaced_as_a_whole_and_requests_stays() {
    let server = Server::start().await;
    let longest = format!("t{}", "0_".repeat(15) + "_");
    let many: Vec<_> = (1..32).map(|index| format!("m{index}")).chain(["requests".to_owned()]).collect();
    for meters in [
        json!(["requests", "tokens"]),
        json!(["bytes_out", "requests", longest]),
        json!(many),
        json!(["requests"]),
    ] {
        assert_eq!(expect_ok(set_meters(&server, meters.clone()).await, 200)["meters"], meters);
        assert_eq!(expect_ok(server.admin().get("/config").await, 200)["meters"], meters);
    }
    let too_long = format!("{longest}a");
    let too_many: Vec<_> = many.iter().map(String::as_str).chain(["one_more"]).collect();
    for (meters, details) in [
        (json!([]), &[("", "REQUIRED")][..]),
        (json!(["tokens"]), &[("", "REQUIRED")]),
        (json!(null), &[("", "NOT_NULLABLE")]),
        (json!("requests"), &[("", "INVALID_TYPE")]),
        (json!(too_many), &[("", "TOO_MANY")]),
        (json!(["requests", "requests"]), &[("/1", "DUPLICATE")]),
        (json!(["requests", "tokens", "tokens"]), &[("/2", "DUPLICATE")]),
        (
            json!(["requests", "Tokens", "0tokens", "to-kens", "", too_long, 7, null]),
            &[
                ("/1", "INVALID_NAME"),
                ("/2", "INVALID_NAME"),
                ("/3", "INVALID_NAME"),
                ("/4", "INVALID_NAME"),
                ("/5", "INVALID_NAME"),
                ("/6", "INVALID_TYPE"),
                ("/7", "INVALID_TYPE"),
            ],
        ),
    ] {
        let details: Vec<_> =
            details.iter().map(|(pointer, code)| (format!("/meters{pointer}"), *code)).collect();
        let details: Vec<_> = details.iter().map(|(pointer, code)| (pointer.as_str(), *code)).collect();
        expect_invalid(&set_meters(&server, meters).await, &details);
    }
    assert_eq!(expect_ok(server.admin().get("/config").await, 200)["meters"], json!(["requests"]));
}

#[tokio::test]
async fn a_plans_limits_are_on_declared_meters() {
    let server = Server::start().await;
    let plan = |key_limits: Value, organization_limits: Value| json!({"key_limits": key_limits, "organization_limits": organization_limits, "max_keys": 0, "max_members": 0});
    let refuse = |answer: &Answer, pointers: &[&str]| {
        expect_error(answer, 400, "UNKNOWN_METER");
        let expected: Vec<_> =
            pointers.iter().map(|pointer| ((*pointer).to_owned(), "UNKNOWN_METER".to_owned())).collect();
        assert_eq!(answer.details(), expected, "{}", answer.text);
    };
    let gold = plan(json!([quota("requests"), quota("tokens")]), json!([quota("bytes")]));
    let patch = json!({"plans": {"gold": gold, "standard": {"organization_limits": [quota("tokens")]}}});
    let pointers = [
        "/plans/gold/key_limits/1/meter",
        "/plans/gold/organization_limits/0/meter",
        "/plans/standard/organization_limits/0/meter",
    ];
    refuse(&server.configure(patch.clone()).await, &pointers);
    // The meters can be declared in the same patch.
    let mut with_meters = patch;
    with_meters["meters"] = json!(["requests", "tokens"]);
    refuse(&server.configure(with_meters.clone()).await, &pointers[1..2]);
    with_meters["meters"] = json!(["requests", "tokens", "bytes"]);
    expect_ok(server.configure(with_meters).await, 200);
    // A meter of a plan's limit can't be removed, except with the limit.
    let answer = set_meters(&server, json!(["requests", "tokens"])).await;
    expect_error(&answer, 409, "CONFLICT");
    assert!(
        answer
            .text
            .contains("The plan gold has a limit on the meter bytes. Remove the limits on bytes first."),
        "{}",
        answer.text
    );
    let without_bytes =
        json!({"meters": ["requests", "tokens"], "plans": {"gold": {"organization_limits": []}}});
    expect_ok(server.configure(without_bytes).await, 200);
    let plans = json!({"gold": null, "standard": {"organization_limits": []}});
    let without_tokens = json!({"meters": ["requests"], "plans": plans});
    expect_ok(server.configure(without_tokens).await, 200);
}

#[tokio::test]
async fn errors_inside_the_limits_of_plans_are_reported_with_pointers() {
    let server = Server::start().await;
    let patch = json!({"plans": {"standard": {
        "key_limits": [{"limit": 0, "window_seconds": 60}, 7], "organization_limits": null,
    }}});
    expect_invalid(
        &server.configure(patch).await,
        &[
            ("/plans/standard/key_limits/0/limit", "INVALID_VALUE"),
            ("/plans/standard/key_limits/1", "INVALID_TYPE"),
            ("/plans/standard/organization_limits", "NOT_NULLABLE"),
        ],
    );
    let nine: Vec<_> = (1..=9).map(|seconds| json!({"limit": 1, "window_seconds": seconds})).collect();
    let twice = json!([quota("requests"), quota("requests")]);
    let patch = json!({"plans": {"standard": {"key_limits": nine, "organization_limits": twice}}});
    expect_invalid(
        &server.configure(patch).await,
        &[("/plans/standard/key_limits", "TOO_MANY"), ("/plans/standard/organization_limits/1", "DUPLICATE")],
    );
}

#[tokio::test]
async fn a_meter_that_a_limit_of_a_key_or_an_organization_names_cannot_be_removed() {
    let server = Server::start().await;
    let admin = server.admin();
    for id in ["org_1", "org_2", "org_3"] {
        server.organization(id).await;
    }
    expect_ok(set_meters(&server, json!(["requests", "tokens"])).await, 200);
    let refuse = async |user: &str| {
        let answer = set_meters(&server, json!(["requests"])).await;
        expect_error(&answer, 409, "CONFLICT");
        assert!(answer.text.contains(user) && answer.text.contains("tokens"), "{}", answer.text);
    };
    let remove = async || {
        expect_ok(set_meters(&server, json!(["requests"])).await, 200);
        expect_ok(set_meters(&server, json!(["requests", "tokens"])).await, 200);
    };
    let body = json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": [],
        "limits": [quota("requests"), quota("tokens")]});
    server.key_with(body).await;
    let patch = async |path: &str, body: Value| drop(expect_ok(admin.patch(path, body).await, 200));
    refuse("key_1").await;
    patch("/api-keys/key_1", json!({"status": "disabled"})).await;
    refuse("key_1").await;
    // Two limits on the meter, of which one is removed.
    let two = json!([quota("tokens"), {"meter": "tokens", "limit": 1, "window_seconds": 60}]);
    patch("/api-keys/key_1", json!({ "limits": two })).await;
    patch("/api-keys/key_1", json!({"limits": [quota("tokens")]})).await;
    refuse("key_1").await;
    patch("/api-keys/key_1", json!({"limits": [quota("requests")]})).await;
    remove().await;
    patch("/api-keys/key_1", json!({"limits": [quota("tokens")]})).await;
    patch("/api-keys/key_1", json!({"limits": null})).await;
    remove().await;
    // A revoked key has its limits no more.
    patch("/api-keys/key_1", json!({"limits": [quota("tokens")]})).await;
    refuse("key_1").await;
    expect_ok(admin.delete("/api-keys/key_1").await, 200);
    remove().await;

    for end in [json!([]), Value::Null] {
        patch("/organizations/org_2", json!({"limits": [quota("tokens")]})).await;
        refuse("org_2").await;
        patch("/organizations/org_2", json!({ "limits": end })).await;
        remove().await;
    }
    patch("/organizations/org_3", json!({"limits": [quota("tokens")]})).await;
    patch("/organizations/org_3", json!({"status": "suspended"})).await;
    refuse("org_3").await;
    expect_ok(admin.delete("/organizations/org_3").await, 200);
    remove().await;
}
