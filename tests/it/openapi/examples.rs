//! The examples of the document, compared with what a server answers. `RENEW_EXAMPLES=1 cargo test --test it openapi::`
//! writes those that are missing or have changed to `src/http/openapi/examples.json`; run the tests again afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Mutex, PoisonError};

use reqwest::RequestBuilder;
use serde_json::{Map, Value, json};
use tollhouse::http::routes::{AuthRequirement, Dispatch};

use super::{Document, Operation, assert_valid};
use crate::example_calls::example_calls;
use crate::pages::dev;
use crate::support::{Answer, Client};

/// The secret of `key_123` in the sample data, which the examples verify.
pub(super) const EXAMPLE_SECRET: &str = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs";

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi/examples.json");

/// How to correct a missing or outdated example.
const HINT: &str = "renew the examples with RENEW_EXAMPLES=1 cargo test --test it openapi::";

/// An error is common if it is the same for this many operations.
const MIN_COMMON_ERRORS: usize = 3;

/// Errors whose operations don't all follow from the route table. Each operation has its own example.
const OWN_CODES: &[&str] =
    &["PLATFORM_KEY_REQUIRED", "SECRET_IN_FIELD", "SECRET_SUPERSEDED", "UNKNOWN_METER"];

/// True if the tests write the examples instead of comparing them.
pub(super) fn is_renewing() -> bool {
    std::env::var_os("RENEW_EXAMPLES").is_some()
}

/// Changes the file of the examples. The tests run at the same time.
fn renew(change: impl FnOnce(&mut Value)) {
    static WRITING: Mutex<()> = Mutex::new(());
    let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut examples: Value = serde_json::from_str(&fs::read_to_string(FILE).unwrap()).unwrap();
    change(&mut examples);
    fs::write(FILE, format(&examples)).unwrap();
}

/// The text of the file: one example a line.
fn format(examples: &Value) -> String {
    let lines = |entries: &Map<String, Value>, indent: &str| {
        let lines: Vec<_> =
            entries.iter().map(|(name, value)| format!("{indent}{}: {value}", json!(name))).collect();
        lines.join(",\n")
    };
    let section = |name: &str| {
        format!("  {}: {{\n{}\n  }}", json!(name), lines(examples[name].as_object().unwrap(), "    "))
    };
    let operations = examples["operations"].as_object().unwrap().iter().map(|(id, operation)| {
        let mut entries = operation.as_object().unwrap().clone();
        let errors = entries.remove("errors").filter(|errors| errors != &json!({}));
        let own = (!entries.is_empty()).then(|| lines(&entries, "      "));
        let errors = errors.map(|errors| {
            format!("      \"errors\": {{\n{}\n      }}", lines(errors.as_object().unwrap(), "        "))
        });
        let parts: Vec<_> = own.into_iter().chain(errors).collect();
        format!("    {}: {{\n{}\n    }}", json!(id), parts.join(",\n"))
    });
    let operations: Vec<_> = operations.collect();
    let operations = format!("  \"operations\": {{\n{}\n  }}", operations.join(",\n"));
    format!("{{\n{},\n{},\n{operations}\n}}\n", section("common"), section("summaries"))
}

impl Operation<'_> {
    fn id(&self) -> &str {
        self.spec["operationId"].as_str().unwrap()
    }

    /// The request of the example, or none if the operation has no body.
    fn example_request(&self, client: &Client, path: &str) -> RequestBuilder {
        let request = self.request(client, path);
        let Some(content) = self.spec["requestBody"]["content"].as_object() else { return request };
        let (media_type, content) = content.iter().next().unwrap();
        let body = &content["example"];
        assert!(!body.is_null(), "{}: no example", self.name());
        let case = format!("the example request of {}", self.name());
        assert_valid(&self.document.validator(&content["schema"]), body, &case);
        if media_type == "application/json" { request.json(body) } else { request.form(body) }
    }

    /// The named examples of a response's body, or its single one without a name.
    fn response_examples(&self, status: &str) -> Vec<(String, &Value)> {
        let response = self.document.resolve(&self.spec["responses"][status]);
        let mut examples = Vec::new();
        for content in response["content"].as_object().into_iter().flat_map(Map::values) {
            for (name, example) in content["examples"].as_object().into_iter().flatten() {
                examples.push((name.clone(), &self.document.resolve(example)["value"]));
            }
            examples.extend(content.get("example").map(|example| (String::new(), example)));
        }
        examples
    }

    /// Asserts that the code of an error is among those of the examples.
    pub(super) fn assert_has_example_of(&self, answer: &Answer) {
        if answer.status < 400 || is_renewing() {
            return;
        }
        let code = Refusal::of(self, answer).code;
        let examples = self.response_examples(&answer.status.to_string());
        let names: Vec<_> = examples.into_iter().map(|(name, _)| name).collect();
        assert!(
            names.contains(&code),
            "{} {} {code}: no example among {names:?}; {HINT}",
            self.name(),
            answer.status
        );
    }
}

/// An error response.
pub(super) struct Refusal {
    operation: String,
    status: u16,
    code: String,
    body: Value,
}

impl Refusal {
    pub(super) fn of(operation: &Operation<'_>, answer: &Answer) -> Self {
        let oauth_code = answer.json["error"].as_str();
        let code = oauth_code.unwrap_or_else(|| answer.code()).to_owned();
        let body = shorten(answer.json.clone());
        Self { operation: operation.id().to_owned(), status: answer.status, code, body }
    }

    /// What the file has: the `error`, or the whole body of an OAuth error.
    fn stored(&self) -> &Value {
        if self.body["error"].is_string() { &self.body } else { &self.body["error"] }
    }

    fn key(&self) -> String {
        format!("{} {}", self.status, self.code)
    }
}

/// Asserts that each example of an error of these operations is what the server has answered. Errors of the server can't be
/// provoked here; a unit test compares them.
pub(super) fn check_errors<'d>(
    operations: impl Iterator<Item = Operation<'d>>,
    refusals: &[Refusal],
    has_common_errors: bool,
) {
    if is_renewing() {
        renew_errors(refusals, has_common_errors);
        return;
    }
    let mut compared = 0;
    for operation in operations {
        let statuses = operation.spec["responses"].as_object().unwrap().keys();
        for status in statuses.filter(|status| status.starts_with('4')) {
            let examples = operation.response_examples(status);
            assert!(!examples.is_empty(), "{} {status}: no example; {HINT}", operation.name());
            for (code, example) in examples {
                let case = format!("the example of {} {status} {code}", operation.name());
                let response = operation.document.resolve(&operation.spec["responses"][status]);
                let schema = &response["content"]["application/json"]["schema"];
                assert_valid(&operation.document.validator(schema), example, &case);
                let expected = if example["error"].is_string() { example } else { &example["error"] };
                let real: Vec<_> = refusals
                    .iter()
                    .filter(|refusal| {
                        refusal.operation == operation.id() && refusal.key() == format!("{status} {code}")
                    })
                    .map(Refusal::stored)
                    .collect();
                assert!(
                    real.contains(&expected),
                    "{case} is {expected}, but the server answered {real:#?}; {HINT}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 30, "{compared}");
}

/// Writes the last refusal of each operation and code. Those that several operations have are common.
fn renew_errors(refusals: &[Refusal], has_common_errors: bool) {
    let last: BTreeMap<_, _> =
        refusals.iter().map(|refusal| ((refusal.operation.as_str(), refusal.key()), refusal)).collect();
    let mut common = BTreeMap::new();
    if has_common_errors {
        let codes: BTreeSet<_> = last.values().map(|refusal| refusal.code.as_str()).collect();
        for code in codes {
            let errors: Vec<_> = last
                .values()
                .filter(|refusal| refusal.code == code)
                .map(|refusal| refusal.stored())
                .collect();
            let count = |error: &Value| errors.iter().filter(|other| **other == error).count();
            let most_frequent = errors.iter().max_by_key(|error| count(error)).unwrap();
            if !OWN_CODES.contains(&code) && count(most_frequent) >= MIN_COMMON_ERRORS {
                common.insert(code, (*most_frequent).clone());
            }
        }
    }
    renew(|examples| {
        for (code, error) in &common {
            examples["common"][*code] = error.clone();
        }
        let renewed: BTreeSet<_> = last.keys().map(|(id, _)| *id).collect();
        for id in renewed {
            examples["operations"][id]["errors"] = json!({});
        }
        for ((id, key), refusal) in last {
            if common.get(refusal.code.as_str()) != Some(refusal.stored()) {
                examples["operations"][id]["errors"][key] = refusal.stored().clone();
            }
        }
    });
}

/// Each request of the examples succeeds on a server with sample data, and the response has the form of its example.
#[tokio::test]
async fn requests_succeed_with_sample_data_as_they_stand() {
    let document = Document::load().strict();
    let server = dev::serve();
    let admin = server.admin();
    let mut recorded = BTreeMap::new();
    // In the order of the example calls, each operation finds the resources that it needs.
    let routes = example_calls().into_iter().map(|call| call.route);
    for route in routes.filter(|route| !matches!(route.dispatch, Dispatch::Page)) {
        let operation = document.operations().find(|operation| std::ptr::eq(operation.route, route)).unwrap();
        let mut path = operation.path();
        if operation.id() == "getAuditEvent" {
            let events = admin.get("/audit-logs").await;
            path = route.path.replace("{id}", events.data()[0]["id"].as_str().unwrap());
        }
        let client = match route.auth {
            AuthRequirement::OwnKey => own_client(&admin).await,
            _ => admin.clone(),
        };
        let answer = client.send(operation.example_request(&client, &path)).await;
        let status = operation.assert_documented(&answer);
        assert!((200..300).contains(&status), "{}: {answer:?}", operation.name());
        let Some(media_type) = answer.header("content-type") else { continue };
        let content = &operation.spec["responses"][status.to_string()]["content"][media_type];
        let example = &content["example"];
        let actual = if answer.json.is_null() { json!(answer.text) } else { answer.json.clone() };
        // The document doesn't contain itself.
        let is_document = operation.id() == "getOpenapi";
        let difference = if is_document { None } else { find_difference(example, &actual, "") };
        if is_renewing() && (example.is_null() || difference.is_some()) {
            recorded.insert(operation.id().to_owned(), shorten(actual));
            continue;
        }
        let case = format!("the example response of {}", operation.name());
        assert!(!example.is_null(), "{case} is missing; {HINT}");
        assert_eq!(difference, None, "{case}; {HINT}");
        assert_valid(&operation.document.validator(&content["schema"]), example, &case);
    }
    let csv = admin.get("/audit-logs/export?format=csv").await;
    let export = document.operation("exportAuditLog");
    let example = &export.spec["responses"]["200"]["content"][csv.header("content-type").unwrap()]["example"];
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    if is_renewing() {
        renew(|examples| {
            for (id, response) in recorded {
                examples["operations"][id]["response"] = response;
            }
            examples["operations"]["exportAuditLog"]["csv"] = shorten(json!(csv.text));
        });
    } else {
        assert_eq!(first_line(example.as_str().unwrap()), first_line(&csv.text));
    }
}

/// A client with a new key that can rotate itself.
async fn own_client(admin: &Client) -> Client {
    let key = admin.post("/api-keys", json!({"name": "own", "scopes": [], "self_rotation": true})).await;
    admin.with_key(key.data()["key"].as_str().unwrap())
}

/// Members whose content differs between resources.
const VARIABLE_MEMBERS: &[&str] = &["changes", "limits", "metadata", "plans"];

/// Says which object doesn't have the same members in both values. Lists may have different lengths, and `null` stands for
/// anything.
fn find_difference(example: &Value, actual: &Value, pointer: &str) -> Option<String> {
    match (example, actual) {
        (Value::Object(example), Value::Object(actual)) => {
            let names = |object: &Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            if names(example) != names(actual) {
                return Some(format!("{pointer}: {:?}, actually {:?}", names(example), names(actual)));
            }
            let mut compared = example.iter().filter(|(name, _)| !VARIABLE_MEMBERS.contains(&name.as_str()));
            compared
                .find_map(|(name, value)| find_difference(value, &actual[name], &format!("{pointer}/{name}")))
        }
        (Value::Array(example), Value::Array(actual)) => {
            find_difference(example.first()?, actual.first()?, &format!("{pointer}/0"))
        }
        _ => None,
    }
}

/// A response as an example: with short lists, and without what differs each time.
fn shorten(mut response: Value) -> Value {
    match &mut response {
        Value::Object(fields) => {
            if fields.contains_key("requestId") {
                fields.insert("requestId".to_owned(), json!("req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0"));
            }
            if fields.contains_key("start") && fields.contains_key("key") {
                fields.insert("start".to_owned(), json!(EXAMPLE_SECRET[..9]));
                fields.insert("key".to_owned(), json!(EXAMPLE_SECRET));
            }
            fields.values_mut().for_each(|value| *value = shorten(value.take()));
        }
        Value::Array(items) => {
            let most = if items.first().is_some_and(Value::is_object) { 2 } else { 5 };
            items.truncate(most);
            items.iter_mut().for_each(|item| *item = shorten(item.take()));
        }
        // Lines of an export.
        Value::String(text) if text.lines().count() > 2 => {
            *text = text.lines().take(2).fold(String::new(), |text, line| text + line + "\n");
        }
        _ => {}
    }
    response
}

#[test]
fn every_body_has_an_example_of_its_own() {
    let document = Document::load();
    let mut requests = BTreeSet::new();
    for operation in document.operations() {
        for (status, response) in operation.spec["responses"].as_object().unwrap() {
            let response = document.resolve(response);
            let has_content = response["content"].is_object();
            let examples = operation.response_examples(status);
            assert_eq!(!examples.is_empty(), has_content, "{} {status}: {HINT}", operation.name());
            let named = examples.iter().all(|(name, _)| status.starts_with('2') == name.is_empty());
            assert!(named, "{} {status}", operation.name());
        }
        let Some(content) = operation.spec["requestBody"]["content"].as_object() else { continue };
        for content in content.values() {
            assert!(requests.insert(content["example"].to_string()), "{}: not its own", operation.name());
        }
    }
    assert!(requests.len() > 15, "{}", requests.len());
    for response in document.0["components"]["examples"].as_object().unwrap().values() {
        assert!(!response["summary"].as_str().unwrap().is_empty(), "{response}");
    }
}
