//! Tests of [`super`] over a store whose writes can be blocked and made to fail. Tests with a real database
//! are in `tests/it`.

use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use tokio::task::{JoinHandle, yield_now};

use super::*;

#[path = "quota_renewal_tests.rs"]
mod renewals;

/// A store of leases in memory, which counts reads and writes.
struct TestStore {
    rows: StdMutex<HashMap<QuotaId, QuotaLease>>,
    writes_fail: AtomicBool,
    /// Each write holds a permit while it runs. When there are no permits, writes are blocked.
    write_permits: Semaphore,
    writes_begun: AtomicUsize,
    writes_done: AtomicUsize,
    reads: AtomicUsize,
    /// Keys that are being written, to assert that no key is written concurrently.
    keys_being_written: StdMutex<Vec<i64>>,
}

impl TestStore {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: StdMutex::default(),
            writes_fail: AtomicBool::new(false),
            write_permits: Semaphore::new(1000),
            writes_begun: AtomicUsize::new(0),
            writes_done: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            keys_being_written: StdMutex::default(),
        })
    }

    async fn write(&self, leases: Vec<QuotaLease>) -> Result<()> {
        {
            let mut keys_being_written = self.keys_being_written.lock().unwrap();
            for lease in &leases {
                assert!(!keys_being_written.contains(&lease.key), "two concurrent writes of one key");
                keys_being_written.push(lease.key);
            }
        }
        self.writes_begun.fetch_add(1, Ordering::SeqCst);
        let permit = self.write_permits.acquire().await.unwrap();
        yield_now().await;
        drop(permit);
        self.keys_being_written.lock().unwrap().retain(|key| !leases.iter().any(|lease| lease.key == *key));
        if self.writes_fail.load(Ordering::SeqCst) {
            return Err(Error::unavailable("full", 1));
        }
        self.writes_done.fetch_add(1, Ordering::SeqCst);
        let rows = leases.into_iter().map(|lease| ((lease.key, lease.period, lease.start), lease));
        self.rows.lock().unwrap().extend(rows);
        Ok(())
    }

    /// Blocks writes until the returned number of permits is added to `write_permits`.
    fn block_writes(&self) -> usize {
        self.write_permits.forget_permits(1000)
    }

    fn stored_units(&self, quota: Quota) -> u64 {
        let (start, _) = quota.period.bounds_at(at_second(0));
        self.rows.lock().unwrap().get(&(KEY, quota.period, start)).map_or(0, |lease| lease.units)
    }

    fn write_count(&self) -> usize {
        self.writes_done.load(Ordering::SeqCst)
    }
}

fn quotas_over(store: &Arc<TestStore>, capacity: usize) -> Quotas {
    let reader = store.clone();
    let writer = store.clone();
    Quotas::new(
        capacity,
        move |key, period, start| {
            let store = reader.clone();
            Box::pin(async move {
                store.reads.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                Ok(store.rows.lock().unwrap().get(&(key, period, start)).map(|lease| lease.units))
            })
        },
        move |leases| {
            let store = writer.clone();
            Box::pin(async move { store.write(leases).await })
        },
    )
}

const KEY: i64 = 7;
const SECOND: Duration = Duration::from_secs(1);

fn daily_quota(limit: u64) -> Quota {
    Quota { limit, period: Period::Day }
}

/// The time this number of seconds after the start of a certain day.
fn at_second(seconds: i64) -> Timestamp {
    Timestamp::from_millis(20_000 * 86_400_000 + seconds * 1000)
}

async fn take(quotas: &Quotas, limit: u64, cost: u32) -> (QuotaDecision, u64) {
    let (decision, status) = quotas.take(KEY, daily_quota(limit), cost, at_second(0), || true).await.unwrap();
    (decision, status.remaining)
}

/// Calls [`take`] in a task that can be aborted.
fn spawn_take(quotas: &Quotas, limit: u64, cost: u32) -> JoinHandle<(QuotaDecision, u64)> {
    let quotas = quotas.clone();
    tokio::spawn(async move { take(&quotas, limit, cost).await })
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            yield_now().await;
        }
    };
    tokio::time::timeout(30 * SECOND, waiting).await.expect("the condition did not become true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_concurrent_callers_spend_exactly_the_quota() {
    for (limit, cost) in [(1, 1), (7, 1), (7, 3), (100, 1), (100, 7), (1000, 1), (1000, 13), (1000, 1001)] {
        let store = TestStore::new();
        let quotas = quotas_over(&store, 10);
        // The bucket refuses every third call.
        let bucket_calls = Arc::new(AtomicU32::new(0));
        let bucket_admitted = Arc::new(AtomicU32::new(0));
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let quotas = quotas.clone();
                let bucket_calls = bucket_calls.clone();
                let bucket_admitted = bucket_admitted.clone();
                tokio::spawn(async move {
                    let mut spent = 0;
                    for _ in 0..60 {
                        let bucket = || {
                            let admits = !bucket_calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
                            bucket_admitted.fetch_add(admits.into(), Ordering::SeqCst);
                            admits
                        };
                        let result =
                            quotas.take(KEY, daily_quota(limit), cost, at_second(0), bucket).await.unwrap();
                        spent += u32::from(result.0 == QuotaDecision::Spent);
                    }
                    spent
                })
            })
            .collect();
        let mut spent = 0;
        for caller in callers {
            spent += caller.await.unwrap();
        }
        let max = u32::try_from(limit).unwrap() / cost;
        assert_eq!(spent, max, "limit {limit}, cost {cost}");
        assert_eq!(bucket_admitted.load(Ordering::SeqCst), spent, "the bucket has spent only for these");
        let used = u64::from(spent * cost);
        assert_eq!(
            quotas.peek(KEY, daily_quota(limit), 1, at_second(0)).await.unwrap().1.remaining,
            limit - used
        );
        let lease = u64::from(cost).max(daily_quota(limit).lease_units());
        // A lease is renewed when half of it is used.
        assert!(store.write_count() as u64 <= 2 * used.div_ceil(lease) + 1, "{} writes", store.write_count());
        quotas.close().await.unwrap();
        assert_eq!(store.stored_units(daily_quota(limit)), used);
    }
}

#[tokio::test]
async fn concurrent_callers_of_a_key_share_one_quota_lease() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    let permits = store.block_writes();
    let callers: Vec<_> = (0..40).map(|_| spawn_take(&quotas, 10_000, 1)).collect();
    wait_until(|| store.writes_begun.load(Ordering::SeqCst) == 1).await;
    let others = quotas.take(KEY + 1, daily_quota(10), 0, at_second(0), || true);
    assert_eq!(others.await.unwrap().0, QuotaDecision::Spent, "another key's caller doesn't wait");
    store.write_permits.add_permits(permits);
    for caller in callers {
        assert_eq!(caller.await.unwrap().0, QuotaDecision::Spent);
    }
    assert_eq!((store.write_count(), store.stored_units(daily_quota(10_000))), (1, 100));
    assert_eq!(store.reads.load(Ordering::SeqCst), 2, "once for each key");
}

#[tokio::test]
async fn i8_a_failed_lease_write_spends_no_units_and_is_retried() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    store.writes_fail.store(true, Ordering::SeqCst);
    let mut bucket_called = false;
    for _ in 0..3 {
        let result = quotas.take(KEY, daily_quota(100), 5, at_second(0), || {
            bucket_called = true;
            true
        });
        assert_eq!(result.await.unwrap_err().message, "full");
    }
    assert!(!bucket_called, "the bucket has spent");
    assert_eq!(store.writes_begun.load(Ordering::SeqCst), 3);
    store.writes_fail.store(false, Ordering::SeqCst);
    assert_eq!(take(&quotas, 100, 5).await, (QuotaDecision::Spent, 95));
    // Units that could not be released are released by a retry; until then they can be leased again.
    assert_eq!(take(&quotas, 1000, 1).await, (QuotaDecision::Spent, 994));
    assert_eq!(store.stored_units(daily_quota(1000)), 15);
    store.writes_fail.store(true, Ordering::SeqCst);
    assert!(quotas.release_idle(SECOND, at_second(1)).await.is_err());
    assert!(quotas.take(KEY, daily_quota(1000), 1, at_second(1), || true).await.is_err());
    store.writes_fail.store(false, Ordering::SeqCst);
    quotas.release_idle(SECOND, at_second(2)).await.unwrap();
    assert_eq!((store.stored_units(daily_quota(1000)), quotas.len()), (6, 0));
    assert_eq!(take(&quotas, 1000, 1).await, (QuotaDecision::Spent, 993));
}

#[tokio::test]
async fn an_aborted_caller_loses_no_quota_units() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    let permits = store.block_writes();
    let aborted = spawn_take(&quotas, 1000, 1);
    wait_until(|| store.writes_begun.load(Ordering::SeqCst) == 1).await;
    let waiting = spawn_take(&quotas, 1000, 1);
    yield_now().await;
    aborted.abort();
    assert!(aborted.await.unwrap_err().is_cancelled());
    assert!(!waiting.is_finished(), "the write is still under way");
    store.write_permits.add_permits(permits);
    assert_eq!(waiting.await.unwrap(), (QuotaDecision::Spent, 999), "the aborted caller spent nothing");
    assert_eq!((store.write_count(), store.stored_units(daily_quota(1000))), (1, 10));
    quotas.close().await.unwrap();
    assert_eq!(store.stored_units(daily_quota(1000)), 1);
}

/// Shown for a release that completes, and for one whose caller is aborted.
#[tokio::test]
async fn a_call_during_a_quota_release_waits_and_sees_the_remaining_units() {
    for aborts in [false, true] {
        let store = TestStore::new();
        let quotas = quotas_over(&store, 10);
        assert_eq!(take(&quotas, 1000, 3).await, (QuotaDecision::Spent, 997));
        let permits = store.block_writes();
        let releaser = quotas.clone();
        let releasing = tokio::spawn(async move { releaser.release_idle(SECOND, at_second(1)).await });
        wait_until(|| store.writes_begun.load(Ordering::SeqCst) == 2).await;
        if aborts {
            releasing.abort();
        }
        let callers: Vec<_> = (0..5).map(|_| spawn_take(&quotas, 1000, 1)).collect();
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(callers.iter().all(|caller| !caller.is_finished()), "units are spent while being released");
        assert_eq!(store.stored_units(daily_quota(1000)), 10);
        store.write_permits.add_permits(permits);
        let mut remaining = Vec::new();
        for caller in callers {
            remaining.push(caller.await.unwrap().1);
        }
        remaining.sort_unstable();
        assert_eq!(remaining, [992, 993, 994, 995, 996]);
        assert_eq!(store.stored_units(daily_quota(1000)), 13, "three were used, then ten leased");
        assert_eq!((releasing.await.is_err(), quotas.len()), (aborts, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_and_aborted_callers_lose_no_quota_units() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    let stop = Arc::new(AtomicBool::new(false));
    let releaser = quotas.clone();
    let stopped = stop.clone();
    let releasing = tokio::spawn(async move {
        while !stopped.load(Ordering::SeqCst) {
            releaser.release_idle(Duration::ZERO, at_second(0)).await.unwrap();
            yield_now().await;
        }
    });
    let spent = Arc::new(AtomicU32::new(0));
    let callers: Vec<_> = (0..64)
        .map(|index| {
            let quotas = quotas.clone();
            let spent = spent.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    let bucket = || spent.fetch_add(1, Ordering::SeqCst) < u32::MAX;
                    let call = quotas.take(KEY, daily_quota(3000), 1, at_second(0), bucket);
                    if index % 8 == 0 {
                        // The timeout of zero drops the call at its first wait.
                        let _ = tokio::time::timeout(Duration::ZERO, call).await;
                    } else {
                        call.await.unwrap();
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    releasing.await.unwrap();
    assert_eq!(spent.load(Ordering::SeqCst), 3000);
    assert_eq!(take(&quotas, 3000, 1).await, (QuotaDecision::Exceeded, 0));
    quotas.close().await.unwrap();
    assert_eq!(store.stored_units(daily_quota(3000)), 3000);
}

#[tokio::test]
async fn a_quota_peek_spends_and_leases_no_units() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    let peek = async |cost| {
        let (admitted, status) = quotas.peek(KEY, daily_quota(10), cost, at_second(3600)).await.unwrap();
        assert_eq!(status.resets_at, at_second(86_400));
        (admitted, status.remaining)
    };
    assert_eq!((peek(10).await, peek(11).await, store.write_count()), ((true, 10), (false, 10), 0));
    assert_eq!(take(&quotas, 10, 4).await, (QuotaDecision::Spent, 6));
    assert_eq!((peek(6).await, peek(7).await, store.write_count()), ((true, 6), (false, 6), 1));
    let refused = quotas.take(KEY, daily_quota(10), 6, at_second(0), || false).await.unwrap();
    assert_eq!((refused.0, peek(6).await), (QuotaDecision::RateLimited, (true, 6)));
    assert_eq!(store.reads.load(Ordering::SeqCst), 1);
    // The limit is lowered and raised; the period is changed and changed back.
    assert_eq!(take(&quotas, 3, 1).await, (QuotaDecision::Exceeded, 0));
    assert_eq!(take(&quotas, 5, 1).await, (QuotaDecision::Spent, 0));
    assert_eq!(take(&quotas, 100, 1).await, (QuotaDecision::Spent, 94));
    let month = Quota { limit: 100, period: Period::Month };
    assert_eq!(quotas.take(KEY, month, 1, at_second(0), || true).await.unwrap().1.remaining, 99);
    assert_eq!(take(&quotas, 100, 1).await, (QuotaDecision::Spent, 93));
}

#[tokio::test]
async fn i10_a_full_quota_map_evicts_idle_keys_and_keeps_those_in_use() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 2);
    let call = async |key, seconds| quotas.take(key, daily_quota(1000), 1, at_second(seconds), || true).await;
    for key in [1, 2] {
        call(key, 0).await.unwrap();
    }
    let refused = call(3, 0).await.unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (crate::error::Code::Unavailable, Some(1)));
    call(1, 1).await.unwrap();
    assert_eq!(store.write_count(), 2);
    assert_eq!(call(3, 1).await.unwrap().1.remaining, 999, "key 2 was idle");
    assert_eq!(quotas.len(), 2);
    assert!(call(2, 1).await.is_err(), "both others were used just now");
    assert_eq!(call(2, 3).await.unwrap().1.remaining, 998, "only the unused units were released");
    // After the clock was set back, every key counts as idle.
    call(3, 3).await.unwrap();
    call(4, -86_400).await.unwrap();
}

#[tokio::test]
async fn i10_a_failed_quota_eviction_is_not_repeated_within_the_second() {
    let quotas = quotas_over(&TestStore::new(), 1);
    let call = async |key, millis| {
        let now = at_second(0) + Duration::from_millis(millis);
        quotas.take(key, daily_quota(1000), 1, now, || true).await.is_ok()
    };
    assert!(call(1, 500).await);
    assert!(!call(2, 1400).await, "key 1 is not idle yet");
    assert!(!call(2, 1600).await, "key 1 is idle, but there is no search");
    assert!(call(2, 2000).await);
}

#[tokio::test]
async fn i10_a_quota_eviction_does_not_block_other_keys() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 2);
    let call = async |key, seconds| quotas.take(key, daily_quota(1000), 1, at_second(seconds), || true).await;
    call(11, 0).await.unwrap();
    call(12, 2).await.unwrap();
    let permits = store.block_writes();
    let begun = store.writes_begun.load(Ordering::SeqCst);
    let new_key = quotas.clone();
    let new_key =
        tokio::spawn(async move { new_key.peek(13, daily_quota(1), 1, at_second(2)).await.unwrap().0 });
    wait_until(|| store.writes_begun.load(Ordering::SeqCst) > begun).await;
    assert_eq!(call(12, 2).await.unwrap().1.remaining, 998, "it doesn't wait");
    assert!(!new_key.is_finished());
    store.write_permits.add_permits(permits);
    assert!(new_key.await.unwrap());
}

#[tokio::test]
async fn closing_the_quotas_waits_for_leases_under_way_and_accepts_no_more_keys() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 5000);
    for key in 100..2300 {
        quotas.take(key, daily_quota(1000), 1, at_second(0), || true).await.unwrap();
    }
    let permits = store.block_writes();
    let last = spawn_take(&quotas, 1000, 2);
    wait_until(|| store.writes_begun.load(Ordering::SeqCst) == 2201).await;
    let closer = quotas.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!closing.is_finished());
    store.write_permits.add_permits(permits);
    assert_eq!(last.await.unwrap(), (QuotaDecision::Spent, 998));
    closing.await.unwrap().unwrap();
    assert_eq!((store.stored_units(daily_quota(1000)), quotas.len()), (2, 0));
    assert_eq!(store.rows.lock().unwrap().values().filter(|lease| lease.units == 1).count(), 2200);
    assert_eq!(store.write_count(), 2201 + 3, "a thousand at once");
    assert!(quotas.peek(KEY, daily_quota(1000), 1, at_second(0)).await.is_err());
}

#[tokio::test]
async fn closing_the_quotas_during_a_release_releases_the_units_once() {
    let store = TestStore::new();
    let quotas = quotas_over(&store, 10);
    take(&quotas, 1000, 3).await;
    let permits = store.block_writes();
    let releaser = quotas.clone();
    let closer = quotas.clone();
    let releasing = tokio::spawn(async move { releaser.release_idle(SECOND, at_second(1)).await });
    wait_until(|| store.writes_begun.load(Ordering::SeqCst) == 2).await;
    let closing = tokio::spawn(async move { closer.close().await });
    for _ in 0..100 {
        yield_now().await;
    }
    store.write_permits.add_permits(permits);
    releasing.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!((store.stored_units(daily_quota(1000)), store.write_count()), (3, 2));
}
