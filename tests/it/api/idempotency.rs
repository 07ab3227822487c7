//! `Idempotency-Key`: the same request is answered again instead of done again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::ROUTES;
use tollhouse::service::idempotency;

use super::{column, done, refused};
use crate::support::{ADMIN_KEY, Answer, Binary, Client, Server};

const DAY: Duration = Duration::from_secs(86_400);

async fn post(client: &Client, key: &str, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

fn user(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.com")})
}

fn key() -> Value {
    json!({"name": "n", "scopes": ["workflows:read"]})
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// The same status and the same data, and nothing done.
#[track_caller]
fn replays(first: &Answer, second: &Answer) {
    assert!(!is_replay(first) && is_replay(second), "{first:?} {second:?}");
    assert_eq!((first.status, &first.json["data"]), (second.status, &second.json["data"]), "{second:?}");
    assert_eq!(first.json["error"], second.json["error"]);
    assert_eq!(first.header("etag"), second.header("etag"));
    assert_ne!(first.json["metadata"]["requestId"], second.json["metadata"]["requestId"]);
    assert_eq!(second.json["metadata"]["requestId"], json!(second.header("x-request-id")));
    assert_eq!(second.header("cache-control"), Some("no-store"));
}

async fn emails(client: &Client) -> Vec<String> {
    column(client.get("/users?limit=100").await.data(), "email")
}

#[tokio::test]
async fn the_same_request_is_done_once() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = post(&admin, "a", "/users", &user("one")).await;
    assert_eq!(first.status, 201);
    for _ in 0..3 {
        replays(&first, &post(&admin, "a", "/users", &user("one")).await);
    }
    assert_eq!(emails(&admin).await, ["one@example.com"]);
    // As often as it likes: the answer is that of then.
    let id = first.data()["id"].as_str().unwrap();
    done(admin.patch(&format!("/users/{id}"), json!({"name": "renamed"})).await, 200);
    replays(&first, &post(&admin, "a", "/users", &user("one")).await);
    // Without a key, and with another, it is done.
    refused(&admin.post("/users", user("one")).await, 409, "ALREADY_EXISTS");
    refused(&post(&admin, "b", "/users", &user("one")).await, 409, "ALREADY_EXISTS");
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    done(post(&admin, "a", "/users", &user("one")).await, 201);
    for (path, body) in [("/users", user("two")), ("/api-keys", user("one")), ("/users?x=1", user("one"))] {
        let answer = post(&admin, "a", path, &body).await;
        refused(&answer, 422, "IDEMPOTENCY_MISMATCH");
        assert!(!is_replay(&answer));
    }
    assert_eq!(emails(&admin).await, ["one@example.com"]);
    // Another API key's is another.
    let (other, _) = server.key(None, &["admin:users"]).await;
    assert!(!is_replay(&post(&other, "a", "/users", &user("two")).await));
    assert_eq!(emails(&admin).await.len(), 2);
}

#[tokio::test]
async fn one_that_is_running_is_not_begun_again() {
    let server = Server::start().await;
    let admin = server.admin();
    let running = server.running(ADMIN_KEY, "a").await;
    refused(&post(&admin, "a", "/users", &user("one")).await, 409, "CONFLICT");
    assert_eq!(post(&admin, "b", "/users", &user("two")).await.status, 201);
    let (other, _) = server.key(None, &["admin:users"]).await;
    assert_eq!(post(&other, "a", "/users", &user("three")).await.status, 201);
    drop(running);
    // That refusal was not the operation's own, so it wasn't kept.
    assert_eq!(post(&admin, "a", "/users", &user("one")).await.status, 201);
    assert!(server.app.in_flight.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_does_it() {
    let server = Server::start().await;
    for round in 0..20 {
        let name = format!("round{round}");
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (admin, name) = (server.admin(), name.clone());
                tokio::spawn(async move { post(&admin, &name, "/users", &user(&name)).await })
            })
            .collect();
        let (mut anew, mut ids) = (0, BTreeSet::new());
        for call in calls {
            let answer = call.await.unwrap();
            match answer.status {
                201 => {
                    anew += usize::from(!is_replay(&answer));
                    ids.insert(answer.data()["id"].as_str().unwrap().to_owned());
                }
                _ => refused(&answer, 409, "CONFLICT"),
            }
        }
        assert_eq!((anew, ids.len()), (1, 1));
    }
    assert_eq!(emails(&server.admin()).await.len(), 20);
    assert!(server.app.in_flight.is_empty());
}

/// 404 and 409 are kept; what the operation didn't decide itself is tried again.
#[tokio::test]
async fn what_the_operation_decided_is_kept_and_nothing_else() {
    let server = Server::start().await;
    let admin = server.admin();
    let member = json!({"user_id": "user_1", "role": "member"});
    let missing = post(&admin, "404", "/organizations/org_1/members", &member).await;
    refused(&missing, 404, "NOT_FOUND");
    server.organization("org_1").await;
    server.user("user_1").await;
    replays(&missing, &post(&admin, "404", "/organizations/org_1/members", &member).await);

    let taken = json!({"id": "org_1", "name": "n", "email": "a@b.example"});
    let conflict = post(&admin, "409", "/organizations", &taken).await;
    refused(&conflict, 409, "ALREADY_EXISTS");
    done(admin.delete("/organizations/org_1").await, 200);
    replays(&conflict, &post(&admin, "409", "/organizations", &taken).await);

    // 400, 403 and 415.
    refused(&post(&admin, "400", "/users", &json!({})).await, 400, "INVALID_REQUEST");
    assert_eq!(post(&admin, "400", "/users", &user("one")).await.status, 201);
    let (weak, key) = server.key(None, &["admin:orgs"]).await;
    refused(&post(&weak, "403", "/users", &user("two")).await, 403, "INSUFFICIENT_SCOPE");
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    done(admin.patch(&path, json!({"scopes": ["admin:users"]})).await, 200);
    assert_eq!(post(&weak, "403", "/users", &user("two")).await.status, 201);
    let request = admin.request(Method::POST, "/users").header("idempotency-key", "415").body("{}");
    assert_eq!(admin.send(request).await.status, 415);
    assert_eq!(post(&admin, "415", "/users", &user("three")).await.status, 201);
    // 412.
    let revoke = |etag: &str| {
        let request = admin.request(Method::POST, &format!("{path}/revoke"));
        request.header("idempotency-key", "412").header("if-match", etag.to_owned()).json(&json!({}))
    };
    assert_eq!(admin.send(revoke("\"0-0\"")).await.status, 412);
    assert_eq!(admin.send(revoke("*")).await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    for key in ["", &"x".repeat(256), "k\u{e4}se"] {
        let answer = post(&admin, key, "/users", &user("one")).await;
        refused(&answer, 400, "INVALID_REQUEST");
        assert_eq!(answer.details(), [("Idempotency-Key".to_owned(), "INVALID_HEADER".to_owned())]);
    }
    let twice = admin.request(Method::POST, "/users").header("idempotency-key", "a");
    refused(
        &admin.send(twice.header("idempotency-key", "b").json(&user("one"))).await,
        400,
        "INVALID_REQUEST",
    );
    let longest = "x".repeat(255);
    assert_eq!(post(&admin, &longest, "/users", &user("one")).await.status, 201);
    assert!(is_replay(&post(&admin, &longest, "/users", &user("one")).await));
    // Where it means nothing it is not looked at.
    assert_eq!(
        admin.send(admin.request(Method::GET, "/users").header("idempotency-key", "")).await.status,
        200
    );
}

#[tokio::test]
async fn every_post_of_the_control_plane_is_done_once() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    server.key_with(json!({"id": "key_1", "name": "n", "scopes": []})).await;
    let batch = json!({"operations": [{"method": "POST", "path": "/api-keys", "body": key()}]});
    let calls = [
        ("/admin/v1/organizations", json!({"name": "n", "email": "a@b.example"})),
        ("/admin/v1/organizations/{id}/members", json!({"user_id": "user_1", "role": "member"})),
        ("/admin/v1/users", user("one")),
        ("/admin/v1/api-keys", key()),
        ("/admin/v1/api-keys/{id}/rotate", json!({"grace_period_seconds": 0})),
        ("/admin/v1/api-keys/{id}/expire-previous", Value::Null),
        ("/admin/v1/api-keys/{id}/revoke", json!({})),
        ("/admin/v1/scopes", json!({"scope": "invoices:read"})),
        ("/admin/v1/batch", batch),
    ];
    let called: BTreeSet<_> = calls.iter().map(|(path, _)| *path).collect();
    let posts = ROUTES.iter().filter(|route| route.is_idempotent_by_key());
    let posts: BTreeSet<_> = posts.map(|route| route.path).collect();
    assert_eq!(called, posts, "a POST that nobody tries");
    for (path, body) in calls {
        let thing = if path.contains("organizations") { "org_1" } else { "key_1" };
        let call = path.strip_prefix("/admin/v1").unwrap().replace("{id}", thing);
        let first = post(&admin, path, &call, &body).await;
        assert!(first.status < 300, "{path}: {first:?}");
        replays(&first, &post(&admin, path, &call, &body).await);
    }
    let events = admin.get("/audit-logs?limit=100").await;
    let actions = column(events.data(), "action");
    let count = |action: &str| actions.iter().filter(|one| *one == action).count();
    assert_eq!(count("request.replayed"), posts.len());
    assert_eq!((count("api_key.rotate"), count("scope.create"), count("batch.run")), (1, 1, 1));
}

#[tokio::test]
async fn a_batch_that_failed_is_kept_whole() {
    let server = Server::start().await;
    let admin = server.admin();
    let missing = json!({"operations": [
        {"method": "POST", "path": "/users", "body": user("one")}, {"method": "GET", "path": "/users/user_9"}]});
    let first = post(&admin, "a", "/batch", &missing).await;
    refused(&first, 409, "BATCH_FAILED");
    let events = admin.get("/audit-logs?limit=100").await.data().clone();
    let failed: Vec<_> = column(&events, "code").into_iter().filter(|code| !code.is_empty()).collect();
    assert_eq!(failed, ["BATCH_FAILED", "NOT_FOUND", "FAILED_DEPENDENCY"]);
    server.user("user_9").await;
    replays(&first, &post(&admin, "a", "/batch", &missing).await);
    assert_eq!(emails(&admin).await, ["user_9@example.com"]);
}

#[tokio::test]
async fn a_replay_is_recorded_as_a_look() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    let (own, _) = server.key(Some("org_1"), &["*"]).await;
    let first = post(&own, "a", "/users", &user("one")).await;
    let second = post(&own, "a", "/users", &user("one")).await;
    replays(&first, &second);
    for client in [&admin, &own] {
        let events = client.get("/audit-logs?action=request.replayed&org_id=org_1").await;
        let event = &events.data()[0];
        let told = [&event["access"], &event["outcome"], &event["code"], &event["context"]["method"]];
        assert_eq!(told, [&json!("read"), &json!("success"), &Value::Null, &json!("POST")]);
        assert_eq!((&event["changes"], &event["context"]["status"]), (&json!([]), &json!(201)));
        assert_eq!(event["context"]["request_id"], json!(second.header("x-request-id")));
    }
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
}

/// Who may not do it any more is not told what it was answered when it might.
#[tokio::test]
async fn the_caller_is_authorised_anew() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    for (path, body, status, code) in [
        ("key", json!({"scopes": ["admin:users"]}), 403, "INSUFFICIENT_SCOPE"),
        ("key", json!({"allowed_ips": ["192.0.2.1"]}), 403, "IP_NOT_ALLOWED"),
        ("key", json!({"status": "disabled"}), 401, "INVALID_API_KEY"),
        ("org", json!({"status": "suspended"}), 401, "INVALID_API_KEY"),
    ] {
        let (client, made) = server.key(Some("org_1"), &["admin:keys"]).await;
        let first = post(&client, "a", "/api-keys", &key()).await;
        replays(&first, &post(&client, "a", "/api-keys", &key()).await);
        let id = made["id"].as_str().unwrap();
        let path = if path == "key" { format!("/api-keys/{id}") } else { "/organizations/org_1".to_owned() };
        done(admin.patch(&path, body).await, 200);
        refused(&post(&client, "a", "/api-keys", &key()).await, status, code);
    }
}

/// A batch asks for no scope of its own: what its operations asked for is asked again.
#[tokio::test]
async fn a_secret_of_a_batch_is_not_told_again_to_who_may_no_longer_make_one() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (client, made) = server.key(Some("org_1"), &["admin:keys"]).await;
    let batch = json!({"operations": [{"method": "POST", "path": "/api-keys", "body": key()}]});
    let first = post(&client, "a", "/batch", &batch).await;
    replays(&first, &post(&client, "a", "/batch", &batch).await);
    let path = format!("/api-keys/{}", made["id"].as_str().unwrap());
    done(server.admin().patch(&path, json!({"scopes": ["admin:users"]})).await, 200);
    refused(&post(&client, "a", "/batch", &batch).await, 403, "INSUFFICIENT_SCOPE");
}

#[tokio::test]
async fn an_answer_with_a_secret_is_opened_by_the_token_that_got_it_alone() {
    let server = Server::start().await;
    let admin = server.admin();
    let (client, made) = server.key(None, &["*"]).await;
    let secret = post(&client, "secret", "/api-keys", &key()).await;
    let plain = post(&client, "plain", "/users", &user("one")).await;
    let rotate = format!("/api-keys/{}/rotate", made["id"].as_str().unwrap());
    let rotated = done(admin.post(&rotate, json!({})).await, 200);
    let now = server.client(rotated["key"].as_str());
    // The old token works for a while yet, and opens what it got.
    replays(&secret, &post(&client, "secret", "/api-keys", &key()).await);
    // The new one is the same caller: it is not done again, and can't be told.
    let answer = post(&now, "secret", "/api-keys", &key()).await;
    refused(&answer, 409, "CONFLICT");
    assert!(
        answer.json["error"]["message"].as_str().unwrap().contains("The request succeeded earlier"),
        "{answer:?}"
    );
    replays(&plain, &post(&now, "plain", "/users", &user("one")).await);
    refused(&post(&now, "secret", "/api-keys", &user("x")).await, 422, "IDEMPOTENCY_MISMATCH");
    assert_eq!(column(admin.get("/api-keys").await.data(), "id").len(), 3);
}

/// The bytes of all files of the database.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir.join("data")).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[tokio::test]
async fn i6_no_file_tells_a_secret_or_what_opens_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let named = "an-idempotency-key-to-be-looked-for";
    let mut secrets = vec![ADMIN_KEY.to_owned(), named.to_owned()];
    let made = done(post(&admin, named, "/api-keys", &key()).await, 201);
    secrets.push(made["key"].as_str().unwrap().to_owned());
    let rotate = format!("/api-keys/{}/rotate", made["id"].as_str().unwrap());
    let rotated = done(post(&admin, &format!("{named}-2"), &rotate, &json!({})).await, 200);
    secrets.push(rotated["key"].as_str().unwrap().to_owned());
    let batch = json!({"operations": [{"method": "POST", "path": "/api-keys", "body": key()}, {"method": "GET", "path": "/api-keys/key_9"}], "atomic": false});
    let results = done(post(&admin, &format!("{named}-3"), "/batch", &batch).await, 200);
    secrets.push(results["results"][0]["body"]["data"]["key"].as_str().unwrap().to_owned());
    done(post(&admin, &format!("{named}-4"), "/users", &user("kept-in-the-clear")).await, 201);

    let contains =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let look = |when: &str, files: &[(String, Vec<u8>)]| {
        let anywhere = |text: &str| files.iter().any(|(_, bytes)| contains(bytes, text));
        // Answers without a secret lie there readably, so these are the files.
        assert!(anywhere(r#""name":"kept-in-the-clear","external_id""#), "{when}");
        for secret in &secrets {
            for (name, bytes) in files {
                assert!(!contains(bytes, secret), "{when}: {secret} is in {name}");
            }
        }
    };
    let running = files(server.dir.path());
    assert!(running.iter().any(|(name, bytes)| name == "tollhouse.db-wal" && !bytes.is_empty()));
    look("running", &running);
    let dir = server.stop().await;
    look("stopped", &files(dir.path()));
}

#[tokio::test]
async fn an_answer_is_kept_over_a_restart_and_for_a_day() {
    let server = Server::start().await;
    let first = post(&server.admin(), "a", "/api-keys", &key()).await;
    let quiet = |config: &mut tollhouse::config::Config| config.rate_limits.admin_per_minute = 0;
    let server = Server::over(server.stop().await, quiet).await;
    let admin = server.admin();
    server.advance(DAY - Duration::from_millis(1));
    replays(&first, &post(&admin, "a", "/api-keys", &key()).await);
    assert!(!idempotency::prune(&server.app).await.unwrap());
    replays(&first, &post(&admin, "a", "/api-keys", &key()).await);
    server.advance(Duration::from_millis(1));
    let again = post(&admin, "a", "/api-keys", &key()).await;
    assert!(!is_replay(&again) && again.status == 201, "{again:?}");
    assert_ne!(again.data()["id"], first.data()["id"]);
    replays(&again, &post(&admin, "a", "/api-keys", &key()).await);
}

#[tokio::test]
async fn answers_are_removed_after_a_day_in_pieces() {
    let server = Server::start().await;
    let admin = server.admin();
    let kept = || {
        let file = rusqlite::Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
        file.query_row("SELECT count(*) FROM idempotency", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    for nth in 0..5 {
        post(&admin, &format!("old {nth}"), "/users", &user(&format!("old{nth}"))).await;
    }
    server.advance(DAY);
    post(&admin, "new", "/users", &user("new")).await;
    assert_eq!(kept(), 6);
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(kept(), 6, "they are over at the end of the day, not before");
    server.advance(Duration::from_millis(1));
    assert!(!idempotency::prune(&server.app).await.unwrap());
    assert_eq!(kept(), 1);
}

/// The change is committed, its client hears nothing of it, the server is killed: the request that is
/// repeated after the start is answered and not done again.
#[tokio::test]
async fn i1_a_kill_between_commit_and_answer_is_answered_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    let admin = server.admin();
    let body = json!({"operations": (0..100).map(|nth| {
        json!({"method": "POST", "path": "/api-keys", "body": {"id": format!("key_{nth}"), "name": "n", "scopes": []}})
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
    tokio::time::timeout(Duration::from_secs(30), committed).await.expect("it is done");
    server.kill();
    let server = Binary::serve(dir.path());
    let admin = server.admin();
    let answer = post(&admin, "a", "/batch", &body).await;
    assert!(answer.status == 200 && is_replay(&answer), "{answer:?}");
    for result in answer.data()["results"].as_array().unwrap() {
        assert_eq!(result["status"], 201);
        let secret = result["body"]["data"]["key"].as_str().unwrap();
        assert_eq!(server.client(secret).get("/whoami").await.status, 200, "the secret that it told works");
    }
    assert_eq!(column(admin.get("/audit-logs?action=batch.run").await.data(), "id").len(), 1);
}
