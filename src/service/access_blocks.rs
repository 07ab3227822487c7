//! Blocks access in memory if the change that takes it away can't be stored, because the database is damaged or its
//! disk failed. Otherwise a leaked key would stay valid until the repair.

use std::sync::Arc;

use super::RequestContext;
use super::access_change_attempts::Attempt;
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::access_change::AccessChange;
use crate::domain::action::Action;
use crate::domain::api_key::ApiKey;
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::error::{Error, Result};
use crate::store;

impl RequestContext {
    /// Returns the context with the change of access that the operation makes.
    pub(crate) fn with_access_change(
        mut self: Arc<Self>,
        params: &[String],
        body: Option<&Json>,
    ) -> Arc<Self> {
        // A revocation that accepts the previous secret of a rotated key ends only that secret.
        let is_superseded = !self.requires_current_secret && self.caller.require_current_secret().is_err();
        let action = match self.action {
            Action::RevokeApiKey if is_superseded => Action::ExpirePreviousSecret,
            action => action,
        };
        if let Some(change) = AccessChange::from_request(action, params, body) {
            let requires_current_secret = action == self.action && action.requires_current_secret();
            let attempt = Attempt::new(change, self.scopes, requires_current_secret);
            Arc::make_mut(&mut self).attempts.add(attempt);
        }
        self
    }
}

/// If a fault of the database failed a request, blocks what the request takes away. The error says so.
pub(crate) async fn block_unstored<T>(
    app: &App,
    ctx: Option<&RequestContext>,
    result: Result<T>,
) -> Result<T> {
    let (error, ctx) = match (result, ctx) {
        (Err(error), Some(ctx)) if error.database_fault.is_some() => (error, ctx),
        (result, _) => return result,
    };
    let attempts = ctx.attempts.take_withdrawals();
    if attempts.is_empty() {
        return Err(error);
    }
    let blocked = match authorized_caller(app, ctx).await {
        Ok(caller) => block(app, &caller, &attempts).await,
        // A caller that can't be authorized can't block anything.
        Err(_) => 0,
    };
    let not_blocked = attempts.len() - blocked;
    let message = if not_blocked == 0 {
        "The change can't be stored, because the database is damaged or its disk failed. The access that it takes away \
         is blocked in this process until it restarts. That isn't durable: repeat the request after the repair."
    } else {
        "The change can't be stored, because the database is damaged or its disk failed. Not all of the access that it \
         takes away could be blocked: it may still be possible. Repeat the request after the repair."
    };
    tracing::error!(
        request_id = ctx.context.request_id,
        blocked,
        not_blocked,
        "could not store changes that take access away; repair the database, then repeat them"
    );
    Err(Error { cause: error.cause, database_fault: error.database_fault, ..Error::unavailable(message, 30) })
}

/// The caller, if it may still make the request, as far as memory or the database tells.
async fn authorized_caller(app: &App, ctx: &RequestContext) -> Result<Caller> {
    let Some(secret) = &ctx.secret else { return Ok(ctx.caller.clone()) };
    let credential = app.keys.get(secret).await?.ok_or_else(access::invalid_api_key)?;
    let caller = Caller::Key(credential);
    ctx.ensure_admitted(&caller, &app.clock)?;
    Ok(caller)
}

/// Blocks what these attempts take away; returns the number of those that were blocked.
async fn block(app: &App, caller: &Caller, attempts: &[Arc<Attempt>]) -> usize {
    let mut blocked = 0;
    let _adding = app.access_blocks.adding.lock().await;
    for attempt in attempts.iter().filter(|attempt| attempt.is_allowed_for(caller)) {
        let change = &attempt.change;
        let is_spared = caller.organization_id().is_none()
            && change.concerns_one_key()
            && is_last_recovery_key(app, &change.id).await;
        if !is_spared && app.access_blocks.add(change.clone(), caller.clone()) {
            app.version_clock.publish(&[Invalidation::Id(change.id.clone())]);
            blocked += 1;
        }
    }
    blocked
}

/// True if this key is the only usable recovery key, which can't be revoked. False if that can't be read: taking access
/// away has priority then, and a restart gives it back.
async fn is_last_recovery_key(app: &App, id: &str) -> bool {
    let keys = app.db.look_up(store::api_keys::platform_keys).await.unwrap_or_default();
    let is_usable = |key: &ApiKey| key.is_recovery_key() && !app.access_blocks.contains(&key.id);
    let mut usable = keys.iter().filter(|key| is_usable(key));
    usable.next().is_some_and(|key| key.id == id) && usable.next().is_none()
}
