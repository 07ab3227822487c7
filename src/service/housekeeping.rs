//! What the server does by itself: writing down what was counted in memory, and telling the head of the audit
//! chain, so that it can be kept elsewhere. [Usage](super::usage::run) and [retention](super::retention::run)
//! have intervals of their own.

use std::time::Duration;

use crate::app::App;
use crate::domain::chain;
use crate::error::Result;
use crate::store;

/// How often it is looked whether there is something to do.
const EVERY: Duration = Duration::from_secs(1);
/// How often the time of a key's last use is written.
const USED_EVERY: Duration = Duration::from_secs(30);
/// Keys whose time of use is written at once: other changes wait for it.
const USED_AT_ONCE: usize = 5000;
/// How long a key keeps units of its quota that it doesn't use.
const IDLE: Duration = Duration::from_secs(30);
/// How often the head of the audit chain is logged.
const HEAD_EVERY: Duration = Duration::from_secs(3600);

/// Runs until it is dropped.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut used, mut head) = (app.clock.monotonic(), app.clock.monotonic());
    loop {
        ticks.tick().await;
        let now = app.clock.monotonic();
        let mut written = write_refusals(app, false).await;
        if now.saturating_sub(used) >= USED_EVERY {
            used = now;
            written = written.and(write_uses(app).await);
            written = written.and(app.verifier.quotas().release_idle(IDLE, app.clock.now()).await);
            app.admin_limits.sweep(now);
            app.batch_limits.sweep(now);
            app.failure_limits.sweep(now);
            app.verifier.sweep(now);
        }
        if let Err(error) = written {
            tracing::warn!(%error, "what was counted in memory could not be written; it is tried again");
        }
        if now.saturating_sub(head) >= HEAD_EVERY {
            head = now;
            log_head(app, "hour").await;
        }
    }
}

/// Writes the folded refusals of the minutes that have closed, or at a stop all of them. What can't be
/// written is kept for the next time.
pub async fn write_refusals(app: &App, all: bool) -> Result<()> {
    let rows = app.aggregated.take(app.clock.now(), all);
    if rows.is_empty() {
        return Ok(());
    }
    let events: Vec<_> = rows.iter().map(|(_, event)| event.clone()).collect();
    let append = move |tx: &store::db::Tx<'_>| {
        events.iter().try_for_each(|event| store::audit::append(tx, event.clone()))
    };
    let result = app.db.write(append).await;
    if result.is_err() {
        app.aggregated.put_back(rows);
    }
    result
}

/// Writes when keys were last used. What can't be written is kept for the next time.
pub async fn write_uses(app: &App) -> Result<()> {
    let mut used: Vec<_> = app.last_used.iter().map(|entry| (*entry.key(), *entry.value())).collect();
    used.sort_unstable();
    for piece in used.chunks(USED_AT_ONCE) {
        let written = piece.to_vec();
        app.db.write(move |tx| store::api_keys::touch(tx, &written)).await?;
        for (seq, at) in piece {
            app.last_used.remove_if(seq, |_, latest| latest <= at);
        }
    }
    Ok(())
}

/// Logs the head of the audit chain.
pub(crate) async fn log_head(app: &App, when: &str) {
    match app.db.read(store::audit::head).await {
        Ok((seq, hash)) => tracing::info!(when, "audit head {seq}:{}", chain::hex(&hash)),
        Err(error) => tracing::warn!(%error, "the audit head could not be read"),
    }
}
