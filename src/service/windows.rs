//! Rate limits across a stop: the stop stores what they have spent, and the next start continues from there. After a
//! crash nothing is stored, and all windows begin full.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::app::App;
use crate::domain::window::StoredWindow;
use crate::error::{Error, Result};
use crate::store::{self, db::Tx};
use crate::verify::limit_state::DecisionTime;

/// The largest number of rows that are read at once.
const ROWS_PER_READ: usize = 10_000;
/// The number of rows from which on one transaction has enough.
const ROWS_PER_WRITE: usize = 5_000;
/// The time after which the stop stores no more, because a service manager or an orchestrator kills a server that takes
/// too long.
const MAX_STORE_TIME: Duration = Duration::from_secs(10);

/// Takes over the rate limits as the last stop stored them, and deletes what is stored, so that no later start finds it.
/// Called by a server before it serves. A failure is logged: rate limits that can't be read begin full.
pub async fn resume(app: &App) {
    app.unstored.has_windows.store(true, Ordering::SeqCst);
    match read_stored(app).await {
        Ok(0) => return,
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "could not read stored rate limits; they begin full"),
    }
    app.unstored.has_stale_windows.store(true, Ordering::SeqCst);
    if let Err(error) = delete_stale(app).await {
        tracing::warn!(%error, "could not delete stored rate limits; will retry");
    }
}

/// Adds all stored rate limits to those in memory. Returns the number of rows.
async fn read_stored(app: &App) -> Result<usize> {
    let mut count = 0;
    let mut last = None;
    loop {
        let rows =
            app.db.read(move |tx| store::windows::list_after(tx, last.as_ref(), ROWS_PER_READ)).await?;
        count += rows.len();
        last = rows.last().copied();
        let is_last_page = rows.len() < ROWS_PER_READ;
        let rows = app.db.read(move |tx| without_ended_subjects(tx, rows)).await?;
        app.verifier.states().resume_windows(&rows, decision_time(app))?;
        if is_last_page {
            return Ok(count);
        }
    }
}

/// Removes the rate limits of revoked keys and deleted organizations that would not be full within days, so that they
/// don't stay in memory, one start after the other. The others aren't looked up, because there may be a million.
fn without_ended_subjects(tx: &Tx<'_>, rows: Vec<StoredWindow>) -> Result<Vec<StoredWindow>> {
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        if !row.state.is_long_lasting() || store::windows::is_in_use(tx, row.subject)? {
            kept.push(row);
        }
    }
    Ok(kept)
}

/// Deletes stored rate limits that were taken over, if that has not succeeded yet.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub(super) async fn delete_stale(app: &App) -> Result<()> {
    if app.unstored.has_stale_windows.load(Ordering::SeqCst) {
        app.db.write(store::windows::delete_all).await?;
        app.unstored.has_stale_windows.store(false, Ordering::SeqCst);
    }
    Ok(())
}

/// Stores the rate limits that aren't full. Called when no verification can run any more. A failure is logged: rate
/// limits that can't be stored begin full at the next start.
pub(super) async fn store(app: &App) {
    if !app.unstored.has_windows.load(Ordering::SeqCst) {
        return;
    }
    if let Err(error) = store_within(app, MAX_STORE_TIME).await {
        tracing::warn!(%error, "could not store rate limits; they begin full at the next start");
    }
}

/// Stores the rate limits that aren't full, those of organizations first, until this time has passed.
async fn store_within(app: &App, max: Duration) -> Result<()> {
    delete_stale(app).await?;
    let at = decision_time(app);
    let mut rows = Vec::new();
    for state in app.verifier.states().with_windows() {
        if app.clock.monotonic().saturating_sub(at.monotonic) > max {
            return Err(Error::unavailable("Storing all of them takes too long.", 1));
        }
        rows.extend(state.windows_to_store(at));
        if rows.len() >= ROWS_PER_WRITE {
            write(app, &mut rows).await?;
        }
    }
    write(app, &mut rows).await
}

async fn write(app: &App, rows: &mut Vec<StoredWindow>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let written = std::mem::take(rows);
    app.db.write(move |tx| store::windows::insert(tx, &written)).await
}

/// The later of the clock and the settled time, so that a clock that is set back gives no time twice.
fn decision_time(app: &App) -> DecisionTime {
    DecisionTime { now: app.clock.expiry_time(), monotonic: app.clock.monotonic() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::domain::meter::Meter;
    use crate::domain::subject::Subject;
    use crate::domain::window::WindowState;
    use crate::service::lifecycle;

    /// Stores a state for each of more keys than one write or read takes, and reads them back.
    #[tokio::test]
    async fn i10_a_stop_stores_in_several_writes_for_a_limited_time() {
        const KEYS: usize = ROWS_PER_READ + ROWS_PER_WRITE;
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load_defaults().unwrap();
        config.database.dir = dir.path().join("data");
        let app = lifecycle::open(config, Clock::system()).await.unwrap();
        let window = |key| StoredWindow {
            subject: Subject::Key(key),
            organization: Subject::Organization(0),
            state: WindowState {
                meter: Meter::REQUESTS,
                window_seconds: 86_400,
                tokens: 100,
                spent_units: 50 * 86_400 * 1_000_000_000,
                owed_units: 0,
            },
            stored_at: app.clock.now(),
        };
        let windows: Vec<_> = (1..).take(KEYS).map(window).collect();
        app.verifier.states().resume_windows(&windows, decision_time(&app)).unwrap();
        let error = store_within(&app, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.message, "Storing all of them takes too long.");
        assert_eq!(read_stored(&app).await.unwrap(), 0);
        store_within(&app, MAX_STORE_TIME).await.unwrap();
        assert_eq!(read_stored(&app).await.unwrap(), KEYS);
    }
}
