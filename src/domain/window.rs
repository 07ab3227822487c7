//! The state of rate limits, as it is stored while the server is stopped.

use super::meter::Meter;
use super::subject::Subject;
use super::time::Timestamp;

/// What the token bucket of a rate limit holds. A token is worth as many units as the window has nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowState {
    pub(crate) meter: Meter,
    pub(crate) window_seconds: u32,
    /// The limit at which the spent units are refilled, in tokens per window.
    pub(crate) tokens: u32,
    /// Units spent and not yet refilled.
    pub(crate) spent_units: u128,
    /// Units spent beyond the capacity, after the limit was lowered.
    pub(crate) owed_units: u128,
}

impl WindowState {
    /// True if the bucket would not be full within two days, the longest time without a change of the limit: a window and
    /// its maximum debt, of a day each.
    pub(crate) fn is_long_lasting(&self) -> bool {
        const MAX_NANOS: u128 = 2 * 86_400 * 1_000_000_000;
        self.spent_units.saturating_add(self.owed_units) > u128::from(self.tokens) * MAX_NANOS
    }
}

/// The state of a rate limit of a key or an organization at the time of the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredWindow {
    pub(crate) subject: Subject,
    /// The organization of a key; for an organization, the organization itself.
    pub(crate) organization: Subject,
    pub(crate) state: WindowState,
    pub(crate) stored_at: Timestamp,
}

impl StoredWindow {
    /// Milliseconds from the stop to `now` that have certainly passed: both times are truncated to milliseconds, and
    /// the clock may have been set back.
    pub(crate) fn elapsed_millis(&self, now: Timestamp) -> u64 {
        let millis = now.as_millis().saturating_sub(self.stored_at.as_millis()).saturating_sub(1);
        u64::try_from(millis).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lowered_limit_lasts_longer_than_two_days() {
        let state = |tokens, spent_units, owed_units| WindowState {
            meter: Meter::REQUESTS,
            window_seconds: 86_400,
            tokens,
            spent_units,
            owed_units,
        };
        let day = 86_400 * 1_000_000_000;
        assert!(!state(10, 20 * day, 0).is_long_lasting());
        assert!(!state(10, 10 * day, 10 * day).is_long_lasting());
        assert!(state(10, 10 * day, 10 * day + 1).is_long_lasting());
        assert!(state(0, 1, 0).is_long_lasting() && state(u32::MAX, u128::MAX, u128::MAX).is_long_lasting());
    }

    #[test]
    fn the_elapsed_time_is_never_negative_or_too_long() {
        let state = WindowState {
            meter: Meter::REQUESTS,
            window_seconds: 60,
            tokens: 1,
            spent_units: 1,
            owed_units: 0,
        };
        let subject = Subject::Key(1);
        let elapsed = |stored_at, now| {
            let stored_at = Timestamp::from_millis(stored_at);
            let window = StoredWindow { subject, organization: Subject::Organization(1), state, stored_at };
            window.elapsed_millis(Timestamp::from_millis(now))
        };
        assert_eq!(elapsed(10, 1010), 999);
        assert_eq!([elapsed(10, 10), elapsed(10, 9), elapsed(i64::MAX, i64::MIN)], [0, 0, 0]);
        assert_eq!(elapsed(i64::MIN, i64::MAX), i64::MAX as u64 - 1);
    }
}
