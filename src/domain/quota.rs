//! Counting of quotas: leased units, used units, and the start of a new period.
//!
//! Units are leased by a committed write before they are used. So the file never records less than was
//! used, and after a crash all leased units count as used.

use super::limits::{Period, Quota};
use super::time::Timestamp;

/// The stored part of a count: all units that were leased in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The `seq` of the key ([`Credential::seq`](super::api_key::Credential::seq)).
    pub(crate) key: i64,
    /// The kind of period.
    pub(crate) period: Period,
    /// When the period began.
    pub(crate) start: Timestamp,
    /// Units leased in total, including earlier leases of the period.
    pub units: u64,
}

/// The state of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// Units per period.
    pub(crate) limit: u64,
    /// Units left in the current period.
    pub remaining: u64,
    /// When the next period begins.
    pub resets_at: Timestamp,
}

/// The in-memory count of one key for one kind of period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// The lease known to be stored.
    lease: Lease,
    /// When the lease's period ends.
    period_end: Timestamp,
    /// Units used; never more than are leased.
    used_units: u64,
    /// True while a write has begun and isn't known to have succeeded: more may be stored than `lease`
    /// says.
    is_stored_lease_uncertain: bool,
}

impl Count {
    /// Resumes from the stored lease. Units that a crash left leased count as used.
    pub(crate) fn resume(key: i64, period: Period, stored: Option<Lease>, now: Timestamp) -> Self {
        let new = || Lease { key, period, start: period.bounds_at(now).0, units: 0 };
        let lease = stored.unwrap_or_else(new);
        let end = period.bounds_at(lease.start).1;
        let mut count =
            Self { lease, period_end: end, used_units: lease.units, is_stored_lease_uncertain: false };
        count.enter(now);
        count
    }

    /// Starts a new period if `now` is past the current one. If the clock steps back, the later period
    /// stays.
    pub(crate) fn enter(&mut self, now: Timestamp) {
        if now >= self.period_end {
            let (start, end) = self.lease.period.bounds_at(now);
            let lease = Lease { start, units: 0, ..self.lease };
            *self = Self { lease, period_end: end, used_units: 0, is_stored_lease_uncertain: false };
        }
    }

    /// True if `cost` units are left. Uses the limit of the current call, which may differ from the
    /// previous call's.
    pub(crate) fn admits(&self, quota: Quota, cost: u32) -> bool {
        u64::from(cost) <= quota.limit.saturating_sub(self.used_units)
    }

    /// The lease that must be stored before an admitted cost can be spent: a whole lease, or as much as
    /// the cost needs. `None` if enough units are leased already.
    pub(crate) fn lease(&mut self, quota: Quota, cost: u32) -> Option<Lease> {
        let cost = u64::from(cost);
        if cost <= self.lease.units - self.used_units {
            return None;
        }
        self.is_stored_lease_uncertain = true;
        let units = self.used_units.saturating_add(quota.lease().max(cost)).min(quota.limit);
        Some(Lease { units, ..self.lease })
    }

    /// Confirms that a lease is stored.
    pub(crate) fn confirm_lease(&mut self, lease: Lease) {
        self.lease = lease;
        self.is_stored_lease_uncertain = false;
    }

    /// Spends units that are admitted and leased.
    pub(crate) fn spend(&mut self, cost: u32) {
        self.used_units += u64::from(cost);
    }

    /// Returns all unused units: the lease that must be stored so that nothing is forfeited, or `None`
    /// if it is stored already. From now on no units are left to spend, because a failed write leaves
    /// the stored lease unknown.
    pub(crate) fn give_back(&mut self) -> Option<Lease> {
        let all_used = self.lease.units == self.used_units;
        let was_uncertain = self.is_stored_lease_uncertain;
        self.lease.units = self.used_units;
        self.is_stored_lease_uncertain |= !all_used;
        (!all_used || was_uncertain).then_some(self.lease)
    }

    pub(crate) fn status(&self, quota: Quota) -> QuotaStatus {
        let remaining = quota.limit.saturating_sub(self.used_units);
        QuotaStatus { limit: quota.limit, remaining, resets_at: self.period_end }
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
