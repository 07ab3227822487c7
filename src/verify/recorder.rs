//! Counts verifications in memory until they are written to the database.
//!
//! The counts of a key are in its [state](super::subject_state). The first one since the last flush puts the state on
//! a list of the thread; taking a batch visits the states on the lists. So each verification is in exactly one batch.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::denials::{Denial, Denials};
use super::subject_state::{Inner, SubjectState};
use super::unwritten_usage::{HourlyKeyCounts, add_units};
use crate::domain::api_key::Credential;
use crate::domain::meter::{Cost, Meter};
use crate::domain::time::Timestamp;
use crate::domain::usage::Interval;
use crate::domain::verification::Outcome;
use crate::error::{Error, Result};
use crate::telemetry::tally::Sharded;

/// Maximum number of rows (one per key and hour) in memory. Rows of a batch that is being written don't count.
const MAX_USAGE_ROWS: usize = 1_000_000;

/// A batch of counts. The code that takes a batch has to write it exactly once, or put it back.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageBatch {
    /// Usage counts, ordered by hour and key.
    pub(crate) hourly_counts: Vec<HourlyKeyCounts>,
    /// New rows of the verification log, and additions to existing ones.
    pub(crate) denials: Vec<Denial>,
}

impl UsageBatch {
    /// Splits the batch into chunks of at most `max` usage counts and `max` denials, so that no chunk
    /// occupies the database writer for long.
    pub(crate) fn chunks(self, max: usize) -> Vec<Self> {
        let mut key_hours = self.hourly_counts.into_iter();
        let mut denials = self.denials.into_iter();
        let mut chunks = Vec::new();
        loop {
            let chunk = Self {
                hourly_counts: key_hours.by_ref().take(max).collect(),
                denials: denials.by_ref().take(max).collect(),
            };
            if chunk.hourly_counts.is_empty() && chunk.denials.is_empty() {
                return chunks;
            }
            chunks.push(chunk);
        }
    }
}

/// The counts since the last batch was taken.
pub struct Recorder {
    /// The states that have counts, on a list of the thread that counted first.
    listed: Sharded<Mutex<Vec<Arc<SubjectState>>>>,
    /// Counts of hours that have ended, and of batches that could not be written.
    rows: Mutex<Vec<HourlyKeyCounts>>,
    /// Number of states on the lists and of rows.
    row_count: AtomicUsize,
    denials: Mutex<Denials>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            listed: Sharded::new(Mutex::default),
            rows: Mutex::default(),
            row_count: AtomicUsize::new(0),
            denials: Mutex::default(),
        }
    }
}

impl Recorder {
    /// Ensures that a verification of this key can be counted. Called before limits are charged.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the key needs a new row and the maximum number of rows is reached.
    pub(super) fn ensure_room_for(&self, inner: &Inner, now: Timestamp) -> Result<()> {
        let has_row = inner.usage.is_listed && inner.usage.hour == Interval::Hour.floor(now);
        if has_row || self.row_count.load(Ordering::Relaxed) < MAX_USAGE_ROWS {
            return Ok(());
        }
        Err(Error::unavailable("Too many keys are in use to record their usage. Try again.", 1))
    }

    /// Counts one verification of a key whose state is locked. `costs` are those that were charged; none for a denial.
    pub(super) fn count(
        &self,
        state: &Arc<SubjectState>,
        inner: &mut Inner,
        outcome: Outcome,
        costs: &[Cost],
        now: Timestamp,
    ) {
        let hour = Interval::Hour.floor(now);
        let usage = &mut inner.usage;
        if usage.hour != hour {
            if let Some(ended) = usage.take(state.subject, state.organization) {
                self.row_count.fetch_add(1, Ordering::Relaxed);
                self.rows.lock().push(ended);
            }
            usage.hour = hour;
        }
        let mut requests = 0;
        for cost in costs {
            match cost.meter {
                Meter::REQUESTS => requests = cost.units,
                _ if cost.units > 0 => add_units(&mut usage.meters, cost.meter, cost.units.into()),
                _ => {}
            }
        }
        usage.counts.add(outcome, requests);
        if outcome.is_valid() {
            usage.last_used = usage.last_used.max(Some(now));
        }
        if !usage.is_listed {
            usage.is_listed = true;
            self.row_count.fetch_add(1, Ordering::Relaxed);
            self.listed.local().lock().push(state.clone());
        }
    }

    /// Counts a denial of a known key for the verification log.
    pub(super) fn count_denial(
        &self,
        credential: &Credential,
        outcome: Outcome,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) {
        self.denials.lock().add(Denial::for_key(credential, outcome, ip, now));
    }

    /// Counts a denial of a key that doesn't exist or is not visible to the caller, for the verification log
    /// only. `organization_id` is that of the caller's key; `None` for a platform key or without a caller.
    pub fn count_unknown_key_denial(
        &self,
        outcome: Outcome,
        organization_id: Option<&str>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) {
        self.denials.lock().add(Denial::for_unknown_key(outcome, organization_id, ip, now));
    }

    /// Removes and returns everything that was counted since the last call.
    pub(crate) fn take(&self) -> UsageBatch {
        // Zero before anything is taken: what is counted meanwhile is at worst taken without being subtracted, which the
        // next call corrects.
        self.row_count.store(0, Ordering::Relaxed);
        let mut rows = std::mem::take(&mut *self.rows.lock());
        for list in self.listed.shards() {
            // Taken out before it is walked, so that no verification waits for the walk.
            let states = std::mem::take(&mut *list.lock());
            rows.extend(states.iter().filter_map(|state| {
                let mut inner = state.lock();
                inner.usage.is_listed = false;
                inner.usage.take(state.subject, state.organization)
            }));
        }
        rows.sort_unstable_by_key(|row| (row.hour, row.key));
        let mut merged: Vec<HourlyKeyCounts> = Vec::with_capacity(rows.len());
        for row in rows {
            match merged.last_mut().filter(|last| (last.hour, last.key) == (row.hour, row.key)) {
                Some(last) => last.merge(row),
                None => merged.push(row),
            }
        }
        UsageBatch { hourly_counts: merged, denials: self.denials.lock().take() }
    }

    /// Puts back a batch that could not be written. Its rows may exceed the maximum number of rows.
    pub(crate) fn put_back(&self, batch: UsageBatch) {
        self.row_count.fetch_add(batch.hourly_counts.len(), Ordering::Relaxed);
        self.rows.lock().extend(batch.hourly_counts);
        self.denials.lock().put_back(batch.denials);
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
