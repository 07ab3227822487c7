//! API keys that nobody's key creates or revokes: the first one, and those of the operator at the command line.

use std::sync::Arc;

use serde_json::Value;

use super::api_keys::{
    ApiKeyWithSecret, ChangedKey, audit_entry, get_visible, insert_key, new_platform_key, revoke_key,
};
use super::{RequestContext, mutate, read_audited, scopes};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::Action;
use crate::domain::api_key::{ApiKey, Status};
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::invalidation::Invalidation;
use crate::error::Result;
use crate::store;
use crate::verify::secret::Secret;

/// Creates the first API key, with the given secret; returns `None` if any key has ever existed. The first
/// key is exempt from the key policy of the settings, as are keys created by the operator: a policy must not
/// lock out the administrator who could change the policy.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn create_first_key(app: &App, secret: Secret) -> Result<Option<ApiKey>> {
    bootstrap_as(app, &RequestContext::internal(app, Caller::System, Action::CreateApiKey)?, secret).await
}

/// Creates the first API key like [`bootstrap`], with the caller and the time of `ctx`.
pub(super) async fn bootstrap_as(
    app: &App,
    ctx: &Arc<RequestContext>,
    secret: Secret,
) -> Result<Option<ApiKey>> {
    let start = secret.start(&app.settings.get().await?.known_prefixes);
    let new = new_platform_key(app, ctx, "First admin key", vec!["*".to_owned()], start)?;
    mutate(app, ctx, 201, move |tx, _| {
        if store::api_keys::any_key_exists(tx)? {
            return Ok((None, Vec::new()));
        }
        insert_key(tx, &new, &secret.hash())?;
        Ok((Some(new.clone()), vec![audit_entry(&new).with_changes(changed_fields(&Value::Null, &new))]))
    })
    .await
}

/// True if any API key has ever existed, including revoked ones.
pub(crate) async fn any_key_exists(app: &App) -> Result<bool> {
    app.db.read(store::api_keys::any_key_exists).await
}

/// Creates a platform key for the operator at the command line.
///
/// # Errors
/// `INVALID_REQUEST` for an unknown scope.
pub async fn create_as_operator(app: &App, name: &str, scopes: Vec<String>) -> Result<ApiKeyWithSecret> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::CreateApiKey)?;
    let current = app.settings.get().await?.to_arc();
    let secret = Secret::generate(&app.random, current.settings.keys.default_prefix())?;
    let new = new_platform_key(app, &ctx, name, scopes, secret.start(&current.known_prefixes))?;
    let hash = secret.hash();
    let api_key = mutate(app, &ctx, 201, move |tx, _| {
        scopes::ensure_scopes_exist(tx, &new.scopes)?;
        insert_key(tx, &new, &hash)?;
        Ok((new.clone(), vec![audit_entry(&new).with_changes(changed_fields(&Value::Null, &new))]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Lists all platform keys for the operator at the command line, oldest first.
pub(crate) async fn list_platform_keys(app: &App) -> Result<Vec<ApiKey>> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::ListApiKeys)?;
    let keys = read_audited(app, &ctx, |tx, _| {
        Ok((store::api_keys::platform_keys(tx)?, AuditEntry::without_target(None)))
    });
    Ok(keys.await?.into_iter().map(|key| key.effective_at(ctx.expiry_time)).collect())
}

/// True if this is the hash of a secret of an API key, current or earlier.
pub(crate) async fn is_known(app: &App, hash: [u8; 32]) -> Result<bool> {
    let found = app.db.read(move |tx| store::api_keys::find_credential_by_hash(tx, &hash)).await?;
    Ok(found.is_some())
}

/// Revokes an API key of any organization, or of the platform, for the operator at the command line.
///
/// # Errors
/// `NOT_FOUND`, and `CONFLICT` for the last platform key that can manage keys.
pub(crate) async fn revoke(app: &App, id: &str, reason: Option<String>) -> Result<ApiKey> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::RevokeApiKey)?;
    let (context, id) = (ctx.clone(), id.to_owned());
    mutate(app, &ctx, 200, move |tx, caller| {
        let ChangedKey { key, entry } = revoke_key(tx, caller, &context, &id, reason.as_deref())?;
        Ok((key, vec![entry]))
    })
    .await
}

/// Revokes a key that the operator has just created and whose secret nobody has seen. It may be the only recovery
/// key: it is of no use to anyone.
pub(crate) async fn withdraw(app: &App, id: &str) -> Result<()> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::RevokeApiKey)?;
    let id = id.to_owned();
    let now = ctx.now;
    mutate(app, &ctx, 200, move |tx, caller| {
        let before = get_visible(tx, caller, &id)?;
        let mut after = before.clone();
        after.status = Status::Revoked;
        after.revoked_at = Some(now);
        after.revoked_reason = Some("The secret could not be printed.".to_owned());
        after.revision += 1;
        after.updated_at = now;
        store::api_keys::update(tx, &before, &after)?;
        tx.invalidate(Invalidation::Id(id.clone()));
        Ok(((), vec![audit_entry(&after).with_changes(changed_fields(&before, &after))]))
    })
    .await
}
