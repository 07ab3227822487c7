//! `POST /v1/keys/verify-batch`

use http::StatusCode;
use warp::reply::Response;

use super::data_plane_request::{DataPlaneRequest, RequestBody};
use super::verify_params::{KnownNames, VerifyKeys, VerifyParams};
use super::{call, reply, verification, verify};
use crate::error::{Code, Result};

/// Verify several API keys
///
/// Decides and counts up to 100 verifications in their order, as if each were sent alone. The response has a result for
/// each. If one is malformed, the whole request is refused before anything is decided. A verification that can't be
/// decided at the moment has the code `UNAVAILABLE`; the other results stand. The body may have 256 KiB.
#[utoipa::path(
    post, path = "/v1/keys/verify-batch", tag = "Verification", operation_id = "verifyKeys",
    request_body = VerifyKeys,
    responses(
        (status = 200, description = "The results, in the order of the verifications.", body = Vec<verification::Verification>),
        (status = 400, description = "`INVALID_JSON`, `INVALID_REQUEST` or `UNKNOWN_METER`: see `message` and `details`."),
        (status = 401, description = "`UNAUTHENTICATED` or `INVALID_API_KEY`: the calling key is missing or invalid."),
        (status = 403, description = "`IP_NOT_ALLOWED` or `INSUFFICIENT_SCOPE`: the calling key can't be used from this address, or lacks the scope."),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`"),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`"),
        (status = 429, description = "`RATE_LIMITED`: too many failed authentication attempts from this address. Valid keys are not affected."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
pub(crate) async fn answer(request: &DataPlaneRequest<'_>, body: RequestBody) -> Result<Response> {
    let (caller, body) = request.authorize_caller(body, false).await?;
    let media_type = call::check_media_type(&request.head.headers, false);
    let bytes = request.read_body(body, caller.key.organization_id.as_deref()).await;
    media_type?;
    let bytes = bytes?;
    call::parse_query_string(request.head.uri.query().unwrap_or_default()).finish(())?;
    let catalogue = request.app.catalogue().await?;
    let settings = request.app.settings.get().await?;
    let known = KnownNames { catalogue: &catalogue, meters: &settings.settings.meters };
    let list = VerifyParams::parse_list(&bytes, &known)
        .map_or_else(|| VerifyParams::parse_list_reporting_faults(&bytes, &known), Ok)?;
    drop((catalogue, settings));
    verify::ensure_may_name_keys(&caller, &list)?;
    let mut json = String::with_capacity(768 * list.len());
    json.push_str(r#"{"success":true,"data":["#);
    for (index, params) in list.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        let at = request.app.clock.read();
        match verify::verify(request, &caller, params, at).await {
            Ok(verdict) => verification::push_verdict(&mut json, &verdict, at.wall),
            Err(error) => {
                request.log_server_error(&error);
                verification::push_undecided(&mut json, Code::Unavailable);
            }
        }
    }
    json.push_str("],");
    reply::push_metadata(&mut json, request.app.clock.now(), &request.request_id);
    json.push('}');
    Ok(reply::json_response(StatusCode::OK, json))
}
