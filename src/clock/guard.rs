//! Decides whether the clock can be trusted.
//!
//! The *settled time* is the latest time that was trusted, continued by the monotonic clock. While the
//! wall-clock time fits the settled time, the clock is *settled*, and the settled time follows it. A clock
//! that is far ahead or behind is *unsettled* until it fits again, has kept pace with the monotonic clock for
//! an hour, or is accepted by the operator.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::time::Timestamp;

/// A clock that is further ahead of the settled time is unsettled.
const MAX_AHEAD_MILLIS: i64 = 24 * 3_600_000;
/// A clock that is further behind the settled time is unsettled.
const MAX_BEHIND_MILLIS: i64 = 5 * 60_000;
/// The time for which an unsettled clock must keep pace with the monotonic clock to become settled.
const PACE_TIME: Duration = Duration::from_secs(3600);
/// An unsettled clock that deviates further from the monotonic clock has jumped again.
const MAX_DRIFT_MILLIS: i64 = 60_000;
/// The largest number of unreported changes in memory; further changes replace the last one.
const MAX_UNREPORTED_CHANGES: usize = 16;

/// A change between settled and unsettled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockChange {
    /// What happened.
    pub(crate) kind: ClockChangeKind,
    /// The wall-clock time.
    pub(crate) time: Timestamp,
    /// The settled time before the change.
    pub(crate) settled_time: Timestamp,
}

/// The kinds of [`ClockChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockChangeKind {
    /// The clock jumped and is unsettled from now on.
    Jumped,
    /// The clock fits the settled time again.
    Returned,
    /// The clock kept pace for an hour; the settled time is the wall-clock time from now on.
    KeptPace,
    /// The operator accepted the clock; the settled time is the wall-clock time from now on.
    Accepted,
}

/// The wall-clock time and the monotonic time, read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) wall: Timestamp,
    pub(crate) monotonic: Duration,
}

impl Reading {
    /// The wall-clock time minus the monotonic time, in milliseconds. It stays the same while the clock keeps
    /// pace.
    fn offset(self) -> i64 {
        self.wall.as_millis().saturating_sub(whole_millis(self.monotonic))
    }
}

/// The whole milliseconds of a duration.
pub(super) fn whole_millis(duration: Duration) -> i64 {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    seconds.saturating_mul(1000).saturating_add(i64::from(duration.subsec_millis()))
}

/// Compares the wall clock with the settled time.
#[derive(Debug)]
pub(super) struct ClockGuard {
    /// The settled time minus the monotonic time, in milliseconds. Verifications read only this.
    settled_offset: AtomicI64,
    state: Mutex<GuardState>,
}

#[derive(Debug)]
struct GuardState {
    /// `None` while the clock is settled.
    unsettled: Option<Unsettled>,
    /// The monotonic time of the last check.
    checked_at: Duration,
    changes: Vec<ClockChange>,
}

/// The progress of an unsettled clock.
#[derive(Clone, Copy, Debug)]
struct Unsettled {
    /// The offset of the wall clock after its last jump.
    offset: i64,
    /// The monotonic time of that jump.
    since: Duration,
}

impl ClockGuard {
    /// Creates a guard that trusts the first reading.
    pub(super) fn new(first: Reading) -> Self {
        let state = GuardState { unsettled: None, checked_at: first.monotonic, changes: Vec::new() };
        Self { settled_offset: AtomicI64::new(first.offset()), state: Mutex::new(state) }
    }

    /// The settled time at a monotonic time.
    pub(super) fn settled_time_at(&self, monotonic: Duration) -> Timestamp {
        let offset = self.settled_offset.load(Ordering::Relaxed);
        Timestamp::from_millis(offset.saturating_add(whole_millis(monotonic)))
    }

    /// Continues from a stored settled time; without one, trusts the wall clock.
    pub(super) fn resume(&self, stored: Option<Timestamp>, reading: Reading) {
        let stored = Reading { wall: stored.unwrap_or(reading.wall), ..reading };
        let mut state = self.state.lock();
        *state = GuardState { unsettled: None, checked_at: reading.monotonic, changes: Vec::new() };
        self.settled_offset.store(stored.offset(), Ordering::Relaxed);
        drop(state);
        self.check(reading);
    }

    /// Compares the wall clock with the settled time. Returns true if the clock is settled.
    pub(super) fn check(&self, reading: Reading) -> bool {
        let mut state = self.state.lock();
        let settled_time = self.settled_time_at(reading.monotonic);
        let ahead = reading.wall.as_millis().saturating_sub(settled_time.as_millis());
        let fits = (-MAX_BEHIND_MILLIS..=MAX_AHEAD_MILLIS).contains(&ahead);
        let has_jumped = |kind| ClockChange { kind, time: reading.wall, settled_time };
        match state.unsettled {
            None if fits => self.follow(&state, reading),
            Some(_) if fits => {
                state.unsettled = None;
                state.add_change(has_jumped(ClockChangeKind::Returned));
                self.follow(&state, reading);
            }
            Some(earlier) if (reading.offset().saturating_sub(earlier.offset)).abs() <= MAX_DRIFT_MILLIS => {
                if reading.monotonic.saturating_sub(earlier.since) >= PACE_TIME {
                    state.unsettled = None;
                    state.add_change(has_jumped(ClockChangeKind::KeptPace));
                    self.settled_offset.store(reading.offset(), Ordering::Relaxed);
                }
            }
            None | Some(_) => {
                state.unsettled = Some(Unsettled { offset: reading.offset(), since: reading.monotonic });
                state.add_change(has_jumped(ClockChangeKind::Jumped));
            }
        }
        state.checked_at = state.checked_at.max(reading.monotonic);
        state.unsettled.is_none()
    }

    /// Moves the settled time to the wall-clock time. If the wall clock is behind, the settled time stands
    /// still until the wall clock has caught up.
    fn follow(&self, state: &GuardState, reading: Reading) {
        let since_check = whole_millis(reading.monotonic.saturating_sub(state.checked_at));
        let standing = self.settled_offset.load(Ordering::Relaxed).saturating_sub(since_check);
        self.settled_offset.store(reading.offset().max(standing), Ordering::Relaxed);
    }

    /// Makes the wall-clock time the settled time.
    pub(super) fn accept(&self, reading: Reading) {
        let mut state = self.state.lock();
        let settled_time = self.settled_time_at(reading.monotonic);
        if state.unsettled.take().is_some() {
            let kind = ClockChangeKind::Accepted;
            state.add_change(ClockChange { kind, time: reading.wall, settled_time });
        }
        state.checked_at = reading.monotonic;
        self.settled_offset.store(reading.offset(), Ordering::Relaxed);
    }

    pub(super) fn take_changes(&self) -> Vec<ClockChange> {
        std::mem::take(&mut self.state.lock().changes)
    }

    pub(super) fn put_back_changes(&self, mut changes: Vec<ClockChange>) {
        let mut state = self.state.lock();
        changes.append(&mut state.changes);
        changes.truncate(MAX_UNREPORTED_CHANGES);
        state.changes = changes;
    }
}

impl GuardState {
    fn add_change(&mut self, change: ClockChange) {
        if self.changes.len() >= MAX_UNREPORTED_CHANGES {
            self.changes.pop();
        }
        self.changes.push(change);
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
