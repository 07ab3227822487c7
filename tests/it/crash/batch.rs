//! The program is killed with SIGKILL in the middle of batches with an `Idempotency-Key`, over and over: each
//! is there whole or not at all, and repeated with its key it is there once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{number, serve};
use crate::support::{Answer, Binary, Client};

const CALLERS: usize = 4;
const OPERATIONS: usize = 100;

/// Creations whose ids tell the batch.
fn batch(name: &str) -> Value {
    let one = |nth| {
        let body = json!({"id": format!("key_{name}-{nth}"), "name": name, "scopes": ["workflows:read"]});
        json!({"method": "POST", "path": "/api-keys", "body": body})
    };
    json!({"operations": (0..OPERATIONS).map(one).collect::<Vec<_>>()})
}

async fn send(client: &Client, name: &str) -> reqwest::Result<Answer> {
    let request = client.request(Method::POST, "/batch").header("idempotency-key", name);
    Client::try_send(request.json(&batch(name))).await
}

/// Sends one batch after the other until the server is gone. The last one had no answer.
async fn work(
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

/// How many keys, and how many events of their creation, are stored of each batch.
fn stored(dir: &Path) -> BTreeMap<String, (usize, usize)> {
    let file =
        Connection::open_with_flags(dir.join("tollhouse.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut found = BTreeMap::<String, (usize, usize)>::new();
    let mut keys = file.prepare("SELECT name FROM api_keys").unwrap();
    for name in keys.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        found.entry(name.unwrap()).or_default().0 += 1;
    }
    let mut events = file.prepare("SELECT event FROM audit_events WHERE action = 'api_key.create'").unwrap();
    for event in events.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let event: Value = serde_json::from_str(&event.unwrap()).unwrap();
        assert_eq!(event["outcome"], "success");
        found.entry(event["target"]["name"].as_str().unwrap().to_owned()).or_default().1 += 1;
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i2_a_batch_is_whole_or_not_there_and_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(dir.path());
    let (mut replayed, mut anew) = (0, 0);
    for round in 0..number("CRASH_ROUNDS").unwrap_or(5) {
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(work(server.admin(), caller, round, acknowledged.clone()));
        }
        let enough = fastrand::usize(1..12);
        while acknowledged.load(Ordering::SeqCst) < enough {
            assert!(callers.try_join_next().is_none(), "a caller ended before the kill");
            tokio::task::yield_now().await;
        }
        // Not to wait for anything: the kill should fall anywhere between two acknowledgements.
        tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(..20_000))).await;
        server.kill();
        let sent: Vec<_> = callers.join_all().await.into_iter().flatten().collect();

        server = serve(dir.path());
        let (before, admin) = (stored(dir.path()), server.admin());
        for (name, was_answered) in &sent {
            let there = before.get(name).copied().unwrap_or_default();
            let whole = there == (OPERATIONS, OPERATIONS);
            assert!(whole || there == (0, 0) && !was_answered, "{name}: {there:?}");
            let answer = send(&admin, name).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("idempotent-replayed").is_some(), whole, "{name}");
            if !was_answered {
                if whole { replayed += 1 } else { anew += 1 }
            }
            let secret = answer.data()["results"][OPERATIONS - 1]["body"]["data"]["key"].as_str().unwrap();
            assert_eq!(server.client(secret).get("/whoami").await.status, 200);
        }
        let after = stored(dir.path());
        for (name, _) in &sent {
            assert_eq!(after[name], (OPERATIONS, OPERATIONS), "{name} is there once");
        }
    }
    println!("of the batches without an answer {replayed} were done, {anew} were not");
    let verified = Binary::run(&["audit", "verify", "--data", dir.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}
