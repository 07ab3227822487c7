//! Memberships: add, list, read, update, remove. The last owner of an organization can't be removed or given
//! another role.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::expand::{self, Names};
use super::operation::{Answer, Operation};
use super::organizations::{self, revoked_keys_change};
use super::{ListPage, RequestContext, api_keys, etag, read_audited, settings, users};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::TargetKind;
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::expand::ExpandedMembership;
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::{Membership, MembershipFilter, MembershipPatch, NewMember, Role};
use crate::domain::page::Query;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};

/// Prepares adding a user to an organization. An organization's API key can add only users that are visible to the key.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) fn create(ctx: &Arc<RequestContext>, organization_id: String, body: &Json) -> Result<Operation> {
    let input = NewMember::read(body)?;
    let now = ctx.now;
    Ok(Operation::new(move |tx, caller| {
        let organization = organizations::get_visible(tx, caller, &organization_id)?;
        let user = users::get_visible(tx, caller, &input.user_id)?;
        let new = Membership {
            organization_id: organization_id.clone(),
            user_id: user.id.clone(),
            role: input.role,
            user,
            created_at: now,
            updated_at: now,
            revision: 1,
        };
        if !store::memberships::insert(tx, &new)? {
            return Err(Error::new(
                Code::AlreadyExists,
                "The user is already a member of this organization.",
            ));
        }
        settings::check_member_limit(tx, &organization)?;
        tx.invalidate(Invalidation::Id(new.user_id.clone()));
        let entry = audit_entry(&new).with_changes(changed_fields(&Value::Null, &new));
        Ok((Answer::created(&new)?.with_etag(etag_of(&new)), vec![entry]))
    }))
}

fn etag_of(membership: &Membership) -> String {
    etag(membership.created_at, membership.revision)
}

/// Lists an organization's members.
pub(crate) async fn list(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    mut query: Query,
) -> Result<ListPage<ExpandedMembership>> {
    let (mut page, cursor) = query.page();
    let mut filter = MembershipFilter::read(&mut query);
    let added = expand::read(&ctx.caller, query, &["organization"])?;
    filter.organization_id = Some(organization_id.clone());
    let binding = format!("members {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        let organization = organizations::get_visible(tx, caller, &organization_id)?;
        let entry = AuditEntry::for_resource(
            Some(&organization_id),
            TargetKind::Organization,
            &organization_id,
            &organization.name,
        );
        Ok((expand::list_memberships(tx, caller, &filter, &page, added)?, entry))
    });
    ListPage::new(app, &binding, rows.await?)
}

/// Prepares reading a membership.
///
/// # Errors
/// `INVALID_REQUEST`, and `INSUFFICIENT_SCOPE` for a name that the caller may not read.
pub(crate) fn get(
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
    query: Query,
) -> Result<Operation> {
    let added = expand::read(&ctx.caller, query, &["organization"])?;
    Ok(Operation::new(move |tx, caller| {
        let membership = get_visible(tx, caller, &organization_id, &user_id)?;
        let entry = audit_entry(&membership);
        let etag = etag_of(&membership);
        let names = Names::for_memberships(tx, caller, added, std::slice::from_ref(&membership))?;
        Ok((Answer::ok(&names.add_to_membership(membership))?.with_etag(etag), vec![entry]))
    }))
}

/// Prepares a change of a member's role in an organization.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) fn update(
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
    body: &Json,
) -> Result<Operation> {
    let patch = MembershipPatch::read(body)?;
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        let before = get_visible(tx, caller, &organization_id, &user_id)?;
        context.require_if_match(&etag_of(&before))?;
        let after = Membership { role: patch.role.unwrap_or(before.role), ..before.clone() };
        if after.role != before.role {
            ensure_another_owner(tx, &before)?;
        }
        let (after, entry) = store_changes(tx, &before, after, context.now)?;
        Ok((Answer::ok(&after)?.with_etag(etag_of(&after)), vec![entry]))
    }))
}

/// A deleted membership.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeletedMembership<'a> {
    #[schema(value_type = String)]
    organization_id: &'a str,
    #[schema(value_type = String)]
    user_id: &'a str,
    /// Always `true`.
    deleted: bool,
}

/// Prepares the removal of a member from an organization, which revokes the API keys that the user owns in the
/// organization. Applied, it fails with `NOT_FOUND`, `INSUFFICIENT_SCOPE` if one of these keys has administrative scopes that the caller lacks,
/// `PRECONDITION_FAILED`, and `CONFLICT` for the last owner of the organization.
pub fn delete(ctx: &Arc<RequestContext>, organization_id: String, user_id: String) -> Operation {
    let context = ctx.clone();
    Operation::new(move |tx, caller| {
        let before = get_visible(tx, caller, &organization_id, &user_id)?;
        api_keys::ensure_can_affect_owned_keys(tx, caller, Some(&organization_id), &user_id)?;
        context.require_if_match(&etag_of(&before))?;
        ensure_another_owner(tx, &before)?;
        let entry = end(tx, &before, context.now)?;
        let deleted =
            DeletedMembership { organization_id: &organization_id, user_id: &user_id, deleted: true };
        Ok((Answer::ok(&deleted)?, vec![entry]))
    })
}

/// Stores what changed of a membership. Returns the membership with its new revision, and the audit entry.
pub(super) fn store_changes(
    tx: &Tx<'_>,
    before: &Membership,
    mut after: Membership,
    now: Timestamp,
) -> Result<(Membership, AuditEntry)> {
    let changed = changed_fields(before, &after);
    if !changed.is_empty() {
        after.revision += 1;
        after.updated_at = now;
        store::memberships::update(tx, &after)?;
    }
    let entry = audit_entry(&after).with_changes(changed);
    Ok((after, entry))
}

/// Ends a membership and revokes the API keys that the user owns in the organization. Returns the audit entry.
pub(super) fn end(tx: &Tx<'_>, membership: &Membership, now: Timestamp) -> Result<AuditEntry> {
    let Membership { organization_id, user_id, .. } = membership;
    let revoked = store::api_keys::revoke_all(tx, organization_id, Some(user_id), "membership ended", now)?;
    store::memberships::delete(tx, organization_id, user_id)?;
    tx.invalidate(Invalidation::Id(user_id.clone()));
    Ok(audit_entry(membership).with_changes(vec![revoked_keys_change(revoked)]).withdrawing(true))
}

fn get_visible(tx: &Tx<'_>, caller: &Caller, organization_id: &str, user_id: &str) -> Result<Membership> {
    organizations::get_visible(tx, caller, organization_id)?;
    store::memberships::get(tx, organization_id, user_id)?.ok_or_else(|| Error::not_found("member"))
}

/// Returns `CONFLICT` if this member is the last owner of the organization.
fn ensure_another_owner(tx: &Tx<'_>, leaving: &Membership) -> Result<()> {
    if leaving.role != Role::Owner
        || store::memberships::has_other_owner(tx, &leaving.organization_id, &leaving.user_id)?
    {
        return Ok(());
    }
    Err(Error::new(Code::Conflict, "This is the last owner. Make another member an owner first."))
}

fn audit_entry(membership: &Membership) -> AuditEntry {
    AuditEntry::for_resource(
        Some(&membership.organization_id),
        TargetKind::Membership,
        &membership.user_id,
        &membership.user.name,
    )
}
