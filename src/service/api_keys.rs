//! API keys: create, list, read, update, rotate, revoke. Every change of a key's permissions is checked by
//! [`access`]: the caller must be allowed to grant the permissions.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::expand::{self, Names};
use super::operation::{Answer, Operation};
use super::{ListPage, RequestContext, etag, read_audited, scopes, secret_prefixes, settings};
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::action::TargetKind;
use crate::domain::api_key::{ApiKey, ApiKeyFilter, ApiKeyPatch, Revocation, Rotation, SecretHash, Status};
use crate::domain::audit::{AuditEntry, Change, changed_fields};
use crate::domain::expand::ExpandedApiKey;
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::key_policy::default_expiry;
use crate::domain::page::{Query, Rows};
use crate::domain::patch::Patch;
use crate::domain::scope;
use crate::domain::settings::StoredSettings;
use crate::domain::time::Timestamp;
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

/// Prepares the creation of an API key, with this secret instead of a new one if it is given.
///
/// # Errors
/// `INVALID_REQUEST`, and `PLATFORM_KEY_REQUIRED` for fields that only platform keys may set.
pub(crate) async fn create(
    app: &App,
    ctx: &Arc<RequestContext>,
    body: &Json,
    secret: Option<Secret>,
) -> Result<Operation> {
    let input = secret_prefixes::read_new_key(app, body, ctx.now).await?;
    if input.id.is_some() || input.limits.is_some() {
        ctx.caller.require_platform()?;
    }
    let organization_id =
        input.organization_id.clone().or_else(|| ctx.caller.organization_id().map(str::to_owned));
    if organization_id.is_none() && input.user_id.is_some() {
        let message = "A platform key can't have an owner. Set organization_id too.";
        return Err(field_error("/user_id", "NEEDS_ORGANIZATION", message));
    }
    let base =
        new_platform_key(app, ctx, &input.name, scope::without_repetitions(&input.scopes), String::new())?;
    let base = ApiKey {
        id: input.id.clone().unwrap_or_else(|| base.id.clone()),
        organization_id,
        user_id: input.user_id.clone(),
        allowed_ips: input.allowed_ips.clone(),
        limits: input.limits.clone(),
        self_rotation: input.self_rotation,
        metadata: input.metadata.clone().unwrap_or_default(),
        created_by: ctx.caller.key().map(|key| key.id.clone()),
        ..base
    };
    let settled_time = app.clock.settled_time();
    let current = app.settings.get().await?.to_arc();
    let prefix = current.settings.keys.prefix_or_default(input.prefix.as_deref());
    let secret = secret.map_or_else(|| Secret::generate(&app.random, prefix), Ok)?;
    let mut prepared = NewKey::new(&base, &input.expires_at, secret, &current, settled_time);
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        scopes::ensure_scopes_exist(tx, &input.scopes)?;
        settings::ensure_meters_exist(tx, input.limits.as_deref())?;
        // An earlier operation of a batch may have changed the settings.
        let current = store::settings::get(tx)?;
        let keys = &current.settings.keys;
        secret_prefixes::ensure_prefix_configured(keys, input.prefix.as_deref())?;
        if current.revision != prepared.settings_revision {
            let secret = prepared.secret.with_prefix(keys.prefix_or_default(input.prefix.as_deref()));
            prepared = NewKey::new(&base, &input.expires_at, secret, &current, settled_time);
        }
        let NewKey { key: new, secret, hash, created, .. } = &prepared;
        let organization = match &new.organization_id {
            Some(organization) => Some(super::organizations::get_visible(tx, caller, organization)?),
            None => caller.require_platform().map(|()| None)?,
        };
        if let (Some(organization), Some(user)) = (&organization, &new.user_id)
            && store::memberships::get(tx, &organization.id, user)?.is_none()
        {
            return Err(Error::not_found("member of the organization"));
        }
        access::ensure_can_grant(caller, new)?;
        settings::check_key_policy(tx, &context, None, new)?;
        insert_key(tx, new, hash)?;
        if let Some(organization) = &organization {
            settings::check_key_limit(tx, organization)?;
        }
        let entry = audit_entry(new).with_changes(created.clone());
        let shown = ApiKeyWithSecret { api_key: new.clone(), key: secret.reveal().to_owned() };
        Ok((Answer::created(&shown)?.with_etag(etag_of(new)).holding_secret(), vec![entry]))
    }))
}

/// A key that is about to be created. What doesn't depend on the database's state is computed before the transaction, so
/// that the writer's thread doesn't spend time on it.
struct NewKey {
    key: ApiKey,
    secret: Secret,
    hash: SecretHash,
    /// The audited changes.
    created: Vec<Change>,
    /// The revision of the settings that the prefix and the expiry follow.
    settings_revision: i64,
}

impl NewKey {
    fn new(
        base: &ApiKey,
        expires_at: &Patch<Timestamp>,
        secret: Secret,
        current: &StoredSettings,
        settled_time: Timestamp,
    ) -> Self {
        let keys = &current.settings.keys;
        let key = ApiKey {
            start: secret.start(&current.known_prefixes),
            expires_at: match expires_at {
                Patch::Set(end) => Some(*end),
                Patch::Clear => None,
                Patch::Keep => default_expiry(keys, settled_time),
            },
            ..base.clone()
        };
        let created = changed_fields(&Value::Null, &key);
        Self { hash: secret.hash(), created, settings_revision: current.revision, key, secret }
    }
}

fn etag_of(key: &ApiKey) -> String {
    etag(key.created_at, key.revision)
}

/// Lists the API keys that the caller can access.
pub(crate) async fn list(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut query: Query,
) -> Result<ListPage<ExpandedApiKey>> {
    let (mut page, cursor) = query.page();
    let mut filter = ApiKeyFilter::read(&mut query);
    let added = expand::read(&ctx.caller, query, &["organization", "user"])?;
    filter.organization_id = effective_organization(&ctx.caller, filter.organization_id)?;
    let binding = format!("api_keys {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let now = ctx.expiry_time;
    let rows = read_audited(app, ctx, move |tx, caller| {
        let entry = AuditEntry::without_target(filter.organization_id.as_deref());
        let Rows { rows, next } = store::api_keys::list(tx, &filter, &page, now)?;
        let names = Names::for_keys(tx, caller, added, &rows)?;
        let rows = rows.into_iter().map(|key| names.add_to_key(key.effective_at(now))).collect();
        Ok((Rows { rows, next }, entry))
    });
    ListPage::new(app, &binding, rows.await?)
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

/// Prepares reading an API key.
///
/// # Errors
/// `INVALID_REQUEST`, and `INSUFFICIENT_SCOPE` for names that the caller may not read.
pub(crate) fn get(ctx: &Arc<RequestContext>, id: String, query: Query) -> Result<Operation> {
    let expiry_time = ctx.expiry_time;
    let added = expand::read(&ctx.caller, query, &["organization", "user"])?;
    Ok(Operation::new(move |tx, caller| {
        let key = get_visible(tx, caller, &id)?;
        let entry = audit_entry(&key);
        let etag = etag_of(&key);
        let names = Names::for_keys(tx, caller, added, std::slice::from_ref(&key))?;
        let shown = names.add_to_key(key.effective_at(expiry_time));
        Ok((Answer::ok(&shown)?.with_etag(etag), vec![entry]))
    }))
}

/// Prepares a change of an API key. Applied, it fails with `NOT_FOUND`, the refusals of [`access`],
/// `PRECONDITION_FAILED`, and `CONFLICT` for a revoked key or the last platform key that can manage keys.
///
/// # Errors
/// `INVALID_REQUEST`.
pub async fn update(app: &App, ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<Operation> {
    let now = ctx.now;
    let patch = scopes::read_with_scopes(app, |known| ApiKeyPatch::read(body, known, now)).await?;
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        scopes::ensure_scopes_exist(tx, patch.scopes.as_deref().unwrap_or_default())?;
        let changed = change_key(tx, caller, &context, &id, |before| {
            if patch.requires_platform_key() {
                caller.require_platform()?;
            }
            if let Patch::Set(limits) = &patch.limits {
                settings::ensure_meters_exist(tx, Some(limits))?;
            }
            if before.status == Status::Revoked {
                return Err(Error::new(Code::Conflict, "A revoked key can't be changed."));
            }
            let after = patch.apply(before)?;
            if access::widens_access(before, &after) {
                access::ensure_can_grant(caller, &after)?;
            }
            settings::check_key_policy(tx, &context, Some(before), &after)?;
            Ok(after)
        })?;
        changed.into_answer()
    }))
}

/// Prepares the permanent revocation of an API key. A key that is already revoked is not changed. Applied, it fails with
/// `NOT_FOUND`, the refusals of [`access`], `PRECONDITION_FAILED`, and `CONFLICT` for the last platform key that can
/// manage keys.
///
/// # Errors
/// `INVALID_REQUEST`.
pub fn revoke(ctx: &Arc<RequestContext>, id: String, body: Option<&Json>) -> Result<Operation> {
    let reason = body.map(Revocation::read).transpose()?.unwrap_or_default().reason;
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        revoke_key(tx, caller, &context, &id, reason.as_deref())?.into_answer()
    }))
}

pub(super) fn revoke_key(
    tx: &Tx<'_>,
    caller: &Caller,
    ctx: &RequestContext,
    id: &str,
    reason: Option<&str>,
) -> Result<ChangedKey> {
    change_key(tx, caller, ctx, id, |before| {
        let mut after = before.clone();
        if before.status != Status::Revoked {
            after.status = Status::Revoked;
            after.revoked_at = Some(ctx.now);
            after.revoked_reason = reason.map(str::to_owned);
        }
        Ok(after)
    })
}

/// Prepares the replacement of an API key's secret. The current secret stays valid until its grace period ends; a secret
/// from an earlier rotation becomes invalid. Applied, it fails with `NOT_FOUND`, the refusals of [`access`],
/// `PRECONDITION_FAILED`, and `CONFLICT` for a revoked or expired key.
///
/// # Errors
/// `INVALID_REQUEST`.
pub async fn rotate(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    body: Option<&Json>,
) -> Result<Operation> {
    let grace = body.map(Rotation::read).transpose()?.unwrap_or_default().grace_period_seconds;
    let mut secret = Secret::generate(&app.random, app.settings.get().await?.settings.keys.default_prefix())?;
    let context = ctx.clone();
    // While the wall clock is wrong, the grace period is as long as requested by the settled time.
    let grace_start = app.clock.settled_time();
    Ok(Operation::new(move |tx, caller| {
        let current = store::settings::get(tx)?;
        let changed = change_key(tx, caller, &context, &id, |before| {
            if before.status == Status::Revoked || before.is_expired(context.expiry_time) {
                let message = "A revoked or expired key can't be rotated. Create a new key.";
                return Err(Error::new(Code::Conflict, message));
            }
            // The caller receives a new secret and with it the key's permissions, as if the caller had created
            // the key.
            access::ensure_can_grant(caller, before)?;
            let grace_end = grace_start + Duration::from_secs(u64::from(grace));
            let grace_end = before.expires_at.map_or(grace_end, |end| end.min(grace_end));
            secret = secret.with_prefix(current.prefix_after_rotation(&before.start));
            if !store::api_keys::rotate_secret(tx, &before.id, &secret.hash(), grace > 0)? {
                return Err(Error::internal("a generated secret already exists"));
            }
            Ok(ApiKey {
                start: secret.start(&current.known_prefixes),
                rotated_at: Some(context.now),
                previous_secret_expires_at: (grace > 0).then_some(grace_end),
                ..before.clone()
            })
        })?;
        let ChangedKey { key, entry } = changed;
        let etag = etag_of(&key);
        let shown = ApiKeyWithSecret { api_key: key, key: secret.reveal().to_owned() };
        Ok((Answer::ok(&shown)?.with_etag(etag).holding_secret(), vec![entry]))
    }))
}

/// Prepares the end of the grace period of an API key's previous secret, which becomes invalid.
pub(crate) fn expire_previous(ctx: &Arc<RequestContext>, id: String) -> Operation {
    let context = ctx.clone();
    Operation::new(move |tx, caller| {
        let changed = change_key(tx, caller, &context, &id, |before| {
            store::api_keys::retire_previous_secret(tx, &before.id)?;
            Ok(ApiKey { previous_secret_expires_at: None, ..before.clone() })
        })?;
        changed.into_answer()
    })
}

/// A changed API key, as it is shown, and its audit entry.
pub(super) struct ChangedKey {
    pub(super) key: ApiKey,
    pub(super) entry: AuditEntry,
}

impl ChangedKey {
    fn into_answer(self) -> Result<(Answer, Vec<AuditEntry>)> {
        Ok((Answer::ok(&self.key)?.with_etag(etag_of(&self.key)), vec![self.entry]))
    }
}

/// Performs the steps that all changes of an API key share: reads the key, checks that the caller may
/// administer the key, applies `work`, checks that the platform keeps a recovery key, stores the changes and
/// invalidates the cached key.
fn change_key(
    tx: &Tx<'_>,
    caller: &Caller,
    ctx: &RequestContext,
    id: &str,
    work: impl FnOnce(&ApiKey) -> Result<ApiKey>,
) -> Result<ChangedKey> {
    let before = get_visible(tx, caller, id)?;
    access::ensure_can_administer(caller, &before)?;
    ctx.require_if_match(&etag_of(&before))?;
    let mut after = work(&before)?;
    access::ensure_can_administer(caller, &after)?;
    if before.is_recovery_key()
        && !after.is_recovery_key()
        && !store::api_keys::has_other_recovery_key(tx, id)?
    {
        let message = "This is the last platform key that can manage keys from anywhere at any time. \
                       Create another one without expires_at and allowed_ips first.";
        return Err(Error::new(Code::Conflict, message));
    }
    let changed = changed_fields(&before, &after);
    let only_withdraws_access = access::only_narrows_access(&before, &after);
    if after != before {
        after.revision += 1;
        after.updated_at = ctx.now;
        store::api_keys::update(tx, &before, &after)?;
        tx.invalidate(Invalidation::Id(id.to_owned()));
    }
    let entry = audit_entry(&after).with_changes(changed).withdrawing(only_withdraws_access);
    Ok(ChangedKey { key: after.effective_at(ctx.expiry_time), entry })
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

pub(super) fn insert_key(tx: &Tx<'_>, new: &ApiKey, hash: &[u8; 32]) -> Result<()> {
    if store::api_keys::insert(tx, new, hash)? {
        return Ok(());
    }
    Err(Error::new(Code::AlreadyExists, "The id or the secret is already in use, possibly by a revoked key."))
}

/// Builds a new platform key without an owner, an expiry or an IP allowlist. The key is not stored.
pub(super) fn new_platform_key(
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
        limits: None,
        self_rotation: false,
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
    AuditEntry::for_resource(key.organization_id.as_deref(), TargetKind::ApiKey, &key.id, &key.name)
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
