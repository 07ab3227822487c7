//! Quotas: units are leased durably and spent from memory, never more than the quota allows.
//!
//! Each key and period of time has an entry, which is locked for a whole decision: nothing else spends, leases
//! or releases its units meanwhile. A new period has a new entry. The entry of the earlier period is released
//! like any idle entry, and its stored units are used again if the clock returns to that period.
//!
//! While the lock is held, a decision waits only for a lease or for the first read of the stored lease; with enough
//! leased units in memory it doesn't wait. Writes of leases run in tasks of their own, even when their caller is
//! dropped. Each but the first is usually a *renewal*: it begins while units are left, and doesn't hold the lock. At
//! most one write of an entry is under way: a decision that needs more units, and a release, wait for the renewal.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

pub(crate) use crate::domain::quota::QuotaStatus;

use crate::domain::limits::{Period, Quota};
use crate::domain::quota::{QuotaCount, QuotaLease};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};

/// Maximum number of entries released by one write. The maximum lets other writes run between two releases,
/// and limits the time for which entries are locked.
const MAX_ENTRIES_PER_RELEASE: usize = 1000;

/// Minimum time since the last use of an entry before it may be evicted, which happens when all permits are
/// in use.
const MIN_IDLE_FOR_EVICTION: Duration = Duration::from_secs(1);

/// The decision whether a cost is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaDecision {
    /// The quota doesn't have enough units left.
    Exceeded,
    /// The quota has enough units left, but the rate-limit bucket refused the cost.
    RateLimited,
    /// The cost was taken from both the quota and the rate-limit bucket.
    Spent,
}

/// The future of a read of the units that are stored as leased; `None` if none were ever leased.
pub(crate) type ReadFuture = Pin<Box<dyn Future<Output = Result<Option<u64>>> + Send>>;

/// The future of a write of leases. It succeeds only after the commit.
pub(crate) type WriteFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A key's `seq`, the length of the period, and the start of the period: all of them are counted separately.
type QuotaId = (i64, Period, Timestamp);

/// The write of a lease ahead of need.
struct Renewal {
    lease: QuotaLease,
    written: oneshot::Receiver<Result<()>>,
}

/// The count of a quota, and its renewal if one is under way.
struct LeasedCount {
    count: QuotaCount,
    renewal: Option<Renewal>,
}

impl LeasedCount {
    /// Applies the result of the renewal if it is known. Returns true if none is under way any more. A failure isn't
    /// reported: the units can still be leased when they are needed.
    fn apply_renewal(&mut self) -> bool {
        let Some(renewal) = &mut self.renewal else { return true };
        match renewal.written.try_recv() {
            Err(TryRecvError::Empty) => false,
            written => {
                self.end_renewal(matches!(written, Ok(Ok(()))));
                true
            }
        }
    }

    /// Waits for the renewal, if one is under way. It stays under way if this future is dropped.
    ///
    /// # Errors
    /// The errors of the write.
    async fn await_renewal(&mut self) -> Result<()> {
        let Some(renewal) = &mut self.renewal else { return Ok(()) };
        // If the write was abandoned, the units can still be leased.
        let written = (&mut renewal.written).await;
        self.end_renewal(matches!(written, Ok(Ok(()))));
        written.unwrap_or(Ok(()))
    }

    fn end_renewal(&mut self, is_written: bool) {
        match self.renewal.take() {
            Some(renewal) if is_written => self.count.confirm_lease(renewal.lease),
            _ => self.count.fail_lease_ahead(),
        }
    }
}

struct QuotaEntry {
    /// The count of the quota; `None` until the stored lease has been read.
    leased: Option<LeasedCount>,
    used_at: Timestamp,
    /// True once the entry is released and no longer in the map. A caller that has waited for the entry's
    /// lock then looks up the map again.
    removed: bool,
    _permit: OwnedSemaphorePermit,
}

impl QuotaEntry {
    /// True if the entry was not used for `idle`. An entry of another period counts as idle too, and so does
    /// one whose last use is in the future, so that entries can be evicted after the clock was set back.
    fn is_idle(&self, idle: Duration, now: Timestamp) -> bool {
        let is_past = self.leased.as_ref().is_some_and(|leased| !leased.count.is_current(now));
        is_past || self.used_at > now || now - self.used_at >= idle
    }
}

type QuotaEntryGuard = OwnedMutexGuard<QuotaEntry>;
type CountGuard = OwnedMappedMutexGuard<QuotaEntry, LeasedCount>;

/// The counts of all quotas in use. Clones share the same counts.
#[derive(Clone)]
pub struct Quotas(Arc<Shared>);

struct Shared {
    entries: DashMap<QuotaId, Arc<Mutex<QuotaEntry>>>,
    /// One permit per entry, which bounds their number; closed at shutdown.
    permits: Arc<Semaphore>,
    /// The second (Unix time) of the last search for idle entries that found none. Locked during a search, so
    /// that only one search runs at a time.
    last_failed_eviction_second: Mutex<Option<i64>>,
    read_lease: Box<dyn Fn(i64, Period, Timestamp) -> ReadFuture + Send + Sync>,
    write_leases: Box<dyn Fn(Vec<QuotaLease>) -> WriteFuture + Send + Sync>,
}

impl Quotas {
    /// Keeps at most `max_entries` counts in memory. `read` and `write` access the stored leases, which no
    /// other process may change; `write` must store either all of its leases or none.
    pub(crate) fn new(
        max_entries: usize,
        read: impl Fn(i64, Period, Timestamp) -> ReadFuture + Send + Sync + 'static,
        write: impl Fn(Vec<QuotaLease>) -> WriteFuture + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            entries: DashMap::new(),
            permits: Arc::new(Semaphore::new(max_entries)),
            last_failed_eviction_second: Mutex::default(),
            read_lease: Box::new(read),
            write_leases: Box::new(write),
        }))
    }

    /// Spends `cost` units of the key's quota if enough are left **and** `take_from_bucket` returns true;
    /// otherwise neither has spent anything. `take_from_bucket` is called last, at most once, and with the
    /// key's quota locked.
    ///
    /// # Errors
    /// `UNAVAILABLE` when too many keys are in use or storage is full; otherwise the errors of the read or write.
    /// After an error nothing is spent.
    pub async fn take(
        &self,
        key: i64,
        quota: Quota,
        cost: u32,
        now: Timestamp,
        take_from_bucket: impl FnOnce() -> bool,
    ) -> Result<(QuotaDecision, QuotaStatus)> {
        let mut leased = self.lock_count(key, quota.period, now).await?;
        if !leased.count.admits(quota, cost) {
            return Ok((QuotaDecision::Exceeded, leased.count.status(quota)));
        }
        if !leased.count.has_leased(cost) {
            // Another attempt would double the wait for a lock or a slow disk.
            leased.await_renewal().await.map_err(as_unavailable)?;
        }
        if let Some(lease) = leased.count.lease(quota, cost) {
            leased = self.write_lease(leased, lease).await.map_err(as_unavailable)?;
        }
        let decision = if take_from_bucket() { QuotaDecision::Spent } else { QuotaDecision::RateLimited };
        if decision == QuotaDecision::Spent {
            leased.count.spend(cost);
            self.renew_if_due(&mut leased, quota, cost);
        }
        Ok((decision, leased.count.status(quota)))
    }

    /// Returns whether `cost` would be admitted, and the state of the key's quota. Spends and leases no
    /// units.
    ///
    /// # Errors
    /// The same errors as [`take`](Self::take).
    pub(crate) async fn peek(
        &self,
        key: i64,
        quota: Quota,
        cost: u32,
        now: Timestamp,
    ) -> Result<(bool, QuotaStatus)> {
        let leased = self.lock_count(key, quota.period, now).await?;
        Ok((leased.count.admits(quota, cost), leased.count.status(quota)))
    }

    /// Releases the unused units of entries that were not used for `idle`, and removes the entries.
    ///
    /// # Errors
    /// The errors of the write. Units that could not be released are released by the next call that succeeds.
    pub(crate) async fn release_idle(&self, idle: Duration, now: Timestamp) -> Result<()> {
        while self.release_idle_batch(idle, now).await? > 0 {}
        Ok(())
    }

    /// Accepts no more keys, waits for leases under way and releases all unused units.
    ///
    /// # Errors
    /// The errors of the write.
    pub(crate) async fn close(&self) -> Result<()> {
        self.0.permits.close();
        loop {
            let batch = self.0.entries.iter().take(MAX_ENTRIES_PER_RELEASE);
            let batch: Vec<_> = batch.map(|entry| (*entry.key(), entry.value().clone())).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let mut locked = Vec::with_capacity(batch.len());
            for (id, entry) in batch {
                let mut entry = entry.lock_owned().await;
                if entry.removed {
                    continue;
                }
                if let Some(leased) = &mut entry.leased {
                    // Whether it failed or not, the unused units are returned next.
                    let _ = leased.await_renewal().await;
                }
                locked.push((id, entry));
            }
            self.release_entries(locked).await?;
        }
    }

    /// Number of leased units that were neither used nor returned. They are lost if the process ends now. Entries
    /// that are in use are left out.
    pub(crate) fn forfeitable_units(&self) -> u64 {
        let entries = self.0.entries.iter().filter_map(|item| item.value().clone().try_lock_owned().ok());
        let units =
            entries.map(|entry| entry.leased.as_ref().map_or(0, |leased| leased.count.forfeitable_units()));
        units.sum()
    }

    /// True if a lease is being written ahead of need.
    pub fn is_renewing(&self) -> bool {
        self.0.entries.iter().any(|item| match item.value().clone().try_lock_owned() {
            Ok(mut entry) => entry.leased.as_mut().is_some_and(|leased| !leased.apply_renewal()),
            Err(_) => true,
        })
    }

    /// Number of counts in memory.
    pub(crate) fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// True if no count is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the count of a quota in the period that contains `now`. Reads the stored lease if the count is not
    /// in memory.
    async fn lock_count(&self, key: i64, period: Period, now: Timestamp) -> Result<CountGuard> {
        let (start, _) = period.bounds_at(now);
        let id = (key, period, start);
        loop {
            let existing = self.0.entries.get(&id).map(|entry| entry.clone());
            let entry = match existing {
                Some(entry) => entry,
                None => self.insert_entry(id, now).await?,
            };
            let mut entry = entry.lock_owned().await;
            if entry.removed {
                continue;
            }
            entry.used_at = now;
            if entry.leased.is_none() {
                let leased_units = (self.0.read_lease)(key, period, start).await?;
                let count = QuotaCount::resume(key, period, leased_units, now);
                entry.leased = Some(LeasedCount { count, renewal: None });
            }
            if let Ok(mut leased) = OwnedMutexGuard::try_map(entry, |entry| entry.leased.as_mut()) {
                leased.apply_renewal();
                return Ok(leased);
            }
        }
    }

    async fn insert_entry(&self, id: QuotaId, now: Timestamp) -> Result<Arc<Mutex<QuotaEntry>>> {
        let mut permit = self.0.permits.clone().try_acquire_owned();
        if permit.is_err() {
            self.evict_idle(now).await?;
            permit = self.0.permits.clone().try_acquire_owned();
        }
        let permit = permit.map_err(|_| {
            Error::unavailable("Too many keys with quotas are in use. Try again in a second.", 1)
        })?;
        let new = || {
            Arc::new(Mutex::new(QuotaEntry { leased: None, used_at: now, removed: false, _permit: permit }))
        };
        Ok(self.0.entries.entry(id).or_insert_with(new).clone())
    }

    /// Releases idle entries when all permits are in use. Has no effect if a search within this second found
    /// no idle entry, because such a search visits every entry, and each new key requests a search.
    async fn evict_idle(&self, now: Timestamp) -> Result<()> {
        let mut last_failed_eviction_second = self.0.last_failed_eviction_second.lock().await;
        let second = Some(now.as_millis().div_euclid(1000));
        if self.0.permits.available_permits() == 0
            && *last_failed_eviction_second != second
            && self.release_idle_batch(MIN_IDLE_FOR_EVICTION, now).await? == 0
        {
            *last_failed_eviction_second = second;
        }
        Ok(())
    }

    async fn write_lease(&self, mut leased: CountGuard, lease: QuotaLease) -> Result<CountGuard> {
        let shared = self.0.clone();
        let writing = async move {
            (shared.write_leases)(vec![lease]).await?;
            leased.count.confirm_lease(lease);
            Ok(leased)
        };
        tokio::spawn(writing).await.map_err(Error::internal)?
    }

    /// Begins to write the next lease if that is due after `cost` was spent.
    fn renew_if_due(&self, leased: &mut LeasedCount, quota: Quota, cost: u32) {
        if leased.renewal.is_some() {
            return;
        }
        let Some(lease) = leased.count.lease_ahead(quota, cost) else { return };
        let (done, written) = oneshot::channel();
        let shared = self.0.clone();
        // The result is discarded if the entry is gone, which only happens when the process ends.
        tokio::spawn(async move { drop(done.send((shared.write_leases)(vec![lease]).await)) });
        leased.renewal = Some(Renewal { lease, written });
    }

    /// Releases a batch of idle entries, except entries that are locked or being renewed now. Returns the number of
    /// released entries.
    async fn release_idle_batch(&self, idle: Duration, now: Timestamp) -> Result<usize> {
        let locked = self.0.entries.iter().filter_map(|item| {
            let mut entry = item.value().clone().try_lock_owned().ok()?;
            let is_renewed = entry.leased.as_mut().is_none_or(LeasedCount::apply_renewal);
            (is_renewed && entry.is_idle(idle, now)).then_some((*item.key(), entry))
        });
        let locked = locked.take(MAX_ENTRIES_PER_RELEASE).collect();
        self.release_entries(locked).await
    }

    /// Releases the unused units of these entries and removes the entries. A caller that needs one of the
    /// entries waits for its lock, and then reads the stored lease again.
    async fn release_entries(&self, mut locked: Vec<(QuotaId, QuotaEntryGuard)>) -> Result<usize> {
        let shared = self.0.clone();
        let releasing = async move {
            let counts = locked.iter_mut().filter_map(|(_, entry)| entry.leased.as_mut());
            let leases: Vec<_> = counts.filter_map(|leased| leased.count.return_unused_units()).collect();
            if !leases.is_empty() {
                (shared.write_leases)(leases).await?;
            }
            for (id, entry) in &mut locked {
                entry.removed = true;
                shared.entries.remove(id);
            }
            Ok(locked.len())
        };
        tokio::spawn(releasing).await.map_err(Error::internal)?
    }
}

/// The error of a verification whose quota can't be leased because storage is full. A verification stores nothing
/// for its client, who can only try again.
fn as_unavailable(error: Error) -> Error {
    if error.code != Code::StorageFull {
        return error;
    }
    let message = "The quota can't be checked: storage is full. Try again later.";
    Error { cause: error.cause, ..Error::unavailable(message, error.retry_after.unwrap_or(1)) }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
