//! The server accepts exactly the requests that the document describes.

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use tollhouse::domain::action::Action;
use tollhouse::http::routes::Endpoint;

use super::{Document, Operation, assert_valid, known_names, seeded_server};
use crate::support::{Answer, Client, assert_same_items};

/// Rules that a schema can't express and that the document describes in words. Formats are not validated
/// either.
const NOT_IN_SCHEMAS: &[&str] = &[
    "INVALID_ADDRESS",
    "INVALID_ANCHOR",
    "INVALID_CHARACTER",
    "INVALID_CIDR",
    "INVALID_CURSOR",
    "RESERVED",
    "UNKNOWN_METER",
    "UNKNOWN_PLAN",
    "UNKNOWN_PREFIX",
    "UNKNOWN_SCOPE",
];

/// Fields that exclude each other.
const EXCLUDING: &[[&str; 2]] = &[["key", "key_id"], ["cost", "costs"]];

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

    /// The codes of the error details about this field or parameter.
    fn detail_codes(answer: &Answer, name: &str) -> Vec<String> {
        let pointer = format!("/{name}");
        let matches = |location: &str| {
            location == name || location == pointer || location.starts_with(&format!("{pointer}/"))
        };
        let details = if answer.status == 400 { answer.details() } else { Vec::new() };
        details.into_iter().filter(|(location, _)| matches(location)).map(|(_, code)| code).collect()
    }

    /// True if it refuses unknown parameters with a 400 that names them. RFC 7662 requires that introspection
    /// ignores them. Forward-auth denies a request with unknown parameters, which come from the proxy's
    /// configuration.
    fn rejects_unknown_parameters(&self) -> bool {
        self.requires_admin_key() || self.endpoint() == Some(Endpoint::Verify)
    }

    /// Asserts that the server accepts exactly the values that match the schema.
    async fn assert_server_matches(
        &self,
        client: &Client,
        name: &str,
        schema: &Value,
        tries: Vec<(Value, RequestBuilder)>,
    ) {
        let validator = self.document.validator(schema);
        let is_time = schema["format"] == "date-time";
        let is_merged = self.route.method == "PATCH" && name == "metadata";
        let is_beyond_schema = |code: &String| {
            NOT_IN_SCHEMAS.contains(&code.as_str()) || is_time || is_merged && code == "TOO_MANY"
        };
        for (value, request) in tries {
            let answer = client.send(request).await;
            let codes = Self::detail_codes(&answer, name);
            let case = format!("{} {name}: {value} {codes:?}: {answer:?}", self.name());
            assert!(answer.status < 500, "{case}");
            if validator.is_valid(&value) {
                assert!(codes.iter().all(is_beyond_schema), "matches the schema, but is refused: {case}");
            } else {
                assert!(!codes.is_empty(), "doesn't match the schema, but is accepted: {case}");
            }
        }
    }
}

/// Values at and beyond the limits of all kinds of fields.
fn test_values() -> Vec<Value> {
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
async fn a_body_with_every_documented_field_is_accepted() {
    let document = Document::load();
    let mut bodies = 0;
    for operation in document.operations() {
        let Some(sample) = operation.sample() else { continue };
        assert_valid(&document.validator(operation.body().unwrap()), &sample, &operation.name());
        let server = seeded_server().await;
        if operation.route.action == Action::CreateMembership {
            server.admin().delete("/organizations/org_123/members/user_123").await;
        }
        let client = operation.own_client(&server).await.unwrap_or_else(|| server.admin());
        let answer = operation.send(&client, &[], Some(&sample)).await;
        assert!((200..300).contains(&answer.status), "{} {sample}: {answer:?}", operation.name());
        bodies += 1;
    }
    assert!(bodies >= 12, "{bodies}");
}

/// Only `application/json` is documented, because some generators refuse a body with two media types.
#[tokio::test]
async fn a_patch_is_also_accepted_as_merge_patch() {
    let document = Document::load();
    let mut patches = 0;
    for operation in document.operations().filter(|operation| operation.route.method == "PATCH") {
        let server = seeded_server().await;
        let request = operation.request(&server.admin(), &operation.path());
        let request = request.header(CONTENT_TYPE, "application/merge-patch+json");
        let answer = server.admin().send(request.body(operation.sample().unwrap().to_string())).await;
        assert_eq!(answer.status, 200, "{}: {answer:?}", operation.name());
        patches += 1;
    }
    assert_eq!(patches, 5);
}

#[tokio::test]
async fn an_undocumented_field_is_refused_with_a_list_of_the_documented_ones() {
    let document = Document::load();
    let server = seeded_server().await;
    for operation in document.operations() {
        let Some(mut body) = operation.sample() else { continue };
        body["surplus"] = json!(1);
        let answer = operation.send(&server.admin(), &[], Some(&body)).await;
        assert_eq!(answer.details(), [("/surplus".to_owned(), "UNKNOWN_FIELD".to_owned())], "{answer:?}");
        let message = answer.json["error"]["details"][0]["message"].as_str().unwrap();
        let documented = operation.body().unwrap()["properties"].as_object().unwrap().keys();
        let subject = format!("fields that {} names", operation.name());
        assert_same_items(&subject, known_names(message), documented.map(String::as_str));
    }
}

#[tokio::test]
async fn exactly_the_fields_documented_as_required_are_required() {
    let document = Document::load();
    let server = seeded_server().await;
    for operation in document.operations() {
        let Some(schema) = operation.body() else { continue };
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for name in schema["properties"].as_object().unwrap().keys() {
            let mut body = operation.sample().unwrap();
            body.as_object_mut().unwrap().remove(name);
            let answer = operation.send(&server.admin(), &[], Some(&body)).await;
            let missed = Operation::detail_codes(&answer, name).contains(&"REQUIRED".to_owned());
            // Either `key` or `key_id` is required, which `required` can't express.
            let is_alternative = ["key", "key_id"].contains(&name.as_str());
            assert_eq!(
                missed && !is_alternative,
                required.contains(&json!(name)),
                "{} {name}: {answer:?}",
                operation.name()
            );
        }
    }
}

#[tokio::test]
async fn fields_accept_exactly_the_values_of_their_schemas() {
    let document = Document::load();
    let server = seeded_server().await;
    let admin = server.admin();
    let values = test_values();
    for operation in document.operations() {
        let Some(schema) = operation.body() else { continue };
        for (name, schema) in schema["properties"].as_object().unwrap() {
            let mut tries = Vec::new();
            for value in &values {
                let client = operation.own_client(&server).await.unwrap_or_else(|| admin.clone());
                let mut body = operation.sample().unwrap();
                let excluding = EXCLUDING.iter().find(|pair| pair.contains(&name.as_str()));
                let fields = body.as_object_mut().unwrap();
                fields.retain(|field, _| excluding.is_none_or(|pair| !pair.contains(&field.as_str())));
                body[name] = value.clone();
                tries.push((value.clone(), operation.request(&client, &operation.path()).json(&body)));
            }
            operation.assert_server_matches(&admin, name, schema, tries).await;
        }
    }
}

#[tokio::test]
async fn an_optional_body_may_be_omitted_and_a_required_one_may_not() {
    let document = Document::load();
    for operation in document.operations().filter(|operation| operation.body().is_some()) {
        let server = seeded_server().await;
        let client = operation.own_client(&server).await.unwrap_or_else(|| server.admin());
        let request = operation.request(&client, &operation.path());
        let answer = server.admin().send(request.header(CONTENT_TYPE, "application/json")).await;
        let required = operation.spec["requestBody"]["required"] == true;
        assert_eq!(answer.status, if required { 400 } else { 200 }, "{}: {answer:?}", operation.name());
    }
}

#[tokio::test]
async fn an_undocumented_parameter_is_refused_with_a_list_of_the_documented_ones() {
    let document = Document::load();
    let server = seeded_server().await;
    for operation in document.operations().filter(Operation::rejects_unknown_parameters) {
        let sample = operation.sample();
        let answer = operation.send(&server.admin(), &[("surplus", "1")], sample.as_ref()).await;
        let expected = [("surplus".to_owned(), "UNKNOWN_PARAMETER".to_owned())];
        assert_eq!(answer.details(), expected, "{}: {answer:?}", operation.name());
        let message = answer.json["error"]["details"][0]["message"].as_str().unwrap();
        let documented = operation.parameters("query").into_iter().map(|p| p["name"].as_str().unwrap());
        let subject = format!("parameters that {} names", operation.name());
        assert_same_items(&subject, known_names(message), documented);
    }
}

#[tokio::test]
async fn parameters_accept_exactly_the_values_of_their_schemas() {
    let document = Document::load();
    let server = seeded_server().await;
    let admin = server.admin();
    let longest = "é".repeat(200);
    let too_long = "é".repeat(201);
    let hash = "0a".repeat(32);
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
    values.extend(["2026-11-23T07:08:09Z", "tomorrow", &longest, &too_long, "1:", "a:b"]);
    values
        .extend(["hour", "day", "key", "code", "0h", "30d", "9999h", "9999d", "10000d", "1w", "30D", "+1d"]);
    values.extend(["VALID", "NOT_FOUND", "valid", "192.0.2.1", "2001:db8::1", "192.0.2.0/24"]);
    values.extend(anchors.iter().map(String::as_str));
    for operation in document.operations().filter(Operation::rejects_unknown_parameters) {
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let schema = &parameter["schema"];
            assert_eq!(parameter["required"], false, "{} {name}", operation.name());
            // An empty parameter counts as absent, which the document says for all of them. Without an anchor, a
            // verification would prove less.
            if name != "anchor" {
                let answer = operation.send(&admin, &[(name, "")], operation.sample().as_ref()).await;
                assert_eq!(Operation::detail_codes(&answer, name), [""; 0], "{} {name}", operation.name());
            }
            let values = values.iter().filter(|value| name == "anchor" || !value.is_empty());
            let tries = values.map(|value| {
                let number = value.parse::<i64>().ok().filter(|_| schema["type"] == "integer");
                let request = operation.request(&admin, &operation.path()).query(&[(name, value)]);
                (number.map_or(json!(value), Value::from), request)
            });
            operation.assert_server_matches(&admin, name, schema, tries.collect()).await;
        }
    }
}
