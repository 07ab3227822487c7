//! `/admin/v1/api-keys`

use super::call::Call;
use super::openapi::params::{ApiKeyPath, ApiKeyQuery, IfMatch, PageQuery};
use super::reply::Reply;
use crate::domain::api_key::{ApiKey, ApiKeyPatch, NewApiKey, Revocation, Rotation};
use crate::error::Result;
use crate::service::api_keys::{self, ApiKeyWithSecret};
use crate::service::etag;

fn tag(key: &ApiKey) -> String {
    etag(key.created_at, key.revision)
}

/// Create a key
///
/// The only answer that shows the secret, in `key`: keep it, it can't be shown again. Without
/// `organization_id` a platform key makes a platform key and an organization's key one of its own.
/// Administrative scopes (`admin:*`, `keys:*`, `*`) are given only by a key that has them.
#[utoipa::path(
    post, path = "/admin/v1/api-keys", tag = "API keys", operation_id = "createApiKey",
    request_body = NewApiKey,
    responses(
        (status = 201, description = "Created.", body = ApiKeyWithSecret, headers(("ETag"))),
        (status = 404, description = "`NOT_FOUND`: the organization, or the user among its members."),
        (status = 409, description = "`ALREADY_EXISTS`: the `id` is taken, now or by a revoked key. `CONFLICT`: the organization's plan allows no more keys."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Reply> {
    call.no_query()?;
    let created = api_keys::create(&call.app, &call.ctx, call.body()?).await?;
    Ok(Reply::created(&created, Some(tag(&created.api_key)))?.with_secret())
}

/// List keys
///
/// An organization's key sees its organization's alone; naming another is a `404`.
#[utoipa::path(
    get, path = "/admin/v1/api-keys", tag = "API keys", operation_id = "listApiKeys",
    params(PageQuery, ApiKeyQuery),
    responses(
        (status = 200, description = "A page.", body = Vec<ApiKey>),
        (status = 404, description = "`NOT_FOUND`: the organization that is named is another one's."),
    ),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&api_keys::list(&call.app, &call.ctx, call.query()).await?)
}

/// Get a key
#[utoipa::path(
    get, path = "/admin/v1/api-keys/{id}", tag = "API keys", operation_id = "getApiKey",
    params(ApiKeyPath),
    responses((status = 200, description = "Found.", body = ApiKey, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Reply> {
    call.no_query()?;
    let found = api_keys::get(&call.app, &call.ctx, call.param(0)).await?.effective_at(call.ctx.now);
    Reply::tagged(&found, tag(&found))
}

/// Change a key
///
/// Holds from the next call with that key on. What the key gains must lie within what the caller has.
#[utoipa::path(
    patch, path = "/admin/v1/api-keys/{id}", tag = "API keys", operation_id = "updateApiKey",
    params(ApiKeyPath, IfMatch),
    request_body = ApiKeyPatch,
    responses(
        (status = 200, description = "As it is now.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: it is revoked, or the last platform key that can manage keys."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Reply> {
    call.no_query()?;
    let updated = api_keys::update(&call.app, &call.ctx, call.param(0), call.body()?).await?;
    Reply::tagged(&updated, tag(&updated))
}

/// Revoke a key
///
/// For good, and from the next call on. The key itself stays to be seen, as `revoked`.
#[utoipa::path(
    delete, path = "/admin/v1/api-keys/{id}", tag = "API keys", operation_id = "deleteApiKey",
    params(ApiKeyPath, IfMatch),
    responses(
        (status = 200, description = "Revoked.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: it is the last platform key that can manage keys."),
    ),
)]
pub(crate) async fn delete(call: Call) -> Result<Reply> {
    revoke(call).await
}

/// Revoke a key and say why
///
/// The same as deleting it, with a reason that is kept. One that is revoked already stays as it is.
#[utoipa::path(
    post, path = "/admin/v1/api-keys/{id}/revoke", tag = "API keys", operation_id = "revokeApiKey",
    params(ApiKeyPath, IfMatch),
    request_body = Revocation,
    responses(
        (status = 200, description = "Revoked.", body = ApiKey, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: it is the last platform key that can manage keys."),
    ),
)]
pub(crate) async fn revoke(call: Call) -> Result<Reply> {
    call.no_query()?;
    let revoked = api_keys::revoke(&call.app, &call.ctx, call.param(0), call.body.as_ref()).await?;
    Reply::tagged(&revoked, tag(&revoked))
}

/// Give a key a new secret
///
/// Answers with the new secret in `key`, this once. The old one works until the grace ends or
/// `…/expire-previous` is called; the one before it no longer does.
#[utoipa::path(
    post, path = "/admin/v1/api-keys/{id}/rotate", tag = "API keys", operation_id = "rotateApiKey",
    params(ApiKeyPath, IfMatch),
    request_body = Rotation,
    responses(
        (status = 200, description = "Rotated.", body = ApiKeyWithSecret, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: it has ended."),
    ),
)]
pub(crate) async fn rotate(call: Call) -> Result<Reply> {
    call.no_query()?;
    let rotated = api_keys::rotate(&call.app, &call.ctx, call.param(0), call.body.as_ref()).await?;
    Ok(Reply::tagged(&rotated, tag(&rotated.api_key))?.with_secret())
}

/// End the grace of a key's old secret
///
/// From the next call on, only the current secret works.
#[utoipa::path(
    post, path = "/admin/v1/api-keys/{id}/expire-previous", tag = "API keys", operation_id = "expirePreviousSecret",
    params(ApiKeyPath, IfMatch),
    responses((status = 200, description = "Ended.", body = ApiKey, headers(("ETag")))),
)]
pub(crate) async fn expire_previous(call: Call) -> Result<Reply> {
    call.no_query()?;
    let changed = api_keys::expire_previous(&call.app, &call.ctx, call.param(0)).await?;
    Reply::tagged(&changed, tag(&changed))
}
