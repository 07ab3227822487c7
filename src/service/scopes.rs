//! The catalogue of scopes.

use std::sync::{Arc, PoisonError};

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

/// What [`Invalidation`] calls the catalogue.
pub(super) const CATALOGUE: &str = "scopes";

/// The catalogue as of no earlier than this call, from memory when nothing changed.
pub async fn catalogue(app: &App) -> Result<Arc<Catalogue>> {
    if let Some(catalogue) = remembered(app) {
        return Ok(catalogue);
    }
    let began = app.version_clock.now();
    let catalogue = Arc::new(app.db.read(store::scopes::catalogue).await?);
    remember(app, began, &catalogue);
    Ok(catalogue)
}

/// The catalogue for an operation: within a transaction as it is there, else as [`catalogue`].
pub(super) async fn catalogue_for(app: &App, ctx: &RequestContext) -> Result<Arc<Catalogue>> {
    let Some(seat) = &ctx.seat else { return catalogue(app).await };
    let (began, known) = (app.version_clock.now(), remembered(app));
    let (catalogue, changed) = seat
        .run(move |tx| {
            let changed = tx.is_stale(CATALOGUE);
            let catalogue = match known.filter(|_| !changed) {
                Some(known) => known,
                None => Arc::new(store::scopes::catalogue(tx)?),
            };
            Ok((catalogue, changed))
        })
        .await?;
    if !changed {
        remember(app, began, &catalogue);
    }
    Ok(catalogue)
}

fn remembered(app: &App) -> Option<Arc<Catalogue>> {
    let remembered = app.catalogue.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (_, catalogue) = remembered.filter(|(began, _)| app.version_clock.is_fresh(*began, [CATALOGUE]))?;
    Some(catalogue)
}

fn remember(app: &App, began: u64, catalogue: &Arc<Catalogue>) {
    *app.catalogue.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, catalogue.clone()));
}

/// Are these grants still known, inside the transaction that gives them?
pub(super) fn still_known(tx: &Tx<'_>, grants: &[String]) -> Result<()> {
    match first_unknown(tx, grants)? {
        None => Ok(()),
        Some(index) => Err(Error::invalid(vec![unknown(index, &grants[index])])),
    }
}

/// The place of the first grant that nobody knows.
pub(super) fn first_unknown(tx: &Tx<'_>, grants: &[String]) -> Result<Option<usize>> {
    let wildcards = grants.iter().any(|grant| grant.ends_with(":*"));
    let catalogue = if wildcards { Some(store::scopes::catalogue(tx)?) } else { None };
    for (index, grant) in grants.iter().enumerate() {
        let known = match &catalogue {
            Some(catalogue) => catalogue.knows(grant),
            None => grant == "*" || store::scopes::get(tx, grant)?.is_some(),
        };
        if !known {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The fault of a grant that nobody knows.
pub(super) fn unknown(index: usize, grant: &str) -> Detail {
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
    let read = NewScope::read(body)?;
    let new = Scope { scope: read.scope, description: read.description, built_in: false };
    let now = ctx.now;
    mutate(app, ctx, 201, move |tx, caller| {
        caller.require_platform()?;
        if !store::scopes::insert(tx, &new, now)? {
            return Err(Error::new(Code::AlreadyExists, "There is a scope of this name."));
        }
        tx.invalidate(Invalidation::Id(CATALOGUE.to_owned()));
        Ok((new.clone(), vec![entry(&new).with(changes(&Value::Null, &new))]))
    })
    .await
}

/// Takes a scope away that no live key holds; platform keys only.
pub(crate) async fn delete(app: &App, ctx: &Arc<RequestContext>, name: String) -> Result<Scope> {
    mutate(app, ctx, 200, move |tx, caller| {
        caller.require_platform()?;
        let scope = store::scopes::get(tx, &name)?.ok_or_else(|| Error::not_found("scope"))?;
        if scope.built_in {
            return Err(Error::new(Code::Conflict, "A built-in scope can't be removed."));
        }
        for grant in store::scopes::catalogue(tx)?.grants_depending_on(&name) {
            if store::scopes::in_use(tx, &grant)? {
                let message = format!("A key that isn't revoked holds {grant}; take it from the keys first.");
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
