use std::sync::Barrier;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const LARGEST_LIMIT: BucketLimit = BucketLimit { tokens: u32::MAX, window: MAX_WINDOW };

fn limit_of(tokens: u32, seconds: u64) -> BucketLimit {
    BucketLimit { tokens, window: Duration::from_secs(seconds) }
}

/// Takes single tokens until one is refused. Returns the number of tokens taken.
fn take_until_refused(buckets: &Buckets<u32>, key: u32, limit: BucketLimit, now: Duration) -> u32 {
    let mut admitted = 0;
    while buckets.take(&key, limit, 1, now).allowed {
        admitted += 1;
    }
    admitted
}

#[test]
fn i7_a_limit_of_500_per_minute_admits_a_burst_of_500_then_one_every_120_ms() {
    let buckets = Buckets::new(10);
    let limit = limit_of(500, 60);
    let start = YEAR;
    for spent in 1..=500 {
        let decision = buckets.take(&1, limit, 1, start);
        assert!(decision.allowed);
        let state = (decision.limit, decision.remaining, decision.retry_after);
        assert_eq!(state, (500, 500 - spent, Duration::ZERO));
        assert_eq!(decision.next_token, Duration::from_millis(120));
        assert_eq!(decision.full_after, Duration::from_millis(120) * spent);
    }
    let refused = RateLimitDecision {
        allowed: false,
        limit: 500,
        window: 60 * SECOND,
        remaining: 0,
        next_token: Duration::from_millis(120),
        full_after: 60 * SECOND,
        retry_after: Duration::from_millis(120),
    };
    assert_eq!(buckets.take(&1, limit, 1, start), refused);
    for n in 1..=10 {
        let due = start + n * Duration::from_millis(120);
        assert!(!buckets.take(&1, limit, 1, due - NANO).allowed);
        assert!(buckets.take(&1, limit, 1, due).allowed);
        assert!(!buckets.take(&1, limit, 1, due).allowed);
    }
    assert_eq!(
        take_until_refused(&buckets, 1, limit, start + YEAR),
        500,
        "a bucket never holds more than its limit"
    );
}

#[test]
fn i8_a_refused_cost_takes_no_tokens() {
    let buckets = Buckets::new(10);
    let limit = limit_of(10, 60);
    assert!(buckets.take(&1, limit, 7, SECOND).allowed);
    let refused = buckets.take(&1, limit, 4, SECOND);
    assert_eq!((refused.allowed, refused.remaining), (false, 3));
    assert_eq!((refused.retry_after, refused.next_token), (6 * SECOND, 6 * SECOND));
    assert_eq!(buckets.take(&1, limit, 4, SECOND), refused);
    assert!(buckets.take(&1, limit, 3, SECOND).allowed);
    assert!(buckets.take(&1, limit, 0, SECOND).allowed, "a cost of 0 is always admitted");
    assert_eq!(buckets.take(&1, limit, 0, SECOND).full_after, 60 * SECOND);
}

#[test]
fn a_cost_above_the_capacity_is_never_admitted() {
    let buckets = Buckets::new(10);
    let limit = limit_of(10, 60);
    let refused = buckets.take(&1, limit, 11, SECOND);
    assert_eq!((refused.allowed, refused.remaining, refused.full_after), (false, 10, Duration::ZERO));
    assert_eq!(refused.retry_after, 60 * SECOND);
    assert!(!buckets.take(&1, limit, u32::MAX, YEAR).allowed);
    assert!(!buckets.take(&2, limit_of(0, 60), 1, YEAR).allowed);
    assert!(buckets.take(&1, limit, 10, YEAR).allowed);
}

#[test]
fn a_peek_decides_like_a_take_and_spends_no_tokens() {
    let buckets = Buckets::new(10);
    let limit = limit_of(10, 60);
    assert!(buckets.peek(&1, limit, 10, SECOND).allowed);
    assert!(buckets.len() == 0);
    buckets.take(&1, limit, 4, SECOND);
    for _ in 0..3 {
        assert!(buckets.peek(&1, limit, 6, SECOND).allowed);
        assert_eq!(buckets.peek(&1, limit, 7, SECOND).retry_after, 6 * SECOND);
        assert_eq!(buckets.peek(&1, limit, 1, SECOND).remaining, 6);
    }
    assert_eq!(buckets.peek(&1, limit, 7, SECOND), buckets.take(&1, limit, 7, SECOND));
}

#[test]
fn i7_racing_threads_are_admitted_exactly_up_to_the_rate_limit() {
    let buckets = Buckets::new(10);
    let limit = limit_of(500, 60);
    let barrier = Barrier::new(64);
    let admitted: u32 = std::thread::scope(|scope| {
        let racer = || {
            barrier.wait();
            (0..100).map(|_| u32::from(buckets.take(&1, limit, 1, SECOND).allowed)).sum::<u32>()
        };
        let racers: Vec<_> = (0..64).map(|_| scope.spawn(racer)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(admitted, 500);
    assert_eq!(buckets.len(), 1);
}

#[test]
fn a_clock_that_goes_back_refills_no_tokens() {
    let buckets = Buckets::new(10);
    let limit = limit_of(10, 60);
    assert_eq!(take_until_refused(&buckets, 1, limit, 60 * SECOND), 10);
    assert!(!buckets.take(&1, limit, 1, SECOND).allowed);
    assert!(!buckets.take(&1, limit, 1, 66 * SECOND - NANO).allowed);
    assert!(buckets.take(&1, limit, 1, 66 * SECOND).allowed);
}

#[test]
fn extreme_rate_limits_do_not_overflow() {
    let late = Duration::from_secs(u64::MAX / 2);
    for limit in [
        LARGEST_LIMIT,
        BucketLimit { tokens: u32::MAX, window: Duration::MAX },
        limit_of(1, 86_400),
        limit_of(u32::MAX, 0),
        limit_of(0, 0),
    ] {
        let buckets = Buckets::new(10);
        for now in [Duration::ZERO, YEAR, 1000 * YEAR, late, Duration::MAX] {
            let all = buckets.take(&1, limit, limit.tokens, now);
            assert_eq!((all.allowed, all.remaining), (true, 0), "{limit:?} at {now:?}");
            assert!(!buckets.take(&1, limit, 1, now).allowed);
            assert!(buckets.peek(&1, LARGEST_LIMIT, 1, now).full_after <= MAX_WINDOW);
        }
    }
}

#[test]
fn i7_spent_tokens_stay_spent_when_the_limit_changes() {
    let buckets = Buckets::new(10);
    assert!(buckets.take(&1, limit_of(500, 60), 300, SECOND).allowed);
    assert_eq!(buckets.peek(&1, limit_of(1000, 60), 1, SECOND).remaining, 700);
    assert_eq!(buckets.peek(&1, limit_of(500, 3600), 1, SECOND).remaining, 200);
    // Lowered below the spent tokens: none are left, but tokens are refilled at the new rate from now on.
    let lowered = buckets.take(&1, limit_of(100, 60), 1, SECOND);
    assert_eq!((lowered.allowed, lowered.retry_after), (false, Duration::from_millis(600)));
    assert!(buckets.take(&1, limit_of(100, 60), 1, SECOND + Duration::from_millis(600)).allowed);
    // Raised again: one was refilled, one was taken, and the 300 are still spent.
    assert_eq!(buckets.take(&1, limit_of(500, 60), 0, SECOND + Duration::from_millis(600)).remaining, 200);
    // They are refilled at the current rate.
    assert_eq!(
        buckets.peek(&1, limit_of(500, 60), 0, SECOND * 13 + Duration::from_millis(600)).remaining,
        300
    );
}

#[test]
fn i7_switching_limits_back_and_forth_refills_no_tokens() {
    let buckets = Buckets::new(10);
    let limits = [
        limit_of(500, 60),
        limit_of(1, 1),
        limit_of(499, 86_400),
        BucketLimit { tokens: 7, window: NANO * 333 },
        limit_of(0, 60),
        LARGEST_LIMIT,
    ];
    assert_eq!(take_until_refused(&buckets, 1, limit_of(500, 60), SECOND), 500);
    for limit in limits.iter().cycle().take(600) {
        buckets.take(&1, *limit, 0, SECOND);
    }
    assert!(!buckets.take(&1, limit_of(500, 60), 1, SECOND).allowed);
    // Not even the fraction of a token that the new unit can't express.
    assert!(buckets.take(&2, limit_of(7, 60), 1, SECOND).allowed);
    assert_eq!(buckets.peek(&2, BucketLimit { tokens: 7, window: NANO }, 0, SECOND + NANO).remaining, 6);
}

#[test]
fn i7_a_sweep_drops_only_full_buckets() {
    let buckets = Buckets::new(10);
    let limit = limit_of(10, 60);
    buckets.take(&1, limit, 1, SECOND);
    buckets.take(&2, limit, 5, SECOND);
    buckets.take(&3, limit_of(100, 60), 100, SECOND);
    buckets.take(&3, limit, 0, SECOND); // Owes 90 tokens, for nine minutes after its bucket is full.
    buckets.sweep(7 * SECOND - NANO);
    assert_eq!(buckets.len(), 3);
    buckets.sweep(7 * SECOND);
    assert_eq!(buckets.len(), 2);
    assert_eq!(buckets.peek(&2, limit, 1, 7 * SECOND).remaining, 6);
    buckets.sweep(31 * SECOND);
    assert_eq!(buckets.len(), 1);
    buckets.sweep(601 * SECOND - NANO);
    assert_eq!(buckets.len(), 1);
    buckets.sweep(601 * SECOND);
    assert!(buckets.len() == 0);
}

#[test]
fn i10_a_million_keys_do_not_grow_the_bucket_map_beyond_its_capacity() {
    let buckets = Buckets::new(1000);
    let limit = limit_of(10, 60);
    let known = u32::MAX;
    assert!(buckets.take(&known, limit, 4, YEAR).allowed);
    let admitted = (0..1_000_000)
        .filter(|key| buckets.take(key, limit, 1, YEAR).allowed)
        .inspect(|_| assert!(buckets.len() <= 1000));
    assert_eq!(admitted.count(), 999 + 10, "one per new key with a bucket, then one bucket for all others");
    assert_eq!(buckets.map.len(), 1000);
    assert_eq!(take_until_refused(&buckets, known, limit, YEAR), 6, "an existing bucket is unaffected");
    // Tokens that one key takes from the overflow bucket are missing for the others.
    let later = YEAR + 6 * SECOND;
    assert!(!buckets.take(&2_000_000, limit, 1, YEAR + 5 * SECOND).allowed);
    assert_eq!(buckets.len(), 1000);
    // After six seconds the buckets that spent one token are full again, and are swept to make room.
    let decision = buckets.take(&2_000_001, limit, 1, later);
    assert!(decision.allowed);
    assert_eq!(decision.remaining, 0, "as many as in the overflow bucket");
    assert_eq!(buckets.len(), 2);
    buckets.sweep(later + 60 * SECOND);
    assert!(buckets.len() == 0);
    assert_eq!(buckets.take(&2_000_002, limit, 1, later + 60 * SECOND).remaining, 9);
}

#[test]
fn a_bucket_created_after_an_overflow_owes_nothing_for_it() {
    let buckets = Buckets::new(1);
    let limit = limit_of(1, 60);
    buckets.take(&1, limit_of(1, 1), 1, YEAR);
    assert!(buckets.take(&2, limit_of(1000, 60), 1000, YEAR).allowed, "from the overflow bucket");
    assert!(!buckets.take(&3, limit, 1, YEAR).allowed, "empty, and owing 999");
    let later = YEAR + 2 * SECOND;
    assert!(!buckets.take(&4, limit, 1, later).allowed);
    assert!(buckets.map.contains_key(&4));
    buckets.sweep(later + 60 * SECOND);
    assert!(buckets.len() == 0, "full after one window, whatever others spent");
}

#[test]
fn i10_racing_threads_do_not_exceed_the_maximum_number_of_buckets() {
    let buckets = Buckets::new(100);
    let limit = limit_of(10, 1);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let buckets = &buckets;
            scope.spawn(move || {
                for n in 0..5_000_u32 {
                    buckets.take(&(n * 8 + thread), limit, 1, Duration::from_millis(n.into()));
                    assert!(buckets.len() <= 100);
                }
            });
        }
    });
    assert_eq!(buckets.map.len(), buckets.len());
    buckets.sweep(YEAR);
    assert_eq!((buckets.map.len(), buckets.len()), (0, 0));
}

/// Any limit whose window divides [`COMMON_WINDOW_NANOS`], so that [`in_common_units`] is exact.
fn any_limit() -> impl Strategy<Value = BucketLimit> {
    let tokens =
        prop_oneof![Just(1), Just(7), Just(500), Just(1000), Just(1_000_000), 0..2000_u32, any::<u32>()];
    (tokens, prop_oneof![Just(1), Just(7), Just(60), Just(3600), Just(86_400)])
        .prop_map(|(tokens, s)| limit_of(tokens, s))
}

fn any_clock_advance() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 0..1000_u64, 0..2_000_000_000_u64, 0..100_000_000_000_000_u64]
        .prop_map(Duration::from_nanos)
}

/// A common multiple of all windows of [`any_limit`], in nanoseconds.
const COMMON_WINDOW_NANOS: u128 = 86_400 * 7 * 1_000_000_000;

fn in_common_units(tokens: u128, limit: BucketLimit) -> u128 {
    tokens * (COMMON_WINDOW_NANOS / limit.units_per_token())
}

proptest! {
    #[test]
    fn i7_a_bucket_never_admits_more_than_capacity_and_rate_times_time(
        limit in any_limit(),
        calls in proptest::collection::vec((any_clock_advance(), prop_oneof![1..3_u32, 0..2000_u32, any::<u32>()]), 1..60),
    ) {
        let buckets = Buckets::new(1);
        let mut now = YEAR;
        let mut admitted: Vec<(Duration, u128)> = Vec::new();
        for (advance, cost) in calls {
            now += advance;
            let decision = buckets.take(&1, limit, cost, now);
            prop_assert!(decision.remaining <= limit.tokens);
            prop_assert_eq!(decision.full_after.is_zero(), decision.next_token.is_zero());
            prop_assert_eq!(decision.allowed, decision.retry_after.is_zero());
            if decision.allowed {
                admitted.push((now, cost.into()));
            }
        }
        for (first, (start, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (end, cost) in &admitted[first..] {
                sum += cost * limit.units_per_token();
                let max = limit.capacity_units() + (*end - *start).as_nanos() * u128::from(limit.tokens);
                prop_assert!(sum <= max, "{sum} units of {max} from {start:?} to {end:?}");
            }
        }
    }

    #[test]
    fn i7_a_bucket_never_admits_more_when_the_limit_changes(
        calls in proptest::collection::vec((any_clock_advance(), any::<u32>(), any_limit()), 1..40),
        greedy in any::<bool>(),
    ) {
        let buckets = Buckets::new(1);
        let mut now = YEAR;
        let mut admitted = 0;
        let mut refilled = 0;
        let mut largest = 0;
        let mut before = limit_of(0, 1);
        for (advance, cost, limit) in calls {
            now += advance;
            refilled += in_common_units(advance.as_nanos() * u128::from(before.tokens), before);
            largest = largest.max(u128::from(limit.tokens) * COMMON_WINDOW_NANOS);
            let cost = if greedy { buckets.peek(&1, limit, 0, now).remaining } else { cost % limit.tokens.max(1) };
            if buckets.take(&1, limit, cost, now).allowed {
                admitted += u128::from(cost) * COMMON_WINDOW_NANOS;
            }
            prop_assert!(admitted <= largest + refilled);
            before = limit;
        }
    }

    #[test]
    fn i7_a_caller_paced_at_the_rate_is_never_refused(limit in any_limit(), steps in 1..200_u32, batch in 1..5_u32) {
        prop_assume!(limit.tokens >= batch);
        let buckets = Buckets::new(1);
        buckets.take(&1, limit, limit.tokens, YEAR);
        for n in 1..=steps {
            let now = YEAR + limit.refill_time(u128::from(n * batch) * limit.units_per_token());
            prop_assert!(buckets.take(&1, limit, batch, now).allowed, "call {n}");
        }
    }

    #[test]
    fn retry_after_next_token_and_full_after_are_exact(
        calls in proptest::collection::vec((any_clock_advance(), any::<u32>(), any_limit()), 1..20),
        cost in any::<u32>(),
        limit in any_limit(),
    ) {
        prop_assume!(limit.tokens > 0);
        let buckets = Buckets::new(1);
        let mut now = YEAR;
        for (advance, cost, limit) in calls {
            now += advance;
            buckets.take(&1, limit, cost % (limit.tokens.max(1)), now);
        }
        let cost = cost % limit.tokens + 1;
        let state = buckets.take(&1, limit, 0, now);
        let wait = buckets.peek(&1, limit, cost, now).retry_after;
        if !wait.is_zero() {
            prop_assert!(!buckets.peek(&1, limit, cost, now + wait - NANO).allowed);
            prop_assert!(buckets.peek(&1, limit, cost, now + wait).allowed);
        }
        if !state.full_after.is_zero() {
            prop_assert_eq!(buckets.peek(&1, limit, 0, now + state.next_token - NANO).remaining, state.remaining);
            prop_assert!(buckets.peek(&1, limit, 0, now + state.next_token).remaining > state.remaining);
            prop_assert!(!buckets.peek(&1, limit, 0, now + state.full_after - NANO).full_after.is_zero());
            prop_assert!(buckets.peek(&1, limit, 0, now + state.full_after).full_after.is_zero());
        }
    }

    #[test]
    fn i7_dropping_full_buckets_changes_no_rate_limit_decision(
        calls in proptest::collection::vec((any_clock_advance(), 0..2000_u32, any_limit(), any::<bool>()), 1..60),
    ) {
        let unswept = Buckets::new(1);
        let swept = Buckets::new(1);
        let mut now = YEAR;
        for (advance, cost, limit, sweep) in calls {
            now += advance;
            if sweep {
                swept.sweep(now);
            }
            prop_assert_eq!(unswept.take(&1, limit, cost, now), swept.take(&1, limit, cost, now));
        }
    }
}
