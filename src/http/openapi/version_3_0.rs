//! Converts the OpenAPI document to version 3.0.3, for tools that can't read 3.1.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Members whose values are data, not schemas.
const DATA: &[&str] = &["default", "enum", "example", "value"];

/// Converts a document.
pub(super) fn convert(document: &mut Value) {
    document["openapi"] = json!("3.0.3");
    // 3.0 identifies a license by its URL.
    if let Some(license) = document.pointer_mut("/info/license").and_then(Value::as_object_mut)
        && let Some(Value::String(identifier)) = license.remove("identifier")
    {
        license.insert("url".to_owned(), json!(format!("https://spdx.org/licenses/{identifier}.html")));
    }
    let types = collect_types(document);
    convert_value(document, &types);
}

/// The types of the document's schemas by their references.
type SchemaTypes = BTreeMap<String, Value>;

fn collect_types(document: &Value) -> SchemaTypes {
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let schemas = schemas.into_iter().flatten();
    schemas
        .map(|(name, schema)| {
            // One without a type combines objects.
            let kind = schema.get("type").cloned().unwrap_or_else(|| json!("object"));
            (format!("#/components/schemas/{name}"), kind)
        })
        .collect()
}

fn convert_value(value: &mut Value, types: &SchemaTypes) {
    match value {
        Value::Object(object) => convert_object(object, types),
        Value::Array(items) => items.iter_mut().for_each(|item| convert_value(item, types)),
        _ => {}
    }
}

fn convert_object(object: &mut Map<String, Value>, types: &SchemaTypes) {
    convert_null_type(object);
    convert_null_alternative(object, types);
    convert_reference(object);
    // A schema has a list of examples, a media type a map of them.
    if let Some(Value::Array(examples)) = object.get_mut("examples") {
        let first = examples.first_mut().map(Value::take);
        object.remove("examples");
        object.extend(first.map(|example| ("example".to_owned(), example)));
    }
    object.remove("propertyNames");
    if let Some(Value::Array(requirements)) = object.get_mut("security") {
        convert_security(requirements);
    }
    for (name, value) in object.iter_mut() {
        match value {
            // The names are those of fields.
            Value::Object(properties) if name == "properties" => {
                properties.values_mut().for_each(|property| convert_value(property, types));
            }
            _ if DATA.contains(&name.as_str()) => {}
            value => convert_value(value, types),
        }
    }
}

/// Replaces the type `null` in a list of types by `nullable`.
fn convert_null_type(schema: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = schema.get("type") else { return };
    let Some(kind) = types.iter().find(|kind| *kind != "null").cloned() else { return };
    schema.insert("type".to_owned(), kind);
    schema.insert("nullable".to_owned(), json!(true));
}

/// Replaces an alternative between a reference and `null` by a nullable reference, which needs a type.
fn convert_null_alternative(schema: &mut Map<String, Value>, types: &SchemaTypes) {
    let Some(Value::Array(alternatives)) = schema.get_mut("oneOf") else { return };
    let [reference, null] = alternatives.as_mut_slice() else { return };
    if null["type"] != "null" {
        return;
    }
    let mut reference = reference.take();
    // The description of the field stands beside the reference.
    let description = reference.as_object_mut().and_then(|reference| reference.remove("description"));
    schema.remove("oneOf");
    schema.extend(description.map(|description| ("description".to_owned(), description)));
    let kind = reference["$ref"].as_str().and_then(|reference| types.get(reference));
    schema.extend(kind.map(|kind| ("type".to_owned(), kind.clone())));
    schema.insert("allOf".to_owned(), json!([reference]));
    schema.insert("nullable".to_owned(), json!(true));
}

/// Moves a reference with other members beside it into `allOf`, because 3.0 ignores what stands beside a reference.
fn convert_reference(schema: &mut Map<String, Value>) {
    if schema.len() > 1
        && let Some(reference) = schema.remove("$ref")
    {
        schema.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
}

/// Removes the scopes of requirements, which 3.0 permits only for OAuth.
fn convert_security(requirements: &mut Vec<Value>) {
    let mut converted: Vec<Value> = Vec::new();
    for requirement in requirements.iter() {
        let schemes = requirement.as_object().into_iter().flat_map(Map::keys);
        let requirement: Map<_, _> = schemes.map(|scheme| (scheme.clone(), json!([]))).collect();
        let requirement = Value::Object(requirement);
        if !converted.contains(&requirement) {
            converted.push(requirement);
        }
    }
    *requirements = converted;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_converted_and_examples_are_not() {
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {"license": {"name": "MIT", "identifier": "MIT"}},
            "paths": {"/a": {"get": {"security": [{"bearer": ["a"]}, {"bearer": ["b"]}, {"other": []}]}}},
            "components": {"schemas": {
                "Text": {"type": ["string", "null"], "example": {"type": ["kept"]}},
                "Map": {"type": "object", "propertyNames": {"type": "string"}},
                "Fields": {"properties": {
                    "type": {"$ref": "#/a", "description": "d"},
                    "other": {"oneOf": [{"$ref": "#/components/schemas/Map", "description": "d"}, {"type": "null"}]},
                    "plain": {"$ref": "#/c"},
                }},
            }},
        });
        convert(&mut document);
        let expected = json!({
            "openapi": "3.0.3",
            "info": {"license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"}},
            "paths": {"/a": {"get": {"security": [{"bearer": []}, {"other": []}]}}},
            "components": {"schemas": {
                "Text": {"type": "string", "nullable": true, "example": {"type": ["kept"]}},
                "Map": {"type": "object"},
                "Fields": {"properties": {
                    "type": {"allOf": [{"$ref": "#/a"}], "description": "d"},
                    "other": {"type": "object", "allOf": [{"$ref": "#/components/schemas/Map"}], "nullable": true,
                        "description": "d"},
                    "plain": {"$ref": "#/c"},
                }},
            }},
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn the_first_example_of_a_schema_is_kept() {
        let mut document = json!({"schema": {"examples": [{"examples": [1]}, 2]}, "media": {"examples": {"a": {"value": 1}}}});
        convert_value(&mut document, &SchemaTypes::new());
        assert_eq!(document["schema"], json!({"example": {"examples": [1]}}));
        assert_eq!(document["media"], json!({"examples": {"a": {"value": 1}}}));
    }
}
