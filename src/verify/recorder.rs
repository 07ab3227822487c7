//! Counts verifications in memory until they are written to the database.
//!
//! The counters are divided into shards, each a map behind its own lock. Counting locks one shard for some
//! nanoseconds; taking a batch replaces each map by an empty map. So each verification is in exactly one
//! batch.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::denials::{Denial, Denials};
use crate::domain::api_key::Credential;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Interval, UsageCounts};
use crate::domain::verification::Outcome;
use crate::error::{Error, Result};

/// Number of shards. Keys with consecutive `seq`s are in different shards.
const SHARDS: usize = 64;
/// Maximum number of rows (one per key and hour) in memory. Rows of a batch that is being written don't
/// count.
const MAX_USAGE_ROWS: usize = 1_000_000;

/// The counts of one key in one hour, since the last batch was taken.
#[derive(Clone, Debug)]
pub(crate) struct HourlyKeyCounts {
    /// Start of the hour.
    pub(crate) hour: Timestamp,
    pub(crate) credential: Arc<Credential>,
    /// Number of verifications by outcome, and the sum of their costs.
    pub(crate) counts: UsageCounts,
    /// Time of the last verification with a valid outcome.
    pub(crate) last_used: Option<Timestamp>,
}

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

/// The rows of one shard, by the start of the hour and the key's `seq`.
#[derive(Default)]
struct RecorderShard(HashMap<(Timestamp, i64), HourlyKeyCounts, RandomState>);

impl RecorderShard {
    /// The row of a key and hour, which is inserted if it doesn't exist. `UNAVAILABLE` when the row doesn't
    /// exist and the shard is full.
    fn row_mut(&mut self, hour: Timestamp, credential: &Arc<Credential>) -> Result<&mut HourlyKeyCounts> {
        let has_room = self.0.len() < MAX_USAGE_ROWS_PER_SHARD;
        match self.0.entry((hour, credential.seq)) {
            Entry::Occupied(row) => Ok(row.into_mut()),
            Entry::Vacant(entry) if has_room => Ok(entry.insert(HourlyKeyCounts {
                hour,
                credential: credential.clone(),
                counts: UsageCounts::default(),
                last_used: None,
            })),
            Entry::Vacant(_) => {
                Err(Error::unavailable("Too many keys are in use to record their usage. Try again.", 1))
            }
        }
    }
}

const MAX_USAGE_ROWS_PER_SHARD: usize = MAX_USAGE_ROWS / SHARDS;

/// The counts since the last batch was taken.
pub struct Recorder {
    shards: [Mutex<RecorderShard>; SHARDS],
    /// True once any shard is at least half full. While false, `ensure_room_for` doesn't need to lock a
    /// shard.
    any_shard_half_full: AtomicBool,
    denials: Mutex<Denials>,
}

impl Default for Recorder {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, any_shard_half_full: AtomicBool::new(false), denials: Mutex::default() }
    }
}

fn lock_ignoring_poison<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn lock_shard(&self, seq: i64) -> MutexGuard<'_, RecorderShard> {
        lock_ignoring_poison(&self.shards[usize::try_from(seq.rem_euclid(SHARDS as i64)).unwrap_or(0)])
    }

    /// Ensures that a verification of this key can be counted. Called before rate limit or quota are spent.
    /// `UNAVAILABLE` when the key needs a new row and the maximum number of rows is reached.
    pub(crate) fn ensure_room_for(&self, credential: &Arc<Credential>, now: Timestamp) -> Result<()> {
        if !self.any_shard_half_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let hour = Interval::Hour.floor(now);
        self.lock_shard(credential.seq).row_mut(hour, credential).map(drop)
    }

    /// Counts one verification of a known key. `cost` is the cost that was spent (0 for a denial), `ip` the
    /// client's address. `UNAVAILABLE` when the key needs a new row and the maximum number of rows is
    /// reached; then nothing is counted.
    pub fn count_verification(
        &self,
        credential: &Arc<Credential>,
        outcome: Outcome,
        cost: u32,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<()> {
        let hour = Interval::Hour.floor(now);
        let mut shard = self.lock_shard(credential.seq);
        if shard.0.len() >= MAX_USAGE_ROWS_PER_SHARD / 2 {
            self.any_shard_half_full.store(true, Ordering::Relaxed);
        }
        let row = shard.row_mut(hour, credential)?;
        row.counts.add(outcome, cost);
        if outcome.is_valid() {
            row.last_used = row.last_used.max(Some(now));
            return Ok(());
        }
        drop(shard);
        lock_ignoring_poison(&self.denials).add(Denial::for_key(credential, outcome, ip, now));
        Ok(())
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
        lock_ignoring_poison(&self.denials).add(Denial::for_unknown_key(outcome, organization_id, ip, now));
    }

    /// Removes and returns everything that was counted since the last call.
    pub(crate) fn take(&self) -> UsageBatch {
        self.any_shard_half_full.store(false, Ordering::Relaxed);
        let mut key_hours: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| std::mem::take(&mut lock_ignoring_poison(shard).0).into_values())
            .collect();
        key_hours.sort_unstable_by_key(|row| (row.hour, row.credential.seq));
        UsageBatch { hourly_counts: key_hours, denials: lock_ignoring_poison(&self.denials).take() }
    }

    /// Puts back a batch that could not be written. Its rows may exceed the maximum number of rows.
    pub(crate) fn put_back(&self, batch: UsageBatch) {
        for row in batch.hourly_counts {
            match self.lock_shard(row.credential.seq).0.entry((row.hour, row.credential.seq)) {
                Entry::Occupied(mut entry) => {
                    let existing = entry.get_mut();
                    existing.counts.merge(&row.counts);
                    existing.last_used = existing.last_used.max(row.last_used);
                }
                Entry::Vacant(entry) => drop(entry.insert(row)),
            }
        }
        lock_ignoring_poison(&self.denials).put_back(batch.denials);
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
