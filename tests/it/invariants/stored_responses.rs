//! The responses stored for `Idempotency-Key` take bounded space: a request whose response can't be stored changes
//! nothing.

use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tollhouse::config::Config;
use tollhouse::service::idempotency;

use crate::support::{Answer, Client, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// The limits of [`limited_server`], in bytes.
const MAX_RESPONSE_BYTES: u64 = 6_000;
const MAX_BYTES_PER_KEY: u64 = 20_000;
const MAX_TOTAL_BYTES: u64 = 160_000;
const MAX_ORGANIZATION_BYTES: u64 = MAX_TOTAL_BYTES / 4;

fn without_rate_limits(config: &mut Config) {
    config.rate_limits.admin_per_minute = 0;
    config.rate_limits.batch_per_minute = 0;
}

fn limit(config: &mut Config) {
    without_rate_limits(config);
    config.idempotency.max_response_bytes = MAX_RESPONSE_BYTES;
    config.idempotency.max_bytes_per_key = MAX_BYTES_PER_KEY;
    config.idempotency.max_total_bytes = MAX_TOTAL_BYTES;
}

/// A server with small limits and the organizations `org_1` and `org_2`.
async fn limited_server() -> Server {
    let server = Server::with(limit).await;
    server.organization("org_1").await;
    server.organization("org_2").await;
    server
}

async fn post(client: &Client, name: &str, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", name).json(body)).await
}

fn user(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.com")})
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// Asserts that the response could not be stored, because of the limit that the message names.
#[track_caller]
fn expect_no_room(answer: &Answer, reason: &str) {
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
    let retry_after: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!(retry_after > 0);
    let message = answer.json["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("Nothing was done: ") && message.contains(reason), "{message}");
    assert!(message.contains("without Idempotency-Key"), "{message}");
}

fn database(server: &Server) -> Connection {
    Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap()
}

/// The number of stored responses, and the bytes that they count. Fails if a sum differs from the rows.
fn stored(server: &Server) -> (u64, u64) {
    let database = database(server);
    let one = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let total = one("SELECT coalesce(sum(256 + length(answer)), 0) FROM idempotency");
    for (what, sql) in [
        ("total", "SELECT coalesce(sum(bytes), 0) FROM idempotency_bytes WHERE subject = 0"),
        ("keys", "SELECT coalesce(sum(bytes), 0) FROM idempotency_bytes WHERE subject > 0"),
        ("organizations", "SELECT coalesce(sum(bytes), 0) FROM idempotency_bytes WHERE subject < 0"),
    ] {
        assert_eq!(one(sql), total, "{what}");
    }
    let largest_key = one("SELECT coalesce(max(bytes), 0) FROM idempotency_bytes WHERE subject > 0") as u64;
    assert!(largest_key <= server.app.config.idempotency.max_bytes_per_key, "{largest_key}");
    (one("SELECT count(*) FROM idempotency") as u64, total as u64)
}

/// Creates users with a new `Idempotency-Key` each, until a response can't be stored; returns that response and the
/// number of users.
async fn create_users_until_full(client: &Client, prefix: &str) -> (Answer, usize) {
    for index in 0..1000 {
        let name = format!("{prefix}-{index}");
        let answer = post(client, &name, "/users", &user(&name)).await;
        if answer.status != 201 {
            return (answer, index);
        }
    }
    panic!("never full");
}

async fn count_users(server: &Server) -> usize {
    let users = database(server).query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0));
    usize::try_from(users.unwrap()).unwrap()
}

/// Batches of long reads, each with a new `Idempotency-Key`, would fill the database within seconds.
#[tokio::test]
async fn i12_reads_of_batches_are_not_stored() {
    let server = Server::with(|config| {
        without_rate_limits(config);
        config.database.max_bytes = 32 << 20;
    })
    .await;
    server.organization("org_1").await;
    let metadata: serde_json::Map<_, _> =
        (0..50).map(|index| (format!("{index:040}"), json!("x".repeat(500)))).collect();
    let body =
        json!({"organization_id": "org_1", "name": "n", "scopes": ["admin:keys"], "metadata": metadata});
    let (client, key) = server.key_with(body).await;
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let size = || std::fs::metadata(server.dir.path().join("data/tollhouse.db")).unwrap().len();
    let before = size();
    let batch = json!({"operations": vec![json!({"method": "GET", "path": path}); 10]});
    let mut answered = 0;
    for index in 0..200 {
        let answer = post(&client, &format!("{index}"), "/batch", &batch).await;
        assert_eq!(answer.status, 200, "{:.200}", answer.text);
        answered += answer.text.len() as u64;
    }
    assert!(answered > 32 << 20, "the responses fit into the database: {answered} bytes");
    let (count, bytes) = stored(&server);
    assert!(count == 200 && bytes < 200 * 512, "{count} responses of {bytes} bytes");
    // The rest is the audit log, with an event for each read.
    let growth = size() - before;
    assert!(growth < 8 << 20, "{growth}");
    assert_eq!(post(&server.admin(), "a", "/users", &user("one")).await.status, 201);
    // Changes that change nothing have long responses, too, which must be stored.
    let unchanged = json!({"method": "PATCH", "path": path, "body": {}});
    let batch = json!({"operations": vec![unchanged; 100]});
    expect_no_room(&post(&client, "unchanged", "/batch", &batch).await, "2097152 can be stored");
    assert_eq!(client.post("/batch", batch).await.status, 200);
}

#[tokio::test]
async fn i12_a_batch_with_a_response_over_the_limit_changes_nothing() {
    let server = limited_server().await;
    let admin = server.admin();
    for atomic in [true, false] {
        let batch = |count: usize| {
            let create = |index| {
                let name = format!("user-{atomic}-{count}-{index}");
                json!({"method": "POST", "path": "/users", "body": user(&name)})
            };
            json!({"atomic": atomic, "operations": (0..count).map(create).collect::<Vec<_>>()})
        };
        let before = (count_users(&server).await, stored(&server));
        let name = format!("{atomic}");
        for _ in 0..2 {
            let answer = post(&admin, &name, "/batch", &batch(30)).await;
            expect_no_room(&answer, &format!("at most {MAX_RESPONSE_BYTES} can be stored"));
            assert_eq!((count_users(&server).await, stored(&server)), before);
        }
        // Fewer operations with the same Idempotency-Key, and the same without it, succeed.
        let fewer = post(&admin, &name, "/batch", &batch(2)).await;
        assert!(fewer.status == 200 && !is_replay(&fewer), "{fewer:?}");
        assert!(is_replay(&post(&admin, &name, "/batch", &batch(2)).await));
        assert_eq!(admin.post("/batch", batch(30)).await.status, 200);
        assert_eq!(count_users(&server).await, before.0 + 32);
    }
    // A failed atomic batch is stored completely, so that it is limited, too.
    let mut operations = vec![json!({"method": "DELETE", "path": "/users/user_none"})];
    operations.extend(vec![json!({"method": "GET", "path": "/users/user_none"}); 40]);
    let answer = post(&admin, "failed", "/batch", &json!({"operations": operations})).await;
    expect_no_room(&answer, "can be stored");
    let refused = admin.get("/audit-logs?action=batch.run&limit=1").await;
    assert_eq!(refused.data()[0]["code"], "UNAVAILABLE", "the refusal is recorded");
}

#[tokio::test]
async fn i12_stored_responses_are_limited_for_a_key_an_organization_and_in_all() {
    let server = limited_server().await;
    let admin = server.admin();
    let (first, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let (answer, created) = create_users_until_full(&first, "first").await;
    expect_no_room(&answer, "of this API key take");
    let (count, bytes) = stored(&server);
    assert!(created > 10 && count == created as u64 && bytes > MAX_BYTES_PER_KEY - 1_000, "{count} {bytes}");
    assert_eq!(count_users(&server).await, created);
    // Refusals that are stored, 404 and 409, need room as well.
    let member = json!({"user_id": "user_none", "role": "member"});
    expect_no_room(&post(&first, "404", "/organizations/org_none/members", &member).await, "this API key");
    expect_no_room(&post(&first, "409", "/users", &user("first-0")).await, "this API key");
    assert_eq!(stored(&server), (count, bytes));
    // Replays, requests without the header and other keys are served.
    assert!(is_replay(&post(&first, "first-0", "/users", &user("first-0")).await));
    assert_eq!(first.post("/users", user("without")).await.status, 201);
    let (second, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let (answer, _) = create_users_until_full(&second, "second").await;
    expect_no_room(&answer, "of this API key take");
    let (third, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let (answer, _) = create_users_until_full(&third, "third").await;
    expect_no_room(&answer, "of this organization take");
    let (_, bytes) = stored(&server);
    assert!(bytes <= MAX_ORGANIZATION_BYTES && bytes > MAX_ORGANIZATION_BYTES - 1_000, "{bytes}");
    let (other, _) = server.key(Some("org_2"), &["admin:users"]).await;
    assert_eq!(post(&other, "a", "/users", &user("other")).await.status, 201);
    // Platform keys share no limit of an organization.
    let mut keys = 0;
    let full = loop {
        let (platform, _) = server.key(None, &["admin:users"]).await;
        let (answer, _) = create_users_until_full(&platform, &format!("platform-{keys}")).await;
        if answer.text.contains("of all API keys take") {
            break answer;
        }
        expect_no_room(&answer, "of this API key take");
        keys += 1;
        assert!(keys < 100, "never full");
    };
    expect_no_room(&full, "of all API keys take");
    let (_, bytes) = stored(&server);
    assert!(bytes <= MAX_TOTAL_BYTES && bytes > MAX_TOTAL_BYTES - 1_000, "{bytes}");
    expect_no_room(&post(&other, "b", "/users", &user("other-b")).await, "of all API keys take");
    assert_eq!(admin.post("/users", user("without-a-header")).await.status, 201);
}

#[tokio::test]
async fn i12_expired_responses_make_room() {
    let server = limited_server().await;
    let (client, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let (answer, created) = create_users_until_full(&client, "a").await;
    expect_no_room(&answer, "this API key");
    let (count, _) = stored(&server);
    server.advance(DAY);
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(stored(&server).0, count, "they expire at the end of the day, not before");
    server.advance(Duration::from_millis(1));
    // Until they are deleted they take room, but an expired response is replaced under the same name.
    expect_no_room(&post(&client, "new", "/users", &user("new")).await, "this API key");
    let replaced = post(&client, "a-0", "/users", &user("b-0")).await;
    assert!(replaced.status == 201 && !is_replay(&replaced), "{replaced:?}");
    assert_eq!(stored(&server).0, count);
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(stored(&server).0, 1);
    assert!(is_replay(&post(&client, "a-0", "/users", &user("b-0")).await));
    let (answer, again) = create_users_until_full(&client, "again").await;
    expect_no_room(&answer, "this API key");
    assert!(again >= created - 2, "{again} after {created}");
    server.advance(DAY + Duration::from_millis(1));
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(stored(&server), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_concurrent_requests_do_not_exceed_a_limit() {
    let server = limited_server().await;
    let (client, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move { create_users_until_full(&client, &format!("writer-{writer}")).await })
        })
        .collect();
    let mut created = 0;
    for writer in writers {
        let (answer, users) = writer.await.unwrap();
        expect_no_room(&answer, "this API key");
        created += users;
    }
    let (count, bytes) = stored(&server);
    assert!(bytes <= MAX_BYTES_PER_KEY && bytes > MAX_BYTES_PER_KEY - 1_000, "{bytes}");
    assert_eq!((count, count_users(&server).await), (created as u64, created));
}

#[tokio::test]
async fn i12_the_limits_hold_after_a_restart() {
    let server = limited_server().await;
    let (client, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let (answer, _) = create_users_until_full(&client, "a").await;
    expect_no_room(&answer, "this API key");
    let before = stored(&server);
    let secret = client.key.clone();
    let server = Server::start_in(server.stop().await, limit).await;
    assert_eq!(stored(&server), before);
    let client = server.client(secret.as_deref());
    assert!(is_replay(&post(&client, "a-0", "/users", &user("a-0")).await));
    expect_no_room(&post(&client, "new", "/users", &user("new")).await, "this API key");
    assert_eq!(stored(&server), before);
}
