//! Costs that are reported after a request: what it turned out to use. They are always charged, below zero where need
//! be: the limits then admit nothing until the debt has flowed back or the period ends.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::decision::OwnedLimits;
use super::leases::Leases;
use super::limit_state::{DecisionTime, Job};
use super::subject_state::{Inner, SubjectState};
use crate::domain::limits::Limit;
use crate::domain::meter::Cost;
use crate::domain::quota::{QuotaId, QuotaLease};
use crate::error::{Error, Result};

/// The future of the write of a report. `Ok(false)` if the report was stored before.
pub(crate) type ReportFuture = Pin<Box<dyn Future<Output = Result<bool>> + Send>>;

/// The limits of a key and its organization, and the costs to charge.
#[derive(Clone, Copy)]
pub(super) struct ReportedCosts<'a> {
    pub(super) key: OwnedLimits<'a>,
    pub(super) organization: Option<OwnedLimits<'a>>,
    /// Each meter at most once.
    pub(super) costs: &'a [Cost],
    pub(super) at: DecisionTime,
}

/// Charges reported costs. `write` stores the report, and with it the leases that the charged quotas need. Returns
/// false, without charging anything, if the report was stored before. Runs to its end also if this future is dropped.
///
/// # Errors
/// Those of `write` and of the reads of leases; then nothing is charged.
pub(super) async fn charge(
    leases: &Leases,
    report: ReportedCosts<'_>,
    write: impl FnOnce(Vec<QuotaLease>) -> ReportFuture,
) -> Result<bool> {
    loop {
        let step = {
            let mut key = report.key.state.lock();
            let mut organization = report.organization.map(|owned| (owned, owned.state.lock()));
            let mut locked: Vec<(OwnedLimits<'_>, &mut Inner)> = vec![(report.key, &mut key)];
            locked.extend(organization.as_mut().map(|(owned, guard)| (*owned, &mut **guard)));
            match find_job(leases, &mut locked, &report)? {
                Some(job) => Step::Wait(job),
                None => Step::Store(Charged::begin(&mut locked, &report)),
            }
        };
        match step {
            Step::Wait(job) => job.await?,
            Step::Store(charged) => {
                let writing = write(charged.leases.iter().map(|(_, lease)| *lease).collect());
                return tokio::spawn(charged.store(writing)).await.map_err(Error::internal)?;
            }
        }
    }
}

/// What follows from the state of the charged quotas.
enum Step {
    Wait(Job),
    Store(Charged),
}

/// A job that has to end before the costs can be charged: the read of a lease, or any other work on a charged quota.
fn find_job(
    leases: &Leases,
    locked: &mut [(OwnedLimits<'_>, &mut Inner)],
    report: &ReportedCosts<'_>,
) -> Result<Option<Job>> {
    for (owned, inner) in locked {
        owned.state.update(inner, owned.limits, report.at);
        let mut unread = None;
        for (slot, ..) in inner.limits.charged_quotas(owned.limits, report.costs, report.at) {
            match &slot.job {
                Some(job) => return Ok(Some(job.clone())),
                None if slot.count.is_none() => unread = Some(slot.id),
                None => {}
            }
        }
        if let Some(id) = unread {
            return leases.read(owned.state, inner, id).map(Some);
        }
    }
    Ok(None)
}

/// Quotas that are charged while the report is being stored.
struct Charged {
    /// The quotas with their costs.
    quotas: Vec<(Arc<SubjectState>, QuotaId, u32)>,
    /// The leases to store.
    leases: Vec<(Arc<SubjectState>, QuotaLease)>,
    /// The limits with windows, which are charged once the report is stored.
    windows: Vec<(Arc<SubjectState>, Vec<Limit>)>,
    costs: Vec<Cost>,
    at: DecisionTime,
    /// Ends the jobs of the quotas whose leases are stored.
    done: oneshot::Sender<Result<()>>,
}

impl Charged {
    fn begin(locked: &mut [(OwnedLimits<'_>, &mut Inner)], report: &ReportedCosts<'_>) -> Self {
        let (done, stored) = oneshot::channel();
        let job: Job = stored.map(|result| result.unwrap_or(Ok(()))).boxed().shared();
        let mut charged = Self {
            quotas: Vec::new(),
            leases: Vec::new(),
            windows: Vec::new(),
            costs: report.costs.to_vec(),
            at: report.at,
            done,
        };
        for (owned, inner) in locked {
            for (slot, limit, cost) in inner.limits.charged_quotas(owned.limits, report.costs, report.at) {
                let Some(count) = &mut slot.count else { continue };
                charged.quotas.push((owned.state.clone(), slot.id, cost));
                if let Some(lease) = count.charge_reported(limit, cost) {
                    charged.leases.push((owned.state.clone(), lease));
                    slot.job = Some(job.clone());
                }
            }
            charged.windows.push((owned.state.clone(), owned.limits.to_vec()));
        }
        charged
    }

    async fn store(self, writing: ReportFuture) -> Result<bool> {
        let written = AssertUnwindSafe(writing).catch_unwind().await;
        let written = written.unwrap_or_else(|_| Err(Error::internal("the write of a report panicked")));
        let is_counted = matches!(written, Ok(true));
        for (state, id, cost) in &self.quotas {
            let mut inner = state.lock();
            let Some(count) = inner.limits.slot(*id).and_then(|slot| slot.count.as_mut()) else { continue };
            if !is_counted {
                count.refund(*cost);
            }
        }
        for (state, lease) in &self.leases {
            let mut inner = state.lock();
            let Some(slot) = inner.limits.slot(lease.id) else { continue };
            slot.job = None;
            if is_counted {
                slot.confirm(*lease);
            }
        }
        if is_counted {
            for (state, limits) in &self.windows {
                state.lock().limits.charge_windows(limits, &self.costs, self.at.monotonic);
            }
        }
        // Whoever waits for the quotas decides anew, whether the report was stored or not.
        drop(self.done.send(Ok(())));
        written
    }
}
