//! Tests for [`super`].

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;

/// Quota counts with a simulated database file whose writes may fail, and the expected state of the counts.
struct Model {
    now: i64,
    quota: Quota,
    /// The leased units of each period, by its start.
    file: HashMap<Timestamp, u64>,
    /// The periods that were current at some time, by their start.
    periods: HashMap<Timestamp, PeriodModel>,
}

struct PeriodModel {
    count: QuotaCount,
    /// The lease that is being written ahead of need.
    renewal: Option<QuotaLease>,
    /// Quota units spent in the period.
    spent: u64,
    /// Quota units of the period that were leased but lost in crashes.
    forfeited: u64,
    /// Number of crashes since the period was first current.
    crashes: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// Spend a cost: the cost, whether the rate limit admits it, and the result of the write if a lease must
    /// be stored.
    Take(u32, bool, WriteResult),
    /// The write of a lease ahead of need ends.
    EndRenewal(WriteResult),
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
        let quota = Quota { limit, period: Period::Hour };
        Self { now: 5 * HOUR, quota, file: HashMap::new(), periods: HashMap::new() }
    }

    fn write_lease(&mut self, lease: QuotaLease, result: WriteResult) -> bool {
        if result != WriteResult::Failed {
            self.file.insert(lease.start, lease.units);
        }
        result == WriteResult::Done
    }

    /// The period that contains the current time.
    fn current(&mut self) -> &mut PeriodModel {
        let now = Timestamp::from_millis(self.now);
        let (start, _) = Period::Hour.bounds_at(now);
        self.periods.entry(start).or_insert_with(|| PeriodModel {
            count: QuotaCount::resume(1, Period::Hour, None, now),
            renewal: None,
            spent: 0,
            forfeited: 0,
            crashes: 0,
        })
    }

    fn take(&mut self, cost: u32, rate_admits: bool, result: WriteResult) {
        let quota = self.quota;
        let period = self.current();
        let unavailable = period.spent + period.forfeited;
        let admits = period.count.admits(quota, cost);
        assert_eq!(admits, cost == 0 || unavailable + u64::from(cost) <= quota.limit);
        if !admits {
            return;
        }
        if !period.count.has_leased(cost) {
            self.end_renewal(result);
        }
        if let Some(lease) = self.current().count.lease(quota, cost) {
            assert!(lease.units <= quota.limit);
            if !self.write_lease(lease, result) {
                return;
            }
            self.current().count.confirm_lease(lease);
        }
        if rate_admits {
            let period = self.current();
            period.count.spend(cost);
            period.spent += u64::from(cost);
            if period.renewal.is_none() {
                period.renewal = period.count.lease_ahead(quota, cost);
                assert!(period.renewal.is_none_or(|lease| lease.units <= quota.limit));
            }
        }
    }

    /// Ends the renewal of the current period, if there is one.
    fn end_renewal(&mut self, result: WriteResult) {
        let Some(lease) = self.current().renewal.take() else { return };
        let is_written = self.write_lease(lease, result);
        let count = &mut self.current().count;
        if is_written { count.confirm_lease(lease) } else { count.fail_lease_ahead() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Clock(by) => self.now = (self.now + by).max(0),
            Step::Limit(limit) => self.quota.limit = limit,
            Step::Take(cost, rate_admits, result) => self.take(cost, rate_admits, result),
            Step::EndRenewal(result) => self.end_renewal(result),
            Step::GiveBack(result) => {
                self.end_renewal(result);
                let period = self.current();
                let used = period.count.used_units;
                let start = period.count.lease.start;
                let Some(lease) = period.count.return_unused_units() else {
                    let stored = self.stored_units(start);
                    assert!(stored == used || stored == 0, "the lease is stored already");
                    return;
                };
                if self.write_lease(lease, result) {
                    self.resume_from_file(start);
                }
            }
            Step::Crash => self.crash(),
        }
        for (start, period) in &self.periods {
            let stored = self.stored_units(*start);
            assert!(stored >= period.spent || period.spent == 0, "less is stored than was used");
            assert!(period.forfeited <= period.crashes * MAX_LEASE, "{} forfeited", period.forfeited);
            let standing = period.count.status(self.quota);
            let left = self.quota.limit.saturating_sub(period.spent + period.forfeited);
            assert_eq!((standing.limit, standing.remaining), (self.quota.limit, left));
        }
    }

    fn crash(&mut self) {
        let starts: Vec<_> = self.periods.keys().copied().collect();
        for start in starts {
            // A write that is under way is stored or not.
            if let Some(period) = self.periods.get_mut(&start)
                && let Some(lease) = period.renewal.take()
                && period.spent.is_multiple_of(2)
            {
                self.file.insert(start, lease.units);
            }
            self.resume_from_file(start);
            if let Some(period) = self.periods.get_mut(&start) {
                period.crashes += 1;
                period.forfeited = period.count.used_units - period.spent;
            }
        }
    }

    /// Returns the number of leased units that the file contains for a period.
    fn stored_units(&self, start: Timestamp) -> u64 {
        self.file.get(&start).copied().unwrap_or(0)
    }

    fn resume_from_file(&mut self, start: Timestamp) {
        let stored = self.file.get(&start).copied();
        if let Some(period) = self.periods.get_mut(&start) {
            period.count = QuotaCount::resume(1, Period::Hour, stored, start);
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
        6 => write().prop_map(Step::EndRenewal),
        3 => write().prop_map(Step::GiveBack),
        1 => Just(Step::Crash),
        1 => (-2 * HOUR..2 * HOUR).prop_map(Step::Clock),
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
        let mut spent = HashMap::<i64, u64>::new();
        for (by, cost, crash) in moves {
            model.now = (model.now + by).max(0);
            if crash {
                model.crash();
            }
            let now = model.now;
            let quota = model.quota;
            if model.current().count.admits(quota, cost) {
                if let Some(lease) = model.current().count.lease(quota, cost) {
                    model.write_lease(lease, WriteResult::Done);
                    model.current().count.confirm_lease(lease);
                }
                let count = &mut model.current().count;
                count.spend(cost);
                let start = count.lease.start.as_millis();
                prop_assert!(start <= now && start + HOUR > now, "nothing is spent from another period");
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
fn a_lease_is_renewed_when_half_of_it_is_used() {
    let quota = Quota { limit: 1000, period: Period::Day };
    let mut count = QuotaCount::resume(7, Period::Day, None, parse_time("2026-11-23T07:08:09Z"));
    let units = |lease: Option<QuotaLease>| lease.map(|lease| lease.units);
    spend(&mut count, quota, 4);
    assert_eq!(count.lease_ahead(quota, 4), None, "six of ten are left");
    spend(&mut count, quota, 1);
    let ahead = count.lease_ahead(quota, 1).unwrap();
    assert_eq!((ahead.units, count.forfeitable_units()), (15, 10));
    // Units are spent while it is written.
    spend(&mut count, quota, 3);
    count.confirm_lease(ahead);
    assert!(count.has_leased(7) && !count.has_leased(8));
    spend(&mut count, quota, 2);
    assert_eq!(units(count.lease_ahead(quota, 2)), Some(20));
    // After a failure, the next attempt is made when half of the five remaining units are used.
    count.fail_lease_ahead();
    spend(&mut count, quota, 2);
    assert_eq!(count.lease_ahead(quota, 2), None);
    spend(&mut count, quota, 1);
    assert_eq!(units(count.lease_ahead(quota, 1)), Some(23));

    spend(&mut count, quota, 975);
    assert_eq!(count.lease_ahead(quota, 975), None, "the cost is larger than a lease");
    spend(&mut count, quota, 5);
    assert_eq!(units(count.lease_ahead(quota, 5)), Some(1000), "never more than the limit");
    count.confirm_lease(QuotaLease { units: 1000, ..ahead });
    spend(&mut count, quota, 2);
    assert_eq!(count.lease_ahead(quota, 2), None, "everything is leased");
    let small = Quota { limit: 100, ..quota };
    let mut count = QuotaCount::resume(7, Period::Day, None, parse_time("2026-11-23T07:08:09Z"));
    spend(&mut count, small, 1);
    assert_eq!(count.lease_ahead(small, 1), None, "a lease of one unit has no half");
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
fn a_count_is_that_of_one_period() {
    let quota = Quota { limit: 10, period: Period::Day };
    let mut count = QuotaCount::resume(1, Period::Day, None, parse_time("2026-11-23T07:08:09Z"));
    spend(&mut count, quota, 4);
    let resets_at = parse_time("2026-11-24T00:00:00Z");
    assert_eq!(count.status(quota), QuotaStatus { limit: 10, remaining: 6, resets_at });
    for (now, is_current) in [
        ("2026-11-22T23:59:59.999Z", false),
        ("2026-11-23T00:00:00Z", true),
        ("2026-11-23T23:59:59.999Z", true),
        ("2026-11-24T00:00:00Z", false),
    ] {
        assert_eq!(count.is_current(parse_time(now)), is_current, "{now}");
    }
    // All units that the database states as leased count as used.
    let resumed = QuotaCount::resume(1, Period::Day, Some(4), parse_time("2026-11-23T12:00:00Z"));
    assert_eq!(resumed.status(quota).remaining, 6);
}

#[test]
fn times_that_have_no_calendar_month_share_one_period() {
    let december = Period::Month.bounds_at(parse_time("9999-12-01T00:00:00Z"));
    for millis in [parse_time("9999-12-31T23:59:59Z").as_millis(), 1 << 60] {
        assert_eq!(Period::Month.bounds_at(Timestamp::from_millis(millis)), december);
    }
}
