//! Tests of the queue of reports with writes that can be blocked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::config::Config;
use crate::domain::subject::Subject;
use crate::error::Code;
use crate::verify::subject_state::SubjectState;
use crate::verify::test_credential::test_credential;

/// A queue over writes that are recorded.
#[derive(Clone)]
struct Reports {
    queue: ReportQueue,
    settings: Arc<Settings>,
    store: Arc<TestStore>,
}

struct TestStore {
    /// Number of reports of each write that has begun.
    writes: Mutex<Vec<usize>>,
    /// Each write needs one.
    permits: Semaphore,
    under_way: AtomicUsize,
}

impl Reports {
    fn new() -> Self {
        let settings = Arc::new(Config::load_defaults().unwrap().initial_settings());
        let leases = Leases::new(|_| Box::pin(async { Ok(None) }), |_| Box::pin(async { Ok(()) }));
        let store = Arc::new(TestStore {
            writes: Mutex::default(),
            permits: Semaphore::new(0),
            under_way: AtomicUsize::new(0),
        });
        let writer = store.clone();
        let clock = Clock::manual(Timestamp::from_millis(20_000 * 86_400_000));
        let queue = ReportQueue::new(clock, leases, move |batch| {
            let store = writer.clone();
            Box::pin(async move {
                let results: Vec<_> = batch.reports().map(|_| Ok(true)).collect();
                store.writes.lock().push(results.len());
                store.under_way.fetch_add(1, Ordering::SeqCst);
                store.permits.acquire().await.unwrap().forget();
                store.under_way.fetch_sub(1, Ordering::SeqCst);
                Ok(results)
            })
        });
        Self { queue, settings, store }
    }

    /// Reports usage of a key in a task of its own.
    fn report(&self, organization: i64, key: i64, meters: usize) -> JoinHandle<Result<bool>> {
        let meters = (0..meters).map(|number| Meter::parse(&format!("m{number}")).unwrap());
        let costs = meters.map(|meter| Cost { meter, units: 1 }).collect();
        let record = KeyRecord::uncached(test_credential(organization, key));
        let of_organization = Subject::Organization(organization);
        let states = RecordStates {
            key: Arc::new(SubjectState::new(Subject::Key(key), of_organization)),
            organization: Some(Arc::new(SubjectState::new(of_organization, of_organization))),
        };
        let report = UsageReport::new(&record, states, &self.settings, costs, None);
        let queue = self.queue.clone();
        tokio::spawn(async move { queue.store(report).await })
    }

    /// Waits until this number of writes are under way and this number of reports wait.
    async fn wait_for(&self, writes: usize, reports: usize) {
        let waiting = async {
            while (self.store.under_way.load(Ordering::SeqCst), self.waiting()) != (writes, reports) {
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("neither stored nor waiting");
    }

    fn waiting(&self) -> usize {
        self.queue.0.waiting.lock().count
    }
}

async fn yield_often() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test]
async fn reports_that_wait_are_stored_by_one_write() {
    let reports = Reports::new();
    let mut sent = vec![reports.report(1, 1, 1)];
    reports.wait_for(1, 0).await;
    sent.extend((0..150).map(|_| reports.report(1, 1, 8)));
    reports.wait_for(1, 150).await;
    reports.store.permits.add_permits(100);
    for report in sent {
        assert!(report.await.unwrap().unwrap());
    }
    assert_eq!(*reports.store.writes.lock(), [1, 64, 64, 22]);

    // Many keys and meters need more time of the writer.
    let permits = reports.store.permits.forget_permits(100);
    let mut sent = vec![reports.report(2, 0, 3)];
    reports.wait_for(1, 0).await;
    sent.extend((0..40).map(|key| reports.report(2, key, 3)));
    reports.wait_for(1, 40).await;
    reports.store.permits.add_permits(permits);
    for report in sent {
        assert!(report.await.unwrap().unwrap());
    }
    assert_eq!(reports.store.writes.lock()[4..], [1, 21, 19]);
    assert!(reports.queue.0.waiting.lock().by_organization.is_empty());
}

#[tokio::test]
async fn i10_waiting_reports_and_their_writes_are_limited() {
    let reports = Reports::new();
    let mut sent: Vec<_> = (0..6).map(|organization| reports.report(organization, 1, 1)).collect();
    reports.wait_for(MAX_WRITES, 2).await;
    yield_often().await;
    assert_eq!(*reports.store.writes.lock(), [1; MAX_WRITES]);
    let of_others = 2;
    sent.extend((0..MAX_WAITING_PER_ORGANIZATION).map(|_| reports.report(1, 1, 1)));
    reports.wait_for(MAX_WRITES, of_others + MAX_WAITING_PER_ORGANIZATION).await;
    let refused = reports.report(1, 1, 1).await.unwrap().unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (Code::Unavailable, Some(1)));
    let room = MAX_WAITING - reports.waiting();
    for organization in [0, 2, 3, 4] {
        sent.extend((0..room.div_ceil(4)).map(|_| reports.report(organization, 1, 1)));
    }
    reports.wait_for(MAX_WRITES, MAX_WAITING).await;
    assert_eq!(reports.report(9, 1, 1).await.unwrap().unwrap_err().code, Code::Unavailable);
    reports.store.permits.add_permits(1000);
    let mut refused = 0;
    for report in sent {
        refused += usize::from(report.await.unwrap().is_err());
    }
    assert_eq!((refused, reports.waiting()), (room.div_ceil(4) * 4 - room, 0));
    assert!(reports.report(9, 1, 1).await.unwrap().unwrap());
}

#[tokio::test]
async fn closing_refuses_reports_and_stores_those_that_wait() {
    let reports = Reports::new();
    let first = reports.report(1, 1, 1);
    reports.wait_for(1, 0).await;
    let waiting = reports.report(1, 1, 1);
    let abandoned = reports.report(1, 1, 1);
    reports.wait_for(1, 2).await;
    abandoned.abort();
    let queue = reports.queue.clone();
    let closing = tokio::spawn(async move { queue.close().await });
    yield_often().await;
    assert_eq!(reports.report(3, 1, 1).await.unwrap().unwrap_err().code, Code::Unavailable);
    assert!(!closing.is_finished());
    reports.store.permits.add_permits(10);
    closing.await.unwrap();
    assert_eq!(*reports.store.writes.lock(), [1, 2]);
    for report in [first, waiting] {
        assert!(report.await.unwrap().unwrap());
    }
}
