//! Costs that are reported after a request: what it turned out to use. They are always charged, even beyond the limit:
//! the limits then admit nothing until the debt is refilled or the period ends.
//!
//! The reports of a batch are stored by one write, and charged once they are stored: a report that isn't counted never
//! refuses a verification. The same write adds the counted costs to the stored leases of their quotas, so that the
//! database never states fewer units than are used. Until the write has ended, it is the [`Job`] of these quotas, and no
//! other write of their leases runs. Verifications spend the units that are leased already.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::decision::OwnedLimits;
use super::leases::Leases;
use super::limit_state::{DecisionTime, Job};
use super::subject_state::SubjectState;
use crate::domain::meter::Cost;
use crate::domain::quota::{QuotaId, QuotaLease};
use crate::error::{Code, Error, Result};

/// The future of the write of a batch. It succeeds only after the commit, with the result of each report that the
/// [`ReportCharges`] contain: false if the report was stored before.
pub(crate) type ReportsFuture = Pin<Box<dyn Future<Output = Result<Vec<Result<bool>>>> + Send>>;

/// The limits of a key and its organization, and the costs to charge.
#[derive(Clone, Copy)]
pub(super) struct ReportedCosts<'a> {
    pub(super) key: OwnedLimits<'a>,
    pub(super) organization: Option<OwnedLimits<'a>>,
    /// Each meter at most once.
    pub(super) costs: &'a [Cost],
}

impl<'a> ReportedCosts<'a> {
    fn limits(&self) -> impl Iterator<Item = OwnedLimits<'a>> + use<'a> {
        std::iter::once(self.key).chain(self.organization)
    }
}

/// The reports of a batch that can be stored, and the quotas that they charge.
#[derive(Default)]
pub(crate) struct ReportCharges {
    reports: Vec<ReportCharge>,
    /// The leases of the quotas, without the reported costs.
    leases: Vec<QuotaLease>,
}

/// The charges of one report.
struct ReportCharge {
    /// Index of the report in its batch.
    index: usize,
    /// Indexes of the charged leases, each with its units.
    units: Vec<(usize, u32)>,
}

impl ReportCharges {
    /// Indexes in the batch of the reports to store.
    pub(crate) fn report_indexes(&self) -> impl Iterator<Item = usize> {
        self.reports.iter().map(|report| report.index)
    }

    /// The leases to store together with the reports that are `counted`, in the order of
    /// [`report_indexes`](Self::report_indexes).
    pub(crate) fn leases(&self, counted: &[bool]) -> Vec<QuotaLease> {
        let mut leases = self.leases.clone();
        for (lease, added) in leases.iter_mut().zip(self.charged_units(counted)) {
            lease.units = lease.units.saturating_add(added);
        }
        leases
    }

    /// The units that the counted reports charge to each lease.
    fn charged_units(&self, counted: &[bool]) -> Vec<u64> {
        let mut sums = vec![0_u64; self.leases.len()];
        for (report, _) in self.reports.iter().zip(counted).filter(|(_, is_counted)| **is_counted) {
            for (lease, units) in &report.units {
                sums[*lease] = sums[*lease].saturating_add((*units).into());
            }
        }
        sums
    }
}

/// Stores the reports of a batch with `write`, and charges those that were counted. Returns the result of each report:
/// false, without charging anything, if it was stored before. No other batch may charge the same quotas meanwhile.
///
/// # Errors
/// A report gets the error of `write`, its own or that of the batch, or the error of the read of a lease; then nothing is
/// charged for it.
pub(super) async fn charge(
    leases: &Leases,
    reports: &[ReportedCosts<'_>],
    at: DecisionTime,
    write: impl FnOnce(Arc<ReportCharges>) -> ReportsFuture,
) -> Vec<Result<bool>> {
    let mut claims = Claims::new(at);
    let mut results = Vec::with_capacity(reports.len());
    for (index, report) in reports.iter().enumerate() {
        results.push(claims.add(leases, index, report).await.map(|()| false));
    }
    let charges = Arc::new(std::mem::take(&mut claims.charges));
    let written = match charges.reports.is_empty() {
        true => Ok(Vec::new()),
        false => {
            let written = AssertUnwindSafe(write(charges.clone())).catch_unwind().await;
            written.unwrap_or_else(|_| Err(Error::internal("the write of reports panicked")))
        }
    };
    claims.end(&charges, &written);
    for (position, index) in charges.report_indexes().enumerate() {
        results[index] = match &written {
            Err(error) => Err(error.clone()),
            Ok(stored) => stored
                .get(position)
                .cloned()
                .unwrap_or_else(|| Err(Error::internal("the write of reports has too few results"))),
        };
        if is_counted(&results[index]) {
            for owned in reports[index].limits() {
                owned.state.charge_windows(owned.limits, reports[index].costs, at.monotonic);
            }
        }
    }
    results
}

fn is_counted(result: &Result<bool>) -> bool {
    matches!(result, Ok(true))
}

/// The quotas whose job is the write of a batch.
struct Claims {
    at: DecisionTime,
    /// The quota of each lease in `charges`.
    quotas: Vec<(Arc<SubjectState>, QuotaId)>,
    /// Indexes of the quotas.
    indexes: HashMap<QuotaId, usize>,
    charges: ReportCharges,
    job: Job,
    /// Ends the job when it is dropped, whether the reports were stored or not: whoever waits for a quota decides anew.
    _done: oneshot::Sender<()>,
}

/// What follows from the quotas of a report.
enum Step {
    Wait(Job),
    Claimed(Vec<(usize, u32)>),
}

impl Claims {
    fn new(at: DecisionTime) -> Self {
        let (done, ended) = oneshot::channel();
        Self {
            at,
            quotas: Vec::new(),
            indexes: HashMap::new(),
            charges: ReportCharges::default(),
            job: ended.map(|_| Ok(())).boxed().shared(),
            _done: done,
        }
    }

    /// Adds a report. Reads the leases that aren't in memory, and waits until nothing else is under way on its quotas.
    async fn add(&mut self, leases: &Leases, index: usize, report: &ReportedCosts<'_>) -> Result<()> {
        let mut units = Vec::new();
        for owned in report.limits() {
            let claimed = loop {
                match self.claim(leases, owned, report.costs)? {
                    Step::Wait(job) => job.await?,
                    Step::Claimed(claimed) => break claimed,
                }
            };
            units.extend(claimed);
        }
        self.charges.reports.push(ReportCharge { index, units });
        Ok(())
    }

    fn claim(&mut self, leases: &Leases, owned: OwnedLimits<'_>, costs: &[Cost]) -> Result<Step> {
        let OwnedLimits { limits, state, .. } = owned;
        let mut inner = state.lock();
        let mut claimed = Vec::new();
        let mut waiting = None;
        let mut unread = None;
        for (slot, limit, units) in inner.limits.reported_quotas(state.subject, limits, costs, self.at) {
            if let Some(index) = self.indexes.get(&slot.id) {
                claimed.push((*index, units));
            } else if let Some(job) = &slot.job {
                waiting = Some(job.clone());
            } else if let Some(count) = &slot.count {
                let index = self.quotas.len();
                let wanted = std::mem::take(&mut slot.wanted_units);
                self.charges.leases.push(count.lease_with_reports(limit, wanted));
                self.quotas.push((state.clone(), slot.id));
                self.indexes.insert(slot.id, index);
                slot.job = Some(self.job.clone());
                claimed.push((index, units));
            } else {
                unread = Some(slot.id);
            }
        }
        if let Some(id) = unread {
            waiting = Some(leases.read(state, &mut inner, id)?);
        }
        Ok(waiting.map_or(Step::Claimed(claimed), Step::Wait))
    }

    /// Charges the quotas for the reports that were counted. Ends the job.
    fn end(mut self, charges: &ReportCharges, written: &Result<Vec<Result<bool>>>) {
        let counted: Vec<bool> = match written {
            Ok(stored) => stored.iter().map(is_counted).collect(),
            // The leases that the database may contain nevertheless.
            Err(_) => vec![true; charges.reports.len()],
        };
        let units = charges.charged_units(&counted);
        let leases = charges.leases(&counted);
        for (((state, id), lease), units) in self.quotas.drain(..).zip(leases).zip(units) {
            let mut inner = state.lock();
            let Some(slot) = inner.limits.slot(id) else { continue };
            slot.job = None;
            let Some(count) = &mut slot.count else { continue };
            match written {
                Ok(_) if counted.contains(&true) => count.confirm_reports(lease, units),
                Ok(_) => {}
                // Read anew: if the reports are stored, they don't count again when they are repeated.
                Err(error) if error.code == Code::OutcomeUnknown => slot.count = None,
                Err(_) => count.fail_reports(lease.units),
            }
        }
    }
}

impl Drop for Claims {
    /// Only after a panic, or at the end of the process, are there quotas left.
    fn drop(&mut self) {
        for (state, id) in &self.quotas {
            if let Some(slot) = state.lock().limits.slot(*id) {
                slot.job = None;
            }
        }
    }
}
