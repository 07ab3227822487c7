//! The only caller of "now". Tests set it instead of waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::Timestamp;

/// Tells the time; clones tell the same one.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System {
        started: Instant,
    },
    /// Nanoseconds since the epoch, moved by [`Clock::advance`] alone.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[allow(clippy::disallowed_methods)] // This file is the one place.
    pub(crate) fn system() -> Self {
        Self(Source::System { started: Instant::now() })
    }

    /// A clock that stands still at `now` until it is advanced.
    pub fn manual(now: Timestamp) -> Self {
        let nanos = u64::try_from(now.as_millis()).unwrap_or(0) * 1_000_000;
        Self(Source::Manual(Arc::new(AtomicU64::new(nanos))))
    }

    /// Moves a manual clock on; the machine's clock moves by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(nanos) = &self.0 {
            nanos.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// The time of day, for what is stored and shown. It may jump when the machine's clock is set.
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

    /// Time since some fixed point, for limits and latencies. It never goes back.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Manual(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }
}
