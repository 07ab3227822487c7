//! Tests of verifications while an organization's plan and the settings change.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::config::Config;
use crate::domain::invalidation::Invalidation;
use crate::domain::limits::{Limit, LimitSpan};
use crate::domain::meter::Meter;
use crate::domain::settings::{Plan, SETTINGS_ID, StoredSettings};
use crate::verify::test_credential::test_credential;
use crate::verify::version_clock::VersionClock;

/// What the database has: the plans, each with one limit for keys, and the plan of the organization.
struct Database {
    plans: Mutex<BTreeMap<&'static str, u64>>,
    plan: Mutex<&'static str>,
    /// Each load of the settings, or of a key, holds a permit.
    settings_permits: Semaphore,
    key_permits: Semaphore,
    loads_begun: AtomicUsize,
}

impl Database {
    fn settings(&self) -> Arc<StoredSettings> {
        let mut settings = Config::load_defaults().unwrap().initial_settings();
        let standard = settings.plans["standard"].clone();
        let plan = |limit| {
            let span = LimitSpan::Window(60);
            Plan { key_limits: vec![Limit { meter: Meter::REQUESTS, limit, span }], ..standard.clone() }
        };
        let plans = self.plans.lock();
        settings.plans.extend(plans.iter().map(|(name, limit)| ((*name).to_owned(), plan(*limit))));
        let updated_at = Timestamp::from_millis(0);
        Arc::new(StoredSettings { settings, known_prefixes: Default::default(), revision: 1, updated_at })
    }

    fn credential(&self) -> Credential {
        let mut credential = test_credential(1, 1);
        if let Some(organization) = &mut credential.organization {
            organization.plan = (*self.plan.lock()).to_owned();
        }
        credential
    }
}

struct Fixture {
    database: Arc<Database>,
    version_clock: Arc<VersionClock>,
    verifier: Verifier,
}

impl Fixture {
    fn new(plans: &[(&'static str, u64)], plan: &'static str) -> Self {
        let database = Arc::new(Database {
            plans: Mutex::new(plans.iter().copied().collect()),
            plan: Mutex::new(plan),
            settings_permits: Semaphore::new(100),
            key_permits: Semaphore::new(100),
            loads_begun: AtomicUsize::new(0),
        });
        let version_clock = Arc::new(VersionClock::default());
        let loader = database.clone();
        let keys = KeyCache::new(1 << 20, version_clock.clone(), move |_| {
            let database = loader.clone();
            Box::pin(async move {
                let credential = database.credential();
                database.loads_begun.fetch_add(1, Ordering::SeqCst);
                drop(database.key_permits.acquire().await.unwrap());
                Ok(Some(credential))
            })
        });
        let loader = database.clone();
        let load_settings = move || -> crate::verify::settings::LoadFuture {
            let database = loader.clone();
            Box::pin(async move {
                database.loads_begun.fetch_add(1, Ordering::SeqCst);
                drop(database.settings_permits.acquire().await.unwrap());
                Ok(database.settings())
            })
        };
        let loaded_at = version_clock.now();
        let settings =
            SettingsCache::new(version_clock.clone(), loaded_at, database.settings(), load_settings);
        let leases = Leases::new(|_| Box::pin(async { Ok(None) }), |_| Box::pin(async { Ok(()) }));
        let verifier = Verifier::new(
            Arc::new(keys),
            Arc::new(settings),
            Clock::manual(Timestamp::from_millis(0)),
            100,
            leases,
            Recorder::default(),
            Arc::default(),
        );
        Self { database, version_clock, verifier }
    }

    /// The limit that decides on the key.
    async fn verify(&self) -> u64 {
        let request = VerifyRequest::<&str> {
            key: KeyToVerify::Secret("secret"),
            scopes: &[],
            ip: None,
            costs: &[Cost { meter: Meter::REQUESTS, units: 1 }],
            dry_run: false,
            caller_organization_id: None,
        };
        let verdict =
            self.verifier.verify(&request, Timestamp::from_millis(0), Duration::ZERO).await.unwrap();
        verdict.limits[0].limit.limit
    }

    fn publish(&self, ids: &[&str]) {
        let ids: Vec<_> = ids.iter().map(|id| Invalidation::Id((*id).to_owned())).collect();
        self.version_clock.publish(&ids);
    }

    async fn wait_for_load(&self, count: usize) {
        while self.database.loads_begun.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_plan_that_is_added_while_the_key_is_loaded_decides() {
    let fixture = Fixture::new(&[], "standard");
    let database = &fixture.database;
    database.key_permits.forget_permits(100);
    let change = async {
        fixture.wait_for_load(1).await;
        database.plans.lock().insert("gold", 7);
        *database.plan.lock() = "gold";
        fixture.publish(&[SETTINGS_ID, "org_1"]);
        database.key_permits.add_permits(100);
    };
    let (limit, ()) = tokio::join!(fixture.verify(), change);
    assert_eq!(limit, 7);
}

#[tokio::test]
async fn a_plan_that_is_removed_while_the_settings_are_loaded_no_longer_decides() {
    let fixture = Fixture::new(&[("gold", 7), ("silver", 5)], "gold");
    let database = &fixture.database;
    assert_eq!(fixture.verify().await, 7);
    fixture.publish(&[SETTINGS_ID]);
    database.settings_permits.forget_permits(100);
    let change = async {
        fixture.wait_for_load(2).await;
        *database.plan.lock() = "silver";
        fixture.publish(&["org_1"]);
        database.plans.lock().remove("gold");
        fixture.publish(&[SETTINGS_ID]);
        database.settings_permits.add_permits(100);
    };
    let (limit, ()) = tokio::join!(fixture.verify(), change);
    assert_eq!(limit, 5, "the standard plan would allow 100");
}
