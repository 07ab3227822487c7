//! The program is repeatedly killed with SIGKILL during verifications: the admitted units never exceed a quota, be it
//! that of a key or one that the keys of an organization share, and each crash forfeits at most one lease.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::serve;
use crate::support::{ADMIN_KEY, Answer, Binary, Client};

const CALLERS: u64 = 16;
const LIMIT: u64 = 20_000;
const LEASE: u64 = LIMIT / 100;
const MAX_COST: u64 = 9;

/// Keys that share a quota for each of these meters, which are their only limits.
struct Quotas {
    keys: Vec<String>,
    meters: &'static [&'static str],
    /// The units of each meter that were admitted.
    acknowledged: Vec<AtomicU64>,
}

/// Quotas of [`LIMIT`] units. They are per month, so that the period rarely ends while the test runs.
fn limits(meters: &[&str]) -> Value {
    meters.iter().map(|meter| json!({"meter": meter, "limit": LIMIT, "period": "month"})).collect()
}

impl Quotas {
    fn new(keys: Vec<String>, meters: &'static [&'static str]) -> Arc<Self> {
        let acknowledged = meters.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { keys, meters, acknowledged })
    }

    /// A platform key, which has no other limits.
    async fn of_key(server: &Binary) -> Arc<Self> {
        let meters = &["requests"];
        Self::new(vec![create_key(server, json!({"limits": limits(meters)})).await], meters)
    }

    /// Keys of an organization, which have none of their own.
    async fn of_organization(server: &Binary) -> Arc<Self> {
        let meters = &["requests", "tokens"];
        let admin = server.admin();
        let settings = admin.request(Method::PATCH, "/config").header("if-match", "*");
        let configured = admin.send(settings.json(&json!({ "meters": meters }))).await;
        assert_eq!(configured.status, 200, "{configured:?}");
        let organization =
            json!({"id": "org_1", "name": "n", "email": "n@example.com", "limits": limits(meters)});
        let created = admin.post("/organizations", organization).await;
        assert_eq!(created.status, 201, "{created:?}");
        let mut keys = Vec::new();
        for _ in 0..4 {
            keys.push(create_key(server, json!({"organization_id": "org_1", "limits": []})).await);
        }
        Self::new(keys, meters)
    }

    /// The remaining units of each quota, and the end of the period.
    async fn remaining(&self, server: &Binary) -> (Vec<u64>, Value) {
        let body = json!({"key": self.keys[0], "cost": 0, "dry_run": true});
        let answer = verify(&server.admin(), body).await.unwrap();
        let quotas = answer.data()["limits"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
        let meters: Vec<_> = quotas.iter().map(|quota| quota["meter"].as_str().unwrap()).collect();
        assert_eq!(meters, self.meters);
        let units = quotas.iter().map(|quota| quota["remaining"].as_u64().unwrap()).collect();
        (units, quotas[0]["resets_at"].clone())
    }

    /// The units of each meter that were admitted.
    fn spent(&self) -> Vec<u64> {
        self.acknowledged.iter().map(|units| units.load(Ordering::SeqCst)).collect()
    }

    /// Verifies until the server is killed or a quota is exceeded.
    async fn spend(&self, client: Client, mut rng: fastrand::Rng) {
        loop {
            let units: Vec<_> = self.meters.iter().map(|_| rng.u64(1..=MAX_COST)).collect();
            let costs: Map<String, Value> = std::iter::zip(self.meters, &units)
                .map(|(meter, units)| ((*meter).to_owned(), json!(units)))
                .collect();
            let key = &self.keys[rng.usize(..self.keys.len())];
            let Ok(answer) = verify(&client, json!({"key": key, "costs": costs})).await else { return };
            match answer.data()["code"].as_str() {
                Some("VALID") => std::iter::zip(&self.acknowledged, units).for_each(|(sum, units)| {
                    sum.fetch_add(units, Ordering::SeqCst);
                }),
                Some("QUOTA_EXCEEDED") => return,
                _ => panic!("{answer:?}"),
            }
        }
    }

    /// Runs all callers until they end; kills the server once this number of units is acknowledged.
    async fn run_load(self: &Arc<Self>, server: &mut Binary, kill_at: u64) {
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let client = server.client(ADMIN_KEY);
            let quotas = self.clone();
            callers.spawn(async move { quotas.spend(client, fastrand::Rng::new()).await });
        }
        while self.acknowledged[0].load(Ordering::SeqCst) < kill_at && !callers.is_empty() {
            while let Some(ended) = callers.try_join_next() {
                ended.unwrap();
            }
            tokio::task::yield_now().await;
        }
        if !callers.is_empty() {
            server.kill();
        }
        callers.join_all().await;
    }

    /// Kills the server several times, and then uses up a quota.
    async fn check(self: Arc<Self>, mut server: Binary, dir: &Path) {
        let (mut left, month) = self.remaining(&server).await;
        assert_eq!(left, vec![LIMIT; self.meters.len()]);
        // The units a crash may cost beyond the acknowledged ones: one lease, and the verifications in flight.
        let max_lost = LEASE + CALLERS * MAX_COST;
        for _ in 0..5 {
            let before = left;
            let spent_before = self.spent();
            self.run_load(&mut server, spent_before[0] + fastrand::u64(100..2000)).await;
            server = serve(dir);
            let now;
            (left, now) = self.remaining(&server).await;
            assert_eq!(now, month, "the month ended during the test; run it again");
            for (index, spent) in self.spent().into_iter().enumerate() {
                let spent = spent - spent_before[index];
                let (left, before) = (left[index], before[index]);
                assert!(left + spent <= before, "{left} after {spent} of {before}");
                assert!(left + spent + max_lost >= before, "{left} after {spent} of {before}");
            }
        }
        let spent_before = self.spent();
        server = self.restart_gracefully(server, dir, &left).await;
        self.run_load(&mut server, u64::MAX).await;
        // The remaining units of some quota were too few for the requested cost.
        let (rest, _) = self.remaining(&server).await;
        assert!(rest.iter().any(|rest| *rest < MAX_COST), "{rest:?}");
        for (index, spent) in self.spent().into_iter().enumerate() {
            assert_eq!(spent - spent_before[index] + rest[index], left[index], "{}", self.meters[index]);
        }
        self.restart_gracefully(server, dir, &rest).await;
    }

    /// Stops the server gracefully and starts it again; the remaining units don't change.
    async fn restart_gracefully(&self, mut server: Binary, dir: &Path, left: &[u64]) -> Binary {
        assert_eq!(server.terminate(), Some(0));
        let server = serve(dir);
        assert_eq!(self.remaining(&server).await.0, left);
        server
    }
}

async fn create_key(server: &Binary, mut body: Value) -> String {
    body["name"] = json!("n");
    body["scopes"] = json!([]);
    let answer = server.admin().post("/api-keys", body).await;
    answer.data()["key"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn verify(client: &Client, body: Value) -> reqwest::Result<Answer> {
    Client::try_send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_never_exceed_a_quota() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    Quotas::of_key(&server).await.check(server, dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_never_exceed_a_quota_that_keys_share() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    Quotas::of_organization(&server).await.check(server, dir.path()).await;
}
