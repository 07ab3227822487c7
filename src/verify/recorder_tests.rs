use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::domain::minute_rows::{MAX_RESERVED_ROWS, MAX_ROWS_IN_MEMORY, MAX_SHARED_ROWS};
use crate::domain::subject::Subject;
use crate::error::Code;
use crate::verify::denials::AggregationKey;
use crate::verify::test_credential::test_credential;

const MINUTE_MILLIS: i64 = 60_000;

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn parse_ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// The state of the key with this `seq`.
fn test_state(seq: i64) -> Arc<SubjectState> {
    Arc::new(SubjectState::new(Subject::Key(seq), Subject::Organization(1)))
}

impl Recorder {
    /// Counts a verification as the verifier does.
    fn count_verification(
        &self,
        state: &Arc<SubjectState>,
        outcome: Outcome,
        cost: u32,
        now: Timestamp,
    ) -> Result<()> {
        let mut inner = state.lock();
        self.ensure_room_for(&inner, now)?;
        let costs = [Cost { meter: Meter::REQUESTS, units: cost }];
        self.count(state, &mut inner, outcome, &costs, now);
        Ok(())
    }
}

/// Total requests and cost of a batch.
fn total_requests_and_cost(batch: &UsageBatch) -> (u64, u64) {
    let counts = batch.hourly_counts.iter().map(|row| &row.counts);
    counts.fold((0, 0), |(requests, cost), counts| (requests + counts.requests(), cost + counts.cost()))
}

#[test]
fn i9_each_verification_is_counted_in_one_batch_by_hour_and_key() {
    let recorder = Recorder::default();
    let key_1 = test_state(1);
    let key_2 = test_state(2);
    let hour = Interval::Hour.millis();
    for (key, outcome, cost, now) in [
        (&key_2, Outcome::Valid, 2, 10),
        (&key_1, Outcome::Valid, 1, hour - 1),
        (&key_1, Outcome::Valid, 1, 5),
        (&key_1, Outcome::RateLimited, 0, hour - 1),
        (&key_1, Outcome::Valid, 7, hour),
        // The clock is set back.
        (&key_1, Outcome::Valid, 1, hour - 2),
    ] {
        recorder.count_verification(key, outcome, cost, timestamp(now)).unwrap();
    }
    let batch = recorder.take();
    let rows = batch.hourly_counts.iter().map(|row| {
        let totals = row.counts.totals();
        (row.hour.as_millis(), row.key, totals.allowed, totals.rate_limited, totals.cost, row.last_used)
    });
    let expected = [
        (0, 1, 3, 1, 3, Some(timestamp(hour - 1))),
        (0, 2, 1, 0, 2, Some(timestamp(10))),
        (hour, 1, 1, 0, 7, Some(timestamp(hour))),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    assert_eq!(total_requests_and_cost(&recorder.take()), (0, 0));
}

#[test]
fn i9_costs_are_summed_by_meter() {
    let recorder = Recorder::default();
    let state = test_state(1);
    let tokens = Meter::parse("tokens").unwrap();
    let bytes = Meter::parse("bytes").unwrap();
    let cost = |meter, units| Cost { meter, units };
    let hour = Interval::Hour.millis();
    for (costs, now) in [
        (vec![cost(Meter::REQUESTS, 1), cost(tokens, 500)], 1),
        (vec![cost(Meter::REQUESTS, 1), cost(tokens, 0)], 2),
        (vec![cost(Meter::REQUESTS, 2), cost(bytes, 7), cost(tokens, u32::MAX)], 3),
        (vec![cost(Meter::REQUESTS, 1), cost(tokens, 3)], hour),
    ] {
        let mut inner = state.lock();
        recorder.count(&state, &mut inner, Outcome::Valid, &costs, timestamp(now));
    }
    let batch = recorder.take();
    let put_back = batch.clone();
    let meters: Vec<_> = batch.hourly_counts.into_iter().map(|row| (row.counts.cost(), row.meters)).collect();
    assert_eq!(meters, [(4, vec![(tokens, 500 + u64::from(u32::MAX)), (bytes, 7)]), (1, vec![(tokens, 3)])]);
    recorder.put_back(put_back.clone());
    recorder.put_back(put_back);
    let doubled = recorder.take().hourly_counts;
    assert_eq!(doubled[1].meters, [(tokens, 6)]);
    assert_eq!((doubled.len(), doubled[0].counts.cost()), (2, 8));
}

/// One thread takes batches and puts some back while other threads count.
#[test]
fn i9_no_verification_is_lost_or_counted_twice_while_batches_are_taken() {
    const VERIFICATIONS_PER_THREAD: u64 = 50_000;
    let recorder = Recorder::default();
    let states: Vec<_> = (0..101).map(test_state).collect();
    let done = AtomicBool::new(false);
    let (requests, cost) = thread::scope(|scope| {
        let counting: Vec<_> = (0..4)
            .map(|thread| {
                let recorder = &recorder;
                let keys = &states[thread % 2..][..100];
                scope.spawn(move || {
                    for (index, key) in (0..VERIFICATIONS_PER_THREAD).zip(keys.iter().cycle()) {
                        let now = timestamp(i64::try_from(index).unwrap() * 1000);
                        recorder.count_verification(key, Outcome::Valid, 3, now).unwrap();
                    }
                })
            })
            .collect();
        let recorder = &recorder;
        let done = &done;
        let taking = scope.spawn(move || {
            let mut requests = 0;
            let mut cost = 0;
            let mut batches = 0_u64;
            loop {
                let last = done.load(Ordering::SeqCst);
                let batch = recorder.take();
                batches += 1;
                if batches.is_multiple_of(2) && !last {
                    recorder.put_back(batch);
                } else {
                    let (batch_requests, batch_cost) = total_requests_and_cost(&batch);
                    requests += batch_requests;
                    cost += batch_cost;
                }
                if last {
                    return (requests, cost);
                }
            }
        });
        counting.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::SeqCst);
        taking.join().unwrap()
    });
    assert_eq!((requests, cost), (4 * VERIFICATIONS_PER_THREAD, 4 * VERIFICATIONS_PER_THREAD * 3));
}

#[test]
fn i10_a_full_recorder_refuses_new_rows_and_still_counts_in_existing_ones() {
    let recorder = Recorder::default();
    let known = test_state(1);
    for index in 0..MAX_USAGE_ROWS {
        // Each hour of a key has its own row.
        let hour = timestamp(i64::try_from(index).unwrap() * Interval::Hour.millis());
        recorder.count_verification(&known, Outcome::Valid, 1, hour).unwrap();
    }
    let last_hour = timestamp(i64::try_from(MAX_USAGE_ROWS - 1).unwrap() * Interval::Hour.millis());
    let other = test_state(2);
    for (state, now) in [(&other, last_hour), (&known, timestamp(0))] {
        let refused = recorder.count_verification(state, Outcome::Valid, 1, now).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::Unavailable, Some(1)));
    }
    recorder.count_verification(&known, Outcome::Valid, 1, last_hour).unwrap();
    let batch = recorder.take();
    assert_eq!(total_requests_and_cost(&batch).0, MAX_USAGE_ROWS as u64 + 1);
    recorder.count_verification(&other, Outcome::Valid, 1, last_hour).unwrap();
    recorder.put_back(batch);
    assert_eq!(total_requests_and_cost(&recorder.take()).0, MAX_USAGE_ROWS as u64 + 2);
}

#[test]
fn denials_are_aggregated_by_minute_code_and_key_or_address() {
    let recorder = Recorder::default();
    let key_1 = test_credential(1, 1);
    let key_2 = test_credential(1, 2);
    for (key, code, from, now) in [
        (&key_1, Outcome::Revoked, "192.0.2.1", 5),
        (&key_1, Outcome::Revoked, "192.0.2.2", 7),
        (&key_1, Outcome::Expired, "192.0.2.1", 8),
        (&key_2, Outcome::Revoked, "192.0.2.1", 9),
        (&key_1, Outcome::Revoked, "192.0.2.3", MINUTE_MILLIS),
    ] {
        recorder.count_denial(key, code, parse_ip(from), timestamp(now));
    }
    for (organization, from, now) in [
        (None, "::ffff:192.0.2.1", 20),
        (None, "192.0.2.1", 21),
        (Some("org_1"), "192.0.2.1", 22),
        (None, "2001:db8:1:2::3", 23),
        (None, "2001:db8:1:2:ffff::4", 24),
        (None, "2001:db8:1:3::3", 25),
    ] {
        recorder.count_unknown_key_denial(Outcome::NotFound, organization, parse_ip(from), timestamp(now));
    }
    recorder.count_unknown_key_denial(Outcome::NotFound, None, None, timestamp(26));
    let denials = recorder.take().denials;
    let rows: Vec<_> = denials
        .iter()
        .map(|row| {
            let from = row.ip.map_or_else(|| "?".to_owned(), |ip| ip.to_string());
            (
                row.aggregation_key.to_string(),
                row.code.unwrap().name(),
                from,
                row.count,
                row.last_at.as_millis(),
            )
        })
        .collect();
    let expected = [
        ("1", "REVOKED", "192.0.2.1", 2, 7),
        ("1", "EXPIRED", "192.0.2.1", 1, 8),
        ("2", "REVOKED", "192.0.2.1", 1, 9),
        (" 192.0.2.1/32", "NOT_FOUND", "192.0.2.1", 2, 21),
        ("org_1 192.0.2.1/32", "NOT_FOUND", "192.0.2.1", 1, 22),
        (" 2001:db8:1:2::/64", "NOT_FOUND", "2001:db8:1:2::3", 2, 24),
        (" 2001:db8:1:3::/64", "NOT_FOUND", "2001:db8:1:3::3", 1, 25),
        (" ", "NOT_FOUND", "?", 1, 26),
        ("1", "REVOKED", "192.0.2.3", 1, MINUTE_MILLIS),
    ]
    .map(|(aggregation_key, code, from, count, last)| {
        (aggregation_key.to_owned(), code, from.to_owned(), count, last)
    });
    assert_eq!(rows, expected);
    assert!(recorder.take().denials.is_empty());
}

/// The bound also applies across the batches of one minute. Otherwise a flood of denials would store a
/// thousand rows per second.
#[test]
fn i10_the_denial_rows_of_a_minute_are_bounded_and_count_every_denial() {
    let recorder = Recorder::default();
    let address = |index: usize| Some(IpAddr::from(u32::try_from(index).unwrap().to_be_bytes()));
    let half = MAX_SHARED_ROWS / 2;
    let mut rows = Vec::new();
    for round in 0..4 {
        for index in 0..half {
            let ip = address(round * half + index);
            recorder.count_unknown_key_denial(Outcome::NotFound, None, ip, timestamp(1000));
        }
        let denials = recorder.take().denials;
        if round == 3 {
            recorder.put_back(UsageBatch { denials, ..UsageBatch::default() });
            rows.extend(recorder.take().denials);
        } else {
            rows.extend(denials);
        }
    }
    let (overflow, single): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.aggregation_key == AggregationKey::Overflow);
    assert_eq!(single.len(), MAX_SHARED_ROWS);
    assert!(single.iter().all(|row| row.count == 1));
    let overflow: Vec<_> =
        overflow.iter().map(|row| (row.count, row.code, row.organization_id.as_deref(), row.ip)).collect();
    assert_eq!(overflow, [(half as u64, None, None, None); 2]);

    // The next minute has free rows again, also for an address that already had a row in the previous minute.
    recorder.count_unknown_key_denial(Outcome::NotFound, None, address(1), timestamp(MINUTE_MILLIS));
    assert_eq!(recorder.take().denials.len(), 1);
    recorder.count_unknown_key_denial(Outcome::NotFound, None, address(1), timestamp(MINUTE_MILLIS + 1));
    recorder.count_unknown_key_denial(Outcome::NotFound, None, address(2), timestamp(MINUTE_MILLIS + 1));
    let denials = recorder.take().denials;
    assert_eq!(
        denials
            .iter()
            .map(|row| (row.count, row.aggregation_key != AggregationKey::Overflow))
            .collect::<Vec<_>>(),
        [(1, true); 2]
    );
}

/// Each organization has rows of its own, but all organizations together have no more than fit in memory.
#[test]
fn i10_the_rows_of_all_organizations_are_bounded() {
    let recorder = Recorder::default();
    let organizations = MAX_ROWS_IN_MEMORY / MAX_RESERVED_ROWS + 100;
    for organization in 0..organizations {
        for index in 0..MAX_RESERVED_ROWS {
            let ip = IpAddr::from(u32::try_from(index << 8).unwrap().to_be_bytes());
            recorder.count_unknown_key_denial(
                Outcome::NotFound,
                Some(&format!("org_{organization}")),
                Some(ip),
                timestamp(0),
            );
        }
    }
    let denials = recorder.take().denials;
    assert_eq!(denials.len(), MAX_ROWS_IN_MEMORY + 1);
    let total: u64 = denials.iter().map(|row| row.count).sum();
    assert_eq!(total, (organizations * MAX_RESERVED_ROWS) as u64);
}

#[test]
fn the_chunks_of_a_batch_contain_all_of_its_rows() {
    let recorder = Recorder::default();
    for seq in 0..25 {
        recorder.count_verification(&test_state(seq), Outcome::Disabled, 0, timestamp(0)).unwrap();
        recorder.count_denial(&test_credential(1, seq), Outcome::Disabled, None, timestamp(0));
    }
    let chunks = recorder.take().chunks(10);
    let sizes: Vec<_> = chunks.iter().map(|chunk| (chunk.hourly_counts.len(), chunk.denials.len())).collect();
    assert_eq!(sizes, [(10, 10), (10, 10), (5, 5)]);
    chunks.into_iter().for_each(|chunk| recorder.put_back(chunk));
    let batch = recorder.take();
    assert_eq!((total_requests_and_cost(&batch).0, batch.denials.len()), (25, 25));
    assert!(recorder.take().chunks(10).is_empty());
}
