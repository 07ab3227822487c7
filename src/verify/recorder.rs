//! Counts verifications in memory, until the writer takes what was counted.
//!
//! Counters lie in shards, each a map behind a lock of its own: counting locks one for some nanoseconds,
//! and taking lifts each map out whole. So whatever is counted is in exactly one batch.

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

/// Neighbouring keys lie in different ones.
const SHARDS: usize = 64;
/// Hours of keys that wait at most, beside a batch under way.
const MAX_ROWS: usize = 1_000_000;

/// What one key did in one hour since that was last taken.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// Where the hour begins.
    pub(crate) hour: Timestamp,
    /// The key.
    pub(crate) credential: Arc<Credential>,
    /// How often, with what outcome.
    pub(crate) counts: Counts,
    /// When it was last good.
    pub(crate) last_used: Option<Timestamp>,
}

/// What was taken: to be written once, or put back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Counts of keys by the hour; in the order of hour and key.
    pub(crate) counted: Vec<Counted>,
    /// New rows and counts of the verification log.
    pub(crate) denials: Vec<Denial>,
}

impl Batch {
    /// The same in pieces of at most so many rows of each kind, so that none holds the writer long.
    pub(crate) fn pieces(self, max: usize) -> Vec<Self> {
        let (mut counted, mut denials) = (self.counted.into_iter(), self.denials.into_iter());
        let mut pieces = Vec::new();
        loop {
            let piece = Self {
                counted: counted.by_ref().take(max).collect(),
                denials: denials.by_ref().take(max).collect(),
            };
            if piece.counted.is_empty() && piece.denials.is_empty() {
                return pieces;
            }
            pieces.push(piece);
        }
    }
}

/// By the start of the hour and the key's `seq`.
#[derive(Default)]
struct Shard(HashMap<(Timestamp, i64), Counted, RandomState>);

impl Shard {
    /// The row of a key's hour. `UNAVAILABLE` when there is none yet and no room for one.
    fn row(&mut self, hour: Timestamp, credential: &Arc<Credential>) -> Result<&mut Counted> {
        let has_room = self.0.len() < MAX_OF_A_SHARD;
        match self.0.entry((hour, credential.seq)) {
            Entry::Occupied(counted) => Ok(counted.into_mut()),
            Entry::Vacant(place) if has_room => Ok(place.insert(Counted {
                hour,
                credential: credential.clone(),
                counts: Counts::default(),
                last_used: None,
            })),
            Entry::Vacant(_) => {
                Err(Error::unavailable("Too many keys are in use to count them; try again.", 1))
            }
        }
    }
}

/// Hours of keys in one shard at most.
const MAX_OF_A_SHARD: usize = MAX_ROWS / SHARDS;

/// What was counted and not yet taken.
pub struct Recorder {
    shards: [Mutex<Shard>; SHARDS],
    /// Is some shard half full?
    crowded: AtomicBool,
    denials: Mutex<Denials>,
}

impl Default for Recorder {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, crowded: AtomicBool::new(false), denials: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn shard(&self, seq: i64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::try_from(seq.rem_euclid(SHARDS as i64)).unwrap_or(0)])
    }

    /// Sees that a count of this key will find room; asked before anything is spent. `UNAVAILABLE` when
    /// it won't.
    pub(crate) fn reserve(&self, credential: &Arc<Credential>, now: Timestamp) -> Result<()> {
        if !self.crowded.load(Ordering::Relaxed) {
            return Ok(());
        }
        let hour = Interval::Hour.floor(now);
        self.shard(credential.seq).row(hour, credential).map(drop)
    }

    /// Counts one verification of a known key: `cost` is what it spent, 0 when it was denied, and `ip` the
    /// client's address. `UNAVAILABLE` when there is no room for another key; then nothing is counted.
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
        if shard.0.len() >= MAX_OF_A_SHARD / 2 {
            self.crowded.store(true, Ordering::Relaxed);
        }
        let counted = shard.row(hour, credential)?;
        counted.counts.add(outcome, cost);
        if outcome.is_valid() {
            counted.last_used = counted.last_used.max(Some(now));
            return Ok(());
        }
        drop(shard);
        lock(&self.denials).add(Denial::of_key(credential, outcome, ip, now));
        Ok(())
    }

    /// Counts a denial of a key that isn't known to whoever asked, for the verification log alone.
    /// `organization_id` is that of the asking key; `None` for the platform's, or when no key asked.
    pub fn deny_unknown(
        &self,
        outcome: Outcome,
        organization_id: Option<&str>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) {
        lock(&self.denials).add(Denial::of_unknown(outcome, organization_id, ip, now));
    }

    /// Takes all that was counted.
    pub(crate) fn take(&self) -> Batch {
        self.crowded.store(false, Ordering::Relaxed);
        let mut counted: Vec<_> =
            self.shards.iter().flat_map(|shard| std::mem::take(&mut lock(shard).0).into_values()).collect();
        counted.sort_unstable_by_key(|one| (one.hour, one.credential.seq));
        Batch { counted, denials: lock(&self.denials).take() }
    }

    /// Puts back what could not be written. It finds room, whatever came meanwhile.
    pub(crate) fn put_back(&self, batch: Batch) {
        for one in batch.counted {
            match self.shard(one.credential.seq).0.entry((one.hour, one.credential.seq)) {
                Entry::Occupied(mut counted) => {
                    let counted = counted.get_mut();
                    counted.counts.merge(&one.counts);
                    counted.last_used = counted.last_used.max(one.last_used);
                }
                Entry::Vacant(place) => drop(place.insert(one)),
            }
        }
        lock(&self.denials).put_back(batch.denials);
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
