//! API keys: create, list, read, update, rotate, revoke. Every change of a key's permissions is checked by
//! [`access`]: the caller must be allowed to grant the permissions.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{ListPage, RequestContext, etag, mutate, read_audited, scopes, settings};
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::api_key::{ApiKey, ApiKeyPatch, NewApiKey, Revocation, Rotation, Status};
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::key_policy::default_expiry;
use crate::domain::page::Query;
use crate::domain::patch::Patch;
use crate::error::{Code, Error, ErrorDetail, Result};
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

/// Creates an API key.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<ApiKeyWithSecret> {
    let catalogue = scopes::catalogue_for_operation(app, ctx).await?;
    let input = NewApiKey::read(body, &catalogue, ctx.now)?;
    if input.id.is_some() || input.rate_limit.is_some() || input.quota.is_some() {
        ctx.caller.require_platform()?;
    }
    let current = settings::current_settings(app, ctx).await?;
    let keys = &current.settings.keys;
    let secret = Secret::generate(app.system_random(), &keys.prefix)?;
    let organization_id = input.organization_id.or_else(|| ctx.caller.organization_id().map(str::to_owned));
    if organization_id.is_none() && input.user_id.is_some() {
        let message = "A platform key can't have an owner. Set organization_id too.";
        return Err(field_error("/user_id", "NEEDS_ORGANIZATION", message));
    }
    let base = new_platform_key(app, ctx, &input.name, input.scopes, secret.start(&keys.prefix))?;
    let new = ApiKey {
        id: input.id.unwrap_or_else(|| base.id.clone()),
        organization_id,
        user_id: input.user_id,
        expires_at: match input.expires_at {
            Patch::Set(end) => Some(end),
            Patch::Clear => None,
            Patch::Keep => default_expiry(keys, app.clock.settled_time()),
        },
        allowed_ips: input.allowed_ips,
        rate_limit: input.rate_limit,
        quota: input.quota,
        metadata: input.metadata.unwrap_or_default(),
        created_by: ctx.caller.key().map(|key| key.id.clone()),
        ..base
    };
    // The hash and the audited changes are computed before the transaction, so that the writer's thread
    // doesn't spend time on them.
    let hash = secret.hash();
    let created = changed_fields(&Value::Null, &new);
    let context = ctx.clone();
    let api_key = mutate(app, ctx, 201, move |tx, caller| {
        let organization = match &new.organization_id {
            Some(organization) => Some(super::organizations::get_visible(tx, caller, organization)?),
            None => caller.require_platform().map(|()| None)?,
        };
        if let (Some(organization), Some(user)) = (&organization, &new.user_id)
            && store::memberships::get(tx, &organization.id, user)?.is_none()
        {
            return Err(Error::not_found("member of the organization"));
        }
        scopes::ensure_scopes_exist(tx, &new.scopes)?;
        access::ensure_can_grant(caller, &new)?;
        settings::check_key_policy(tx, &context, None, &new)?;
        insert_key(tx, &new, &hash)?;
        if let Some(organization) = &organization {
            settings::check_key_limit(tx, organization)?;
        }
        Ok((new.clone(), vec![audit_entry(&new).with_changes(created.clone())]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Creates the first API key, with the given secret; returns `None` if any key has ever existed. The first
/// key is exempt from the key policy of the settings, as are keys created by the operator: a policy must not
/// lock out the administrator who could change the policy.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn create_first_key(app: &App, secret: Secret) -> Result<Option<ApiKey>> {
    bootstrap_as(app, &RequestContext::internal(app, Caller::System, "api_key.create", "write")?, secret)
        .await
}

/// Creates the first API key like [`bootstrap`], with the caller and the time of `ctx`.
pub(super) async fn bootstrap_as(
    app: &App,
    ctx: &Arc<RequestContext>,
    secret: Secret,
) -> Result<Option<ApiKey>> {
    let start = secret.start(&app.settings.get().await?.settings.keys.prefix);
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
    let ctx = RequestContext::internal(app, Caller::Operator, "api_key.create", "write")?;
    let prefix = app.settings.get().await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let new = new_platform_key(app, &ctx, name, scopes, secret.start(&prefix))?;
    let hash = secret.hash();
    let api_key = mutate(app, &ctx, 201, move |tx, _| {
        scopes::ensure_scopes_exist(tx, &new.scopes)?;
        insert_key(tx, &new, &hash)?;
        Ok((new.clone(), vec![audit_entry(&new).with_changes(changed_fields(&Value::Null, &new))]))
    })
    .await?;
    Ok(ApiKeyWithSecret { api_key, key: secret.reveal().to_owned() })
}

/// Lists the API keys that the caller can access.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<ListPage<ApiKey>> {
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
    let now = ctx.expiry_time;
    let rows = read_audited(app, ctx, move |tx, _| {
        let entry = AuditEntry::without_target(filter.organization_id.as_deref());
        Ok((store::api_keys::list(tx, &filter, &page, now)?, entry))
    });
    let mut listed = ListPage::new(app, &binding, rows.await?)?;
    listed.rows = listed.rows.into_iter().map(|key| key.effective_at(now)).collect();
    Ok(listed)
}

/// Returns the organization to which a list is restricted: the organization of the caller's key, or for a
/// platform key the requested organization. `NOT_FOUND` when an organization's key requests another
/// organization.
pub(super) fn effective_organization(caller: &Caller, requested: Option<String>) -> Result<Option<String>> {
    match (caller.organization_id(), requested) {
        (Some(own), Some(requested)) if own != requested => Err(Error::not_found("organization")),
        (Some(own), _) => Ok(Some(own.to_owned())),
        (None, requested) => Ok(requested),
    }
}

/// Reads an API key.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<ApiKey> {
    read_audited(app, ctx, move |tx, caller| {
        let key = get_visible(tx, caller, &id)?;
        let entry = audit_entry(&key);
        Ok((key, entry))
    })
    .await
}

/// Updates an API key.
///
/// # Errors
/// `INVALID_REQUEST`, `NOT_FOUND`, the refusals of [`access`], `PRECONDITION_FAILED`, and `CONFLICT` for a
/// revoked key or the last platform key that can manage keys.
pub async fn update(app: &App, ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<ApiKey> {
    let catalogue = scopes::catalogue_for_operation(app, ctx).await?;
    let patch = ApiKeyPatch::read(body, &catalogue, ctx.now)?;
    let context = ctx.clone();
    change_key(app, ctx, id, move |tx, caller, before| {
        if patch.requires_platform_key() {
            caller.require_platform()?;
        }
        if before.status == Status::Revoked {
            return Err(Error::new(Code::Conflict, "A revoked key can't be changed."));
        }
        let after = patch.apply(before)?;
        if patch.scopes.is_some() {
            scopes::ensure_scopes_exist(tx, &after.scopes)?;
        }
        if access::widens_access(before, &after) {
            access::ensure_can_grant(caller, &after)?;
        }
        settings::check_key_policy(tx, &context, Some(before), &after)?;
        Ok(after)
    })
    .await
}

/// Revokes an API key permanently. A key that is already revoked is not changed.
///
/// # Errors
/// `INVALID_REQUEST`, `NOT_FOUND`, the refusals of [`access`], `PRECONDITION_FAILED`, and `CONFLICT` for the
/// last platform key that can manage keys.
pub async fn revoke(app: &App, ctx: &Arc<RequestContext>, id: String, body: Option<&Json>) -> Result<ApiKey> {
    let reason = body.map(Revocation::read).transpose()?.unwrap_or_default().reason;
    revoke_with_reason(app, ctx, id, reason).await
}

pub(super) async fn revoke_with_reason(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    reason: Option<String>,
) -> Result<ApiKey> {
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

/// Replaces the secret of an API key. The current secret stays valid until its grace period ends; a secret
/// from an earlier rotation becomes invalid.
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
    let prefix = settings::current_settings(app, ctx).await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let hash = secret.hash();
    let start = secret.start(&prefix);
    let now = ctx.now;
    let expiry_time = ctx.expiry_time;
    // While the wall clock is wrong, the grace period is as long as requested by the settled time.
    let grace_start = app.clock.settled_time();
    let api_key = change_key(app, ctx, id, move |tx, caller, before| {
        if before.status == Status::Revoked || before.is_expired(expiry_time) {
            let message = "A revoked or expired key can't be rotated. Create a new key.";
            return Err(Error::new(Code::Conflict, message));
        }
        // The caller receives a new secret and with it the key's permissions, as if the caller had created
        // the key.
        access::ensure_can_grant(caller, before)?;
        let grace_end = grace_start + Duration::from_secs(u64::from(grace));
        let grace_end = before.expires_at.map_or(grace_end, |end| end.min(grace_end));
        if !store::api_keys::rotate_secret(tx, &before.id, &hash, grace > 0)? {
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

/// Ends the grace period of an API key's previous secret, which becomes invalid.
pub(crate) async fn expire_previous(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<ApiKey> {
    change_key(app, ctx, id, move |tx, _, before| {
        store::api_keys::retire_previous_secret(tx, &before.id)?;
        Ok(ApiKey { previous_secret_expires_at: None, ..before.clone() })
    })
    .await
}

/// Performs the steps that all changes of an API key share: reads the key, checks that the caller may
/// administer the key, applies `work`, checks that the platform keeps a recovery key, stores the changes and
/// invalidates the cached key.
async fn change_key(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    mut work: impl FnMut(&Tx<'_>, &Caller, &ApiKey) -> Result<ApiKey> + Send + 'static,
) -> Result<ApiKey> {
    let context = ctx.clone();
    let changed = mutate(app, ctx, 200, move |tx, caller| {
        let before = get_visible(tx, caller, &id)?;
        access::ensure_can_administer(caller, &before)?;
        context.require_if_match(&etag(before.created_at, before.revision))?;
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
        let changed = changed_fields(&before, &after);
        let only_withdraws_access = access::only_narrows_access(&before, &after);
        if after != before {
            after.revision += 1;
            after.updated_at = context.now;
            store::api_keys::update(tx, &before, &after)?;
            tx.invalidate(Invalidation::Id(id.clone()));
        }
        let entry = audit_entry(&after).with_changes(changed).withdrawing(only_withdraws_access);
        Ok((after, vec![entry]))
    });
    Ok(changed.await?.effective_at(ctx.expiry_time))
}

/// Returns `INSUFFICIENT_SCOPE` if the user owns a key, in this organization or, if `organization_id` is
/// `None`, in any, that the caller can't administer. Required before a user is removed, suspended, reactivated
/// or deleted, because that ends or enables the user's keys.
pub(super) fn ensure_can_affect_owned_keys(
    tx: &Tx<'_>,
    caller: &Caller,
    organization_id: Option<&str>,
    user_id: &str,
) -> Result<()> {
    for (key_id, scopes) in store::api_keys::scopes_of_owned_keys(tx, organization_id, user_id)? {
        access::ensure_can_affect_owned_key(caller, &key_id, &scopes)?;
    }
    Ok(())
}

fn insert_key(tx: &Tx<'_>, new: &ApiKey, hash: &[u8; 32]) -> Result<()> {
    if store::api_keys::insert(tx, new, hash)? {
        return Ok(());
    }
    Err(Error::new(Code::AlreadyExists, "The id or the secret is already in use, possibly by a revoked key."))
}

/// Builds a new platform key without an owner, an expiry or an IP allowlist. The key is not stored.
fn new_platform_key(
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

pub(super) fn get_visible(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<ApiKey> {
    let key = store::api_keys::get(tx, id)?
        .filter(|key| caller.can_access_organization(key.organization_id.as_deref()));
    key.ok_or_else(|| Error::not_found("API key"))
}

pub(super) fn audit_entry(key: &ApiKey) -> AuditEntry {
    AuditEntry::for_resource(key.organization_id.as_deref(), "api_key", &key.id, &key.name)
}

fn field_error(pointer: &str, code: &'static str, message: &str) -> Error {
    let message = message.to_owned();
    Error::invalid_request(vec![ErrorDetail {
        pointer: Some(pointer.to_owned()),
        parameter: None,
        code: code.into(),
        message,
    }])
}
