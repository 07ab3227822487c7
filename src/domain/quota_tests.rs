//! Tests for [`super`].

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;

/// Quota counts with a simulated database file whose writes may fail, and the expected state of the counts.
struct Model {
    now: i64,
    limit: u64,
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
        Self { now: 5 * HOUR, limit, file: HashMap::new(), periods: HashMap::new() }
    }

    fn write_lease(&mut self, lease: QuotaLease, result: WriteResult) -> bool {
        if result != WriteResult::Failed {
            self.file.insert(lease.id.start, lease.units);
        }
        result == WriteResult::Done
    }

    /// The period that contains the current time.
    fn current(&mut self) -> &mut PeriodModel {
        let now = Timestamp::from_millis(self.now);
        let (start, _) = Period::Hour.bounds_at(now);
        self.periods.entry(start).or_insert_with(|| PeriodModel {
            count: QuotaCount::resume(id_at(Period::Hour, now), None),
            renewal: None,
            spent: 0,
            forfeited: 0,
            crashes: 0,
        })
    }

    fn take(&mut self, cost: u32, rate_admits: bool, result: WriteResult) {
        let limit = self.limit;
        let period = self.current();
        let unavailable = period.spent + period.forfeited;
        let admits = period.count.admits(limit, cost);
        assert_eq!(admits, unavailable + u64::from(cost) <= limit);
        if !admits {
            return;
        }
        if !period.count.has_leased(cost) {
            self.end_renewal(result);
        }
        if let Some(lease) = self.current().count.lease(limit, cost) {
            assert!(lease.units <= limit);
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
                period.renewal = period.count.lease_ahead(limit, cost);
                assert!(period.renewal.is_none_or(|lease| lease.units <= limit));
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
            Step::Limit(limit) => self.limit = limit,
            Step::Take(cost, rate_admits, result) => self.take(cost, rate_admits, result),
            Step::EndRenewal(result) => self.end_renewal(result),
            Step::GiveBack(result) => {
                self.end_renewal(result);
                let period = self.current();
                let used = period.count.used_units;
                let start = period.count.lease.id.start;
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
            let left = self.limit.saturating_sub(period.spent + period.forfeited);
            assert_eq!(period.count.remaining(self.limit), left);
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
            period.count = QuotaCount::resume(id_at(Period::Hour, start), stored);
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
            if model.current().count.admits(limit, cost) {
                if let Some(lease) = model.current().count.lease(limit, cost) {
                    model.write_lease(lease, WriteResult::Done);
                    model.current().count.confirm_lease(lease);
                }
                let count = &mut model.current().count;
                count.spend(cost);
                let start = count.lease.id.start.as_millis();
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

fn id_at(period: Period, now: Timestamp) -> QuotaId {
    let (start, _) = period.bounds_at(now);
    QuotaId { subject: Subject::Key(7), meter: Meter::REQUESTS, period, start }
}

/// A count of this period in November 2026 that nothing was leased for.
fn new_count(period: Period) -> QuotaCount {
    QuotaCount::resume(id_at(period, parse_time("2026-11-23T07:08:09Z")), None)
}

fn spend(count: &mut QuotaCount, limit: u64, cost: u32) {
    assert!(count.admits(limit, cost));
    if let Some(lease) = count.lease(limit, cost) {
        count.confirm_lease(lease);
    }
    count.spend(cost);
}

#[test]
fn a_quota_lease_is_one_percent_or_what_the_cost_needs() {
    let mut count = new_count(Period::Day);
    assert_eq!(count.lease(1000, 0), None);
    let id = id_at(Period::Day, parse_time("2026-11-23T00:00:00Z"));
    let lease = |units| Some(QuotaLease { id, units });
    assert_eq!(count.lease(1000, 1), lease(10));
    assert_eq!(count.lease(1000, 11), lease(11));
    spend(&mut count, 1000, 3);
    assert_eq!(count.lease(1000, 7), None, "ten are leased");
    assert_eq!(count.lease(1000, 8), lease(13));
    spend(&mut count, 1000, 990);
    assert_eq!(count.lease(1000, 7), lease(1000), "never more than the limit");
    assert_eq!(new_count(Period::Day).lease(42, 1), lease(1));
}

#[test]
fn a_lease_is_renewed_when_half_of_it_is_used() {
    let mut count = new_count(Period::Day);
    let units = |lease: Option<QuotaLease>| lease.map(|lease| lease.units);
    spend(&mut count, 1000, 4);
    assert_eq!(count.lease_ahead(1000, 4), None, "six of ten are left");
    spend(&mut count, 1000, 1);
    let ahead = count.lease_ahead(1000, 1).unwrap();
    assert_eq!((ahead.units, count.forfeitable_units()), (15, 10));
    // Units are spent while it is written.
    spend(&mut count, 1000, 3);
    count.confirm_lease(ahead);
    assert!(count.has_leased(7) && !count.has_leased(8));
    spend(&mut count, 1000, 2);
    assert_eq!(units(count.lease_ahead(1000, 2)), Some(20));
    // After a failure, the next attempt is made when half of the five remaining units are used.
    count.fail_lease_ahead();
    spend(&mut count, 1000, 2);
    assert_eq!(count.lease_ahead(1000, 2), None);
    spend(&mut count, 1000, 1);
    assert_eq!(units(count.lease_ahead(1000, 1)), Some(23));

    spend(&mut count, 1000, 975);
    assert_eq!(count.lease_ahead(1000, 975), None, "the cost is larger than a lease");
    spend(&mut count, 1000, 5);
    assert_eq!(units(count.lease_ahead(1000, 5)), Some(1000), "never more than the limit");
    count.confirm_lease(QuotaLease { units: 1000, ..ahead });
    spend(&mut count, 1000, 2);
    assert_eq!(count.lease_ahead(1000, 2), None, "everything is leased");
    let mut count = new_count(Period::Day);
    spend(&mut count, 100, 1);
    assert_eq!(count.lease_ahead(100, 1), None, "a lease of one unit has no half");
}

#[test]
fn a_changed_limit_counts_units_already_used() {
    let mut count = QuotaCount::resume(id_at(Period::Month, parse_time("2026-12-31T23:59:59Z")), None);
    spend(&mut count, 1000, 95);
    assert_eq!(count.resets_at(), Some(parse_time("2027-01-01T00:00:00Z")));
    assert_eq!(count.remaining(50), 0);
    assert!(!count.admits(50, 1) && !count.admits(50, 0) && count.admits(95, 0));
    assert_eq!(count.remaining(96), 1);
    assert!(count.admits(96, 1) && !count.admits(96, 2));
    spend(&mut count, 96, 1);
    assert_eq!(count.remaining(2000), 1904);
}

#[test]
fn a_count_is_that_of_one_period() {
    let mut count = new_count(Period::Day);
    spend(&mut count, 10, 4);
    assert_eq!((count.remaining(10), count.resets_at()), (6, Some(parse_time("2026-11-24T00:00:00Z"))));
    for (now, is_current) in [
        ("2026-11-22T23:59:59.999Z", false),
        ("2026-11-23T00:00:00Z", true),
        ("2026-11-23T23:59:59.999Z", true),
        ("2026-11-24T00:00:00Z", false),
    ] {
        assert_eq!(count.is_current(parse_time(now)), is_current, "{now}");
    }
    // All units that the database states as leased count as used.
    let resumed = QuotaCount::resume(id_at(Period::Day, parse_time("2026-11-23T12:00:00Z")), Some(4));
    assert_eq!(resumed.remaining(10), 6);
}

#[test]
fn a_total_is_never_reset_and_is_topped_up_by_a_higher_limit() {
    let mut count = new_count(Period::Total);
    spend(&mut count, 10, 10);
    for now in ["1970-01-01T00:00:00Z", "2026-11-23T00:00:00Z", "9999-12-31T23:59:59Z"] {
        assert!(count.is_current(parse_time(now)), "{now}");
    }
    assert_eq!((count.remaining(10), count.resets_at(), count.admits(10, 1)), (0, None, false));
    spend(&mut count, 15, 5);
    assert!(!count.admits(15, 1));
}

#[test]
fn times_that_have_no_calendar_month_share_one_period() {
    let december = Period::Month.bounds_at(parse_time("9999-12-01T00:00:00Z"));
    for millis in [parse_time("9999-12-31T23:59:59Z").as_millis(), 1 << 60] {
        assert_eq!(Period::Month.bounds_at(Timestamp::from_millis(millis)), december);
    }
}
