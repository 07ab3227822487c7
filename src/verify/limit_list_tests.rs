//! Tests of lists of limits that change while decisions wait.

use super::*;

fn tokens() -> Meter {
    Meter::parse("tokens").unwrap()
}

fn daily_tokens(limit: u64) -> Limit {
    Limit { meter: tokens(), limit, span: LimitSpan::Period(Period::Day) }
}

fn hourly(limit: u64) -> Limit {
    Limit { meter: Meter::REQUESTS, limit, span: LimitSpan::Window(3600) }
}

/// A decision fetches its list before it waits for a lease. Meanwhile a limit was added and used up.
#[tokio::test]
async fn i7_a_decision_with_an_older_list_forgets_no_limit_of_the_newer_one() {
    let keys = Keys::new();
    let charge = async |limits: &[Limit], version, meters: &[Meter]| {
        let state = keys.state(KEY);
        let costs: Vec<_> = meters.iter().map(|meter| Cost { meter: *meter, units: 1 }).collect();
        let key = OwnedLimits { owner: LimitOwner::Key, limits, version, state: &state };
        let request =
            LimitRequest { key, organization: None, costs: &costs, mode: Mode::Charge, at: at_second(0) };
        !decide_at_last(&keys.leases, &request, |_| ()).await.unwrap().is_refusal()
    };
    let older = [daily_tokens(1000)];
    let newer = [daily_tokens(1000), hourly(5)];
    let permits = keys.store.block_writes();
    let both = [Meter::REQUESTS, tokens()];
    let waiting = charge(&older, 1, &both);
    let meanwhile = async {
        wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 1).await;
        for _ in 0..5 {
            assert!(charge(&newer, 2, &[Meter::REQUESTS]).await);
        }
        keys.store.write_permits.add_permits(permits);
    };
    let (is_charged, ()) = tokio::join!(waiting, meanwhile);
    assert!(is_charged, "the limits of its own list admit it");
    assert!(!charge(&newer, 2, &[Meter::REQUESTS]).await, "five were charged");
    // A later list forgets the bucket, which is full when the limit is added again.
    assert!(charge(&older, 3, &[Meter::REQUESTS]).await);
    assert!(charge(&newer, 4, &[Meter::REQUESTS]).await);
}
