//! Background work of the server: writes what was counted in memory, and logs the head of the audit chain so
//! that it can be kept elsewhere. [Usage](super::usage::run) and [retention](super::retention::run) have
//! intervals of their own.

use std::time::Duration;

use crate::app::App;
use crate::domain::chain;
use crate::error::Result;
use crate::store;

/// The interval at which due work is checked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which keys' `last_used_at` is written.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(30);
/// Keys written in one transaction; other changes wait for it.
const LAST_USED_CHUNK: usize = 5000;
/// Aggregated events written in one transaction; other changes wait for it.
const REFUSALS_CHUNK: usize = 500;
/// How long a key may hold leased quota units without using them.
const QUOTA_IDLE: Duration = Duration::from_secs(30);
/// The interval at which the head of the audit chain is logged.
const HEAD_INTERVAL: Duration = Duration::from_secs(3600);

/// Runs until the future is dropped.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_used_written_at = app.clock.monotonic();
    let mut head_logged_at = app.clock.monotonic();
    loop {
        ticks.tick().await;
        let now = app.clock.monotonic();
        let mut result = write_refusals(app, false).await;
        if now.saturating_sub(last_used_written_at) >= LAST_USED_INTERVAL {
            last_used_written_at = now;
            result = result.and(write_last_used(app).await);
            result = result.and(app.verifier.quotas().release_idle(QUOTA_IDLE, app.clock.now()).await);
            app.admin_limits.sweep(now);
            app.batch_limits.sweep(now);
            app.failure_limits.sweep(now);
            app.verifier.sweep(now);
        }
        if let Err(error) = result {
            tracing::warn!(%error, "could not write counts from memory; will retry");
        }
        if now.saturating_sub(head_logged_at) >= HEAD_INTERVAL {
            head_logged_at = now;
            log_head(app, "hour").await;
        }
    }
}

/// Writes the aggregated events of the minutes that have closed, or, with `all`, every one. Those that
/// can't be written are kept for the next call.
///
/// # Errors
/// Those of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn write_refusals(app: &App, all: bool) -> Result<()> {
    loop {
        let events = app.aggregated.take(app.clock.now(), all, REFUSALS_CHUNK);
        if events.is_empty() {
            return Ok(());
        }
        let written = events.clone();
        let append = move |tx: &store::db::Tx<'_>| {
            written.iter().try_for_each(|event| store::audit::append(tx, event.clone()))
        };
        if let Err(error) = app.db.write(append).await {
            app.aggregated.put_back(events);
            return Err(error);
        }
    }
}

/// Writes the keys' `last_used_at`. Times that can't be written are kept for the next call.
///
/// # Errors
/// Those of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn write_last_used(app: &App) -> Result<()> {
    let mut used: Vec<_> = app.last_used.iter().map(|entry| (*entry.key(), *entry.value())).collect();
    used.sort_unstable();
    for chunk in used.chunks(LAST_USED_CHUNK) {
        let written = chunk.to_vec();
        app.db.write(move |tx| store::api_keys::touch(tx, &written)).await?;
        for (seq, at) in chunk {
            app.last_used.remove_if(seq, |_, latest| latest <= at);
        }
    }
    Ok(())
}

/// Logs the head of the audit chain.
pub(crate) async fn log_head(app: &App, when: &str) {
    match app.db.read(store::audit::head).await {
        Ok((seq, hash)) => tracing::info!(when, "audit head {seq}:{}", chain::hex(&hash)),
        Err(error) => tracing::warn!(%error, "could not read the audit head"),
    }
}
