//! Reapplies the revocations since a backup to the restored database: for each affected resource, one change
//! with an audit event.

use futures_util::future::try_join_all;

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::Action;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::{AuditEntry, Change, changed_fields};
use crate::domain::invalidation::Invalidation;
use crate::domain::limits::Limit;
use crate::domain::membership::Membership;
use crate::domain::organization::Organization;
use crate::domain::quota::{QuotaId, QuotaLease};
use crate::domain::restore::{self, LimitContext, ReappliedRevocations};
use crate::domain::settings::Settings;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::Result;
use crate::service::check::ProgressFn;
use crate::service::{RequestContext, api_keys, memberships, mutate, organizations, users};
use crate::store::export::{ExportPage, KeyWithSecrets};
use crate::store::restore::ReplacedDatabase;
use crate::store::{self, db::Tx, export, import as stored};

/// The number of rows that are compared at a time.
const ROWS_PER_PAGE: usize = 500;

/// The largest number of changes that wait for the writer at a time.
const MAX_QUEUED_CHANGES: usize = 200;

/// Reapplies all revocations recorded in the replaced database.
pub(crate) async fn reapply_all(
    app: &App,
    replaced_db: &mut ReplacedDatabase,
    progress: ProgressFn<'_>,
) -> Result<ReappliedRevocations> {
    let mut reapplied = ReappliedRevocations::default();
    let rows = replaced_db.read(store::check::count_rows)?;
    let total = rows.get("api_keys").and_then(|n| u64::try_from(*n).ok()).unwrap_or(0);
    reapply_organizations(app, replaced_db, &mut reapplied).await?;
    reapply_users(app, replaced_db, &mut reapplied).await?;
    reapply_memberships(app, replaced_db, &mut reapplied).await?;
    let mut after = i64::MIN;
    let mut compared = 0;
    loop {
        let page = replaced_db.read(|tx| export::api_keys_page(tx, after, ROWS_PER_PAGE))?;
        compared += page.len() as u64;
        progress("revocations", compared, total.max(compared));
        let Some(last) = page.last().map(|(seq, _)| *seq) else { break };
        after = last;
        reapplied.api_keys += reapply_api_keys(app, page).await?;
    }
    reapply_quotas(app, replaced_db, &mut reapplied).await?;
    Ok(reapplied)
}

/// Makes one change that reapplies a revocation. `work` gets the time of the change.
async fn reapply<F>(app: &App, action: Action, mut work: F) -> Result<()>
where
    F: FnMut(&Tx<'_>, Timestamp) -> Result<Vec<AuditEntry>> + Send + 'static,
{
    let ctx = RequestContext::internal(app, Caller::Operator, action)?;
    let now = ctx.now;
    mutate(app, &ctx, 200, move |tx, _| Ok(((), work(tx, now)?))).await
}

/// Runs changes that don't depend on each other and waits for their commits. Returns the number of changes.
async fn commit_all<F: Future<Output = Result<()>>>(changes: Vec<F>) -> Result<u64> {
    let count = changes.len() as u64;
    let mut changes = changes.into_iter();
    loop {
        let batch: Vec<_> = changes.by_ref().take(MAX_QUEUED_CHANGES).collect();
        if batch.is_empty() {
            return Ok(count);
        }
        try_join_all(batch).await?;
    }
}

/// Adds the reapplied deletion to the audit entry of what it ended.
fn with_deletion(mut entry: AuditEntry) -> AuditEntry {
    entry.changes.insert(0, Change { field: "deleted".into(), from: false.into(), to: true.into() });
    entry
}

/// A resource as restored, as it was in the replaced database, and when it was deleted there.
type Compared<T> = (T, T, Option<Timestamp>);

/// Finds the restored resources of a page of the replaced database.
fn compare<T>(
    tx: &Tx<'_>,
    page: ExportPage<(T, Option<Timestamp>)>,
    find: impl Fn(&Tx<'_>, &T) -> Result<Option<T>>,
) -> Result<Vec<Compared<T>>> {
    let mut compared = Vec::new();
    for (_, (replaced, deleted_at)) in page {
        compared.extend(find(tx, &replaced)?.map(|restored| (restored, replaced, deleted_at)));
    }
    Ok(compared)
}

async fn reapply_organizations(
    app: &App,
    replaced_db: &mut ReplacedDatabase,
    reapplied: &mut ReappliedRevocations,
) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let page = replaced_db.read(|tx| export::organizations_page(tx, after, ROWS_PER_PAGE))?;
        let Some(last) = page.last().map(|(seq, _)| *seq) else { return Ok(()) };
        after = last;
        let find = |tx: &Tx<'_>, replaced: &Organization| store::organizations::get(tx, &replaced.id);
        let mut pending = Vec::new();
        let current = app.settings.get().await?.to_arc();
        for (restored, replaced, deleted_at) in app.db.read(move |tx| compare(tx, page, find)).await? {
            let status = restore::reapply_suspension(restored.status, replaced.status);
            let is_same = restored.created_at == replaced.created_at;
            let plan =
                restore::reapply_plan(&restored.plan, &replaced.plan, &current.settings.plans).to_owned();
            let plan_limits = current.settings.plan(&plan).map(|plan| &*plan.organization_limits);
            let context = LimitContext {
                plan_limits: plan_limits.unwrap_or_default(),
                meters: &current.settings.meters,
            };
            let limits =
                restore::reapply_limits(restored.limits.as_deref(), replaced.limits.as_deref(), context);
            let is_unchanged =
                status == restored.status && plan == restored.plan && limits == restored.limits;
            if !is_same || (deleted_at.is_none() && is_unchanged) {
                continue;
            }
            pending.push(reapply(app, Action::RestoreOrganization, move |tx, now| {
                Ok(vec![match deleted_at {
                    Some(deleted_at) => with_deletion(organizations::end(tx, &restored, deleted_at)?),
                    None => {
                        let (plan, limits) = (plan.clone(), limits.clone());
                        let after = Organization { status, plan, limits, ..restored.clone() };
                        organizations::store_changes(tx, &restored, after, now)?.1
                    }
                }])
            }));
        }
        reapplied.organizations += commit_all(pending).await?;
    }
}

async fn reapply_users(
    app: &App,
    replaced_db: &mut ReplacedDatabase,
    reapplied: &mut ReappliedRevocations,
) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let page = replaced_db.read(|tx| export::users_page(tx, after, ROWS_PER_PAGE))?;
        let Some(last) = page.last().map(|(seq, _)| *seq) else { return Ok(()) };
        after = last;
        let find = |tx: &Tx<'_>, replaced: &User| store::users::get(tx, &replaced.id);
        let mut pending = Vec::new();
        for (restored, replaced, deleted_at) in app.db.read(move |tx| compare(tx, page, find)).await? {
            let status = restore::reapply_suspension(restored.status, replaced.status);
            let is_same = restored.created_at == replaced.created_at;
            if !is_same || (deleted_at.is_none() && status == restored.status) {
                continue;
            }
            pending.push(reapply(app, Action::RestoreUser, move |tx, now| match deleted_at {
                Some(deleted_at) => {
                    Ok(users::end(tx, &restored, deleted_at)?.into_iter().map(with_deletion).collect())
                }
                None => {
                    let after = User { status, ..restored.clone() };
                    Ok(users::store_changes(tx, &restored, after, now)?.1)
                }
            }));
        }
        reapplied.users += commit_all(pending).await?;
    }
}

/// Removes or changes restored memberships as in the replaced database. Each restored membership is looked up
/// in the replaced database, because an ended membership leaves no row that could be found there.
async fn reapply_memberships(
    app: &App,
    replaced_db: &mut ReplacedDatabase,
    reapplied: &mut ReappliedRevocations,
) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let page: ExportPage<_> =
            app.db.read(move |tx| export::memberships_page(tx, after, ROWS_PER_PAGE)).await?;
        let Some(last) = page.last().map(|(seq, _)| *seq) else { return Ok(()) };
        after = last;
        let mut pending = Vec::new();
        for (_, restored) in page {
            let organization = restored.organization_id.clone();
            let user = restored.user_id.clone();
            let role = replaced_db.read(|tx| {
                let known = stored::find_organization_or_tombstone(tx, &organization)?.is_some()
                    && stored::find_user_or_tombstone(tx, &user)?.is_some();
                let replaced = store::memberships::get(tx, &organization, &user)?;
                // If the replaced database lacks the organization or the user, a missing membership doesn't
                // mean that the membership was ended.
                Ok(if known {
                    Some(replaced.map(|replaced| restore::lower_role(restored.role, replaced.role)))
                } else {
                    None
                })
            })?;
            let Some(role) = role else { continue };
            if role == Some(restored.role) {
                continue;
            }
            pending.push(reapply(app, Action::RestoreMembership, move |tx, now| {
                let Some(before) = store::memberships::get(tx, &organization, &user)? else {
                    return Ok(Vec::new());
                };
                Ok(vec![match role {
                    None => with_deletion(memberships::end(tx, &before, now)?),
                    Some(role) => {
                        let after = Membership { role, ..before.clone() };
                        memberships::store_changes(tx, &before, after, now)?.1
                    }
                }])
            }));
        }
        reapplied.memberships += commit_all(pending).await?;
    }
}

async fn reapply_api_keys(app: &App, page: ExportPage<KeyWithSecrets>) -> Result<u64> {
    let current = app.settings.get().await?.to_arc();
    let settings = current.clone();
    let pairs = app.db.read(move |tx| {
        let pairs = page.into_iter().map(|(_, replaced)| {
            let Some(restored) = find_restored(tx, &replaced.0)? else { return Ok(None) };
            // The plan matters only if the limits differ.
            let is_same = restored.0.limits == replaced.0.limits;
            let plan_limits =
                if is_same { Vec::new() } else { plan_limits_of_key(tx, &settings.settings, &restored.0)? };
            Ok(Some((restored, replaced, plan_limits)))
        });
        pairs.collect::<Result<Vec<_>>>()
    });
    let mut pending = Vec::new();
    for (restored, replaced, plan_limits) in pairs.await?.into_iter().flatten() {
        let (restored, restored_secrets) = restored;
        let (replaced, secrets) = replaced;
        let context = LimitContext { plan_limits: &plan_limits, meters: &current.settings.meters };
        let after = restore::reapply_key_revocations(&restored, &replaced, context);
        let has_same_secrets = restored_secrets == secrets;
        if after == restored && has_same_secrets {
            continue;
        }
        pending.push(reapply(app, Action::RestoreApiKey, move |tx, now| {
            let after = ApiKey { revision: restored.revision + 1, updated_at: now, ..after.clone() };
            store::api_keys::update(tx, &restored, &after)?;
            if !has_same_secrets {
                stored::replace_secrets(tx, &after, &secrets)?;
            }
            tx.invalidate(Invalidation::Id(after.id.clone()));
            let changed = changed_fields(&restored, &after);
            Ok(vec![api_keys::audit_entry(&after).with_changes(changed)])
        }));
    }
    commit_all(pending).await
}

/// The limits of a key that has none of its own: those of the plan of its organization.
fn plan_limits_of_key(tx: &Tx<'_>, settings: &Settings, key: &ApiKey) -> Result<Vec<Limit>> {
    let Some(id) = &key.organization_id else { return Ok(Vec::new()) };
    let Some(organization) = store::organizations::get(tx, id)? else { return Ok(Vec::new()) };
    Ok(settings.plan(&organization.plan).map(|plan| plan.key_limits.clone()).unwrap_or_default())
}

/// Finds the same API key in the restored database; `None` if the key was created after the backup.
fn find_restored(tx: &Tx<'_>, replaced: &ApiKey) -> Result<Option<KeyWithSecrets>> {
    let Some(key) = store::api_keys::get(tx, &replaced.id)? else { return Ok(None) };
    let Some(seq) = store::restore::find_key_seq(tx, &key.id)? else { return Ok(None) };
    let is_same = key.created_at == replaced.created_at;
    Ok(if is_same { Some((key, export::secrets_of_key(tx, seq)?)) } else { None })
}

/// Copies the quota leases that are larger than the restored leases of the same period, so that quota units
/// used since the backup stay used.
async fn reapply_quotas(
    app: &App,
    replaced_db: &mut ReplacedDatabase,
    reapplied: &mut ReappliedRevocations,
) -> Result<()> {
    let leases = replaced_db.read(store::restore::all_quota_leases)?;
    for chunk in leases.chunks(ROWS_PER_PAGE) {
        let chunk = chunk.to_vec();
        reapplied.quotas += app
            .db
            .write(move |tx| {
                let mut changed = Vec::new();
                for (id, lease) in &chunk {
                    let subject = store::restore::find_subject(tx, lease.id.subject, id)?;
                    let Some(subject) = subject else { continue };
                    let lease = QuotaLease { id: QuotaId { subject, ..lease.id }, ..*lease };
                    let restored = store::quotas::leased_units(tx, lease.id)?;
                    if restored.is_none_or(|restored| lease.units > restored) {
                        changed.push(lease);
                    }
                }
                store::quotas::put(tx, &changed)?;
                Ok(changed.len() as u64)
            })
            .await?;
    }
    Ok(())
}
