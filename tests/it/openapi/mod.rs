//! The OpenAPI document, compared with the server that publishes it.

mod answers;
mod data_plane;
mod document;
mod examples;
mod generators;
mod refusals;
mod requests;

use std::collections::BTreeSet;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::{self, ANY, AuthRequirement, Dispatch, Endpoint, ROUTES, Route};

use crate::support::{Client, Server};

struct Document(Value);

/// An operation of the document and its route.
struct Operation<'d> {
    document: &'d Document,
    route: &'static Route,
    /// The operation object of the document.
    spec: &'d Value,
}

impl Document {
    fn load() -> Self {
        Self(serde_json::from_str(routes::openapi_document().unwrap().text()).unwrap())
    }

    /// `(METHOD, path)` and the operation object of each operation.
    fn entries(&self) -> impl Iterator<Item = ((String, &str), &Value)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, spec)| ((method.to_uppercase(), path.as_str()), spec))
        })
    }

    fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.entries().filter_map(|((method, path), spec)| {
            let route = routes().find(|route| documented(route) == (&method, path))?;
            Some(Operation { document: self, route, spec })
        })
    }

    /// Follows a `$ref`; returns other values unchanged.
    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap_or_else(|| panic!("no {reference}")),
            None => value,
        }
    }

    /// A validator of a schema, which may refer to the document's components.
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

    /// The parameters of one kind: `path`, `query` or `header`.
    fn parameters(&self, kind: &str) -> Vec<&Value> {
        let all = self.spec["parameters"].as_array().into_iter().flatten();
        all.filter(|parameter| parameter["in"] == kind).collect()
    }

    /// The schema of the JSON body.
    fn body(&self) -> Option<&Value> {
        self.body_as("application/json")
    }

    fn body_as(&self, media_type: &str) -> Option<&Value> {
        let body = &self.spec["requestBody"]["content"][media_type];
        body.is_object().then(|| self.document.resolve(&body["schema"]))
    }

    /// A body with every documented field, built from the examples. Of `key` and `key_id`, which exclude each other, it
    /// has the one whose example can succeed: usage is reported for keys that exist.
    fn sample(&self) -> Option<Value> {
        let properties = self.body()?["properties"].as_object().unwrap();
        let excluded = match self.endpoint() {
            Some(Endpoint::ReportUsage) => "key",
            _ => "key_id",
        };
        let fields = properties.iter().filter(|(name, _)| *name != excluded);
        Some(fields.map(|(name, schema)| (name.clone(), self.example(schema))).collect())
    }

    fn example(&self, schema: &Value) -> Value {
        let schema = self.document.resolve(schema);
        let pointers = ["/example", "/examples/0", "/default", "/enum/0"];
        let example = pointers.iter().find_map(|pointer| schema.pointer(pointer)).cloned();
        example.unwrap_or_else(|| match schema["oneOf"].get(0) {
            Some(first) => self.example(first),
            None => panic!("{}: no example in {schema}", self.name()),
        })
    }

    /// The path, filled in with the examples of its parameters.
    fn path(&self) -> String {
        self.parameters("path").iter().fold(self.route.path.to_owned(), |path, parameter| {
            let name = parameter["name"].as_str().unwrap();
            path.replace(&format!("{{{name}}}"), parameter["example"].as_str().unwrap())
        })
    }

    /// A request to this operation. `path` is absolute, as in the document.
    fn request(&self, client: &Client, path: &str) -> reqwest::RequestBuilder {
        let method: Method = documented(self.route).0.parse().unwrap();
        let request = client.request_at_root(method, path);
        let required =
            self.parameters("header").into_iter().filter(|parameter| parameter["required"] == true);
        // The only required header is `If-Match`; `*` matches any version.
        required.fold(request, |request, parameter| request.header(parameter["name"].as_str().unwrap(), "*"))
    }

    /// A client with a key of its own, for an operation about the calling key; the key can rotate itself.
    async fn own_client(&self, server: &Server) -> Option<Client> {
        match self.route.auth {
            AuthRequirement::OwnKey => Some(server.own_key().await),
            _ => None,
        }
    }

    /// True if it is an operation of the control plane that requires a key.
    fn requires_admin_key(&self) -> bool {
        self.route.auth != AuthRequirement::Open && self.endpoint().is_none()
    }

    /// The data-plane endpoint, if it is one.
    fn endpoint(&self) -> Option<Endpoint> {
        match self.route.dispatch {
            Dispatch::DataPlane(endpoint) => Some(endpoint),
            _ => None,
        }
    }
}

/// The routes of the API, without the pages.
fn routes() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| !matches!(route.dispatch, Dispatch::Page))
}

/// Method and path of a route in the document. A route that accepts any method is documented as GET.
fn documented(route: &Route) -> (&str, &str) {
    (if route.method == ANY { "GET" } else { route.method }, route.path)
}

/// Starts a server with everything that the document's examples name: `org_123` with its member `user_123`
/// and its key `key_123`.
async fn seeded_server() -> Server {
    seed(Server::start().await).await
}

async fn seed(server: Server) -> Server {
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

/// The names in a message such as `Unknown field; supported fields are: name, email.`
fn known_names(message: &str) -> BTreeSet<&str> {
    let names = message.split_once(" are: ").map_or("", |(_, names)| names.trim_end_matches('.'));
    names.split(", ").filter(|name| !name.is_empty()).collect()
}

/// Asserts that the value matches the validator's schema.
fn assert_valid(validator: &Validator, value: &Value, case: &str) {
    if let Err(error) = validator.validate(value) {
        panic!("{case}: {error} at {}\n{value}", error.instance_path());
    }
}
