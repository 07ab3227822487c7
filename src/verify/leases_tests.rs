//! Tests of quotas over a store whose writes can be blocked and made to fail. Tests with a real database are in
//! `tests/it`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::domain::limits::{Limit, LimitSpan, Period};
use crate::domain::meter::{Cost, Meter};
use crate::domain::time::Timestamp;
use crate::verify::decision::{LimitDecision, LimitOwner, LimitRequest, Mode, OwnedLimits, decide};

#[path = "lease_closing_tests.rs"]
mod closing;
#[path = "limit_list_tests.rs"]
mod lists;
#[path = "lease_renewal_tests.rs"]
mod renewals;
#[path = "lease_report_tests.rs"]
mod reports;

/// A store of leases in memory, which counts reads and writes.
struct TestStore {
    rows: Mutex<HashMap<QuotaId, u64>>,
    writes_fail: AtomicBool,
    /// Each write holds a permit while it runs. When there are no permits, writes are blocked.
    write_permits: Semaphore,
    writes_begun: AtomicUsize,
    writes_done: AtomicUsize,
    reads: AtomicUsize,
    /// Quotas that are being written, to assert that none is written concurrently.
    being_written: Mutex<Vec<QuotaId>>,
}

impl TestStore {
    async fn write(&self, leases: Vec<QuotaLease>) -> Result<()> {
        {
            let mut being_written = self.being_written.lock();
            for lease in &leases {
                assert!(!being_written.contains(&lease.id), "two concurrent writes of one quota");
                being_written.push(lease.id);
            }
        }
        self.writes_begun.fetch_add(1, Ordering::SeqCst);
        let permit = self.write_permits.acquire().await.unwrap();
        yield_now().await;
        drop(permit);
        self.being_written.lock().retain(|id| !leases.iter().any(|lease| lease.id == *id));
        if self.writes_fail.load(Ordering::SeqCst) {
            return Err(Error::unavailable("full", 1));
        }
        self.writes_done.fetch_add(1, Ordering::SeqCst);
        self.rows.lock().extend(leases.into_iter().map(|lease| (lease.id, lease.units)));
        Ok(())
    }

    /// Blocks writes until the returned number of permits is added to `write_permits`.
    fn block_writes(&self) -> usize {
        self.write_permits.forget_permits(1000)
    }

    fn stored_units(&self) -> u64 {
        let (start, _) = Period::Day.bounds_at(at_second(0).now);
        let id = QuotaId { subject: Subject::Key(KEY), meter: Meter::REQUESTS, period: Period::Day, start };
        self.rows.lock().get(&id).copied().unwrap_or(0)
    }

    fn write_count(&self) -> usize {
        self.writes_done.load(Ordering::SeqCst)
    }
}

const KEY: i64 = 7;
const SECOND: Duration = Duration::from_secs(1);

/// Whether a cost was charged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ChargeResult {
    Charged,
    QuotaExceeded,
    RateLimited,
}
use ChargeResult::{Charged, QuotaExceeded, RateLimited};

/// Keys with daily quotas over a test store.
#[derive(Clone)]
struct Keys {
    store: Arc<TestStore>,
    leases: Leases,
    states: Arc<Mutex<HashMap<i64, Arc<SubjectState>>>>,
}

/// Decides anew after each wait, with the same limits.
async fn decide_at_last(
    leases: &Leases,
    request: &LimitRequest<'_>,
    after: impl Fn(&LimitDecision),
) -> Result<LimitDecision> {
    loop {
        let decision = decide(leases, request, |_| Ok(()), |_, decision| after(decision)).await?;
        if let Some(decision) = decision {
            return Ok(decision);
        }
    }
}

impl Keys {
    fn new() -> Self {
        let store = Arc::new(TestStore {
            rows: Mutex::default(),
            writes_fail: AtomicBool::new(false),
            write_permits: Semaphore::new(1000),
            writes_begun: AtomicUsize::new(0),
            writes_done: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            being_written: Mutex::default(),
        });
        let reader = store.clone();
        let writer = store.clone();
        let read = move |id: QuotaId| -> ReadFuture {
            let store = reader.clone();
            Box::pin(async move {
                store.reads.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                Ok(store.rows.lock().get(&id).copied())
            })
        };
        let write = move |leases: Vec<QuotaLease>| -> WriteFuture {
            let store = writer.clone();
            Box::pin(async move { store.write(leases).await })
        };
        Self { store, leases: Leases::new(read, write), states: Arc::default() }
    }

    fn state(&self, key: i64) -> Arc<SubjectState> {
        let new = || Arc::new(SubjectState::new(Subject::Key(key), Subject::Organization(1)));
        self.states.lock().entry(key).or_insert_with(new).clone()
    }

    /// Asks these limits of a key.
    async fn ask(
        &self,
        key: i64,
        limits: &[Limit],
        cost: u32,
        mode: Mode,
        at: DecisionTime,
    ) -> Result<(ChargeResult, Vec<u64>)> {
        let state = self.state(key);
        let costs = [Cost { meter: Meter::REQUESTS, units: cost }];
        let key = OwnedLimits { owner: LimitOwner::Key, limits, version: 0, state: &state };
        let request = LimitRequest { key, organization: None, costs: &costs, mode, at };
        let decision = decide_at_last(&self.leases, &request, |_| ()).await?;
        let taken = match (decision.quota_refuses, decision.window_refuses) {
            (true, _) => QuotaExceeded,
            (_, true) => RateLimited,
            _ => Charged,
        };
        Ok((taken, decision.limits.iter().map(|status| status.remaining()).collect()))
    }

    /// Takes a cost from the daily quota of [`KEY`]; returns the units left.
    async fn take(&self, limit: u64, cost: u32) -> (ChargeResult, u64) {
        self.try_take(KEY, limit, cost, at_second(0)).await.unwrap()
    }

    async fn try_take(
        &self,
        key: i64,
        limit: u64,
        cost: u32,
        at: DecisionTime,
    ) -> Result<(ChargeResult, u64)> {
        let (taken, remaining) = self.ask(key, &[daily(limit)], cost, Mode::Charge, at).await?;
        Ok((taken, remaining[0]))
    }

    /// Calls [`take`](Self::take) in a task that can be aborted.
    fn spawn_take(&self, limit: u64, cost: u32) -> JoinHandle<(ChargeResult, u64)> {
        let keys = self.clone();
        tokio::spawn(async move { keys.take(limit, cost).await })
    }
}

fn daily(limit: u64) -> Limit {
    Limit { meter: Meter::REQUESTS, limit, span: LimitSpan::Period(Period::Day) }
}

/// A rate limit of `limit` units a day.
fn window(limit: u64) -> Limit {
    Limit { meter: Meter::REQUESTS, limit, span: LimitSpan::Window(86_400) }
}

/// The time this number of seconds after the start of a certain day.
fn at_second(seconds: u64) -> DecisionTime {
    let now = Timestamp::from_millis(20_000 * 86_400_000) + Duration::from_secs(seconds);
    DecisionTime { now, monotonic: Duration::from_secs(1000 + seconds) }
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            yield_now().await;
        }
    };
    tokio::time::timeout(30 * SECOND, waiting).await.expect("the condition did not become true");
}

async fn yield_often() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_concurrent_callers_spend_exactly_the_quota() {
    for (limit, cost) in [(1, 1), (7, 1), (7, 3), (100, 1), (100, 7), (1000, 1), (1000, 13), (1000, 1001)] {
        let keys = Keys::new();
        // A second limit, which has room for more.
        let limits = [daily(limit), window(limit + 5)];
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let keys = keys.clone();
                tokio::spawn(async move {
                    let mut charged = 0;
                    for _ in 0..60 {
                        let result = keys.ask(KEY, &limits, cost, Mode::Charge, at_second(0)).await.unwrap();
                        charged += u32::from(result.0 == Charged);
                    }
                    charged
                })
            })
            .collect();
        let mut charged = 0;
        for caller in callers {
            charged += caller.await.unwrap();
        }
        let max = u32::try_from(limit).unwrap() / cost;
        assert_eq!(charged, max, "limit {limit}, cost {cost}");
        let used = u64::from(charged * cost);
        let (_, remaining) = keys.ask(KEY, &limits, 1, Mode::Ask, at_second(0)).await.unwrap();
        assert_eq!(remaining, [limit - used, limit + 5 - used], "both limits were charged for these only");
        let lease = u64::from(cost).max(Limit::lease_units(limit));
        // A lease is renewed when half of it is used.
        let writes = keys.store.write_count();
        assert!(writes as u64 <= 2 * used.div_ceil(lease) + 1, "{writes} writes");
        keys.leases.close().await.unwrap();
        assert_eq!(keys.store.stored_units(), used);
    }
}

#[tokio::test]
async fn i8_a_refusal_by_one_limit_charges_no_other() {
    let keys = Keys::new();
    let ask =
        async |limits: &[Limit], cost| keys.ask(KEY, limits, cost, Mode::Charge, at_second(0)).await.unwrap();
    assert_eq!(ask(&[daily(10), window(5)], 6).await, (RateLimited, vec![10, 5]));
    assert_eq!(ask(&[daily(10), window(50)], 11).await, (QuotaExceeded, vec![10, 50]));
    assert_eq!(ask(&[daily(10), window(5)], 11).await, (QuotaExceeded, vec![10, 5]));
    assert_eq!(keys.store.writes_begun.load(Ordering::SeqCst), 0, "a refusal leases nothing");
    assert_eq!(ask(&[daily(10), window(5)], 4).await, (Charged, vec![6, 1]));
    assert_eq!(ask(&[daily(10), window(5)], 2).await, (RateLimited, vec![6, 1]));
}

#[tokio::test]
async fn concurrent_callers_of_a_key_share_one_lease() {
    let keys = Keys::new();
    let permits = keys.store.block_writes();
    let callers: Vec<_> = (0..40).map(|_| keys.spawn_take(10_000, 1)).collect();
    wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 1).await;
    let other = keys.try_take(KEY + 1, 10, 0, at_second(0)).await;
    assert_eq!(other.unwrap().0, Charged, "another key's caller doesn't wait");
    keys.store.write_permits.add_permits(permits);
    for caller in callers {
        assert_eq!(caller.await.unwrap().0, Charged);
    }
    assert_eq!((keys.store.write_count(), keys.store.stored_units()), (1, 100));
    assert_eq!(keys.store.reads.load(Ordering::SeqCst), 2, "once for each key");
}

#[tokio::test]
async fn i17_a_state_is_not_locked_while_a_lease_is_written() {
    let keys = Keys::new();
    assert_eq!(keys.take(100, 1).await, (Charged, 99));
    let permits = keys.store.block_writes();
    let waiting = keys.spawn_take(100, 5);
    wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 2).await;
    let (_, remaining) = keys.ask(KEY, &[daily(100), window(9)], 1, Mode::Tell, at_second(0)).await.unwrap();
    assert_eq!(remaining, [99, 9], "others see the state meanwhile");
    assert_eq!(keys.ask(KEY, &[window(9)], 2, Mode::Charge, at_second(0)).await.unwrap(), (Charged, vec![7]));
    assert!(!waiting.is_finished());
    keys.store.write_permits.add_permits(permits);
    assert_eq!(waiting.await.unwrap(), (Charged, 94));
}

#[tokio::test]
async fn i8_a_failed_lease_spends_no_units_and_is_retried() {
    let keys = Keys::new();
    let limits = [daily(100), window(50)];
    keys.store.writes_fail.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = keys.ask(KEY, &limits, 5, Mode::Charge, at_second(0)).await;
        assert_eq!(refused.unwrap_err().message, "full");
    }
    assert_eq!(keys.store.writes_begun.load(Ordering::SeqCst), 3);
    keys.store.writes_fail.store(false, Ordering::SeqCst);
    let charged = keys.ask(KEY, &limits, 5, Mode::Charge, at_second(0)).await.unwrap();
    assert_eq!(charged, (Charged, vec![95, 45]));
    // Units that could not be released are released by a retry; until then they can be leased again.
    assert_eq!(keys.take(1000, 1).await, (Charged, 994));
    assert_eq!(keys.store.stored_units(), 15);
    keys.store.writes_fail.store(true, Ordering::SeqCst);
    assert!(keys.leases.release_idle(SECOND, at_second(1)).await.is_err());
    assert!(keys.try_take(KEY, 1000, 1, at_second(1)).await.is_err());
    keys.store.writes_fail.store(false, Ordering::SeqCst);
    keys.leases.release_idle(SECOND, at_second(2)).await.unwrap();
    assert_eq!((keys.store.stored_units(), keys.leases.len()), (6, 0));
    assert_eq!(keys.take(1000, 1).await, (Charged, 993));
}

#[tokio::test]
async fn an_aborted_caller_loses_no_units() {
    let keys = Keys::new();
    let permits = keys.store.block_writes();
    let aborted = keys.spawn_take(1000, 1);
    wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 1).await;
    let waiting = keys.spawn_take(1000, 1);
    yield_now().await;
    aborted.abort();
    assert!(aborted.await.unwrap_err().is_cancelled());
    assert!(!waiting.is_finished(), "the write is still under way");
    keys.store.write_permits.add_permits(permits);
    assert_eq!(waiting.await.unwrap(), (Charged, 999), "the aborted caller spent nothing");
    assert_eq!((keys.store.write_count(), keys.store.stored_units()), (1, 10));
    keys.leases.close().await.unwrap();
    assert_eq!(keys.store.stored_units(), 1);
}

/// Shown for a release that completes, and for one whose caller is aborted.
#[tokio::test]
async fn a_call_during_a_release_waits_and_sees_the_remaining_units() {
    for aborts in [false, true] {
        let keys = Keys::new();
        assert_eq!(keys.take(1000, 3).await, (Charged, 997));
        let permits = keys.store.block_writes();
        let releaser = keys.leases.clone();
        let releasing = tokio::spawn(async move { releaser.release_idle(SECOND, at_second(1)).await });
        wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 2).await;
        if aborts {
            releasing.abort();
        }
        let callers: Vec<_> = (0..5).map(|_| keys.spawn_take(1000, 1)).collect();
        yield_often().await;
        assert!(callers.iter().all(|caller| !caller.is_finished()), "units are spent while being released");
        assert_eq!(keys.store.stored_units(), 10);
        keys.store.write_permits.add_permits(permits);
        let mut remaining = Vec::new();
        for caller in callers {
            remaining.push(caller.await.unwrap().1);
        }
        remaining.sort_unstable();
        assert_eq!(remaining, [992, 993, 994, 995, 996]);
        assert_eq!(keys.store.stored_units(), 13, "three were used, then ten leased");
        assert_eq!((releasing.await.is_err(), keys.leases.len()), (aborts, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_and_aborted_callers_lose_no_units() {
    let keys = Keys::new();
    let stop = Arc::new(AtomicBool::new(false));
    let releaser = keys.leases.clone();
    let stopped = stop.clone();
    let releasing = tokio::spawn(async move {
        while !stopped.load(Ordering::SeqCst) {
            releaser.release_idle(Duration::ZERO, at_second(0)).await.unwrap();
            yield_now().await;
        }
    });
    let charged = Arc::new(AtomicU32::new(0));
    let callers: Vec<_> = (0..64)
        .map(|index| {
            let keys = keys.clone();
            let charged = charged.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    let state = keys.state(KEY);
                    let limits = [daily(3000)];
                    let key =
                        OwnedLimits { owner: LimitOwner::Key, limits: &limits, version: 0, state: &state };
                    let costs = [Cost { meter: Meter::REQUESTS, units: 1 }];
                    let mode = Mode::Charge;
                    let request =
                        LimitRequest { key, organization: None, costs: &costs, mode, at: at_second(0) };
                    // Counted under the lock, as verifications are.
                    let call = decide_at_last(&keys.leases, &request, |decision| {
                        charged.fetch_add(u32::from(!decision.is_refusal()), Ordering::SeqCst);
                    });
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
    assert_eq!(charged.load(Ordering::SeqCst), 3000);
    assert_eq!(keys.take(3000, 1).await, (QuotaExceeded, 0));
    keys.leases.close().await.unwrap();
    assert_eq!(keys.store.stored_units(), 3000);
}

#[tokio::test]
async fn asking_spends_and_leases_no_units() {
    let keys = Keys::new();
    let ask = async |cost| {
        let (taken, remaining) = keys.ask(KEY, &[daily(10)], cost, Mode::Ask, at_second(3600)).await.unwrap();
        (taken == Charged, remaining[0])
    };
    assert_eq!((ask(10).await, ask(11).await, keys.store.write_count()), ((true, 10), (false, 10), 0));
    assert_eq!(keys.take(10, 4).await, (Charged, 6));
    assert_eq!((ask(6).await, ask(7).await, keys.store.write_count()), ((true, 6), (false, 6), 1));
    assert_eq!(keys.store.reads.load(Ordering::SeqCst), 1);
    // The limit is lowered and raised; the period is changed and changed back.
    assert_eq!(keys.take(3, 1).await, (QuotaExceeded, 0));
    assert_eq!(keys.take(5, 1).await, (Charged, 0));
    assert_eq!(keys.take(100, 1).await, (Charged, 94));
    let month = Limit { span: LimitSpan::Period(Period::Month), ..daily(100) };
    let charged = keys.ask(KEY, &[month], 1, Mode::Charge, at_second(0)).await.unwrap();
    assert_eq!(charged, (Charged, vec![99]));
    assert_eq!(keys.take(100, 1).await, (Charged, 93));
}
