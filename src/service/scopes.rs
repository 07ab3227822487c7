//! The scope catalogue: lists, adds, deletes and checks the scopes that API keys can have.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::{ListPage, RequestContext, mutate, read_audited};
use crate::app::App;
use crate::domain::audit::{AuditEntry, changed_fields};
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::page::Query;
use crate::domain::scope::{Catalogue, NewScope, Scope};
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::store::{self, db::Tx};

/// The id of the scope catalogue in an [`Invalidation`].
pub(super) const CATALOGUE_ID: &str = "scopes";

/// The scope catalogue in memory.
#[derive(Default)]
pub(crate) struct CatalogueCache {
    /// The catalogue, with the version at which its load began.
    loaded: Mutex<Option<(u64, Arc<Catalogue>)>>,
    /// Locked during a load, so that concurrent callers wait for its result.
    load_lock: tokio::sync::Mutex<()>,
}

/// Returns the scope catalogue with all changes committed before this call: from memory, or from the database
/// if the catalogue has changed. Verifications need the catalogue, so the lookups thread loads it, which
/// doesn't queue behind long reads.
///
/// # Errors
/// Errors of reading the database.
pub async fn load_catalogue(app: &App) -> Result<Arc<Catalogue>> {
    if let Some(catalogue) = cached_catalogue(app) {
        return Ok(catalogue);
    }
    let _one_at_a_time = app.catalogue.load_lock.lock().await;
    if let Some(catalogue) = cached_catalogue(app) {
        return Ok(catalogue);
    }
    let began = app.version_clock.now();
    let catalogue = Arc::new(app.db.look_up(store::scopes::load_catalogue).await?);
    cache_catalogue(app, began, &catalogue);
    Ok(catalogue)
}

/// Returns the scope catalogue for an operation: as seen by the operation's open transaction if there is one,
/// otherwise like [`load_catalogue`].
pub(super) async fn catalogue_for_operation(app: &App, ctx: &RequestContext) -> Result<Arc<Catalogue>> {
    let Some(seat) = &ctx.seat else { return load_catalogue(app).await };
    let began = app.version_clock.now();
    let known = cached_catalogue(app);
    let (catalogue, changed) = seat
        .run(move |tx| {
            let changed = tx.is_invalidated(CATALOGUE_ID);
            let catalogue = match known.filter(|_| !changed) {
                Some(catalogue) => catalogue,
                None => Arc::new(store::scopes::load_catalogue(tx)?),
            };
            Ok((catalogue, changed))
        })
        .await?;
    if !changed {
        cache_catalogue(app, began, &catalogue);
    }
    Ok(catalogue)
}

/// Returns the scope catalogue from memory, unless it has changed since it was loaded.
fn cached_catalogue(app: &App) -> Option<Arc<Catalogue>> {
    let entry = app.catalogue.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (_, catalogue) = entry.filter(|(began, _)| app.version_clock.is_fresh(*began, [CATALOGUE_ID]))?;
    Some(catalogue)
}

/// Stores the scope catalogue in memory. `began` is the version of the clock at which loading it began.
fn cache_catalogue(app: &App, began: u64, catalogue: &Arc<Catalogue>) {
    *app.catalogue.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, catalogue.clone()));
}

/// Returns `INVALID_REQUEST` unless all these grants exist in the transaction that assigns them to a key.
pub(super) fn ensure_scopes_exist(tx: &Tx<'_>, grants: &[String]) -> Result<()> {
    match first_unknown_scope(tx, grants)? {
        None => Ok(()),
        Some(index) => Err(Error::invalid_request(vec![unknown_scope_detail(index, &grants[index])])),
    }
}

/// Finds the index of the first grant that doesn't exist; `None` if all grants exist.
pub(super) fn first_unknown_scope(tx: &Tx<'_>, grants: &[String]) -> Result<Option<usize>> {
    for (index, grant) in grants.iter().enumerate() {
        if !store::scopes::is_known_grant(tx, grant)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Creates the error detail for a grant that doesn't exist. `index` is the grant's index in `scopes`.
pub(super) fn unknown_scope_detail(index: usize, grant: &str) -> ErrorDetail {
    ErrorDetail {
        pointer: Some(format!("/scopes/{index}")),
        parameter: None,
        code: "UNKNOWN_SCOPE".into(),
        message: format!("There is no scope {grant:?}."),
    }
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

/// Adds a scope to the catalogue. Only platform keys can add scopes.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Scope> {
    let input = NewScope::read(body)?;
    let new = Scope { scope: input.scope, description: input.description, built_in: false };
    let now = ctx.now;
    mutate(app, ctx, 201, move |tx, caller| {
        caller.require_platform()?;
        if !store::scopes::insert(tx, &new, now)? {
            return Err(Error::new(Code::AlreadyExists, "A scope with this name already exists."));
        }
        tx.invalidate(Invalidation::Id(CATALOGUE_ID.to_owned()));
        Ok((new.clone(), vec![audit_entry(&new).with_changes(changed_fields(&Value::Null, &new))]))
    })
    .await
}

/// Deletes a scope from the catalogue, unless an unrevoked API key has the scope. Only platform keys can
/// delete scopes.
pub(crate) async fn delete(app: &App, ctx: &Arc<RequestContext>, name: String) -> Result<Scope> {
    mutate(app, ctx, 200, move |tx, caller| {
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
        Ok((scope, vec![entry]))
    })
    .await
}

fn audit_entry(scope: &Scope) -> AuditEntry {
    AuditEntry::for_resource(None, "scope", &scope.scope, &scope.scope)
}
