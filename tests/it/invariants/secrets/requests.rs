//! Requests with a text in every parameter and field of every route.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollhouse::http::routes::{self, ANY, AuthRequirement, Dispatch, ROUTES, Route};

use crate::support::{Answer, Client};

/// Stands in a [`Field::body`] for the text to put there.
pub(super) const PLACEHOLDER: &str = "PLACEHOLDER";

/// The number of requests that run at the same time.
const PARALLEL: usize = 32;

pub(super) struct Api {
    pub(super) operations: Vec<Operation>,
}

/// A route, with its parameters and fields as the OpenAPI document describes them.
pub(super) struct Operation {
    pub(super) route: &'static Route,
    pub(super) method: Method,
    /// The names of the query parameters.
    query: Vec<String>,
    /// The names of the documented headers.
    pub(super) headers: Vec<String>,
    pub(super) fields: Vec<Field>,
}

/// A place in a request body, and a body that has only this field, with [`PLACEHOLDER`] in it.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) pointer: String,
    pub(super) body: Value,
    /// True if the field accepts text.
    pub(super) is_text: bool,
}

impl Field {
    /// True for the fields of a batch operation that are recorded or passed on instead of stored: its path, and
    /// its body, which the operation itself refuses.
    pub(super) fn is_recorded_only(&self) -> bool {
        self.pointer == "/operations/0/path" || self.pointer.starts_with("/operations/0/body")
    }

    /// The field inside an object, an array or a map.
    fn inside(self, name: &str, wrap: impl FnOnce(Value) -> Value) -> Self {
        Self { pointer: format!("/{name}{}", self.pointer), body: wrap(self.body), is_text: self.is_text }
    }
}

impl Api {
    pub(super) fn load() -> Self {
        let document: Value = serde_json::from_str(routes::openapi_document().unwrap().text()).unwrap();
        let operations = ROUTES.iter().map(|route| {
            let any = route.method == ANY;
            let method: Method = if any { Method::GET } else { route.method.parse().unwrap() };
            let spec = &document["paths"][route.path][method.as_str().to_lowercase()];
            // Pages are not part of the document.
            assert!(spec.is_object() || matches!(route.dispatch, Dispatch::Page), "{}", route.path);
            let names = |kind: &str| {
                let parameters = spec["parameters"].as_array().into_iter().flatten();
                let of_kind = parameters.filter(|parameter| parameter["in"] == kind);
                of_kind.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
            };
            let schema = &spec["requestBody"]["content"]["application/json"]["schema"];
            let fields = if schema.is_object() { fields_of(&document, schema) } else { Vec::new() };
            Operation { route, method, query: names("query"), headers: names("header"), fields }
        });
        Self { operations: operations.collect() }
    }
}

/// All places of a JSON body with this schema.
fn fields_of(document: &Value, schema: &Value) -> Vec<Field> {
    if let Some(reference) = schema["$ref"].as_str() {
        return fields_of(document, document.pointer(&reference[1..]).unwrap());
    }
    let alternatives =
        ["oneOf", "anyOf", "allOf"].iter().filter_map(|name| schema[*name].as_array()).flatten();
    let mut fields: Vec<Field> = alternatives.flat_map(|schema| fields_of(document, schema)).collect();
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        other => vec![other.clone()],
    };
    let here = |is_text| Field { pointer: String::new(), body: json!(PLACEHOLDER), is_text };
    for kind in types.iter().filter_map(Value::as_str) {
        match kind {
            "object" => {
                let properties = schema["properties"].as_object().into_iter().flatten();
                for (name, child) in properties {
                    let children = fields_of(document, child).into_iter();
                    fields.extend(children.map(|field| field.inside(name, |value| json!({ name: value }))));
                }
                let additional = &schema["additionalProperties"];
                if additional.is_object() {
                    let children = fields_of(document, additional).into_iter();
                    fields.extend(children.map(|field| field.inside("a", |value| json!({"a": value}))));
                    let body = json!({ PLACEHOLDER: "x" });
                    fields.push(Field { pointer: format!("/{PLACEHOLDER}"), body, is_text: true });
                } else if schema["properties"].is_null() {
                    let body = json!({ PLACEHOLDER: PLACEHOLDER });
                    fields.push(Field { pointer: format!("/{PLACEHOLDER}"), body, is_text: true });
                }
            }
            "array" => {
                let children = fields_of(document, &schema["items"]).into_iter();
                fields.extend(children.map(|field| field.inside("0", |value| json!([value]))));
            }
            "string" => fields.push(here(true)),
            "integer" | "number" | "boolean" => fields.push(here(false)),
            _ => {}
        }
    }
    fields
}

impl Operation {
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.route.method, self.route.path)
    }

    /// True if it is an operation of the Admin API.
    pub(super) fn is_admin(&self) -> bool {
        self.route.path.starts_with("/admin/")
    }

    /// The path with existing resources in it.
    pub(super) fn path_of_examples(&self) -> String {
        let id = if self.route.path.contains("organizations") { "org_123" } else { "key_123" };
        let path = self.route.path.replace("{id}", id).replace("{user_id}", "user_123");
        path.replace("{scope}", "a:b").replace("{path}", "x").replace("{*path}", "x")
    }

    /// A request to this path. One that would end the secret of its caller has a body that is refused.
    pub(super) fn request_at(&self, client: &Client, path: &str) -> RequestBuilder {
        let request = client.request_at_root(self.method.clone(), path);
        let ends_secret = self.route.auth == AuthRequirement::OwnKey && self.method != Method::GET;
        if ends_secret { request.json(&json!({"unknown": 1})) } else { request }
    }

    pub(super) fn request(&self, client: &Client) -> RequestBuilder {
        let request = self.request_at(client, &self.path_of_examples());
        // The only required header.
        if self.headers.iter().any(|name| name == "If-Match") {
            request.header("if-match", "*")
        } else {
            request
        }
    }

    /// Paths with the text in each path parameter, in all query parameters and behind the path.
    pub(super) fn paths_with(&self, text: &str) -> Vec<String> {
        let examples = self.path_of_examples();
        let parts: Vec<&str> = self.route.path.split('/').collect();
        let parameters = (0..parts.len()).filter(|index| parts[*index].starts_with('{'));
        let mut paths: Vec<String> = parameters
            .map(|index| {
                let mut parts: Vec<&str> = examples.split('/').collect();
                parts[index] = text;
                parts.join("/")
            })
            .collect();
        let query: Vec<_> = self.query.iter().map(|name| format!("{name}={text}")).collect();
        paths.extend([format!("{examples}?{}", query.join("&")), format!("{examples}?{text}")]);
        paths.extend([format!("{examples}{text}"), format!("{examples}/{text}")]);
        paths
    }

    /// The path with the text in one query parameter, for each of them and an unknown one.
    pub(super) fn queries_with(&self, text: &str) -> Vec<String> {
        let examples = self.path_of_examples();
        let names = self.query.iter().map(String::as_str).chain(["unknown"]);
        names.map(|name| format!("{examples}?{name}={text}")).collect()
    }
}

/// Sends all requests, several at a time; returns the answers in the same order.
pub(super) async fn send_all(requests: Vec<RequestBuilder>) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
    let mut running = JoinSet::new();
    let mut waiting = requests.into_iter().enumerate();
    loop {
        while running.len() < PARALLEL {
            let Some((index, request)) = waiting.next() else { break };
            running.spawn(async move { (index, Client::try_send(request).await.unwrap()) });
        }
        let Some(finished) = running.join_next().await else { break };
        let (index, answer) = finished.unwrap();
        answers[index] = Some(answer);
    }
    answers.into_iter().map(Option::unwrap).collect()
}
