//! Memberships: add, list, read, update, remove. The last owner of an organization can't be removed.

use std::sync::Arc;

use serde_json::Value;

use super::organizations::{self, revoked_keys};
use super::{Listed, RequestContext, api_keys, etag, mutate, read_audited, settings, users};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Entry, changes};
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::{Membership, MembershipPatch, NewMember, Role};
use crate::domain::page::Query;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};

/// Adds a member. An organization's key can add only users visible to it.
pub(crate) async fn create(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    body: &Json,
) -> Result<Membership> {
    let input = NewMember::read(body)?;
    let now = ctx.now;
    mutate(app, ctx, 201, move |tx, caller| {
        let organization = organizations::visible(tx, caller, &organization_id)?;
        let user = users::visible(tx, caller, &input.user_id)?;
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
        let entry = entry(&new).with(changes(&Value::Null, &new));
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
) -> Result<Listed<Membership>> {
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
        let organization = organizations::visible(tx, caller, &organization_id)?;
        let entry = Entry::of(Some(&organization_id), "organization", &organization_id, &organization.name);
        Ok((store::memberships::list(tx, &filter, &page)?, entry))
    });
    Listed::new(app, &binding, rows.await?)
}

/// Reads a membership.
pub(crate) async fn get(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
) -> Result<Membership> {
    read_audited(app, ctx, move |tx, caller| {
        let membership = visible(tx, caller, &organization_id, &user_id)?;
        let entry = entry(&membership);
        Ok((membership, entry))
    })
    .await
}

/// Updates a member's role.
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
        let before = visible(tx, caller, &organization_id, &user_id)?;
        context.require_match(&etag(before.created_at, before.revision))?;
        let mut after = Membership { role: patch.role.unwrap_or(before.role), ..before.clone() };
        let changed = changes(&before, &after);
        if !changed.is_empty() {
            ensure_another_owner(tx, &before)?;
            after.revision += 1;
            after.updated_at = context.now;
            store::memberships::update(tx, &after)?;
        }
        let entry = entry(&after).with(changed);
        Ok((after, vec![entry]))
    })
    .await
}

/// Removes a member and revokes the keys that the user owns in the organization.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_SCOPE` if one of these keys is beyond the caller's, `PRECONDITION_FAILED`, and `CONFLICT` for the last owner.
pub async fn delete(
    app: &App,
    ctx: &Arc<RequestContext>,
    organization_id: String,
    user_id: String,
) -> Result<Membership> {
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = visible(tx, caller, &organization_id, &user_id)?;
        api_keys::ensure_can_affect_owned(tx, caller, Some(&organization_id), &user_id)?;
        context.require_match(&etag(before.created_at, before.revision))?;
        ensure_another_owner(tx, &before)?;
        let user = Some(user_id.as_str());
        let revoked =
            store::api_keys::revoke_all(tx, &organization_id, user, "membership ended", context.now)?;
        store::memberships::delete(tx, &organization_id, &user_id)?;
        tx.invalidate(Invalidation::Id(user_id.clone()));
        let entry = entry(&before).with(vec![revoked_keys(revoked)]);
        Ok((before, vec![entry]))
    })
    .await
}

fn visible(tx: &Tx<'_>, caller: &Caller, organization_id: &str, user_id: &str) -> Result<Membership> {
    organizations::visible(tx, caller, organization_id)?;
    store::memberships::get(tx, organization_id, user_id)?.ok_or_else(|| Error::not_found("member"))
}

fn ensure_another_owner(tx: &Tx<'_>, leaving: &Membership) -> Result<()> {
    if leaving.role != Role::Owner
        || store::memberships::has_other_owner(tx, &leaving.organization_id, &leaving.user_id)?
    {
        return Ok(());
    }
    Err(Error::new(Code::Conflict, "This is the last owner. Make another member an owner first."))
}

fn entry(membership: &Membership) -> Entry {
    Entry::of(Some(&membership.organization_id), "membership", &membership.user_id, &membership.user.name)
}
