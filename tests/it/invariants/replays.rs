//! A replay shows a caller nothing that it may no longer see: every operation of the earlier request is authorized
//! again, and the reads of a batch run again.

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tollhouse::http::routes::ROUTES;

use crate::example_calls::{ExampleCall, Fixture, example_calls};
use crate::support::{Answer, Client, Server};

async fn post(client: &Client, name: &str, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", name).json(body)).await
}

fn batch(atomic: bool, operations: &[Value]) -> Value {
    json!({"atomic": atomic, "operations": operations})
}

fn get(path: &str) -> Value {
    json!({"method": "GET", "path": path})
}

#[track_caller]
fn expect_replay(first: &Answer, second: &Answer) {
    assert_eq!(second.header("idempotent-replayed"), Some("true"), "{second:?}");
    assert_eq!((first.status, &first.json["data"]), (second.status, &second.json["data"]));
    assert_eq!(first.json["error"], second.json["error"]);
}

#[track_caller]
fn expect_refusal(answer: &Answer, code: &str) {
    assert_eq!((answer.status, answer.code()), (403, code), "{answer:?}");
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert!(answer.json["error"]["results"].is_null() && answer.json["data"].is_null(), "{answer:?}");
}

/// Changes a key as an administrator.
async fn change_key(server: &Server, key: &Value, patch: Value) {
    let answer = server.admin().patch(&format!("/api-keys/{}", key["id"].as_str().unwrap()), patch).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The statuses of a batch's results.
fn statuses(answer: &Answer) -> Vec<u64> {
    let results = answer.data()["results"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    results.iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

/// Every operation that a batch can contain, alone in a batch: what it shows is not replayed once the caller lacks
/// its scope, also if it failed.
#[tokio::test]
async fn i5_a_narrowed_caller_sees_no_replay_of_any_operation() {
    let server = Server::start().await;
    let (client, key) = server.key(None, &["*"]).await;
    let mut requests = Vec::new();
    for route in ROUTES.iter().filter(|route| route.is_in_batch()) {
        let path = route.path.strip_prefix("/admin/v1").unwrap();
        let path = path.replace("{id}", "key_none").replace("{user_id}", "user_none");
        let path = path.replace("{scope}", "nothing:read");
        let operation = json!({"method": route.method, "path": path, "body": {"unknown": true}});
        for (atomic, path) in
            [(true, path.clone()), (false, path.clone()), (false, format!("/admin/v1{path}"))]
        {
            let mut operation = operation.clone();
            operation["path"] = json!(path);
            requests.push((format!("{} {path} {atomic}", route.method), batch(atomic, &[operation])));
        }
    }
    assert!(requests.len() > 60, "{}", requests.len());
    let mut answers = Vec::new();
    for (name, body) in &requests {
        let first = post(&client, name, "/batch", body).await;
        assert!(matches!(first.status, 200 | 409), "{name}: {first:?}");
        answers.push(first);
    }
    let mut replayed = 0;
    for scopes in [json!(["*"]), json!(["workflows:read"]), json!(["*"])] {
        change_key(&server, &key, json!({"scopes": scopes})).await;
        for ((name, body), first) in requests.iter().zip(&answers) {
            let again = post(&client, name, "/batch", body).await;
            if scopes == json!(["*"]) {
                assert_eq!(
                    (again.status, again.header("idempotent-replayed")),
                    (first.status, Some("true")),
                    "{name}"
                );
                replayed += 1;
            } else {
                expect_refusal(&again, "INSUFFICIENT_SCOPE");
            }
        }
    }
    assert_eq!(replayed, 2 * requests.len());
}

#[tokio::test]
async fn i5_a_narrowed_caller_sees_no_replay_of_any_post() {
    let fixture = Fixture::new().await;
    let (client, key) = fixture.server.key(None, &["*"]).await;
    let posts = example_calls().into_iter().filter(|call| call.route.is_idempotent_by_key());
    let posts: Vec<_> = posts.collect();
    let send = async |call: &ExampleCall| {
        let path = fixture.path(call);
        let path = path.strip_prefix("/admin/v1").unwrap();
        post(&client, path, path, &fixture.body(call).unwrap_or_default()).await
    };
    let mut answers = Vec::new();
    for call in &posts {
        let first = send(call).await;
        assert!(first.status < 300, "{}: {first:?}", call.name());
        answers.push(first);
    }
    assert!(answers.len() > 5);
    for (patch, code) in [
        (json!({"scopes": ["workflows:read"]}), Some((403, "INSUFFICIENT_SCOPE"))),
        (json!({"scopes": ["*"]}), None),
        (json!({"allowed_ips": ["192.0.2.1"]}), Some((403, "IP_NOT_ALLOWED"))),
        (json!({"allowed_ips": null}), None),
        (json!({"status": "disabled"}), Some((401, "INVALID_API_KEY"))),
        (json!({"status": "active"}), None),
    ] {
        change_key(&fixture.server, &key, patch.clone()).await;
        for (call, first) in posts.iter().zip(&answers) {
            let again = send(call).await;
            match code {
                Some(code) => {
                    assert_eq!((again.status, again.code()), code, "{patch} {}: {again:?}", call.name())
                }
                None => expect_replay(first, &again),
            }
        }
    }
}

/// What the caller was refused is no reason to refuse the replay: nobody lost anything.
#[tokio::test]
async fn an_unchanged_caller_gets_the_replay_with_its_refusals() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (client, key) = server.key(Some("org_1"), &["admin:users"]).await;
    let key_path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let operations = [
        json!({"method": "POST", "path": "/users", "body": {"id": null, "name": "n", "email": "n@example.com"}}),
        json!({"method": "POST", "path": "/users", "body": {"name": "n", "email": "m@example.com"}}),
        json!({"method": "POST", "path": "/organizations", "body": {"name": "n", "email": "n@example.com"}}),
        json!({"method": "POST", "path": "/api-keys", "body": {"name": "n", "scopes": []}}),
        json!({"method": "GET", "path": key_path}),
        json!({"method": "GET", "path": "/nothing"}),
    ];
    let first = post(&client, "a", "/batch", &batch(false, &operations)).await;
    assert_eq!(statuses(&first)[1..], [201, 403, 403, 403, 404], "{first:?}");
    let second = post(&client, "a", "/batch", &batch(false, &operations)).await;
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(statuses(&second), statuses(&first));
    assert_eq!(second.data()["results"][1], first.data()["results"][1]);
    // An atomic batch that failed because of a refusal, before and after which nothing ran.
    let failed = post(&client, "b", "/batch", &batch(true, &operations[1..])).await;
    assert_eq!((failed.status, failed.code()), (409, "BATCH_FAILED"), "{failed:?}");
    expect_replay(&failed, &post(&client, "b", "/batch", &batch(true, &operations[1..])).await);
    // With the scope that it lacked, the caller reads the key; the change is not made afterwards.
    change_key(&server, &key, json!({"scopes": ["admin:users", "admin:keys"]})).await;
    let third = post(&client, "a", "/batch", &batch(false, &operations)).await;
    assert_eq!(statuses(&third)[1..], [201, 403, 403, 200, 404], "{third:?}");
}

#[tokio::test]
async fn i5_the_reads_of_a_replayed_batch_show_what_is_true_now() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    for id in ["user_1", "user_2"] {
        server.user(id).await;
        let member = json!({"user_id": id, "role": "member"});
        assert_eq!(admin.post("/organizations/org_1/members", member).await.status, 201);
    }
    let (client, _) = server.key(Some("org_1"), &["admin:users", "admin:orgs"]).await;
    let operations = [
        json!({"id": "first", "method": "GET", "path": "/users/user_1"}),
        json!({"id": "rename", "method": "PATCH", "path": "/organizations/org_1", "body": {"name": "renamed"}}),
        get("/organizations/org_1"),
        json!({"id": "second", "method": "GET", "path": "/users/user_2"}),
    ];
    let body = batch(true, &operations);
    let first = post(&client, "a", "/batch", &body).await;
    assert_eq!(statuses(&first), [200, 200, 200, 200], "{first:?}");
    assert_eq!(first.data()["results"][2]["body"]["data"]["name"], "renamed");
    // One user leaves the caller's reach, the organization and the other user change.
    assert_eq!(admin.delete("/organizations/org_1/members/user_2").await.status, 200);
    assert_eq!(admin.patch("/users/user_1", json!({"name": "new"})).await.status, 200);
    assert_eq!(admin.patch("/organizations/org_1", json!({"name": "renamed again"})).await.status, 200);
    let second = post(&client, "a", "/batch", &body).await;
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(statuses(&second), [200, 200, 200, 404], "{second:?}");
    let results = &second.data()["results"];
    assert_eq!(results[0]["body"]["data"]["name"], "new");
    assert_eq!(results[0]["etag"].as_str(), admin.get("/users/user_1").await.header("etag"));
    assert_eq!(results[1], first.data()["results"][1], "a change is replayed as it was");
    assert_eq!(results[2]["body"]["data"]["name"], "renamed again");
    let ids: Vec<_> = results.as_array().unwrap().iter().map(|result| result["id"].as_str()).collect();
    assert_eq!(ids, [Some("first"), Some("rename"), None, Some("second")]);
    assert!(!second.text.contains("user_2@example.com"), "{second:?}");
    assert_eq!(admin.get("/organizations/org_1").await.data()["name"], "renamed again", "nothing ran again");
    // The reads are recorded together with the replay.
    let events = admin.get("/audit-logs?org_id=org_1&limit=100").await.data().clone();
    let request_id = second.header("x-request-id").unwrap();
    let of_replay =
        events.as_array().unwrap().iter().filter(|event| event["context"]["request_id"] == request_id);
    let of_replay: Vec<_> = of_replay.collect();
    let actions: Vec<_> = of_replay.iter().rev().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["user.read", "organization.read", "user.read", "request.replayed"], "{events}");
    let batch_id = &of_replay[0]["context"]["batch_id"];
    assert!(batch_id.is_string() && of_replay.iter().all(|event| event["context"]["batch_id"] == *batch_id));
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
}

/// The secret of a key gives its permissions, so a caller that lost them gets it no more.
#[tokio::test]
async fn i4_a_replay_shows_no_secret_of_a_key_beyond_the_caller() {
    let server = Server::start().await;
    let creation = json!({"name": "n", "scopes": ["*"]});
    let operation = json!({"method": "POST", "path": "/api-keys", "body": creation});
    let harmless = json!({"method": "POST", "path": "/api-keys", "body": {"name": "n", "scopes": []}});
    for (path, body) in [
        ("/api-keys", creation.clone()),
        ("/batch", batch(true, &[harmless.clone(), operation.clone()])),
        ("/batch", batch(false, &[get("/api-keys/key_none"), operation])),
    ] {
        for narrowed in [json!({"scopes": ["admin:keys"]}), json!({"allowed_ips": ["127.0.0.0/8"]})] {
            let (client, key) = server.key(None, &["*"]).await;
            let first = post(&client, "a", path, &body).await;
            assert!(first.status < 300 && first.text.contains("toll_"), "{first:?}");
            assert_eq!(post(&client, "a", path, &body).await.header("idempotent-replayed"), Some("true"));
            change_key(&server, &key, narrowed).await;
            let again = post(&client, "a", path, &body).await;
            expect_refusal(&again, "INSUFFICIENT_SCOPE");
            assert!(!again.text.contains("toll_"), "{again:?}");
        }
    }
    // The secret of a key within the caller's permissions is replayed.
    let (client, key) = server.key(None, &["*"]).await;
    let body = batch(true, &[harmless]);
    let first = post(&client, "a", "/batch", &body).await;
    change_key(&server, &key, json!({"scopes": ["admin:keys"]})).await;
    expect_replay(&first, &post(&client, "a", "/batch", &body).await);
}

/// No request makes a platform key an organization's; the replay doesn't rely on that.
#[tokio::test]
async fn i5_a_replay_requires_a_platform_key_where_the_operation_does() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (client, key) = server.key(None, &["*"]).await;
    let create =
        json!({"method": "POST", "path": "/organizations", "body": {"name": "n", "email": "n@example.com"}});
    let bodies = [batch(true, &[create]), batch(true, &[get("/config")])];
    for (index, body) in bodies.iter().enumerate() {
        assert_eq!(post(&client, &index.to_string(), "/batch", body).await.status, 200);
    }
    let database = Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    let sql = "UPDATE api_keys SET organization_id = 'org_1' WHERE id = ?1";
    assert_eq!(database.execute(sql, [key["id"].as_str().unwrap()]).unwrap(), 1);
    for (index, body) in bodies.iter().enumerate() {
        let again = post(&client, &index.to_string(), "/batch", body).await;
        expect_refusal(&again, "PLATFORM_KEY_REQUIRED");
    }
}
