//! The queue of reports of usage. They wait here, and not in the queue of the database's writer, so that changes, leases
//! and recorded reads don't wait behind them. The waiting reports of an organization are stored by one write at a time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::effective_limits::ReportedLimits;
use super::key_record::{KeyRecord, RecordStates};
use super::leases::Leases;
use super::limit_state::DecisionTime;
use super::report::{ReportCharges, ReportedCosts, ReportsFuture, charge};
use crate::clock::Clock;
use crate::domain::meter::{Cost, Meter};
use crate::domain::settings::Settings;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// Maximum number of waiting reports.
const MAX_WAITING: usize = 8192;
/// Maximum number of waiting reports of one organization: a quarter, which leaves room for the others.
const MAX_WAITING_PER_ORGANIZATION: usize = MAX_WAITING / 4;
/// Maximum number of writes of reports at a time. An organization has at most one.
const MAX_WRITES: usize = 4;
/// Maximum number of reports in one write. It bounds the time for which other changes wait for the write.
const MAX_REPORTS_PER_WRITE: usize = 64;
/// Maximum number of sums that one write adds to the usage: one for each key and meter.
const MAX_SUMS_PER_WRITE: usize = 64;

/// A report of what a request of a key turned out to cost.
pub(crate) struct UsageReport {
    /// `seq` of the key.
    pub(crate) key_seq: i64,
    /// `seq` of the key's organization; 0 for a platform key.
    pub(crate) organization_seq: i64,
    /// The key's organization; `None` for a platform key.
    pub(crate) organization_id: Option<String>,
    /// Each meter at most once.
    pub(crate) costs: Vec<Cost>,
    /// The caller's name of the report; a repeated report isn't counted twice.
    pub(crate) id: Option<String>,
    limits: ReportedLimits,
}

impl UsageReport {
    /// A report on this key, whose limits are these settings' or its own.
    pub(crate) fn new(
        record: &KeyRecord,
        states: RecordStates,
        settings: &Settings,
        costs: Vec<Cost>,
        id: Option<String>,
    ) -> Self {
        let credential = &record.credential;
        Self {
            key_seq: credential.seq,
            organization_seq: credential.organization.as_ref().map_or(0, |organization| organization.seq),
            organization_id: credential.key.organization_id.clone(),
            limits: ReportedLimits::new(settings, credential, states, &costs),
            costs,
            id,
        }
    }

    fn reported_costs(&self) -> ReportedCosts<'_> {
        let (key, organization) = self.limits.owned();
        ReportedCosts { key, organization, costs: &self.costs }
    }
}

/// Reports of the keys of one organization that are stored by one write.
pub(crate) struct ReportBatch {
    reports: Arc<[UsageReport]>,
    /// Which of the reports are stored, and the leases that are stored with them.
    pub(crate) charges: Arc<ReportCharges>,
    /// The time at which the usage counts.
    pub(crate) now: Timestamp,
    /// The time from which the ids are kept: the settled time, by which they are deleted.
    pub(crate) settled_time: Timestamp,
}

impl ReportBatch {
    /// The reports to store.
    pub(crate) fn reports(&self) -> impl Iterator<Item = &UsageReport> {
        self.charges.report_indexes().filter_map(|index| self.reports.get(index))
    }
}

/// Stores the [`reports`](ReportBatch::reports) of a batch, and returns the result of each.
type WriteBatch = dyn Fn(ReportBatch) -> ReportsFuture + Send + Sync;

/// The reports that wait to be stored.
#[derive(Clone)]
pub(crate) struct ReportQueue(Arc<Queue>);

struct Queue {
    clock: Clock,
    leases: Leases,
    write: Box<WriteBatch>,
    waiting: Mutex<Waiting>,
    write_permits: Semaphore,
    /// A task for each organization that has waiting reports.
    tasks: TaskTracker,
}

#[derive(Default)]
struct Waiting {
    /// By the organization's `seq`. An entry exists as long as the organization has a task.
    by_organization: HashMap<i64, VecDeque<WaitingReport>>,
    /// Number of all waiting reports.
    count: usize,
    is_closed: bool,
}

struct WaitingReport {
    report: UsageReport,
    answer: oneshot::Sender<Result<bool>>,
}

impl ReportQueue {
    /// `write` stores a batch, in one transaction.
    pub(crate) fn new(
        clock: Clock,
        leases: Leases,
        write: impl Fn(ReportBatch) -> ReportsFuture + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Queue {
            clock,
            leases,
            write: Box::new(write),
            waiting: Mutex::default(),
            write_permits: Semaphore::new(MAX_WRITES),
            tasks: TaskTracker::new(),
        }))
    }

    /// Stores a report, and charges the limits of its key and organization. Returns false, without charging anything, if
    /// the report was stored before. A report that waits is stored even if the returned future is dropped.
    ///
    /// # Errors
    /// `UNAVAILABLE` when too many reports are waiting, or the server shuts down; the errors of the write, and of the
    /// reads of leases. Then nothing is charged.
    pub(crate) async fn store(&self, report: UsageReport) -> Result<bool> {
        let organization = report.organization_seq;
        let (answer, answered) = oneshot::channel();
        {
            // Locked until the task is spawned, so that `close` waits for it.
            let mut waiting = self.0.waiting.lock();
            if waiting.push(organization, WaitingReport { report, answer })? {
                self.0.tasks.spawn(self.0.clone().run(organization));
            }
        }
        answered.await.map_err(|_| Error::internal("a waiting report was dropped"))?
    }

    /// Refuses further reports, and returns once those that wait are stored.
    pub(crate) async fn close(&self) {
        self.0.waiting.lock().is_closed = true;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Waiting {
    /// Adds a report. Returns true if its organization needs a task.
    fn push(&mut self, organization: i64, report: WaitingReport) -> Result<bool> {
        if self.is_closed {
            return Err(Error::unavailable("The server is shutting down. Try again.", 1));
        }
        let length = self.by_organization.get(&organization).map_or(0, VecDeque::len);
        if self.count >= MAX_WAITING || length >= MAX_WAITING_PER_ORGANIZATION {
            let message = "Too many usage reports are waiting to be stored. Try again in a second.";
            return Err(Error::unavailable(message, 1));
        }
        self.count += 1;
        let needs_task = !self.by_organization.contains_key(&organization);
        self.by_organization.entry(organization).or_default().push_back(report);
        Ok(needs_task)
    }

    /// Takes the reports of the next write; none if the organization has none, and then its task ends.
    fn take(&mut self, organization: i64) -> Vec<WaitingReport> {
        let mut taken = Vec::new();
        let mut sums: HashSet<(i64, Meter)> = HashSet::new();
        let Some(waiting) = self.by_organization.get_mut(&organization) else { return taken };
        while let Some(next) = waiting.front() {
            let report = &next.report;
            sums.extend(report.costs.iter().map(|cost| (report.key_seq, cost.meter)));
            let fits = sums.len() <= MAX_SUMS_PER_WRITE && taken.len() < MAX_REPORTS_PER_WRITE;
            if !fits && !taken.is_empty() {
                break;
            }
            taken.extend(waiting.pop_front());
        }
        self.count -= taken.len();
        if taken.is_empty() {
            self.by_organization.remove(&organization);
        }
        taken
    }
}

impl Queue {
    /// Stores the waiting reports of an organization until none is left.
    async fn run(self: Arc<Self>, organization: i64) {
        // The semaphore is never closed.
        while let Ok(_permit) = self.write_permits.acquire().await {
            let reports = self.waiting.lock().take(organization);
            if reports.is_empty() {
                return;
            }
            // After a panic, which the panic hook has logged, the next reports are stored nevertheless.
            drop(AssertUnwindSafe(self.store(reports)).catch_unwind().await);
        }
    }

    async fn store(&self, waiting: Vec<WaitingReport>) {
        let split = waiting.into_iter().map(|WaitingReport { report, answer }| (report, answer));
        let (reports, answers): (Vec<_>, Vec<_>) = split.unzip();
        let results = self.store_batch(reports.into()).await;
        for (answer, result) in answers.into_iter().zip(results) {
            // The report is stored even if its caller is gone.
            drop(answer.send(result));
        }
    }

    async fn store_batch(&self, reports: Arc<[UsageReport]>) -> Vec<Result<bool>> {
        let at = DecisionTime { now: self.clock.expiry_time(), monotonic: self.clock.monotonic() };
        let settled_time = self.clock.settled_time();
        let costs: Vec<_> = reports.iter().map(UsageReport::reported_costs).collect();
        let write = |charges| {
            (self.write)(ReportBatch { reports: reports.clone(), charges, now: at.now, settled_time })
        };
        charge(&self.leases, &costs, at, write).await
    }
}

#[cfg(test)]
#[path = "report_queue_tests.rs"]
mod tests;
