//! The limits of one key or one organization, as they stand: token buckets and quota counts.
//!
//! The state belongs to the meter and the window or period of a limit: it stays when only the number of units
//! changes. The bucket of a removed limit is forgotten; the units of a removed quota stay used until its period
//! ends.

use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};

use super::bucket::{Bucket, BucketLimit};
use crate::domain::limits::{Limit, LimitSpan, Period};
use crate::domain::meter::{Cost, Meter, units_of};
use crate::domain::quota::{QuotaCount, QuotaId, QuotaLease};
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::window::WindowState;
use crate::error::Result;

/// Work on a quota in the database that several callers can wait for. It runs to its end also if no caller waits.
pub(super) type Job = Shared<BoxFuture<'static, Result<()>>>;

/// The time of a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecisionTime {
    /// The time by which periods are counted.
    pub(crate) now: Timestamp,
    /// The [monotonic](crate::clock::Clock::monotonic) time by which buckets are refilled.
    pub(crate) monotonic: Duration,
}

/// The token bucket of a rate limit.
struct Window {
    meter: Meter,
    seconds: u32,
    bucket: Bucket,
}

/// The count of a quota in one period.
pub(super) struct QuotaSlot {
    pub(super) id: QuotaId,
    /// `None` until the stored lease has been read.
    pub(super) count: Option<QuotaCount>,
    /// Work on this quota in the database that is under way: at most one read or write at a time.
    pub(super) job: Option<Job>,
    /// The highest cost of the verifications that wait for the job because they need a lease.
    pub(super) wanted_units: u32,
    /// Monotonic time of the last use.
    used_at: Duration,
}

impl QuotaSlot {
    /// Records the stored lease.
    pub(super) fn resume(&mut self, leased_units: Option<u64>) {
        self.count = Some(QuotaCount::resume(self.id, leased_units));
    }

    /// Records that a lease is stored.
    pub(super) fn confirm(&mut self, lease: QuotaLease) {
        self.wanted_units = 0;
        if let Some(count) = &mut self.count {
            count.confirm_lease(lease);
        }
    }

    /// Records that a lease could not be stored.
    pub(super) fn fail(&mut self) {
        if let Some(count) = &mut self.count {
            count.fail_lease_ahead();
        }
    }

    /// True if nothing is known of the quota, so that a new one would behave the same.
    fn is_unread(&self) -> bool {
        self.count.is_none() && self.job.is_none()
    }

    /// True if the quota was not used for `idle`, or its period isn't the current one.
    pub(super) fn is_idle(&self, idle: Duration, at: DecisionTime) -> bool {
        let is_past = self.count.as_ref().is_some_and(|count| !count.is_current(at.now));
        is_past || at.monotonic.saturating_sub(self.used_at) >= idle
    }
}

/// The state of the limits of one key or one organization.
#[derive(Default)]
pub(super) struct LimitState {
    windows: Vec<Window>,
    quotas: Vec<QuotaSlot>,
    /// The highest version of the lists of limits so far.
    version: u64,
}

/// What the limits of one key or organization say to a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Check {
    /// True if a quota doesn't admit the cost.
    pub(super) quota_refuses: bool,
    /// True if a rate limit doesn't admit the cost.
    pub(super) window_refuses: bool,
    /// A quota whose stored lease has to be read first.
    pub(super) unread: Option<QuotaId>,
    /// A quota that admits the cost, but has too few leased units in memory.
    pub(super) unleased: Option<(QuotaId, u64, u32)>,
}

/// How a limit stands.
#[derive(Clone, Copy)]
pub(super) enum Level {
    Bucket(Bucket),
    Quota(QuotaCount),
}

impl LimitState {
    /// Brings the state to this time and these limits: refills buckets, creates what is missing, and forgets the
    /// buckets of removed limits. A list with a lower version than an earlier one forgets none: it is from a decision
    /// that waited, and lacks limits that were added since.
    pub(super) fn update(&mut self, subject: Subject, limits: &[Limit], version: u64, at: DecisionTime) {
        let is_outdated = version < self.version;
        self.version = self.version.max(version);
        let mut windows = 0;
        for limit in limits {
            match limit.span {
                LimitSpan::Window(seconds) => {
                    windows += 1;
                    self.refill_window(limit, seconds, at.monotonic);
                }
                LimitSpan::Period(period) => self.touch_quota(subject, limit.meter, period, at),
            }
        }
        if self.windows.len() > windows && !is_outdated {
            let is_limited = |window: &Window| {
                let span = LimitSpan::Window(window.seconds);
                limits.iter().any(|limit| limit.meter == window.meter && limit.span == span)
            };
            self.windows.retain(is_limited);
        }
    }

    fn refill_window(&mut self, limit: &Limit, seconds: u32, now: Duration) {
        let bucket_limit = BucketLimit {
            tokens: u32::try_from(limit.limit).unwrap_or(u32::MAX),
            window: Duration::from_secs(seconds.into()),
        };
        match self.window(limit.meter, seconds) {
            Some(window) => window.bucket.refill(bucket_limit, now),
            None => {
                let bucket = Bucket::new_full(bucket_limit, now);
                self.add_window(Window { meter: limit.meter, seconds, bucket });
            }
        }
    }

    /// Adds a bucket. Most lists have one rate limit, and there may be a million states, so no memory is reserved for more.
    fn add_window(&mut self, window: Window) {
        self.windows.reserve_exact(1);
        self.windows.push(window);
    }

    fn touch_quota(&mut self, subject: Subject, meter: Meter, period: Period, at: DecisionTime) {
        match self.quota(meter, period, at.now) {
            Some(slot) => slot.used_at = at.monotonic,
            None => {
                // Those of earlier periods that were never read: no release removes them.
                self.quotas
                    .retain(|slot| !slot.is_unread() || (slot.id.meter, slot.id.period) != (meter, period));
                let (start, _) = period.bounds_at(at.now);
                let id = QuotaId { subject, meter, period, start };
                let used_at = at.monotonic;
                self.quotas.push(QuotaSlot { id, count: None, job: None, wanted_units: 0, used_at });
            }
        }
    }

    fn window(&mut self, meter: Meter, seconds: u32) -> Option<&mut Window> {
        self.windows.iter_mut().find(|window| window.seconds == seconds && window.meter == meter)
    }

    /// The quota of the period that contains `now`.
    fn quota(&mut self, meter: Meter, period: Period, now: Timestamp) -> Option<&mut QuotaSlot> {
        let is_current = |slot: &&mut QuotaSlot| {
            let id = slot.id;
            id.meter == meter
                && id.period == period
                && slot
                    .count
                    .map_or_else(|| id.start == period.bounds_at(now).0, |count| count.is_current(now))
        };
        self.quotas.iter_mut().find(is_current)
    }

    /// The quota with this id.
    pub(super) fn slot(&mut self, id: QuotaId) -> Option<&mut QuotaSlot> {
        self.quotas.iter_mut().find(|slot| slot.id == id)
    }

    /// The quotas of all periods in memory.
    pub(super) fn quotas_mut(&mut self) -> &mut Vec<QuotaSlot> {
        &mut self.quotas
    }

    /// Asks all limits on the meters of these costs, after [`update`](Self::update). Spends nothing.
    pub(super) fn check(&mut self, limits: &[Limit], costs: &[Cost], at: DecisionTime) -> Check {
        let mut check = Check::default();
        for limit in limits {
            let cost = units_of(costs, limit.meter);
            match limit.span {
                LimitSpan::Window(seconds) => {
                    let window = self.window(limit.meter, seconds);
                    let refuses = |cost| window.is_some_and(|window| !window.bucket.admits(cost));
                    check.window_refuses |= cost.is_some_and(refuses);
                }
                LimitSpan::Period(period) => {
                    let Some(slot) = self.quota(limit.meter, period, at.now) else { continue };
                    match (&slot.count, cost) {
                        (None, _) => check.unread = Some(slot.id),
                        (Some(_), None) => {}
                        (Some(count), Some(cost)) if !count.admits(limit.limit, cost) => {
                            check.quota_refuses = true;
                        }
                        (Some(count), Some(cost)) if !count.has_leased(cost) => {
                            check.unleased = Some((slot.id, limit.limit, cost));
                        }
                        _ => {}
                    }
                }
            }
        }
        check
    }

    /// Charges costs that a [`check`](Self::check) under the same lock admitted. Returns the quotas for which it is time
    /// to lease units ahead of need; usually none.
    pub(super) fn charge(&mut self, limits: &[Limit], costs: &[Cost], at: DecisionTime) -> Vec<DueRenewal> {
        let mut renewals = Vec::new();
        for limit in limits {
            let Some(cost) = units_of(costs, limit.meter) else { continue };
            match limit.span {
                LimitSpan::Window(seconds) => {
                    if let Some(window) = self.window(limit.meter, seconds) {
                        window.bucket.charge(cost);
                    }
                }
                LimitSpan::Period(period) => {
                    let Some(slot) = self.quota(limit.meter, period, at.now) else { continue };
                    let Some(count) = &mut slot.count else { continue };
                    count.spend(cost);
                    if slot.job.is_none() && count.is_renewal_due(limit.limit, cost) {
                        renewals.push(DueRenewal { id: slot.id, limit: limit.limit, cost });
                    }
                }
            }
        }
        renewals
    }

    /// The quotas that these reported costs charge, each with its limit and its cost. Creates those that are missing, but
    /// none on other meters: nothing would release them.
    pub(super) fn reported_quotas<'a>(
        &'a mut self,
        subject: Subject,
        limits: &'a [Limit],
        costs: &'a [Cost],
        at: DecisionTime,
    ) -> impl Iterator<Item = (&'a mut QuotaSlot, u64, u32)> {
        for limit in limits {
            if let LimitSpan::Period(period) = limit.span
                && units_of(costs, limit.meter).is_some()
            {
                self.touch_quota(subject, limit.meter, period, at);
            }
        }
        self.quotas.iter_mut().filter_map(move |slot| {
            let limit = limits.iter().find(|limit| {
                limit.span == LimitSpan::Period(slot.id.period) && limit.meter == slot.id.meter
            })?;
            let is_current = slot.id.period.bounds_at(at.now).0 == slot.id.start;
            Some((slot, limit.limit, units_of(costs, limit.meter)?)).filter(|_| is_current)
        })
    }

    /// Charges reported costs to the rate limits on their meters.
    pub(super) fn charge_windows(&mut self, limits: &[Limit], costs: &[Cost], monotonic: Duration) {
        for limit in limits {
            let LimitSpan::Window(seconds) = limit.span else { continue };
            let Some(cost) = units_of(costs, limit.meter) else { continue };
            self.refill_window(limit, seconds, monotonic);
            if let Some(window) = self.window(limit.meter, seconds) {
                window.bucket.charge(cost);
            }
        }
    }

    /// How a limit stands; `None` if the stored lease of a quota isn't read yet.
    pub(super) fn level(&mut self, limit: &Limit, at: DecisionTime) -> Option<Level> {
        match limit.span {
            LimitSpan::Window(seconds) => Some(Level::Bucket(self.window(limit.meter, seconds)?.bucket)),
            LimitSpan::Period(period) => Some(Level::Quota(self.quota(limit.meter, period, at.now)?.count?)),
        }
    }

    /// True if a rate limit has a bucket.
    pub(super) fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    /// The rate limits that aren't full at this time, to be stored.
    pub(super) fn windows_to_store(&self, now: Duration) -> impl Iterator<Item = WindowState> {
        self.windows
            .iter()
            .filter_map(move |Window { meter, seconds, bucket }| bucket.to_stored(*meter, *seconds, now))
    }

    /// Adds the bucket of a rate limit that has none yet.
    pub(super) fn resume_window(&mut self, meter: Meter, seconds: u32, bucket: Bucket) {
        if self.window(meter, seconds).is_none() {
            self.add_window(Window { meter, seconds, bucket });
        }
    }

    /// True if a new state would behave the same.
    pub(super) fn is_initial(&self, monotonic: Duration) -> bool {
        self.quotas.iter().all(QuotaSlot::is_unread)
            && self.windows.iter().all(|window| window.bucket.is_full(monotonic))
    }
}

/// A quota for which units are to be leased ahead of need.
#[derive(Clone, Copy, Debug)]
pub(super) struct DueRenewal {
    pub(super) id: QuotaId,
    pub(super) limit: u64,
    pub(super) cost: u32,
}
