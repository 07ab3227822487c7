//! Failures without a success in between.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Number of failures in a row from which on the work counts as failing.
const MIN_FAILURES: u32 = 3;

/// Time after the last failure from which on the work is expected to succeed again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The last failures in a row. A success costs nothing here: the number of successes tells whether there was one.
#[derive(Debug, Default)]
pub(crate) struct FailureStreak(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    /// Number of successes at the first of these failures.
    successes: u64,
    last_at: Duration,
}

impl FailureStreak {
    /// Records a failure. `successes` is the number of successes so far, `now` the monotonic time.
    pub(crate) fn record(&self, successes: u64, now: Duration) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.successes != successes {
            *failures = Failures { successes, ..Failures::default() };
        }
        failures.count = failures.count.saturating_add(1);
        failures.last_at = now;
    }

    /// True if the work failed several times in a row and lately.
    pub(crate) fn is_failing(&self, successes: u64, now: Duration) -> bool {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count >= MIN_FAILURES
            && failures.successes == successes
            && now.saturating_sub(failures.last_at) < FORGET_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_or_a_minute_ends_the_failures() {
        let streak = FailureStreak::default();
        let second = Duration::from_secs(1);
        for _ in 0..2 {
            streak.record(0, second);
            assert!(!streak.is_failing(0, second));
        }
        streak.record(0, second);
        assert!(streak.is_failing(0, second));
        assert!(streak.is_failing(0, second + FORGET_AFTER - Duration::from_millis(1)));
        assert!(!streak.is_failing(0, second + FORGET_AFTER));
        assert!(!streak.is_failing(1, second));
        streak.record(1, second);
        assert!(!streak.is_failing(1, second), "the failures before the success no longer count");
    }
}
