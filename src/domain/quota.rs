//! Counts the use of quotas: leased units and used units of a period.
//!
//! Units are leased by a committed write to the database before they are used. Therefore the database never
//! records fewer units than were used, and after a crash all leased units count as used.

use super::limits::{Limit, Period};
use super::meter::Meter;
use super::subject::Subject;
use super::time::Timestamp;

/// What is counted separately: the units of a meter that a subject uses in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaId {
    /// The key or organization.
    pub subject: Subject,
    /// What is counted.
    pub meter: Meter,
    /// The length of the period.
    pub period: Period,
    /// When the period began.
    pub start: Timestamp,
}

/// The part of a quota's count that is stored in the database: the units that were leased in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLease {
    /// What the units are counted for.
    pub id: QuotaId,
    /// Total number of units leased in the period, including earlier leases.
    pub units: u64,
}

/// The in-memory count of a quota in one period.
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
    /// Creates the count of a period from the units that the database states as leased. All of them count as used,
    /// because a crash may have prevented the return of unused units.
    pub(crate) fn resume(id: QuotaId, leased_units: Option<u64>) -> Self {
        let units = leased_units.unwrap_or(0);
        Self {
            lease: QuotaLease { id, units },
            period_end: id.period.bounds_at(id.start).1,
            used_units: units,
            is_stored_lease_uncertain: false,
            max_stored_units: units,
            max_unused_for_renewal: u64::MAX,
        }
    }

    /// True if the period of this count contains `now`.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        (self.lease.id.start..self.period_end).contains(&now)
    }

    /// True if the limit admits this cost. With debt, nothing is admitted, not even a cost of 0. The limit is a
    /// parameter because it may have changed since the last call.
    pub(crate) fn admits(&self, limit: u64, cost: u32) -> bool {
        self.used_units.saturating_add(cost.into()) <= limit
    }

    fn unused_units(&self) -> u64 {
        self.lease.units.saturating_sub(self.used_units)
    }

    /// True if enough units for this cost are leased.
    pub(crate) fn has_leased(&self, cost: u32) -> bool {
        u64::from(cost) <= self.unused_units()
    }

    /// Returns the lease that must be stored before an admitted cost can be spent, or `None` if enough units
    /// are leased already. The lease has the usual size, or more if the cost is higher.
    pub(crate) fn lease(&mut self, limit: u64, cost: u32) -> Option<QuotaLease> {
        if self.has_leased(cost) {
            return None;
        }
        let units = self.used_units.saturating_add(Limit::lease_units(limit).max(cost.into())).min(limit);
        Some(self.begin_lease(units))
    }

    /// True if a lease is to be stored ahead of need after `cost` was spent: when half of a lease is used. The other half
    /// can be spent while the write is under way. As always, no more than one lease is unused then. A cost above the
    /// usual size of a lease would need another one anyway.
    pub(crate) fn is_renewal_due(&self, limit: u64, cost: u32) -> bool {
        let lease_units = Limit::lease_units(limit);
        let max_unused = (lease_units / 2).min(self.max_unused_for_renewal);
        lease_units > 1
            && u64::from(cost) <= lease_units
            && self.unused_units() <= max_unused
            && self.units_ahead(limit) > self.lease.units
    }

    /// Returns the lease to store ahead of need after `cost` was spent, or `None` if none is due.
    pub(crate) fn lease_ahead(&mut self, limit: u64, cost: u32) -> Option<QuotaLease> {
        self.is_renewal_due(limit, cost).then(|| self.begin_lease(self.units_ahead(limit)))
    }

    fn units_ahead(&self, limit: u64) -> u64 {
        self.used_units.saturating_add(Limit::lease_units(limit)).min(limit)
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

    /// Returns the lease to which the costs of usage reports are added when both are stored by one write. It is the
    /// present lease, or a larger one if a renewal is due or `wanted` units aren't leased: without it, reports in quick
    /// succession would keep verifications from leasing.
    pub(crate) fn lease_with_reports(&self, limit: u64, wanted: u32) -> QuotaLease {
        if self.has_leased(wanted) && !self.is_renewal_due(limit, 0) {
            return self.lease;
        }
        let more_units = Limit::lease_units(limit).max(wanted.into());
        let units = self.used_units.saturating_add(more_units).min(limit).max(self.lease.units);
        QuotaLease { units, ..self.lease }
    }

    /// Charges reported costs, which may exceed the limit, after they were stored together with this lease.
    pub(crate) fn confirm_reports(&mut self, lease: QuotaLease, cost: u64) {
        self.confirm_lease(lease);
        self.used_units = self.used_units.saturating_add(cost);
    }

    /// Records that reports could not be stored. The database may nevertheless contain their lease of `units`.
    pub(crate) fn fail_reports(&mut self, units: u64) {
        self.is_stored_lease_uncertain = true;
        self.max_stored_units = self.max_stored_units.max(units);
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

    /// Units of the limit that are left in the period.
    pub(crate) fn remaining(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.used_units)
    }

    /// When the next period begins; `None` for [`Period::Total`].
    pub(crate) fn resets_at(&self) -> Option<Timestamp> {
        (self.lease.id.period != Period::Total).then_some(self.period_end)
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
