//! Counts verifications in memory until they are written to the database.
//!
//! The counters are in shards, each a map behind its own lock. Counting locks one shard for some
//! nanoseconds; taking a batch replaces each map by an empty one. So each verification is in exactly one
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
use crate::domain::usage::{Counts, Interval};
use crate::domain::verification::Outcome;
use crate::error::{Error, Result};

/// Number of shards. Consecutive keys are in different ones.
const SHARDS: usize = 64;
/// Maximum number of rows (one per key and hour) in memory, in addition to those of a batch under way.
const MAX_ROWS: usize = 1_000_000;

/// The verifications of one key in one hour since the last batch was taken.
#[derive(Clone, Debug)]
pub(crate) struct KeyHour {
    /// Start of the hour.
    pub(crate) hour: Timestamp,
    pub(crate) credential: Arc<Credential>,
    /// Verifications by outcome, and their cost.
    pub(crate) counts: Counts,
    /// Time of the last verification that was valid.
    pub(crate) last_used: Option<Timestamp>,
}

/// A batch of counts. It has to be written exactly once, or put back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Ordered by hour and key.
    pub(crate) key_hours: Vec<KeyHour>,
    /// New rows of the verification log, and additions to existing ones.
    pub(crate) denials: Vec<Denial>,
}

impl Batch {
    /// Splits the batch into chunks of at most `max` rows of each kind, so that none occupies the writer
    /// for long.
    pub(crate) fn chunks(self, max: usize) -> Vec<Self> {
        let mut key_hours = self.key_hours.into_iter();
        let mut denials = self.denials.into_iter();
        let mut chunks = Vec::new();
        loop {
            let chunk = Self {
                key_hours: key_hours.by_ref().take(max).collect(),
                denials: denials.by_ref().take(max).collect(),
            };
            if chunk.key_hours.is_empty() && chunk.denials.is_empty() {
                return chunks;
            }
            chunks.push(chunk);
        }
    }
}

/// Rows by the start of the hour and the key's `seq`.
#[derive(Default)]
struct Shard(HashMap<(Timestamp, i64), KeyHour, RandomState>);

impl Shard {
    /// The row of a key and hour. `UNAVAILABLE` when there is none yet and the shard is full.
    fn row(&mut self, hour: Timestamp, credential: &Arc<Credential>) -> Result<&mut KeyHour> {
        let has_room = self.0.len() < MAX_ROWS_PER_SHARD;
        match self.0.entry((hour, credential.seq)) {
            Entry::Occupied(row) => Ok(row.into_mut()),
            Entry::Vacant(entry) if has_room => Ok(entry.insert(KeyHour {
                hour,
                credential: credential.clone(),
                counts: Counts::default(),
                last_used: None,
            })),
            Entry::Vacant(_) => {
                Err(Error::unavailable("Too many keys are in use to record their usage. Try again.", 1))
            }
        }
    }
}

const MAX_ROWS_PER_SHARD: usize = MAX_ROWS / SHARDS;

/// The counts since the last batch was taken.
pub struct Recorder {
    shards: [Mutex<Shard>; SHARDS],
    /// True if some shard is at least half full. Until then `reserve` needs no lock.
    half_full: AtomicBool,
    denials: Mutex<Denials>,
}

impl Default for Recorder {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, half_full: AtomicBool::new(false), denials: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn shard(&self, seq: i64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::try_from(seq.rem_euclid(SHARDS as i64)).unwrap_or(0)])
    }

    /// Ensures that a verification of this key can be counted. Called before anything is spent.
    /// `UNAVAILABLE` when there is no room for another row.
    pub(crate) fn reserve(&self, credential: &Arc<Credential>, now: Timestamp) -> Result<()> {
        if !self.half_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let hour = Interval::Hour.floor(now);
        self.shard(credential.seq).row(hour, credential).map(drop)
    }

    /// Counts one verification of a known key. `cost` is the cost that was spent (0 for a denial), `ip` the
    /// client's address. `UNAVAILABLE` when there is no room for another row; then nothing is counted.
    pub fn count(
        &self,
        credential: &Arc<Credential>,
        outcome: Outcome,
        cost: u32,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<()> {
        let hour = Interval::Hour.floor(now);
        let mut shard = self.shard(credential.seq);
        if shard.0.len() >= MAX_ROWS_PER_SHARD / 2 {
            self.half_full.store(true, Ordering::Relaxed);
        }
        let row = shard.row(hour, credential)?;
        row.counts.add(outcome, cost);
        if outcome.is_valid() {
            row.last_used = row.last_used.max(Some(now));
            return Ok(());
        }
        drop(shard);
        lock(&self.denials).add(Denial::for_key(credential, outcome, ip, now));
        Ok(())
    }

    /// Counts a denial of a key that doesn't exist or is not visible to the caller, for the verification log
    /// only. `organization_id` is that of the calling key; `None` for a platform key or without a caller.
    pub fn deny_unknown(
        &self,
        outcome: Outcome,
        organization_id: Option<&str>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) {
        lock(&self.denials).add(Denial::for_unknown(outcome, organization_id, ip, now));
    }

    /// Takes everything that was counted since the last call.
    pub(crate) fn take(&self) -> Batch {
        self.half_full.store(false, Ordering::Relaxed);
        let mut key_hours: Vec<_> =
            self.shards.iter().flat_map(|shard| std::mem::take(&mut lock(shard).0).into_values()).collect();
        key_hours.sort_unstable_by_key(|row| (row.hour, row.credential.seq));
        Batch { key_hours, denials: lock(&self.denials).take() }
    }

    /// Puts back a batch that could not be written. The limit of rows doesn't apply to it.
    pub(crate) fn put_back(&self, batch: Batch) {
        for row in batch.key_hours {
            match self.shard(row.credential.seq).0.entry((row.hour, row.credential.seq)) {
                Entry::Occupied(mut entry) => {
                    let existing = entry.get_mut();
                    existing.counts.merge(&row.counts);
                    existing.last_used = existing.last_used.max(row.last_used);
                }
                Entry::Vacant(entry) => drop(entry.insert(row)),
            }
        }
        lock(&self.denials).put_back(batch.denials);
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
