//! Keys that change themselves, at the same time and when nothing can be stored.

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::damaged_pages::{assert_blocked, start_with_failing_changes, store_keys};
use super::full_disk::{assert_full, fill, readiness, use_reserve, verify};
use crate::support::{Answer, Client, Server};

async fn post(client: &Client, action: &str) -> Answer {
    client.send(client.request_at_root(Method::POST, &format!("/v1/keys/self/{action}"))).await
}

async fn own_key(server: &Server) -> Client {
    let body = json!({"organization_id": "org_1", "name": "own", "scopes": [], "self_rotation": true});
    server.key_with(body).await.0
}

/// The answers to these actions, sent at the same time with the same secret.
async fn race(client: &Client, actions: &[&'static str]) -> Vec<(&'static str, Answer)> {
    let mut running = JoinSet::new();
    for action in actions.iter().copied() {
        let client = client.clone();
        running.spawn(async move { (action, post(&client, action).await) });
    }
    running.join_all().await
}

/// The number of secrets of the key in this state.
async fn secrets_in(server: &Server, client: &Client, state: &str) -> usize {
    let seq = server.credential(client.key.as_deref().unwrap()).await.seq;
    let database = Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    let sql = "SELECT count(*) FROM api_key_hashes WHERE key_seq = ?1 AND state = ?2";
    database.query_row(sql, (seq, state), |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_of_racing_rotations_of_a_key_by_itself_one_succeeds() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let admin = server.admin();
    for _ in 0..5 {
        let old = own_key(&server).await;
        let answers = race(&old, &["rotate"; 8]).await;
        let (rotated, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().map(|(_, answer)| answer).partition(|answer| answer.status == 200);
        assert_eq!(rotated.len(), 1, "{rotated:?}");
        for answer in refused {
            assert_eq!((answer.status, answer.code()), (403, "SECRET_SUPERSEDED"), "{answer:?}");
        }
        let new = rotated[0].data()["key"].as_str().unwrap();
        assert_eq!(verify(&admin, new).await, "VALID");
        for state in ["current", "previous"] {
            assert_eq!(secrets_in(&server, &old, state).await, 1, "{state}");
        }
    }
}

/// Whichever comes first: a revocation before the rotation ends the key, one after it only the secret that it came with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_rotation_and_a_revocation_by_the_key_itself_leave_at_most_the_new_secret() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let admin = server.admin();
    for round in 0..20 {
        let old = own_key(&server).await;
        let actions = if round % 2 == 0 { ["rotate", "revoke"] } else { ["revoke", "rotate"] };
        let answers = race(&old, &actions).await;
        let find = |wanted: &str| &answers.iter().find(|(action, _)| *action == wanted).unwrap().1;
        let (rotated, revoked) = (find("rotate"), find("revoke"));
        assert_eq!(revoked.status, 200, "{revoked:?}");
        assert_ne!(verify(&admin, old.key.as_deref().unwrap()).await, "VALID");
        match rotated.status {
            200 => {
                assert_eq!(revoked.data()["status"], "active", "{revoked:?}");
                assert_eq!(verify(&admin, rotated.data()["key"].as_str().unwrap()).await, "VALID");
                assert_eq!(secrets_in(&server, &old, "previous").await, 0);
            }
            401 => assert_eq!(revoked.data()["status"], "revoked", "{revoked:?}"),
            _ => panic!("{rotated:?}"),
        }
        assert_eq!(secrets_in(&server, &old, "current").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_a_key_revokes_itself_when_the_database_is_at_its_size_limit() {
    let server = Server::with(|config| {
        config.database.max_bytes = 640 * 1024;
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    server.organization("org_1").await;
    let admin = server.admin();
    let old = own_key(&server).await;
    let rotated = post(&old, "rotate").await;
    let new = old.with_key(rotated.data()["key"].as_str().unwrap());
    fill(&admin).await;
    use_reserve(&admin).await;
    assert_full(&post(&new, "rotate").await);
    for (client, status) in [(&old, "active"), (&new, "revoked")] {
        let revoked = post(client, "revoke").await;
        assert_eq!((revoked.status, &revoked.data()["status"]), (200, &json!(status)), "{revoked:?}");
        assert_ne!(verify(&admin, client.key.as_deref().unwrap()).await, "VALID");
    }
    assert_eq!(readiness(&admin, "").await.3, ["STORAGE_RESERVE_IN_USE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_a_revocation_by_the_key_itself_that_cannot_be_stored_blocks_what_it_ends() {
    let stored = store_keys().await;
    let server = start_with_failing_changes(&stored).await;
    let admin = server.admin();
    assert_blocked(&post(&server.client(Some(&stored.manager)), "revoke").await);
    assert_eq!(verify(&admin, &stored.manager).await, "REVOKED");
    // A previous secret blocks only itself.
    assert_blocked(&post(&server.client(Some(&stored.keys[5])), "revoke").await);
    assert_eq!(verify(&admin, &stored.keys[5]).await, "EXPIRED");
    let by_id = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key_id": "key_5"}));
    assert_eq!(admin.send(by_id).await.data()["code"], Value::from("VALID"));
}
