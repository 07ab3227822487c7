//! Organizations: create, list, read, update, delete.

use std::sync::Arc;

use serde_json::Value;

use super::operation::{Answer, Deleted, Operation};
use super::{ListPage, RequestContext, etag, read_audited, settings};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::TargetKind;
use crate::domain::audit::{AuditEntry, Change, changed_fields, only_sets_status};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::organization::{
    NewOrganization, Organization, OrganizationFilter, OrganizationPatch, Status,
};
use crate::domain::page::Query;
use crate::domain::patch::Patch;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};

/// Prepares the creation of an organization. Only platform keys can create organizations.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Operation> {
    let input = settings::read_with_plan(app, |known| NewOrganization::read(body, known)).await?;
    let new = input.into_organization(app.new_id(Kind::Organization)?, ctx.now);
    let created = changed_fields(&Value::Null, &new);
    Ok(Operation::new(move |tx, caller| {
        caller.require_platform()?;
        settings::ensure_plan_exists(tx, &new.plan)?;
        settings::ensure_meters_exist(tx, new.limits.as_deref())?;
        if !store::organizations::insert(tx, &new, None)? {
            return Err(Error::new(
                Code::AlreadyExists,
                "The id is already in use, possibly by a deleted organization.",
            ));
        }
        let entry = audit_entry(&new).with_changes(created.clone());
        Ok((Answer::created(&new)?.with_etag(etag_of(&new)), vec![entry]))
    }))
}

fn etag_of(organization: &Organization) -> String {
    etag(organization.created_at, organization.revision)
}

/// Lists the organizations that the caller can access.
pub(crate) async fn list(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut query: Query,
) -> Result<ListPage<Organization>> {
    let (mut page, cursor) = query.page();
    let mut filter = OrganizationFilter::read(&mut query);
    query.finish(())?;
    filter.id = ctx.caller.organization_id().map(str::to_owned);
    let binding = format!("organizations {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        Ok((
            store::organizations::list(tx, &filter, &page)?,
            AuditEntry::without_target(caller.organization_id()),
        ))
    });
    ListPage::new(app, &binding, rows.await?)
}

/// Prepares reading an organization.
pub(crate) fn get(id: String) -> Operation {
    Operation::new(move |tx, caller| {
        let organization = get_visible(tx, caller, &id)?;
        let entry = audit_entry(&organization);
        Ok((Answer::ok(&organization)?.with_etag(etag_of(&organization)), vec![entry]))
    })
}

/// Prepares a change of an organization; only platform keys can change its plan, limits and status. Applied, it fails with
/// `NOT_FOUND`, `PLATFORM_KEY_REQUIRED`, `SECRET_SUPERSEDED` for a change of the status, `PRECONDITION_FAILED`.
///
/// # Errors
/// `INVALID_REQUEST`.
pub async fn update(app: &App, ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<Operation> {
    let patch = settings::read_with_plan(app, |known| OrganizationPatch::read(body, known)).await?;
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        if let Some(plan) = &patch.plan {
            settings::ensure_plan_exists(tx, plan)?;
        }
        let before = get_visible(tx, caller, &id)?;
        if patch.needs_platform() {
            caller.require_platform()?;
        }
        if let Patch::Set(limits) = &patch.limits {
            settings::ensure_meters_exist(tx, Some(limits))?;
        }
        if patch.status.is_some_and(|status| status != before.status) {
            caller.require_current_secret()?;
        }
        context.require_if_match(&etag_of(&before))?;
        let after = patch.apply(&before)?;
        let (after, entry) = store_changes(tx, &before, after, context.now)?;
        Ok((Answer::ok(&after)?.with_etag(etag_of(&after)), vec![entry]))
    }))
}

/// Prepares the deletion of an organization, which revokes its API keys and ends its memberships. Only platform keys can
/// delete organizations. Applied, it fails with `NOT_FOUND`, `PLATFORM_KEY_REQUIRED`, `PRECONDITION_FAILED`.
pub fn delete(ctx: &Arc<RequestContext>, id: String) -> Operation {
    let context = ctx.clone();
    Operation::new(move |tx, caller| {
        let before = get_visible(tx, caller, &id)?;
        caller.require_platform()?;
        context.require_if_match(&etag_of(&before))?;
        let entry = end(tx, &before, context.now)?;
        Ok((Answer::ok(&Deleted { id: &id, deleted: true })?, vec![entry]))
    })
}

/// Stores what changed of an organization. Returns the organization with its new revision, and the audit entry.
pub(super) fn store_changes(
    tx: &Tx<'_>,
    before: &Organization,
    mut after: Organization,
    now: Timestamp,
) -> Result<(Organization, AuditEntry)> {
    let changed = changed_fields(before, &after);
    if !changed.is_empty() {
        after.revision += 1;
        after.updated_at = now;
        store::organizations::update(tx, before, &after)?;
        tx.invalidate(Invalidation::Id(after.id.clone()));
    }
    let only_suspends = only_sets_status(&changed, Status::Suspended.name());
    let entry = audit_entry(&after).with_changes(changed).withdrawing(only_suspends);
    Ok((after, entry))
}

/// Deletes an organization, revokes its API keys, and ends its memberships. Returns the audit entry.
pub(super) fn end(tx: &Tx<'_>, organization: &Organization, now: Timestamp) -> Result<AuditEntry> {
    let id = &organization.id;
    let revoked = store::api_keys::revoke_all(tx, id, None, "organization deleted", now)?;
    store::memberships::delete_all_of_organization(tx, id)?;
    store::organizations::delete(tx, id, now)?;
    tx.invalidate(Invalidation::Id(id.clone()));
    Ok(audit_entry(organization).with_changes(vec![revoked_keys_change(revoked)]).withdrawing(true))
}

/// The audited change that states how many API keys were revoked together with their organization or owner.
pub(super) fn revoked_keys_change(count: usize) -> Change {
    Change { field: "revoked_keys".into(), from: Value::from(0), to: Value::from(count) }
}

/// Reads an organization. Returns `NOT_FOUND` if it doesn't exist or the caller can't access it.
pub(super) fn get_visible(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<Organization> {
    let organization =
        if caller.can_access_organization(Some(id)) { store::organizations::get(tx, id)? } else { None };
    organization.ok_or_else(|| Error::not_found("organization"))
}

fn audit_entry(organization: &Organization) -> AuditEntry {
    AuditEntry::for_resource(
        Some(&organization.id),
        TargetKind::Organization,
        &organization.id,
        &organization.name,
    )
}
