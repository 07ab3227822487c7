//! Organizations: create, find, change, end.

use std::sync::Arc;

use serde_json::Value;

use super::{Listed, RequestContext, etag, mutate, read_audited, settings};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Change, Entry, changes};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::invalidation::Invalidation;
use crate::domain::organization::{NewOrganization, Organization, OrganizationPatch, Status};
use crate::domain::page::Query;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};

/// Creates an organization; platform keys only.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Organization> {
    let read = NewOrganization::read(body, &settings::current(app, ctx).await?.settings)?;
    let new = read.into_organization(app.new_id(Kind::Organization)?, ctx.now);
    mutate(app, ctx, 201, move |tx, caller| {
        caller.require_platform()?;
        settings::still_there(tx, &new.plan)?;
        if !store::organizations::insert(tx, &new, None)? {
            return Err(Error::new(
                Code::AlreadyExists,
                "The id is taken, now or by a deleted organization.",
            ));
        }
        Ok((new.clone(), vec![entry(&new).with(changes(&Value::Null, &new))]))
    })
    .await
}

/// Lists those that the caller reaches.
pub(crate) async fn list(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut query: Query,
) -> Result<Listed<Organization>> {
    let (mut page, cursor) = query.page();
    let filter = store::organizations::OrganizationFilter {
        id: ctx.caller.organization_id().map(str::to_owned),
        status: query.one_of("status", Status::NAMES),
        plan: query.text("plan"),
        q: query.text("q"),
    };
    query.finish(())?;
    let binding = format!("organizations {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        Ok((store::organizations::list(tx, &filter, &page)?, Entry::about(caller.organization_id())))
    });
    Listed::new(app, &binding, rows.await?)
}

/// One organization.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<Organization> {
    read_audited(app, ctx, move |tx, caller| {
        let found = visible(tx, caller, &id)?;
        let entry = entry(&found);
        Ok((found, entry))
    })
    .await
}

/// Changes an organization.
pub async fn update(app: &App, ctx: &Arc<RequestContext>, id: String, body: &Json) -> Result<Organization> {
    let patch = OrganizationPatch::read(body, &settings::current(app, ctx).await?.settings)?;
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = visible(tx, caller, &id)?;
        if patch.needs_platform() {
            caller.require_platform()?;
        }
        context.require_match(&etag(before.created_at, before.revision))?;
        let mut after = patch.apply(&before)?;
        if patch.plan.is_some() {
            settings::still_there(tx, &after.plan)?;
        }
        let changed = changes(&before, &after);
        if !changed.is_empty() {
            after.revision += 1;
            after.updated_at = context.now;
            store::organizations::update(tx, &after)?;
            tx.invalidate(Invalidation::Id(id.clone()));
        }
        let entry = entry(&after).with(changed);
        Ok((after, vec![entry]))
    })
    .await
}

/// Ends an organization, its keys and its memberships; platform keys only.
pub async fn delete(app: &App, ctx: &Arc<RequestContext>, id: String) -> Result<String> {
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        let before = visible(tx, caller, &id)?;
        caller.require_platform()?;
        context.require_match(&etag(before.created_at, before.revision))?;
        let revoked = store::api_keys::revoke_all(tx, &id, None, "organization deleted", context.now)?;
        store::memberships::delete_of_organization(tx, &id)?;
        store::organizations::delete(tx, &id, context.now)?;
        tx.invalidate(Invalidation::Id(id.clone()));
        Ok((id.clone(), vec![entry(&before).with(vec![revoked_keys(revoked)])]))
    })
    .await
}

/// How many keys ended with what owned them.
pub(super) fn revoked_keys(count: usize) -> Change {
    Change { field: "revoked_keys".into(), from: Value::from(0), to: Value::from(count) }
}

/// The organization if the caller reaches it; else it isn't there.
pub(super) fn visible(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<Organization> {
    let found = if caller.reaches(Some(id)) { store::organizations::get(tx, id)? } else { None };
    found.ok_or_else(|| Error::not_found("organization"))
}

fn entry(organization: &Organization) -> Entry {
    Entry::of(Some(&organization.id), "organization", &organization.id, &organization.name)
}
