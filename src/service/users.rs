//! Users: create, list, read, update, delete.

use std::sync::Arc;

use serde_json::Value;

use super::operation::{Answer, Deleted, Operation};
use super::organizations::revoked_keys_change;
use super::{ListPage, RequestContext, api_keys, etag, expand, organizations, read_audited, settings};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::TargetKind;
use crate::domain::audit::{AuditEntry, Change, changed_fields, only_sets_status};
use crate::domain::expand::ExpandedMembership;
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::{Membership, MembershipFilter, Role};
use crate::domain::page::Query;
use crate::domain::time::Timestamp;
use crate::domain::user::{NewUser, Status, User, UserFilter, UserPatch};
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::store::{self, db::Tx};

/// Prepares the creation of a user. A user created with an organization's API key becomes a member of that organization.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Operation> {
    let input = NewUser::read(body)?;
    let own_id = input.id.is_some();
    let new = input.into_user(app.new_id(Kind::User)?, ctx.now);
    let created = changed_fields(&Value::Null, &new);
    Ok(Operation::new(move |tx, caller| {
        if own_id {
            caller.require_platform()?;
            if store::users::id_taken(tx, &new.id)? {
                let message = "The id is already in use, possibly by a deleted user.";
                return Err(Error::new(Code::AlreadyExists, message));
            }
        }
        ensure_email_available(tx, &new)?;
        store::users::insert(tx, &new, None)?;
        let organization = caller.organization_id();
        if let Some(organization) = organization {
            let membership = Membership {
                organization_id: organization.to_owned(),
                user_id: new.id.clone(),
                role: Role::Member,
                user: new.clone(),
                created_at: new.created_at,
                updated_at: new.created_at,
                revision: 1,
            };
            store::memberships::insert(tx, &membership)?;
            settings::check_member_limit(tx, &organizations::get_visible(tx, caller, organization)?)?;
        }
        let entry = audit_entry(organization, &new).with_changes(created.clone());
        Ok((Answer::created(&new)?.with_etag(etag_of(&new)), vec![entry]))
    }))
}

fn etag_of(user: &User) -> String {
    etag(user.created_at, user.revision)
}

/// Lists the users visible to the caller: all users for a platform key, the organization's members for an
/// organization's key.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<ListPage<User>> {
    let (mut page, cursor) = query.page();
    let mut filter = UserFilter::read(&mut query);
    query.finish(())?;
    filter.organization_id = ctx.caller.organization_id().map(str::to_owned);
    let binding = format!("users {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        Ok((store::users::list(tx, &filter, &page)?, AuditEntry::without_target(caller.organization_id())))
    });
    ListPage::new(app, &binding, rows.await?)
}

/// Prepares reading a user.
pub(crate) fn get(id: String) -> Operation {
    Operation::new(move |tx, caller| {
        let user = get_visible(tx, caller, &id)?;
        let entry = audit_entry(caller.organization_id(), &user);
        Ok((Answer::ok(&user)?.with_etag(etag_of(&user)), vec![entry]))
    })
}

/// Prepares a change of a user. Only platform keys can update users. Applied, it fails with `NOT_FOUND`,
/// `PLATFORM_KEY_REQUIRED`, `PRECONDITION_FAILED`, and `ALREADY_EXISTS` for
/// an email address that another user has. For a change of the status also `SECRET_SUPERSEDED`, and
/// `INSUFFICIENT_SCOPE` if the user owns a key with administrative scopes that the caller lacks.
///
/// # Errors
/// `INVALID_REQUEST`.
pub fn update(ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<Operation> {
    let patch = UserPatch::read(body)?;
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        let before = get_visible(tx, caller, &id)?;
        caller.require_platform()?;
        if patch.status.is_some_and(|status| status != before.status) {
            caller.require_current_secret()?;
            api_keys::ensure_can_affect_owned_keys(tx, caller, None, &id)?;
        }
        context.require_if_match(&etag_of(&before))?;
        let after = patch.apply(&before)?;
        ensure_email_available(tx, &after)?;
        let (after, entries) = store_changes(tx, &before, after, context.now)?;
        Ok((Answer::ok(&after)?.with_etag(etag_of(&after)), entries))
    }))
}

/// Prepares the deletion of a user, which ends the user's memberships, revokes the user's API keys, and frees the user's
/// email address. Only platform keys can delete users. Applied, it fails with
/// `NOT_FOUND`, `PLATFORM_KEY_REQUIRED`, `INSUFFICIENT_SCOPE` if the user owns a key beyond the caller's,
/// `PRECONDITION_FAILED`, and `CONFLICT` for the last owner of an organization.
pub fn delete(ctx: &Arc<RequestContext>, id: String) -> Operation {
    let context = ctx.clone();
    Operation::new(move |tx, caller| {
        let before = get_visible(tx, caller, &id)?;
        caller.require_platform()?;
        api_keys::ensure_can_affect_owned_keys(tx, caller, None, &id)?;
        context.require_if_match(&etag_of(&before))?;
        for (organization, role) in store::memberships::organizations_and_roles_of_user(tx, &id)? {
            if role == Role::Owner && !store::memberships::has_other_owner(tx, &organization, &id)? {
                let message = format!(
                    "The user is the last owner of {organization}. Make another member an owner first."
                );
                return Err(Error::new(Code::Conflict, message));
            }
        }
        let entries = end(tx, &before, context.now)?;
        Ok((Answer::ok(&Deleted { id: &id, deleted: true })?, entries))
    })
}

/// Stores what changed of a user. Returns the user with its new revision, and the audit entries.
pub(super) fn store_changes(
    tx: &Tx<'_>,
    before: &User,
    mut after: User,
    now: Timestamp,
) -> Result<(User, Vec<AuditEntry>)> {
    let changed = changed_fields(before, &after);
    if !changed.is_empty() {
        after.revision += 1;
        after.updated_at = now;
        store::users::update(tx, before, &after)?;
        tx.invalidate(Invalidation::Id(after.id.clone()));
    }
    let memberships = store::memberships::organizations_and_roles_of_user(tx, &after.id)?;
    let only_suspends = only_sets_status(&changed, Status::Suspended.name());
    let entries = entries_for_each_organization(&memberships, &after, &changed);
    let entries = entries.into_iter().map(|entry| entry.withdrawing(only_suspends)).collect();
    Ok((after, entries))
}

/// Deletes a user, ends the user's memberships, revokes the user's API keys, and frees the user's email address.
/// Returns the audit entries.
pub(super) fn end(tx: &Tx<'_>, user: &User, now: Timestamp) -> Result<Vec<AuditEntry>> {
    let id = &user.id;
    // A user owns API keys only in organizations that the user is a member of. Each organization's audit
    // event counts only the revoked keys of that organization.
    let mut entries = Vec::new();
    for (organization, _) in store::memberships::organizations_and_roles_of_user(tx, id)? {
        let revoked = store::api_keys::revoke_all(tx, &organization, Some(id), "owner deleted", now)?;
        entries.push(audit_entry(Some(&organization), user).with_changes(vec![revoked_keys_change(revoked)]));
    }
    if entries.is_empty() {
        entries.push(audit_entry(None, user));
    }
    store::memberships::delete_all_of_user(tx, id)?;
    store::users::delete(tx, id, now)?;
    tx.invalidate(Invalidation::Id(id.clone()));
    Ok(entries.into_iter().map(|entry| entry.withdrawing(true)).collect())
}

/// Lists a user's memberships in the organizations that the caller can access.
pub(crate) async fn memberships(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    mut query: Query,
) -> Result<ListPage<ExpandedMembership>> {
    let (mut page, cursor) = query.page();
    let added = expand::read(&ctx.caller, query, &["organization"])?;
    let filter = MembershipFilter {
        organization_id: ctx.caller.organization_id().map(str::to_owned),
        user_id: Some(id.clone()),
        role: None,
    };
    let binding = format!("memberships {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        let user = get_visible(tx, caller, &id)?;
        let memberships = expand::list_memberships(tx, caller, &filter, &page, added)?;
        Ok((memberships, audit_entry(caller.organization_id(), &user)))
    });
    ListPage::new(app, &binding, rows.await?)
}

/// Reads a user. Returns `NOT_FOUND` if the user doesn't exist, or if the caller is an organization's key and
/// the user is not a member of that organization.
pub(super) fn get_visible(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<User> {
    let user = match caller.organization_id() {
        None => store::users::get(tx, id)?,
        Some(organization) => {
            store::memberships::get(tx, organization, id)?.map(|membership| membership.user)
        }
    };
    user.ok_or_else(|| Error::not_found("user"))
}

/// Returns `ALREADY_EXISTS` if another user has this user's email address. The error doesn't name the other
/// user, who may belong to an organization that the caller can't access.
fn ensure_email_available(tx: &Tx<'_>, user: &User) -> Result<()> {
    if store::users::id_by_email(tx, &user.email)?.is_none_or(|id| id == user.id) {
        return Ok(());
    }
    let message = "The email address is already in use.";
    let detail = ErrorDetail {
        pointer: Some("/email".into()),
        parameter: None,
        code: "ALREADY_EXISTS".into(),
        message: message.into(),
    };
    Err(Error { details: vec![detail], ..Error::new(Code::AlreadyExists, message) })
}

fn audit_entry(organization: Option<&str>, user: &User) -> AuditEntry {
    AuditEntry::for_resource(organization, TargetKind::User, &user.id, &user.name)
}

/// Creates one audit entry for each organization of a user, or one entry without an organization if the user
/// has no memberships.
fn entries_for_each_organization(
    memberships: &[(String, Role)],
    user: &User,
    changed: &[Change],
) -> Vec<AuditEntry> {
    if memberships.is_empty() {
        return vec![audit_entry(None, user).with_changes(changed.to_vec())];
    }
    memberships
        .iter()
        .map(|(organization, _)| audit_entry(Some(organization), user).with_changes(changed.to_vec()))
        .collect()
}
