//! The clock. No other module reads the time of the system, so that tests can set it instead of waiting.
//!
//! The system clock can be wrong. A [guard](guard) compares it with the latest stored time and with the
//! monotonic clock, so that a wrong time deletes nothing and makes nothing valid again.

mod guard;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use guard::{ClockChange, ClockChangeKind, Reading};

use crate::domain::time::Timestamp;
use guard::ClockGuard;

/// A source of time: the system clock, or a manual clock for tests. Clones share the same source and the same
/// guard.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    guard: Arc<ClockGuard>,
}

#[derive(Clone, Debug)]
enum Source {
    System { started: Instant },
    Manual(Arc<ManualTime>),
}

/// The time of a manual clock.
#[derive(Debug)]
struct ManualTime {
    /// Nanoseconds, advanced only by [`Clock::advance`].
    monotonic: AtomicU64,
    /// The wall-clock time minus the monotonic time, in milliseconds, changed only by [`Clock::set`].
    offset: AtomicI64,
}

impl Clock {
    /// The clock of the system.
    #[allow(clippy::disallowed_methods)] // Allowed only in this file.
    pub(crate) fn system() -> Self {
        Self::with_source(Source::System { started: Instant::now() })
    }

    /// A clock that stays at `now` until it is advanced or set.
    pub fn manual(now: Timestamp) -> Self {
        let nanos = u64::try_from(now.as_millis()).unwrap_or(0) * 1_000_000;
        let time = ManualTime { monotonic: AtomicU64::new(nanos), offset: AtomicI64::new(0) };
        Self::with_source(Source::Manual(Arc::new(time)))
    }

    fn with_source(source: Source) -> Self {
        let reading = Reading { wall: source.wall(), monotonic: source.monotonic() };
        Self { source, guard: Arc::new(ClockGuard::new(reading)) }
    }

    /// Advances a manual clock. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.source {
            time.monotonic.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// Sets the wall-clock time of a manual clock, as an administrator or a time service sets that of the
    /// system. The monotonic time stays. Has no effect on the system clock.
    pub fn set(&self, now: Timestamp) {
        if let Source::Manual(time) = &self.source {
            let monotonic = guard::whole_millis(self.monotonic());
            time.offset.store(now.as_millis() - monotonic, Ordering::SeqCst);
        }
    }

    /// The wall-clock time, for timestamps that are stored or shown. Jumps when the system clock is set.
    pub fn now(&self) -> Timestamp {
        self.source.wall()
    }

    /// The time since an arbitrary fixed point, for rate limits and latencies. Never goes backwards.
    pub fn monotonic(&self) -> Duration {
        self.source.monotonic()
    }

    /// The time by which keys, secrets and quota periods end: the later of the wall-clock time and the settled
    /// time. So setting the clock back makes nothing valid again.
    pub(crate) fn expiry_time(&self) -> Timestamp {
        self.expiry_time_at(self.now(), self.monotonic())
    }

    /// [`expiry_time`](Self::expiry_time) for a wall-clock and a monotonic time that were read already.
    pub(crate) fn expiry_time_at(&self, now: Timestamp, monotonic: Duration) -> Timestamp {
        now.max(self.guard.settled_time_at(monotonic))
    }

    /// The wall-clock time if the clock is settled; otherwise `None`. Everything that is deleted because of
    /// its age is compared with this time, immediately before it is deleted.
    pub(crate) fn settled_now(&self) -> Option<Timestamp> {
        let reading = self.read();
        self.guard.check(reading).then_some(reading.wall)
    }

    /// True while the wall-clock time can be trusted.
    pub(crate) fn is_settled(&self) -> bool {
        self.guard.check(self.read())
    }

    /// The settled time: the latest time that was trusted, continued by the monotonic clock.
    pub(crate) fn settled_time(&self) -> Timestamp {
        self.guard.settled_time_at(self.monotonic())
    }

    /// Starts from the settled time that a database has stored; `None` if it has stored none.
    pub(crate) fn resume(&self, stored: Option<Timestamp>) {
        self.guard.resume(stored, self.read());
    }

    /// Trusts the wall-clock time, whatever it is.
    pub(crate) fn accept(&self) {
        self.guard.accept(self.read());
    }

    /// Removes and returns the changes between settled and unsettled that have not been reported yet.
    pub(crate) fn take_changes(&self) -> Vec<ClockChange> {
        self.guard.check(self.read());
        self.guard.take_changes()
    }

    /// Puts back changes that could not be reported.
    pub(crate) fn put_back_changes(&self, changes: Vec<ClockChange>) {
        self.guard.put_back_changes(changes);
    }

    /// Both times.
    pub(crate) fn read(&self) -> Reading {
        Reading { wall: self.now(), monotonic: self.monotonic() }
    }
}

impl Source {
    #[allow(clippy::disallowed_methods)]
    fn wall(&self) -> Timestamp {
        match self {
            Source::System { .. } => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(guard::whole_millis(since_epoch))
            }
            Source::Manual(time) => {
                let monotonic = guard::whole_millis(self.monotonic());
                Timestamp::from_millis(monotonic + time.offset.load(Ordering::SeqCst))
            }
        }
    }

    fn monotonic(&self) -> Duration {
        match self {
            Source::System { started } => started.elapsed(),
            Source::Manual(time) => Duration::from_nanos(time.monotonic.load(Ordering::SeqCst)),
        }
    }
}
