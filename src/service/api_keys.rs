//! API keys: create, list, read, update, rotate, revoke. Every change of what a key may do is checked by
//! [`access`]: the caller must be allowed to grant it.

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

/// An API key with its secret, returned only when the key is created or rotated.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ApiKeyWithSecret {
    /// The API key.
    #[serde(flatten)]
    pub api_key: ApiKey,
    /// The secret. It is shown only once; store it securely.
    #[schema(example = "toll_4sZ…")]
    pub key: String,
}

/// Creates a key.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<ApiKeyWithSecret> {
    let catalogue = scopes::catalogue_for(app, ctx).await?;
    let input = NewApiKey::read(body, &catalogue, ctx.now)?;
    if input.id.is_some() || input.rate_limit.is_some() || input.quota.is_some() {
        ctx.caller.require_platform()?;
    }
    let current = settings::current(app, ctx).await?;
    let keys = &current.settings.keys;
    let secret = Secret::generate(app.system_random(), &keys.prefix)?;
    let organization_id = input.organization_id.or_else(|| ctx.caller.organization_id().map(str::to_owned));
    if organization_id.is_none() && input.user_id.is_some() {
        let message = "A platform key can't have an owner. Set organization_id too.";
        return Err(field_error("/user_id", "NEEDS_ORGANIZATION", message));
    }
    let base = platform_key(app, ctx, &input.name, input.scopes, secret.start(&keys.prefix))?;
    let new = ApiKey {
        id: input.id.unwrap_or_else(|| base.id.clone()),
        organization_id,
        user_id: input.user_id,
        expires_at: match input.expires_at {
            Patch::Set(end) => Some(end),
            Patch::Clear => None,
            Patch::Keep => default_expiry(keys, ctx.now),
        },
        allowed_ips: input.allowed_ips,
        rate_limit: input.rate_limit,
        quota: input.quota,
        metadata: input.metadata.unwrap_or_default(),
        created_by: ctx.caller.key().map(|key| key.id.clone()),
        ..base
    };
    // Computed before the transaction, off the writer's thread.
    let hash = secret.hash();
    let created = changes(&Value::Null, &new);
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
        scopes::ensure_known(tx, &new.scopes)?;
        access::ensure_can_grant(caller, &new)?;
        settings::check_key_policy(tx, &context, None, &new)?;
        insert(tx, &new, &hash)?;
        if let Some(organization) = &organization {
            settings::check_key_limit(tx, organization)?;
        }
        Ok((new.clone(), vec![entry(&new).with(created.clone())]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Creates the first key from the given secret; returns `None` if a key has ever existed. Like keys created
/// by the operator, it is exempt from the key policy of the settings: a policy must not lock out the
/// administrator who could change it.
///
/// # Errors
/// Those of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn bootstrap(app: &App, secret: Secret) -> Result<Option<ApiKey>> {
    bootstrap_as(app, &RequestContext::internal(app, Caller::System, "api_key.create", "write")?, secret)
        .await
}

/// Like [`bootstrap`], with the caller and the time of `ctx`.
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

/// True if a key has ever existed.
pub(crate) async fn any(app: &App) -> Result<bool> {
    app.db.read(store::api_keys::any).await
}

/// Creates a platform key for the operator at the command line.
///
/// # Errors
/// `INVALID_REQUEST` for an unknown scope.
pub async fn create_as_operator(app: &App, name: &str, scopes: Vec<String>) -> Result<ApiKeyWithSecret> {
    let ctx = RequestContext::internal(app, Caller::Operator, "api_key.create", "write")?;
    let prefix = app.settings.get().await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let new = platform_key(app, &ctx, name, scopes, secret.start(&prefix))?;
    let hash = secret.hash();
    let api_key = mutate(app, &ctx, 201, move |tx, _| {
        scopes::ensure_known(tx, &new.scopes)?;
        insert(tx, &new, &hash)?;
        Ok((new.clone(), vec![entry(&new).with(changes(&Value::Null, &new))]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Lists the keys that the caller can access.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Listed<ApiKey>> {
    let (mut page, cursor) = query.page();
    let requested = query.text("organization_id");
    let mut filter = store::api_keys::ApiKeyFilter {
        organization_id: None,
        user_id: query.text("user_id"),
        status: query.one_of("status", Status::NAMES),
        scope: query.text("scope"),
        q: query.text("q"),
    };
    query.finish(())?;
    filter.organization_id = effective_organization(&ctx.caller, requested)?;
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

/// The organization that a list is restricted to: the caller's own, or for a platform key the requested one.
/// `NOT_FOUND` when an organization's key requests another organization.
pub(super) fn effective_organization(caller: &Caller, requested: Option<String>) -> Result<Option<String>> {
    match (caller.organization_id(), requested) {
        (Some(own), Some(requested)) if own != requested => Err(Error::not_found("organization")),
        (Some(own), _) => Ok(Some(own.to_owned())),
        (None, requested) => Ok(requested),
    }
}

/// Reads a key.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<ApiKey> {
    read_audited(app, ctx, move |tx, caller| {
        let key = visible(tx, caller, &id)?;
        let entry = entry(&key);
        Ok((key, entry))
    })
    .await
}

/// Updates a key.
///
/// # Errors
/// `INVALID_REQUEST`, `NOT_FOUND`, the refusals of [`access`], `PRECONDITION_FAILED`, and `CONFLICT` for a
/// revoked key or the last platform key that can manage keys.
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
            scopes::ensure_known(tx, &after.scopes)?;
        }
        if access::widens(before, &after) {
            access::ensure_can_grant(caller, &after)?;
        }
        settings::check_key_policy(tx, &context, Some(before), &after)?;
        Ok(after)
    })
    .await
}

/// Revokes a key permanently. A key that is already revoked stays as it is.
///
/// # Errors
/// `INVALID_REQUEST`, `NOT_FOUND`, the refusals of [`access`], `PRECONDITION_FAILED`, and `CONFLICT` for the
/// last platform key that can manage keys.
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

/// Gives a key a new secret. The current secret works until its grace period ends; an earlier one stops
/// working.
///
/// # Errors
/// `INVALID_REQUEST`, `NOT_FOUND`, the refusals of [`access`], `PRECONDITION_FAILED`, and `CONFLICT` for a
/// revoked or expired key.
pub async fn rotate(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    body: Option<&Json>,
) -> Result<ApiKeyWithSecret> {
    let grace = body.map(Rotation::read).transpose()?.unwrap_or_default().grace_period_seconds;
    let prefix = settings::current(app, ctx).await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let hash = secret.hash();
    let start = secret.start(&prefix);
    let now = ctx.now;
    let api_key = change_key(app, ctx, id, move |tx, caller, before| {
        if before.status == Status::Revoked || before.is_expired(now) {
            let message = "A revoked or expired key can't be rotated. Create a new key.";
            return Err(Error::new(Code::Conflict, message));
        }
        // A new secret grants the key's access anew.
        access::ensure_can_grant(caller, before)?;
        let grace_end = now + Duration::from_secs(u64::from(grace));
        let grace_end = before.expires_at.map_or(grace_end, |end| end.min(grace_end));
        if !store::api_keys::rotate(tx, &before.id, &hash, grace > 0)? {
            return Err(Error::internal("a generated secret already exists"));
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

/// Ends the grace period of the previous secret now.
pub(crate) async fn expire_previous(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<ApiKey> {
    change_key(app, ctx, id, move |tx, _, before| {
        store::api_keys::expire_previous(tx, &before.id)?;
        Ok(ApiKey { previous_secret_expires_at: None, ..before.clone() })
    })
    .await
}

/// The steps that every change of a key shares: read it, check that the caller may administer it, apply
/// `work`, check that the platform keeps a recovery key, store the changes and invalidate the cached key.
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
            && !store::api_keys::has_other_recovery_key(tx, &id)?
        {
            let message = "This is the last platform key that can manage keys from anywhere at any time. \
                           Create another one without expires_at and allowed_ips first.";
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

/// Refuses with `INSUFFICIENT_SCOPE` if the user owns a key, in this organization or in any, that the caller
/// can't administer. Required before the user is removed, suspended, reactivated or deleted, because that ends
/// or enables the key.
pub(super) fn ensure_can_affect_owned(
    tx: &Tx<'_>,
    caller: &Caller,
    organization_id: Option<&str>,
    user_id: &str,
) -> Result<()> {
    for (key_id, scopes) in store::api_keys::owned_scopes(tx, organization_id, user_id)? {
        access::ensure_can_affect_owned(caller, &key_id, &scopes)?;
    }
    Ok(())
}

fn insert(tx: &Tx<'_>, new: &ApiKey, hash: &[u8; 32]) -> Result<()> {
    if store::api_keys::insert(tx, new, hash)? {
        return Ok(());
    }
    Err(Error::new(Code::AlreadyExists, "The id or the secret is already in use, possibly by a revoked key."))
}

/// A new platform key without owner, expiry or allowed addresses.
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
    let key = store::api_keys::get(tx, id)?.filter(|key| caller.reaches(key.organization_id.as_deref()));
    key.ok_or_else(|| Error::not_found("API key"))
}

fn entry(key: &ApiKey) -> Entry {
    Entry::of(key.organization_id.as_deref(), "api_key", &key.id, &key.name)
}

fn field_error(pointer: &str, code: &'static str, message: &str) -> Error {
    let message = message.to_owned();
    Error::invalid(vec![Detail {
        pointer: Some(pointer.to_owned()),
        parameter: None,
        code: code.into(),
        message,
    }])
}
