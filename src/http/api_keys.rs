//! `/admin/v1/api-keys`

use super::call::Call;
use super::openapi::params::{ApiKeyExpandParams, ApiKeyPathParams, IfMatch};
use super::reply::Reply;
use crate::domain::api_key::{ApiKey, ApiKeyFilter, ApiKeyPatch, NewApiKey, Revocation, Rotation};
use crate::domain::expand::ExpandedApiKey;
use crate::domain::page::PageQuery;
use crate::error::Result;
use crate::service::api_keys::{self, ApiKeyWithSecret};
use crate::service::operation::Operation;

/// Create an API key
///
/// The response is the only one that contains the secret, in `key`. Store it: it can't be shown again.
/// Without `organization_id`, a platform key creates a platform key and an organization key creates a key of
/// its own organization. To grant administrative scopes (`admin:*`, `keys:*`, `*`), the calling key must have
/// them.
#[utoipa::path(
    post, path = "/admin/v1/api-keys", tag = "API keys", operation_id = "createApiKey",
    request_body = NewApiKey,
    responses(
        (status = 201, description = "Created.", body = ApiKeyWithSecret, headers(("ETag"))),
        (status = 404, description = "`NOT_FOUND`: the organization doesn't exist, or the user isn't one of its members."),
        (status = 409, description = "`ALREADY_EXISTS`: another key, possibly a revoked one, already has this `id`. `CONFLICT`: the organization has reached its plan's key limit."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Operation> {
    call.reject_query()?;
    api_keys::create(&call.app, &call.ctx, call.require_body()?, None).await
}

/// List API keys
///
/// With an organization key, returns only the keys of its organization; any other `organization_id` is a
/// `404`.
#[utoipa::path(
    get, path = "/admin/v1/api-keys", tag = "API keys", operation_id = "listApiKeys",
    params(PageQuery, ApiKeyFilter, ApiKeyExpandParams),
    responses(
        (status = 200, description = "A page of API keys.", body = Vec<ExpandedApiKey>),
        (status = 404, description = "`NOT_FOUND`: the calling key has no access to this organization."),
    ),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&api_keys::list(&call.app, &call.ctx, call.parse_query()).await?)
}

/// Get an API key
#[utoipa::path(
    get, path = "/admin/v1/api-keys/{id}", tag = "API keys", operation_id = "getApiKey",
    params(ApiKeyPathParams, ApiKeyExpandParams),
    responses((status = 200, description = "The API key.", body = ExpandedApiKey, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Operation> {
    api_keys::get(&call.ctx, call.path_param(0), call.parse_query())
}

/// Update an API key
///
/// Takes effect immediately, from the key's next request on. What the key gains must lie within the
/// calling key's own administrative scopes, expiry and allowlist.
#[utoipa::path(
    patch, path = "/admin/v1/api-keys/{id}", tag = "API keys", operation_id = "updateApiKey",
    params(ApiKeyPathParams, IfMatch),
    request_body = ApiKeyPatch,
    responses(
        (status = 200, description = "The updated API key.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: the key is revoked, or it is the last platform key that can manage keys from anywhere at any time."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Operation> {
    call.reject_query()?;
    api_keys::update(&call.app, &call.ctx, call.path_param(0), call.require_body()?).await
}

/// Revoke an API key
///
/// Revokes the key permanently, from its next request on. The key remains visible with status `revoked`.
#[utoipa::path(
    delete, path = "/admin/v1/api-keys/{id}", tag = "API keys", operation_id = "deleteApiKey",
    params(ApiKeyPathParams, IfMatch),
    responses(
        (status = 200, description = "The revoked API key.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: the key is the last platform key that can manage keys from anywhere at any time."),
    ),
)]
pub(crate) async fn delete(call: Call) -> Result<Operation> {
    revoke(call).await
}

/// Revoke an API key with a reason
///
/// Same as deleting the key, but records a reason. A key that is already revoked doesn't change.
#[utoipa::path(
    post, path = "/admin/v1/api-keys/{id}/revoke", tag = "API keys", operation_id = "revokeApiKey",
    params(ApiKeyPathParams, IfMatch),
    request_body = Revocation,
    responses(
        (status = 200, description = "The revoked API key.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: the key is the last platform key that can manage keys from anywhere at any time."),
    ),
)]
pub(crate) async fn revoke(call: Call) -> Result<Operation> {
    call.reject_query()?;
    api_keys::revoke(&call.ctx, call.path_param(0), call.body.as_ref())
}

/// Rotate an API key
///
/// Replaces the secret. The response is the only one that contains the new secret, in `key`. The previous
/// secret works until its grace period ends or `…/expire-previous` is called; any older secret stops working.
#[utoipa::path(
    post, path = "/admin/v1/api-keys/{id}/rotate", tag = "API keys", operation_id = "rotateApiKey",
    params(ApiKeyPathParams, IfMatch),
    request_body = Rotation,
    responses(
        (status = 200, description = "The API key with its new secret.", body = ApiKeyWithSecret, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: the key is revoked or expired."),
    ),
)]
pub(crate) async fn rotate(call: Call) -> Result<Operation> {
    call.reject_query()?;
    api_keys::rotate(&call.app, &call.ctx, call.path_param(0), call.body.as_ref()).await
}

/// Expire the previous secret
///
/// Ends the grace period of a rotated key immediately: from the next request on, only the current secret
/// works.
#[utoipa::path(
    post, path = "/admin/v1/api-keys/{id}/expire-previous", tag = "API keys", operation_id = "expirePreviousSecret",
    params(ApiKeyPathParams, IfMatch),
    responses((status = 200, description = "The updated API key.", body = ApiKey, headers(("ETag")))),
)]
pub(crate) async fn expire_previous_secret(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(api_keys::expire_previous(&call.ctx, call.path_param(0)))
}
