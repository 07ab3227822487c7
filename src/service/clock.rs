//! Watches the clock: reports when it jumps and when it is settled again, follows the operator who accepts it,
//! and stores the settled time.

use std::time::Duration;

use crate::app::App;
use crate::clock::{ClockChange, ClockChangeKind};
use crate::domain::access::Caller;
use crate::domain::action::{Action, TargetKind};
use crate::domain::audit::{AuditEntry, Change};
use crate::domain::time::Timestamp;
use crate::error::Result;
use crate::service::RequestContext;
use crate::store;

/// The interval at which a server that stores changes also stores the settled time.
const STORE_INTERVAL: Duration = Duration::from_secs(10);
/// The interval at which an idle server stores the settled time, so that a crash after a long idle time doesn't
/// make the clock look as if it had jumped.
const IDLE_STORE_INTERVAL: Duration = Duration::from_secs(3600);

/// The time for which a running server follows an accepted time. An older acceptance was for another clock.
const ACCEPTANCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks the clock, and records and logs its changes. Called every second.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`. Changes that can't be recorded are
/// recorded by the next call.
pub async fn check(app: &App) -> Result<()> {
    if !app.clock.is_settled() {
        follow_acceptance(app).await?;
    }
    let mut changes = app.clock.take_changes();
    while !changes.is_empty() {
        if let Err(error) = record_change(app, changes[0]).await {
            app.clock.put_back_changes(changes);
            return Err(error);
        }
        log_change(changes.remove(0));
    }
    Ok(())
}

/// Makes the clock settled if the operator has just accepted it with `tollhouse clock accept`.
async fn follow_acceptance(app: &App) -> Result<()> {
    let Some(accepted_at) = app.db.look_up(store::clock::accepted_at).await? else { return Ok(()) };
    let now = app.clock.now();
    if now.max(accepted_at) - now.min(accepted_at) > ACCEPTANCE_TIMEOUT {
        return Ok(());
    }
    app.clock.accept();
    let settled_time = app.clock.settled_time();
    app.db.write(move |tx| store::clock::complete_acceptance(tx, settled_time)).await
}

/// Stores the settled time. A server whose clock is settled has followed the operator's last acceptance, so that
/// it doesn't apply to a later jump.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn store_settled_time(app: &App) -> Result<()> {
    let is_settled = app.clock.is_settled();
    let settled_time = app.clock.settled_time();
    app.db
        .write(move |tx| match is_settled {
            true => store::clock::complete_acceptance(tx, settled_time),
            false => store::clock::store_settled_time(tx, settled_time),
        })
        .await
}

/// Decides when the settled time is stored, so that a busy server writes it rarely and an idle one hardly
/// ever.
#[derive(Default)]
pub(crate) struct SettledTimeSchedule {
    /// The monotonic time of the last write, and the number of commits after it.
    last: Option<(Duration, u64)>,
}

impl SettledTimeSchedule {
    /// Stores the settled time if other changes were stored since the last write, or if that was long ago.
    ///
    /// # Errors
    /// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
    pub(crate) async fn store_if_due(&mut self, app: &App) -> Result<()> {
        let now = app.clock.monotonic();
        let is_due = self.last.is_none_or(|(at, commits)| {
            let elapsed = now.saturating_sub(at);
            let is_idle = app.db.writer_totals().commits == commits;
            elapsed >= if is_idle { IDLE_STORE_INTERVAL } else { STORE_INTERVAL }
        });
        if is_due {
            store_settled_time(app).await?;
            self.last = Some((now, app.db.writer_totals().commits));
        }
        Ok(())
    }
}

/// What `tollhouse clock accept` accepted.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedClock {
    /// The wall-clock time, which is the settled time from now on.
    pub(crate) time: Timestamp,
    /// The settled time before.
    pub(crate) settled_time: Timestamp,
}

/// Accepts the wall-clock time on behalf of the operator. A running server follows within a second.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn accept(app: &App) -> Result<AcceptedClock> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::AcceptClock)?;
    let accepted = AcceptedClock { time: ctx.now, settled_time: app.clock.settled_time() };
    app.clock.accept();
    super::mutate(app, &ctx, 200, move |tx, _| {
        store::clock::accept(tx, accepted.time)?;
        Ok(((), vec![time_entry(accepted.settled_time, accepted.time)]))
    })
    .await?;
    Ok(accepted)
}

async fn record_change(app: &App, change: ClockChange) -> Result<()> {
    let action = match change.kind {
        ClockChangeKind::Jumped => Action::ClockJumped,
        ClockChangeKind::Returned | ClockChangeKind::KeptPace => Action::ClockSettled,
        // The command has recorded it.
        ClockChangeKind::Accepted => return Ok(()),
    };
    let ctx = RequestContext::internal(app, Caller::System, action)?;
    super::mutate(app, &ctx, 200, move |_, _| Ok(((), vec![time_entry(change.settled_time, change.time)])))
        .await
}

/// The audit entry of a change from the settled time to the wall-clock time.
fn time_entry(settled_time: Timestamp, time: Timestamp) -> AuditEntry {
    let from = settled_time.to_string().into();
    let change = Change { field: "time".to_owned(), from, to: time.to_string().into() };
    AuditEntry::for_resource(None, TargetKind::Clock, "clock", "clock").with_changes(vec![change])
}

fn log_change(change: ClockChange) {
    let ClockChange { kind, time, settled_time } = change;
    match kind {
        ClockChangeKind::Jumped => tracing::error!(
            %time,
            %settled_time,
            "the clock jumped; nothing is deleted because of its age until the clock is right again, has kept \
             pace for an hour, or is accepted with `tollhouse clock accept`"
        ),
        ClockChangeKind::Returned => tracing::warn!(%time, %settled_time, "the clock is right again"),
        ClockChangeKind::KeptPace => {
            tracing::warn!(%time, %settled_time, "the clock is settled: it has kept pace for an hour");
        }
        ClockChangeKind::Accepted => {
            tracing::warn!(%time, %settled_time, "the clock is settled: the operator accepted it");
        }
    }
}
