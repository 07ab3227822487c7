use std::sync::Barrier;

use super::*;

const START: Duration = Duration::from_secs(1_000);
const MINUTE: Duration = Duration::from_secs(60);

fn per_minute(tokens: u32) -> BucketLimit {
    BucketLimit { tokens, window: MINUTE }
}

fn key_ids(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("key_{index}")).collect()
}

/// Takes tokens until a call is refused. Returns the number of admitted calls.
fn take_until_refused(buckets: &CallBuckets, limits: &CallLimits<'_>, now: Duration) -> u32 {
    let is_admitted = |decision: CallDecision| {
        decision.key.allowed && decision.organization.is_none_or(|organization| organization.allowed)
    };
    let mut admitted = 0;
    while is_admitted(buckets.take(limits, now)) {
        admitted += 1;
    }
    admitted
}

/// Threads with many keys of one organization race for its tokens, while time passes.
#[test]
fn i7_racing_keys_of_an_organization_are_admitted_exactly_up_to_its_limit() {
    const THREADS: usize = 8;
    const CALLS: u64 = 20_000;
    // A token of a key is refilled in 1.2 s, one of the organization in 0.24 s.
    let (key_limit, organization_limit) = (per_minute(50), per_minute(250));
    let buckets = CallBuckets::new(1_000);
    let ids = key_ids(40);
    let organization_id = "org_1".to_owned();
    let barrier = Barrier::new(THREADS);
    let admitted_by_thread: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let buckets = &buckets;
                let ids = &ids;
                let organization_id = &organization_id;
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut admitted = vec![0; ids.len()];
                    barrier.wait();
                    for call in 0..CALLS {
                        let index = (call as usize * 7 + thread) % ids.len();
                        let limits = CallLimits {
                            key: (&ids[index], key_limit),
                            organization: Some((organization_id, organization_limit)),
                        };
                        let decision = buckets.take(&limits, START + Duration::from_millis(call));
                        let organization = decision.organization.unwrap();
                        admitted[index] += u32::from(decision.key.allowed && organization.allowed);
                    }
                    admitted
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let admitted_of_key = |index: usize| admitted_by_thread.iter().map(|admitted| admitted[index]).sum();
    let end = START + Duration::from_millis(CALLS - 1);
    // 250 at once, and one more in each 240 ms.
    let total: u32 = (0..ids.len()).map(admitted_of_key).sum();
    assert_eq!(total, 250 + (CALLS as u32 - 1) / 240);
    // No key has lost a token to a call that the organization's limit refused.
    let others = "org_2".to_owned();
    for (index, id) in ids.iter().enumerate() {
        let used: u32 = admitted_of_key(index);
        let limits =
            CallLimits { key: (id, key_limit), organization: Some((&others, per_minute(1_000_000))) };
        let left = take_until_refused(&buckets, &limits, end);
        assert!(used + left >= 50 && used + left <= 50 + (CALLS as u32) / 1_200, "{used} and {left}");
    }
}

#[test]
fn i8_a_call_that_one_bucket_refuses_takes_no_token_from_the_other() {
    let buckets = CallBuckets::new(10);
    let ids = key_ids(3);
    let organization_id = "org_1".to_owned();
    let limits = |index: usize| CallLimits {
        key: (&ids[index], per_minute(2)),
        organization: Some((&organization_id, per_minute(3))),
    };
    let remaining = |index: usize| {
        let decision = buckets.peek(&limits(index), START);
        (decision.key.remaining, decision.organization.unwrap().remaining)
    };
    assert_eq!(take_until_refused(&buckets, &limits(0), START), 2);
    let refused = buckets.take(&limits(0), START);
    assert_eq!((refused.key.allowed, refused.organization.unwrap().allowed), (false, true));
    assert_eq!(refused.key.retry_after, MINUTE / 2);
    assert_eq!(remaining(1), (2, 1), "the key's refusal cost the organization nothing");
    assert_eq!(take_until_refused(&buckets, &limits(1), START), 1);
    let refused = buckets.take(&limits(1), START);
    assert_eq!((refused.key.allowed, refused.organization.unwrap().allowed), (true, false));
    assert_eq!(refused.organization.unwrap().retry_after, MINUTE / 3);
    assert_eq!(remaining(1), (1, 0), "the organization's refusal cost the key nothing");
    // The key's token is available as soon as the organization has one.
    let later = START + MINUTE / 3;
    assert_eq!(take_until_refused(&buckets, &limits(1), later), 1);
}

#[test]
fn i10_calls_that_the_organizations_limit_refuses_create_no_buckets() {
    let buckets = CallBuckets::new(1_000);
    let ids = key_ids(1_000);
    let organization_id = "org_1".to_owned();
    for id in &ids {
        let limits =
            CallLimits { key: (id, per_minute(1)), organization: Some((&organization_id, per_minute(5))) };
        buckets.take(&limits, START);
    }
    assert_eq!((buckets.keys.len(), buckets.organizations.len()), (5, 1));
    buckets.sweep(START + MINUTE);
    assert_eq!((buckets.keys.len(), buckets.organizations.len()), (0, 0));
}
