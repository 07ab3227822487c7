//! Stores the single records of an import, each in its own transaction.

use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::{Action, TargetKind};
use crate::domain::api_key::Status;
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::id::Kind;
use crate::domain::import::{ImportedResource, NewKey, NewMembership, NewScope, Record, RecordKind};
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::Membership;
use crate::domain::organization::Organization;
use crate::domain::scope::{self, CATALOGUE_ID, Scope};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Code, Error, Result};
use crate::service::{RequestContext, mutate, scopes, settings};
use crate::store::{self, db::Tx, import as stored};

/// A record that is in the database.
pub(super) struct StoredRecord {
    pub(super) kind: RecordKind,
    /// False if the record existed already.
    pub(super) is_new: bool,
}

pub(super) async fn store_record(app: &App, record: Record, create_scopes: bool) -> Result<StoredRecord> {
    let kind = record.kind();
    let action = match kind {
        RecordKind::Settings => Action::ImportConfig,
        RecordKind::Scope => Action::ImportScope,
        RecordKind::Organization => Action::ImportOrganization,
        RecordKind::User => Action::ImportUser,
        RecordKind::Membership => Action::ImportMembership,
        RecordKind::ApiKey => Action::ImportApiKey,
    };
    let ctx = RequestContext::internal(app, Caller::Operator, action)?;
    let Record { thing, given } = record;
    // Ids are generated before the transaction, because the writer may repeat the transaction.
    let now = ctx.now;
    let expiry_time = ctx.expiry_time;
    let random = ctx.random;
    let thing = match thing {
        ImportedResource::User { mut new, own_id: false, deleted_at } => {
            new.id = Kind::User.new_id(now, random);
            ImportedResource::User { new, own_id: false, deleted_at }
        }
        thing => thing,
    };
    mutate(app, &ctx, 201, move |tx, _| {
        let entries = match &thing {
            ImportedResource::Settings(new) => settings::import_settings(tx, new, now, expiry_time)?,
            ImportedResource::Scope(new) => put_scope(tx, new, &given)?,
            ImportedResource::Organization { new, deleted_at } => {
                put_organization(tx, new, *deleted_at, &given)?
            }
            ImportedResource::User { new, own_id, deleted_at } => {
                put_user(tx, new, *own_id, *deleted_at, &given)?
            }
            ImportedResource::Membership(new) => put_membership(tx, new, &given)?,
            ImportedResource::ApiKey(new) => {
                let generated_id = Kind::ApiKey.new_id(now, random);
                put_key(tx, new, generated_id, create_scopes.then_some(now), &given)?
            }
        };
        Ok((StoredRecord { kind, is_new: !entries.is_empty() }, entries))
    })
    .await
}

/// Fields that an import doesn't compare: they change without an edit, or are compared in another way.
const FIELDS_NOT_COMPARED: &[&str] =
    &["type", "id", "created_at", "updated_at", "last_used_at", "revision", "created_by"];

/// Returns `ALREADY_EXISTS` unless the existing resource equals the imported one in all `given` fields.
fn ensure_same(
    kind: RecordKind,
    id: &str,
    existing: &impl Serialize,
    new: &impl Serialize,
    given: &[String],
) -> Result<Vec<AuditEntry>> {
    let existing: Value = serde_json::to_value(existing).map_err(Error::internal)?;
    let new: Value = serde_json::to_value(new).map_err(Error::internal)?;
    let differs =
        |name: &&String| !FIELDS_NOT_COMPARED.contains(&name.as_str()) && existing.get(name) != new.get(name);
    let fields: Vec<_> = given.iter().filter(differs).map(String::as_str).collect();
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let kind = kind.name().replace('_', " ");
    let fields = fields.join(", ");
    let message = format!("The {kind} {id} already exists and differs in: {fields}. It was not changed.");
    Err(Error::new(Code::AlreadyExists, message))
}

fn put_scope(tx: &Tx<'_>, new: &NewScope, given: &[String]) -> Result<Vec<AuditEntry>> {
    let as_scope = Scope { scope: new.scope.clone(), description: new.description.clone(), built_in: false };
    if let Some(existing) = store::scopes::get(tx, &new.scope)? {
        return ensure_same(RecordKind::Scope, &new.scope, &existing, &as_scope, given);
    }
    store::scopes::insert(tx, &as_scope, new.created_at)?;
    tx.invalidate(Invalidation::Id(CATALOGUE_ID.to_owned()));
    Ok(vec![
        AuditEntry::for_resource(None, TargetKind::Scope, &new.scope, &new.scope)
            .with_changes(changed_fields(&Value::Null, &as_scope)),
    ])
}

/// Returns `ALREADY_EXISTS` if only one of the existing and the imported resource is deleted.
fn ensure_same_deletion(
    kind: RecordKind,
    id: &str,
    existing_deleted_at: Option<Timestamp>,
    new_deleted_at: Option<Timestamp>,
) -> Result<()> {
    let is_deleted = existing_deleted_at.is_some();
    if is_deleted == new_deleted_at.is_some() {
        return Ok(());
    }
    let state = if is_deleted { "was deleted here" } else { "already exists here and is not deleted" };
    let kind = kind.name();
    Err(Error::new(Code::AlreadyExists, format!("The {kind} {id} {state}. It was not changed.")))
}

fn put_organization(
    tx: &Tx<'_>,
    new: &Organization,
    deleted_at: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<AuditEntry>> {
    if let Some((existing, existing_deleted_at)) = stored::find_organization_or_tombstone(tx, &new.id)? {
        ensure_same_deletion(RecordKind::Organization, &new.id, existing_deleted_at, deleted_at)?;
        return ensure_same(RecordKind::Organization, &new.id, &existing, new, given);
    }
    if deleted_at.is_none() {
        settings::ensure_plan_exists(tx, &new.plan)?;
        settings::ensure_meters_exist(tx, new.limits.as_deref())?;
    }
    store::organizations::insert(tx, new, deleted_at)?;
    tx.invalidate(Invalidation::Id(new.id.clone()));
    let entry = AuditEntry::for_resource(Some(&new.id), TargetKind::Organization, &new.id, &new.name);
    Ok(vec![entry.with_changes(changed_fields(&Value::Null, new))])
}

fn put_user(
    tx: &Tx<'_>,
    new: &User,
    own_id: bool,
    deleted_at: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<AuditEntry>> {
    let holder = if deleted_at.is_some() { None } else { store::users::id_by_email(tx, &new.email)? };
    let id = match &holder {
        // A user imported without an id is identified by the email address.
        Some(holder) if !own_id => holder,
        _ => &new.id,
    };
    if let Some((existing, existing_deleted_at)) = stored::find_user_or_tombstone(tx, id)? {
        ensure_same_deletion(RecordKind::User, id, existing_deleted_at, deleted_at)?;
        return ensure_same(RecordKind::User, id, &existing, new, given);
    }
    if let Some(holder) = holder {
        let message = format!("email: The address is already used by {holder}.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    store::users::insert(tx, new, deleted_at)?;
    tx.invalidate(Invalidation::Id(new.id.clone()));
    Ok(vec![
        AuditEntry::for_resource(None, TargetKind::User, &new.id, &new.name)
            .with_changes(changed_fields(&Value::Null, new)),
    ])
}

fn put_membership(tx: &Tx<'_>, new: &NewMembership, given: &[String]) -> Result<Vec<AuditEntry>> {
    if store::organizations::get(tx, &new.organization_id)?.is_none() {
        return Err(missing_reference_error("organization", &new.organization_id));
    }
    let Some(user) = store::users::get(tx, &new.user_id)? else {
        return Err(missing_reference_error("user", &new.user_id));
    };
    let membership = Membership {
        organization_id: new.organization_id.clone(),
        user_id: user.id.clone(),
        role: new.role,
        user,
        created_at: new.created_at,
        updated_at: new.updated_at,
        revision: new.revision,
    };
    if let Some(existing) = store::memberships::get(tx, &new.organization_id, &new.user_id)? {
        return ensure_same(RecordKind::Membership, &new.user_id, &existing, &membership, given);
    }
    store::memberships::insert(tx, &membership)?;
    tx.invalidate(Invalidation::Id(new.user_id.clone()));
    let entry = AuditEntry::for_resource(
        Some(&new.organization_id),
        TargetKind::Membership,
        &new.user_id,
        &membership.user.name,
    );
    Ok(vec![entry.with_changes(changed_fields(&Value::Null, &membership))])
}

fn missing_reference_error(kind: &str, id: &str) -> Error {
    Error::new(Code::NotFound, format!("There is no {kind} {id}. Import it first."))
}

fn put_key(
    tx: &Tx<'_>,
    new: &NewKey,
    generated_id: String,
    create_scopes: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<AuditEntry>> {
    let own_id = !new.key.id.is_empty();
    let id = if own_id { new.key.id.clone() } else { generated_id };
    let mut holders = Vec::new();
    for (hash, _) in &new.secrets {
        holders.push(stored::find_key_id_by_hash(tx, hash)?);
    }
    let existing = match (own_id, &holders[0]) {
        (false, Some(holder)) => store::api_keys::get(tx, holder)?,
        _ => store::api_keys::get(tx, &id)?,
    };
    if let Some(existing) = existing {
        if !holders.iter().all(|holder| holder.as_deref() == Some(&existing.id)) {
            let message = format!("The key {} already exists with a different secret.", existing.id);
            return Err(Error::new(Code::AlreadyExists, message));
        }
        return ensure_same(RecordKind::ApiKey, &existing.id, &existing, &new.key, given);
    }
    if let Some(holder) = holders.into_iter().flatten().next() {
        let message = format!("hash: The secret is, or was, used by {holder}.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    let mut entries = Vec::new();
    let mut new = new.clone();
    new.key.id = id;
    ensure_owner_exists(tx, &new)?;
    if new.key.status != Status::Revoked {
        entries = ensure_or_create_scopes(tx, &new.key.scopes, create_scopes)?;
        settings::ensure_meters_exist(tx, new.key.limits.as_deref())?;
    }
    if !stored::insert_key(tx, &new)? {
        return Err(Error::new(Code::AlreadyExists, "The id or a secret is already in use."));
    }
    tx.invalidate(Invalidation::Id(new.key.id.clone()));
    let entry = AuditEntry::for_resource(
        new.key.organization_id.as_deref(),
        TargetKind::ApiKey,
        &new.key.id,
        &new.key.name,
    );
    entries.push(entry.with_changes(changed_fields(&Value::Null, &new.key)));
    Ok(entries)
}

/// Returns an error unless an API key's organization and owner exist; those of a revoked key may be deleted.
fn ensure_owner_exists(tx: &Tx<'_>, new: &NewKey) -> Result<()> {
    let Some(organization) = &new.key.organization_id else { return Ok(()) };
    let is_deleted = match stored::find_organization_or_tombstone(tx, organization)? {
        None => return Err(missing_reference_error("organization", organization)),
        Some((_, deleted_at)) => deleted_at.is_some(),
    };
    let is_revoked = new.key.status == Status::Revoked;
    if is_deleted && !is_revoked {
        let message = format!("{organization} was deleted. Only its revoked keys can be imported.");
        return Err(Error::new(Code::Conflict, message));
    }
    let Some(user) = &new.key.user_id else { return Ok(()) };
    if is_revoked {
        return stored::find_user_or_tombstone(tx, user)?
            .map(drop)
            .ok_or_else(|| missing_reference_error("user", user));
    }
    if store::memberships::get(tx, organization, user)?.is_none() {
        let message = format!("{user} is not a member of {organization}. Import the membership first.");
        return Err(Error::new(Code::NotFound, message));
    }
    Ok(())
}

/// Adds unknown scopes if `create` has their creation time, otherwise refuses them. Returns audit entries.
fn ensure_or_create_scopes(
    tx: &Tx<'_>,
    grants: &[String],
    create: Option<Timestamp>,
) -> Result<Vec<AuditEntry>> {
    let mut entries = Vec::new();
    if let Some(created_at) = create {
        for grant in grants.iter().filter(|grant| scope::is_custom_scope_name(grant)) {
            let new = NewScope { scope: grant.clone(), description: None, created_at };
            if store::scopes::get(tx, grant)?.is_none() {
                entries.extend(put_scope(tx, &new, &[])?);
            }
        }
    }
    let mut faults = scopes::unknown_scopes(tx, grants)?;
    if faults.is_empty() {
        return Ok(entries);
    }
    if grants.iter().any(|grant| scope::is_custom_scope_name(grant)) {
        faults[0].message.push_str(" Use --create-scopes to add missing scopes.");
    }
    Err(Error::invalid_request(faults))
}
