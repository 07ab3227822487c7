//! Quotas: units are leased durably and spent from memory, never more than the quota allows.
//!
//! Each read and write of a quota's lease is a [`Job`] in a task of its own, which applies its result to the state
//! of the key or organization, also when its callers are gone. A decision that needs the result drops its locks, waits
//! for the job, and decides anew. Usually a lease is *renewed*: the job begins while units are left, and nobody waits.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::limit_state::{DecisionTime, DueRenewal, Job, QuotaSlot};
use super::subject_state::{Inner, SubjectState};
use crate::domain::quota::{QuotaId, QuotaLease};
use crate::domain::subject::Subject;
use crate::error::{Code, Error, Result};

/// Maximum number of keys and organizations whose units are released by one write. The maximum lets other writes run
/// between two releases, and limits the time for which decisions wait.
const MAX_STATES_PER_RELEASE: usize = 1000;

/// The future of a read of the units that are stored as leased; `None` if none were ever leased.
pub(crate) type ReadFuture = Pin<Box<dyn Future<Output = Result<Option<u64>>> + Send>>;

/// The future of a write of leases. It succeeds only after the commit.
pub(crate) type WriteFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Reads and writes the leases of quotas.
#[derive(Clone)]
pub struct Leases(Arc<Store>);

struct Store {
    read: Box<dyn Fn(QuotaId) -> ReadFuture + Send + Sync>,
    write: Box<dyn Fn(Vec<QuotaLease>) -> WriteFuture + Send + Sync>,
    /// The keys and organizations that have quotas in memory.
    in_use: DashMap<Subject, Arc<SubjectState>, RandomState>,
    closed: AtomicBool,
}

impl Leases {
    /// `read` and `write` access the stored leases, which no other process may change; `write` must store either all
    /// of its leases or none.
    pub(crate) fn new(
        read: impl Fn(QuotaId) -> ReadFuture + Send + Sync + 'static,
        write: impl Fn(Vec<QuotaLease>) -> WriteFuture + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Store {
            read: Box::new(read),
            write: Box::new(write),
            in_use: DashMap::with_hasher(RandomState::default()),
            closed: AtomicBool::new(false),
        }))
    }

    /// Begins to read the stored lease of a quota, or joins the work on it that is under way.
    ///
    /// # Errors
    /// `UNAVAILABLE` while the server shuts down.
    pub(super) fn read(&self, state: &Arc<SubjectState>, inner: &mut Inner, id: QuotaId) -> Result<Job> {
        self.0.in_use.entry(id.subject).or_insert_with(|| state.clone());
        self.ensure_open()?;
        let Some(slot) = inner.limits.slot(id) else { return Err(Error::internal("a quota without a slot")) };
        if let Some(job) = &slot.job {
            return Ok(job.clone());
        }
        let reading = (self.0.read)(id);
        Ok(begin(state, slot, reading, |slot, leased_units| slot.resume(leased_units)))
    }

    /// Begins to lease units for a cost that the quota admits, or joins the work on it that is under way.
    ///
    /// # Errors
    /// `UNAVAILABLE` while the server shuts down.
    pub(super) fn lease(
        &self,
        state: &Arc<SubjectState>,
        inner: &mut Inner,
        (id, limit, cost): (QuotaId, u64, u32),
    ) -> Result<Job> {
        self.ensure_open()?;
        let Some(slot) = inner.limits.slot(id) else { return Err(Error::internal("a quota without a slot")) };
        if let Some(job) = &slot.job {
            // Reports in quick succession would otherwise leave no time for a lease.
            slot.wanted_units = slot.wanted_units.max(cost);
            return Ok(job.clone());
        }
        let lease = slot.count.as_mut().and_then(|count| count.lease(limit, cost));
        let Some(lease) = lease else { return Err(Error::internal("a lease that isn't needed")) };
        Ok(self.begin_write(state, slot, lease))
    }

    /// Begins to lease units ahead of need. A failure isn't reported: the units can still be leased when they are
    /// needed.
    pub(super) fn renew(&self, state: &Arc<SubjectState>, inner: &mut Inner, due: DueRenewal) {
        let Some(slot) = inner.limits.slot(due.id) else { return };
        let lease = slot.count.as_mut().and_then(|count| count.lease_ahead(due.limit, due.cost));
        if let Some(lease) = lease.filter(|_| !self.0.closed.load(Ordering::SeqCst)) {
            drop(self.begin_write(state, slot, lease));
        }
    }

    fn begin_write(&self, state: &Arc<SubjectState>, slot: &mut QuotaSlot, lease: QuotaLease) -> Job {
        let writing = (self.0.write)(vec![lease]);
        let writing = async move { writing.await.map_err(as_unavailable) };
        begin(state, slot, writing, move |slot, ()| slot.confirm(lease))
    }

    fn ensure_open(&self) -> Result<()> {
        match self.0.closed.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("The server is shutting down. Try again.", 1)),
            false => Ok(()),
        }
    }

    /// Releases the unused units of quotas that were not used for `idle`, or whose period has ended, and forgets
    /// their counts.
    ///
    /// # Errors
    /// The errors of the write. Units that could not be released are released by the next call that succeeds.
    pub(crate) async fn release_idle(&self, idle: Duration, at: DecisionTime) -> Result<()> {
        self.release(|slot| slot.is_idle(idle, at)).await
    }

    /// Refuses further leases, waits for those under way, and releases all unused units.
    ///
    /// # Errors
    /// The errors of the write.
    pub(crate) async fn close(&self) -> Result<()> {
        self.0.closed.store(true, Ordering::SeqCst);
        for state in self.states() {
            let jobs: Vec<_> =
                state.lock().limits.quotas_mut().iter().filter_map(|slot| slot.job.clone()).collect();
            for job in jobs {
                // Whether it failed or not, the unused units are returned next.
                let _ = job.await;
            }
        }
        self.release(|_| true).await
    }

    async fn release(&self, is_due: impl Fn(&QuotaSlot) -> bool) -> Result<()> {
        for states in self.states().chunks(MAX_STATES_PER_RELEASE) {
            let mut release = Release { store: self.0.clone(), leases: Vec::new(), slots: Vec::new() };
            let (done, released) = oneshot::channel();
            let job: Job = released.map(|result| result.unwrap_or(Ok(()))).boxed().shared();
            for state in states {
                let mut inner = state.lock();
                for slot in inner.limits.quotas_mut() {
                    if slot.job.is_none() && is_due(slot) {
                        release
                            .leases
                            .extend(slot.count.as_mut().and_then(|count| count.return_unused_units()));
                        release.slots.push((state.clone(), slot.id));
                        slot.job = Some(job.clone());
                    }
                }
            }
            // In a task of its own, so that the quotas are usable again also if this future is dropped.
            tokio::spawn(async move { drop(done.send(release.run().await)) });
            job.await?;
        }
        Ok(())
    }

    /// Number of leased units that were neither used nor returned. They are lost if the process ends now.
    pub(crate) fn forfeitable_units(&self) -> u64 {
        let units = |state: &Arc<SubjectState>| -> u64 {
            let mut inner = state.lock();
            let counts = inner.limits.quotas_mut().iter().filter_map(|slot| slot.count.as_ref());
            counts.map(|count| count.forfeitable_units()).sum()
        };
        self.states().iter().map(units).sum()
    }

    /// True if a lease is being read or written.
    pub fn is_busy(&self) -> bool {
        self.states()
            .iter()
            .any(|state| state.lock().limits.quotas_mut().iter().any(|slot| slot.job.is_some()))
    }

    /// Number of keys and organizations that have quotas in memory.
    pub(crate) fn len(&self) -> usize {
        self.0.in_use.len()
    }

    /// True if no key and no organization has quotas in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys and organizations that have quotas in memory. Collected first, because no state may be locked while the
    /// map is.
    fn states(&self) -> Vec<Arc<SubjectState>> {
        self.0.in_use.iter().map(|entry| entry.value().clone()).collect()
    }
}

/// Quotas whose unused units are returned by one write.
struct Release {
    store: Arc<Store>,
    leases: Vec<QuotaLease>,
    slots: Vec<(Arc<SubjectState>, QuotaId)>,
}

impl Release {
    async fn run(self) -> Result<()> {
        let written = match self.leases.is_empty() {
            true => Ok(()),
            false => {
                let writing = AssertUnwindSafe((self.store.write)(self.leases)).catch_unwind().await;
                writing.unwrap_or_else(|_| Err(Error::internal("a write of leases panicked")))
            }
        };
        for (state, id) in self.slots {
            let mut inner = state.lock();
            let slots = inner.limits.quotas_mut();
            match written {
                Ok(()) => slots.retain(|slot| slot.id != id),
                Err(_) => slots.iter_mut().filter(|slot| slot.id == id).for_each(|slot| slot.job = None),
            }
            // Under the state's lock, so that a new quota isn't left out.
            if slots.is_empty() {
                self.store.in_use.remove(&id.subject);
            }
        }
        written
    }
}

/// Runs work on a quota in a task of its own. `apply` changes the quota if the work succeeds.
fn begin<T: Send + 'static>(
    state: &Arc<SubjectState>,
    slot: &mut QuotaSlot,
    work: impl Future<Output = Result<T>> + Send + 'static,
    apply: impl FnOnce(&mut QuotaSlot, T) + Send + 'static,
) -> Job {
    let state = state.clone();
    let id = slot.id;
    let task = tokio::spawn(async move {
        let result = AssertUnwindSafe(work).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(Error::internal("work on a quota panicked")));
        let mut inner = state.lock();
        let Some(slot) = inner.limits.slot(id) else { return Ok(()) };
        slot.job = None;
        match result {
            Ok(value) => apply(slot, value),
            Err(error) => {
                slot.fail();
                return Err(error);
            }
        }
        Ok(())
    });
    let job: Job =
        task.map(|ended| ended.unwrap_or_else(|error| Err(Error::internal(error)))).boxed().shared();
    slot.job = Some(job.clone());
    job
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
#[path = "leases_tests.rs"]
mod tests;
