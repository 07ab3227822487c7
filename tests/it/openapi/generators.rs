//! The document avoids what client generators can't express. Each rule stands for code that did not compile, or that lost
//! fields.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Document;

/// Names of types in the runtimes of generated clients, and of global types of their languages.
const RESERVED_NAMES: &[&str] = &[
    "ApiClient",
    "ApiError",
    "ApiException",
    "ApiResponse",
    "BaseAPI",
    "Client",
    "Configuration",
    "Date",
    "Error",
    "File",
    "Map",
    "Middleware",
    "Object",
    "Request",
    "RequestContext",
    "RequestOptions",
    "Response",
    "ResponseError",
    "Server",
    "Set",
    "String",
];

/// Calls `visit` with every object of a JSON value and its JSON pointer.
pub(super) fn visit_objects(
    value: &Value,
    pointer: &str,
    visit: &mut impl FnMut(&str, &serde_json::Map<String, Value>),
) {
    match value {
        Value::Object(fields) => {
            visit(pointer, fields);
            for (name, value) in fields {
                visit_objects(value, &format!("{pointer}/{name}"), visit);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit_objects(item, &format!("{pointer}/{index}"), visit);
            }
        }
        _ => {}
    }
}

/// The schemas of the document, without examples, which can contain anything.
fn schemas(document: &Document) -> Vec<(String, serde_json::Map<String, Value>)> {
    let mut all = Vec::new();
    visit_objects(&document.0, "", &mut |pointer, fields| {
        let is_schema =
            ["type", "$ref", "oneOf", "anyOf", "allOf"].iter().any(|name| fields.contains_key(*name));
        if is_schema && !pointer.contains("/example") {
            all.push((pointer.to_owned(), fields.clone()));
        }
    });
    assert!(all.len() > 500, "only {} schemas", all.len());
    all
}

#[test]
fn schemas_have_no_constants() {
    for (pointer, schema) in schemas(&Document::load()) {
        assert!(!schema.contains_key("const"), "{pointer}");
        // Enumerations of booleans break every response in some generated clients.
        let values = schema.get("enum").and_then(Value::as_array);
        assert!(values.is_none_or(|values| values.iter().all(|value| !value.is_boolean())), "{pointer}");
    }
}

/// Alternatives without a discriminator lose fields. The exception is a reference that may be `null`.
#[test]
fn schemas_have_no_alternatives_but_null() {
    for (pointer, schema) in schemas(&Document::load()) {
        assert!(!schema.contains_key("anyOf"), "{pointer}");
        if let Some(alternatives) = schema.get("oneOf") {
            let alternatives = alternatives.as_array().unwrap();
            let is_nullable_reference = alternatives.len() == 2
                && alternatives[0]["$ref"].is_string()
                && alternatives[1] == serde_json::json!({"type": "null"});
            assert!(is_nullable_reference, "{pointer}");
        }
    }
}

/// Some generators make a field with a default required. Parameters are not affected.
#[test]
fn fields_have_no_defaults() {
    for (pointer, schema) in schemas(&Document::load()) {
        let is_parameter = pointer.contains("/parameters/");
        assert!(is_parameter || !schema.contains_key("default"), "{pointer}");
    }
}

/// Generators choose a 32-bit type for an integer without a format.
#[test]
fn integers_beyond_32_bits_have_a_format() {
    for (pointer, schema) in schemas(&Document::load()) {
        let is_wide = schema
            .get("maximum")
            .and_then(Value::as_u64)
            .is_some_and(|max| max > u64::from(i32::MAX.unsigned_abs()));
        assert!(!is_wide || schema["format"] == "int64", "{pointer}");
    }
}

/// Some generators make an object without declared fields a type that can't have any.
#[test]
fn objects_declare_what_they_contain() {
    for (pointer, schema) in schemas(&Document::load()) {
        let is_object = schema.get("type").is_some_and(|kind| kind == "object");
        let has_content = schema.contains_key("properties") || schema.contains_key("additionalProperties");
        assert!(!is_object || has_content, "{pointer}");
    }
}

#[test]
fn names_of_schemas_do_not_collide_with_generated_code() {
    let document = Document::load();
    let names: BTreeSet<&str> =
        document.0["components"]["schemas"].as_object().unwrap().keys().map(String::as_str).collect();
    for name in &names {
        assert!(!RESERVED_NAMES.contains(name), "{name} is a type of generated clients");
        // Go: the constructor of `User` is `NewUser`.
        assert!(!name.starts_with("New"), "{name} collides with a constructor");
    }
    for operation in document.operations() {
        let id = operation.spec["operationId"].as_str().unwrap();
        let method = format!("{}{}", id[..1].to_uppercase(), &id[1..]);
        // The types of an operation's parameters and responses.
        for suffix in ["Request", "Response", "Responses", "Data", "Error", "Errors", "Params", "Body"] {
            let name = format!("{method}{suffix}");
            assert!(!names.contains(name.as_str()), "{name} collides with a type of {id}");
        }
    }
}
