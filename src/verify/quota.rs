//! Quotas: units leased durably and spent from memory, never more than there are.
//!
//! Each key has an account, whose lock is held over a whole decision: nobody else spends, leases or gives
//! back the key's units meanwhile. Only a lease or a first look at the file is waited for under it; with
//! units in memory a decision takes the lock and goes. Writes run in tasks of their own, which keep the
//! lock until they know how it went, whether or not their caller still waits.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

pub(crate) use crate::domain::quota::QuotaStatus;

use crate::domain::limits::{Period, Quota};
use crate::domain::quota::{Count, Lease};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// How many accounts are given back by one write: other writes go between, and no key's lock is held long.
const AT_ONCE: usize = 1000;

/// Where there is no room, accounts have to go that were not used for this long.
const IDLE_ENOUGH: Duration = Duration::from_secs(1);

/// What became of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spending {
    /// The quota doesn't have it.
    Exceeded,
    /// The quota has it, the bucket doesn't.
    Refused,
    /// It was taken from both.
    Done,
}

/// A look at the file under way.
pub(crate) type Reading = Pin<Box<dyn Future<Output = Result<Option<Lease>>> + Send>>;

/// A write under way; it must be committed when it succeeds.
pub(crate) type Writing = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A key's quotas over different periods are counted apart.
type Id = (i64, Period);

struct Account {
    /// `None` until the file was looked at.
    count: Option<Count>,
    used_at: Timestamp,
    /// Given back and no longer in the map: who waited for the lock has to look there again.
    gone: bool,
    _room: OwnedSemaphorePermit,
}

impl Account {
    /// A clock that has stepped back doesn't make everything look busy.
    fn is_idle(&self, idle: Duration, now: Timestamp) -> bool {
        self.used_at > now || now - self.used_at >= idle
    }
}

type AccountGuard = OwnedMutexGuard<Account>;
type HeldCount = OwnedMappedMutexGuard<Account, Count>;

/// The counts of all quotas in use. Clones share them.
#[derive(Clone)]
pub struct Quotas(Arc<Shared>);

struct Shared {
    accounts: DashMap<Id, Arc<Mutex<Account>>>,
    /// A permit for each account that there may be; closed at the stop.
    room: Arc<Semaphore>,
    /// Room is made by one at a time: the second in which there last was nothing that could go.
    in_vain: Mutex<Option<i64>>,
    read: Box<dyn Fn(i64, Period) -> Reading + Send + Sync>,
    write: Box<dyn Fn(Vec<Lease>) -> Writing + Send + Sync>,
}

impl Quotas {
    /// At most `capacity` counts in memory, over a file in which nobody else counts. `write` stores all of
    /// its leases or none.
    pub(crate) fn new(
        capacity: usize,
        read: impl Fn(i64, Period) -> Reading + Send + Sync + 'static,
        write: impl Fn(Vec<Lease>) -> Writing + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            accounts: DashMap::new(),
            room: Arc::new(Semaphore::new(capacity)),
            in_vain: Mutex::default(),
            read: Box::new(read),
            write: Box::new(write),
        }))
    }

    /// Takes `cost` units of the key's quota if they are there **and** `bucket` agrees; when either says
    /// no, neither has spent. `bucket` is asked last, at most once, and while nobody else spends of this
    /// key's quota.
    ///
    /// # Errors
    /// `UNAVAILABLE` when too many keys are in use; what the file answers otherwise. Nothing is spent then.
    pub async fn take(
        &self,
        key: i64,
        quota: Quota,
        cost: u32,
        now: Timestamp,
        bucket: impl FnOnce() -> bool,
    ) -> Result<(Spending, QuotaStatus)> {
        let mut count = self.count((key, quota.period), now).await?;
        if !count.admits(quota, cost) {
            return Ok((Spending::Exceeded, count.status(quota)));
        }
        if let Some(lease) = count.lease(quota, cost) {
            count = self.write_lease(count, lease).await?;
        }
        let spending = if bucket() { Spending::Done } else { Spending::Refused };
        if spending == Spending::Done {
            count.spend(cost);
        }
        Ok((spending, count.status(quota)))
    }

    /// How the key's quota stands and whether `cost` would be there; spends and leases nothing.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(crate) async fn peek(
        &self,
        key: i64,
        quota: Quota,
        cost: u32,
        now: Timestamp,
    ) -> Result<(bool, QuotaStatus)> {
        let count = self.count((key, quota.period), now).await?;
        Ok((count.admits(quota, cost), count.status(quota)))
    }

    /// Gives back what keys hold that were not used for `idle`, and forgets them.
    ///
    /// # Errors
    /// Those of the write; what could not be given back is, when it is tried again.
    pub(crate) async fn give_back(&self, idle: Duration, now: Timestamp) -> Result<()> {
        while self.give_back_some(idle, now).await? > 0 {}
        Ok(())
    }

    /// Takes no more keys, waits for the leases under way and gives back all there is.
    ///
    /// # Errors
    /// Those of the write.
    pub(crate) async fn close(&self) -> Result<()> {
        self.0.room.close();
        loop {
            let some = self.0.accounts.iter().take(AT_ONCE);
            let some: Vec<_> = some.map(|entry| (*entry.key(), entry.value().clone())).collect();
            if some.is_empty() {
                return Ok(());
            }
            let mut held = Vec::with_capacity(some.len());
            for (id, account) in some {
                let account = account.lock_owned().await;
                if !account.gone {
                    held.push((id, account));
                }
            }
            self.settle(held).await?;
        }
    }

    /// How many counts are in memory.
    pub(crate) fn len(&self) -> usize {
        self.0.accounts.len()
    }

    /// Is there no count in memory?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The count of a quota at `now`, for the caller alone.
    async fn count(&self, id: Id, now: Timestamp) -> Result<HeldCount> {
        loop {
            let known = self.0.accounts.get(&id).map(|account| account.clone());
            let account = match known {
                Some(account) => account,
                None => self.newcomer(id, now).await?,
            };
            let mut account = account.lock_owned().await;
            if account.gone {
                continue;
            }
            account.used_at = now;
            if account.count.is_none() {
                let stored = (self.0.read)(id.0, id.1).await?;
                account.count = Some(Count::resume(id.0, id.1, stored, now));
            }
            if let Ok(mut count) = OwnedMutexGuard::try_map(account, |account| account.count.as_mut()) {
                count.enter(now);
                return Ok(count);
            }
        }
    }

    async fn newcomer(&self, id: Id, now: Timestamp) -> Result<Arc<Mutex<Account>>> {
        let mut room = self.0.room.clone().try_acquire_owned();
        if room.is_err() {
            self.make_room(now).await?;
            room = self.0.room.clone().try_acquire_owned();
        }
        let room =
            room.map_err(|_| Error::unavailable("Too many keys with quotas are in use right now.", 1))?;
        let new = || Arc::new(Mutex::new(Account { count: None, used_at: now, gone: false, _room: room }));
        Ok(self.0.accounts.entry(id).or_insert_with(new).clone())
    }

    /// A search in vain looks at every account: at most one a second, however many newcomers there are.
    async fn make_room(&self, now: Timestamp) -> Result<()> {
        let mut in_vain = self.0.in_vain.lock().await;
        let second = Some(now.as_millis().div_euclid(1000));
        if self.0.room.available_permits() == 0
            && *in_vain != second
            && self.give_back_some(IDLE_ENOUGH, now).await? == 0
        {
            *in_vain = second;
        }
        Ok(())
    }

    async fn write_lease(&self, mut count: HeldCount, lease: Lease) -> Result<HeldCount> {
        let shared = self.0.clone();
        let writing = async move {
            (shared.write)(vec![lease]).await?;
            count.confirm_lease(lease);
            Ok(count)
        };
        tokio::spawn(writing).await.map_err(Error::internal)?
    }

    /// Says how many accounts it were; none that is in use just now.
    async fn give_back_some(&self, idle: Duration, now: Timestamp) -> Result<usize> {
        let held = self.0.accounts.iter().filter_map(|entry| {
            let account = entry.value().clone().try_lock_owned().ok()?;
            account.is_idle(idle, now).then_some((*entry.key(), account))
        });
        let held = held.take(AT_ONCE).collect();
        self.settle(held).await
    }

    /// Gives back what these hold. Who comes for one of them meanwhile waits, and begins anew with what
    /// is in the file then.
    async fn settle(&self, mut held: Vec<(Id, AccountGuard)>) -> Result<usize> {
        let shared = self.0.clone();
        let settling = async move {
            let counts = held.iter_mut().filter_map(|(_, account)| account.count.as_mut());
            let leases: Vec<_> = counts.filter_map(Count::give_back).collect();
            if !leases.is_empty() {
                (shared.write)(leases).await?;
            }
            for (id, account) in &mut held {
                account.gone = true;
                shared.accounts.remove(id);
            }
            Ok(held.len())
        };
        tokio::spawn(settling).await.map_err(Error::internal)?
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
