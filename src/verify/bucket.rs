//! Token buckets, in memory and separate from the records of keys: a key that is renamed, or evicted from
//! the cache, keeps its bucket.
//!
//! A bucket counts spent units. One token is as many units as its window has nanoseconds, and `tokens` units
//! are refilled per nanosecond. So every number is an integer, and as long as the limit stays the same
//! nothing is rounded: no burst gets a token too many, and no caller paced at the rate is refused.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

/// Longer windows are clamped to this. The API allows none, and the arithmetic below stays within 128 bits.
const MAX_WINDOW: Duration = Duration::from_secs(86_400);

/// Number of shards of the map, each with its own lock. A sweep locks one at a time, so with many shards it
/// delays few callers.
const SHARDS: usize = 256;

/// A bucket's limit: bursts of up to `tokens`, and a continuous refill of `tokens` per `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The capacity, and the refill per window. 0 admits only a cost of 0.
    pub(crate) tokens: u32,
    /// Clamped to 1 ns to 86,400 s.
    pub(crate) window: Duration,
}

impl Limit {
    fn window(self) -> Duration {
        self.window.clamp(Duration::from_nanos(1), MAX_WINDOW)
    }

    /// Units per token.
    fn token(self) -> u128 {
        self.window().as_nanos()
    }

    /// Units of a full bucket.
    fn capacity(self) -> u128 {
        u128::from(self.tokens) * self.token()
    }

    /// Time until this many units are refilled, rounded up. Zero for a limit of 0 tokens, which is never
    /// refilled.
    fn time(self, units: u128) -> Duration {
        let nanos = if self.tokens == 0 { 0 } else { units.div_ceil(u128::from(self.tokens)) };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The decision on a cost, and the state of the bucket after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitDecision {
    /// True if the cost was admitted; from [`Buckets::peek`], if it would be.
    pub(crate) allowed: bool,
    /// The capacity, in tokens.
    pub limit: u32,
    /// The time in which `limit` tokens are refilled.
    pub(crate) window: Duration,
    /// Whole tokens left.
    pub(crate) remaining: u32,
    /// Time until one token more than `remaining` is available; zero when the bucket is full.
    pub(crate) next_token: Duration,
    /// Time until the bucket is full.
    pub(crate) full_after: Duration,
    /// Time until the cost would be admitted; zero if it was. A cost above the capacity is never admitted:
    /// then this is the whole window, so that a client that honors it doesn't retry in a tight loop.
    pub(crate) retry_after: Duration,
}

/// The state of one bucket at its last call.
#[derive(Clone, Copy)]
struct Bucket {
    limit: Limit,
    /// Monotonic time of the last call.
    at: Duration,
    /// Units spent and not yet refilled; at most the capacity.
    spent: u128,
    /// Units spent beyond the capacity, after a limit was lowered. They don't reduce what the lower limit
    /// grants, but count again if the limit is raised. Refilled after `spent`.
    owed: u128,
}

impl Bucket {
    fn full(limit: Limit, at: Duration) -> Self {
        Self { limit, at, spent: 0, owed: 0 }
    }

    /// Refills for the time since the last call, at the limit of that call, then changes to `limit` with the
    /// number of spent tokens unchanged. A `now` before the last call refills nothing.
    fn refill(&mut self, limit: Limit, now: Duration) {
        let elapsed = now.saturating_sub(self.at).as_nanos();
        let refill = elapsed * u128::from(self.limit.tokens);
        self.owed = self.owed.saturating_sub(refill.saturating_sub(self.spent));
        self.spent = self.spent.saturating_sub(refill);
        self.at = self.at.max(now);
        if self.limit != limit {
            // At most 2^32 tokens of 8.64e13 units, times 8.64e13: below 2^128.
            let spent = (self.spent + self.owed).saturating_mul(limit.token()).div_ceil(self.limit.token());
            self.limit = limit;
            self.spent = spent.min(limit.capacity());
            self.owed = spent - self.spent;
        }
    }

    fn available(&self) -> u128 {
        self.limit.capacity() - self.spent
    }

    fn admits(&self, cost: u32) -> bool {
        u128::from(cost) * self.limit.token() <= self.available()
    }

    fn take(&mut self, limit: Limit, cost: u32, now: Duration) -> RateLimitDecision {
        self.refill(limit, now);
        let allowed = self.admits(cost);
        if allowed {
            self.spent += u128::from(cost) * limit.token();
        }
        self.snapshot(allowed, cost)
    }

    fn peek(mut self, limit: Limit, cost: u32, now: Duration) -> RateLimitDecision {
        self.refill(limit, now);
        self.snapshot(self.admits(cost), cost)
    }

    fn snapshot(&self, allowed: bool, cost: u32) -> RateLimitDecision {
        let limit = self.limit;
        let available = self.available();
        let remaining = available / limit.token();
        let until = |tokens: u128| limit.time((tokens * limit.token()).saturating_sub(available));
        RateLimitDecision {
            allowed,
            limit: limit.tokens,
            window: limit.window(),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            next_token: until((remaining + 1).min(limit.tokens.into())),
            full_after: limit.time(self.spent),
            retry_after: match allowed {
                true => Duration::ZERO,
                false if cost > limit.tokens => limit.window(),
                false => until(cost.into()),
            },
        }
    }

    /// True if a new bucket would behave the same.
    fn is_full(mut self, now: Duration) -> bool {
        self.refill(self.limit, now);
        self.spent + self.owed == 0
    }
}

/// Buckets by key: at most `capacity` of them, and one overflow bucket that all other keys share.
///
/// Times are monotonic ([`Clock::monotonic`](crate::clock::Clock::monotonic)).
pub(crate) struct Buckets<K: Eq + Hash> {
    map: DashMap<K, Bucket, RandomState>,
    capacity: usize,
    /// Number of entries of the map. Counted here, because `DashMap::len` locks all shards, which costs more
    /// than a call of `take`.
    len: AtomicUsize,
    /// Shared by all keys without a bucket while the map is full.
    overflow: Mutex<Bucket>,
    /// The second of the last sweep of a full map.
    last_sweep: AtomicU64,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// An empty map. A key's bucket is created, full, by its first [`take`](Self::take).
    pub(crate) fn new(capacity: usize) -> Self {
        let no_tokens = Limit { tokens: 0, window: MAX_WINDOW };
        Self {
            map: DashMap::with_hasher_and_shard_amount(RandomState::default(), SHARDS),
            capacity,
            len: AtomicUsize::new(0),
            overflow: Mutex::new(Bucket::full(no_tokens, Duration::ZERO)),
            last_sweep: AtomicU64::new(0),
        }
    }

    /// Takes `cost` tokens from the key's bucket if it has that many, else none.
    ///
    /// Tokens that were spent stay spent when `limit` differs from that of the last call.
    pub(crate) fn take(&self, key: &K, limit: Limit, cost: u32, now: Duration) -> RateLimitDecision {
        if let Some(mut bucket) = self.map.get_mut(key) {
            return bucket.take(limit, cost, now);
        }
        if self.len() >= self.capacity {
            self.make_room(now);
        }
        match self.map.entry(key.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().take(limit, cost, now),
            Entry::Vacant(entry) if self.reserve() => {
                let mut bucket = self.new_bucket(limit, now);
                let decision = bucket.take(limit, cost, now);
                entry.insert(bucket);
                decision
            }
            Entry::Vacant(_) => self.overflow().take(limit, cost, now),
        }
    }

    /// The state of the key's bucket and whether `cost` would be admitted. Spends and stores nothing.
    pub(crate) fn peek(&self, key: &K, limit: Limit, cost: u32, now: Duration) -> RateLimitDecision {
        let bucket = self.map.get(key).map(|bucket| *bucket);
        bucket.unwrap_or_else(|| self.new_bucket(limit, now)).peek(limit, cost, now)
    }

    /// Drops the full buckets. The owner calls it periodically, so that [`take`](Self::take) rarely has to.
    pub(crate) fn sweep(&self, now: Duration) {
        self.map.retain(|_, bucket| {
            let keep = !bucket.is_full(now);
            if !keep {
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }

    /// Number of keys that have a bucket of their own; never more than the capacity.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Sweeps a full map, at most once a second however many new keys there are: a sweep visits every bucket.
    fn make_room(&self, now: Duration) {
        let second = now.as_secs();
        if self.last_sweep.fetch_max(second, Ordering::Relaxed) < second {
            self.sweep(now);
        }
    }

    /// Increments the number of buckets if it is below the capacity.
    fn reserve(&self) -> bool {
        let increment = |len| (len < self.capacity).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment).is_ok()
    }

    /// A new bucket has no more tokens than the overflow bucket, where this key may have spent its tokens.
    fn new_bucket(&self, limit: Limit, now: Duration) -> Bucket {
        let mut bucket = *self.overflow();
        bucket.refill(limit, now);
        Bucket { owed: 0, ..bucket }
    }

    fn overflow(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
