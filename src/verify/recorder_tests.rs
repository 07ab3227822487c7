use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::domain::api_key::{ApiKey, Status, Tenant};
use crate::domain::organization;
use crate::error::Code;
use crate::verify::denials::{AggregationKey, MAX_ROWS as MAX_AGGREGATED};

const MINUTE: i64 = 60_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn credential(seq: i64) -> Arc<Credential> {
    let key = ApiKey {
        id: format!("key_{seq}"),
        organization_id: Some("org_1".to_owned()),
        user_id: None,
        name: "n".to_owned(),
        start: String::new(),
        scopes: Vec::new(),
        status: Status::Active,
        expires_at: None,
        allowed_ips: None,
        rate_limit: None,
        quota: None,
        metadata: Default::default(),
        created_by: None,
        created_at: at(0),
        updated_at: at(0),
        last_used_at: None,
        rotated_at: None,
        previous_secret_expires_at: None,
        revoked_at: None,
        revoked_reason: None,
        revision: 1,
    };
    let (plan, status) = ("standard".to_owned(), organization::Status::Active);
    let organization = Some(Tenant { seq: 1, name: "One".to_owned(), plan, status });
    Arc::new(Credential {
        seq,
        key,
        secret_ends_at: None,
        organization,
        owner: None,
        memo: Default::default(),
    })
}

/// Requests and cost of all that was taken.
fn sums(batch: &Batch) -> (u64, u64) {
    let counts = batch.counted.iter().map(|one| &one.counts);
    counts.fold((0, 0), |(requests, cost), one| (requests + one.requests(), cost + one.cost()))
}

#[test]
fn i9_what_is_counted_is_taken_once_by_hour_and_key() {
    let recorder = Recorder::default();
    let (one, two) = (credential(1), credential(2));
    let hour = Interval::Hour.millis();
    for (key, outcome, cost, now) in [
        (&two, Outcome::Valid, 2, 10),
        (&one, Outcome::Valid, 1, hour - 1),
        (&one, Outcome::Valid, 1, 5),
        (&one, Outcome::RateLimited, 0, hour - 1),
        (&one, Outcome::Valid, 7, hour),
    ] {
        recorder.count(key, outcome, cost, None, at(now)).unwrap();
    }
    let batch = recorder.take();
    let rows = batch.counted.iter().map(|one| {
        let totals = one.counts.totals();
        (
            one.hour.as_millis(),
            one.credential.seq,
            totals.allowed,
            totals.rate_limited,
            totals.cost,
            one.last_used,
        )
    });
    let expected = [
        (0, 1, 2, 1, 2, Some(at(hour - 1))),
        (0, 2, 1, 0, 2, Some(at(10))),
        (hour, 1, 1, 0, 7, Some(at(hour))),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    assert_eq!(sums(&recorder.take()), (0, 0));
}

/// Batches are taken, and some put back, while others count.
#[test]
fn i9_nothing_is_lost_or_doubled_while_batches_come_and_go() {
    const EACH: u64 = 50_000;
    let recorder = Recorder::default();
    let done = AtomicBool::new(false);
    let (mut requests, mut cost) = (0, 0);
    thread::scope(|scope| {
        let counting: Vec<_> = (0..4)
            .map(|thread| {
                let recorder = &recorder;
                scope.spawn(move || {
                    let keys: Vec<_> = (0..100).map(|seq| credential(seq + thread % 2)).collect();
                    for (nth, key) in (0..EACH).zip(keys.iter().cycle()) {
                        let now = at(i64::try_from(nth).unwrap() * 1000);
                        recorder.count(key, Outcome::Valid, 3, None, now).unwrap();
                    }
                })
            })
            .collect();
        let (recorder, done) = (&recorder, &done);
        let taking = scope.spawn(move || {
            let (mut requests, mut cost, mut nth) = (0, 0, 0_u64);
            loop {
                let last = done.load(Ordering::SeqCst);
                let batch = recorder.take();
                nth += 1;
                if nth.is_multiple_of(2) && !last {
                    recorder.put_back(batch);
                } else {
                    let taken = sums(&batch);
                    (requests, cost) = (requests + taken.0, cost + taken.1);
                }
                if last {
                    return (requests, cost);
                }
            }
        });
        counting.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::SeqCst);
        (requests, cost) = taking.join().unwrap();
    });
    assert_eq!((requests, cost), (4 * EACH, 4 * EACH * 3));
}

#[test]
fn i10_a_key_too_many_is_refused_and_known_ones_still_count() {
    let recorder = Recorder::default();
    let max = MAX_ROWS / SHARDS;
    // All in one shard: they are SHARDS apart.
    let key = |nth: usize| credential(i64::try_from(nth * SHARDS).unwrap());
    let known = key(0);
    for nth in 0..max {
        // The hour makes the row as well as the key does.
        let hour = at(i64::try_from(nth).unwrap() * Interval::Hour.millis());
        recorder.count(&known, Outcome::Valid, 1, None, hour).unwrap();
    }
    // Who asks before it spends hears the same, and a key that is counted already needs no more room.
    assert_eq!(recorder.reserve(&key(1), at(0)).unwrap_err().code, Code::Unavailable);
    recorder.reserve(&known, at(0)).unwrap();
    let refused = recorder.count(&key(1), Outcome::Revoked, 0, None, at(0)).unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (Code::Unavailable, Some(1)));
    recorder.count(&known, Outcome::Valid, 1, None, at(0)).unwrap();
    recorder.count(&credential(1), Outcome::Valid, 1, None, at(0)).unwrap();

    let batch = recorder.take();
    assert_eq!(sums(&batch).0, max as u64 + 2);
    assert!(batch.denials.is_empty(), "what isn't counted isn't logged either");
    recorder.count(&key(1), Outcome::Valid, 1, None, at(0)).unwrap();
    recorder.put_back(batch);
    assert_eq!(sums(&recorder.take()).0, max as u64 + 3);
}

#[test]
fn denials_fold_by_minute_code_and_key_or_address() {
    let recorder = Recorder::default();
    let (one, two) = (credential(1), credential(2));
    for (key, code, from, now) in [
        (&one, Outcome::Revoked, "192.0.2.1", 5),
        (&one, Outcome::Revoked, "192.0.2.2", 7),
        (&one, Outcome::Expired, "192.0.2.1", 8),
        (&two, Outcome::Revoked, "192.0.2.1", 9),
        (&one, Outcome::Revoked, "192.0.2.3", MINUTE),
    ] {
        recorder.count(key, code, 0, ip(from), at(now)).unwrap();
    }
    for (organization, from, now) in [
        (None, "::ffff:192.0.2.1", 20),
        (None, "192.0.2.1", 21),
        (Some("org_1"), "192.0.2.1", 22),
        (None, "2001:db8:1:2::3", 23),
        (None, "2001:db8:1:2:ffff::4", 24),
        (None, "2001:db8:1:3::3", 25),
    ] {
        recorder.deny_unknown(Outcome::NotFound, organization, ip(from), at(now));
    }
    recorder.deny_unknown(Outcome::NotFound, None, None, at(26));
    let denials = recorder.take().denials;
    let told: Vec<_> = denials
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
        ("1", "REVOKED", "192.0.2.3", 1, MINUTE),
    ]
    .map(|(aggregation_key, code, from, count, last)| {
        (aggregation_key.to_owned(), code, from.to_owned(), count, last)
    });
    assert_eq!(told, expected);
    assert!(recorder.take().denials.is_empty());
}

/// Also across the batches of one minute: otherwise a flood would leave a thousand rows a second.
#[test]
fn i10_a_minute_has_a_bounded_number_of_rows_and_loses_none() {
    let recorder = Recorder::default();
    let address = |nth: usize| Some(IpAddr::from(u32::try_from(nth).unwrap().to_be_bytes()));
    let half = MAX_AGGREGATED / 2;
    let mut rows = Vec::new();
    for piece in 0..4 {
        for nth in 0..half {
            recorder.deny_unknown(Outcome::NotFound, Some("org_1"), address(piece * half + nth), at(1000));
        }
        let taken = recorder.take().denials;
        if piece == 3 {
            recorder.put_back(Batch { denials: taken, ..Batch::default() });
            rows.extend(recorder.take().denials);
        } else {
            rows.extend(taken);
        }
    }
    let (rest, told): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.aggregation_key == AggregationKey::Rest);
    assert_eq!(told.len(), MAX_AGGREGATED);
    assert!(told.iter().all(|row| row.count == 1));
    let of_rest: Vec<_> =
        rest.iter().map(|row| (row.count, row.code, row.organization_id.as_deref(), row.ip)).collect();
    assert_eq!(of_rest, [(half as u64, None, None, None); 2]);

    // The next minute has room again, and a row that was written and comes again is one of that minute.
    recorder.deny_unknown(Outcome::NotFound, None, address(1), at(MINUTE));
    assert_eq!(recorder.take().denials.len(), 1);
    recorder.deny_unknown(Outcome::NotFound, None, address(1), at(MINUTE + 1));
    recorder.deny_unknown(Outcome::NotFound, None, address(2), at(MINUTE + 1));
    let taken = recorder.take().denials;
    assert_eq!(
        taken.iter().map(|row| (row.count, row.aggregation_key != AggregationKey::Rest)).collect::<Vec<_>>(),
        [(1, true); 2]
    );
}

#[test]
fn pieces_are_the_batch() {
    let recorder = Recorder::default();
    for seq in 0..25 {
        recorder.count(&credential(seq), Outcome::Disabled, 0, None, at(0)).unwrap();
    }
    let pieces = recorder.take().pieces(10);
    let sizes: Vec<_> = pieces.iter().map(|piece| (piece.counted.len(), piece.denials.len())).collect();
    assert_eq!(sizes, [(10, 10), (10, 10), (5, 5)]);
    pieces.into_iter().for_each(|piece| recorder.put_back(piece));
    let whole = recorder.take();
    assert_eq!((sums(&whole).0, whole.denials.len()), (25, 25));
    assert!(recorder.take().pieces(10).is_empty());
}
