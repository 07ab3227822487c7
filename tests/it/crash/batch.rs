//! The program is repeatedly killed with SIGKILL during batches with an `Idempotency-Key`: each batch is stored
//! completely or not at all, and stored only once if it is retried with its key.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{number_from_env, serve};
use crate::support::{Answer, Binary, Client};

const CALLERS: usize = 4;
const OPERATIONS: usize = 100;

/// A batch of creations whose key ids contain the batch's name.
fn batch(name: &str) -> Value {
    let operation = |index| {
        let body = json!({"id": format!("key_{name}-{index}"), "name": name, "scopes": ["workflows:read"]});
        json!({"method": "POST", "path": "/api-keys", "body": body})
    };
    json!({"operations": (0..OPERATIONS).map(operation).collect::<Vec<_>>()})
}

async fn send(client: &Client, name: &str) -> reqwest::Result<Answer> {
    let request = client.request(Method::POST, "/batch").header("idempotency-key", name);
    Client::try_send(request.json(&batch(name))).await
}

/// Sends one batch after another until the server is killed; returns their names and whether they were answered.
/// Only the last one was not.
async fn send_batches(
    client: Client,
    caller: usize,
    round: u64,
    acknowledged: Arc<AtomicUsize>,
) -> Vec<(String, bool)> {
    let mut sent = Vec::new();
    loop {
        let name = format!("{round}-{caller}-{}", sent.len());
        let Ok(answer) = send(&client, &name).await else {
            sent.push((name, false));
            return sent;
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        sent.push((name, true));
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

/// The stored numbers of keys and of creation events, by batch.
fn stored_counts(dir: &Path) -> BTreeMap<String, (usize, usize)> {
    let conn =
        Connection::open_with_flags(dir.join("tollhouse.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut counts = BTreeMap::<String, (usize, usize)>::new();
    let mut keys = conn.prepare("SELECT name FROM api_keys").unwrap();
    for name in keys.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        counts.entry(name.unwrap()).or_default().0 += 1;
    }
    let mut events = conn.prepare("SELECT event FROM audit_events WHERE action = 'api_key.create'").unwrap();
    for event in events.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let event: Value = serde_json::from_str(&event.unwrap()).unwrap();
        assert_eq!(event["outcome"], "success");
        counts.entry(event["target"]["name"].as_str().unwrap().to_owned()).or_default().1 += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i2_a_batch_is_stored_completely_or_not_at_all_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(dir.path());
    let mut replayed = 0;
    let mut executed = 0;
    for round in 0..number_from_env("CRASH_ROUNDS").unwrap_or(5) {
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(send_batches(server.admin(), caller, round, acknowledged.clone()));
        }
        let kill_after = fastrand::usize(1..12);
        while acknowledged.load(Ordering::SeqCst) < kill_after {
            assert!(callers.try_join_next().is_none(), "a caller ended before the kill");
            tokio::task::yield_now().await;
        }
        // This sleep waits for nothing. It spreads the kills over the time between two acknowledgements.
        tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(..20_000))).await;
        server.kill();
        let sent: Vec<_> = callers.join_all().await.into_iter().flatten().collect();

        server = serve(dir.path());
        let before = stored_counts(dir.path());
        let admin = server.admin();
        for (name, was_answered) in &sent {
            let counts = before.get(name).copied().unwrap_or_default();
            let is_complete = counts == (OPERATIONS, OPERATIONS);
            assert!(is_complete || counts == (0, 0) && !was_answered, "{name}: {counts:?}");
            let answer = send(&admin, name).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("idempotent-replayed").is_some(), is_complete, "{name}");
            if !was_answered {
                if is_complete { replayed += 1 } else { executed += 1 }
            }
            let secret = answer.data()["results"][OPERATIONS - 1]["body"]["data"]["key"].as_str().unwrap();
            assert_eq!(server.client(secret).get("/whoami").await.status, 200);
        }
        let after = stored_counts(dir.path());
        for (name, _) in &sent {
            assert_eq!(after[name], (OPERATIONS, OPERATIONS), "{name} is stored exactly once");
        }
    }
    println!("unanswered batches: {replayed} had been committed, {executed} had not");
    let verified = Binary::run(&["audit", "verify", "--data", dir.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}
