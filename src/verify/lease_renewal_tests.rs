//! Tests of renewals: leases that are written ahead of need.

use super::*;

#[tokio::test]
async fn no_caller_waits_for_a_renewal_while_units_are_left() {
    let keys = Keys::new();
    for used in 1..5 {
        assert_eq!(keys.take(1000, 1).await, (Charged, 1000 - used));
    }
    assert!(!keys.leases.is_busy());
    let permits = keys.store.block_writes();
    // The fifth of ten units begins the renewal.
    for used in 5..=10 {
        assert_eq!(keys.take(1000, 1).await, (Charged, 1000 - used));
        assert!(keys.leases.is_busy());
    }
    assert_eq!(keys.store.stored_units(), 10);
    let waiting = keys.spawn_take(1000, 1);
    yield_often().await;
    assert!(!waiting.is_finished(), "all leased units are used");
    assert_eq!(keys.store.writes_begun.load(Ordering::SeqCst), 2, "the caller waits for the renewal");
    keys.store.write_permits.add_permits(permits);
    assert_eq!(waiting.await.unwrap(), (Charged, 989));
    wait_until(|| !keys.leases.is_busy()).await;
    keys.leases.close().await.unwrap();
    assert_eq!((keys.store.stored_units(), keys.leases.forfeitable_units()), (11, 0));
}

#[tokio::test]
async fn a_failing_renewal_is_not_repeated_with_each_call_and_spends_nothing() {
    let keys = Keys::new();
    assert_eq!(keys.take(10_000, 1).await, (Charged, 9_999));
    keys.store.writes_fail.store(true, Ordering::SeqCst);
    for used in 2..=100 {
        assert_eq!(keys.take(10_000, 1).await, (Charged, 10_000 - used));
        wait_until(|| !keys.leases.is_busy()).await;
    }
    // With 50, 25, 12, 6, 3, 1 and 0 units left.
    assert_eq!(keys.store.writes_begun.load(Ordering::SeqCst), 1 + 7);
    let refused = keys.try_take(KEY, 10_000, 1, at_second(0)).await;
    assert_eq!(refused.unwrap_err().message, "full");
    keys.store.writes_fail.store(false, Ordering::SeqCst);
    assert_eq!(keys.take(10_000, 1).await, (Charged, 9_899));
    keys.leases.close().await.unwrap();
    assert_eq!(keys.store.stored_units(), 101);
}

/// Otherwise the renewal could overwrite the returned or a later lease.
#[tokio::test]
async fn units_are_returned_only_after_their_renewal() {
    let keys = Keys::new();
    keys.take(1000, 1).await;
    let permits = keys.store.block_writes();
    keys.take(1000, 4).await;
    keys.leases.release_idle(SECOND, at_second(60)).await.unwrap();
    assert_eq!(keys.leases.len(), 1, "a quota that is being renewed is not idle");
    let closer = keys.leases.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    yield_often().await;
    assert!(!closing.is_finished());
    keys.store.write_permits.add_permits(permits);
    closing.await.unwrap().unwrap();
    assert_eq!((keys.store.stored_units(), keys.store.write_count()), (5, 3));
}
