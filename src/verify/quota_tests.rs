//! Tests of [`super`], over a file that can be made to wait and to fail. The real one: `tests/it`.

use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use tokio::task::{JoinHandle, yield_now};

use super::*;

/// What is stored, and how it went.
struct File {
    rows: StdMutex<HashMap<Id, Lease>>,
    fails: AtomicBool,
    /// Each write takes a permit and gives it back: without one, writes wait.
    gate: Semaphore,
    begun: AtomicUsize,
    done: AtomicUsize,
    reads: AtomicUsize,
    /// Keys that are being written, to see that none is written twice at a time.
    busy: StdMutex<Vec<i64>>,
}

impl File {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: StdMutex::default(),
            fails: AtomicBool::new(false),
            gate: Semaphore::new(1000),
            begun: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            busy: StdMutex::default(),
        })
    }

    async fn write(&self, leases: Vec<Lease>) -> Result<()> {
        {
            let mut busy = self.busy.lock().unwrap();
            for lease in &leases {
                assert!(!busy.contains(&lease.key), "two writes of one key at a time");
                busy.push(lease.key);
            }
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.acquire().await.unwrap();
        yield_now().await;
        drop(gate);
        self.busy.lock().unwrap().retain(|key| !leases.iter().any(|lease| lease.key == *key));
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::unavailable("full", 1));
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        self.rows.lock().unwrap().extend(leases.into_iter().map(|lease| ((lease.key, lease.period), lease)));
        Ok(())
    }

    /// Lets writes wait, until the permits are given back.
    fn shut(&self) -> usize {
        self.gate.forget_permits(1000)
    }

    fn stored(&self, quota: Quota) -> u64 {
        self.rows.lock().unwrap().get(&(KEY, quota.period)).map_or(0, |lease| lease.units)
    }

    fn writes(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

fn over(file: &Arc<File>, capacity: usize) -> Quotas {
    let (reader, writer) = (file.clone(), file.clone());
    Quotas::new(
        capacity,
        move |key, period| {
            let file = reader.clone();
            Box::pin(async move {
                file.reads.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                Ok(file.rows.lock().unwrap().get(&(key, period)).copied())
            })
        },
        move |leases| {
            let file = writer.clone();
            Box::pin(async move { file.write(leases).await })
        },
    )
}

const KEY: i64 = 7;
const SECOND: Duration = Duration::from_secs(1);

fn day(limit: u64) -> Quota {
    Quota { limit, period: Period::Day }
}

/// Seconds after the beginning of a day.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(20_000 * 86_400_000 + seconds * 1000)
}

async fn take(quotas: &Quotas, limit: u64, cost: u32) -> (Spending, u64) {
    let (spending, standing) = quotas.take(KEY, day(limit), cost, at(0), || true).await.unwrap();
    (spending, standing.remaining)
}

/// The same in a task that can be given up.
fn taking(quotas: &Quotas, limit: u64, cost: u32) -> JoinHandle<(Spending, u64)> {
    let quotas = quotas.clone();
    tokio::spawn(async move { take(&quotas, limit, cost).await })
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            yield_now().await;
        }
    };
    tokio::time::timeout(30 * SECOND, waiting).await.expect("it should have come to be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_concurrent_callers_spend_exactly_what_there_is() {
    for (limit, cost) in [(1, 1), (7, 1), (7, 3), (100, 1), (100, 7), (1000, 1), (1000, 13), (1000, 1001)] {
        let file = File::new();
        let quotas = over(&file, 10);
        // As many tokens as there are calls for each unit, so that the bucket refuses some in between.
        let (asked, agreed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let (quotas, asked, agreed) = (quotas.clone(), asked.clone(), agreed.clone());
                tokio::spawn(async move {
                    let mut done = 0;
                    for _ in 0..60 {
                        let bucket = || {
                            let agrees = asked.fetch_add(1, Ordering::SeqCst) % 3 > 0;
                            agreed.fetch_add(agrees.into(), Ordering::SeqCst);
                            agrees
                        };
                        let taken = quotas.take(KEY, day(limit), cost, at(0), bucket).await.unwrap();
                        done += u32::from(taken.0 == Spending::Done);
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for caller in callers {
            done += caller.await.unwrap();
        }
        let max = u32::try_from(limit).unwrap() / cost;
        assert_eq!(done, max, "limit {limit}, cost {cost}");
        assert_eq!(agreed.load(Ordering::SeqCst), done, "the bucket has spent for those alone");
        let used = u64::from(done * cost);
        assert_eq!(quotas.peek(KEY, day(limit), 1, at(0)).await.unwrap().1.remaining, limit - used);
        let lease = u64::from(cost).max(day(limit).lease());
        assert!(file.writes() as u64 <= used.div_ceil(lease) + 1, "{} writes", file.writes());
        quotas.close().await.unwrap();
        assert_eq!(file.stored(day(limit)), used);
    }
}

#[tokio::test]
async fn one_writes_and_the_others_wait() {
    let file = File::new();
    let quotas = over(&file, 10);
    let permits = file.shut();
    let callers: Vec<_> = (0..64).map(|_| taking(&quotas, 10_000, 1)).collect();
    until(|| file.begun.load(Ordering::SeqCst) == 1).await;
    let others = quotas.take(KEY + 1, day(10), 0, at(0), || true);
    assert_eq!(others.await.unwrap().0, Spending::Done, "another key's caller doesn't wait");
    file.gate.add_permits(permits);
    for caller in callers {
        assert_eq!(caller.await.unwrap().0, Spending::Done);
    }
    assert_eq!((file.writes(), file.stored(day(10_000))), (1, 100));
    assert_eq!(file.reads.load(Ordering::SeqCst), 2, "once for each key");
}

#[tokio::test]
async fn i8_a_write_that_fails_spends_nothing_and_is_tried_again() {
    let file = File::new();
    let quotas = over(&file, 10);
    file.fails.store(true, Ordering::SeqCst);
    let mut asked = false;
    for _ in 0..3 {
        let taken = quotas.take(KEY, day(100), 5, at(0), || {
            asked = true;
            true
        });
        assert_eq!(taken.await.unwrap_err().message, "full");
    }
    assert!(!asked, "the bucket has spent");
    assert_eq!(file.begun.load(Ordering::SeqCst), 3);
    file.fails.store(false, Ordering::SeqCst);
    assert_eq!(take(&quotas, 100, 5).await, (Spending::Done, 95));
    // What can't be given back is, when it is tried again; until then it is leased anew.
    assert_eq!(take(&quotas, 1000, 1).await, (Spending::Done, 994));
    assert_eq!(file.stored(day(1000)), 15);
    file.fails.store(true, Ordering::SeqCst);
    assert!(quotas.give_back(SECOND, at(1)).await.is_err());
    assert!(quotas.take(KEY, day(1000), 1, at(1), || true).await.is_err());
    file.fails.store(false, Ordering::SeqCst);
    quotas.give_back(SECOND, at(2)).await.unwrap();
    assert_eq!((file.stored(day(1000)), quotas.len()), (6, 0));
    assert_eq!(take(&quotas, 1000, 1).await, (Spending::Done, 993));
}

#[tokio::test]
async fn a_caller_that_goes_away_loses_nothing() {
    let file = File::new();
    let quotas = over(&file, 10);
    let permits = file.shut();
    let gone = taking(&quotas, 1000, 1);
    until(|| file.begun.load(Ordering::SeqCst) == 1).await;
    let waiting = taking(&quotas, 1000, 1);
    yield_now().await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert!(!waiting.is_finished(), "the write is still under way");
    file.gate.add_permits(permits);
    assert_eq!(waiting.await.unwrap(), (Spending::Done, 999), "the one that went away spent nothing");
    assert_eq!((file.writes(), file.stored(day(1000))), (1, 10));
    quotas.close().await.unwrap();
    assert_eq!(file.stored(day(1000)), 1);
}

/// Whoever gives back goes away too, or a new call comes for the key meanwhile.
#[tokio::test]
async fn a_call_during_a_give_back_waits_and_finds_what_was_left() {
    for goes_away in [false, true] {
        let file = File::new();
        let quotas = over(&file, 10);
        assert_eq!(take(&quotas, 1000, 3).await, (Spending::Done, 997));
        let permits = file.shut();
        let giver = quotas.clone();
        let giving = tokio::spawn(async move { giver.give_back(SECOND, at(1)).await });
        until(|| file.begun.load(Ordering::SeqCst) == 2).await;
        if goes_away {
            giving.abort();
        }
        let late: Vec<_> = (0..5).map(|_| taking(&quotas, 1000, 1)).collect();
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(late.iter().all(|late| !late.is_finished()), "nobody spends what is being given back");
        assert_eq!(file.stored(day(1000)), 10);
        file.gate.add_permits(permits);
        let mut left = Vec::new();
        for late in late {
            left.push(late.await.unwrap().1);
        }
        left.sort_unstable();
        assert_eq!(left, [992, 993, 994, 995, 996]);
        assert_eq!(file.stored(day(1000)), 13, "three were used, then ten leased");
        assert_eq!((giving.await.is_err(), quotas.len()), (goes_away, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn give_backs_and_lost_callers_in_between_lose_nothing() {
    let file = File::new();
    let quotas = over(&file, 10);
    let stop = Arc::new(AtomicBool::new(false));
    let (giver, stopped) = (quotas.clone(), stop.clone());
    let giving = tokio::spawn(async move {
        while !stopped.load(Ordering::SeqCst) {
            giver.give_back(Duration::ZERO, at(0)).await.unwrap();
            yield_now().await;
        }
    });
    let spent = Arc::new(AtomicU32::new(0));
    let callers: Vec<_> = (0..64)
        .map(|nth| {
            let (quotas, spent) = (quotas.clone(), spent.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    let bucket = || spent.fetch_add(1, Ordering::SeqCst) < u32::MAX;
                    let call = quotas.take(KEY, day(3000), 1, at(0), bucket);
                    if nth % 8 == 0 {
                        // Gives up at its first wait.
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
    giving.await.unwrap();
    assert_eq!(spent.load(Ordering::SeqCst), 3000);
    assert_eq!(take(&quotas, 3000, 1).await, (Spending::Exceeded, 0));
    quotas.close().await.unwrap();
    assert_eq!(file.stored(day(3000)), 3000);
}

#[tokio::test]
async fn a_peek_spends_and_leases_nothing() {
    let file = File::new();
    let quotas = over(&file, 10);
    let peek = async |cost| {
        let (fits, standing) = quotas.peek(KEY, day(10), cost, at(3600)).await.unwrap();
        assert_eq!(standing.resets_at, at(86_400));
        (fits, standing.remaining)
    };
    assert_eq!((peek(10).await, peek(11).await, file.writes()), ((true, 10), (false, 10), 0));
    assert_eq!(take(&quotas, 10, 4).await, (Spending::Done, 6));
    assert_eq!((peek(6).await, peek(7).await, file.writes()), ((true, 6), (false, 6), 1));
    let refused = quotas.take(KEY, day(10), 6, at(0), || false).await.unwrap();
    assert_eq!((refused.0, peek(6).await), (Spending::Refused, (true, 6)));
    assert_eq!(file.reads.load(Ordering::SeqCst), 1);
    // A limit that was lowered, raised; another period, and back.
    assert_eq!(take(&quotas, 3, 1).await, (Spending::Exceeded, 0));
    assert_eq!(take(&quotas, 5, 1).await, (Spending::Done, 0));
    assert_eq!(take(&quotas, 100, 1).await, (Spending::Done, 94));
    let month = Quota { limit: 100, period: Period::Month };
    assert_eq!(quotas.take(KEY, month, 1, at(0), || true).await.unwrap().1.remaining, 99);
    assert_eq!(take(&quotas, 100, 1).await, (Spending::Done, 93));
}

#[tokio::test]
async fn i10_where_there_is_no_room_idle_keys_go_and_busy_ones_stay() {
    let file = File::new();
    let quotas = over(&file, 2);
    let call = async |key, seconds| quotas.take(key, day(1000), 1, at(seconds), || true).await;
    for key in [1, 2] {
        call(key, 0).await.unwrap();
    }
    let refused = call(3, 0).await.unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (crate::error::Code::Unavailable, Some(1)));
    call(1, 1).await.unwrap();
    assert_eq!(file.writes(), 2);
    assert_eq!(call(3, 1).await.unwrap().1.remaining, 999, "the second was idle");
    assert_eq!(quotas.len(), 2);
    assert!(call(2, 1).await.is_err(), "both others were used just now");
    assert_eq!(call(2, 3).await.unwrap().1.remaining, 998, "it was given back exactly");
    // A clock that has stepped back makes everything idle rather than nothing.
    call(3, 3).await.unwrap();
    call(4, -86_400).await.unwrap();
}

#[tokio::test]
async fn i10_a_search_for_room_in_vain_is_not_repeated_within_the_second() {
    let quotas = over(&File::new(), 1);
    let call = async |key, millis| {
        let now = at(0) + Duration::from_millis(millis);
        quotas.take(key, day(1000), 1, now, || true).await.is_ok()
    };
    assert!(call(1, 500).await);
    assert!(!call(2, 1400).await, "the first is not idle yet");
    assert!(!call(2, 1600).await, "it is, but nobody looks");
    assert!(call(2, 2000).await);
}

#[tokio::test]
async fn i10_while_room_is_made_other_keys_go_on() {
    let file = File::new();
    let quotas = over(&file, 2);
    let call = async |key, seconds| quotas.take(key, day(1000), 1, at(seconds), || true).await;
    call(11, 0).await.unwrap();
    call(12, 2).await.unwrap();
    let (permits, begun) = (file.shut(), file.begun.load(Ordering::SeqCst));
    let newcomer = quotas.clone();
    let newcomer = tokio::spawn(async move { newcomer.peek(13, day(1), 1, at(2)).await.unwrap().0 });
    until(|| file.begun.load(Ordering::SeqCst) > begun).await;
    assert_eq!(call(12, 2).await.unwrap().1.remaining, 998, "it doesn't wait");
    assert!(!newcomer.is_finished());
    file.gate.add_permits(permits);
    assert!(newcomer.await.unwrap());
}

#[tokio::test]
async fn a_stop_waits_for_leases_under_way_and_takes_no_more() {
    let file = File::new();
    let quotas = over(&file, 5000);
    for key in 100..2300 {
        quotas.take(key, day(1000), 1, at(0), || true).await.unwrap();
    }
    let permits = file.shut();
    let last = taking(&quotas, 1000, 2);
    until(|| file.begun.load(Ordering::SeqCst) == 2201).await;
    let closer = quotas.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!closing.is_finished());
    file.gate.add_permits(permits);
    assert_eq!(last.await.unwrap(), (Spending::Done, 998));
    closing.await.unwrap().unwrap();
    assert_eq!((file.stored(day(1000)), quotas.len()), (2, 0));
    assert_eq!(file.rows.lock().unwrap().values().filter(|lease| lease.units == 1).count(), 2200);
    assert_eq!(file.writes(), 2201 + 3, "a thousand at once");
    assert!(quotas.peek(KEY, day(1000), 1, at(0)).await.is_err());
}

#[tokio::test]
async fn a_stop_during_a_give_back_gives_back_once() {
    let file = File::new();
    let quotas = over(&file, 10);
    take(&quotas, 1000, 3).await;
    let permits = file.shut();
    let (giver, closer) = (quotas.clone(), quotas.clone());
    let giving = tokio::spawn(async move { giver.give_back(SECOND, at(1)).await });
    until(|| file.begun.load(Ordering::SeqCst) == 2).await;
    let closing = tokio::spawn(async move { closer.close().await });
    for _ in 0..100 {
        yield_now().await;
    }
    file.gate.add_permits(permits);
    giving.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!((file.stored(day(1000)), file.writes()), (3, 2));
}
