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
use crate::service::{key_lookup, usage_reports};
use crate::verify::report_queue;

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
    #[schema(nullable = false, example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU0aBcDe")]
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
    let (caller, bytes, _) = request.receive_json(body).await?;
    let organization_id = caller.key.organization_id.as_deref();
    let app = request.app;
    let mut json = Json::parse(&bytes)?;
    request.redactor().flag_secrets(&mut json);
    let meters = app.settings.get().await?.to_arc();
    let mut fields = Fields::of(&json);
    let key = fields.optional("key", |json, faults| faults.expect_unstored_string(json).map(str::to_owned));
    let key_id = fields.optional("key_id", |json, faults| rules::parse_text(json, faults, 69));
    let costs = fields.required("costs", |json, faults| Costs::read(&meters.settings.meters, json, faults));
    let id = fields.optional("id", |json, faults| rules::parse_text(json, faults, MAX_ID_CHARS));
    if key.is_some() == key_id.is_some() {
        fields.add_fault("key_id", "INVALID_VALUE", "Give either key_id or key.");
    }
    let (key, key_id, costs, id) =
        fields.finish((key, key_id, costs, id)).map_err(Error::with_code_of_details)?;
    let record = match (key, key_id) {
        (Some(secret), _) => key_lookup::find_by_secret(app, &secret).await?,
        (None, key_id) => key_lookup::find_by_id(app, key_id.unwrap_or_default()).await?,
    };
    let record =
        key_lookup::visible_to(record, organization_id).ok_or_else(|| Error::not_found("API key"))?;
    let report = report_queue::UsageReport { record, costs: costs.given(), id };
    let counted = usage_reports::record(app, report).await?;
    let data = UsageReported { counted };
    let body = reply::envelope(&Answer::ok(&data)?, None, app.clock.now(), &request.request_id);
    Ok(reply::json_response(StatusCode::OK, body))
}
