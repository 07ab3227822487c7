//! The program is killed with SIGKILL in the middle of verifications, over and over: what was admitted in
//! all is never more than the quota, and each crash forfeits no more than one lease.

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

/// Of the platform, so that no plan limits its rate. Over a month, which seldom ends while a test runs.
async fn key(server: &Binary) -> String {
    let quota = json!({"limit": LIMIT, "period": "month"});
    let body = json!({"name": "n", "scopes": [], "quota": quota});
    let answer = server.admin().post("/api-keys", body).await;
    answer.data()["key"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn verify(client: &Client, body: Value) -> reqwest::Result<Answer> {
    Client::try_send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await
}

/// What is left, and when that ends.
async fn remaining(server: &Binary, key: &str) -> (u64, Value) {
    let answer = verify(&server.admin(), json!({"key": key, "dry_run": true})).await.unwrap();
    let quota = &answer.data()["quota"];
    (quota["remaining"].as_u64().unwrap_or_else(|| panic!("{answer:?}")), quota["resets_at"].clone())
}

/// Verifies until the server is gone, or the quota.
async fn spend(client: Client, key: String, mut random: fastrand::Rng, acknowledged: Arc<AtomicU64>) {
    loop {
        let cost = random.u64(1..=MAX_COST);
        let Ok(answer) = verify(&client, json!({"key": key, "cost": cost})).await else { return };
        match answer.data()["code"].as_str() {
            Some("VALID") => drop(acknowledged.fetch_add(cost, Ordering::SeqCst)),
            Some("QUOTA_EXCEEDED") => return,
            _ => panic!("{answer:?}"),
        }
    }
}

/// All callers at once until they end; the server is killed when so much was acknowledged.
async fn load(server: &mut Binary, key: &str, acknowledged: &Arc<AtomicU64>, kill_at: u64) {
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
async fn a_quota_is_never_exceeded_by_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(dir.path());
    let key = key(&server).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (mut left, month) = remaining(&server, &key).await;
    assert_eq!(left, LIMIT);
    // What a crash may take beyond what was acknowledged: a lease, and what was not yet answered.
    let max_lost = LEASE + CALLERS * MAX_COST;
    for _ in 0..5 {
        let (before, spent) = (left, acknowledged.load(Ordering::SeqCst));
        load(&mut server, &key, &acknowledged, spent + fastrand::u64(100..2000)).await;
        server = serve(dir.path());
        let spent = acknowledged.load(Ordering::SeqCst) - spent;
        let now;
        (left, now) = remaining(&server, &key).await;
        assert_eq!(now, month, "the month has ended while this ran: run it again");
        assert!(left + spent <= before, "{left} after {spent} of {before}");
        assert!(left + spent + max_lost >= before, "{left} after {spent} of {before}");
    }
    let spent = acknowledged.load(Ordering::SeqCst);
    server = stopped_in_peace(server, dir.path(), &key, left).await;
    load(&mut server, &key, &acknowledged, u64::MAX).await;
    // The rest, which was too little for the cost that was asked.
    let (rest, _) = remaining(&server, &key).await;
    assert!(rest < MAX_COST, "{rest}");
    assert_eq!(acknowledged.load(Ordering::SeqCst) - spent + rest, left);
    stopped_in_peace(server, dir.path(), &key, rest).await;
}

/// After a stop and a start there is exactly as much.
async fn stopped_in_peace(mut server: Binary, dir: &Path, key: &str, left: u64) -> Binary {
    assert_eq!(server.terminate(), Some(0));
    let server = serve(dir);
    assert_eq!(remaining(&server, key).await.0, left);
    server
}
