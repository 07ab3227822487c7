//! The scope catalogue: lists, adds, deletes and checks the scopes that API keys can have.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::operation::{Answer, Operation};
use super::{ListPage, RequestContext, read_audited};
use crate::app::App;
use crate::domain::action::TargetKind;
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::page::Query;
use crate::domain::scope::{CATALOGUE_ID, Catalogue, NewScope, Scope, UNKNOWN_SCOPE, unknown_scope_message};
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::store::{self, db::Tx};

/// Reads a request body that names scopes. Whether they exist is decided in the transaction
/// ([`ensure_scopes_exist`]): an earlier operation of a batch may create them. Only if the body has other faults, unknown
/// scopes are reported together with these.
pub(super) async fn read_with_scopes<T>(
    app: &App,
    read: impl Fn(Option<&Catalogue>) -> Result<T>,
) -> Result<T> {
    match read(None) {
        Err(_) => read(Some(&*app.catalogue().await?)),
        input => input,
    }
}

/// Returns `INVALID_REQUEST` unless all these scopes, as requested, exist in the transaction that assigns them to a key.
pub(super) fn ensure_scopes_exist(tx: &Tx<'_>, requested: &[String]) -> Result<()> {
    let faults = unknown_scopes(tx, requested)?;
    if faults.is_empty() { Ok(()) } else { Err(Error::invalid_request(faults)) }
}

/// The faults of a list of scopes as requested: those that don't exist.
pub(super) fn unknown_scopes(tx: &Tx<'_>, requested: &[String]) -> Result<Vec<ErrorDetail>> {
    let mut faults = Vec::new();
    for (index, scope) in requested.iter().enumerate() {
        if !store::scopes::is_known_grant(tx, scope)? {
            faults.push(ErrorDetail {
                pointer: Some(format!("/scopes/{index}")),
                parameter: None,
                code: UNKNOWN_SCOPE.into(),
                message: unknown_scope_message(scope),
            });
        }
    }
    Ok(faults)
}

/// Lists the scopes of the catalogue.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<ListPage<Scope>> {
    let (mut page, cursor) = query.page();
    query.finish(())?;
    let binding = format!("scopes {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        Ok((store::scopes::list(tx, &page)?, AuditEntry::without_target(caller.organization_id())))
    });
    ListPage::new(app, &binding, rows.await?)
}

/// Prepares adding a scope to the catalogue. Only platform keys can add scopes.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) fn create(ctx: &Arc<RequestContext>, body: &Json) -> Result<Operation> {
    let input = NewScope::read(body)?;
    let new = Scope { scope: input.scope, description: input.description, built_in: false };
    let now = ctx.now;
    Ok(Operation::new(move |tx, caller| {
        caller.require_platform()?;
        if !store::scopes::insert(tx, &new, now)? {
            return Err(Error::new(Code::AlreadyExists, "A scope with this name already exists."));
        }
        tx.invalidate(Invalidation::Id(CATALOGUE_ID.to_owned()));
        let entry = audit_entry(&new).with_changes(changed_fields(&Value::Null, &new));
        Ok((Answer::created(&new)?, vec![entry]))
    }))
}

/// A scope that was removed from the catalogue.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeletedScope {
    scope: String,
    /// Always `true`.
    deleted: bool,
}

/// Prepares the deletion of a scope from the catalogue, unless an unrevoked API key has the scope. Only platform keys can
/// delete scopes.
pub(crate) fn delete(name: String) -> Operation {
    Operation::new(move |tx, caller| {
        caller.require_platform()?;
        let scope = store::scopes::get(tx, &name)?.ok_or_else(|| Error::not_found("scope"))?;
        if scope.built_in {
            return Err(Error::new(Code::Conflict, "A built-in scope can't be deleted."));
        }
        for grant in store::scopes::load_catalogue(tx)?.grants_depending_on(&name) {
            if store::scopes::is_scope_in_use(tx, &grant)? {
                let message = format!(
                    "At least one key that isn't revoked has {grant}. Remove it from those keys first."
                );
                return Err(Error::new(Code::Conflict, message));
            }
        }
        store::scopes::delete(tx, &name)?;
        tx.invalidate(Invalidation::Id(CATALOGUE_ID.to_owned()));
        let entry = audit_entry(&scope);
        Ok((Answer::ok(&DeletedScope { scope: scope.scope, deleted: true })?, vec![entry]))
    })
}

fn audit_entry(scope: &Scope) -> AuditEntry {
    AuditEntry::for_resource(None, TargetKind::Scope, &scope.scope, &scope.scope)
}
