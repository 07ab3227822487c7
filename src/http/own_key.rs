//! `/v1/keys/self`: what a key can see of itself and do to itself.

use serde::Serialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::openapi::params::IfMatch;
use super::reply::Reply;
use super::verification::{self, LimitState};
use crate::domain::access;
use crate::domain::api_key::{ApiKey, Revocation, Rotation};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::service::api_keys::ApiKeyWithSecret;
use crate::service::operation::Operation;
use crate::service::own_key;

/// The calling key, as it sees itself.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OwnKey<'a> {
    /// The key's id.
    #[schema(value_type = String, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    key_id: &'a str,
    /// The key's name.
    #[schema(value_type = String, example = "Production API Key")]
    name: &'a str,
    /// The key's organization; `null` for a platform key.
    #[schema(required, value_type = Option<String>, example = "org_123")]
    organization_id: Option<&'a str>,
    /// The key's scopes, with wildcards as granted.
    #[schema(value_type = Vec<String>, example = json!(["workflows:read", "transactions:write"]))]
    scopes: &'a [String],
    /// When the key expires; `null` if it doesn't.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// How the limits of the key and of its organization stand.
    #[schema(value_type = Vec<LimitState>)]
    limits: Box<RawValue>,
    /// The secret of this request.
    secret: OwnSecret,
}

/// The secret of a request.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OwnSecret {
    /// True if the key was rotated and this is its previous secret.
    superseded: bool,
    /// When the grace period of a previous secret ends; `null` for the current secret, which works as long as the key.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Get the calling key
///
/// For whoever holds a key: what it is, when it expires, how its limits stand, and whether the secret was replaced.
/// Nothing is charged. The request is neither in the audit log nor counted in usage.
#[utoipa::path(
    get, path = "/v1/keys/self", tag = "Self-service", operation_id = "getOwnKey",
    responses((status = 200, description = "The calling key.", body = OwnKey)),
)]
pub(crate) async fn get(call: Call) -> Result<Reply> {
    call.reject_query()?;
    let app = &call.app;
    let hash = call.ctx.secret.as_ref().ok_or_else(|| Error::internal("a key without a secret"))?;
    let record = app.keys.get_record(hash).await?.ok_or_else(access::invalid_api_key)?;
    let credential = &record.credential;
    access::ensure_usable(credential, app.clock.expiry_time())?;
    let limits = app.verifier.limits_of(&record).await?;
    let mut json = String::new();
    verification::push_limits(&mut json, &limits, app.clock.now());
    let ApiKey { id, name, organization_id, scopes, expires_at, .. } = &credential.key;
    Reply::ok(&OwnKey {
        key_id: id,
        name,
        organization_id: organization_id.as_deref(),
        scopes,
        expires_at: *expires_at,
        limits: RawValue::from_string(json).map_err(Error::internal)?,
        secret: OwnSecret { superseded: credential.is_superseded(), expires_at: credential.secret_ends_at },
    })
}

/// Revoke the calling key
///
/// Revokes the key permanently, from its next request on, for example because its secret has leaked. With the previous
/// secret of a rotated key, only that secret ends, as with `…/expire-previous`; the key and its current secret stay.
#[utoipa::path(
    post, path = "/v1/keys/self/revoke", tag = "Self-service", operation_id = "revokeOwnKey",
    params(IfMatch),
    request_body = Revocation,
    responses(
        (status = 200, description = "The revoked API key.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: the key is the last platform key that can manage keys from anywhere at any time."),
    ),
)]
pub(crate) async fn revoke(call: Call) -> Result<Operation> {
    call.reject_query()?;
    own_key::revoke(&call.ctx, call.path_param(0), call.body.as_ref())
}

/// Rotate the calling key
///
/// Replaces the secret of a key that has `self_rotation`; other keys get `403` (`SELF_ROTATION_NOT_ALLOWED`). The response
/// is the only one that contains the new secret, in `key`. The previous secret works until its grace period ends. The
/// key's expiry doesn't change. A repeated request with the previous secret is refused, so it doesn't rotate the key
/// twice.
#[utoipa::path(
    post, path = "/v1/keys/self/rotate", tag = "Self-service", operation_id = "rotateOwnKey",
    params(IfMatch),
    request_body = Rotation,
    responses((status = 200, description = "The API key with its new secret.", body = ApiKeyWithSecret, headers(("ETag")))),
)]
pub(crate) async fn rotate(call: Call) -> Result<Operation> {
    call.reject_query()?;
    own_key::rotate(&call.app, &call.ctx, call.path_param(0), call.body.as_ref()).await
}
