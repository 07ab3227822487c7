//! Token buckets, in memory and apart from the records of keys: a renamed, cached or evicted key keeps
//! its bucket.
//!
//! A bucket counts what is spent, in units of which one token has as many as its window has
//! nanoseconds. In a nanosecond `tokens` units flow back, so that every figure is an integer and under one
//! limit nothing is ever rounded: no burst gets a token too many, no caller paced at the rate is refused.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

/// Longer windows count as this: the contract has none, and the arithmetic below stays within 128 bits.
const LONGEST_WINDOW: Duration = Duration::from_secs(86_400);

/// Parts of the map with a lock each: many, so that a sweep, which holds one at a time, holds up few.
const SHARDS: usize = 256;

/// How much may be taken: at once `tokens`, and `tokens` more in each `window`, continuously.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The capacity, and what flows back in a window. 0 admits nothing but a cost of 0.
    pub(crate) tokens: u32,
    /// From 1 ns to 86,400 s; what lies outside counts as the nearer of these.
    pub(crate) window: Duration,
}

impl Limit {
    fn window(self) -> Duration {
        self.window.clamp(Duration::from_nanos(1), LONGEST_WINDOW)
    }

    /// Units of one token.
    fn token(self) -> u128 {
        self.window().as_nanos()
    }

    /// Units of a whole bucket.
    fn capacity(self) -> u128 {
        u128::from(self.tokens) * self.token()
    }

    /// How long it takes until this many units have flowed back, rounded up. Without a rate nothing ever
    /// does, and there is nothing to wait for.
    fn time(self, units: u128) -> Duration {
        let nanos = if self.tokens == 0 { 0 } else { units.div_ceil(u128::from(self.tokens)) };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What became of a call, and how the bucket stands after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitDecision {
    /// Was (or, from [`Buckets::peek`], would be) the cost admitted?
    pub(crate) allowed: bool,
    /// The capacity.
    pub limit: u32,
    /// In which as much flows back.
    pub(crate) window: Duration,
    /// Whole tokens left.
    pub(crate) remaining: u32,
    /// Until there is one token more than `remaining`; zero when the bucket is full.
    pub(crate) next_token: Duration,
    /// Until the bucket is full.
    pub(crate) full: Duration,
    /// Until the cost would be admitted; zero when it was. A cost above the capacity never is: then this
    /// is the whole window, so that a client which obeys it doesn't hammer.
    pub(crate) retry_after: Duration,
}

/// The state of one bucket, as of its last call.
#[derive(Clone, Copy)]
struct Bucket {
    limit: Limit,
    at: Duration,
    /// Units spent and not flowed back; at most the capacity.
    spent: u128,
    /// What had been spent beyond the capacity when a limit was lowered. It doesn't hold back what the
    /// lower limit gives, but is still owed should the limit be raised again, and flows back last.
    owed: u128,
}

impl Bucket {
    fn full(limit: Limit, at: Duration) -> Self {
        Self { limit, at, spent: 0, owed: 0 }
    }

    /// Lets flow back what has since the last call, under the limit of that call, and goes over to
    /// `limit` with the same number of spent tokens. A clock that is behind changes nothing.
    fn settle(&mut self, limit: Limit, now: Duration) {
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
        self.settle(limit, now);
        let allowed = self.admits(cost);
        if allowed {
            self.spent += u128::from(cost) * limit.token();
        }
        self.snapshot(allowed, cost)
    }

    fn peek(mut self, limit: Limit, cost: u32, now: Duration) -> RateLimitDecision {
        self.settle(limit, now);
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
            full: limit.time(self.spent),
            retry_after: match allowed {
                true => Duration::ZERO,
                false if cost > limit.tokens => limit.window(),
                false => until(cost.into()),
            },
        }
    }

    /// Would a new bucket behave the same?
    fn is_full(mut self, now: Duration) -> bool {
        self.settle(self.limit, now);
        self.spent + self.owed == 0
    }
}

/// Buckets by key: at most `capacity` of them, and one that all others share.
///
/// Times are monotonic ([`Clock::monotonic`](crate::clock::Clock::monotonic)).
pub(crate) struct Buckets<K: Eq + Hash> {
    map: DashMap<K, Bucket, RandomState>,
    capacity: usize,
    /// Entries of the map: counted here because a look at all its shards would cost more than a call.
    len: AtomicUsize,
    /// What newcomers share while there is no room.
    overflow: Mutex<Bucket>,
    /// The second in which room was last made.
    swept: AtomicU64,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// No buckets yet; a key's is made, full, by its first [`take`](Self::take).
    pub(crate) fn new(capacity: usize) -> Self {
        let nothing = Limit { tokens: 0, window: LONGEST_WINDOW };
        Self {
            map: DashMap::with_hasher_and_shard_amount(RandomState::default(), SHARDS),
            capacity,
            len: AtomicUsize::new(0),
            overflow: Mutex::new(Bucket::full(nothing, Duration::ZERO)),
            swept: AtomicU64::new(0),
        }
    }

    /// Takes `cost` tokens from the key's bucket if it holds as many, else nothing.
    ///
    /// When `limit` is another than in the last call, tokens that were spent stay spent.
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
                let mut bucket = self.newcomer(limit, now);
                let taken = bucket.take(limit, cost, now);
                entry.insert(bucket);
                taken
            }
            Entry::Vacant(_) => self.overflow().take(limit, cost, now),
        }
    }

    /// How the key's bucket stands and whether `cost` would be admitted; spends and remembers nothing.
    pub(crate) fn peek(&self, key: &K, limit: Limit, cost: u32, now: Duration) -> RateLimitDecision {
        let bucket = self.map.get(key).map(|bucket| *bucket);
        bucket.unwrap_or_else(|| self.newcomer(limit, now)).peek(limit, cost, now)
    }

    /// Drops the buckets that are full. The owner calls it now and then, so that it is rarely done while
    /// a caller waits.
    pub(crate) fn sweep(&self, now: Duration) {
        self.map.retain(|_, bucket| {
            let keep = !bucket.is_full(now);
            if !keep {
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }

    /// How many keys have a bucket of their own; never more than the capacity.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// A sweep looks at every bucket: at most one a second, however many newcomers there are.
    fn make_room(&self, now: Duration) {
        let second = now.as_secs();
        if self.swept.fetch_max(second, Ordering::Relaxed) < second {
            self.sweep(now);
        }
    }

    /// Counts one more bucket, if there may be one.
    fn reserve(&self) -> bool {
        let more = |len| (len < self.capacity).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A new bucket holds no more than the shared one, which may be where this key spent its tokens.
    fn newcomer(&self, limit: Limit, now: Duration) -> Bucket {
        let mut bucket = *self.overflow();
        bucket.settle(limit, now);
        Bucket { owed: 0, ..bucket }
    }

    fn overflow(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
