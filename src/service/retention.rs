//! Removing what is kept long enough, and giving the space back. All of it in small pieces, with pauses between
//! them: whoever else wants the writer gets it.

use std::time::Duration;

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Change, Entry};
use crate::domain::chain::{Anchor, PRUNED};
use crate::domain::time::Timestamp;
use crate::domain::usage::Interval;
use crate::error::Result;
use crate::service::{RequestContext, idempotency};
use crate::store;

/// How often it is looked whether there is something to remove; a change of the settings is followed at once.
const EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether the settings have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rows of usage, and of the verification log, that one write removes.
const ROWS: usize = 1000;
/// Audit events that one write removes: each is in eight indexes.
const EVENTS: usize = 200;
/// Pages that one write gives back.
const PAGES: u64 = 200;
/// So many free pages (1 MiB) are left for what comes next.
const SPARE_PAGES: u64 = 256;
/// For so many times as long as a piece took, the next one waits.
const PAUSE: u32 = 3;

/// Runs until it is dropped.
pub(crate) async fn run(app: &App) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut done = None;
    loop {
        ticks.tick().await;
        let revision = app.settings.get().await.map_or(0, |current| current.revision);
        let now = app.clock.monotonic();
        if done.is_some_and(|(at, of)| of == revision && now.saturating_sub(at) < EVERY) {
            continue;
        }
        done = Some((now, revision));
        if let Err(error) = prune(app).await {
            tracing::warn!(%error, "what is kept long enough could not be removed; it is tried again");
        }
    }
}

/// Removes all that is kept long enough, and gives the space back.
pub async fn prune(app: &App) -> Result<()> {
    paced(app, || prune_counts(app)).await?;
    paced(app, || idempotency::prune(app)).await?;
    mark_old_events(app).await?;
    let removed = paced(app, || remove_marked_events(app)).await?;
    let freed = paced(app, || give_back(app)).await?;
    if removed || freed {
        app.db
            .write(|tx| {
                tx.checkpoint();
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// Does pieces until there is nothing more to do; was there anything?
async fn paced<F: Future<Output = Result<bool>>>(app: &App, piece: impl Fn() -> F) -> Result<bool> {
    let mut any = false;
    loop {
        let began = app.clock.monotonic();
        if !piece().await? {
            return Ok(any);
        }
        any = true;
        tokio::time::sleep((app.clock.monotonic().saturating_sub(began)) * PAUSE).await;
    }
}

/// Removes some usage, and some of the verification log. Says whether there may be more.
async fn prune_counts(app: &App) -> Result<bool> {
    let (now, current) = (app.clock.now(), app.settings.get().await?);
    let retention = &current.settings.retention;
    let hourly = Interval::Hour.days_before(now, retention.usage_hourly_days);
    let daily = Interval::Day.days_before(now, retention.usage_daily_days);
    let log = Interval::Hour.days_before(now, retention.verification_log_days);
    let pruned = app.db.write(move |tx| {
        let usage = store::usage::prune(tx, hourly, daily, ROWS)?;
        Ok(usage.max(store::verification_log::prune(tx, log, ROWS)?))
    });
    Ok(pruned.await? == ROWS)
}

/// Where the audit log is to begin from now on, if that is later than it does: an event of its own says so,
/// with the last one that goes, and what lies before it is as good as gone.
async fn mark_old_events(app: &App) -> Result<()> {
    let days = app.settings.get().await?.settings.retention.audit_days;
    if days == 0 {
        return Ok(());
    }
    let before = Interval::Day.days_before(app.clock.now(), days);
    let Some(old) = app.db.read(move |tx| store::audit::last_before(tx, before)).await? else {
        return Ok(());
    };
    let ctx = RequestContext::internal(app, Caller::System, PRUNED, "write")?;
    super::mutate(app, &ctx, 200, move |tx, _| {
        let earlier = store::audit::checkpoint(tx)?;
        if earlier.is_some_and(|earlier| earlier.seq >= old.seq) {
            return Ok(((), Vec::new()));
        }
        Ok(((), vec![pruning(earlier, old, before)]))
    })
    .await
}

/// What a pruning says of itself.
fn pruning(earlier: Option<Anchor>, checkpoint: Anchor, before: Timestamp) -> Entry {
    let told = |anchor: Anchor| anchor.to_string().into();
    let changes = vec![
        Change {
            field: Anchor::CHECKPOINT.to_owned(),
            from: earlier.map_or(serde_json::Value::Null, told),
            to: told(checkpoint),
        },
        Change {
            field: "kept_from".to_owned(),
            from: serde_json::Value::Null,
            to: before.to_string().into(),
        },
    ];
    Entry::of(None, "audit_log", "audit_log", "audit log").with(changes)
}

/// Removes some of the events that lie before the checkpoint. Says whether there were any.
async fn remove_marked_events(app: &App) -> Result<bool> {
    let Some(checkpoint) = app.db.read(store::audit::checkpoint).await? else { return Ok(false) };
    let first = app.db.read(store::audit::first).await?;
    if first.is_none_or(|first| first > checkpoint.seq) {
        return Ok(false);
    }
    app.db.write(move |tx| store::audit::remove_through(tx, checkpoint, EVENTS)).await.map(|n| n > 0)
}

/// Gives some space back. Says whether there was any to give.
async fn give_back(app: &App) -> Result<bool> {
    if app.db.read(store::space::free_pages).await? <= SPARE_PAGES {
        return Ok(false);
    }
    app.db
        .write(|tx| {
            let before = store::space::free_pages(tx)?;
            store::space::reclaim(tx, PAGES.min(before.saturating_sub(SPARE_PAGES)))?;
            Ok(store::space::free_pages(tx)? < before)
        })
        .await
}
