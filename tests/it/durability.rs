//! On a full disk, acknowledged changes are kept and refused changes have no effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tollhouse::config::Config;

use crate::support::{Answer, Client, Server};

/// Fits the schema and a few hundred keys with their audit events.
const SMALL_DATABASE_BYTES: u64 = 640 * 1024;
const WRITERS: usize = 16;
/// A writer stops after this number of refusals.
const MAX_REFUSALS: usize = 5;
/// A writer stops after this number of keys; the database is full long before.
const MAX_KEYS: usize = 2_000;

fn with_max_bytes(bytes: u64) -> impl FnOnce(&mut Config) {
    move |config| {
        config.database.max_bytes = bytes;
        config.rate_limits.admin_per_minute = 0;
    }
}

/// The responses that one writer received.
#[derive(Default)]
struct WriterResult {
    /// ID and secret of each acknowledged key, by name.
    created: BTreeMap<String, (String, String)>,
    refused: Vec<Answer>,
    refused_names: BTreeSet<String>,
}

async fn create_keys_until_full(admin: Client, writer: usize) -> WriterResult {
    let mut result = WriterResult::default();
    for index in 0..MAX_KEYS {
        let name = format!("writer {writer}, key {index}");
        let body = json!({"organization_id": "org_full", "name": name, "scopes": ["workflows:read"]});
        let answer = admin.post("/api-keys", body).await;
        if answer.status == 201 {
            let text = |field: &str| answer.data()[field].as_str().unwrap().to_owned();
            result.created.insert(name, (text("id"), text("key")));
            continue;
        }
        result.refused.push(answer);
        result.refused_names.insert(name);
        if result.refused.len() == MAX_REFUSALS {
            break;
        }
    }
    result
}

/// A refusal names the full storage, or the server is too busy to accept the write.
fn assert_storage_full(answer: &Answer) {
    match answer.status {
        507 => assert_eq!(answer.code(), "STORAGE_FULL", "{answer:?}"),
        503 => assert_eq!(answer.code(), "UNAVAILABLE", "{answer:?}"),
        _ => panic!("{answer:?}"),
    }
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(answer.json["data"], Value::Null, "{answer:?}");
}

async fn readyz_status(server: &Server) -> u16 {
    // The result of a probe is cached for one second.
    server.advance(Duration::from_secs(2));
    server.anonymous().get_at_root("/readyz?write=true").await.status
}

/// Returns all rows of a list, page by page.
async fn list_all(admin: &Client, path: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = admin.get(&format!("{path}&limit=100{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        rows.extend(answer.data().as_array().unwrap().iter().cloned());
        match answer.json["metadata"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i2_a_full_disk_loses_nothing_acknowledged_and_keeps_nothing_refused() {
    let server = Server::with(with_max_bytes(SMALL_DATABASE_BYTES)).await;
    server.organization("org_full").await;
    assert_eq!(readyz_status(&server).await, 200);

    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(create_keys_until_full(server.admin(), writer))).collect();
    let mut created_keys = BTreeMap::new();
    let mut refused_names = BTreeSet::new();
    for writer in writers {
        let result = writer.await.unwrap();
        assert_eq!(result.refused.len(), MAX_REFUSALS, "the database was never full");
        result.refused.iter().for_each(assert_storage_full);
        created_keys.extend(result.created);
        refused_names.extend(result.refused_names);
    }
    assert!(created_keys.len() > WRITERS, "full from the start: {} keys", created_keys.len());

    // The audit events of some reads may still fit into the last page. Those that don't fit are aggregated in
    // memory.
    for _ in 0..100 {
        assert_eq!(server.admin().get("/organizations/org_full").await.status, 200);
    }
    assert_eq!(readyz_status(&server).await, 503);
    assert_eq!(server.anonymous().get_at_root("/healthz").await.status, 200);
    // The created keys are still valid: checking a key writes nothing.
    let (_, secret) = created_keys.values().next().unwrap();
    assert_eq!(server.client(Some(secret)).get("/whoami").await.status, 200);

    let (dir, _unwritten_counts) = server.try_stop().await;
    let server = Server::start_in(dir, with_max_bytes(0)).await;
    let admin = server.admin();
    assert_eq!(readyz_status(&server).await, 200);

    let chain = admin.get("/audit-logs/verify").await;
    assert_eq!(chain.data()["valid"], true, "{chain:?}");

    let stored: BTreeMap<_, _> = list_all(&admin, "/api-keys?organization_id=org_full")
        .await
        .into_iter()
        .map(|key| (key["name"].as_str().unwrap().to_owned(), key["id"].as_str().unwrap().to_owned()))
        .collect();
    let acknowledged: BTreeMap<_, _> =
        created_keys.iter().map(|(name, (id, _))| (name.clone(), id.clone())).collect();
    assert_eq!(stored, acknowledged);
    assert!(refused_names.iter().all(|name| !stored.contains_key(name)));
    let events = list_all(&admin, "/audit-logs?org_id=org_full&action=api_key.create&outcome=success").await;
    let mut event_targets: Vec<_> =
        events.iter().map(|event| event["target"]["id"].as_str().unwrap()).collect();
    event_targets.sort_unstable();
    let mut ids: Vec<_> = stored.values().map(String::as_str).collect();
    ids.sort_unstable();
    assert_eq!(event_targets, ids, "each key has exactly one event, and each event has its key");

    for (_, secret) in created_keys.values().take(50) {
        assert_eq!(server.client(Some(secret)).get("/whoami").await.status, 200);
    }
    let (_, new_key) = server.key(Some("org_full"), &["workflows:read"]).await;
    assert_eq!(admin.get(&format!("/api-keys/{}", new_key["id"].as_str().unwrap())).await.status, 200);
}

/// Blocks the writer thread until the returned sender is dropped.
async fn block_writer(server: &Server) -> mpsc::Sender<()> {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let started = Arc::new(Notify::new());
    let db = server.app.db.clone();
    let write_started = started.clone();
    tokio::spawn(async move {
        db.write(move |_| {
            write_started.notify_one();
            let _ = blocked.lock().unwrap().recv();
            Ok(())
        })
        .await
    });
    started.notified().await;
    release
}

/// A client that disconnects doesn't cancel its mutation, and its connection slot is freed at once.
#[tokio::test(flavor = "multi_thread")]
async fn i2_a_mutation_completes_after_its_client_disconnects() {
    const WAITING: usize = 8;
    let server = Server::with(|config| {
        config.database.writer_queue = WAITING;
        config.http.max_connections = 2 * WAITING;
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    server.organization("org_gone").await;
    // Otherwise the last caller could be one too many.
    server.wait_until_disconnected().await;
    let release = block_writer(&server).await;

    // Twice as many calls as the queue holds. Once half of them are refused, the other half is queued.
    let (answered, mut answers) = tokio::sync::mpsc::channel(2 * WAITING);
    let callers: Vec<_> = (0..2 * WAITING)
        .map(|index| {
            let admin = server.admin();
            let answered = answered.clone();
            tokio::spawn(async move {
                let body =
                    json!({"organization_id": "org_gone", "name": format!("gone {index}"), "scopes": []});
                let answer = admin.post("/api-keys", body).await;
                drop(admin); // Closes its connection.
                answered.send(answer).await.unwrap();
            })
        })
        .collect();
    for _ in 0..WAITING {
        let answer = answers.recv().await.unwrap();
        assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
    }
    callers.iter().for_each(|caller| caller.abort());
    for caller in callers {
        let _ = caller.await;
    }
    // Every slot is free while the mutations still wait.
    server.assert_all_slots_are_free().await;
    drop(release);

    let admin = server.admin();
    let all_created = async {
        // The read's audit event waits in the writer's queue, too, and may find it full.
        while admin.get("/api-keys?organization_id=org_gone").await.data().as_array().map(Vec::len)
            != Some(WAITING)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_created)
        .await
        .expect("the queued mutations did not complete");
    let keys = list_all(&admin, "/api-keys?organization_id=org_gone").await;
    let mut keys: Vec<_> = keys.iter().map(|key| key["id"].as_str().unwrap()).collect();
    let events = list_all(&admin, "/audit-logs?org_id=org_gone&action=api_key.create&outcome=success").await;
    let mut event_targets: Vec<_> =
        events.iter().map(|event| event["target"]["id"].as_str().unwrap()).collect();
    keys.sort_unstable();
    event_targets.sort_unstable();
    assert_eq!(keys, event_targets);
}
