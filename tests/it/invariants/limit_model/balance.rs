//! A model of one limit: what is spent of it.

use std::time::Duration;

use serde_json::Value;
use tollhouse::domain::limits::{Limit, LimitSpan, Period};
use tollhouse::domain::meter::Cost;

const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 86_400_000;
/// The time whose refill a debt can't exceed.
const MAX_DEBT: Duration = Duration::from_secs(86_400);

pub(super) struct Balance {
    pub owner: &'static str,
    pub limit: Limit,
    /// What is spent, as a multiple of `1 / scale`. What exceeds the capacity is debt.
    spent: u128,
    /// The number of the current period of a quota.
    period: i64,
}

impl Balance {
    /// The balances of a list of limits: the own one, or that of the plan.
    pub(super) fn of_list(owner: &'static str, own: &Value, plan: &Value, now: i64) -> Vec<Self> {
        let list = if own.is_null() { plan } else { own };
        let limits: Vec<Limit> = serde_json::from_value(list.clone()).unwrap();
        let full = |limit: Limit| Self { owner, limit, spent: 0, period: period_number(limit.span, now) };
        limits.into_iter().map(full).collect()
    }

    /// A bucket that holds `limit * scale` refills by `limit` in each nanosecond.
    fn scale(&self) -> u128 {
        match self.limit.span {
            LimitSpan::Window(seconds) => u128::from(seconds) * 1_000_000_000,
            LimitSpan::Period(_) => 1,
        }
    }

    fn capacity(&self) -> u128 {
        u128::from(self.limit.limit) * self.scale()
    }

    pub(super) fn advance(&mut self, by: Duration, now: i64) {
        let period = period_number(self.limit.span, now);
        match self.limit.span {
            LimitSpan::Window(_) => {
                self.spent = self.spent.saturating_sub(by.as_nanos() * u128::from(self.limit.limit));
            }
            LimitSpan::Period(_) if self.period != period => self.spent = 0,
            LimitSpan::Period(_) => {}
        }
        self.period = period;
    }

    /// The units that these costs name on the meter of the limit.
    pub(super) fn cost(&self, costs: &[Cost]) -> Option<u32> {
        costs.iter().find(|cost| cost.meter == self.limit.meter).map(|cost| cost.units)
    }

    /// Charges the costs of a verification that was admitted. Fails if that exceeds the limit.
    pub(super) fn admit(&mut self, costs: &[Cost]) {
        let Some(cost) = self.cost(costs) else { return };
        self.spent += u128::from(cost) * self.scale();
        assert!(self.spent <= self.capacity(), "exceeded: {:?} of the {}", self.limit, self.owner);
    }

    /// Charges the costs of a report, below zero where need be.
    pub(super) fn report(&mut self, costs: &[Cost]) {
        self.spent += u128::from(self.cost(costs).unwrap_or(0)) * self.scale();
        if let LimitSpan::Window(_) = self.limit.span {
            let max_debt = u128::from(self.limit.limit) * MAX_DEBT.as_nanos();
            self.spent = self.spent.min(self.capacity() + max_debt);
        }
    }

    pub(super) fn is_in_debt(&self) -> bool {
        self.spent > self.capacity()
    }

    pub(super) fn remaining(&self) -> u64 {
        u64::try_from(self.capacity().saturating_sub(self.spent) / self.scale()).unwrap()
    }

    /// True if the limit refuses these costs.
    pub(super) fn refuses(&self, costs: &[Cost]) -> bool {
        let exceeds = |cost| self.spent + u128::from(cost) * self.scale() > self.capacity();
        self.cost(costs).is_some_and(exceeds)
    }

    pub(super) fn is_quota(&self) -> bool {
        matches!(self.limit.span, LimitSpan::Period(_))
    }
}

/// The number of the period that contains this time. All times of the test are in one month.
fn period_number(span: LimitSpan, now: i64) -> i64 {
    match span {
        LimitSpan::Period(Period::Hour) => now / HOUR_MILLIS,
        LimitSpan::Period(Period::Day) => now / DAY_MILLIS,
        // The week of the epoch began three days before it.
        LimitSpan::Period(Period::Week) => (now + 3 * DAY_MILLIS) / (7 * DAY_MILLIS),
        LimitSpan::Period(Period::Month | Period::Total) | LimitSpan::Window(_) => 0,
    }
}
