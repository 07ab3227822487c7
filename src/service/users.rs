//! Users: create, list, read, update, delete.

use std::sync::Arc;

use serde_json::Value;

use super::organizations::revoked_keys;
use super::{Listed, RequestContext, api_keys, etag, mutate, organizations, read_audited, settings};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Change, Entry, changes};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::{Membership, Role};
use crate::domain::page::Query;
use crate::domain::user::{NewUser, Status, User, UserPatch};
use crate::error::{Code, Detail, Error, Result};
use crate::store::{self, db::Tx};

/// Creates a user. A user created by an organization's key becomes a member of that organization.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<User> {
    let input = NewUser::read(body)?;
    let own_id = input.id.is_some();
    let new = input.into_user(app.new_id(Kind::User)?, ctx.now);
    mutate(app, ctx, 201, move |tx, caller| {
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
            settings::check_member_limit(tx, &organizations::visible(tx, caller, organization)?)?;
        }
        Ok((new.clone(), vec![entry(organization, &new).with(changes(&Value::Null, &new))]))
    })
    .await
}

/// Lists the users visible to the caller: all of them, or the members of its organization.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Listed<User>> {
    let (mut page, cursor) = query.page();
    let filter = store::users::UserFilter {
        organization_id: ctx.caller.organization_id().map(str::to_owned),
        status: query.one_of("status", Status::NAMES),
        email: query.text("email"),
        external_id: query.text("external_id"),
        q: query.text("q"),
    };
    query.finish(())?;
    let binding = format!("users {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        Ok((store::users::list(tx, &filter, &page)?, Entry::about(caller.organization_id())))
    });
    Listed::new(app, &binding, rows.await?)
}

/// Reads a user.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<User> {
    read_audited(app, ctx, move |tx, caller| {
        let user = visible(tx, caller, &id)?;
        let entry = entry(caller.organization_id(), &user);
        Ok((user, entry))
    })
    .await
}

/// Updates a user; platform keys only.
///
/// # Errors
/// `INVALID_REQUEST`, `NOT_FOUND`, `PLATFORM_KEY_REQUIRED`, `INSUFFICIENT_SCOPE` if a change of the status would
/// affect a key beyond the caller's, `PRECONDITION_FAILED`, and `ALREADY_EXISTS` for an email address in use.
pub async fn update(app: &App, ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<User> {
    let patch = UserPatch::read(body)?;
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = visible(tx, caller, &id)?;
        caller.require_platform()?;
        if patch.status.is_some_and(|status| status != before.status) {
            caller.require_current_secret()?;
            api_keys::ensure_can_affect_owned(tx, caller, None, &id)?;
        }
        context.require_match(&etag(before.created_at, before.revision))?;
        let mut after = patch.apply(&before)?;
        ensure_email_available(tx, &after)?;
        let changed = changes(&before, &after);
        if !changed.is_empty() {
            after.revision += 1;
            after.updated_at = context.now;
            store::users::update(tx, &after)?;
            tx.invalidate(Invalidation::Id(id.clone()));
        }
        let entries = for_each_organization(&store::memberships::of_user(tx, &id)?, &after, &changed);
        Ok((after, entries))
    })
    .await
}

/// Deletes a user, ends its memberships, revokes its keys, and frees its email address; platform keys only.
///
/// # Errors
/// `NOT_FOUND`, `PLATFORM_KEY_REQUIRED`, `INSUFFICIENT_SCOPE` if the user owns a key beyond the caller's,
/// `PRECONDITION_FAILED`, and `CONFLICT` for the last owner of an organization.
pub async fn delete(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<String> {
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = visible(tx, caller, &id)?;
        caller.require_platform()?;
        api_keys::ensure_can_affect_owned(tx, caller, None, &id)?;
        context.require_match(&etag(before.created_at, before.revision))?;
        let memberships = store::memberships::of_user(tx, &id)?;
        for (organization, role) in &memberships {
            if *role == Role::Owner && !store::memberships::has_other_owner(tx, organization, &id)? {
                let message = format!(
                    "The user is the last owner of {organization}. Make another member an owner first."
                );
                return Err(Error::new(Code::Conflict, message));
            }
        }
        // A user owns keys where it is a member; each organization's event counts only its own keys.
        let mut entries = Vec::new();
        for (organization, _) in &memberships {
            let user = Some(id.as_str());
            let revoked = store::api_keys::revoke_all(tx, organization, user, "owner deleted", context.now)?;
            entries.push(entry(Some(organization), &before).with(vec![revoked_keys(revoked)]));
        }
        if entries.is_empty() {
            entries.push(entry(None, &before));
        }
        store::memberships::delete_of_user(tx, &id)?;
        store::users::delete(tx, &id, context.now)?;
        tx.invalidate(Invalidation::Id(id.clone()));
        Ok((id.clone(), entries))
    })
    .await
}

/// Lists a user's memberships, as far as the caller can access their organizations.
pub(crate) async fn memberships(
    app: &App,
    ctx: &Arc<RequestContext>,
    id: String,
    mut query: Query,
) -> Result<Listed<Membership>> {
    let (mut page, cursor) = query.page();
    query.finish(())?;
    let filter = store::memberships::MembershipFilter {
        organization_id: ctx.caller.organization_id().map(str::to_owned),
        user_id: Some(id.clone()),
        role: None,
    };
    let binding = format!("memberships {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        let user = visible(tx, caller, &id)?;
        Ok((store::memberships::list(tx, &filter, &page)?, entry(caller.organization_id(), &user)))
    });
    Listed::new(app, &binding, rows.await?)
}

/// Reads a user visible to the caller: any user, or a member of its organization; otherwise `NOT_FOUND`.
pub(super) fn visible(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<User> {
    let user = match caller.organization_id() {
        None => store::users::get(tx, id)?,
        Some(organization) => {
            store::memberships::get(tx, organization, id)?.map(|membership| membership.user)
        }
    };
    user.ok_or_else(|| Error::not_found("user"))
}

/// Refuses an email address that another user has. The error doesn't name that user: it may belong to another
/// organization.
fn ensure_email_available(tx: &Tx<'_>, user: &User) -> Result<()> {
    if store::users::id_by_email(tx, &user.email)?.is_none_or(|id| id == user.id) {
        return Ok(());
    }
    let message = "The email address is already in use.";
    let detail = Detail {
        pointer: Some("/email".into()),
        parameter: None,
        code: "ALREADY_EXISTS".into(),
        message: message.into(),
    };
    Err(Error { details: vec![detail], ..Error::new(Code::AlreadyExists, message) })
}

fn entry(organization: Option<&str>, user: &User) -> Entry {
    Entry::of(organization, "user", &user.id, &user.name)
}

/// One audit entry for each of a user's organizations, or one for the platform if it has none.
fn for_each_organization(memberships: &[(String, Role)], user: &User, changed: &[Change]) -> Vec<Entry> {
    if memberships.is_empty() {
        return vec![entry(None, user).with(changed.to_vec())];
    }
    memberships
        .iter()
        .map(|(organization, _)| entry(Some(organization), user).with(changed.to_vec()))
        .collect()
}
