//! `POST /batch`: several operations in one transaction, each with the result of a single call.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{column, expect_error, expect_invalid};
use crate::support::{ADMIN_KEY, Answer, Client, Server};

const MINUTE: Duration = Duration::from_secs(60);

fn create_organization(id: &str) -> Value {
    let body = json!({"id": id, "name": id, "email": format!("{id}@example.com")});
    json!({"id": id, "method": "POST", "path": "/organizations", "body": body})
}

fn create_user(number: usize) -> Value {
    let body = json!({"id": format!("user_{number}"), "name": "n", "email": format!("{number}@example.com")});
    json!({"method": "POST", "path": "/users", "body": body})
}

fn get(path: &str) -> Value {
    json!({"method": "GET", "path": path})
}

async fn run(client: &Client, operations: &[Value]) -> Answer {
    client.post("/batch", json!({"operations": operations})).await
}

async fn run_non_atomic(client: &Client, operations: &[Value]) -> Answer {
    client.post("/batch", json!({"atomic": false, "operations": operations})).await
}

/// Returns the status and the error code of each operation.
fn outcomes(answer: &Answer) -> Vec<(u64, String)> {
    let pointer = if answer.status == 200 { "/data/results" } else { "/error/results" };
    let results = answer.json.pointer(pointer).unwrap_or_else(|| panic!("{}", answer.text));
    let outcome = |result: &Value| {
        let code = result["body"]["error"]["code"].as_str().unwrap_or_default().to_owned();
        (result["status"].as_u64().unwrap(), code)
    };
    results.as_array().unwrap().iter().map(outcome).collect()
}

#[track_caller]
fn expect_results(answer: &Answer, status: u16, expected: &[(u64, &str)]) {
    assert_eq!(answer.status, status, "{}", answer.text);
    let expected: Vec<_> = expected.iter().map(|(status, code)| (*status, (*code).to_owned())).collect();
    assert_eq!(outcomes(answer), expected, "{}", answer.text);
}

/// Returns all audit events, oldest first, without those of this function's exports.
async fn events(server: &Server) -> Vec<Value> {
    let exported = server.admin().get("/audit-logs/export").await;
    let events = exported.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["action"] != "audit_log.export").collect()
}

#[tokio::test]
async fn operations_see_the_changes_of_earlier_operations() {
    let server = Server::start().await;
    let admin = server.admin();
    let key = json!({"id": "key_1", "organization_id": "org_1", "user_id": "user_1", "name": "k",
        "scopes": ["invoices:read"]});
    let answer = run(
        &admin,
        &[
            create_organization("org_1"),
            create_user(1),
            json!({"method": "POST", "path": "/admin/v1/organizations/org_1/members", "body": {"user_id": "user_1", "role": "owner"}}),
            json!({"method": "POST", "path": "/scopes", "body": {"scope": "invoices:read"}}),
            json!({"id": "key", "method": "POST", "path": "/api-keys", "body": key}),
            get("/api-keys/key_1"),
            json!({"method": "PATCH", "path": "/api-keys/key_1", "body": {"name": "renamed"}}),
            json!({"method": "GET", "path": "/api-keys/key_1"}),
            json!({"method": "DELETE", "path": "/api-keys/key_1"}),
            json!({"method": "DELETE", "path": "/scopes/invoices:read"}),
        ],
    )
    .await;
    let statuses = [201, 201, 201, 201, 201, 200, 200, 200, 200, 200];
    expect_results(&answer, 200, &statuses.map(|status| (status, "")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let results = answer.data()["results"].as_array().unwrap();
    assert_eq!(results[4]["id"], "key");
    assert_eq!(results[5]["id"], Value::Null);
    // Only the creation shows the secret, and its ETag is the one of a read.
    let secret = results[4]["body"]["data"]["key"].as_str().unwrap();
    assert_eq!(answer.text.matches(secret).count(), 1);
    assert_eq!(results[4]["etag"], results[5]["etag"]);
    assert_ne!(results[5]["etag"], results[7]["etag"]);
    assert_eq!(results[7]["body"]["data"]["name"], "renamed");
    assert_eq!(results[0]["body"]["metadata"]["requestId"], answer.json["metadata"]["requestId"]);
    let stored = admin.get("/api-keys/key_1").await;
    assert_eq!(stored.data()["status"], "revoked");
    assert_eq!(server.client(Some(secret)).get("/whoami").await.status, 401);
    assert_eq!(server.admin().get("/audit-logs/verify").await.data()["valid"], true);
}

#[tokio::test]
async fn a_batch_of_100_is_atomic_under_a_failure_at_each_position() {
    let server = Server::start().await;
    let admin = server.admin();
    let before = events(&server).await.len();
    for position in 0..100 {
        let mut operations: Vec<_> = (0..100).map(create_user).collect();
        operations[position] = if position % 2 == 0 {
            get("/users/user_nobody")
        } else {
            json!({"method": "POST", "path": "/users", "body": {"name": "n", "email": "no address"}})
        };
        let answer = run(&admin, &operations).await;
        let failed_index = if position % 2 == 0 { (404, "NOT_FOUND") } else { (400, "INVALID_REQUEST") };
        let expected: Vec<_> = (0..100)
            .map(|index| if index == position { failed_index } else { (424, "FAILED_DEPENDENCY") })
            .collect();
        expect_results(&answer, 409, &expected);
        expect_error(&answer, 409, "BATCH_FAILED");
        assert_eq!(admin.get("/users").await.data(), &json!([]), "{position}");
    }
    // Each operation is recorded with its own outcome, and so is the batch.
    let events = events(&server).await.split_off(before);
    let count_code = |code: &str| events.iter().filter(|event| event["code"] == code).count();
    assert_eq!((count_code("FAILED_DEPENDENCY"), count_code("BATCH_FAILED")), (99 * 100, 100));
    assert_eq!((count_code("NOT_FOUND"), count_code("INVALID_REQUEST")), (50, 50));
    assert!(events.iter().all(|event| event["outcome"] == "failed" || event["access"] == "read"));
    // Without a failing operation the batch succeeds.
    let answer = run(&admin, &(0..100).map(create_user).collect::<Vec<_>>()).await;
    expect_results(&answer, 200, &[(201, ""); 100]);
    assert_eq!(column(admin.get("/users?limit=100&order=asc").await.data(), "id").len(), 100);
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
}

#[tokio::test]
async fn operations_of_a_non_atomic_batch_are_independent() {
    let server = Server::start().await;
    let admin = server.admin();
    let stale =
        json!({"method": "PATCH", "path": "/users/user_1", "body": {"name": "new"}, "if_match": "\"0-0\""});
    let answer = run_non_atomic(
        &admin,
        &[create_user(1), create_user(1), stale, get("/users/user_1"), get("/nowhere"), create_user(2)],
    )
    .await;
    let expected = [
        (201, ""),
        (409, "ALREADY_EXISTS"),
        (412, "PRECONDITION_FAILED"),
        (200, ""),
        (404, "NOT_FOUND"),
        (201, ""),
    ];
    expect_results(&answer, 200, &expected);
    assert_eq!(answer.data()["results"][3]["body"]["data"]["name"], "n");
    assert_eq!(column(admin.get("/users?order=asc").await.data(), "id"), ["user_1", "user_2"]);
}

#[tokio::test]
async fn if_match_is_checked_for_each_operation() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let etag = admin.get("/organizations/org_1").await.header("etag").unwrap().to_owned();
    let rename = |etag: &str| json!({"method": "PATCH", "path": "/organizations/org_1", "body": {"name": "new"}, "if_match": etag});
    // The first operation changes the ETag that the second one requires.
    expect_results(
        &run(&admin, &[rename(&etag), rename(&etag)]).await,
        409,
        &[(424, "FAILED_DEPENDENCY"), (412, "PRECONDITION_FAILED")],
    );
    expect_results(&run(&admin, &[rename(&etag)]).await, 200, &[(200, "")]);
}

#[tokio::test]
async fn every_operation_is_recorded_with_the_batch_id() {
    let server = Server::start().await;
    let admin = server.admin();
    let before = events(&server).await.len();
    let operations = [create_organization("org_1"), get("/organizations/org_1"), get("/users/user_9")];
    let answer = run_non_atomic(&admin, &operations).await;
    let events = events(&server).await.split_off(before);
    let recorded: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let context = &event["context"];
            let fields =
                [&event["action"], &event["access"], &event["outcome"], &context["method"], &context["path"]];
            (fields.map(text).join(" "), context["status"].clone(), event["organization_id"].clone())
        })
        .collect();
    let expected: Vec<_> = [
        ("organization.create write success POST /admin/v1/organizations", 201, json!("org_1")),
        ("organization.read read success GET /admin/v1/organizations/org_1", 200, json!("org_1")),
        ("user.read read failed GET /admin/v1/users/user_9", 404, Value::Null),
        ("batch.run write success POST /admin/v1/batch", 200, Value::Null),
    ]
    .map(|(fields, status, organization)| (fields.to_owned(), json!(status), organization))
    .into();
    assert_eq!(recorded, expected);
    let id = events[0]["context"]["batch_id"].as_str().unwrap();
    assert!(id.starts_with("batch_"), "{id}");
    for event in &events {
        assert_eq!(event["context"]["batch_id"], id, "{event}");
        assert_eq!(event["context"]["request_id"], json!(answer.header("x-request-id")));
    }
}

/// Refusals of the caller are aggregated in the audit log, as those of single calls are.
#[tokio::test]
async fn refusals_of_the_caller_are_aggregated() {
    let server = Server::start().await;
    let (client, _) = server.key(None, &["admin:users"]).await;
    let before = events(&server).await.len();
    for _ in 0..5 {
        let answer =
            run_non_atomic(&client, &[create_organization("org_1"), create_organization("org_2")]).await;
        expect_results(&answer, 200, &[(403, "INSUFFICIENT_SCOPE"), (403, "INSUFFICIENT_SCOPE")]);
    }
    server.advance(MINUTE);
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
    let events = events(&server).await.split_off(before);
    let denied: Vec<_> = events.iter().filter(|event| event["outcome"] == "denied").collect();
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!((&denied[0]["code"], &denied[0]["count"]), (&json!("INSUFFICIENT_SCOPE"), &json!(10)));
    assert!(denied[0]["context"]["batch_id"].is_string());
}

/// The caller is reloaded for each operation, so that an operation that revokes or narrows the caller's own key
/// applies to the following ones.
#[tokio::test]
async fn i3_operations_after_the_revocation_of_their_caller_are_refused() {
    let server = Server::start().await;
    let revocations = [
        (json!({"status": "disabled"}), 401, "INVALID_API_KEY"),
        (json!({"scopes": ["admin:keys"]}), 403, "INSUFFICIENT_SCOPE"),
        (json!({"allowed_ips": ["192.0.2.1"]}), 403, "IP_NOT_ALLOWED"),
    ];
    for (index, (body, status, code)) in revocations.into_iter().enumerate() {
        let (client, key) = server.key(None, &["admin:keys", "admin:users"]).await;
        let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
        let revocation = json!({"method": "PATCH", "path": path, "body": body});
        // The caller is checked before the body is validated.
        let invalid = json!({"method": "POST", "path": "/users", "body": {}});
        let answer =
            run_non_atomic(&client, &[create_user(index), revocation, create_user(9), invalid]).await;
        expect_results(&answer, 200, &[(201, ""), (200, ""), (status, code), (status, code)]);
        assert_eq!(server.admin().get("/users/user_9").await.status, 404);
    }
}

/// A failed batch invalidates nothing, and a committed batch invalidates what it changed.
/// What was prepared before the batch follows the settings that an operation of the batch has changed.
#[tokio::test]
async fn operations_follow_settings_that_the_batch_changes() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post("/api-keys", json!({"id": "key_old", "name": "n", "scopes": []})).await;
    let etag = admin.get("/config").await.header("etag").unwrap().to_owned();
    let plan = json!({"key_limits": [], "organization_limits": [], "max_keys": 0, "max_members": 0});
    let patch = json!({"keys": {"prefixes": ["acme"], "default_expiry_days": 9}, "plans": {"gold": plan}});
    let gold = json!({"id": "org_1", "name": "n", "email": "a@example.com", "plan": "gold"});
    let operations = [
        json!({"method": "PATCH", "path": "/config", "body": patch, "if_match": etag}),
        json!({"method": "POST", "path": "/organizations", "body": gold}),
        json!({"method": "POST", "path": "/api-keys", "body": {"id": "key_1", "name": "n", "scopes": ["*"]}}),
        json!({"method": "POST", "path": "/api-keys/key_old/rotate"}),
    ];
    let answer = run(&admin, &operations).await;
    expect_results(&answer, 200, &[(200, ""), (201, ""), (201, ""), (200, "")]);
    for (index, prefix) in [(2, "acme_"), (3, "toll_")] {
        let key = &answer.data()["results"][index]["body"]["data"];
        let secret = key["key"].as_str().unwrap();
        assert!(secret.starts_with(prefix) && secret.starts_with(key["start"].as_str().unwrap()), "{key}");
        let verify = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": secret}));
        assert_eq!(admin.send(verify).await.data()["code"], "VALID", "{key}");
        let id = key["id"].as_str().unwrap();
        assert_eq!(admin.get(&format!("/api-keys/{id}")).await.data()["start"], key["start"]);
    }
    assert!(answer.data()["results"][2]["body"]["data"]["expires_at"].is_string(), "{answer:?}");
    let events = events(&server).await;
    let created = events.iter().find(|event| event["target"]["id"] == "key_1").unwrap();
    let changes = created["changes"].to_string();
    assert!(changes.contains("\"acme_") && changes.contains("expires_at"), "{changes}");
}

#[tokio::test]
async fn i3_caches_follow_only_committed_changes() {
    let server = Server::start().await;
    let admin = server.admin();
    let (client, key) = server.key(None, &["admin:users"]).await;
    let revoke =
        json!({"method": "POST", "path": format!("/api-keys/{}/revoke", key["id"].as_str().unwrap())});
    assert_eq!(client.get("/whoami").await.status, 200);
    assert_eq!(run(&admin, &[revoke.clone(), get("/users/user_9")]).await.status, 409);
    assert_eq!(client.get("/whoami").await.status, 200);
    let answer = run_non_atomic(&admin, &[get("/users/user_9"), revoke, get("/users/user_9")]).await;
    expect_results(&answer, 200, &[(404, "NOT_FOUND"), (200, ""), (404, "NOT_FOUND")]);
    assert_eq!(client.get("/whoami").await.status, 401);
    // A scope that a failed batch created does not exist.
    let scope = json!({"method": "POST", "path": "/scopes", "body": {"scope": "invoices:read"}});
    assert_eq!(run(&admin, &[scope, get("/users/user_9")]).await.status, 409);
    let key = json!({"name": "n", "scopes": ["invoices:read"]});
    expect_invalid(&admin.post("/api-keys", key).await, &[("/scopes/0", "UNKNOWN_SCOPE")]);
}

#[tokio::test]
async fn all_errors_of_a_batch_are_reported_at_once() {
    let server = Server::start().await;
    let admin = server.admin();
    let answer = admin
        .post(
            "/batch",
            json!({"operations": [{"method": "PUT", "path": "users"}, {"method": "GET"}], "more": 1}),
        )
        .await;
    let details = [
        ("/operations/0/method", "INVALID_VALUE"),
        ("/operations/0/path", "INVALID_PATH"),
        ("/operations/1/path", "REQUIRED"),
        ("/more", "UNKNOWN_FIELD"),
    ];
    expect_invalid(&answer, &details);
    let unsupported =
        [get("/users"), create_user(1), get("/audit-logs/export?format=csv"), get("/whoami"), {
            json!({"method": "POST", "path": "/batch", "body": {"operations": [get("/users/user_1")]}})
        }];
    let pointers = ["/operations/0/path", "/operations/2/path", "/operations/3/path", "/operations/4/path"];
    expect_invalid(&run(&admin, &unsupported).await, &pointers.map(|pointer| (pointer, "NOT_IN_BATCH")));
    assert_eq!(admin.get("/users/user_1").await.status, 404);
    for count in [0, 101] {
        let operations: Vec<_> = (0..count).map(create_user).collect();
        expect_invalid(&run(&admin, &operations).await, &[("/operations", "INVALID_LENGTH")]);
    }
    // A batch can only contain operations of the control plane.
    for path in ["/healthz", "/v1/keys/verify", "/admin/v1", "/../healthz"] {
        expect_results(&run_non_atomic(&admin, &[get(path)]).await, 200, &[(404, "NOT_FOUND")]);
    }
    let wrong_method = json!({"method": "DELETE", "path": "/users"});
    expect_results(&run_non_atomic(&admin, &[wrong_method]).await, 200, &[(405, "METHOD_NOT_ALLOWED")]);
    let with_query = get("/users/user_1?surplus=1");
    expect_results(&run_non_atomic(&admin, &[with_query]).await, 200, &[(400, "INVALID_REQUEST")]);
    let without_body = json!({"method": "POST", "path": "/users"});
    expect_results(&run_non_atomic(&admin, &[without_body]).await, 200, &[(400, "INVALID_JSON")]);
}

#[tokio::test]
async fn a_batch_counts_once_against_its_own_limit() {
    let server = Server::with(|config| config.rate_limits.batch_per_minute = 2).await;
    let admin = server.admin();
    let operations: Vec<_> = (0..50).map(create_user).collect();
    for left in ["1", "0"] {
        let answer = run_non_atomic(&admin, &operations).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-limit"), Some("2"));
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"batch\";q=2;w=60"));
        assert_eq!(answer.header("ratelimit"), Some(format!("\"batch\";r={left};t=30").as_str()));
    }
    let answer = run_non_atomic(&admin, &operations).await;
    expect_error(&answer, 429, "RATE_LIMITED");
    assert_eq!(answer.header("retry-after"), Some("30"));
    // The limit of single calls is not affected.
    let whoami = admin.get("/whoami").await;
    assert_eq!(whoami.header("ratelimit-policy"), Some("\"admin\";q=500;w=60"));
    assert_eq!(whoami.header("x-ratelimit-remaining"), Some("499"));
    server.advance(Duration::from_secs(30));
    assert_eq!(run_non_atomic(&admin, &operations).await.status, 200);
}

#[tokio::test]
async fn a_full_disk_fails_the_whole_batch() {
    for atomic in [true, false] {
        let server = Server::with(|config| {
            config.database.max_bytes = 640 * 1024;
            config.rate_limits.batch_per_minute = 0;
        })
        .await;
        let admin = server.admin();
        let mut stored = 0;
        let full = loop {
            let operations: Vec<_> = (stored..stored + 10).map(create_user).collect();
            let answer = admin.post("/batch", json!({"atomic": atomic, "operations": operations})).await;
            if answer.status != 200 {
                break answer;
            }
            stored += 10;
        };
        expect_error(&full, 507, "STORAGE_FULL");
        assert!(full.header("retry-after").is_some());
        let last = format!("user_{stored}");
        let users = server.app.db.read(move |tx| tollhouse::store::users::get(tx, &last)).await.unwrap();
        assert!(users.is_none(), "the failed batch left data");
    }
}

#[tokio::test]
async fn a_batch_completes_after_its_client_disconnects() {
    let server = Server::start().await;
    let admin = server.admin();
    let body = json!({"operations": (0..100).map(create_user).collect::<Vec<_>>()}).to_string();
    let mut raw = server.raw().await;
    let length = format!("content-length: {}", body.len());
    raw.send(&crate::support::head("POST /admin/v1/batch", &["content-type: application/json", &length]))
        .await;
    raw.send(body.as_bytes()).await;
    drop(raw);
    let waiting = async {
        while admin.get("/users/user_99").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the batch did not complete");
    assert_eq!(admin.get("/users/user_0").await.status, 200);
    let answer = admin.send(admin.request(Method::POST, "/batch").bearer_auth(ADMIN_KEY)).await;
    expect_error(&answer, 401, "UNAUTHENTICATED");
}
