//! Stored responses in the file: what they contain, how long they are kept, and after a kill.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tollhouse::service::idempotency;

use super::{expect_replay, is_replay, key, post, user};
use crate::api::{column, expect_ok};
use crate::support::{ADMIN_KEY, Binary, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// Returns the names and contents of all database files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir.join("data")).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[tokio::test]
async fn i6_no_file_contains_a_secret_or_an_idempotency_key() {
    let server = Server::start().await;
    let admin = server.admin();
    let idempotency_key = "an-idempotency-key-to-be-looked-for";
    let mut secrets = vec![ADMIN_KEY.to_owned(), idempotency_key.to_owned()];
    let created = expect_ok(post(&admin, idempotency_key, "/api-keys", &key()).await, 201);
    secrets.push(created["key"].as_str().unwrap().to_owned());
    let rotate = format!("/api-keys/{}/rotate", created["id"].as_str().unwrap());
    let rotated = expect_ok(post(&admin, &format!("{idempotency_key}-2"), &rotate, &json!({})).await, 200);
    secrets.push(rotated["key"].as_str().unwrap().to_owned());
    let batch = json!({"operations": [{"method": "POST", "path": "/api-keys", "body": key()}, {"method": "GET", "path": "/api-keys/key_9"}], "atomic": false});
    let results = expect_ok(post(&admin, &format!("{idempotency_key}-3"), "/batch", &batch).await, 200);
    secrets.push(results["results"][0]["body"]["data"]["key"].as_str().unwrap().to_owned());
    expect_ok(post(&admin, &format!("{idempotency_key}-4"), "/users", &user("kept-in-the-clear")).await, 201);

    let contains =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let check = |when: &str, files: &[(String, Vec<u8>)]| {
        let any_contains = |text: &str| files.iter().any(|(_, bytes)| contains(bytes, text));
        // Responses without a secret are stored in plain text, which proves that these are the right files.
        assert!(any_contains(r#""name":"kept-in-the-clear","external_id""#), "{when}");
        for secret in &secrets {
            for (name, bytes) in files {
                assert!(!contains(bytes, secret), "{when}: {secret} is in {name}");
            }
        }
    };
    let running = files(server.dir.path());
    assert!(running.iter().any(|(name, bytes)| name == "tollhouse.db-wal" && !bytes.is_empty()));
    check("running", &running);
    let dir = server.stop().await;
    check("stopped", &files(dir.path()));
}

#[tokio::test]
async fn a_response_is_kept_across_a_restart_and_for_a_day() {
    let server = Server::start().await;
    let first = post(&server.admin(), "a", "/api-keys", &key()).await;
    let without_limit = |config: &mut tollhouse::config::Config| config.rate_limits.admin_per_minute = 0;
    let server = Server::start_in(server.stop().await, without_limit).await;
    let admin = server.admin();
    server.advance(DAY - Duration::from_millis(1));
    expect_replay(&first, &post(&admin, "a", "/api-keys", &key()).await);
    assert!(!idempotency::prune(&server.app).await.unwrap());
    expect_replay(&first, &post(&admin, "a", "/api-keys", &key()).await);
    server.advance(Duration::from_millis(1));
    let again = post(&admin, "a", "/api-keys", &key()).await;
    assert!(!is_replay(&again) && again.status == 201, "{again:?}");
    assert_ne!(again.data()["id"], first.data()["id"]);
    expect_replay(&again, &post(&admin, "a", "/api-keys", &key()).await);
}

#[tokio::test]
async fn responses_are_deleted_after_a_day() {
    let server = Server::start().await;
    let admin = server.admin();
    let stored = || {
        let file = rusqlite::Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
        file.query_row("SELECT count(*) FROM idempotency", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    for index in 0..5 {
        post(&admin, &format!("old {index}"), "/users", &user(&format!("old{index}"))).await;
    }
    server.advance(DAY);
    post(&admin, "new", "/users", &user("new")).await;
    assert_eq!(stored(), 6);
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(stored(), 6, "they expire at the end of the day, not before");
    server.advance(Duration::from_millis(1));
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(stored(), 1);
}

/// The server is killed after the commit and before the response. The client repeats the request after the
/// restart and gets the stored response.
#[tokio::test]
async fn i1_after_a_kill_between_commit_and_response_the_response_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    let admin = server.admin();
    let body = json!({"operations": (0..100).map(|index| {
        json!({"method": "POST", "path": "/api-keys", "body": {"id": format!("key_{index}"), "name": "n", "scopes": []}})
    }).collect::<Vec<_>>()});
    let text = body.to_string();
    let mut raw = crate::support::Raw::connect(&server.url).await;
    let length = format!("content-length: {}", text.len());
    let headers = ["content-type: application/json", "idempotency-key: a", &length];
    raw.send(&crate::support::head("POST /admin/v1/batch", &headers)).await;
    raw.send(text.as_bytes()).await;
    let committed = async {
        while admin.get("/api-keys/key_99").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), committed).await.expect("the batch was not committed");
    server.kill();
    let server = Binary::serve(dir.path());
    let admin = server.admin();
    let answer = post(&admin, "a", "/batch", &body).await;
    assert!(answer.status == 200 && is_replay(&answer), "{answer:?}");
    for result in answer.data()["results"].as_array().unwrap() {
        assert_eq!(result["status"], 201);
        let secret = result["body"]["data"]["key"].as_str().unwrap();
        assert_eq!(server.client(secret).get("/whoami").await.status, 200, "the returned secret works");
    }
    assert_eq!(column(admin.get("/audit-logs?action=batch.run").await.data(), "id").len(), 1);
}
