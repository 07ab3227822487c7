//! The clock. No other module reads the time of the system, so that tests can set it instead of waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::Timestamp;

/// A source of time: the system clock, or a manual clock for tests. Clones share the same source.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System {
        started: Instant,
    },
    /// Nanoseconds since the epoch, advanced only by [`Clock::advance`].
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The clock of the system.
    #[allow(clippy::disallowed_methods)] // Allowed only in this file.
    pub(crate) fn system() -> Self {
        Self(Source::System { started: Instant::now() })
    }

    /// A clock that stays at `now` until it is advanced.
    pub fn manual(now: Timestamp) -> Self {
        let nanos = u64::try_from(now.as_millis()).unwrap_or(0) * 1_000_000;
        Self(Source::Manual(Arc::new(AtomicU64::new(nanos))))
    }

    /// Advances a manual clock. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(nanos) = &self.0 {
            nanos.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// The wall-clock time, for timestamps that are stored or shown. Jumps when the system clock is set.
    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> Timestamp {
        let millis = match &self.0 {
            Source::System { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
            }
            Source::Manual(nanos) => u128::from(nanos.load(Ordering::SeqCst) / 1_000_000),
        };
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// The time since an arbitrary fixed point, for rate limits and latencies. Never goes backwards.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Manual(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }
}
