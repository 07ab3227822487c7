//! Retention: deletes expired data and returns the freed space to the file system. The work is done in small
//! steps with pauses, so that other changes don't wait long for the writer.

use std::time::Duration;

use strum::VariantArray;

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::{Action, TargetKind};
use crate::domain::audit::{AuditEntry, Change};
use crate::domain::chain::ChainAnchor;
use crate::domain::limits::Period;
use crate::domain::time::Timestamp;
use crate::domain::usage::Interval;
use crate::error::Result;
use crate::service::{RequestContext, idempotency, usage_reports};
use crate::store;

/// The interval at which expired data is deleted. A change of the settings starts a deletion earlier, at the
/// next check of the settings.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// The interval at which the settings are checked for changes.
const SETTINGS_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The largest number of rows of usage, and of the verification log, that one write deletes.
const MAX_ROWS_PER_WRITE: usize = 1000;
/// The largest number of audit events that one write deletes. It is small because each event is in eight
/// indexes.
const MAX_EVENTS_PER_WRITE: usize = 200;
/// The largest number of free database pages that one write releases to the file system.
const MAX_PAGES_PER_WRITE: u64 = 200;
/// The number of free database pages (1 MiB in total) that stay in the file for new data.
const SPARE_PAGES: u64 = 256;
/// A clock that is ahead by less than this is not noticed to be wrong.
const MAX_UNNOTICED_JUMP: Duration = Duration::from_secs(24 * 3600);
/// The pause after a step, as a multiple of the step's duration.
const PAUSE_FACTOR: u32 = 3;

/// Deletes expired data regularly, until the returned future is dropped.
pub(crate) async fn run(app: &App) {
    let mut ticks = tokio::time::interval(SETTINGS_POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_run = None;
    loop {
        ticks.tick().await;
        let revision = app.settings.get().await.map_or(0, |current| current.revision);
        let now = app.clock.monotonic();
        if last_run.is_some_and(|(at, seen)| seen == revision && now.saturating_sub(at) < PRUNE_INTERVAL) {
            continue;
        }
        last_run = Some((now, revision));
        if let Err(error) = prune(app).await {
            tracing::warn!(%error, "could not delete expired data; will retry");
        }
    }
}

/// Deletes all expired data and returns the freed space to the file system. While the clock is unsettled,
/// nothing expires.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`. Deletions before the error stay in
/// effect.
pub async fn prune(app: &App) -> Result<()> {
    repeat_paced(app, || prune_usage_and_verification_log(app)).await?;
    repeat_paced(app, || prune_quotas(app)).await?;
    repeat_paced(app, || usage_reports::prune(app, MAX_ROWS_PER_WRITE)).await?;
    repeat_paced(app, || idempotency::prune(app)).await?;
    advance_checkpoint(app).await?;
    let removed = repeat_paced(app, || remove_expired_events(app)).await?;
    let freed = repeat_paced(app, || reclaim_space(app)).await?;
    if removed || freed {
        app.db
            .write(|tx| {
                tx.request_wal_checkpoint();
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// Repeats `step`, with pauses, until it returns `false`. Returns `true` if `step` returned `true` at least
/// once.
async fn repeat_paced<F: Future<Output = Result<bool>>>(app: &App, step: impl Fn() -> F) -> Result<bool> {
    let mut any = false;
    loop {
        let began = app.clock.monotonic();
        if !step().await? {
            return Ok(any);
        }
        any = true;
        tokio::time::sleep((app.clock.monotonic().saturating_sub(began)) * PAUSE_FACTOR).await;
    }
}

/// Deletes expired rows of usage and of the verification log. Returns `true` if there may be more expired
/// rows.
async fn prune_usage_and_verification_log(app: &App) -> Result<bool> {
    let Some(now) = app.clock.settled_now() else { return Ok(false) };
    let current = app.settings.get().await?;
    let retention = &current.settings.retention;
    let hourly = Interval::Hour.oldest_retained_start(now, retention.usage_hourly_days);
    // At least as long as hourly usage, because a key's rows of an hour are found by its row of the day.
    let daily_days = retention.usage_daily_days.max(retention.usage_hourly_days);
    let daily = Interval::Day.oldest_retained_start(now, daily_days);
    let log = Interval::Hour.oldest_retained_start(now, retention.verification_log_days);
    let pruned = app.db.write(move |tx| {
        let usage = store::usage::prune(tx, hourly, daily, MAX_ROWS_PER_WRITE)?;
        Ok(usage.max(store::verification_log::prune(tx, log, now, MAX_ROWS_PER_WRITE)?))
    });
    Ok(pruned.await? == MAX_ROWS_PER_WRITE)
}

/// Deletes the counts of quotas in periods that are over. Those of the last day are kept, because the clock
/// may be ahead by a day without being noticed; counts of later periods are from a time when the clock was
/// wrong. Returns `true` if there may be more.
async fn prune_quotas(app: &App) -> Result<bool> {
    let Some(now) = app.clock.settled_now() else { return Ok(false) };
    let deleted = app.db.write(move |tx| {
        let mut deleted = 0;
        for period in Period::VARIANTS {
            let kept_from = period.bounds_at(Interval::Day.oldest_retained_start(now, 1)).0;
            let kept_to = now + MAX_UNNOTICED_JUMP;
            deleted = deleted.max(store::quotas::prune(tx, *period, kept_from, kept_to, MAX_ROWS_PER_WRITE)?);
        }
        Ok(deleted)
    });
    Ok(deleted.await? == MAX_ROWS_PER_WRITE)
}

/// Moves the checkpoint of the audit log forward to the last expired event, and records the new checkpoint in
/// an audit event. From then on the audit log begins after the checkpoint, and earlier events count as
/// removed.
async fn advance_checkpoint(app: &App) -> Result<()> {
    let days = app.settings.get().await?.settings.retention.audit_days;
    if days == 0 {
        return Ok(());
    }
    let Some(now) = app.clock.settled_now() else { return Ok(()) };
    let before = Interval::Day.oldest_retained_start(now, days);
    let Some(last_expired) =
        app.db.read(move |tx| store::audit::last_prunable_event(tx, before, now)).await?
    else {
        return Ok(());
    };
    let ctx = RequestContext::internal(app, Caller::System, Action::PruneAuditLog)?;
    super::mutate(app, &ctx, 200, move |tx, _| {
        let earlier = store::audit::last_pruning_checkpoint(tx)?;
        if earlier.is_some_and(|earlier| earlier.seq >= last_expired.seq) {
            return Ok(((), Vec::new()));
        }
        Ok(((), vec![checkpoint_entry(earlier, last_expired, before)]))
    })
    .await
}

/// The audit entry that records a new checkpoint of the audit log. `before` is the time before which events
/// have expired.
fn checkpoint_entry(earlier: Option<ChainAnchor>, checkpoint: ChainAnchor, before: Timestamp) -> AuditEntry {
    let as_value = |anchor: ChainAnchor| anchor.to_string().into();
    let changes = vec![
        Change {
            field: ChainAnchor::CHECKPOINT_FIELD.to_owned(),
            from: earlier.map_or(serde_json::Value::Null, as_value),
            to: as_value(checkpoint),
        },
        Change {
            field: "kept_from".to_owned(),
            from: serde_json::Value::Null,
            to: before.to_string().into(),
        },
    ];
    AuditEntry::for_resource(None, TargetKind::AuditLog, "audit_log", "audit log").with_changes(changes)
}

/// Deletes audit events up to the checkpoint. Returns `true` if any events were deleted.
async fn remove_expired_events(app: &App) -> Result<bool> {
    let Some(checkpoint) = app.db.read(store::audit::last_pruning_checkpoint).await? else {
        return Ok(false);
    };
    let first = app.db.read(store::audit::first_seq).await?;
    if first.is_none_or(|first| first > checkpoint.seq) {
        return Ok(false);
    }
    app.db
        .write(move |tx| store::audit::delete_through(tx, checkpoint, MAX_EVENTS_PER_WRITE))
        .await
        .map(|n| n > 0)
}

/// Releases free database pages to the file system. Returns `true` if any pages were released.
async fn reclaim_space(app: &App) -> Result<bool> {
    let file = app.db.file();
    if file.count_free_pages().await? <= SPARE_PAGES {
        return Ok(false);
    }
    file.release_free_pages(SPARE_PAGES, MAX_PAGES_PER_WRITE).await
}
