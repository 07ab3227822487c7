//! Counts the use of quotas: leased units and used units of a period.
//!
//! Units are leased by a committed write to the database before they are used. Therefore the database never
//! records fewer units than were used, and after a crash all leased units count as used.

use super::limits::{Period, Quota};
use super::time::Timestamp;

/// The part of a quota's count that is stored in the database: the units that a key leased in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLease {
    /// The `seq` of the key ([`Credential::seq`](super::api_key::Credential::seq)).
    pub(crate) key: i64,
    /// Whether the quota counts per hour, day or month.
    pub(crate) period: Period,
    /// When the period of this lease began.
    pub(crate) start: Timestamp,
    /// Total number of units leased in the period, including earlier leases.
    pub units: u64,
}

/// The state of a key's quota in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// Quota units per period.
    pub(crate) limit: u64,
    /// Quota units left in the period.
    pub remaining: u64,
    /// When the next period begins and the full quota is available again.
    pub resets_at: Timestamp,
}

/// The in-memory count of one key's quota in one period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaCount {
    /// The last lease that is known to be stored in the database.
    lease: QuotaLease,
    /// When the lease's period ends.
    period_end: Timestamp,
    /// Quota units used in the period; never more than are leased.
    used_units: u64,
    /// True from the start of a write until the write is known to have succeeded. Meanwhile the database may
    /// contain more leased units than `lease`.
    is_stored_lease_uncertain: bool,
    /// The largest number of leased units that the database may contain.
    max_stored_units: u64,
    /// Largest number of unused leased units at which a lease is stored ahead of need. Lowered by each failure, so
    /// that a failing write isn't repeated with each verification.
    max_unused_for_renewal: u64,
}

impl QuotaCount {
    /// Creates the count of the period that contains `now`, from the units of that period that the database
    /// states as leased. All of them count as used, because a crash may have prevented the return of unused
    /// units.
    pub(crate) fn resume(key: i64, period: Period, leased_units: Option<u64>, now: Timestamp) -> Self {
        let (start, period_end) = period.bounds_at(now);
        let units = leased_units.unwrap_or(0);
        let lease = QuotaLease { key, period, start, units };
        Self {
            lease,
            period_end,
            used_units: units,
            is_stored_lease_uncertain: false,
            max_stored_units: units,
            max_unused_for_renewal: u64::MAX,
        }
    }

    /// True if the period of this count contains `now`.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        (self.lease.start..self.period_end).contains(&now)
    }

    /// True if at least `cost` units of the quota are left. The quota is a parameter because its limit may
    /// have changed since the last call.
    pub(crate) fn admits(&self, quota: Quota, cost: u32) -> bool {
        u64::from(cost) <= quota.limit.saturating_sub(self.used_units)
    }

    fn unused_units(&self) -> u64 {
        self.lease.units - self.used_units
    }

    /// True if enough units for this cost are leased.
    pub(crate) fn has_leased(&self, cost: u32) -> bool {
        u64::from(cost) <= self.unused_units()
    }

    /// Returns the lease that must be stored before an admitted cost can be spent, or `None` if enough units
    /// are leased already. The lease has the usual size, or more if the cost is higher.
    pub(crate) fn lease(&mut self, quota: Quota, cost: u32) -> Option<QuotaLease> {
        if self.has_leased(cost) {
            return None;
        }
        let units = self.used_units.saturating_add(quota.lease_units().max(cost.into())).min(quota.limit);
        Some(self.begin_lease(units))
    }

    /// Returns the lease to store ahead of need after `cost` was spent, or `None` if none is due. It is due when half
    /// of a lease is used; the other half can be spent while the write is under way. As always, no more than one
    /// lease is unused then. A cost above the usual size of a lease would need another one anyway.
    pub(crate) fn lease_ahead(&mut self, quota: Quota, cost: u32) -> Option<QuotaLease> {
        let lease_units = quota.lease_units();
        let max_unused = (lease_units / 2).min(self.max_unused_for_renewal);
        let is_due = lease_units > 1 && u64::from(cost) <= lease_units && self.unused_units() <= max_unused;
        let units = self.used_units.saturating_add(lease_units).min(quota.limit);
        (is_due && units > self.lease.units).then(|| self.begin_lease(units))
    }

    fn begin_lease(&mut self, units: u64) -> QuotaLease {
        self.is_stored_lease_uncertain = true;
        self.max_stored_units = self.max_stored_units.max(units);
        QuotaLease { units, ..self.lease }
    }

    /// Records that the database contains this lease.
    pub(crate) fn confirm_lease(&mut self, lease: QuotaLease) {
        self.lease = lease;
        self.is_stored_lease_uncertain = false;
        self.max_stored_units = lease.units;
        self.max_unused_for_renewal = u64::MAX;
    }

    /// Records that the write of a lease ahead of need failed. The next one is due when half of the remaining units
    /// are used.
    pub(crate) fn fail_lease_ahead(&mut self) {
        self.max_unused_for_renewal = self.unused_units() / 2;
    }

    /// The number of units that are lost if the process ends now.
    pub(crate) fn forfeitable_units(&self) -> u64 {
        self.max_stored_units.saturating_sub(self.used_units)
    }

    /// Spends `cost` units, which must be admitted and leased.
    pub(crate) fn spend(&mut self, cost: u32) {
        self.used_units += u64::from(cost);
    }

    /// Gives up all unused leased units. Returns the reduced lease, which must be stored so that the units
    /// are not lost, or `None` if the database contains it already. Afterwards units can be spent only after
    /// a new lease, because the database's content is unknown if the write fails.
    pub(crate) fn return_unused_units(&mut self) -> Option<QuotaLease> {
        let all_used = self.unused_units() == 0;
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
