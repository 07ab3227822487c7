//! `POST /v1/keys/verify-batch`

use std::sync::Arc;

use http::StatusCode;
use warp::reply::Response;

use super::data_plane_request::{DataPlaneRequest, RequestBody};
use super::verify_params::{KnownNames, VerifyKeys, VerifyParams};
use super::{reply, verification, verify};
use crate::domain::api_key::Credential;
use crate::error::{Code, Error, Result};

/// The number of required scopes that are checked at once. Each is compared with all scopes of a key.
const MAX_SCOPES_PER_TURN: usize = 100;

/// Verify several API keys
///
/// Decides and counts up to 100 verifications in their order, as if each were sent alone. The response has a result for
/// each. If one is malformed, the whole request is refused before anything is decided. A verification that can't be
/// decided at the moment, also because there is no memory for its result, has the code `UNAVAILABLE` and charges
/// nothing; the other results stand. The body may have 256 KiB.
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
    let (caller, bytes, _) = request.receive_json(body).await?;
    let catalogue = request.app.catalogue().await?;
    let settings = request.app.settings.get().await?;
    let known = KnownNames { catalogue: &catalogue, meters: &settings.settings.meters };
    let list = VerifyParams::parse_list(&bytes, &known)
        .map_or_else(|| VerifyParams::parse_list_reporting_faults(&bytes, &known), Ok)?;
    drop((catalogue, settings));
    verify::ensure_may_name_keys(&caller, &list)?;
    let organization_id = caller.key.organization_id.as_deref();
    let max_fixed_bytes = verification::MAX_FIXED_BYTES * (list.len() + 1);
    let memory = Arc::new(request.app.memory.data_plane.reserve(organization_id, max_fixed_bytes)?);
    let ensure_room = |credential: &Credential, limit_count| {
        memory.grow(verification::max_key_bytes(credential, limit_count))
    };
    let mut json = String::with_capacity(768 * list.len());
    json.push_str(r#"{"success":true,"data":["#);
    let mut errors: Vec<Error> = Vec::new();
    let mut checked_scopes = 0;
    for (index, params) in list.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        // Other connections of this thread are served in between.
        checked_scopes += params.scopes.len();
        if checked_scopes > MAX_SCOPES_PER_TURN {
            tokio::task::yield_now().await;
            checked_scopes = params.scopes.len();
        }
        let at = request.app.clock.read();
        match verify::verify(request, &caller, params, at, ensure_room).await {
            Ok(verdict) => verification::push_verdict(&mut json, &verdict, at.wall),
            Err(error) => {
                verification::push_undecided(&mut json, Code::Unavailable);
                // The first of each code is logged.
                if errors.iter().all(|earlier| earlier.code != error.code) {
                    errors.push(error);
                }
            }
        }
    }
    errors.iter().for_each(|error| request.log_server_error(error));
    json.push_str("],");
    reply::push_metadata(&mut json, request.app.clock.now(), &request.request_id);
    json.push('}');
    json.shrink_to_fit();
    memory.shrink_to(json.len());
    Ok(reply::json_response_in(memory, StatusCode::OK, json))
}
