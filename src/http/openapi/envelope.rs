//! The envelope around answers, as documented; [`reply`](super::super::reply) writes it.

use std::borrow::Cow;

use utoipa::openapi::schema::{AnyOf, ArrayItems, Schema, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::verification::Outcome;
use crate::error::{CODES, Code, Detail};
use crate::http::batch::OperationResult;

/// A refusal or a failure.
#[derive(ToSchema)]
#[schema(as = Error)]
pub struct Failure {
    /// Always `false`.
    #[schema(schema_with = never)]
    pub success: bool,
    /// What went wrong.
    pub error: ErrorBody,
    /// About the answer.
    pub metadata: ResponseMetadata,
}

/// What went wrong.
#[derive(ToSchema)]
pub struct ErrorBody {
    /// What to act on.
    pub code: Code,
    /// For people: what is wrong and what to do.
    #[schema(example = "The request has 2 faults; see details.")]
    pub message: String,
    /// All the single faults; empty when there are none to name.
    pub details: Vec<Detail>,
    /// With `BATCH_FAILED`: what became of each operation.
    #[schema(required = false)]
    pub results: Vec<OperationResult>,
}

/// About the answer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ResponseMetadata {
    /// When it was written.
    #[schema(format = DateTime, example = "2026-11-23T07:08:09.123Z")]
    pub timestamp: String,
    /// Leads to the request in the audit log; also in `X-Request-Id`.
    #[schema(example = "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub request_id: String,
}

/// About the page.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct ListMetadata {
    /// When it was written.
    #[schema(format = DateTime, example = "2026-11-23T07:08:09.123Z")]
    pub timestamp: String,
    /// Leads to the request in the audit log; also in `X-Request-Id`.
    #[schema(example = "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub request_id: String,
    /// Is there a next page?
    pub has_more: bool,
    /// What to send as `cursor` for the next page; `null` on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

fn constant(value: bool) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([value]))
}

/// Always `false`.
pub fn never() -> ObjectBuilder {
    constant(false)
}

/// Always `true`.
pub fn always() -> ObjectBuilder {
    constant(true)
}

/// Who may not pass `forward-auth` hears a code of the API, or why the key isn't good.
#[derive(ToSchema)]
pub struct Denial {
    /// Always `false`.
    #[schema(schema_with = never)]
    pub success: bool,
    /// What went wrong.
    pub error: DenialBody,
    /// About the answer.
    pub metadata: ResponseMetadata,
}

/// Why a request may not pass.
#[derive(ToSchema)]
pub struct DenialBody {
    /// What to act on; also in `X-Auth-Status`.
    #[schema(schema_with = any_code)]
    pub code: String,
    /// For people: what is wrong and what to do.
    #[schema(example = "The key lacks a scope that is needed.")]
    pub message: String,
    /// Always empty.
    pub details: Vec<Detail>,
}

fn any_code() -> Schema {
    let either = [<Code as ToSchema>::name(), <Outcome as ToSchema>::name()];
    Schema::AnyOf(AnyOf {
        items: either.map(|name| Ref::from_schema_name(name).into()).into(),
        ..AnyOf::new()
    })
}

/// The envelope around what an operation answers: a name for it and its schema. `None` for what goes
/// without, which is all that isn't a component of the document or an array of one.
pub fn around(data: &RefOr<Schema>) -> Option<(String, Schema)> {
    let (of, name, metadata) = match data {
        RefOr::Ref(one) => (one, "Answer", ResponseMetadata::name()),
        RefOr::T(Schema::Array(array)) => match &array.items {
            ArrayItems::RefOrSchema(items) => match items.as_ref() {
                RefOr::Ref(one) => (one, "List", ListMetadata::name()),
                RefOr::T(_) => return None,
            },
            ArrayItems::False => return None,
        },
        RefOr::T(_) => return None,
    };
    let of = of.ref_location.rsplit('/').next()?;
    let envelope = ObjectBuilder::new()
        .property("success", constant(true))
        .property("data", data.clone())
        .property("metadata", Ref::from_schema_name(metadata))
        .required("success")
        .required("data")
        .required("metadata");
    Some((format!("{of}{name}"), envelope.into()))
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "ErrorCode".into()
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("What to act on."))
            .enum_values(Some(CODES.iter().map(|(_, name, _)| *name)))
            .into()
    }
}
