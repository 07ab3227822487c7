//! The program is repeatedly killed with SIGKILL during verifications: the admitted units never exceed the quota,
//! and each crash forfeits at most one lease.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::serve;
use crate::support::{ADMIN_KEY, Answer, Binary, Client};

const CALLERS: u64 = 16;
const LIMIT: u64 = 20_000;
const LEASE: u64 = LIMIT / 100;
const MAX_COST: u64 = 9;

/// Creates a platform key, so that no plan limits its rate. Its quota is per month, so that the period rarely ends
/// while the test runs.
async fn create_key(server: &Binary) -> String {
    let quota = json!({"limit": LIMIT, "period": "month"});
    let body = json!({"name": "n", "scopes": [], "limits": [quota]});
    let answer = server.admin().post("/api-keys", body).await;
    answer.data()["key"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn verify(client: &Client, body: Value) -> reqwest::Result<Answer> {
    Client::try_send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await
}

/// The remaining units and the end of the period.
async fn remaining(server: &Binary, key: &str) -> (u64, Value) {
    let answer = verify(&server.admin(), json!({"key": key, "dry_run": true})).await.unwrap();
    let quota = &answer.data()["limits"][0];
    (quota["remaining"].as_u64().unwrap_or_else(|| panic!("{answer:?}")), quota["resets_at"].clone())
}

/// Verifies until the server is killed or the quota is exceeded.
async fn spend(client: Client, key: String, mut rng: fastrand::Rng, acknowledged: Arc<AtomicU64>) {
    loop {
        let cost = rng.u64(1..=MAX_COST);
        let Ok(answer) = verify(&client, json!({"key": key, "cost": cost})).await else { return };
        match answer.data()["code"].as_str() {
            Some("VALID") => drop(acknowledged.fetch_add(cost, Ordering::SeqCst)),
            Some("QUOTA_EXCEEDED") => return,
            _ => panic!("{answer:?}"),
        }
    }
}

/// Runs all callers until they end; kills the server once `kill_at` units are acknowledged.
async fn run_load(server: &mut Binary, key: &str, acknowledged: &Arc<AtomicU64>, kill_at: u64) {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = server.client(ADMIN_KEY);
        callers.spawn(spend(client, key.to_owned(), fastrand::Rng::new(), acknowledged.clone()));
    }
    while acknowledged.load(Ordering::SeqCst) < kill_at && !callers.is_empty() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_never_exceed_a_quota() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(dir.path());
    let key = create_key(&server).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (mut left, month) = remaining(&server, &key).await;
    assert_eq!(left, LIMIT);
    // The units a crash may cost beyond the acknowledged ones: one lease, and the verifications in flight.
    let max_lost = LEASE + CALLERS * MAX_COST;
    for _ in 0..5 {
        let before = left;
        let spent = acknowledged.load(Ordering::SeqCst);
        run_load(&mut server, &key, &acknowledged, spent + fastrand::u64(100..2000)).await;
        server = serve(dir.path());
        let spent = acknowledged.load(Ordering::SeqCst) - spent;
        let now;
        (left, now) = remaining(&server, &key).await;
        assert_eq!(now, month, "the month ended during the test; run it again");
        assert!(left + spent <= before, "{left} after {spent} of {before}");
        assert!(left + spent + max_lost >= before, "{left} after {spent} of {before}");
    }
    let spent = acknowledged.load(Ordering::SeqCst);
    server = restart_gracefully(server, dir.path(), &key, left).await;
    run_load(&mut server, &key, &acknowledged, u64::MAX).await;
    // The remaining units were too few for the requested cost.
    let (rest, _) = remaining(&server, &key).await;
    assert!(rest < MAX_COST, "{rest}");
    assert_eq!(acknowledged.load(Ordering::SeqCst) - spent + rest, left);
    restart_gracefully(server, dir.path(), &key, rest).await;
}

/// Stops the server gracefully and starts it again; the remaining units don't change.
async fn restart_gracefully(mut server: Binary, dir: &Path, key: &str, left: u64) -> Binary {
    assert_eq!(server.terminate(), Some(0));
    let server = serve(dir);
    assert_eq!(remaining(&server, key).await.0, left);
    server
}
