//! Invariant 12: `POST /v1/keys/verify-batch` has bounded results.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::support::{ADMIN_KEY, Answer, Binary, Client, Server, until};

const PATH: &str = "/v1/keys/verify-batch";

const MIB: usize = 1 << 20;

/// The least memory for requests that can be configured. The data plane gets a quarter, and of that an organization.
const REQUEST_MEMORY: usize = 4 * (3 * MIB + 50_000 * 96);
const DATA_PLANE_MEMORY: usize = REQUEST_MEMORY / 4;

/// A key whose verification is 150 KB long: each of these characters is escaped with six.
fn fat_key(organization_id: &str) -> Value {
    let metadata: serde_json::Map<_, _> =
        (0..50).map(|index| (format!("name-{index}"), json!("\u{1}".repeat(500)))).collect();
    let limits = [json!({"limit": 1000, "period": "total"})];
    json!({"organization_id": organization_id, "name": "fat", "scopes": [], "limits": limits, "metadata": metadata})
}

fn batch(key: &str, count: usize) -> Value {
    json!({ "verifications": vec![json!({ "key": key }); count] })
}

async fn verify(client: &Client, body: &Value) -> Answer {
    client.send(client.request_at_root(Method::POST, PATH).json(body)).await
}

/// The number of verifications with the code `VALID`; all others have `UNAVAILABLE`.
fn valid_count(answer: &Answer) -> usize {
    assert_eq!(answer.status, 200, "{answer:?}");
    let data = answer.data();
    let codes: Vec<_> =
        data.as_array().unwrap().iter().map(|result| result["code"].as_str().unwrap()).collect();
    assert!(codes.iter().all(|code| ["VALID", "UNAVAILABLE"].contains(code)), "{codes:?}");
    codes.iter().filter(|code| **code == "VALID").count()
}

async fn server_with_two_organizations() -> Server {
    let server = Server::with(|config| config.http.request_memory_bytes = REQUEST_MEMORY).await;
    server.organization("org_a").await;
    server.organization("org_b").await;
    server
}

#[tokio::test]
async fn i12_the_results_of_a_batch_take_no_more_memory_than_configured() {
    let server = server_with_two_organizations().await;
    let memory = &server.app.memory.data_plane;
    let secret = server.key_with(fat_key("org_a")).await.0.key.unwrap();
    let (organization_key, _) = server.key(Some("org_a"), &["keys:verify"]).await;
    let mut left = 1000;
    for (client, share) in [(server.admin(), DATA_PLANE_MEMORY), (organization_key, DATA_PLANE_MEMORY / 4)] {
        let answer = verify(&client, &batch(&secret, 100)).await;
        let valid = valid_count(&answer);
        assert!(answer.text.len() <= share && answer.text.len() > share / 2, "{} bytes", answer.text.len());
        assert!(valid > 0 && valid < 100, "{valid}");
        until("the memory is released", || memory.reserved_bytes() == 0).await;
        // What could not be decided charged nothing.
        left -= valid;
        let answer = verify(&client, &json!({"verifications": [{"key": secret, "dry_run": true}]})).await;
        assert_eq!(answer.data()[0]["limits"][0]["remaining"], left);
    }
}

#[tokio::test]
async fn i12_results_that_nobody_reads_keep_their_memory() {
    let server = server_with_two_organizations().await;
    let memory = &server.app.memory.data_plane;
    let secret = server.key_with(fat_key("org_a")).await.0.key.unwrap();
    let plain = json!({"organization_id": "org_b", "name": "n", "scopes": []});
    let plain = server.key_with(plain).await.0.key.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut unread = socket.connect(server.url["http://".len()..].parse().unwrap()).await.unwrap();
    let body = batch(&secret, 50).to_string();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    unread.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    unread.readable().await.unwrap();
    until("the response is being sent", || memory.reserved_bytes() > DATA_PLANE_MEMORY * 3 / 4).await;
    let admin = server.admin();
    let valid = valid_count(&verify(&admin, &batch(&secret, 50)).await);
    assert!(valid < 10, "{valid} results of 150 KB have room");
    assert_eq!(valid_count(&verify(&admin, &batch(&plain, 10)).await), 10, "short results have room");
    drop(unread);
    until("the memory is released", || memory.reserved_bytes() == 0).await;
    assert!(valid_count(&verify(&admin, &batch(&secret, 50)).await) >= 40);
}

#[tokio::test]
async fn i12_a_batch_logs_a_cause_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        command.env("TOLLHOUSE_HTTP__REQUEST_MEMORY_BYTES", REQUEST_MEMORY.to_string());
    });
    let admin = server.admin();
    let organization = json!({"id": "org_a", "name": "A", "email": "a@example.com"});
    assert_eq!(admin.post("/organizations", organization).await.status, 201);
    let secret = admin.post("/api-keys", fat_key("org_a")).await.data()["key"].as_str().unwrap().to_owned();
    let request = admin.request_at_root(Method::POST, PATH).header("x-request-id", "the-batch");
    let answer = admin.send(request.json(&batch(&secret, 100))).await;
    assert!(valid_count(&answer) < 90, "more than ten could not be decided");
    for _ in 0..5 {
        let answer = verify(&admin, &batch(&secret, 100)).await;
        assert!(valid_count(&answer) < 100);
    }
    assert_eq!(server.terminate(), Some(0));
    let failures: Vec<_> = server.log.iter().filter(|line| line.contains("request failed")).collect();
    assert!(failures.len() <= 2, "at most one minute began: {failures:#?}");
    let lines: Vec<_> = failures.iter().filter(|line| line.contains("the-batch")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("memory"), "{lines:?}");
}
