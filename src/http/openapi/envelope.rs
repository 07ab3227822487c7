//! Schemas of the response envelope; [`reply`](super::super::reply) writes it.

use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayItems, Schema, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr};

use crate::error::{Code, ErrorDetail};
use crate::http::batch::OperationResult;

/// An error response.
#[derive(ToSchema)]
#[schema(as = ErrorResponse)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ErrorEnvelope {
    /// Always `false`.
    #[schema(example = false)]
    pub(crate) success: bool,
    /// The code, message and details of the error.
    pub(crate) error: ErrorBody,
    /// Metadata of the response.
    pub(crate) metadata: ResponseMetadata,
}

/// The code, message and details of an error.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ErrorBody {
    /// The error code, for programs.
    pub(crate) code: Code,
    /// What is wrong and what to do, for people.
    #[schema(example = "The request has 2 faults; see details.")]
    pub(crate) message: String,
    /// All faults of the request; empty if there is nothing to add to the message.
    pub(crate) details: Vec<ErrorDetail>,
    /// With `BATCH_FAILED`: the result of each operation.
    #[schema(required = false)]
    pub(crate) results: Vec<OperationResult>,
}

/// Metadata of the response.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ResponseMetadata {
    /// When the response was written.
    #[schema(format = DateTime, example = "2026-11-23T07:08:09.123Z")]
    pub(crate) timestamp: String,
    /// The id of the request in the audit log; also in `X-Request-Id`.
    #[schema(example = "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub(crate) request_id: String,
}

/// Metadata of a page.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct ListMetadata {
    /// When the response was written.
    #[schema(format = DateTime, example = "2026-11-23T07:08:09.123Z")]
    pub(crate) timestamp: String,
    /// The id of the request in the audit log; also in `X-Request-Id`.
    #[schema(example = "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub(crate) request_id: String,
    /// True if there are more pages.
    pub(crate) has_more: bool,
    /// The `cursor` of the next page; `null` on the last page.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

/// A denial by `forward-auth`: an error code of the API, or the result of the key's verification.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct Denial {
    /// Always `false`.
    #[schema(example = false)]
    pub(crate) success: bool,
    /// The reason for the denial.
    pub(crate) error: DenialBody,
    /// Metadata of the response.
    pub(crate) metadata: ResponseMetadata,
}

/// The reason why a request is denied.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads the fields")]
pub(crate) struct DenialBody {
    /// An error code of the API (`ErrorCode`) or the outcome of the key's verification (`VerificationOutcome`), for programs;
    /// also in `X-Auth-Status`.
    #[schema(example = "INSUFFICIENT_SCOPE")]
    pub(crate) code: String,
    /// What is wrong and what to do, for people.
    #[schema(example = "The key lacks a required scope.")]
    pub(crate) message: String,
    /// Always empty.
    pub(crate) details: Vec<ErrorDetail>,
}

/// The name and schema of the envelope around a response's data. Only data whose schema is a component of the
/// document, or an array of a component, has an envelope; `None` for any other data. That of a page tells whether there
/// is more.
pub(crate) fn envelope_schema(data: &RefOr<Schema>, is_paged: bool) -> Option<(String, Schema)> {
    let metadata = if is_paged { ListMetadata::name() } else { ResponseMetadata::name() };
    let (component, suffix) = match data {
        RefOr::Ref(component) => (component, "Response"),
        RefOr::T(Schema::Array(array)) => match &array.items {
            ArrayItems::RefOrSchema(items) => match items.as_ref() {
                RefOr::Ref(component) => (component, "List"),
                RefOr::T(_) => return None,
            },
            ArrayItems::False => return None,
        },
        RefOr::T(_) => return None,
    };
    let component = component.ref_location.rsplit('/').next()?;
    // A plain boolean: many generators can't express a constant one.
    let success = ObjectBuilder::new().schema_type(Type::Boolean).description(Some("Always `true`."));
    let envelope = ObjectBuilder::new()
        .property("success", success)
        .property("data", data.clone())
        .property("metadata", Ref::from_schema_name(metadata))
        .required("success")
        .required("data")
        .required("metadata");
    Some((format!("{component}{suffix}"), envelope.into()))
}
