//! `POST /v1/keys/verify`

use http::StatusCode;
use warp::reply::Response;

use super::data_plane_request::{DataPlaneRequest, RequestBody};
use super::verify_params::{GivenKey, KnownNames, VerifyKey, VerifyParams};
use super::{reply, verification};
use crate::clock::Reading;
use crate::domain::access;
use crate::domain::api_key::Credential;
use crate::error::Result;
use crate::service::key_lookup;
use crate::verify::verifier::{KeyToVerify, Verdict, VerifyRequest};

/// The scope that permits a caller to look keys up by their id.
const KEY_ID_SCOPES: &[&str] = &["admin:keys"];

/// Verify an API key
///
/// Checks whether a key is valid for the given scopes and client address. The response is 200 for valid
/// and invalid keys; check `valid` and `code`. A valid key is charged the costs on all limits of the key and its
/// organization; a denial charges nothing. With an organization key, keys of other organizations are
/// `NOT_FOUND`. Requests to this endpoint are not rate limited.
#[utoipa::path(
    post, path = "/v1/keys/verify", tag = "Verification", operation_id = "verifyKey",
    request_body = VerifyKey,
    responses(
        (status = 200, description = "The result.", body = verification::Verification),
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
    let (caller, bytes, at) = request.receive_json(body).await?;
    let catalogue = request.app.catalogue().await?;
    let settings = request.app.settings.get().await?;
    let known = KnownNames { catalogue: &catalogue, meters: &settings.settings.meters };
    let params = VerifyParams::parse(&bytes, &known)
        .map_or_else(|| VerifyParams::parse_reporting_faults(&bytes, &known), Ok)?;
    drop((catalogue, settings));
    ensure_may_name_keys(&caller, std::slice::from_ref(&params))?;
    let verdict = verify(request, &caller, &params, at, |_, _| Ok(())).await?;
    Ok(reply::json_response(StatusCode::OK, verification::write(&verdict, at.wall, &request.request_id)))
}

/// Returns `INSUFFICIENT_SCOPE` if a verification names its key by the id and the caller may not do that.
pub(super) fn ensure_may_name_keys(caller: &Credential, list: &[VerifyParams<'_>]) -> Result<()> {
    match list.iter().any(|params| matches!(params.key, GivenKey::Id(_))) {
        true => access::require_scope(&caller.key, KEY_ID_SCOPES),
        false => Ok(()),
    }
}

/// Verifies a key for this caller, at this time. A key that is named by its id is only checked, never charged.
/// `ensure_room` reserves the memory of the response, see
/// [`Verifier::verify_with_room`](crate::verify::verifier::Verifier::verify_with_room).
///
/// # Errors
/// Those of the verifier and of `ensure_room`.
pub(super) async fn verify(
    request: &DataPlaneRequest<'_>,
    caller: &Credential,
    params: &VerifyParams<'_>,
    at: Reading,
    ensure_room: impl Fn(&Credential, usize) -> Result<()>,
) -> Result<Verdict> {
    let app = request.app;
    let loaded;
    let (key, is_by_id) = match &params.key {
        GivenKey::Secret(secret) => (KeyToVerify::Secret(secret), false),
        GivenKey::Id(id) => {
            loaded = Box::pin(key_lookup::find_by_id(app, id.clone())).await?;
            (KeyToVerify::Loaded(loaded.as_ref()), true)
        }
    };
    let verification = VerifyRequest {
        key,
        scopes: &params.scopes,
        ip: params.ip,
        costs: params.costs.as_slice(),
        dry_run: params.dry_run || is_by_id,
        caller_organization_id: caller.key.organization_id.as_deref(),
    };
    let verdict = app.verifier.verify_with_room(&verification, at.wall, at.monotonic, ensure_room).await?;
    request.trace_verdict(&verdict);
    Ok(verdict)
}
