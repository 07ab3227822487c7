//! OpenAPI schemas of values that several resources share and that a Rust type can't describe. The parsers in
//! [`rules`](super::rules) enforce them.

use std::borrow::Cow;

use utoipa::openapi::schema::{AdditionalProperties, Object, Schema, SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::rules::MAX_METADATA_PAIRS;

/// Custom key-value pairs of a resource.
pub(crate) struct Metadata;

impl ToSchema for Metadata {
    fn name() -> Cow<'static, str> {
        "Metadata".into()
    }
}

impl PartialSchema for Metadata {
    fn schema() -> RefOr<Schema> {
        let example = serde_json::json!({ "team": "payments" });
        metadata_schema(metadata_value_schema(SchemaType::new(Type::String)))
            .description(Some("Custom key-value pairs."))
            .max_properties(Some(MAX_METADATA_PAIRS))
            .examples([example])
            .into()
    }
}

/// Custom key-value pairs in a merge patch.
pub(crate) struct MetadataPatch;

impl ToSchema for MetadataPatch {
    fn name() -> Cow<'static, str> {
        "MetadataPatch".into()
    }
}

impl PartialSchema for MetadataPatch {
    fn schema() -> RefOr<Schema> {
        let example = serde_json::json!({ "team": "billing", "cost_center": null });
        metadata_schema(metadata_value_schema(SchemaType::from_iter([Type::String, Type::Null])))
            .description(Some(
                "Key-value pairs to set; `null` removes a pair. Other pairs are kept. After the patch there \
                 must be at most 50 pairs.",
            ))
            .examples([example])
            .into()
    }
}

fn metadata_value_schema(kind: SchemaType) -> Object {
    ObjectBuilder::new().schema_type(kind).max_length(Some(500)).build()
}

fn metadata_schema(value: Object) -> ObjectBuilder {
    let name = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(40));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(Schema::from(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(value.into()))))
}
