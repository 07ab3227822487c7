//! Tests for [`super`].

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;

/// A quota count with a simulated database file whose writes may fail, and the expected state of the count.
struct Model {
    now: i64,
    quota: Quota,
    count: QuotaCount,
    file: Option<QuotaLease>,
    /// Quota units spent in the current period.
    spent: u64,
    /// Quota units of the current period that were leased but lost in crashes.
    forfeited: u64,
    /// Number of crashes in the current period.
    crashes: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// Spend a cost: the cost, whether the rate limit admits it, and the result of the write if a lease must
    /// be stored.
    Take(u32, bool, WriteResult),
    GiveBack(WriteResult),
    /// The process crashes and loses its in-memory count.
    Crash,
    /// The clock advances by this number of milliseconds.
    Clock(i64),
    Limit(u64),
}

/// The result of writing a lease. After a reported failure the lease may still be in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WriteResult {
    Done,
    Failed,
    FailedButStored,
}

/// Bounds of the random steps, in quota units. A lease is 1 % of the limit or as much as a cost needs, so it
/// is at most `MAX_LEASE`.
const MAX_COST: u32 = 40;
const MAX_LIMIT: u64 = 3000;
const MAX_LEASE: u64 = 40;

impl Model {
    fn new(limit: u64) -> Self {
        let now = 5 * HOUR;
        let quota = Quota { limit, period: Period::Hour };
        let count = QuotaCount::resume(1, Period::Hour, None, Timestamp::from_millis(now));
        Self { now, quota, count, file: None, spent: 0, forfeited: 0, crashes: 0 }
    }

    fn write_lease(&mut self, lease: QuotaLease, result: WriteResult) -> bool {
        if result != WriteResult::Failed {
            self.file = Some(lease);
        }
        result == WriteResult::Done
    }

    /// Starts a new period in the count and in the expected state if the current period has ended.
    fn enter_current_period(&mut self) {
        let before = self.count.lease.start;
        self.count.advance_period(Timestamp::from_millis(self.now));
        if self.count.lease.start != before {
            assert!(self.count.lease.start > before, "the period never moves back");
            (self.spent, self.forfeited, self.crashes) = (0, 0, 0);
        }
    }

    fn take(&mut self, cost: u32, rate_admits: bool, result: WriteResult) {
        let unavailable = self.spent + self.forfeited;
        let admits = self.count.admits(self.quota, cost);
        assert_eq!(admits, cost == 0 || unavailable + u64::from(cost) <= self.quota.limit);
        if !admits {
            return;
        }
        if let Some(lease) = self.count.lease(self.quota, cost) {
            assert!(lease.units <= self.quota.limit);
            if !self.write_lease(lease, result) {
                return;
            }
            self.count.confirm_lease(lease);
        }
        if rate_admits {
            self.count.spend(cost);
            self.spent += u64::from(cost);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Clock(by) => self.now = (self.now + by).max(0),
            Step::Limit(limit) => self.quota.limit = limit,
            Step::Take(cost, rate_admits, result) => {
                self.enter_current_period();
                self.take(cost, rate_admits, result);
            }
            Step::GiveBack(result) => {
                let Some(lease) = self.count.return_unused_units() else {
                    let stored = self.stored_units();
                    assert!(stored == self.count.used_units || stored == 0, "the lease is stored already");
                    return;
                };
                if self.write_lease(lease, result) {
                    self.resume_from_file();
                }
            }
            Step::Crash => {
                self.crashes += 1;
                self.resume_from_file();
                self.forfeited = self.count.used_units - self.spent;
            }
        }
        assert!(self.stored_units() >= self.spent || self.spent == 0, "less is stored than was used");
        assert!(self.forfeited <= self.crashes * MAX_LEASE, "{} forfeited", self.forfeited);
        let standing = self.count.status(self.quota);
        let left = self.quota.limit.saturating_sub(self.spent + self.forfeited);
        assert_eq!((standing.limit, standing.remaining), (self.quota.limit, left));
    }

    /// Returns the number of leased units that the file contains for the current period.
    fn stored_units(&self) -> u64 {
        self.file.filter(|lease| lease.start == self.count.lease.start).map_or(0, |lease| lease.units)
    }

    fn resume_from_file(&mut self) {
        let before = self.count.lease.start;
        self.count = QuotaCount::resume(1, Period::Hour, self.file, Timestamp::from_millis(self.now));
        if self.count.lease.start != before {
            (self.spent, self.forfeited, self.crashes) = (0, 0, 0);
        }
    }
}

fn step_sequences() -> impl Strategy<Value = Vec<Step>> {
    let write = || {
        prop_oneof![
            6 => Just(WriteResult::Done),
            1 => Just(WriteResult::Failed),
            1 => Just(WriteResult::FailedButStored)
        ]
    };
    let step = prop_oneof![
        20 => (0..=MAX_COST, any::<bool>(), write()).prop_map(|(cost, rate_admits, write)| Step::Take(cost, rate_admits, write)),
        3 => write().prop_map(Step::GiveBack),
        1 => Just(Step::Crash),
        1 => (0..2 * HOUR).prop_map(Step::Clock),
        1 => (1..=MAX_LIMIT).prop_map(Step::Limit),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn quota_units_are_never_spent_twice_and_a_crash_forfeits_one_lease(limit in 1..=MAX_LIMIT, steps in step_sequences()) {
        let mut model = Model::new(limit);
        steps.into_iter().for_each(|step| model.step(step));
    }

    #[test]
    fn a_jumping_clock_admits_no_more_units_than_the_quota_in_a_period(
        limit in 1..200_u64,
        moves in prop::collection::vec((-3 * HOUR..3 * HOUR, 0..20_u32, any::<bool>()), 0..200),
    ) {
        let mut model = Model::new(limit);
        let mut spent = std::collections::HashMap::<i64, u64>::new();
        for (by, cost, crash) in moves {
            model.now = (model.now + by).max(0);
            if crash {
                model.resume_from_file();
            }
            model.enter_current_period();
            if model.count.admits(model.quota, cost) {
                if let Some(lease) = model.count.lease(model.quota, cost) {
                    model.write_lease(lease, WriteResult::Done);
                    model.count.confirm_lease(lease);
                }
                model.count.spend(cost);
                let start = model.count.lease.start.as_millis();
                prop_assert!(start + HOUR > model.now, "nothing is spent from a past period");
                *spent.entry(start).or_default() += u64::from(cost);
            }
        }
        prop_assert!(spent.values().all(|units| *units <= limit), "{spent:?}");
    }
}

fn parse_time(time: &str) -> Timestamp {
    Timestamp::parse(time).unwrap()
}

fn spend(count: &mut QuotaCount, quota: Quota, cost: u32) {
    assert!(count.admits(quota, cost));
    if let Some(lease) = count.lease(quota, cost) {
        count.confirm_lease(lease);
    }
    count.spend(cost);
}

#[test]
fn a_quota_lease_is_one_percent_or_what_the_cost_needs() {
    let quota = Quota { limit: 1000, period: Period::Day };
    let now = parse_time("2026-11-23T07:08:09Z");
    let mut count = QuotaCount::resume(7, Period::Day, None, now);
    assert_eq!(count.lease(quota, 0), None);
    let lease = |units| {
        Some(QuotaLease { key: 7, period: Period::Day, start: parse_time("2026-11-23T00:00:00Z"), units })
    };
    assert_eq!(count.lease(quota, 1), lease(10));
    assert_eq!(count.lease(quota, 11), lease(11));
    spend(&mut count, quota, 3);
    assert_eq!(count.lease(quota, 7), None, "ten are leased");
    assert_eq!(count.lease(quota, 8), lease(13));
    spend(&mut count, quota, 990);
    assert_eq!(count.lease(quota, 7), lease(1000), "never more than the limit");
    let small = Quota { limit: 42, ..quota };
    let mut count = QuotaCount::resume(7, Period::Day, None, now);
    assert_eq!(count.lease(small, 1), lease(1));
}

#[test]
fn a_changed_quota_limit_counts_units_already_used() {
    let quota = |limit| Quota { limit, period: Period::Month };
    let mut count = QuotaCount::resume(1, Period::Month, None, parse_time("2026-12-31T23:59:59Z"));
    spend(&mut count, quota(1000), 95);
    let standing =
        |limit, remaining| QuotaStatus { limit, remaining, resets_at: parse_time("2027-01-01T00:00:00Z") };
    assert_eq!(count.status(quota(50)), standing(50, 0));
    assert!(!count.admits(quota(50), 1) && count.admits(quota(50), 0));
    assert_eq!(count.status(quota(96)), standing(96, 1));
    assert!(count.admits(quota(96), 1) && !count.admits(quota(96), 2));
    spend(&mut count, quota(96), 1);
    assert_eq!(count.status(quota(2000)), standing(2000, 1904));
}

#[test]
fn a_new_period_starts_with_the_full_quota() {
    let quota = Quota { limit: 10, period: Period::Day };
    let mut count = QuotaCount::resume(1, Period::Day, None, parse_time("2026-11-23T07:08:09Z"));
    spend(&mut count, quota, 10);
    count.advance_period(parse_time("2026-11-23T23:59:59.999Z"));
    assert!(!count.admits(quota, 1));
    count.advance_period(parse_time("2026-11-24T00:00:00Z"));
    assert_eq!(count.status(quota).remaining, 10);
    spend(&mut count, quota, 4);
    for earlier in ["2026-11-23T23:59:59.999Z", "2026-11-24T12:00:00Z", "2020-01-01T00:00:00Z"] {
        count.advance_period(parse_time(earlier));
        let resets_at = parse_time("2026-11-25T00:00:00Z");
        assert_eq!(count.status(quota), QuotaStatus { limit: 10, remaining: 6, resets_at });
    }
    // A count that is resumed from the file behaves in the same way: leased units count as used, and the
    // later period stays.
    let stored = count.lease;
    for now in ["2026-11-23T12:00:00Z", "2026-11-24T12:00:00Z"] {
        assert_eq!(
            QuotaCount::resume(1, Period::Day, Some(stored), parse_time(now)).status(quota).remaining,
            6
        );
    }
    let next = QuotaCount::resume(1, Period::Day, Some(stored), parse_time("2026-11-25T00:00:00Z"));
    assert_eq!(next.status(quota).remaining, 10);
}
