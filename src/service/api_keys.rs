//! API keys: make, find, change, rotate, revoke. Every change of what a key may do asks
//! [`access`] whether its maker may give that away.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{Listed, RequestContext, etag, mutate, read_audited, scopes, settings};
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::api_key::{ApiKey, ApiKeyPatch, NewApiKey, Revocation, Rotation, Status};
use crate::domain::audit::{Entry, changes};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::key_policy::default_expiry;
use crate::domain::page::Query;
use crate::domain::patch::Patch;
use crate::error::{Code, Detail, Error, Result};
use crate::store::{self, db::Tx};
use crate::verify::secret::Secret;

/// A key with its secret: the answer to making and to rotating one, and to nothing else.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ApiKeyWithSecret {
    /// The key.
    #[serde(flatten)]
    pub api_key: ApiKey,
    /// The secret, shown this once.
    #[schema(example = "toll_4sZ…")]
    pub key: String,
}

/// Makes a key.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<ApiKeyWithSecret> {
    let catalogue = scopes::catalogue_for(app, ctx).await?;
    let read = NewApiKey::read(body, &catalogue, ctx.now)?;
    if read.id.is_some() || read.rate_limit.is_some() || read.quota.is_some() {
        ctx.caller.require_platform()?;
    }
    let current = settings::current(app, ctx).await?;
    let keys = &current.settings.keys;
    let secret = Secret::generate(app.system_random(), &keys.prefix)?;
    let organization_id = read.organization_id.or_else(|| ctx.caller.organization_id().map(str::to_owned));
    if organization_id.is_none() && read.user_id.is_some() {
        let message = "A platform key has no owner; name the organization too.";
        return Err(fault("/user_id", "NEEDS_ORGANIZATION", message));
    }
    let base = platform_key(app, ctx, &read.name, read.scopes, secret.start(&keys.prefix))?;
    let new = ApiKey {
        id: read.id.unwrap_or_else(|| base.id.clone()),
        organization_id,
        user_id: read.user_id,
        expires_at: match read.expires_at {
            Patch::Set(end) => Some(end),
            Patch::Clear => None,
            Patch::Keep => default_expiry(keys, ctx.now),
        },
        allowed_ips: read.allowed_ips,
        rate_limit: read.rate_limit,
        quota: read.quota,
        metadata: read.metadata.unwrap_or_default(),
        created_by: ctx.caller.key().map(|key| key.id.clone()),
        ..base
    };
    // What can be made before the transaction is not made on the writer's thread.
    let (hash, given) = (secret.hash(), changes(&Value::Null, &new));
    let context = ctx.clone();
    let api_key = mutate(app, ctx, 201, move |tx, caller| {
        let organization = match &new.organization_id {
            Some(organization) => Some(super::organizations::visible(tx, caller, organization)?),
            None => caller.require_platform().map(|()| None)?,
        };
        if let (Some(organization), Some(user)) = (&organization, &new.user_id)
            && store::memberships::get(tx, &organization.id, user)?.is_none()
        {
            return Err(Error::not_found("member of the organization"));
        }
        scopes::still_known(tx, &new.scopes)?;
        access::ensure_can_grant(caller, &new)?;
        settings::accept_key(tx, &context, None, &new)?;
        insert(tx, &new, &hash)?;
        if let Some(organization) = &organization {
            settings::check_key_limit(tx, organization)?;
        }
        Ok((new.clone(), vec![entry(&new).with(given.clone())]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Makes the very first key from a given secret, unless there has ever been a key: then `None`. Like the keys
/// of the operator it is not bound by what the settings demand: a rule must not lock out who could change it.
pub async fn bootstrap(app: &App, secret: Secret) -> Result<Option<ApiKey>> {
    bootstrap_as(app, &RequestContext::internal(app, Caller::System, "api_key.create", "write")?, secret)
        .await
}

/// The same by this caller at this time.
pub(super) async fn bootstrap_as(
    app: &App,
    ctx: &Arc<RequestContext>,
    secret: Secret,
) -> Result<Option<ApiKey>> {
    let start = secret.start(&app.settings.get().await?.settings.keys.prefix);
    let new = platform_key(app, ctx, "First admin key", vec!["*".to_owned()], start)?;
    mutate(app, ctx, 201, move |tx, _| {
        if store::api_keys::any(tx)? {
            return Ok((None, Vec::new()));
        }
        insert(tx, &new, &secret.hash())?;
        Ok((Some(new.clone()), vec![entry(&new).with(changes(&Value::Null, &new))]))
    })
    .await
}

/// Has there ever been a key?
pub(crate) async fn any(app: &App) -> Result<bool> {
    app.db.read(store::api_keys::any).await
}

/// Makes a platform key for the operator at the command line.
pub async fn create_as_operator(app: &App, name: &str, scopes: Vec<String>) -> Result<ApiKeyWithSecret> {
    let ctx = RequestContext::internal(app, Caller::Operator, "api_key.create", "write")?;
    let prefix = app.settings.get().await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let new = platform_key(app, &ctx, name, scopes, secret.start(&prefix))?;
    let hash = secret.hash();
    let api_key = mutate(app, &ctx, 201, move |tx, _| {
        scopes::still_known(tx, &new.scopes)?;
        insert(tx, &new, &hash)?;
        Ok((new.clone(), vec![entry(&new).with(changes(&Value::Null, &new))]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Lists the keys that the caller reaches.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Listed<ApiKey>> {
    let (mut page, cursor) = query.page();
    let wanted = query.text("organization_id");
    let mut filter = store::api_keys::ApiKeyFilter {
        organization_id: None,
        user_id: query.text("user_id"),
        status: query.one_of("status", Status::NAMES),
        scope: query.text("scope"),
        q: query.text("q"),
    };
    query.finish(())?;
    filter.organization_id = own_or(&ctx.caller, wanted)?;
    let binding = format!("api_keys {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let now = ctx.now;
    let rows = read_audited(app, ctx, move |tx, _| {
        let entry = Entry::about(filter.organization_id.as_deref());
        Ok((store::api_keys::list(tx, &filter, &page, now)?, entry))
    });
    let mut listed = Listed::new(app, &binding, rows.await?)?;
    listed.rows = listed.rows.into_iter().map(|key| key.effective_at(now)).collect();
    Ok(listed)
}

/// The organization that a list is narrowed to. Another one's isn't there for an organization's key.
pub(super) fn own_or(caller: &Caller, wanted: Option<String>) -> Result<Option<String>> {
    match (caller.organization_id(), wanted) {
        (Some(own), Some(wanted)) if own != wanted => Err(Error::not_found("organization")),
        (Some(own), _) => Ok(Some(own.to_owned())),
        (None, wanted) => Ok(wanted),
    }
}

/// One key.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<ApiKey> {
    read_audited(app, ctx, move |tx, caller| {
        let found = visible(tx, caller, &id)?;
        let entry = entry(&found);
        Ok((found, entry))
    })
    .await
}

/// Changes a key.
pub async fn update(app: &App, ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<ApiKey> {
    let catalogue = scopes::catalogue_for(app, ctx).await?;
    let patch = ApiKeyPatch::read(body, &catalogue, ctx.now)?;
    let context = ctx.clone();
    change_key(app, ctx, id, move |tx, caller, before| {
        if patch.needs_platform() {
            caller.require_platform()?;
        }
        if before.status == Status::Revoked {
            return Err(Error::new(Code::Conflict, "A revoked key can't be changed."));
        }
        let after = patch.apply(before)?;
        if patch.scopes.is_some() {
            scopes::still_known(tx, &after.scopes)?;
        }
        if access::widens(before, &after) {
            access::ensure_can_grant(caller, &after)?;
        }
        settings::accept_key(tx, &context, Some(before), &after)?;
        Ok(after)
    })
    .await
}

/// Ends a key for good. One that is revoked already stays as it is.
pub async fn revoke(app: &App, ctx: &Arc<RequestContext>, id: String, body: Option<&Json>) -> Result<ApiKey> {
    let reason = body.map(Revocation::read).transpose()?.unwrap_or_default().reason;
    let now = ctx.now;
    change_key(app, ctx, id, move |_, _, before| {
        let mut after = before.clone();
        if before.status != Status::Revoked {
            after.status = Status::Revoked;
            after.revoked_at = Some(now);
            after.revoked_reason = reason.clone();
        }
        Ok(after)
    })
    .await
}

/// Gives a key a new secret. The old one works until its grace ends, the one before no longer.
pub async fn rotate(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    body: Option<&Json>,
) -> Result<ApiKeyWithSecret> {
    let grace = body.map(Rotation::read).transpose()?.unwrap_or_default().grace_period_seconds;
    let prefix = settings::current(app, ctx).await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let (hash, start, now) = (secret.hash(), secret.start(&prefix), ctx.now);
    let api_key = change_key(app, ctx, id, move |tx, caller, before| {
        if before.status == Status::Revoked || before.is_expired(now) {
            return Err(Error::new(Code::Conflict, "A key that has ended can't be rotated; make a new one."));
        }
        // A new secret is a key handed out.
        access::ensure_can_grant(caller, before)?;
        let grace_end = now + Duration::from_secs(u64::from(grace));
        let grace_end = before.expires_at.map_or(grace_end, |end| end.min(grace_end));
        if !store::api_keys::rotate(tx, &before.id, &hash, grace > 0)? {
            return Err(Error::internal("a new secret was taken"));
        }
        Ok(ApiKey {
            start: start.clone(),
            rotated_at: Some(now),
            previous_secret_expires_at: (grace > 0).then_some(grace_end),
            ..before.clone()
        })
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Ends the grace of the secret before now.
pub(crate) async fn expire_previous(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<ApiKey> {
    change_key(app, ctx, id, move |tx, _, before| {
        store::api_keys::expire_previous(tx, &before.id)?;
        Ok(ApiKey { previous_secret_expires_at: None, ..before.clone() })
    })
    .await
}

/// The frame of every change of a key: find it, see that the caller is above it, change it, see that
/// the platform keeps a key, store what changed, and forget what was remembered.
async fn change_key(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    mut work: impl FnMut(&Tx<'_>, &Caller, &ApiKey) -> Result<ApiKey> + Send + 'static,
) -> Result<ApiKey> {
    let context = ctx.clone();
    let changed = mutate(app, ctx, 200, move |tx, caller| {
        let before = visible(tx, caller, &id)?;
        access::ensure_can_administer(caller, &before)?;
        context.require_match(&etag(before.created_at, before.revision))?;
        let mut after = work(tx, caller, &before)?;
        access::ensure_can_administer(caller, &after)?;
        if before.is_recovery_key()
            && !after.is_recovery_key()
            && !store::api_keys::platform_is_kept_without(tx, &id)?
        {
            let message = "This is the last platform key that can manage keys; make another one first.";
            return Err(Error::new(Code::Conflict, message));
        }
        let changed = changes(&before, &after);
        if after != before {
            after.revision += 1;
            after.updated_at = context.now;
            store::api_keys::update(tx, &before, &after)?;
            tx.invalidate(Invalidation::Id(id.clone()));
        }
        let entry = entry(&after).with(changed);
        Ok((after, vec![entry]))
    });
    Ok(changed.await?.effective_at(ctx.now))
}

fn insert(tx: &Tx<'_>, new: &ApiKey, hash: &[u8; 32]) -> Result<()> {
    if store::api_keys::insert(tx, new, hash)? {
        return Ok(());
    }
    Err(Error::new(Code::AlreadyExists, "The id or the secret is taken, now or by a revoked key."))
}

/// A new key of the platform, bound to nobody, no date and no place.
fn platform_key(
    app: &App,
    ctx: &RequestContext,
    name: &str,
    scopes: Vec<String>,
    start: String,
) -> Result<ApiKey> {
    Ok(ApiKey {
        id: app.new_id(Kind::ApiKey)?,
        organization_id: None,
        user_id: None,
        name: name.to_owned(),
        start,
        scopes,
        status: Status::Active,
        expires_at: None,
        allowed_ips: None,
        rate_limit: None,
        quota: None,
        metadata: Default::default(),
        created_by: None,
        created_at: ctx.now,
        updated_at: ctx.now,
        last_used_at: None,
        rotated_at: None,
        previous_secret_expires_at: None,
        revoked_at: None,
        revoked_reason: None,
        revision: 1,
    })
}

fn visible(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<ApiKey> {
    let found = store::api_keys::get(tx, id)?.filter(|key| caller.reaches(key.organization_id.as_deref()));
    found.ok_or_else(|| Error::not_found("API key"))
}

fn entry(key: &ApiKey) -> Entry {
    Entry::of(key.organization_id.as_deref(), "api_key", &key.id, &key.name)
}

fn fault(pointer: &str, code: &'static str, message: &str) -> Error {
    let message = message.to_owned();
    Error::invalid(vec![Detail {
        pointer: Some(pointer.to_owned()),
        parameter: None,
        code: code.into(),
        message,
    }])
}
