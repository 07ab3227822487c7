//! API keys as the operator at the command line lists and revokes them.

use super::api_keys::{audit_entry, get_visible, revoke_with_reason};
use super::{RequestContext, mutate, read_audited};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::api_key::{ApiKey, Status};
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::invalidation::Invalidation;
use crate::error::Result;
use crate::store;

/// Lists all platform keys for the operator at the command line, oldest first.
pub(crate) async fn list_platform_keys(app: &App) -> Result<Vec<ApiKey>> {
    let ctx = RequestContext::internal(app, Caller::Operator, "api_key.list", "read")?;
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
    let ctx = RequestContext::internal(app, Caller::Operator, "api_key.revoke", "write")?;
    revoke_with_reason(app, &ctx, id.to_owned(), reason).await
}

/// Revokes a key that the operator has just created and whose secret nobody has seen. It may be the only recovery
/// key: it is of no use to anyone.
pub(crate) async fn withdraw(app: &App, id: &str) -> Result<()> {
    let ctx = RequestContext::internal(app, Caller::Operator, "api_key.revoke", "write")?;
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
