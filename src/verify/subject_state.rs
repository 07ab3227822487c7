//! What is held in memory for each key and organization in use: how its limits stand, and the verifications that are
//! not written to the database yet. It is separate from the records of keys: a key that is renamed, or evicted from
//! the cache, keeps its state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};

use super::bucket::Bucket;
use super::limit_state::{DecisionTime, LimitState};
use super::unwritten_usage::UnwrittenUsage;
use crate::domain::limits::Limit;
use crate::domain::meter::Cost;
use crate::domain::subject::Subject;
use crate::domain::window::{StoredWindow, WindowState};
use crate::error::{Error, Result};

/// Number of shards of the map, each with its own lock. A sweep locks one shard at a time, so with many shards a
/// sweep delays few callers.
const MAP_SHARDS: usize = 256;

/// The state of a key or an organization, behind one short lock. A decision that needs both locks the key's state
/// first. No lock is held across an await.
pub(crate) struct SubjectState {
    pub(super) subject: Subject,
    /// The organization of a key; for an organization, the organization itself.
    pub(super) organization: Subject,
    /// True if the state may have buckets of rate limits, which are forgotten once the limits are removed.
    has_windows: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) limits: LimitState,
    pub(super) usage: UnwrittenUsage,
}

impl SubjectState {
    pub(super) fn new(subject: Subject, organization: Subject) -> Self {
        Self { subject, organization, has_windows: AtomicBool::new(false), inner: Mutex::default() }
    }

    /// True if the state may have buckets of rate limits. Asked without a lock, for a list of limits that is empty.
    pub(super) fn has_windows(&self) -> bool {
        self.has_windows.load(Ordering::Relaxed)
    }

    /// Brings the limits to this time and this list, see [`LimitState::update`].
    pub(super) fn update(&self, inner: &mut Inner, limits: &[Limit], version: u64, at: DecisionTime) {
        inner.limits.update(self.subject, limits, version, at);
        self.update_has_windows(inner);
    }

    /// Charges reported costs to the rate limits, see [`LimitState::charge_windows`].
    pub(super) fn charge_windows(&self, limits: &[Limit], costs: &[Cost], monotonic: Duration) {
        let mut inner = self.lock();
        inner.limits.charge_windows(limits, costs, monotonic);
        self.update_has_windows(&inner);
    }

    fn update_has_windows(&self, inner: &Inner) {
        let has_windows = inner.limits.has_windows();
        if self.has_windows() != has_windows {
            self.has_windows.store(has_windows, Ordering::Relaxed);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// The rate limits that aren't full, to be stored.
    pub(crate) fn windows_to_store(&self, at: DecisionTime) -> Vec<StoredWindow> {
        let Self { subject, organization, .. } = *self;
        let inner = self.lock();
        let windows = inner.limits.windows_to_store(at.monotonic);
        windows.map(|state| StoredWindow { subject, organization, state, stored_at: at.now }).collect()
    }
}

/// The states in use, at most `max` of them.
pub(crate) struct SubjectStates {
    map: DashMap<Subject, Arc<SubjectState>, RandomState>,
    max: usize,
    /// Number of entries of the map. Counted separately, because `DashMap::len` locks all shards.
    count: AtomicUsize,
    /// Monotonic time, in whole seconds, of the last sweep because the map was full.
    last_sweep_second: AtomicUsize,
}

impl SubjectStates {
    /// Creates an empty map.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            map: DashMap::with_hasher_and_shard_amount(RandomState::default(), MAP_SHARDS),
            max,
            count: AtomicUsize::new(0),
            last_sweep_second: AtomicUsize::new(0),
        }
    }

    /// The state of a key or an organization, which is created if there is none.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the maximum number of states is reached and all of them are needed.
    pub(crate) fn get_or_insert(
        &self,
        subject: Subject,
        organization: Subject,
        monotonic: Duration,
    ) -> Result<Arc<SubjectState>> {
        if let Some(state) = self.map.get(&subject) {
            return Ok(state.clone());
        }
        if self.len() >= self.max {
            self.sweep_if_due(monotonic);
        }
        match self.map.entry(subject) {
            Entry::Occupied(entry) => Ok(entry.get().clone()),
            Entry::Vacant(entry) if self.reserve() => {
                Ok(entry.insert(Arc::new(SubjectState::new(subject, organization))).clone())
            }
            Entry::Vacant(_) => {
                Err(Error::unavailable("Too many keys are in use. Try again in a second.", 1))
            }
        }
    }

    /// Increments the number of states. Returns false, without incrementing, if the maximum is reached.
    fn reserve(&self) -> bool {
        let increment = |count| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment).is_ok()
    }

    /// Number of states in memory.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The states that may have rate limits which aren't full: those of organizations, then those of keys in order.
    pub(crate) fn with_windows(&self) -> impl Iterator<Item = Arc<SubjectState>> {
        let entries = self.map.iter().filter(|entry| entry.has_windows());
        let mut states: Vec<_> = entries.map(|entry| (entry.key().number(), entry.value().clone())).collect();
        states.sort_unstable_by_key(|(number, _)| *number);
        states.into_iter().map(|(_, state)| state)
    }

    /// Creates states with rate limits as they were stored, except for those that are full again.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the maximum number of states is reached.
    pub(crate) fn resume_windows(&self, windows: &[StoredWindow], at: DecisionTime) -> Result<()> {
        for window in windows {
            let elapsed = Duration::from_millis(window.elapsed_millis(at.now));
            let bucket = Bucket::resume(&window.state, elapsed, at.monotonic);
            if bucket.is_full(at.monotonic) {
                continue;
            }
            let WindowState { meter, window_seconds, .. } = window.state;
            let state = self.get_or_insert(window.subject, window.organization, at.monotonic)?;
            state.lock().limits.resume_window(meter, window_seconds, bucket);
            state.has_windows.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Drops the states that no record holds and that a new one would equal.
    pub(crate) fn sweep(&self, monotonic: Duration) {
        self.map.retain(|_, state| {
            let is_held = Arc::strong_count(state) > 1;
            let keep = is_held || {
                let inner = state.lock();
                !inner.usage.is_written() || !inner.limits.is_initial(monotonic)
            };
            if !keep {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }

    /// Sweeps unless that was done within this second. The limit is needed because a sweep visits every state, and each
    /// new key calls this while the map is full.
    fn sweep_if_due(&self, monotonic: Duration) {
        let second = usize::try_from(monotonic.as_secs()).unwrap_or(usize::MAX);
        if self.last_sweep_second.fetch_max(second, Ordering::Relaxed) < second {
            self.sweep(monotonic);
        }
    }
}
