//! The OpenAPI document against the server that gives it.

mod answers;
mod data_plane;
mod document;
mod requests;

use std::collections::BTreeSet;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::openapi;
use tollhouse::http::routes::{ANY, AuthRequirement, Dispatch, Endpoint, ROUTES, Route};

use crate::support::{Client, Server};

/// The document.
struct Document(Value);

/// An operation of the document with its row in the table of routes.
struct Operation<'d> {
    document: &'d Document,
    route: &'static Route,
    /// What the document says of it.
    says: &'d Value,
}

impl Document {
    fn load() -> Self {
        Self(serde_json::from_str(openapi::text().unwrap()).unwrap())
    }

    /// `(METHOD, path)` and what is said of it.
    fn entries(&self) -> impl Iterator<Item = ((String, &str), &Value)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, says)| ((method.to_uppercase(), path.as_str()), says))
        })
    }

    fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.entries().filter_map(|((method, path), says)| {
            let route = routes().find(|route| documented(route) == (&method, path))?;
            Some(Operation { document: self, route, says })
        })
    }

    /// What a reference leads to, or the thing itself.
    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap_or_else(|| panic!("no {reference}")),
            None => value,
        }
    }

    /// What tells whether a value fits a schema, which may refer to the document's components.
    fn validator(&self, schema: &Value) -> Validator {
        let mut root = schema.clone();
        root["components"] = json!({"schemas": self.0["components"]["schemas"]});
        jsonschema::draft202012::new(&root).unwrap()
    }
}

impl Operation<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.route.method, self.route.path)
    }

    /// Its parameters of one kind: `path`, `query` or `header`.
    fn parameters(&self, kind: &str) -> Vec<&Value> {
        let all = self.says["parameters"].as_array().into_iter().flatten();
        all.filter(|parameter| parameter["in"] == kind).collect()
    }

    /// The schema of its JSON body.
    fn body(&self) -> Option<&Value> {
        self.body_as("application/json")
    }

    fn body_as(&self, kind: &str) -> Option<&Value> {
        let body = &self.says["requestBody"]["content"][kind];
        body.is_object().then(|| self.document.resolve(&body["schema"]))
    }

    /// A body with every documented field, from the examples.
    fn sample(&self) -> Option<Value> {
        let properties = self.body()?["properties"].as_object().unwrap();
        Some(properties.iter().map(|(name, schema)| (name.clone(), self.example(schema))).collect())
    }

    fn example(&self, schema: &Value) -> Value {
        let schema = self.document.resolve(schema);
        let places = ["/example", "/examples/0", "/default", "/enum/0"];
        let found = places.iter().find_map(|place| schema.pointer(place)).cloned();
        found.unwrap_or_else(|| match schema["oneOf"].get(0) {
            Some(first) => self.example(first),
            None => panic!("{}: no example in {schema}", self.name()),
        })
    }

    /// Its path, filled in with the examples of its parameters.
    fn path(&self) -> String {
        self.parameters("path").iter().fold(self.route.path.to_owned(), |path, parameter| {
            let name = parameter["name"].as_str().unwrap();
            path.replace(&format!("{{{name}}}"), parameter["example"].as_str().unwrap())
        })
    }

    /// A request to it. The path is the document's, so from the root.
    fn request(&self, client: &Client, path: &str) -> reqwest::RequestBuilder {
        let method: Method = documented(self.route).0.parse().unwrap();
        let request = client.request_at_root(method, path);
        let required =
            self.parameters("header").into_iter().filter(|parameter| parameter["required"] == true);
        // The only one there is: any state will do.
        required.fold(request, |request, parameter| request.header(parameter["name"].as_str().unwrap(), "*"))
    }

    /// Does it pass the gates of the control plane, with a key?
    fn is_gated(&self) -> bool {
        self.route.auth != AuthRequirement::Open && self.endpoint().is_none()
    }

    /// What it is in the data plane.
    fn endpoint(&self) -> Option<Endpoint> {
        match self.route.dispatch {
            Dispatch::DataPlane(endpoint) => Some(endpoint),
            Dispatch::Pipeline(_) | Dispatch::Page => None,
        }
    }
}

/// The routes of the API; pages are none.
fn routes() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| !matches!(route.dispatch, Dispatch::Page))
}

/// How a route stands in the document: what takes any method stands there by one that has no body.
fn documented(route: &Route) -> (&str, &str) {
    (if route.method == ANY { "GET" } else { route.method }, route.path)
}

/// A server with everything that the document's examples name: `org_123` with its member `user_123` and
/// its key `key_123`.
async fn world() -> Server {
    furnish(Server::start().await).await
}

async fn furnish(server: Server) -> Server {
    server.organization("org_123").await;
    server.user("user_123").await;
    for (path, body) in [
        ("/organizations/org_123/members", json!({"user_id": "user_123", "role": "member"})),
        (
            "/api-keys",
            json!({"id": "key_123", "organization_id": "org_123", "name": "n", "scopes": ["workflows:read"]}),
        ),
    ] {
        let answer = server.admin().post(path, body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    server
}

/// The names in a hint such as `Unknown field; supported fields are: name, email.`
fn hinted(message: &str) -> BTreeSet<&str> {
    let names = message.split_once(" are: ").map_or("", |(_, names)| names.trim_end_matches('.'));
    names.split(", ").filter(|name| !name.is_empty()).collect()
}

/// Fails unless the value fits.
fn assert_fits(validator: &Validator, value: &Value, what: &str) {
    if let Err(error) = validator.validate(value) {
        panic!("{what}: {error} at {}\n{value}", error.instance_path());
    }
}
