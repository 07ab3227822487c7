//! What was acknowledged stays when there is no room left, and what wasn't never happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tollhouse::config::Config;

use crate::support::{Answer, Client, Server};

/// Room for the schema and some hundred keys with their events.
const LITTLE: u64 = 640 * 1024;
const WRITERS: usize = 16;
/// Each of them stops after so many refusals, or so many keys: the disk is full long before.
const REFUSALS: usize = 5;
const MAX_KEYS: usize = 2_000;

fn held_to(bytes: u64) -> impl FnOnce(&mut Config) {
    move |config| {
        config.database.max_bytes = bytes;
        config.rate_limits.admin_per_minute = 0;
    }
}

/// What one writer saw: the keys that it was told it made, id and secret by name, and all refusals.
#[derive(Default)]
struct Seen {
    made: BTreeMap<String, (String, String)>,
    refused: Vec<Answer>,
    refused_names: BTreeSet<String>,
}

async fn create_until_it_is_full(admin: Client, writer: usize) -> Seen {
    let mut seen = Seen::default();
    for nth in 0..MAX_KEYS {
        let name = format!("writer {writer}, key {nth}");
        let body = json!({"organization_id": "org_full", "name": name, "scopes": ["workflows:read"]});
        let answer = admin.post("/api-keys", body).await;
        if answer.status == 201 {
            let text = |field: &str| answer.data()[field].as_str().unwrap().to_owned();
            seen.made.insert(name, (text("id"), text("key")));
            continue;
        }
        seen.refused.push(answer);
        seen.refused_names.insert(name);
        if seen.refused.len() == REFUSALS {
            break;
        }
    }
    seen
}

/// No room, and said so; or too busy to tell.
fn assert_says_that_it_is_full(answer: &Answer) {
    match answer.status {
        507 => assert_eq!(answer.code(), "STORAGE_FULL", "{answer:?}"),
        503 => assert_eq!(answer.code(), "UNAVAILABLE", "{answer:?}"),
        _ => panic!("{answer:?}"),
    }
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(answer.json["data"], Value::Null, "{answer:?}");
}

async fn ready(server: &Server) -> u16 {
    // A probe's result is kept for a second.
    server.advance(Duration::from_secs(2));
    server.anonymous().get_at_root("/readyz").await.status
}

/// All of a list, page by page.
async fn all(admin: &Client, path: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = admin.get(&format!("{path}&limit=100{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        found.extend(answer.data().as_array().unwrap().iter().cloned());
        match answer.json["metadata"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i2_a_full_disk_loses_nothing_acknowledged_and_keeps_nothing_refused() {
    let server = Server::with(held_to(LITTLE)).await;
    server.organization("org_full").await;
    assert_eq!(ready(&server).await, 200);

    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(create_until_it_is_full(server.admin(), writer))).collect();
    let (mut made, mut refused_names) = (BTreeMap::new(), BTreeSet::new());
    for writer in writers {
        let seen = writer.await.unwrap();
        assert_eq!(seen.refused.len(), REFUSALS, "it was never full");
        seen.refused.iter().for_each(assert_says_that_it_is_full);
        made.extend(seen.made);
        refused_names.extend(seen.refused_names);
    }
    assert!(made.len() > WRITERS, "full from the beginning: {} keys", made.len());

    // A read's event may still find a place in the last page, but not for ever; and an answer without
    // its event doesn't leave.
    let mut read = server.admin().get("/organizations/org_full").await;
    for _ in 0..1000 {
        if read.status != 200 {
            break;
        }
        read = server.admin().get("/organizations/org_full").await;
    }
    assert_says_that_it_is_full(&read);
    assert_eq!(ready(&server).await, 503);
    assert_eq!(server.anonymous().get_at_root("/healthz").await.status, 200);
    // The keys are good all the same: whether they are needs no room.
    let (_, secret) = made.values().next().unwrap();
    assert_eq!(server.client(Some(secret)).get("/whoami").await.status, 200);

    let (dir, _unwritten_counts) = server.try_stop().await;
    let server = Server::over(dir, held_to(0)).await;
    let admin = server.admin();
    assert_eq!(ready(&server).await, 200);

    let chain = admin.get("/audit-logs/verify").await;
    assert_eq!(chain.data()["valid"], true, "{chain:?}");

    let stored: BTreeMap<_, _> = all(&admin, "/api-keys?organization_id=org_full")
        .await
        .into_iter()
        .map(|key| (key["name"].as_str().unwrap().to_owned(), key["id"].as_str().unwrap().to_owned()))
        .collect();
    let acknowledged: BTreeMap<_, _> =
        made.iter().map(|(name, (id, _))| (name.clone(), id.clone())).collect();
    assert_eq!(stored, acknowledged);
    assert!(refused_names.iter().all(|name| !stored.contains_key(name)));
    let created = all(&admin, "/audit-logs?org_id=org_full&action=api_key.create&outcome=success").await;
    let mut created: Vec<_> = created.iter().map(|event| event["target"]["id"].as_str().unwrap()).collect();
    created.sort_unstable();
    let mut ids: Vec<_> = stored.values().map(String::as_str).collect();
    ids.sort_unstable();
    assert_eq!(created, ids, "each key has its one event, and no event is without its key");

    for (_, secret) in made.values().take(50) {
        assert_eq!(server.client(Some(secret)).get("/whoami").await.status, 200);
    }
    let (_, more) = server.key(Some("org_full"), &["workflows:read"]).await;
    assert_eq!(admin.get(&format!("/api-keys/{}", more["id"].as_str().unwrap())).await.status, 200);
}

/// Holds the writer until what it gives is dropped.
async fn hold_the_writer(server: &Server) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let began = Arc::new(Notify::new());
    let (db, beginning) = (server.app.db.clone(), began.clone());
    tokio::spawn(async move {
        db.write(move |_| {
            beginning.notify_one();
            let _ = held.lock().unwrap().recv();
            Ok(())
        })
        .await
    });
    began.notified().await;
    release
}

/// Who gives up waiting doesn't stop what has begun, and doesn't keep a connection's slot meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn i2_a_mutation_whose_client_went_away_happens_whole() {
    const WAITING: usize = 8;
    let server = Server::with(|config| {
        config.database.writer_queue = WAITING;
        config.http.max_connections = WAITING + 1;
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    server.organization("org_gone").await;
    let release = hold_the_writer(&server).await;

    // As many again as can wait: the refusals tell that the queue is full of the others.
    let (answered, mut answers) = tokio::sync::mpsc::channel(2 * WAITING);
    let callers: Vec<_> = (0..2 * WAITING)
        .map(|nth| {
            let (admin, answered) = (server.admin(), answered.clone());
            tokio::spawn(async move {
                let body =
                    json!({"organization_id": "org_gone", "name": format!("gone {nth}"), "scopes": []});
                let answer = admin.post("/api-keys", body).await;
                drop(admin); // With its connection.
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
    // Every slot is free, though the mutations still wait.
    server.assert_all_slots_are_free().await;
    drop(release);

    let admin = server.admin();
    let all_are_made = async {
        // A look waits in the writer's queue, too, and may find it full.
        while admin.get("/api-keys?organization_id=org_gone").await.data().as_array().map(Vec::len)
            != Some(WAITING)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_are_made).await.expect("they should have been made");
    let keys = all(&admin, "/api-keys?organization_id=org_gone").await;
    let mut keys: Vec<_> = keys.iter().map(|key| key["id"].as_str().unwrap()).collect();
    let created = all(&admin, "/audit-logs?org_id=org_gone&action=api_key.create&outcome=success").await;
    let mut created: Vec<_> = created.iter().map(|event| event["target"]["id"].as_str().unwrap()).collect();
    keys.sort_unstable();
    created.sort_unstable();
    assert_eq!(keys, created);
}
