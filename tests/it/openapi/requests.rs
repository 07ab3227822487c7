//! What the document says of requests is what the server takes, no more and no less.

use std::collections::BTreeSet;

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use tollhouse::http::routes::Endpoint;

use super::{Document, Operation, assert_fits, hinted, world};
use crate::support::{Answer, Client};

/// What a schema can't say, and the document says in words; formats are not asserted either.
const BEYOND_SCHEMAS: &[&str] = &[
    "INVALID_ADDRESS",
    "INVALID_ANCHOR",
    "INVALID_CHARACTER",
    "INVALID_CIDR",
    "INVALID_CURSOR",
    "RESERVED",
    "UNKNOWN_PLAN",
    "UNKNOWN_SCOPE",
];

impl Operation<'_> {
    async fn send(&self, client: &Client, query: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let request = self.request(client, &self.path()).query(query);
        client
            .send(match body {
                Some(body) => request.json(body),
                None => request,
            })
            .await
    }

    /// Does the server find fault with this field or parameter, and with what?
    fn faults(answer: &Answer, name: &str) -> Vec<String> {
        let pointer = format!("/{name}");
        let about =
            |place: &str| place == name || place == pointer || place.starts_with(&format!("{pointer}/"));
        let details = if answer.status == 400 { answer.details() } else { Vec::new() };
        details.into_iter().filter(|(place, _)| about(place)).map(|(_, code)| code).collect()
    }

    /// Does it refuse, with a 400 that names them, parameters that it doesn't know? RFC 7662 has them
    /// ignored, and at forward-auth they are the proxy's and let nobody pass.
    fn is_strict(&self) -> bool {
        self.is_gated() || self.endpoint() == Some(Endpoint::Verify)
    }

    /// Fails unless the server takes exactly the values that the schema takes.
    async fn agree(&self, client: &Client, name: &str, schema: &Value, tries: Vec<(Value, RequestBuilder)>) {
        let validator = self.document.validator(schema);
        let is_time = schema["format"] == "date-time";
        let is_merged = self.route.method == "PATCH" && name == "metadata";
        let beyond = |code: &String| {
            BEYOND_SCHEMAS.contains(&code.as_str()) || is_time || is_merged && code == "TOO_MANY"
        };
        for (value, request) in tries {
            let answer = client.send(request).await;
            let faults = Self::faults(&answer, name);
            let what = format!("{} {name}: {value} {faults:?}: {answer:?}", self.name());
            assert!(answer.status < 500, "{what}");
            if validator.is_valid(&value) {
                assert!(faults.iter().all(beyond), "fits, but is refused: {what}");
            } else {
                assert!(!faults.is_empty(), "doesn't fit, but is taken: {what}");
            }
        }
    }
}

/// Values at and beyond the limits of everything that a field may be.
fn candidates() -> Vec<Value> {
    let text = |length| Value::String("é".repeat(length));
    let pairs = |count: usize| (0..count).map(|n| (n.to_string(), json!("v"))).collect::<Map<_, _>>();
    let long = |name: usize, value: usize| json!({"n".repeat(name): "v".repeat(value)});
    let mut all = vec![json!(null), json!(true), json!([]), json!({}), json!([1]), json!({"a": 1})];
    all.extend([json!({"a": null}), json!({"": "v"}), long(40, 500), long(41, 1), long(1, 501)]);
    all.extend([pairs(50).into(), pairs(51).into(), json!([""])]);
    all.extend([0, 1, -1, 1000, 1001, 86_400, 604_800, 604_801, i64::from(u32::MAX) + 1].map(Value::from));
    all.extend([json!(1.5), text(0), text(1), text(69), text(70), text(200), text(201)]);
    all.extend([json!(vec!["workflows:read"; 100]), json!(vec!["workflows:read"; 101])]);
    all.extend([json!(vec!["10.0.0.1"; 100]), json!(vec!["10.0.0.1"; 101]), json!("a".repeat(254))]);
    for length in [254 - 2, 255 - 2] {
        all.push(json!(format!("a@{}", "b".repeat(length))));
    }
    for word in ["active", "suspended", "disabled", "expired", "revoked", "standard", "enterprise", "owner"] {
        all.push(json!(word));
        all.push(json!(word.to_uppercase()));
    }
    for word in ["a@b", "a@b@c", "a b@c", "@b", "a@", "invoices:write", "Invoices:read", "a:b:c", "1:b", "*"]
    {
        all.push(json!(word));
    }
    for limit in [0, 1, 1_000_000_000, 1_000_000_001, (1_u64 << 53) - 1, 1 << 53] {
        all.push(json!({"limit": limit, "window_seconds": 1}));
        all.push(json!({"limit": limit, "period": "hour"}));
    }
    all.extend([0, 86_400, 86_401].map(|seconds| json!({"limit": 1, "window_seconds": seconds})));
    all.extend(["day", "month", "week", "Day"].map(|period| json!({"limit": 1, "period": period})));
    all.push(json!({"limit": 1, "window_seconds": 1, "period": "day"}));
    for prefix in ["org_", "user_", "key_"] {
        all.extend(["", "1", "a_b", "ä", "A-z"].map(|rest| json!(format!("{prefix}{rest}"))));
        all.extend([64, 65].map(|length| json!(format!("{prefix}{}", "x".repeat(length)))));
    }
    all
}

#[tokio::test]
async fn a_body_with_every_documented_field_is_taken() {
    let document = Document::load();
    let mut bodies = 0;
    for operation in document.operations() {
        let Some(sample) = operation.sample() else { continue };
        assert_fits(&document.validator(operation.body().unwrap()), &sample, &operation.name());
        let server = world().await;
        if operation.route.action == "membership.create" {
            server.admin().delete("/organizations/org_123/members/user_123").await;
        }
        let answer = operation.send(&server.admin(), &[], Some(&sample)).await;
        assert!((200..300).contains(&answer.status), "{} {sample}: {answer:?}", operation.name());
        bodies += 1;
    }
    assert!(bodies >= 12, "{bodies}");
}

#[tokio::test]
async fn a_field_that_is_not_documented_is_refused_with_the_documented_ones() {
    let (document, server) = (Document::load(), world().await);
    for operation in document.operations() {
        let Some(mut body) = operation.sample() else { continue };
        body["surplus"] = json!(1);
        let answer = operation.send(&server.admin(), &[], Some(&body)).await;
        assert_eq!(answer.details(), [("/surplus".to_owned(), "UNKNOWN_FIELD".to_owned())], "{answer:?}");
        let message = answer.json["error"]["details"][0]["message"].as_str().unwrap();
        let documented: BTreeSet<_> =
            operation.body().unwrap()["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(hinted(message), documented, "{}", operation.name());
    }
}

#[tokio::test]
async fn exactly_the_fields_documented_as_required_are() {
    let (document, server) = (Document::load(), world().await);
    for operation in document.operations() {
        let Some(schema) = operation.body() else { continue };
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for name in schema["properties"].as_object().unwrap().keys() {
            let mut body = operation.sample().unwrap();
            body.as_object_mut().unwrap().remove(name);
            let answer = operation.send(&server.admin(), &[], Some(&body)).await;
            let missed = Operation::faults(&answer, name).contains(&"REQUIRED".to_owned());
            assert_eq!(missed, required.contains(&json!(name)), "{} {name}: {answer:?}", operation.name());
        }
    }
}

#[tokio::test]
async fn fields_take_exactly_what_their_schemas_take() {
    let (document, server) = (Document::load(), world().await);
    let (admin, candidates) = (server.admin(), candidates());
    for operation in document.operations() {
        let Some(schema) = operation.body() else { continue };
        for (name, schema) in schema["properties"].as_object().unwrap() {
            let tries = candidates.iter().map(|value| {
                let mut body = operation.sample().unwrap();
                body[name] = value.clone();
                (value.clone(), operation.request(&admin, &operation.path()).json(&body))
            });
            operation.agree(&admin, name, schema, tries.collect()).await;
        }
    }
}

#[tokio::test]
async fn an_optional_body_may_be_left_out_and_a_required_one_may_not() {
    let document = Document::load();
    for operation in document.operations().filter(|operation| operation.body().is_some()) {
        let server = world().await;
        let request = operation.request(&server.admin(), &operation.path());
        let answer = server.admin().send(request.header(CONTENT_TYPE, "application/json")).await;
        let required = operation.says["requestBody"]["required"] == true;
        assert_eq!(answer.status, if required { 400 } else { 200 }, "{}: {answer:?}", operation.name());
    }
}

#[tokio::test]
async fn a_parameter_that_is_not_documented_is_refused_with_the_documented_ones() {
    let (document, server) = (Document::load(), world().await);
    for operation in document.operations().filter(Operation::is_strict) {
        let sample = operation.sample();
        let answer = operation.send(&server.admin(), &[("surplus", "1")], sample.as_ref()).await;
        let expected = [("surplus".to_owned(), "UNKNOWN_PARAMETER".to_owned())];
        assert_eq!(answer.details(), expected, "{}: {answer:?}", operation.name());
        let message = answer.json["error"]["details"][0]["message"].as_str().unwrap();
        let documented: BTreeSet<_> =
            operation.parameters("query").iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(hinted(message), documented, "{}", operation.name());
    }
}

#[tokio::test]
async fn parameters_take_exactly_what_their_schemas_take() {
    let (document, server) = (Document::load(), world().await);
    let admin = server.admin();
    let (fits, too_long, hash) = ("é".repeat(200), "é".repeat(201), "0a".repeat(32));
    let anchors = [format!("1:{hash}"), format!("0:{hash}"), format!("1:{}", hash.to_uppercase())];
    let mut values = vec!["", "a", "0", "1", "20", "100", "101", "-1", "1.5", "1e2", "+1", "01", " 1"];
    values.extend(["asc", "desc", "ASC", "read", "write", "success", "denied", "failed", "ndjson", "csv"]);
    values.extend([
        "active",
        "suspended",
        "disabled",
        "revoked",
        "standard",
        "enterprise",
        "owner",
        "viewer",
    ]);
    values.extend(["2026-11-23T07:08:09Z", "tomorrow", &fits, &too_long, "1:", "a:b"]);
    values
        .extend(["hour", "day", "key", "code", "0h", "30d", "9999h", "9999d", "10000d", "1w", "30D", "+1d"]);
    values.extend(["VALID", "NOT_FOUND", "valid", "192.0.2.1", "2001:db8::1", "192.0.2.0/24"]);
    values.extend(anchors.iter().map(String::as_str));
    for operation in document.operations().filter(Operation::is_strict) {
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let schema = &parameter["schema"];
            assert_eq!(parameter["required"], false, "{} {name}", operation.name());
            let tries = values.iter().map(|value| {
                let number = value.parse::<i64>().ok().filter(|_| schema["type"] == "integer");
                let request = operation.request(&admin, &operation.path()).query(&[(name, value)]);
                (number.map_or(json!(value), Value::from), request)
            });
            operation.agree(&admin, name, schema, tries.collect()).await;
        }
    }
}
