//! Tests of reports of usage, which are stored together with the leases of the quotas that they charge.

use super::*;
use crate::verify::report::{ReportCharges, ReportedCosts, ReportsFuture, charge};

/// The organization whose quotas the tests charge.
const ORGANIZATION: i64 = 99;

impl Keys {
    /// Charges reports of requests to the daily quota of [`KEY`], in one write. `counted` tells which of them are.
    async fn report(&self, limit: u64, costs: &[u32], counted: &[bool]) -> Vec<Result<bool>> {
        self.report_at(&[daily(limit)], costs, counted, at_second(0)).await
    }

    async fn report_at(
        &self,
        limits: &[Limit],
        costs: &[u32],
        counted: &[bool],
        at: DecisionTime,
    ) -> Vec<Result<bool>> {
        let state = self.state(KEY);
        let costs: Vec<_> =
            costs.iter().map(|units| [Cost { meter: Meter::REQUESTS, units: *units }]).collect();
        let key = OwnedLimits { owner: LimitOwner::Key, limits, version: 1, state: &state };
        let reports: Vec<_> =
            costs.iter().map(|costs| ReportedCosts { key, organization: None, costs }).collect();
        charge(&self.leases, &reports, at, self.write_reports(counted)).await
    }

    /// The write of a batch of which these reports are counted.
    fn write_reports(&self, counted: &[bool]) -> impl FnOnce(Arc<ReportCharges>) -> ReportsFuture + use<> {
        let store = self.store.clone();
        let counted = counted.to_vec();
        move |charges| {
            Box::pin(async move {
                store.write(charges.leases(&counted)).await?;
                Ok(counted.into_iter().map(Ok).collect())
            })
        }
    }
}

fn counted(results: Vec<Result<bool>>) -> Vec<bool> {
    results.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_batch_is_stored_by_one_write_and_charged_beyond_the_limit() {
    let keys = Keys::new();
    assert_eq!(keys.take(1000, 3).await, (Charged, 997));
    let stored = keys.report(1000, &[100, 200, 50, 400], &[true, true, false, true]).await;
    assert_eq!(counted(stored), [true, true, false, true]);
    assert_eq!((keys.store.stored_units(), keys.store.write_count()), (710, 2));
    assert_eq!(keys.take(1000, 7).await, (Charged, 290), "the units that were leased before are left");
    assert_eq!(counted(keys.report(1000, &[5000], &[true]).await), [true]);
    assert_eq!(keys.take(1000, 0).await, (QuotaExceeded, 0));
    keys.leases.close().await.unwrap();
    assert_eq!((keys.store.stored_units(), keys.leases.forfeitable_units()), (5710, 0));
}

#[tokio::test]
async fn i8_a_report_that_is_not_counted_refuses_nothing() {
    let keys = Keys::new();
    assert_eq!(keys.take(1000, 1).await, (Charged, 999));
    let permits = keys.store.block_writes();
    let reporting = {
        let keys = keys.clone();
        tokio::spawn(async move { keys.report(1000, &[5000], &[false]).await })
    };
    wait_until(|| keys.store.writes_begun.load(Ordering::SeqCst) == 2).await;
    assert_eq!(keys.take(1000, 1).await, (Charged, 998), "while the report is being written");
    keys.store.write_permits.add_permits(permits);
    assert_eq!(counted(reporting.await.unwrap()), [false]);
    assert_eq!(keys.take(1000, 1).await, (Charged, 997));

    keys.store.writes_fail.store(true, Ordering::SeqCst);
    for result in keys.report(1000, &[5000, 1], &[true, true]).await {
        assert_eq!(result.unwrap_err().message, "full");
    }
    keys.store.writes_fail.store(false, Ordering::SeqCst);
    assert_eq!(keys.take(1000, 1).await, (Charged, 996));
    keys.leases.close().await.unwrap();
    assert_eq!((keys.store.stored_units(), keys.leases.forfeitable_units()), (4, 0));
}

/// The units of a write that failed may be stored nevertheless.
#[tokio::test]
async fn units_of_a_failed_report_are_returned() {
    let keys = Keys::new();
    keys.take(1000, 10).await;
    let state = keys.state(KEY);
    let limits = [daily(1000)];
    let key = OwnedLimits { owner: LimitOwner::Key, limits: &limits, version: 1, state: &state };
    let costs = [Cost { meter: Meter::REQUESTS, units: 500 }];
    let report = ReportedCosts { key, organization: None, costs: &costs };
    let store = keys.store.clone();
    let write = |charges: Arc<ReportCharges>| -> ReportsFuture {
        Box::pin(async move {
            store.write(charges.leases(&[true])).await?;
            Err(Error::unavailable("the commit may have failed", 1))
        })
    };
    let results = charge(&keys.leases, &[report], at_second(0), write).await;
    assert!(matches!(&results[..], [Err(_)]), "{results:?}");
    assert!(keys.store.stored_units() >= 510);
    assert!(keys.leases.forfeitable_units() >= 500);
    assert_eq!(keys.take(1000, 0).await, (Charged, 990));
    keys.leases.close().await.unwrap();
    assert_eq!((keys.store.stored_units(), keys.leases.forfeitable_units()), (10, 0));
}

/// If the reports were stored, they don't count again when they are repeated, so they must be charged.
#[tokio::test]
async fn i8_a_report_whose_commit_is_unknown_is_charged_as_the_database_says() {
    for is_stored in [true, false] {
        let keys = Keys::new();
        keys.take(1000, 10).await;
        let store = keys.store.clone();
        let write = move |charges: Arc<ReportCharges>| -> ReportsFuture {
            Box::pin(async move {
                if is_stored {
                    store.write(charges.leases(&[true])).await?;
                }
                Err(Error::new(Code::OutcomeUnknown, "the file was moved"))
            })
        };
        let state = keys.state(KEY);
        let limits = [daily(1000)];
        let key = OwnedLimits { owner: LimitOwner::Key, limits: &limits, version: 1, state: &state };
        let costs = [Cost { meter: Meter::REQUESTS, units: 500 }];
        let report = ReportedCosts { key, organization: None, costs: &costs };
        let results = charge(&keys.leases, &[report], at_second(0), write).await;
        assert!(matches!(&results[..], [Err(_)]), "{results:?}");
        let (_, remaining) = keys.take(1000, 0).await;
        let used = if is_stored { 510 } else { 10 };
        // The units that were leased and not used are lost.
        assert_eq!(remaining, 1000 - keys.store.stored_units());
        assert!(keys.store.stored_units() >= used, "{is_stored}");
        keys.leases.close().await.unwrap();
        assert_eq!(keys.leases.forfeitable_units(), 0);
    }
}

#[tokio::test]
async fn a_verification_leases_units_beside_reports_in_quick_succession() {
    for cost in [1, 150] {
        let keys = Keys::new();
        let reporter = keys.clone();
        let mut rounds = 0_u32;
        let reporting = async {
            loop {
                rounds += 1;
                assert!(rounds < 1000, "the verifications wait for ever");
                assert_eq!(counted(reporter.report(100_000, &[1], &[true]).await), [true]);
            }
        };
        let verifying = async {
            let mut charged = 0;
            for _ in 0..100 {
                charged += u32::from(keys.take(100_000, cost).await.0 == Charged);
            }
            charged
        };
        tokio::select! {
            () = reporting => {}
            charged = verifying => assert_eq!(charged, 100),
        }
    }
}

#[tokio::test]
async fn a_report_leaves_no_quota_on_another_meter_in_memory() {
    let keys = Keys::new();
    let tokens = Limit { meter: Meter::parse("tokens").unwrap(), ..daily(1000) };
    let limits = [daily(1000), tokens, window(5)];
    keys.report_at(&limits, &[2], &[true], at_second(0)).await;
    let state = keys.state(KEY);
    assert_eq!(state.lock().limits.quotas_mut().len(), 1);
    assert!(state.has_windows(), "the debt is forgotten with its limit");
    keys.leases.release_idle(SECOND, at_second(60)).await.unwrap();
    assert!(keys.leases.is_empty());
    assert!(state.lock().limits.is_initial(at_second(86_400).monotonic));
}

/// Every stored lease covers what is used, so that a crash forgets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_reports_and_verifications_of_a_quota_add_up() {
    let keys = Keys::new();
    let limits = [daily(2_000)];
    let organization = keys.state(ORGANIZATION);
    let verifying: Vec<_> = (0..16)
        .map(|_| {
            let keys = keys.clone();
            tokio::spawn(async move {
                let mut charged = 0;
                for _ in 0..100 {
                    let result =
                        keys.ask(ORGANIZATION, &limits, 1, Mode::Charge, at_second(0)).await.unwrap();
                    charged += u64::from(result.0 == Charged);
                }
                charged
            })
        })
        .collect();
    let mut reported = 0;
    for round in 0..100_u32 {
        let costs = [Cost { meter: Meter::REQUESTS, units: round % 4 }];
        let states = [0, 1, 2].map(|key| keys.state(key));
        let owned = OwnedLimits {
            owner: LimitOwner::Organization,
            limits: &limits,
            version: 1,
            state: &organization,
        };
        let reports = states.each_ref().map(|state| {
            let key = OwnedLimits { owner: LimitOwner::Key, limits: &[], version: 1, state };
            ReportedCosts { key, organization: Some(owned), costs: &costs }
        });
        let results =
            charge(&keys.leases, &reports, at_second(0), keys.write_reports(&[true, false, true])).await;
        assert_eq!(counted(results), [true, false, true]);
        reported += u64::from(round % 4) * 2;
    }
    let mut charged = 0;
    for task in verifying {
        charged += task.await.unwrap();
    }
    let used = charged + reported;
    let (_, remaining) = keys.ask(ORGANIZATION, &limits, 0, Mode::Ask, at_second(0)).await.unwrap();
    assert_eq!(remaining, [2_000_u64.saturating_sub(used)]);
    let stored = |keys: &Keys| keys.store.rows.lock().values().sum::<u64>();
    assert!(stored(&keys) >= used, "{} of {used}", stored(&keys));
    keys.leases.close().await.unwrap();
    assert_eq!(stored(&keys), used);
}
