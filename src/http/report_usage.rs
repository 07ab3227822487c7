//! `POST /v1/keys/usage`: what a request turned out to cost, reported afterwards.

use http::StatusCode;
use serde::Serialize;
use warp::reply::Response;

use super::costs::{self, Costs};
use super::data_plane_request::{DataPlaneRequest, RequestBody};
use super::reply;
use crate::domain::fields::{Fields, Json};
use crate::domain::rules;
use crate::error::{Error, Result};
use crate::service::operation::Answer;
use crate::service::usage_reports::{self, ReportedKey};

/// The maximum length of the id of a report, in characters.
const MAX_ID_CHARS: usize = 100;

/// What a request of a key turned out to cost.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct UsageReport {
    /// The key's id. Give either this or `key`.
    #[schema(nullable = false, min_length = 1, max_length = 69, example = "key_123")]
    key_id: Option<String>,
    /// The key that the client sent.
    #[schema(nullable = false, example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs")]
    key: Option<String>,
    #[schema(schema_with = costs::schema, required = true)]
    costs: Option<Costs>,
    /// A name for this report, unique for the key within 24 hours. Repeating the report with it counts only once.
    #[schema(nullable = false, min_length = 1, max_length = 100, example = "chatcmpl-8x2")]
    id: Option<String>,
}

/// Whether a report was counted.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct UsageReported {
    /// False if a report with this id was counted before.
    counted: bool,
}

/// Report usage afterwards
///
/// Charges what a request turned out to cost, such as the tokens of a language model. Costs are always recorded and
/// charged, even beyond the limits. A limit that is exceeded admits nothing until the excess is refilled (at most that of
/// 24 hours) or the period of the quota ends. Any key that the caller can access is accepted, even if it was revoked or has
/// expired. The response is sent when the report is stored.
#[utoipa::path(
    post, path = "/v1/keys/usage", tag = "Verification", operation_id = "reportUsage",
    request_body = UsageReport,
    responses(
        (status = 200, description = "The report is stored.", body = UsageReported),
        (status = 400, description = "`INVALID_JSON`, `INVALID_REQUEST` or `UNKNOWN_METER`: see `message` and `details`."),
        (status = 401, description = "`UNAUTHENTICATED` or `INVALID_API_KEY`: the calling key is missing or invalid."),
        (status = 403, description = "`IP_NOT_ALLOWED` or `INSUFFICIENT_SCOPE`: the calling key can't be used from this address, or lacks the scope."),
        (status = 404, description = "`NOT_FOUND`: there is no such key that the caller can access."),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`"),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`"),
        (status = 422, description = "`IDEMPOTENCY_MISMATCH`: a report with this id was made with other costs."),
        (status = 429, description = "`RATE_LIMITED`: too many failed authentication attempts from this address. Valid keys are not affected."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`: nothing was counted."),
        (status = 507, description = "`STORAGE_FULL`: nothing was counted."),
    ),
)]
pub(crate) async fn answer(request: &DataPlaneRequest<'_>, body: RequestBody) -> Result<Response> {
    let app = request.app;
    let (caller, bytes, _) = request.receive_json(body).await?;
    let (key, costs, id) = parse(request, &bytes).await?;
    // A report may wait, and its body is long.
    drop(bytes);
    let organization_id = caller.key.organization_id.as_deref();
    let report = usage_reports::report_on(app, &key, organization_id, costs.given(), id).await?;
    let counted = usage_reports::record(app, report).await?;
    let data = UsageReported { counted };
    let body = reply::envelope(&Answer::ok(&data)?, None, app.clock.now(), &request.request_id);
    Ok(reply::json_response(StatusCode::OK, body))
}

/// The key, the costs and the id of a report.
async fn parse(request: &DataPlaneRequest<'_>, bytes: &[u8]) -> Result<(ReportedKey, Costs, Option<String>)> {
    let mut json = Json::parse(bytes)?;
    request.redactor().flag_secrets(&mut json);
    let meters = request.app.settings.get().await?.to_arc();
    let mut fields = Fields::of(&json);
    let key = fields.optional("key", rules::parse_secret);
    let key_id = fields.optional("key_id", |json, faults| rules::parse_text(json, faults, 69));
    let costs = fields.required("costs", |json, faults| Costs::read(&meters.settings.meters, json, faults));
    let id = fields.optional("id", |json, faults| rules::parse_text(json, faults, MAX_ID_CHARS));
    if fields.is_given("key") == fields.is_given("key_id") {
        fields.add_fault("key_id", "INVALID_VALUE", "Give either key_id or key.");
    }
    let (key, key_id, costs, id) =
        fields.finish((key, key_id, costs, id)).map_err(Error::with_code_of_details)?;
    let key = match key {
        Some(secret) => ReportedKey::Secret(secret),
        None => ReportedKey::Id(key_id.unwrap_or_default()),
    };
    Ok((key, costs, id))
}
