//! Tests of the release of all units at a stop, and of periods that have ended.

use super::*;

#[tokio::test]
async fn closing_waits_for_leases_under_way_and_refuses_more() {
    let keys = Keys::new();
    for key in 100..2300 {
        keys.try_take(key, 1000, 1, at_second(0)).await.unwrap();
    }
    let permits = keys.store.block_writes();
    let last = keys.spawn_take(1000, 2);
    wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 2201).await;
    let closer = keys.leases.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    yield_often().await;
    assert!(!closing.is_finished());
    keys.store.write_permits.add_permits(permits);
    assert_eq!(last.await.unwrap(), (Charged, 998));
    closing.await.unwrap().unwrap();
    assert_eq!((keys.store.stored_units(), keys.leases.len()), (2, 0));
    assert_eq!(keys.store.rows.lock().values().filter(|units| **units == 1).count(), 2200);
    assert_eq!(keys.store.write_count(), 2201 + 3, "a thousand at once");
    assert!(keys.ask(KEY, &[daily(1000)], 1, Mode::Ask, at_second(0)).await.is_err());
}

/// Its denial is the right answer, whether or not it can say what is left.
#[tokio::test]
async fn a_request_that_is_denied_anyway_is_denied_during_a_stop() {
    let keys = Keys::new();
    keys.leases.close().await.unwrap();
    let limits = [daily(1000), window(7)];
    let (_, remaining) = keys.ask(KEY, &limits, 1, Mode::Tell, at_second(0)).await.unwrap();
    assert_eq!(remaining, [7], "the quota can't be read any more");
}

#[tokio::test]
async fn closing_during_a_release_releases_the_units_once() {
    let keys = Keys::new();
    keys.take(1000, 3).await;
    let permits = keys.store.block_writes();
    let releaser = keys.leases.clone();
    let closer = keys.leases.clone();
    let releasing = tokio::spawn(async move { releaser.release_idle(SECOND, at_second(1)).await });
    wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 2).await;
    let closing = tokio::spawn(async move { closer.close().await });
    yield_often().await;
    keys.store.write_permits.add_permits(permits);
    releasing.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!((keys.store.stored_units(), keys.store.write_count()), (3, 2));
}

#[tokio::test]
async fn a_quota_of_a_period_that_ended_is_released() {
    let keys = Keys::new();
    keys.take(1000, 3).await;
    let tomorrow = at_second(86_400);
    assert_eq!(keys.try_take(KEY, 1000, 1, tomorrow).await.unwrap(), (Charged, 999));
    keys.leases.release_idle(SECOND * 100_000, tomorrow).await.unwrap();
    assert_eq!(
        (keys.store.stored_units(), keys.leases.len()),
        (3, 1),
        "the earlier day's units are returned"
    );
    assert_eq!(keys.leases.forfeitable_units(), 9, "the current day's are kept");
}
