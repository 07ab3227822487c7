//! Tests of the lock that another process holds.

use super::*;

#[tokio::test]
async fn waiting_for_a_lock_of_another_process_is_bounded() {
    let (dir, db, committed) = open_new_database().await;
    let other = Connection::open(dir.path().join("tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (n) VALUES (1)").unwrap();
    let waiting = poll_once(db.write(|tx| insert_row(tx, 2, 1))).await;
    other.execute_batch("COMMIT; BEGIN IMMEDIATE").unwrap();
    let invalidations = committed.recv_timeout(TEST_TIMEOUT).unwrap();
    // It succeeds if it happened to get the lock between the two transactions.
    if let Err(error) = waiting.await {
        assert_eq!((error.code, error.retry_after), (Code::Unavailable, Some(1)));
        assert_eq!(invalidations, [Invalidation::All]);
    }
    other.execute_batch("COMMIT").unwrap();
    db.write(|tx| insert_row(tx, 3, 1)).await.unwrap();
}

/// A mutation doesn't wait once more because it was queued behind one that waited.
#[tokio::test]
async fn no_mutation_waits_for_a_lock_of_another_process_for_longer_than_documented() {
    let (dir, db, _committed) = open_new_database().await;
    let other = Connection::open(dir.path().join("tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = db.0.clock.monotonic();
    let mut waiting = Vec::new();
    for n in 1..5 {
        waiting.push(poll_once(db.write(move |tx| insert_row(tx, n, 1))).await);
        // The writer takes the first mutation alone; the others are queued while it waits.
        while n == 1 && db.writer_metrics().queued_mutations > 0 {
            tokio::task::yield_now().await;
        }
    }
    for waiting in waiting {
        assert_eq!(error_code(waiting.await), Some(Code::Unavailable));
        let waited = db.0.clock.monotonic() - began;
        assert!((BUSY_TIMEOUT..BUSY_TIMEOUT + 3 * ONE_SECOND).contains(&waited), "{waited:?}");
    }
    other.execute_batch("COMMIT").unwrap();
    db.write(|tx| insert_row(tx, 5, 1)).await.unwrap();
    assert_eq!(stored_numbers(&db).await, [5]);
}
