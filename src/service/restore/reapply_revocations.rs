//! What was withdrawn since a backup, taken over into it: each thing as a change of its own, with its event.

use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::{Change, Entry, changes};
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::Membership;
use crate::domain::quota::Lease;
use crate::domain::restore::{self, ReappliedRevocations};
use crate::error::Result;
use crate::service::check::ProgressFn;
use crate::service::organizations::revoked_keys;
use crate::service::{RequestContext, mutate};
use crate::store::export::{Page, WithSecrets};
use crate::store::restore::ReplacedDatabase;
use crate::store::{self, db::Tx, export, import as stored};

/// Things that are compared at once.
const PAGE: usize = 500;

/// Changes that wait for the writer at once.
const TOGETHER: usize = 200;

/// Takes over all of it.
pub(crate) async fn all(
    app: &App,
    held: &mut ReplacedDatabase,
    progress: ProgressFn<'_>,
) -> Result<ReappliedRevocations> {
    let mut reapplied = ReappliedRevocations::default();
    let rows = held.read(store::check::rows)?;
    let total = rows.get("api_keys").and_then(|n| u64::try_from(*n).ok()).unwrap_or(0);
    organizations(app, held, &mut reapplied).await?;
    users(app, held, &mut reapplied).await?;
    memberships(app, held, &mut reapplied).await?;
    let (mut after, mut compared) = (i64::MIN, 0);
    loop {
        let page = held.read(|tx| export::api_keys(tx, after, PAGE))?;
        compared += page.len() as u64;
        progress("what was revoked since", compared, total.max(compared));
        let Some(last) = page.last().map(|(seq, _)| *seq) else { break };
        after = last;
        reapplied.api_keys += api_keys(app, page).await?;
    }
    quotas(app, held, &mut reapplied).await?;
    Ok(reapplied)
}

fn context(app: &App, action: &'static str) -> Result<Arc<RequestContext>> {
    RequestContext::internal(app, Caller::Operator, action, "write")
}

/// Runs changes that don't depend on each other; each waits for its commit.
async fn together<F: Future<Output = Result<()>>>(changes: Vec<F>) -> Result<u64> {
    let (count, mut changes) = (changes.len() as u64, changes.into_iter());
    loop {
        let some: Vec<_> = changes.by_ref().take(TOGETHER).collect();
        if some.is_empty() {
            return Ok(count);
        }
        try_join_all(some).await?;
    }
}

/// Ends with what owned it.
fn gone(revoked: usize) -> Vec<Change> {
    vec![Change { field: "deleted".into(), from: false.into(), to: true.into() }, revoked_keys(revoked)]
}

async fn organizations(
    app: &App,
    held: &mut ReplacedDatabase,
    reapplied: &mut ReappliedRevocations,
) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let page = held.read(|tx| export::organizations(tx, after, PAGE))?;
        let Some(last) = page.last().map(|(seq, _)| *seq) else { return Ok(()) };
        after = last;
        let pairs = app.db.read(move |tx| {
            let pairs = page.into_iter().map(|(_, (replaced, ended))| {
                Ok(store::organizations::get(tx, &replaced.id)?.map(|restored| (restored, replaced, ended)))
            });
            pairs.collect::<Result<Vec<_>>>()
        });
        let mut work = Vec::new();
        for (restored, replaced, ended) in pairs.await?.into_iter().flatten() {
            let status = restore::status(restored.status, replaced.status);
            let same = restored.created_at == replaced.created_at;
            if !same || (ended.is_none() && status == restored.status) {
                continue;
            }
            let ctx = context(app, "organization.restore")?;
            let now = ctx.now;
            work.push(async move {
                mutate(app, &ctx, 200, move |tx, _| {
                    let entry = Entry::of(Some(&restored.id), "organization", &restored.id, &restored.name);
                    tx.invalidate(Invalidation::Id(restored.id.clone()));
                    if let Some(ended) = ended {
                        let (id, reason) = (&restored.id, "organization deleted");
                        let revoked = store::api_keys::revoke_all(tx, id, None, reason, ended)?;
                        store::memberships::delete_of_organization(tx, id)?;
                        store::organizations::delete(tx, id, ended)?;
                        return Ok(((), vec![entry.with(gone(revoked))]));
                    }
                    let mut after = restored.clone();
                    after.status = status;
                    after.revision += 1;
                    after.updated_at = now;
                    store::organizations::update(tx, &after)?;
                    Ok(((), vec![entry.with(changes(&restored, &after))]))
                })
                .await
            });
        }
        reapplied.organizations += together(work).await?;
    }
}

async fn users(app: &App, held: &mut ReplacedDatabase, reapplied: &mut ReappliedRevocations) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let page = held.read(|tx| export::users(tx, after, PAGE))?;
        let Some(last) = page.last().map(|(seq, _)| *seq) else { return Ok(()) };
        after = last;
        let pairs = app.db.read(move |tx| {
            let pairs = page.into_iter().map(|(_, (replaced, ended))| {
                Ok(store::users::get(tx, &replaced.id)?.map(|restored| (restored, replaced, ended)))
            });
            pairs.collect::<Result<Vec<_>>>()
        });
        let mut work = Vec::new();
        for (restored, replaced, ended) in pairs.await?.into_iter().flatten() {
            let status = restore::status(restored.status, replaced.status);
            let same = restored.created_at == replaced.created_at;
            if !same || (ended.is_none() && status == restored.status) {
                continue;
            }
            let ctx = context(app, "user.restore")?;
            let now = ctx.now;
            work.push(async move {
                mutate(app, &ctx, 200, move |tx, _| {
                    tx.invalidate(Invalidation::Id(restored.id.clone()));
                    let entry = |organization: Option<&str>, changed: Vec<Change>| {
                        Entry::of(organization, "user", &restored.id, &restored.name).with(changed)
                    };
                    let memberships = store::memberships::of_user(tx, &restored.id)?;
                    let mut entries = Vec::new();
                    if let Some(ended) = ended {
                        for (organization, _) in &memberships {
                            let (owner, reason) = (Some(restored.id.as_str()), "owner deleted");
                            let revoked =
                                store::api_keys::revoke_all(tx, organization, owner, reason, ended)?;
                            entries.push(entry(Some(organization), gone(revoked)));
                        }
                        if entries.is_empty() {
                            entries.push(entry(None, gone(0)));
                        }
                        store::memberships::delete_of_user(tx, &restored.id)?;
                        store::users::delete(tx, &restored.id, ended)?;
                        return Ok(((), entries));
                    }
                    let mut after = restored.clone();
                    after.status = status;
                    after.revision += 1;
                    after.updated_at = now;
                    store::users::update(tx, &after)?;
                    let changed = changes(&restored, &after);
                    let whose = memberships.iter().map(|(organization, _)| Some(organization.as_str()));
                    entries.extend(whose.map(|organization| entry(organization, changed.clone())));
                    if entries.is_empty() {
                        entries.push(entry(None, changed));
                    }
                    Ok(((), entries))
                })
                .await
            });
        }
        reapplied.users += together(work).await?;
    }
}

/// A membership that isn't there any more leaves nothing behind: it is seen from the restored one.
async fn memberships(
    app: &App,
    held: &mut ReplacedDatabase,
    reapplied: &mut ReappliedRevocations,
) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let page: Page<_> = app.db.read(move |tx| export::memberships(tx, after, PAGE)).await?;
        let Some(last) = page.last().map(|(seq, _)| *seq) else { return Ok(()) };
        after = last;
        let mut work = Vec::new();
        for (_, restored) in page {
            let (organization, user) = (restored.organization_id.clone(), restored.user_id.clone());
            let role = held.read(|tx| {
                let known =
                    stored::organization(tx, &organization)?.is_some() && stored::user(tx, &user)?.is_some();
                let there = store::memberships::get(tx, &organization, &user)?;
                // Of an origin that knows neither there is nothing to be learnt.
                Ok(if known {
                    Some(there.map(|there| restore::role(restored.role, there.role)))
                } else {
                    None
                })
            })?;
            let Some(role) = role else { continue };
            if role == Some(restored.role) {
                continue;
            }
            let ctx = context(app, "membership.restore")?;
            let now = ctx.now;
            work.push(async move {
                mutate(app, &ctx, 200, move |tx, _| {
                    let Some(before) = store::memberships::get(tx, &organization, &user)? else {
                        return Ok(((), Vec::new()));
                    };
                    tx.invalidate(Invalidation::Id(user.clone()));
                    let entry = Entry::of(Some(&organization), "membership", &user, &before.user.name);
                    let Some(role) = role else {
                        let (owner, reason) = (Some(user.as_str()), "membership ended");
                        let revoked = store::api_keys::revoke_all(tx, &organization, owner, reason, now)?;
                        store::memberships::delete(tx, &organization, &user)?;
                        return Ok(((), vec![entry.with(gone(revoked))]));
                    };
                    let after =
                        Membership { role, updated_at: now, revision: before.revision + 1, ..before.clone() };
                    store::memberships::update(tx, &after)?;
                    Ok(((), vec![entry.with(changes(&before, &after))]))
                })
                .await
            });
        }
        reapplied.memberships += together(work).await?;
    }
}

async fn api_keys(app: &App, page: Page<WithSecrets>) -> Result<u64> {
    let pairs = app.db.read(move |tx| {
        let pairs =
            page.into_iter().map(|(_, replaced)| Ok(restored(tx, &replaced.0)?.map(|it| (it, replaced))));
        pairs.collect::<Result<Vec<_>>>()
    });
    let mut work = Vec::new();
    for ((restored, its_secrets), (replaced, secrets)) in pairs.await?.into_iter().flatten() {
        let after = restore::api_key(&restored, &replaced);
        let same_secrets = its_secrets == secrets;
        if after == restored && same_secrets {
            continue;
        }
        let ctx = context(app, "api_key.restore")?;
        let after = ApiKey { revision: restored.revision + 1, updated_at: ctx.now, ..after };
        work.push(async move {
            mutate(app, &ctx, 200, move |tx, _| {
                store::api_keys::update(tx, &restored, &after)?;
                if !same_secrets {
                    stored::replace_secrets(tx, &after, &secrets)?;
                }
                tx.invalidate(Invalidation::Id(after.id.clone()));
                let entry = Entry::of(after.organization_id.as_deref(), "api_key", &after.id, &after.name);
                Ok(((), vec![entry.with(changes(&restored, &after))]))
            })
            .await
        });
    }
    together(work).await
}

/// The same key as restored, if it was there then.
fn restored(tx: &Tx<'_>, replaced: &ApiKey) -> Result<Option<WithSecrets>> {
    let Some(key) = store::api_keys::get(tx, &replaced.id)? else { return Ok(None) };
    let Some(seq) = store::restore::key_seq(tx, &key.id)? else { return Ok(None) };
    let same = key.created_at == replaced.created_at;
    Ok(if same { Some((key, export::secrets(tx, seq)?)) } else { None })
}

/// Units that were used since stay used.
async fn quotas(app: &App, held: &mut ReplacedDatabase, reapplied: &mut ReappliedRevocations) -> Result<()> {
    let leases = held.read(store::restore::leases)?;
    let later = |a: &Lease, b: &Lease| (a.start, a.units) > (b.start, b.units);
    for piece in leases.chunks(PAGE) {
        let piece = piece.to_vec();
        reapplied.quotas += app
            .db
            .write(move |tx| {
                let mut more = Vec::new();
                for (id, used) in &piece {
                    let Some(key) = store::restore::key_seq(tx, id)? else { continue };
                    let used = Lease { key, ..*used };
                    let there = store::quotas::get(tx, key, used.period)?;
                    if there.is_none_or(|there| later(&used, &there)) {
                        more.push(used);
                    }
                }
                store::quotas::put(tx, &more)?;
                Ok(more.len() as u64)
            })
            .await?;
    }
    Ok(())
}
