//! Tests of renewals: leases that are written ahead of need.

use super::*;

#[tokio::test]
async fn no_caller_waits_for_a_renewal_while_units_are_left() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    for used in 1..5 {
        assert_eq!(take(&quotas, 1000, 1).await, (QuotaDecision::Spent, 1000 - used));
    }
    assert!(!quotas.is_renewing());
    let permits = store.block_writes();
    // The fifth of ten units begins the renewal.
    for used in 5..=10 {
        assert_eq!(take(&quotas, 1000, 1).await, (QuotaDecision::Spent, 1000 - used));
        assert!(quotas.is_renewing());
    }
    assert_eq!(store.stored_units(daily_quota(1000)), 10);
    let waiting = spawn_take(&quotas, 1000, 1);
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!waiting.is_finished(), "all leased units are used");
    assert_eq!(store.writes_begun.load(Ordering::SeqCst), 2, "the caller waits for the renewal");
    store.write_permits.add_permits(permits);
    assert_eq!(waiting.await.unwrap(), (QuotaDecision::Spent, 989));
    wait_until(|| !quotas.is_renewing()).await;
    quotas.close().await.unwrap();
    assert_eq!((store.stored_units(daily_quota(1000)), quotas.forfeitable_units()), (11, 0));
}

#[tokio::test]
async fn a_failing_renewal_is_not_repeated_with_each_call_and_spends_nothing() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    assert_eq!(take(&quotas, 10_000, 1).await, (QuotaDecision::Spent, 9_999));
    store.writes_fail.store(true, Ordering::SeqCst);
    for used in 2..=100 {
        assert_eq!(take(&quotas, 10_000, 1).await, (QuotaDecision::Spent, 10_000 - used));
        wait_until(|| !quotas.is_renewing()).await;
    }
    // With 50, 25, 12, 6, 3, 1 and 0 units left.
    assert_eq!(store.writes_begun.load(Ordering::SeqCst), 1 + 7);
    let refused = quotas.take(KEY, daily_quota(10_000), 1, at_second(0), || true).await;
    assert_eq!(refused.unwrap_err().message, "full");
    store.writes_fail.store(false, Ordering::SeqCst);
    assert_eq!(take(&quotas, 10_000, 1).await, (QuotaDecision::Spent, 9_899));
    quotas.close().await.unwrap();
    assert_eq!(store.stored_units(daily_quota(10_000)), 101);
}

/// Otherwise the renewal could overwrite the returned or a later lease.
#[tokio::test]
async fn units_are_returned_only_after_their_renewal() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    take(&quotas, 1000, 1).await;
    let permits = store.block_writes();
    take(&quotas, 1000, 4).await;
    quotas.release_idle(SECOND, at_second(60)).await.unwrap();
    assert_eq!(quotas.len(), 1, "an entry that is being renewed is not idle");
    let closer = quotas.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!closing.is_finished());
    store.write_permits.add_permits(permits);
    closing.await.unwrap().unwrap();
    assert_eq!((store.stored_units(daily_quota(1000)), store.write_count()), (5, 3));
}
