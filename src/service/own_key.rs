//! What a key can do to itself: revoke and rotate. Both are the operations of [`api_keys`] on the calling key.

use std::sync::Arc;

use super::operation::Operation;
use super::{RequestContext, api_keys};
use crate::app::App;
use crate::domain::action::Action;
use crate::domain::fields::Json;
use crate::error::Result;

/// Prepares the revocation of the calling key, whose id is `id`. With the previous secret of a rotated key, only that
/// secret ends.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) fn revoke(ctx: &Arc<RequestContext>, id: String, body: Option<&Json>) -> Result<Operation> {
    let mut revocation = api_keys::revoke(ctx, id.clone(), body)?;
    let mut expiration = api_keys::expire_previous(ctx, id);
    Ok(Operation::new(move |tx, caller| {
        // Decided in the transaction: a rotation that was stored meanwhile has superseded the secret.
        if caller.require_current_secret().is_ok() {
            return revocation.work(tx, caller);
        }
        let (answer, mut entries) = expiration.work(tx, caller)?;
        for entry in &mut entries {
            entry.action = Some(Action::ExpirePreviousSecret);
        }
        Ok((answer, entries))
    }))
}

/// Prepares the rotation of the calling key, whose id is `id`. Applied, it fails with `SELF_ROTATION_NOT_ALLOWED` unless
/// the key can rotate itself.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) async fn rotate(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    body: Option<&Json>,
) -> Result<Operation> {
    let mut rotation = api_keys::rotate(app, ctx, id, body).await?;
    Ok(Operation::new(move |tx, caller| {
        caller.require_self_rotation()?;
        rotation.work(tx, caller)
    }))
}
