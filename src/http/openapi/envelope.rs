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
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct Failure {
    /// Always `false`.
    #[schema(schema_with = never)]
    pub(crate) success: bool,
    /// What went wrong.
    pub(crate) error: ErrorBody,
    /// About the answer.
    pub(crate) metadata: ResponseMetadata,
}

/// What went wrong.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ErrorBody {
    /// What to act on.
    pub(crate) code: Code,
    /// For people: what is wrong and what to do.
    #[schema(example = "The request has 2 faults; see details.")]
    pub(crate) message: String,
    /// All the single faults; empty when there are none to name.
    pub(crate) details: Vec<Detail>,
    /// With `BATCH_FAILED`: what became of each operation.
    #[schema(required = false)]
    pub(crate) results: Vec<OperationResult>,
}

/// About the answer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ResponseMetadata {
    /// When it was written.
    #[schema(format = DateTime, example = "2026-11-23T07:08:09.123Z")]
    pub(crate) timestamp: String,
    /// Leads to the request in the audit log; also in `X-Request-Id`.
    #[schema(example = "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub(crate) request_id: String,
}

/// About the page.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ListMetadata {
    /// When it was written.
    #[schema(format = DateTime, example = "2026-11-23T07:08:09.123Z")]
    pub(crate) timestamp: String,
    /// Leads to the request in the audit log; also in `X-Request-Id`.
    #[schema(example = "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub(crate) request_id: String,
    /// Is there a next page?
    pub(crate) has_more: bool,
    /// What to send as `cursor` for the next page; `null` on the last.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

fn constant(value: bool) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([value]))
}

/// Always `false`.
pub(crate) fn never() -> ObjectBuilder {
    constant(false)
}

/// Always `true`.
pub(crate) fn always() -> ObjectBuilder {
    constant(true)
}

/// Who may not pass `forward-auth` hears a code of the API, or why the key isn't good.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct Denial {
    /// Always `false`.
    #[schema(schema_with = never)]
    pub(crate) success: bool,
    /// What went wrong.
    pub(crate) error: DenialBody,
    /// About the answer.
    pub(crate) metadata: ResponseMetadata,
}

/// Why a request may not pass.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct DenialBody {
    /// What to act on; also in `X-Auth-Status`.
    #[schema(schema_with = any_code)]
    pub(crate) code: String,
    /// For people: what is wrong and what to do.
    #[schema(example = "The key lacks a required scope.")]
    pub(crate) message: String,
    /// Always empty.
    pub(crate) details: Vec<Detail>,
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
pub(crate) fn around(data: &RefOr<Schema>) -> Option<(String, Schema)> {
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
