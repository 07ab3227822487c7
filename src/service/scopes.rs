//! The scope catalogue.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::{Listed, RequestContext, mutate, read_audited};
use crate::app::App;
use crate::domain::audit::{Entry, changes};
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::page::Query;
use crate::domain::scope::{Catalogue, NewScope, Scope};
use crate::error::{Code, Detail, Error, Result};
use crate::store::{self, db::Tx};

/// The id of the catalogue in [`Invalidation`].
pub(super) const CATALOGUE: &str = "scopes";

/// The catalogue in memory.
#[derive(Default)]
pub(crate) struct CatalogueCache {
    /// The catalogue, with the version at which its load began.
    loaded: Mutex<Option<(u64, Arc<Catalogue>)>>,
    /// Held during a load, so that concurrent callers wait for its result.
    loading: tokio::sync::Mutex<()>,
}

/// The catalogue, at least as recent as this call; from memory if nothing has changed. Verifications need it,
/// so it is loaded by the lookups thread, which doesn't queue behind long reads.
///
/// # Errors
/// Those of reading the database.
pub async fn catalogue(app: &App) -> Result<Arc<Catalogue>> {
    if let Some(catalogue) = cached(app) {
        return Ok(catalogue);
    }
    let _one_at_a_time = app.catalogue.loading.lock().await;
    if let Some(catalogue) = cached(app) {
        return Ok(catalogue);
    }
    let began = app.version_clock.now();
    let catalogue = Arc::new(app.db.look_up(store::scopes::catalogue).await?);
    cache(app, began, &catalogue);
    Ok(catalogue)
}

/// The catalogue for an operation: as seen by its open transaction, if any; otherwise like [`catalogue`].
pub(super) async fn catalogue_for(app: &App, ctx: &RequestContext) -> Result<Arc<Catalogue>> {
    let Some(seat) = &ctx.seat else { return catalogue(app).await };
    let began = app.version_clock.now();
    let known = cached(app);
    let (catalogue, changed) = seat
        .run(move |tx| {
            let changed = tx.is_invalidated(CATALOGUE);
            let catalogue = match known.filter(|_| !changed) {
                Some(catalogue) => catalogue,
                None => Arc::new(store::scopes::catalogue(tx)?),
            };
            Ok((catalogue, changed))
        })
        .await?;
    if !changed {
        cache(app, began, &catalogue);
    }
    Ok(catalogue)
}

fn cached(app: &App) -> Option<Arc<Catalogue>> {
    let entry = app.catalogue.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (_, catalogue) = entry.filter(|(began, _)| app.version_clock.is_fresh(*began, [CATALOGUE]))?;
    Some(catalogue)
}

fn cache(app: &App, began: u64, catalogue: &Arc<Catalogue>) {
    *app.catalogue.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, catalogue.clone()));
}

/// Refuses with `INVALID_REQUEST` unless all these grants exist as of the transaction that gives them.
pub(super) fn ensure_known(tx: &Tx<'_>, grants: &[String]) -> Result<()> {
    match first_unknown(tx, grants)? {
        None => Ok(()),
        Some(index) => Err(Error::invalid(vec![unknown_scope(index, &grants[index])])),
    }
}

/// The index of the first grant that does not exist.
pub(super) fn first_unknown(tx: &Tx<'_>, grants: &[String]) -> Result<Option<usize>> {
    for (index, grant) in grants.iter().enumerate() {
        if !store::scopes::knows(tx, grant)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The error detail for a grant that does not exist.
pub(super) fn unknown_scope(index: usize, grant: &str) -> Detail {
    Detail {
        pointer: Some(format!("/scopes/{index}")),
        parameter: None,
        code: "UNKNOWN_SCOPE".into(),
        message: format!("There is no scope {grant:?}."),
    }
}

/// Lists the catalogue.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Listed<Scope>> {
    let (mut page, cursor) = query.page();
    query.finish(())?;
    let binding = format!("scopes {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, caller| {
        Ok((store::scopes::list(tx, &page)?, Entry::about(caller.organization_id())))
    });
    Listed::new(app, &binding, rows.await?)
}

/// Adds a scope; platform keys only.
pub(crate) async fn create(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Scope> {
    let input = NewScope::read(body)?;
    let new = Scope { scope: input.scope, description: input.description, built_in: false };
    let now = ctx.now;
    mutate(app, ctx, 201, move |tx, caller| {
        caller.require_platform()?;
        if !store::scopes::insert(tx, &new, now)? {
            return Err(Error::new(Code::AlreadyExists, "A scope with this name already exists."));
        }
        tx.invalidate(Invalidation::Id(CATALOGUE.to_owned()));
        Ok((new.clone(), vec![entry(&new).with(changes(&Value::Null, &new))]))
    })
    .await
}

/// Deletes a scope that no live key holds; platform keys only.
pub(crate) async fn delete(app: &App, ctx: &Arc<RequestContext>, name: String) -> Result<Scope> {
    mutate(app, ctx, 200, move |tx, caller| {
        caller.require_platform()?;
        let scope = store::scopes::get(tx, &name)?.ok_or_else(|| Error::not_found("scope"))?;
        if scope.built_in {
            return Err(Error::new(Code::Conflict, "A built-in scope can't be deleted."));
        }
        for grant in store::scopes::catalogue(tx)?.grants_depending_on(&name) {
            if store::scopes::in_use(tx, &grant)? {
                let message = format!(
                    "At least one key that isn't revoked has {grant}. Remove it from those keys first."
                );
                return Err(Error::new(Code::Conflict, message));
            }
        }
        store::scopes::delete(tx, &name)?;
        tx.invalidate(Invalidation::Id(CATALOGUE.to_owned()));
        let entry = entry(&scope);
        Ok((scope, vec![entry]))
    })
    .await
}

fn entry(scope: &Scope) -> Entry {
    Entry::of(None, "scope", &scope.scope, &scope.scope)
}
