//! Token buckets by key: the limits of the Admin API, and of failed authentications.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

use super::bucket::{Bucket, BucketLimit, MAX_WINDOW, RateLimitDecision};

/// Number of shards of the map, each with its own lock. A sweep locks one shard at a time, so with many
/// shards a sweep delays few callers.
const MAP_SHARDS: usize = 256;

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
        bucket.without_owed()
    }

    fn lock_overflow_bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
