//! How values that more than one resource has look in the OpenAPI document, where a Rust type alone
//! can't say it. The rules themselves are read in [`rules`](super::rules).

use std::borrow::Cow;

use utoipa::openapi::schema::{AdditionalProperties, Object, Schema, SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::rules::MAX_METADATA;

/// The caller's own pairs.
pub(crate) struct Metadata;

impl ToSchema for Metadata {
    fn name() -> Cow<'static, str> {
        "Metadata".into()
    }
}

impl PartialSchema for Metadata {
    fn schema() -> RefOr<Schema> {
        let example = serde_json::json!({ "team": "payments" });
        pairs(text(SchemaType::new(Type::String)))
            .description(Some("The caller's own names and values."))
            .max_properties(Some(MAX_METADATA))
            .examples([example])
            .into()
    }
}

/// Pairs in a merge patch.
pub(crate) struct MetadataPatch;

impl ToSchema for MetadataPatch {
    fn name() -> Cow<'static, str> {
        "MetadataPatch".into()
    }
}

impl PartialSchema for MetadataPatch {
    fn schema() -> RefOr<Schema> {
        let example = serde_json::json!({ "team": "billing", "cost_center": null });
        pairs(text(SchemaType::from_iter([Type::String, Type::Null])))
            .description(Some(
                "Names and values to set; `null` takes a pair away. What is not named stays, and after \
                 the patch there are at most 50.",
            ))
            .examples([example])
            .into()
    }
}

fn text(kind: SchemaType) -> Object {
    ObjectBuilder::new().schema_type(kind).max_length(Some(500)).build()
}

fn pairs(value: Object) -> ObjectBuilder {
    let name = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(40));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(Schema::from(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(value.into()))))
}

/// The states of a key that a caller may set: good, or switched off for now.
#[derive(utoipa::ToSchema)]
#[schema(as = SettableApiKeyStatus, rename_all = "lowercase")]
#[expect(dead_code, reason = "only the derived documentation reads the variants")]
pub(crate) enum SettableStatus {
    Active,
    Disabled,
}

/// Whether an audit event looked or changed.
#[derive(utoipa::ToSchema)]
#[schema(as = AuditAccess, rename_all = "lowercase")]
#[expect(dead_code, reason = "only the derived documentation reads the variants")]
pub(crate) enum Access {
    Read,
    Write,
}

/// How what an audit event tells of ended: done, not allowed, or not possible.
#[derive(utoipa::ToSchema)]
#[schema(as = AuditOutcome, rename_all = "lowercase")]
#[expect(dead_code, reason = "only the derived documentation reads the variants")]
pub(crate) enum Outcome {
    Success,
    Denied,
    Failed,
}
