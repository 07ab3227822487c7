//! Token buckets, in memory and separate from the records of keys: a key that is renamed, or evicted from
//! the cache, keeps its bucket.
//!
//! A bucket counts spent units. One token is worth as many units as the window has nanoseconds, and `tokens`
//! units are refilled per nanosecond. So all numbers are integers, and nothing is rounded while the limit
//! stays the same: no burst gets a token too many, and no caller that keeps to the rate is refused.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

/// Maximum window of a limit; longer windows are clamped to it. The API allows no longer windows. The maximum
/// keeps the arithmetic below within 128 bits.
const MAX_WINDOW: Duration = Duration::from_secs(86_400);

/// Number of shards of the map, each with its own lock. A sweep locks one shard at a time, so with many
/// shards a sweep delays few callers.
const MAP_SHARDS: usize = 256;

/// A bucket's limit: bursts of up to `tokens`, and a continuous refill of `tokens` per `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketLimit {
    /// The capacity of the bucket, and the number of tokens refilled per window. With 0 tokens, only a cost
    /// of 0 is admitted.
    pub(crate) tokens: u32,
    /// The time in which `tokens` tokens are refilled. Clamped to the range from 1 ns to 86,400 s.
    pub(crate) window: Duration,
}

impl BucketLimit {
    fn clamped_window(self) -> Duration {
        self.window.clamp(Duration::from_nanos(1), MAX_WINDOW)
    }

    /// Number of units that one token is worth.
    fn units_per_token(self) -> u128 {
        self.clamped_window().as_nanos()
    }

    /// Number of units in a full bucket.
    fn capacity_units(self) -> u128 {
        u128::from(self.tokens) * self.units_per_token()
    }

    /// Time until this many units are refilled, rounded up. Zero for a limit of 0 tokens, which is never
    /// refilled.
    fn refill_time(self, units: u128) -> Duration {
        let nanos = if self.tokens == 0 { 0 } else { units.div_ceil(u128::from(self.tokens)) };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The decision on a cost, and the state of the bucket after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitDecision {
    /// True if the cost was admitted; from [`Buckets::peek`], true if the cost would be admitted.
    pub(crate) allowed: bool,
    /// Capacity of the bucket, in tokens.
    pub limit: u32,
    /// The time in which `limit` tokens are refilled.
    pub(crate) window: Duration,
    /// Number of whole tokens left in the bucket.
    pub(crate) remaining: u32,
    /// Time until one token more than `remaining` is available; zero when the bucket is full.
    pub(crate) next_token: Duration,
    /// Time until the bucket is full.
    pub(crate) full_after: Duration,
    /// Time until the cost would be admitted; zero if the cost was admitted. For a cost above the capacity,
    /// which is never admitted, the whole window, so that a client doesn't retry in a tight loop.
    pub(crate) retry_after: Duration,
}

/// A token bucket, with its state as of the last call.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    limit: BucketLimit,
    /// Monotonic time of the last call.
    last_call_at: Duration,
    /// Number of units spent and not yet refilled; at most the capacity.
    spent_units: u128,
    /// Number of units spent beyond the capacity, after the limit was lowered. They don't reduce what the
    /// lower limit grants, but count again if the limit is raised. They are refilled after `spent_units`.
    owed_units: u128,
}

impl Bucket {
    fn new_full(limit: BucketLimit, now: Duration) -> Self {
        Self { limit, last_call_at: now, spent_units: 0, owed_units: 0 }
    }

    /// Refills for the time since the last call, at the limit of that call, then changes to `limit` with the
    /// number of spent tokens unchanged. A `now` before the last call refills nothing.
    fn refill(&mut self, limit: BucketLimit, now: Duration) {
        let elapsed = now.saturating_sub(self.last_call_at).as_nanos();
        let refill = elapsed * u128::from(self.limit.tokens);
        self.owed_units = self.owed_units.saturating_sub(refill.saturating_sub(self.spent_units));
        self.spent_units = self.spent_units.saturating_sub(refill);
        self.last_call_at = self.last_call_at.max(now);
        if self.limit != limit {
            // At most 2^32 tokens of 8.64e13 units, times 8.64e13: below 2^128.
            let spent = (self.spent_units + self.owed_units)
                .saturating_mul(limit.units_per_token())
                .div_ceil(self.limit.units_per_token());
            self.limit = limit;
            self.spent_units = spent.min(limit.capacity_units());
            self.owed_units = spent - self.spent_units;
        }
    }

    fn available_units(&self) -> u128 {
        self.limit.capacity_units() - self.spent_units
    }

    fn admits(&self, cost: u32) -> bool {
        u128::from(cost) * self.limit.units_per_token() <= self.available_units()
    }

    /// Takes `cost` tokens if the bucket has that many; otherwise takes none.
    pub(super) fn take(&mut self, limit: BucketLimit, cost: u32, now: Duration) -> RateLimitDecision {
        self.refill(limit, now);
        let allowed = self.admits(cost);
        if allowed {
            self.spent_units += u128::from(cost) * limit.units_per_token();
        }
        self.snapshot(allowed, cost)
    }

    /// Returns whether `cost` would be admitted, and the state of the bucket.
    pub(super) fn peek(mut self, limit: BucketLimit, cost: u32, now: Duration) -> RateLimitDecision {
        self.refill(limit, now);
        self.snapshot(self.admits(cost), cost)
    }

    fn snapshot(&self, allowed: bool, cost: u32) -> RateLimitDecision {
        let limit = self.limit;
        let available = self.available_units();
        let remaining = available / limit.units_per_token();
        let until =
            |tokens: u128| limit.refill_time((tokens * limit.units_per_token()).saturating_sub(available));
        RateLimitDecision {
            allowed,
            limit: limit.tokens,
            window: limit.clamped_window(),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            next_token: until((remaining + 1).min(limit.tokens.into())),
            full_after: limit.refill_time(self.spent_units),
            retry_after: match allowed {
                true => Duration::ZERO,
                false if cost > limit.tokens => limit.clamped_window(),
                false => until(cost.into()),
            },
        }
    }

    /// True if the bucket is full, so that a new bucket would behave the same.
    fn is_full(mut self, now: Duration) -> bool {
        self.refill(self.limit, now);
        self.spent_units + self.owed_units == 0
    }
}

/// Buckets by key: at most `capacity` of them, and one overflow bucket that all other keys share.
///
/// Times are monotonic ([`Clock::monotonic`](crate::clock::Clock::monotonic)).
pub(crate) struct Buckets<K: Eq + Hash> {
    map: DashMap<K, Bucket, RandomState>,
    max_buckets: usize,
    /// Number of entries of the map. Counted separately, because `DashMap::len` locks all shards and so takes
    /// longer than a whole call of `take`.
    bucket_count: AtomicUsize,
    /// Shared by all keys without a bucket while the map is full.
    overflow: Mutex<Bucket>,
    /// Monotonic time, in whole seconds, of the last sweep because the map was full.
    last_sweep_second: AtomicU64,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Creates an empty map. The first [`take`](Self::take) of a key creates its bucket.
    pub(crate) fn new(max_buckets: usize) -> Self {
        let no_tokens = BucketLimit { tokens: 0, window: MAX_WINDOW };
        Self {
            map: DashMap::with_hasher_and_shard_amount(RandomState::default(), MAP_SHARDS),
            max_buckets,
            bucket_count: AtomicUsize::new(0),
            overflow: Mutex::new(Bucket::new_full(no_tokens, Duration::ZERO)),
            last_sweep_second: AtomicU64::new(0),
        }
    }

    /// Takes `cost` tokens from the key's bucket if the bucket has that many; otherwise takes none.
    ///
    /// Tokens that were spent stay spent when `limit` differs from that of the last call.
    pub(crate) fn take(&self, key: &K, limit: BucketLimit, cost: u32, now: Duration) -> RateLimitDecision {
        self.with_bucket(key, limit, now, |bucket| bucket.take(limit, cost, now))
    }

    /// Calls `decide` with the key's bucket, which stays locked until `decide` returns. Creates the bucket if
    /// the key has none.
    pub(super) fn with_bucket<R>(
        &self,
        key: &K,
        limit: BucketLimit,
        now: Duration,
        decide: impl FnOnce(&mut Bucket) -> R,
    ) -> R {
        if let Some(mut bucket) = self.map.get_mut(key) {
            return decide(&mut bucket);
        }
        if self.len() >= self.max_buckets {
            self.sweep_if_due(now);
        }
        match self.map.entry(key.clone()) {
            Entry::Occupied(mut entry) => decide(entry.get_mut()),
            Entry::Vacant(entry) if self.reserve_map_entry() => {
                let mut bucket = self.new_bucket(limit, now);
                let result = decide(&mut bucket);
                // A full bucket is not stored, because a new one would behave the same.
                if bucket.is_full(now) {
                    self.bucket_count.fetch_sub(1, Ordering::Relaxed);
                } else {
                    entry.insert(bucket);
                }
                result
            }
            Entry::Vacant(_) => decide(&mut self.lock_overflow_bucket()),
        }
    }

    /// Returns whether `cost` would be admitted, and the state of the key's bucket. Takes no tokens and
    /// creates no bucket.
    pub(crate) fn peek(&self, key: &K, limit: BucketLimit, cost: u32, now: Duration) -> RateLimitDecision {
        let bucket = self.map.get(key).map(|bucket| *bucket);
        bucket.unwrap_or_else(|| self.new_bucket(limit, now)).peek(limit, cost, now)
    }

    /// Drops the full buckets. Called periodically by the owner, so that [`take`](Self::take) rarely has to
    /// sweep.
    pub(crate) fn sweep(&self, now: Duration) {
        self.map.retain(|_, bucket| {
            let keep = !bucket.is_full(now);
            if !keep {
                self.bucket_count.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }

    /// Number of keys that have a bucket of their own; never more than the capacity.
    pub(crate) fn len(&self) -> usize {
        self.bucket_count.load(Ordering::Relaxed)
    }

    /// Drops the full buckets unless that was done within this second. The limit is needed because a sweep
    /// visits every bucket, and each new key calls this while the map is full.
    fn sweep_if_due(&self, now: Duration) {
        let second = now.as_secs();
        if self.last_sweep_second.fetch_max(second, Ordering::Relaxed) < second {
            self.sweep(now);
        }
    }

    /// Increments the number of buckets. Returns false, without incrementing, if the maximum is reached.
    fn reserve_map_entry(&self) -> bool {
        let increment = |len| (len < self.max_buckets).then_some(len + 1);
        self.bucket_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment).is_ok()
    }

    /// Creates a bucket with as many tokens as the overflow bucket has, because the key may have spent its
    /// tokens there.
    fn new_bucket(&self, limit: BucketLimit, now: Duration) -> Bucket {
        let mut bucket = *self.lock_overflow_bucket();
        bucket.refill(limit, now);
        Bucket { owed_units: 0, ..bucket }
    }

    fn lock_overflow_bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
