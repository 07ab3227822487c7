//! Failures without a success in between.

use std::time::Duration;

use parking_lot::Mutex;

/// Number of subjects that fail in a row from which on the work counts as failing.
const MIN_FAILURES: usize = 3;

/// Time after the last failure from which on the work is expected to succeed again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The last failures in a row, each of another subject: one key on a damaged page fails again and again, while all
/// others work. A success costs nothing here: the number of successes tells whether there was one.
#[derive(Debug)]
pub(crate) struct FailureStreak<S>(Mutex<Failures<S>>);

#[derive(Debug)]
struct Failures<S> {
    /// At most [`MIN_FAILURES`].
    subjects: Vec<S>,
    /// Number of successes at the first of these failures.
    successes: u64,
    last_at: Duration,
}

impl<S> Default for FailureStreak<S> {
    fn default() -> Self {
        Self(Mutex::new(Failures { subjects: Vec::new(), successes: 0, last_at: Duration::ZERO }))
    }
}

impl<S: PartialEq> FailureStreak<S> {
    /// Records a failure of a subject. `successes` is the number of successes so far, `now` the monotonic time.
    pub(crate) fn record(&self, subject: S, successes: u64, now: Duration) {
        let mut failures = self.0.lock();
        if failures.successes != successes {
            *failures = Failures { subjects: Vec::new(), successes, last_at: now };
        }
        failures.last_at = now;
        if failures.subjects.len() < MIN_FAILURES && !failures.subjects.contains(&subject) {
            failures.subjects.push(subject);
        }
    }

    /// True if the work failed for several subjects in a row and lately.
    pub(crate) fn is_failing(&self, successes: u64, now: Duration) -> bool {
        let failures = self.0.lock();
        failures.subjects.len() >= MIN_FAILURES
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
        for subject in [1, 2, 1, 2, 2] {
            streak.record(subject, 0, second);
            assert!(!streak.is_failing(0, second));
        }
        streak.record(3, 0, second);
        assert!(streak.is_failing(0, second));
        assert!(streak.is_failing(0, second + FORGET_AFTER - Duration::from_millis(1)));
        assert!(!streak.is_failing(0, second + FORGET_AFTER));
        assert!(!streak.is_failing(1, second));
        streak.record(3, 1, second);
        assert!(!streak.is_failing(1, second), "the failures before the success no longer count");
    }
}
