//! Background work of the server: writes counts from memory to the database, and logs the head of the audit
//! chain, so that the head can be kept outside the server. [Usage](super::usage::run) and
//! [retention](super::retention::run) run in separate background tasks.

use std::time::Duration;

use crate::app::App;
use crate::error::Result;
use crate::service::clock::{self, SettledTimeSchedule};
use crate::service::windows;
use crate::store;
use crate::telemetry::log_output;
use crate::verify::limit_state::DecisionTime;

/// The interval at which the background task checks for due work.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which the `last_used_at` of API keys is written to the database.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(30);
/// The largest number of API keys whose `last_used_at` is written in one transaction, for which other changes
/// wait.
const KEYS_PER_LAST_USED_WRITE: usize = 5000;
/// The largest number of aggregated events that are written in one transaction, for which other changes wait.
const AGGREGATED_EVENTS_PER_WRITE: usize = 500;
/// The time for which a key or organization may hold leased quota units without using them.
const QUOTA_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval at which refused connections are logged.
const REFUSED_CONNECTIONS_INTERVAL: Duration = Duration::from_secs(60);
/// The interval at which the head of the audit chain is written to the log.
const AUDIT_HEAD_INTERVAL: Duration = Duration::from_secs(3600);

/// Runs the background work until the returned future is dropped.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_used_written_at = app.clock.monotonic();
    let mut head_logged_at = app.clock.monotonic();
    let mut refusals_logged_at = app.clock.monotonic();
    let mut settled_time = SettledTimeSchedule::default();
    loop {
        ticks.tick().await;
        let now = app.clock.monotonic();
        if let Err(error) = clock::check(app).await.and(settled_time.store_if_due(app).await) {
            tracing::warn!(%error, "could not record the state of the clock; will retry");
        }
        log_output::log_dropped_lines();
        app.traffic.repeated_requests.log_counts(app.clock.now(), false);
        let mut result = write_aggregated_events(app, false).await;
        if now.saturating_sub(last_used_written_at) >= LAST_USED_INTERVAL {
            last_used_written_at = now;
            result = result.and(write_last_used(app).await);
            let at = DecisionTime { now: app.clock.expiry_time(), monotonic: now };
            result = result.and(app.verifier.leases().release_idle(QUOTA_IDLE_TIMEOUT, at).await);
            result = result.and(windows::delete_stale(app).await);
            app.rate_limiters.sweep(now);
            app.verifier.sweep(now);
        }
        if let Err(error) = result {
            tracing::warn!(%error, "could not write counts from memory; will retry");
        }
        if now.saturating_sub(refusals_logged_at) >= REFUSED_CONNECTIONS_INTERVAL {
            refusals_logged_at = now;
            app.traffic.log_refused_connections();
        }
        if now.saturating_sub(head_logged_at) >= AUDIT_HEAD_INTERVAL {
            head_logged_at = now;
            log_audit_head(app, "hour").await;
        }
    }
}

/// Writes the aggregated events of the minutes that have ended, or, if `all` is true, all aggregated events.
/// Events that can't be written are kept in memory for the next call.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn write_aggregated_events(app: &App, all: bool) -> Result<()> {
    loop {
        let events = app.unstored.aggregated.take(app.clock.now(), all, AGGREGATED_EVENTS_PER_WRITE);
        if events.is_empty() {
            return Ok(());
        }
        let written = events.clone();
        let append = move |tx: &store::db::Tx<'_>| {
            written.iter().try_for_each(|event| store::audit::append(tx, event.clone()))
        };
        if let Err(error) = app.db.write(append).await {
            app.unstored.aggregated.put_back(events);
            return Err(error);
        }
    }
}

/// Writes the `last_used_at` of API keys to the database. Times that can't be written are kept in memory for
/// the next call.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn write_last_used(app: &App) -> Result<()> {
    let mut used: Vec<_> =
        app.unstored.last_uses.iter().map(|entry| (*entry.key(), *entry.value())).collect();
    used.sort_unstable();
    for chunk in used.chunks(KEYS_PER_LAST_USED_WRITE) {
        let written = chunk.to_vec();
        app.db.write(move |tx| store::api_keys::update_last_used(tx, &written)).await?;
        for (seq, at) in chunk {
            app.unstored.last_uses.remove_if(seq, |_, latest| latest <= at);
        }
    }
    Ok(())
}

/// Writes the head of the audit chain to the log.
pub(crate) async fn log_audit_head(app: &App, when: &str) {
    match app.db.read(store::audit::chain_head).await {
        Ok((seq, hash_secret)) => tracing::info!(when, "audit head {seq}:{}", hex::encode(hash_secret)),
        Err(error) => tracing::warn!(%error, "could not read the audit head"),
    }
}
