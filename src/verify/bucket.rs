//! A token bucket. It counts spent units. One token is worth as many units as the window has nanoseconds, and `tokens`
//! units are refilled per nanosecond. So all numbers are integers, and nothing is rounded while the limit
//! stays the same: no burst gets a token too many, and no caller that keeps to the rate is refused.

use std::time::Duration;

use crate::domain::meter::Meter;
use crate::domain::window::WindowState;

/// Maximum window of a limit; longer windows are clamped to it. The API allows no longer windows. The maximum
/// keeps the arithmetic below within 128 bits.
pub(super) const MAX_WINDOW: Duration = Duration::from_secs(86_400);

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
    pub(super) fn units_per_token(self) -> u128 {
        self.clamped_window().as_nanos()
    }

    /// Number of units in a full bucket.
    pub(super) fn capacity_units(self) -> u128 {
        u128::from(self.tokens) * self.units_per_token()
    }

    /// The highest debt, in units: what is refilled in a day.
    fn max_debt_units(self) -> u128 {
        u128::from(self.tokens) * MAX_WINDOW.as_nanos()
    }

    /// Time until this many units are refilled, rounded up. Zero for a limit of 0 tokens, which is never
    /// refilled.
    pub(super) fn refill_time(self, units: u128) -> Duration {
        let nanos = if self.tokens == 0 { 0 } else { units.div_ceil(u128::from(self.tokens)) };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The decision on a cost, and the state of the bucket after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimitDecision {
    /// True if the cost was admitted; from [`Bucket::peek`], true if the cost would be admitted.
    pub(crate) allowed: bool,
    /// Capacity of the bucket, in tokens.
    pub(crate) limit: u32,
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
    /// Number of units spent and not yet refilled. What exceeds the capacity is debt, which has to be refilled before
    /// anything is admitted.
    spent_units: u128,
    /// Number of units spent beyond the capacity, after the limit was lowered. They don't reduce what the
    /// lower limit grants, but count again if the limit is raised. They are refilled after `spent_units`.
    owed_units: u128,
}

impl Bucket {
    pub(super) fn new_full(limit: BucketLimit, now: Duration) -> Self {
        Self { limit, last_call_at: now, spent_units: 0, owed_units: 0 }
    }

    /// Refills for the time since the last call, at the limit of that call, then changes to `limit` with the
    /// number of spent tokens unchanged. A `now` before the last call refills nothing.
    pub(super) fn refill(&mut self, limit: BucketLimit, now: Duration) {
        let elapsed = now.saturating_sub(self.last_call_at).as_nanos();
        let refill = elapsed * u128::from(self.limit.tokens);
        self.owed_units = self.owed_units.saturating_sub(refill.saturating_sub(self.spent_units));
        self.spent_units = self.spent_units.saturating_sub(refill);
        self.last_call_at = self.last_call_at.max(now);
        if self.limit != limit {
            // At most 2^33 tokens of 8.64e13 units, times 8.64e13: below 2^128.
            let convert = |units: u128| {
                units.saturating_mul(limit.units_per_token()).div_ceil(self.limit.units_per_token())
            };
            let debt = convert(self.spent_units.saturating_sub(self.limit.capacity_units()));
            let debt = debt.min(limit.max_debt_units());
            let spent = convert(self.spent_units + self.owed_units);
            self.limit = limit;
            self.spent_units = spent.min(limit.capacity_units() + debt);
            self.owed_units = spent - self.spent_units;
        }
    }

    /// This bucket without what it owes.
    pub(super) fn without_owed(self) -> Self {
        Self { owed_units: 0, ..self }
    }

    /// The state at this time, to be stored; `None` if the bucket is full, so that a new one would behave the same.
    pub(super) fn to_stored(
        mut self,
        meter: Meter,
        window_seconds: u32,
        now: Duration,
    ) -> Option<WindowState> {
        self.refill(self.limit, now);
        let Self { limit, spent_units, owed_units, .. } = self;
        let state = WindowState { meter, window_seconds, tokens: limit.tokens, spent_units, owed_units };
        (spent_units + owed_units > 0).then_some(state)
    }

    /// A bucket with a stored state, refilled for the time that has elapsed since it was stored.
    pub(super) fn resume(state: &WindowState, elapsed: Duration, now: Duration) -> Self {
        // Only a damaged file has higher numbers. The maximum keeps the arithmetic within 128 bits.
        const MAX_UNITS: u128 = 1 << 80;
        let window = Duration::from_secs(state.window_seconds.into());
        let mut bucket = Self {
            limit: BucketLimit { tokens: state.tokens, window },
            last_call_at: Duration::ZERO,
            spent_units: state.spent_units.min(MAX_UNITS),
            owed_units: state.owed_units.min(MAX_UNITS),
        };
        bucket.refill(bucket.limit, elapsed);
        Self { last_call_at: now, ..bucket }
    }

    fn available_units(&self) -> u128 {
        self.limit.capacity_units().saturating_sub(self.spent_units)
    }

    /// True if the bucket has this many tokens. With debt, nothing is admitted, not even a cost of 0.
    pub(super) fn admits(&self, cost: u32) -> bool {
        let units = u128::from(cost) * self.limit.units_per_token();
        self.spent_units + units <= self.limit.capacity_units()
    }

    /// Takes `cost` tokens, which may exceed what the bucket has. The debt is at most what is refilled in a day.
    pub(super) fn charge(&mut self, cost: u32) {
        let max_spent = self.limit.capacity_units() + self.limit.max_debt_units();
        let units = u128::from(cost) * self.limit.units_per_token();
        self.spent_units = (self.spent_units + units).min(max_spent.max(self.spent_units));
    }

    /// Takes `cost` tokens if the bucket has that many; otherwise takes none.
    pub(super) fn take(&mut self, limit: BucketLimit, cost: u32, now: Duration) -> RateLimitDecision {
        self.refill(limit, now);
        let allowed = self.admits(cost);
        if allowed {
            self.charge(cost);
        }
        self.snapshot(allowed, cost)
    }

    /// Returns whether `cost` would be admitted, and the state of the bucket.
    pub(super) fn peek(mut self, limit: BucketLimit, cost: u32, now: Duration) -> RateLimitDecision {
        self.refill(limit, now);
        self.snapshot(self.admits(cost), cost)
    }

    /// Number of whole tokens in the bucket.
    pub(super) fn remaining(&self) -> u32 {
        u32::try_from(self.available_units() / self.limit.units_per_token()).unwrap_or(u32::MAX)
    }

    /// Time until the bucket has this many tokens; at most the time until it is full.
    pub(super) fn time_until(&self, tokens: u32) -> Duration {
        let units = u128::from(tokens.min(self.limit.tokens)) * self.limit.units_per_token();
        self.limit.refill_time((units + self.spent_units).saturating_sub(self.limit.capacity_units()))
    }

    /// Time until the bucket is full.
    pub(super) fn full_after(&self) -> Duration {
        self.limit.refill_time(self.spent_units)
    }

    pub(super) fn snapshot(&self, allowed: bool, cost: u32) -> RateLimitDecision {
        let limit = self.limit;
        let remaining = self.remaining();
        RateLimitDecision {
            allowed,
            limit: limit.tokens,
            window: limit.clamped_window(),
            remaining,
            next_token: self.time_until(remaining.saturating_add(1)),
            full_after: self.full_after(),
            retry_after: match allowed {
                true => Duration::ZERO,
                false if cost > limit.tokens => limit.clamped_window(),
                false => self.time_until(cost),
            },
        }
    }

    /// True if the bucket is full, so that a new bucket would behave the same.
    pub(super) fn is_full(mut self, now: Duration) -> bool {
        self.refill(self.limit, now);
        self.spent_units + self.owed_units == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_in_debt_admits_nothing_until_the_debt_is_refilled() {
        let limit = BucketLimit { tokens: 10, window: Duration::from_secs(60) };
        let mut bucket = Bucket::new_full(limit, Duration::ZERO);
        bucket.charge(15);
        assert!(!bucket.admits(0));
        assert_eq!(bucket.time_until(0), 30 * SECOND);
        assert_eq!(bucket.time_until(1), 36 * SECOND);
        bucket.refill(limit, 30 * SECOND - Duration::from_nanos(1));
        assert!(!bucket.admits(0));
        bucket.refill(limit, 30 * SECOND);
        assert!(bucket.admits(0) && !bucket.admits(1));
        bucket.refill(limit, 36 * SECOND);
        assert!(bucket.admits(1) && !bucket.admits(2));
    }

    #[test]
    fn a_debt_is_at_most_what_is_refilled_in_a_day() {
        let limit = BucketLimit { tokens: 10, window: Duration::from_secs(60) };
        let mut bucket = Bucket::new_full(limit, Duration::ZERO);
        bucket.charge(u32::MAX);
        bucket.charge(u32::MAX);
        assert_eq!(bucket.time_until(0), MAX_WINDOW);
        assert_eq!(bucket.full_after(), MAX_WINDOW + 60 * SECOND);
    }

    #[test]
    fn a_stored_bucket_continues_where_it_was() {
        let window = Duration::from_secs(60);
        let limit = BucketLimit { tokens: 10, window };
        let mut bucket = Bucket::new_full(limit, SECOND);
        assert_eq!(bucket.to_stored(Meter::REQUESTS, 60, SECOND), None);
        bucket.charge(15);
        bucket.refill(BucketLimit { tokens: 3, window }, 2 * SECOND);
        let stored = bucket.to_stored(Meter::REQUESTS, 60, 3 * SECOND).unwrap();
        for elapsed in [Duration::ZERO, SECOND, 70 * SECOND, 400 * SECOND] {
            // The new process has a monotonic clock of its own.
            let mut resumed = Bucket::resume(&stored, elapsed, Duration::from_millis(7));
            let mut uninterrupted = bucket;
            for limit in [limit, BucketLimit { tokens: 3, window }] {
                resumed.refill(limit, Duration::from_millis(7));
                uninterrupted.refill(limit, 3 * SECOND + elapsed);
                assert_eq!(resumed.spent_units, uninterrupted.spent_units, "{elapsed:?}");
                assert_eq!(resumed.owed_units, uninterrupted.owed_units, "{elapsed:?}");
            }
        }
    }

    #[test]
    fn a_damaged_state_overflows_nothing() {
        for (window_seconds, tokens) in [(0, 0), (1, u32::MAX), (u32::MAX, 1)] {
            let max = u128::MAX;
            let meter = Meter::REQUESTS;
            let state = WindowState { meter, window_seconds, tokens, spent_units: max, owed_units: max };
            let mut bucket = Bucket::resume(&state, Duration::from_millis(u64::MAX), SECOND);
            for tokens in [1, 1_000_000_000, 1] {
                let limit = BucketLimit { tokens, window: SECOND };
                bucket.refill(limit, SECOND);
                bucket.charge(1_000_000_000);
                assert!(!bucket.admits(u32::MAX));
                assert!(bucket.full_after() > Duration::ZERO);
            }
        }
    }

    #[test]
    fn a_debt_is_refilled_within_a_day_after_the_limit_was_lowered() {
        let limit = |tokens| BucketLimit { tokens, window: Duration::from_secs(60) };
        let mut bucket = Bucket::new_full(limit(100_000), Duration::ZERO);
        bucket.charge(1_000_000_000);
        assert!(bucket.time_until(0) > MAX_WINDOW / 3);
        bucket.refill(limit(1_000), Duration::ZERO);
        assert_eq!(bucket.time_until(0), MAX_WINDOW);
        bucket.refill(limit(1_000), MAX_WINDOW - SECOND);
        assert!(!bucket.admits(0));
        bucket.refill(limit(1_000), MAX_WINDOW);
        assert!(bucket.admits(0));
    }

    #[test]
    fn a_debt_stays_the_same_number_of_tokens_when_the_limit_changes() {
        let window = Duration::from_secs(60);
        let limit = BucketLimit { tokens: 10, window };
        let mut bucket = Bucket::new_full(limit, Duration::ZERO);
        bucket.charge(15);
        let lower = BucketLimit { tokens: 5, window };
        bucket.refill(lower, Duration::ZERO);
        assert_eq!(bucket.time_until(0), window);
        let higher = BucketLimit { tokens: 20, window };
        bucket.refill(higher, Duration::ZERO);
        assert_eq!((bucket.remaining(), bucket.admits(5)), (5, true));
    }
}
