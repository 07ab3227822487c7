//! Memberships: add, list, read, update, remove. The last owner of an organization can't be removed or given
//! another role.

use std::sync::Arc;

use serde_json::Value;

use super::organizations::{self, revoked_keys_change};
use super::{ListPage, RequestContext, api_keys, etag, mutate, read_audited, settings, users};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::{Membership, MembershipPatch, NewMember, Role};
use crate::domain::page::Query;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};

/// Adds a user to an organization. An organization's API key can add only users that are visible to the key.
pub(crate) async fn create(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    body: &Json,
) -> Result<Membership> {
    let input = NewMember::read(body)?;
    let now = ctx.now;
    mutate(app, ctx, 201, move |tx, caller| {
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
        Ok((new, vec![entry]))
    })
    .await
}

/// Lists an organization's members.
pub(crate) async fn list(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    mut query: Query,
) -> Result<ListPage<Membership>> {
    let (mut page, cursor) = query.page();
    let role = query.one_of("role", Role::NAMES);
    query.finish(())?;
    let filter = store::memberships::MembershipFilter {
        organization_id: Some(organization_id.clone()),
        user_id: None,
        role,
    };
    let binding = format!("members {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        let organization = organizations::get_visible(tx, caller, &organization_id)?;
        let entry = AuditEntry::for_resource(
            Some(&organization_id),
            "organization",
            &organization_id,
            &organization.name,
        );
        Ok((store::memberships::list(tx, &filter, &page)?, entry))
    });
    ListPage::new(app, &binding, rows.await?)
}

/// Reads a membership.
pub(crate) async fn get(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
) -> Result<Membership> {
    read_audited(app, ctx, move |tx, caller| {
        let membership = get_visible(tx, caller, &organization_id, &user_id)?;
        let entry = audit_entry(&membership);
        Ok((membership, entry))
    })
    .await
}

/// Updates a member's role in an organization.
pub(crate) async fn update(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
    body: &Json,
) -> Result<Membership> {
    let patch = MembershipPatch::read(body)?;
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = get_visible(tx, caller, &organization_id, &user_id)?;
        context.require_if_match(&etag(before.created_at, before.revision))?;
        let mut after = Membership { role: patch.role.unwrap_or(before.role), ..before.clone() };
        let changed = changed_fields(&before, &after);
        if !changed.is_empty() {
            ensure_another_owner(tx, &before)?;
            after.revision += 1;
            after.updated_at = context.now;
            store::memberships::update(tx, &after)?;
        }
        let entry = audit_entry(&after).with_changes(changed);
        Ok((after, vec![entry]))
    })
    .await
}

/// Removes a member from an organization and revokes the API keys that the user owns in the organization.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_SCOPE` if one of these keys has administrative scopes that the caller lacks,
/// `PRECONDITION_FAILED`, and `CONFLICT` for the last owner of the organization.
pub async fn delete(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
) -> Result<Membership> {
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = get_visible(tx, caller, &organization_id, &user_id)?;
        api_keys::ensure_can_affect_owned_keys(tx, caller, Some(&organization_id), &user_id)?;
        context.require_if_match(&etag(before.created_at, before.revision))?;
        ensure_another_owner(tx, &before)?;
        let user = Some(user_id.as_str());
        let revoked =
            store::api_keys::revoke_all(tx, &organization_id, user, "membership ended", context.now)?;
        store::memberships::delete(tx, &organization_id, &user_id)?;
        tx.invalidate(Invalidation::Id(user_id.clone()));
        let entry = audit_entry(&before).with_changes(vec![revoked_keys_change(revoked)]).withdrawing(true);
        Ok((before, vec![entry]))
    })
    .await
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
        "membership",
        &membership.user_id,
        &membership.user.name,
    )
}
