//! How a quota is counted: what of it is leased, what was used, and when the count begins anew.
//!
//! Units are leased before they are used, by a write that is committed. So the file never says less
//! than was used, and after a crash all that was leased counts as used.

use super::limits::{Period, Quota};
use super::time::Timestamp;

/// What the file keeps of a count: all units that were ever handed out in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The key's place in the file ([`Credential::seq`](super::api_key::Credential::seq)).
    pub(crate) key: i64,
    /// What the units are counted over.
    pub(crate) period: Period,
    /// When that began.
    pub(crate) start: Timestamp,
    /// Units, whatever was leased before included.
    pub units: u64,
}

/// How a quota stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Units in a period.
    pub(crate) limit: u64,
    /// Units left in this one.
    pub remaining: u64,
    /// When the next one begins.
    pub resets_at: Timestamp,
}

/// A count in memory, of one key over one kind of period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// What is known to be in the file.
    lease: Lease,
    end: Timestamp,
    /// Units used; never more than are leased.
    used: u64,
    /// A write has begun and is not known to have succeeded: the file may say more.
    unsure: bool,
}

impl Count {
    /// Goes on from what the file says. What a crash left leased counts as used.
    pub(crate) fn resume(key: i64, period: Period, stored: Option<Lease>, now: Timestamp) -> Self {
        let new = || Lease { key, period, start: period.around(now).0, units: 0 };
        let lease = stored.unwrap_or_else(new);
        let end = period.around(lease.start).1;
        let mut count = Self { lease, end, used: lease.units, unsure: false };
        count.enter(now);
        count
    }

    /// Begins anew when `now` lies beyond the period. A clock that steps back stays in the later one.
    pub(crate) fn enter(&mut self, now: Timestamp) {
        if now >= self.end {
            let (start, end) = self.lease.period.around(now);
            let lease = Lease { start, units: 0, ..self.lease };
            *self = Self { lease, end, used: 0, unsure: false };
        }
    }

    /// Are so many units left? The limit is that of the call: it may have been changed since the last.
    pub(crate) fn admits(&self, quota: Quota, cost: u32) -> bool {
        u64::from(cost) <= quota.limit.saturating_sub(self.used)
    }

    /// What has to be written before a cost that is admitted can be spent: a whole lease, or what the
    /// cost needs. `None` when there is enough in memory.
    pub(crate) fn lease(&mut self, quota: Quota, cost: u32) -> Option<Lease> {
        let cost = u64::from(cost);
        if cost <= self.lease.units - self.used {
            return None;
        }
        self.unsure = true;
        let units = self.used.saturating_add(quota.lease().max(cost)).min(quota.limit);
        Some(Lease { units, ..self.lease })
    }

    /// Notes that a lease is written.
    pub(crate) fn leased(&mut self, lease: Lease) {
        self.lease = lease;
        self.unsure = false;
    }

    /// Spends what is admitted and leased.
    pub(crate) fn spend(&mut self, cost: u32) {
        self.used += u64::from(cost);
    }

    /// What has to be written so that nothing is forfeited; `None` when the file says so already. From now
    /// on nothing is there to spend: it can't be known what the file says if the write fails.
    pub(crate) fn give_back(&mut self) -> Option<Lease> {
        let (all_used, unsure) = (self.lease.units == self.used, self.unsure);
        self.lease.units = self.used;
        self.unsure |= !all_used;
        (!all_used || unsure).then_some(self.lease)
    }

    /// How the quota stands.
    pub(crate) fn standing(&self, quota: Quota) -> Standing {
        let remaining = quota.limit.saturating_sub(self.used);
        Standing { limit: quota.limit, remaining, resets_at: self.end }
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
