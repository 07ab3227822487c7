//! The program is repeatedly killed with SIGKILL while clients report usage. A client repeats a report until it is
//! acknowledged, so each report must be counted exactly once, in usage and on the quotas.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::serve;
use crate::support::{Answer, Binary, Client, number_from_env};

const REPORTERS: usize = 16;
const KEYS: usize = 3;
/// The number of kills, unless `CRASH_ROUNDS` sets another one.
const ROUNDS: u64 = 5;
/// So low that the reports exceed it.
const LIMIT: u64 = 5000;
const MAX_UNITS: u64 = 100;
/// The units that a crash forfeits at most: a lease, and the reports that were being stored.
const MAX_FORFEITED: u64 = LIMIT / 100 + REPORTERS as u64 * MAX_UNITS;

#[derive(Clone, Debug)]
struct Report {
    id: String,
    key: usize,
    units: u64,
}

impl Report {
    fn body(&self) -> Value {
        json!({"key_id": format!("key_{}", self.key), "costs": {"tokens": self.units}, "id": self.id})
    }

    async fn send(&self, admin: &Client) -> reqwest::Result<Answer> {
        Client::try_send(admin.request_at_root(Method::POST, "/v1/keys/usage").json(&self.body())).await
    }
}

/// Makes one report after the other.
struct Reporter {
    number: usize,
    rng: fastrand::Rng,
    acknowledged: Vec<Report>,
    /// The report that was not acknowledged before the kill.
    in_doubt: Option<Report>,
}

impl Reporter {
    fn new(number: usize) -> Self {
        Self { number, rng: fastrand::Rng::new(), acknowledged: Vec::new(), in_doubt: None }
    }

    /// Reports until the server is killed, or until `max` reports were acknowledged by all reporters together.
    async fn run(&mut self, admin: &Client, acknowledged: &AtomicUsize, max: usize) {
        while acknowledged.load(Ordering::SeqCst) < max {
            let repeated = self.in_doubt.take();
            let is_repeated = repeated.is_some();
            let report = repeated.unwrap_or_else(|| self.next_report());
            self.in_doubt = Some(report.clone());
            let Ok(answer) = report.send(admin).await else { return };
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.data()["counted"] == true || is_repeated, "{answer:?}");
            self.in_doubt = None;
            self.acknowledged.push(report);
            acknowledged.fetch_add(1, Ordering::SeqCst);
            if self.repeat_one(admin).await.is_err() {
                return;
            }
        }
    }

    fn next_report(&mut self) -> Report {
        let id = format!("{}-{}", self.number, self.acknowledged.len());
        Report { id, key: self.rng.usize(..KEYS), units: self.rng.u64(1..=MAX_UNITS) }
    }

    /// Sends an acknowledged report again, as it was or with other costs.
    async fn repeat_one(&mut self, admin: &Client) -> reqwest::Result<()> {
        let mut report = self.acknowledged[self.rng.usize(..self.acknowledged.len())].clone();
        if self.rng.bool() {
            let answer = report.send(admin).await?;
            assert_eq!((answer.status, &answer.data()["counted"]), (200, &json!(false)), "{answer:?}");
        } else {
            report.units += 1;
            let answer = report.send(admin).await?;
            assert_eq!((answer.status, answer.code()), (422, "IDEMPOTENCY_MISMATCH"), "{answer:?}");
        }
        Ok(())
    }
}

/// Creates an organization with a quota, and its keys.
async fn create_keys(server: &Binary) {
    let admin = server.admin();
    let settings = admin.request(Method::PATCH, "/config").header("if-match", "*");
    let configured = admin.send(settings.json(&json!({"meters": ["requests", "tokens"]}))).await;
    assert_eq!(configured.status, 200, "{configured:?}");
    // Prepaid units, so that no period ends while the test runs.
    let limits = json!([{"meter": "tokens", "limit": LIMIT, "period": "total"}]);
    let organization = json!({"id": "org_1", "name": "n", "email": "n@example.com", "limits": limits});
    assert_eq!(admin.post("/organizations", organization).await.status, 201);
    for number in 0..KEYS {
        let body = json!({"id": format!("key_{number}"), "organization_id": "org_1", "name": "n", "scopes": [],
            "limits": []});
        assert_eq!(admin.post("/api-keys", body).await.status, 201);
    }
}

/// The recorded units of tokens.
async fn usage(server: &Binary, query: &str) -> u64 {
    let answer = server.admin().get(&format!("/analytics/usage?meter=tokens&period=2d&{query}")).await;
    answer.data()["totals"]["cost"].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
}

/// Fails unless the recorded units are those of the acknowledged reports, and of some of those in doubt.
async fn check(server: &Binary, reporters: &[Reporter]) {
    let sum = |reports: &mut dyn Iterator<Item = &Report>| reports.map(|report| report.units).sum::<u64>();
    for key in 0..KEYS {
        let is_of_key = |report: &&Report| report.key == key;
        let acknowledged = reporters.iter().flat_map(|reporter| &reporter.acknowledged);
        let acknowledged = sum(&mut acknowledged.filter(is_of_key));
        let in_doubt = reporters.iter().filter_map(|reporter| reporter.in_doubt.as_ref());
        let in_doubt = sum(&mut in_doubt.filter(is_of_key));
        let recorded = usage(server, &format!("key_id=key_{key}")).await;
        let possible = acknowledged..=acknowledged + in_doubt;
        assert!(possible.contains(&recorded), "key_{key}: {recorded}, not {possible:?}");
    }
}

async fn run_round(
    server: &mut Binary,
    reporters: Vec<Reporter>,
    acknowledged: &Arc<AtomicUsize>,
    (count, is_killed): (usize, bool),
) -> Vec<Reporter> {
    let goal = acknowledged.load(Ordering::SeqCst) + count;
    // A server that is killed must not run out of reporters before.
    let max = if is_killed { usize::MAX } else { goal };
    let mut running = JoinSet::new();
    for mut reporter in reporters {
        let admin = server.admin();
        let acknowledged = acknowledged.clone();
        running.spawn(async move {
            reporter.run(&admin, &acknowledged, max).await;
            reporter
        });
    }
    if is_killed {
        while acknowledged.load(Ordering::SeqCst) < goal {
            if let Some(ended) = running.try_join_next() {
                panic!("a reporter ended before the kill: {:?}", ended.err());
            }
            tokio::task::yield_now().await;
        }
        server.kill();
    }
    running.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_kills_lose_no_report_and_count_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(dir.path());
    create_keys(&server).await;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut reporters: Vec<_> = (0..REPORTERS).map(Reporter::new).collect();
    let rounds = number_from_env("CRASH_ROUNDS").unwrap_or(ROUNDS);
    for _ in 0..rounds {
        let count = fastrand::usize(50..200);
        reporters = run_round(&mut server, reporters, &acknowledged, (count, true)).await;
        server = serve(dir.path());
        check(&server, &reporters).await;
    }
    // The reports in doubt are repeated, too.
    reporters = run_round(&mut server, reporters, &acknowledged, (REPORTERS * 4, false)).await;
    let in_doubt: Vec<_> = reporters.iter_mut().filter_map(|reporter| reporter.in_doubt.take()).collect();
    for report in in_doubt {
        assert_eq!(report.send(&server.admin()).await.unwrap().status, 200);
        reporters[0].acknowledged.push(report);
    }
    check(&server, &reporters).await;
    let total: u64 =
        reporters.iter().flat_map(|reporter| &reporter.acknowledged).map(|report| report.units).sum();
    assert_eq!(usage(&server, "org_id=org_1").await, total);

    // The reports count on the quota, of which each crash forfeits little, and a graceful stop nothing.
    assert!(total > LIMIT, "{total}");
    assert_eq!(quota(&server).await, ("QUOTA_EXCEEDED".to_owned(), 0));
    let max_forfeited = rounds * MAX_FORFEITED;
    let limits = json!([{"meter": "tokens", "limit": total + max_forfeited, "period": "total"}]);
    let raised = server.admin().patch("/organizations/org_1", json!({ "limits": limits })).await;
    assert_eq!(raised.status, 200, "{raised:?}");
    let (code, remaining) = quota(&server).await;
    assert_eq!(code, "VALID");
    assert!(remaining <= max_forfeited, "{remaining} of {max_forfeited}");
    assert_eq!(server.terminate(), Some(0));
    server = serve(dir.path());
    assert_eq!(quota(&server).await, (code, remaining));
}

/// What a verification that costs nothing says of the organization's quota: its code, and the remaining units.
async fn quota(server: &Binary) -> (String, u64) {
    let admin = server.admin();
    let body = json!({"key_id": "key_0", "costs": {"tokens": 0}});
    let answer = admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
    let data = answer.data();
    let remaining = data["limits"][0]["remaining"].as_u64().unwrap_or_else(|| panic!("{answer:?}"));
    (data["code"].as_str().unwrap().to_owned(), remaining)
}
