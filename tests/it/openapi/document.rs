//! The document itself, and compared with the route table.

use std::collections::BTreeSet;
use std::io::Read as _;

use flate2::read::GzDecoder;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderName, IF_NONE_MATCH};
use serde_json::{Value, json};
use strum::VariantArray;

use tollhouse::error::Code;
use tollhouse::http::routes::{self, AuthRequirement, Body, Endpoint};

use super::Document;
use super::generators::visit_objects;
use crate::support::{Binary, Server, assert_same_items};

#[tokio::test]
async fn the_server_and_the_command_line_give_the_same_text() {
    let server = Server::start().await;
    let served = reqwest::get(format!("{}/openapi.json", server.url)).await.unwrap();
    assert_eq!(served.status(), 200);
    assert_eq!(served.headers()["content-type"], "application/json");
    assert_eq!(served.headers()["cache-control"], "no-cache");
    assert!(served.headers().contains_key("x-request-id"));
    let served = served.text().await.unwrap();
    assert_eq!(served, routes::openapi_document().unwrap().text());
    let printed = Binary::run(&["openapi"]);
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stdout).unwrap().trim_end(), served);
}

/// The document in the repository is for those who have no server at hand.
#[test]
fn the_committed_document_is_current() {
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json")).unwrap();
    let is_current = committed.trim_end() == routes::openapi_document().unwrap().text();
    assert!(is_current, "docs/openapi.json is not current; run: cargo run -- openapi >docs/openapi.json");
}

/// The 3.0 variant has the same operations, schemas and examples, in the terms of 3.0.
#[test]
fn the_3_0_variant_has_no_terms_of_3_1() {
    let printed = Binary::run(&["openapi", "--version", "3.0", "--server", "https://api.example.com"]);
    assert!(printed.status.success());
    let old: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let Document(current) = Document::load();
    assert_eq!(old["openapi"], "3.0.3");
    assert_eq!(old["servers"], json!([{"url": "https://api.example.com"}]));
    for pointer in ["/paths", "/components/schemas", "/components/examples", "/components/responses"] {
        let names = |document: &Value| -> Vec<String> {
            document.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
        };
        assert_same_items(pointer, names(&old), names(&current));
    }
    assert_eq!(old["components"]["examples"], current["components"]["examples"]);
    let mut nullable = 0;
    visit_objects(&old, "", &mut |pointer, object| {
        if pointer.contains("/example") {
            return;
        }
        let is_properties = pointer.ends_with("/properties");
        if !is_properties {
            assert!(!object.get("type").is_some_and(Value::is_array), "{pointer}");
            assert!(!object.get("examples").is_some_and(Value::is_array), "{pointer}");
            for term in ["const", "propertyNames", "$defs", "oneOf"] {
                assert!(!object.contains_key(term), "{pointer}/{term}");
            }
            assert!(!object.contains_key("$ref") || object.len() == 1, "{pointer}");
            nullable += usize::from(object.contains_key("nullable"));
        }
    });
    assert!(nullable > 30, "{nullable}");
}

#[tokio::test]
async fn the_document_is_compressed_and_revalidated() {
    let server = Server::start().await;
    let http = reqwest::Client::new();
    let get = async |name: HeaderName, value: &str| {
        let url = format!("{}/openapi.json", server.url);
        http.get(url).header(ACCEPT_ENCODING, "gzip, br").header(name, value).send().await.unwrap()
    };
    let answer = get(ACCEPT, "*/*").await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert_eq!(answer.headers()["vary"], "accept-encoding");
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let compressed = answer.bytes().await.unwrap();
    let mut text = String::new();
    GzDecoder::new(&compressed[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, routes::openapi_document().unwrap().text());
    assert!(compressed.len() * 5 < text.len(), "{} of {} bytes", compressed.len(), text.len());

    for known in [etag.clone(), format!("W/{etag}")] {
        let answer = get(IF_NONE_MATCH, &known).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["etag"].to_str().unwrap()), (304, &*etag));
        assert!(answer.bytes().await.unwrap().is_empty());
    }
    assert_eq!(get(IF_NONE_MATCH, "\"other\"").await.status(), 200);
}

#[test]
fn info_and_security_scheme_are_documented() {
    let Document(document) = Document::load();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "Tollhouse");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let description = document["info"]["description"].as_str().unwrap();
    assert!(description.contains("Authorization: Bearer") && description.len() < 600, "{description}");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

/// Conventions of many operations are described where they apply.
#[test]
fn conventions_are_described_where_they_apply() {
    let document = Document::load();
    let text_at = |pointer: &str| {
        document.0.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}"))
    };
    for (pointer, expected) in [
        ("/components/securitySchemes/bearer/description", "platform key"),
        ("/components/headers/X-Request-Id/description", "1 to 128"),
        ("/components/headers/X-RateLimit-Limit/description", "no limit"),
        ("/components/headers/Retry-After/description", "Whole seconds"),
    ] {
        assert!(text_at(pointer).contains(expected), "{pointer}");
    }
    for operation in document.operations() {
        let described = |kind: &str, name: &str, expected: &str| {
            let all = operation.parameters(kind);
            let found = all.into_iter().find(|parameter| parameter["name"] == name);
            found.is_none_or(|parameter| parameter["description"].as_str().unwrap().contains(expected))
        };
        let name = operation.name();
        assert!(described("query", "cursor", "nextCursor"), "{name}");
        assert!(described("header", "If-Match", "412"), "{name}");
        assert!(described("header", "Idempotency-Key", "24 hours"), "{name}");
        if operation.route.method == "PATCH" {
            let body = operation.spec["requestBody"]["description"].as_str().unwrap();
            assert!(body.contains("RFC 7396"), "{name}");
        }
    }
}

/// Pages that try the API fill in examples and send them with every request. An example of `Idempotency-Key`
/// would make unrelated requests look like retries.
#[test]
fn no_header_has_an_example() {
    let document = Document::load();
    let mut headers = 0;
    for operation in document.operations() {
        for parameter in operation.parameters("header") {
            let filled = ["/example", "/examples", "/schema/example", "/schema/examples", "/schema/default"];
            let filled = filled.iter().find(|pointer| parameter.pointer(pointer).is_some());
            assert_eq!(filled, None, "{} {}", operation.name(), parameter["name"]);
            headers += 1;
        }
    }
    assert!(headers > 10, "{headers}");
}

/// Other security schemes than Bearer appear only at the operations that accept them.
#[test]
fn other_schemes_appear_only_where_they_are_accepted() {
    let document = Document::load();
    let mut accepted = BTreeSet::new();
    for operation in document.operations() {
        for requirement in operation.spec["security"].as_array().unwrap() {
            for scheme in requirement.as_object().unwrap().keys().filter(|scheme| *scheme != "bearer") {
                accepted.insert((scheme.clone(), operation.route.path));
            }
        }
    }
    let expected = [
        ("xApiKey", "/v1/forward-auth"),
        ("xApiKey", "/v1/forward-auth/{path}"),
        ("xApiKey", "/v1/keys/self"),
        ("xApiKey", "/v1/keys/self/revoke"),
        ("xApiKey", "/v1/keys/self/rotate"),
    ];
    let expected = expected.map(|(scheme, path)| (scheme.to_owned(), path));
    assert_same_items("other schemes", accepted, expected);
}

/// Behind a proxy that adds a path, addresses relative to the document include that path.
#[test]
fn addresses_are_relative_to_the_document() {
    let Document(document) = Document::load();
    let served = reqwest::Url::parse("https://example.com/tollhouse/openapi.json").unwrap();
    let [server] = document["servers"].as_array().unwrap().as_slice() else {
        panic!("{}", document["servers"])
    };
    for (reference, expected) in [
        (&server["url"], "https://example.com/tollhouse/"),
        (&document["externalDocs"]["url"], "https://example.com/tollhouse/docs/"),
    ] {
        assert_eq!(served.join(reference.as_str().unwrap()).unwrap().as_str(), expected);
    }
}

#[test]
fn operations_are_exactly_those_of_the_route_table() {
    let document = Document::load();
    let documented = document.entries().map(|((method, path), _)| format!("{method} {path}"));
    let served = super::routes().map(super::documented).map(|(method, path)| format!("{method} {path}"));
    assert_same_items("operations of the document", documented, served);
}

#[test]
fn security_matches_the_auth_requirement_of_the_route() {
    let document = Document::load();
    for operation in document.operations().filter(|operation| operation.endpoint().is_none()) {
        let spec = &operation.spec;
        let name = operation.name();
        let description = spec["description"].as_str().unwrap();
        let (scopes, platform): (&[&str], bool) = match operation.route.auth {
            AuthRequirement::Open => {
                assert_eq!(spec["security"], json!([]), "{name}");
                continue;
            }
            AuthRequirement::AnyKey => {
                assert_eq!(spec["security"], json!([{"bearer": []}]), "{name}");
                continue;
            }
            AuthRequirement::OwnKey => {
                assert_eq!(spec["security"], json!([{"bearer": []}, {"xApiKey": []}]), "{name}");
                continue;
            }
            AuthRequirement::Scope(scopes) => (scopes, false),
            AuthRequirement::Platform(scopes) => (scopes, true),
        };
        let any_of: Vec<Value> = scopes.iter().map(|scope| json!({"bearer": [scope]})).collect();
        assert_eq!(spec["security"], Value::Array(any_of), "{name}");
        assert_eq!(description.contains("Requires a platform key"), platform, "{name}");
        assert!(scopes.iter().all(|scope| description.contains(scope)), "{name}: {description}");
    }
}

/// The first words of operation ids, which become the names of methods in generated clients.
const VERBS: &[&str] = &[
    "create",
    "delete",
    "expire",
    "export",
    "forward",
    "get",
    "introspect",
    "list",
    "report",
    "revoke",
    "rotate",
    "run",
    "search",
    "update",
    "verify",
];

#[test]
fn every_operation_is_documented_completely() {
    let document = Document::load();
    let tags: Vec<_> = document.0["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for operation in document.operations() {
        let spec = operation.spec;
        let route = operation.route;
        let name = operation.name();
        let id = spec["operationId"].as_str().unwrap();
        assert!(id.starts_with(|c: char| c.is_ascii_lowercase()), "{id}");
        assert!(id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
        assert!(ids.insert(id), "{id} twice");
        let verb: String = id.chars().take_while(char::is_ascii_lowercase).collect();
        assert!(VERBS.contains(&verb.as_str()), "{id} must begin with a verb");
        assert!(!spec["summary"].as_str().unwrap().is_empty(), "{name}");
        assert!(tags.contains(&&spec["tags"][0]), "{name}");

        let placeholders = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let declared = operation.parameters("path").into_iter().map(|p| p["name"].as_str().unwrap());
        assert_same_items(&format!("path parameters of {name}"), declared, placeholders);

        assert_eq!(spec["requestBody"].is_object(), route.body != Body::None, "{name}");
        if route.body != Body::None {
            assert_eq!(spec["requestBody"]["required"], route.body == Body::Required, "{name}");
            let is_closed = operation.body().is_some_and(|body| body["additionalProperties"] == false);
            // RFC 7662 §2.1 allows additional parameters in the form.
            assert_eq!(is_closed, operation.endpoint() != Some(Endpoint::Introspect), "{name}");
            // Some generators refuse a body with two media types. The server also accepts merge-patch+json.
            let media_types = spec["requestBody"]["content"].as_object().unwrap().keys();
            let is_form = operation.endpoint() == Some(Endpoint::Introspect);
            let expected = if is_form { "application/x-www-form-urlencoded" } else { "application/json" };
            assert_eq!(media_types.collect::<Vec<_>>(), [expected], "{name}");
        }

        let answers = spec["responses"].as_object().unwrap();
        assert_eq!(answers.keys().filter(|status| status.starts_with('2')).count(), 1, "{name}");
        let storage_full = route.action.is_audited().then_some("507");
        for status in ["400", "401", "403", "429", "503"].into_iter().chain(storage_full) {
            assert!(!operation.requires_admin_key() || answers.contains_key(status), "{name} {status}");
        }
        for (status, answer) in answers {
            let answer = document.resolve(answer);
            assert!(answer["headers"]["X-Request-Id"].is_object(), "{name} {status}");
            if !status.starts_with('2') {
                let schema = &answer["content"]["application/json"]["schema"]["$ref"];
                let expected = match operation.endpoint() {
                    None | Some(Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage) => {
                        "#/components/schemas/ErrorResponse"
                    }
                    Some(Endpoint::Introspect) => "#/components/schemas/OauthError",
                    Some(Endpoint::ForwardAuth) => "#/components/schemas/Denial",
                };
                assert_eq!(schema, expected, "{name} {status}");
            } else if operation.requires_admin_key() {
                assert!(answer["headers"]["RateLimit"].is_object(), "{name} {status}");
            }
        }
    }
}

#[test]
fn error_codes_are_those_of_the_table() {
    let Document(document) = Document::load();
    let names: Vec<_> = Code::VARIANTS.iter().map(|code| code.name()).collect();
    assert_eq!(document["components"]["schemas"]["ErrorCode"]["enum"], json!(names));
}

#[test]
fn every_reference_resolves_and_every_schema_is_used() {
    let document = Document::load();
    let mut targets = BTreeSet::new();
    references(&document.0, &mut targets);
    for reference in &targets {
        assert!(document.0.pointer(&reference[1..]).is_some(), "{reference}");
    }
    for name in document.0["components"]["schemas"].as_object().unwrap().keys() {
        assert!(targets.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
    }
}

fn references(value: &Value, targets: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            targets.extend(entries.get("$ref").and_then(Value::as_str).map(str::to_owned));
            entries.values().for_each(|value| references(value, targets));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, targets)),
        Value::String(text) => {
            assert!(!text.contains("[`"), "a rustdoc link, which has no meaning in the document: {text}");
        }
        _ => {}
    }
}
