//! `cost` and `costs` of `POST /v1/keys/verify`: what is accepted, and the faults.

use serde_json::{Value, json};

use super::verify::verify_key;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{ADMIN_KEY, Server};

/// One more than the costs of a request may name.
const METERS: [&str; 9] = ["requests", "tokens", "m1", "m2", "m3", "m4", "m5", "m6", "m7"];

/// Starts a server that declares [`METERS`].
async fn start_server() -> Server {
    let server = Server::start().await;
    expect_ok(server.configure(json!({ "meters": METERS })).await, 200);
    server
}

#[tokio::test]
async fn cost_is_short_for_the_cost_on_requests() {
    let server = start_server().await;
    let limits =
        json!([{"limit": 1000, "period": "total"}, {"meter": "tokens", "limit": 1000, "period": "total"}]);
    let (client, _) = server.key_with(json!({"name": "n", "scopes": [], "limits": limits})).await;
    let eight =
        json!({"tokens": 1, "m1": 1, "m2": 2, "m3": 3, "m4": 4, "m5": 5, "m6": 6, "m7": 1_000_000_000});
    let mut spent = [0, 0];
    for (fields, costs) in [
        (json!({}), [1, 0]),
        (json!({"cost": null, "costs": null}), [1, 0]),
        (json!({"cost": 4}), [4, 0]),
        (json!({"costs": {}}), [1, 0]),
        (json!({"costs": {"requests": 4}}), [4, 0]),
        (json!({"cost": 4, "costs": {"requests": 4}}), [4, 0]),
        (json!({"cost": 0, "costs": {"tokens": 3}}), [0, 3]),
        (json!({"costs": {"tokens": 3}}), [1, 3]),
        (json!({"costs": {"requests": 0, "tokens": 0}}), [0, 0]),
        (json!({ "costs": eight }), [1, 1]),
    ] {
        let mut body = json!({"key": client.key});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let data = expect_ok(verify_key(&server.admin(), body).await, 200);
        assert_eq!(data["code"], "VALID", "{fields}");
        spent = [spent[0] + costs[0], spent[1] + costs[1]];
        let left = [0, 1].map(|index| data["limits"][index]["remaining"].as_u64().unwrap());
        assert_eq!(left, spent.map(|spent| 1000 - spent), "{fields}");
    }
}

#[tokio::test]
async fn faults_of_costs_are_reported_with_pointers() {
    let server = start_server().await;
    let admin = server.admin();
    let nine: serde_json::Map<String, Value> =
        METERS.map(|meter| (meter.to_owned(), json!(0))).into_iter().collect();
    for (fields, details) in [
        (json!({"costs": 1}), &[("/costs", "INVALID_TYPE")][..]),
        (json!({"costs": [{"tokens": 1}]}), &[("/costs", "INVALID_TYPE")]),
        (json!({ "costs": nine }), &[("/costs", "TOO_MANY")]),
        (json!({"costs": {"tokens": -1}}), &[("/costs/tokens", "INVALID_VALUE")]),
        (json!({"costs": {"tokens": null}}), &[("/costs/tokens", "INVALID_VALUE")]),
        (
            json!({"costs": {"tokens": 1_000_000_001, "requests": 1.5, "m1": "1"}}),
            &[
                ("/costs/tokens", "INVALID_VALUE"),
                ("/costs/requests", "INVALID_VALUE"),
                ("/costs/m1", "INVALID_VALUE"),
            ],
        ),
        (json!({"cost": 2, "costs": {"requests": 1}}), &[("/cost", "CONFLICT")]),
        // With other faults, an unknown meter is one of them.
        (
            json!({"cost": -1, "costs": {"bytes": 1, "a/b": -1}}),
            &[
                ("/cost", "INVALID_VALUE"),
                ("/costs/bytes", "UNKNOWN_METER"),
                ("/costs/a~1b", "UNKNOWN_METER"),
                ("/costs/a~1b", "INVALID_VALUE"),
            ],
        ),
    ] {
        let mut body = json!({"key": ADMIN_KEY});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        expect_invalid(&verify_key(&admin, body).await, details);
    }
    let verify = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
    let duplicate = format!(r#"{{"key": "{ADMIN_KEY}", "costs": {{"tokens": 1, "tokens": 1}}}}"#);
    let answer = admin.send(verify.header("content-type", "application/json").body(duplicate)).await;
    expect_error(&answer, 400, "INVALID_REQUEST");
    assert!(
        answer.details().contains(&("/costs/tokens".to_owned(), "DUPLICATE_FIELD".to_owned())),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_cost_on_an_undeclared_meter_is_an_unknown_meter() {
    let server = start_server().await;
    let admin = server.admin();
    for (costs, pointers) in [
        (json!({"bytes": 1}), &["/costs/bytes"][..]),
        (json!({"bytes": 0}), &["/costs/bytes"]),
        (json!({"tokens": 1, "Tokens": 1}), &["/costs/Tokens"]),
        (json!({"": 1}), &["/costs/"]),
        (json!({"bytes": 1, "words": 1}), &["/costs/bytes", "/costs/words"]),
    ] {
        let answer = verify_key(&admin, json!({"key": ADMIN_KEY, "costs": costs})).await;
        expect_error(&answer, 400, "UNKNOWN_METER");
        let expected: Vec<_> =
            pointers.iter().map(|pointer| ((*pointer).to_owned(), "UNKNOWN_METER".to_owned())).collect();
        assert_eq!(answer.details(), expected, "{costs}");
    }
    // A meter counts from its declaration on, and not after its removal.
    let costs = json!({"key": ADMIN_KEY, "costs": {"bytes": 1}});
    expect_ok(server.configure(json!({"meters": ["requests", "bytes"]})).await, 200);
    assert_eq!(expect_ok(verify_key(&admin, costs.clone()).await, 200)["code"], "VALID");
    expect_ok(server.configure(json!({"meters": ["requests"]})).await, 200);
    expect_error(&verify_key(&admin, costs).await, 400, "UNKNOWN_METER");
}
