//! A full disk, or a database at its size limit, prevents growth and nothing else.

#![allow(clippy::explicit_write)] // The test runner doesn't show captured output of a passing test.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use super::DEADLINE;
use crate::support::{ADMIN_KEY, Answer, Binary, Client, Server};

/// Fits the schema and a few hundred keys.
const MAX_BYTES: u64 = 640 * 1024;

/// The number of revocations that must fit into the reserve; the documentation states more than this many.
const MIN_REVOCATIONS: usize = 2_500;

/// A server at its size limit. Its organizations `org_1` and `org_2` each have members and keys.
async fn start_full_server() -> Server {
    let server = Server::with(|config| {
        config.database.max_bytes = MAX_BYTES;
        config.rate_limits.admin_per_minute = 0;
        config.rate_limits.batch_per_minute = 0;
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    for user in ["user_1", "user_2", "user_3"] {
        server.user(user).await;
        let member = json!({"user_id": user, "role": "member"});
        assert_eq!(admin.post("/organizations/org_1/members", member).await.status, 201);
    }
    fill(&admin).await;
    server
}

/// Creates keys `key_0`, `key_1` … of `org_1` until there is no room for another one; returns their number.
pub(super) async fn fill(admin: &Client) -> usize {
    for index in 0.. {
        let answer = admin.post("/api-keys", key_body(index)).await;
        if answer.status != 201 {
            assert_full(&answer);
            return index;
        }
    }
    unreachable!()
}

pub(super) fn key_body(index: usize) -> Value {
    json!({"id": format!("key_{index}"), "organization_id": "org_1", "name": "n",
        "scopes": ["workflows:read", "workflows:write"]})
}

pub(super) fn assert_full(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (507, "STORAGE_FULL"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

fn assert_ok(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Reads what the readiness check says: status, `verify`, `write`, codes of the reasons.
pub(super) async fn readiness(client: &Client, query: &str) -> (u16, bool, bool, Vec<String>) {
    let answer = client.get_at_root(&format!("/readyz{query}")).await;
    let body = if answer.status == 200 { answer.data() } else { &answer.json["error"] };
    let codes = body["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap());
    let codes = codes.map(str::to_owned).collect();
    (answer.status, body["verify"].as_bool().unwrap(), body["write"].as_bool().unwrap(), codes)
}

/// Revokes a key that is revoked already until an audit event needs the reserve.
pub(super) async fn use_reserve(admin: &Client) {
    while readiness(admin, "").await.3 != ["STORAGE_RESERVE_IN_USE"] {
        assert_ok(&admin.delete("/api-keys/key_0").await);
    }
}

pub(super) async fn verify(client: &Client, secret: &str) -> Value {
    let request = client.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": secret}));
    client.send(request).await.data()["code"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_access_can_be_taken_away_when_the_database_is_at_its_size_limit() {
    let server = start_full_server().await;
    let admin = server.admin();
    use_reserve(&admin).await;
    for (path, body) in [
        ("/api-keys/key_1", json!({"status": "disabled"})),
        ("/api-keys/key_2", json!({"scopes": ["workflows:read"], "allowed_ips": ["10.0.0.0/8"]})),
        ("/api-keys/key_2", json!({"expires_at": "2027-01-01T00:00:00Z"})),
        ("/users/user_1", json!({"status": "suspended"})),
        ("/organizations/org_2", json!({"status": "suspended"})),
    ] {
        assert_ok(&admin.patch(path, body).await);
    }
    assert_ok(&admin.post("/api-keys/key_3/revoke", json!({"reason": "leaked"})).await);
    assert_ok(&admin.post("/api-keys/key_3/expire-previous", Value::Null).await);
    for path in ["/organizations/org_1/members/user_2", "/users/user_3", "/organizations/org_2"] {
        assert_ok(&admin.delete(path).await);
    }
    assert_ok(&server.configure(json!({"maintenance": {"message": "full"}})).await);
    for (method, path, body) in [
        (Method::POST, "/organizations", json!({"name": "n", "email": "a@b"})),
        (Method::POST, "/users", json!({"name": "n", "email": "a@b"})),
        (Method::POST, "/api-keys/key_4/rotate", json!({})),
        (Method::PATCH, "/api-keys/key_1", json!({"status": "active"})),
        (Method::PATCH, "/api-keys/key_4", json!({"status": "disabled", "name": "x"})),
        (Method::PATCH, "/users/user_1", json!({"status": "active"})),
    ] {
        assert_full(&admin.call(method, path, Some(body)).await);
    }
    assert_full(&admin.post("/api-keys", key_body(100_000)).await);
    assert_eq!(admin.get("/api-keys/key_4").await.data()["status"], "active");
    assert_eq!(admin.get("/api-keys/none").await.status, 404);
    let (status, verify, write, codes) = readiness(&admin, "").await;
    assert_eq!((status, verify, write, codes), (200, true, false, vec!["STORAGE_RESERVE_IN_USE".to_owned()]));
    assert_eq!(readiness(&admin, "?write=true").await.0, 503);

    // A response can't be kept, so a request with an Idempotency-Key changes nothing.
    let request = admin.request(Method::POST, "/api-keys/key_5/revoke").header("idempotency-key", "1");
    assert_full(&admin.send(request).await);
    assert_eq!(admin.get("/api-keys/key_5").await.data()["status"], "active");

    let dir = server.stop().await;
    let server = Server::start_in(dir, |config| config.rate_limits.admin_per_minute = 0).await;
    let admin = server.admin();
    assert_eq!(readiness(&admin, "?write=true").await, (200, true, true, Vec::new()));
    assert_eq!(admin.post("/api-keys", key_body(100_000)).await.status, 201);
    assert_eq!(admin.get("/api-keys/key_1").await.data()["status"], "disabled");
    assert_eq!(admin.get("/api-keys/key_3").await.data()["revoked_reason"], "leaked");
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
    for (action, count) in [("api_key.update", 3), ("user.delete", 1), ("organization.delete", 1)] {
        let events = admin.get(&format!("/audit-logs?action={action}&outcome=success")).await;
        assert_eq!(events.data().as_array().unwrap().len(), count, "{action}");
    }
    // The reads meanwhile are recorded as one row for each minute.
    let reads = admin.get("/audit-logs?action=request.read").await;
    let counts: Vec<_> =
        reads.data().as_array().unwrap().iter().map(|event| event["count"].as_u64().unwrap()).collect();
    assert!((1..=2).contains(&counts.len()) && counts.iter().sum::<u64>() >= 2, "{reads:?}");
}

/// The update of a key needs a page, not only its audit event. SQLite then leaves the transaction open.
#[tokio::test(flavor = "multi_thread")]
async fn i13_keys_with_long_reasons_are_revoked_when_the_database_is_at_its_size_limit() {
    let server = start_full_server().await;
    let admin = server.admin();
    for index in 0..50 {
        let path = format!("/api-keys/key_{index}/revoke");
        assert_ok(&admin.post(&path, json!({"reason": "r".repeat(200)})).await);
    }
    assert_eq!(readiness(&admin, "").await.3, ["STORAGE_RESERVE_IN_USE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_a_batch_takes_access_away_when_the_database_is_at_its_size_limit() {
    let server = start_full_server().await;
    let admin = server.admin();
    use_reserve(&admin).await;
    let operations = json!([
        {"method": "DELETE", "path": "/api-keys/key_1"},
        {"method": "POST", "path": "/api-keys", "body": key_body(100_000)},
        {"method": "GET", "path": "/api-keys/key_1"},
        {"method": "DELETE", "path": "/api-keys/none"},
        {"method": "PATCH", "path": "/api-keys/key_2", "body": {"status": "disabled"}},
    ]);
    let batch = |atomic: bool, operations: &Value| json!({"atomic": atomic, "operations": operations});
    assert_full(&admin.post("/batch", batch(true, &operations)).await);
    assert_eq!(admin.get("/api-keys/key_1").await.data()["status"], "active");

    let answer = admin.post("/batch", batch(false, &operations)).await;
    assert_ok(&answer);
    let statuses: Vec<_> =
        answer.data()["results"].as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [200, 507, 200, 404, 200], "{answer:?}");
    let revocations = json!([
        {"method": "DELETE", "path": "/api-keys/key_3"},
        {"method": "DELETE", "path": "/api-keys/key_4"},
    ]);
    assert_ok(&admin.post("/batch", batch(true, &revocations)).await);
    let reads = json!([{"method": "GET", "path": "/api-keys/key_3"}]);
    assert_ok(&admin.post("/batch", batch(true, &reads)).await);
    for (id, status) in
        [("key_1", "revoked"), ("key_2", "disabled"), ("key_3", "revoked"), ("key_4", "revoked")]
    {
        assert_eq!(admin.get(&format!("/api-keys/{id}")).await.data()["status"], status);
    }
    // What was only counted may not fit any more.
    let (dir, _) = server.try_stop().await;
    let server = Server::start_in(dir, |_| ()).await;
    assert_eq!(server.admin().get("/audit-logs/verify").await.data()["valid"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_thousands_of_revocations_fit_into_the_reserve() {
    let server = start_full_server().await;
    let admin = server.admin();
    use_reserve(&admin).await;
    // Revoking a revoked key again stores an audit event, which is most of what a revocation stores.
    let mut revocations = 0;
    while admin.delete(&format!("/api-keys/key_{}", revocations % 100)).await.status == 200 {
        revocations += 1;
        assert!(revocations < 100_000, "the reserve is bounded");
    }
    assert!(revocations >= MIN_REVOCATIONS, "{revocations}");
    writeln!(std::io::stderr(), "{revocations} revocations fit into the reserve at the size limit").unwrap();
    assert_full(&admin.post("/api-keys", key_body(100_000)).await);
    assert_eq!(admin.get("/api-keys/key_1").await.data()["status"], "revoked");
}

/// Runs the test `name` again in a mount namespace, in which `dir` is a file system of `megabytes`. Mounting one
/// takes no privileges there. Without namespaces, the test is skipped.
pub(super) fn run_on_small_disk(name: &str, megabytes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(r#"mount -t tmpfs -o size={megabytes}m none "$0" || exit 77; exec "$@""#);
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .args([dir.path(), &env::current_exe().unwrap()])
        .args(["--exact", name, "--nocapture"])
        .env(SMALL_DISK, dir.path())
        .output();
    match child {
        Ok(output) if output.status.success() => {
            assert!(output.stdout.windows(8).any(|window| window == b"1 passed"));
            let notes = String::from_utf8_lossy(&output.stderr);
            notes.lines().filter(|line| line.contains("fit into")).for_each(|line| {
                writeln!(std::io::stderr(), "{line}").unwrap();
            });
        }
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
        // Written to stderr directly, because captured output of a passing test is not shown.
        other => writeln!(std::io::stderr(), "\nSKIPPED {name}: no small disk: {other:?}\n").unwrap(),
    }
}

/// The variable that names the small disk.
pub(super) const SMALL_DISK: &str = "TOLLHOUSE_TEST_SMALL_DISK";

/// Fills the file system with a file of its own, except for what can't be allocated.
pub(super) fn fill_disk(dir: &Path) {
    let mut ballast = fs::OpenOptions::new().append(true).create(true).open(dir.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
}

fn reserve_bytes(data: &Path) -> u64 {
    data.join("tollhouse.reserve").metadata().unwrap().len()
}

/// Waits until changes can be stored again.
async fn wait_until_writable(client: &Client) {
    let waiting = async {
        while readiness(client, "?write=true").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("changes can be stored again");
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_access_can_be_taken_away_on_a_full_disk() {
    let Some(disk) = env::var_os(SMALL_DISK) else {
        return run_on_small_disk("invariants::full_disk::i13_access_can_be_taken_away_on_a_full_disk", 16);
    };
    let disk = Path::new(&disk);
    let data = disk.join("data");
    let serve = || {
        Binary::serve_with(&data, |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
        })
    };
    let mut server = serve();
    let admin = server.admin();
    assert_eq!(
        admin.post("/organizations", json!({"id": "org_1", "name": "n", "email": "a@b"})).await.status,
        201
    );
    let mut secrets = Vec::new();
    for index in 0..20 {
        let answer = admin.post("/api-keys", key_body(index)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        secrets.push(answer.data()["key"].as_str().unwrap().to_owned());
    }
    assert_eq!(reserve_bytes(&data), 4 << 20);
    fill_disk(disk);
    // The WAL's file may have some room left.
    for index in 100.. {
        let answer = admin.post("/api-keys", key_body(index)).await;
        if answer.status != 201 {
            assert_full(&answer);
            break;
        }
    }
    assert_eq!(verify(&admin, &secrets[1]).await, "VALID");
    assert_ok(&admin.get("/api-keys").await);
    let mut revoked = 0;
    while readiness(&admin, "").await.3 != ["STORAGE_RESERVE_IN_USE"] {
        assert_ok(&admin.delete(&format!("/api-keys/key_{}", revoked % 10)).await);
        assert_eq!(verify(&admin, &secrets[revoked % 10]).await, "REVOKED");
        revoked += 1;
        fill_disk(disk);
    }
    assert!(reserve_bytes(&data) < 4 << 20);
    for (index, secret) in secrets.iter().enumerate().take(10) {
        assert_ok(&admin.delete(&format!("/api-keys/key_{index}")).await);
        assert_eq!(verify(&admin, secret).await, "REVOKED");
    }
    assert_eq!(verify(&admin, &secrets[11]).await, "VALID");
    assert_full(&admin.post("/api-keys", key_body(100_000)).await);

    // After a crash and after a stop, a start on the full disk serves what was acknowledged.
    for crash in [true, false] {
        fill_disk(disk);
        if crash {
            server.kill();
        } else {
            server.terminate();
        }
        fill_disk(disk);
        drop(server);
        server = serve();
        let admin = server.admin();
        assert_eq!(verify(&admin, &secrets[1]).await, "REVOKED");
        assert_eq!(verify(&admin, &secrets[11]).await, "VALID");
        assert_ok(&admin.delete("/api-keys/key_10").await);
        assert_eq!(verify(&admin, &secrets[10]).await, "REVOKED");
        assert_eq!(readiness(&admin, "?write=true").await.0, 503);
    }
    let admin = server.admin();
    let mut revocations = 0;
    // Nothing else fills the disk from here on.
    while admin.delete("/api-keys/key_1").await.status == 200 {
        revocations += 1;
    }
    writeln!(std::io::stderr(), "{revocations} revocations fit into the reserve on a full disk").unwrap();
    assert!(revocations >= MIN_REVOCATIONS, "{revocations}");

    fs::remove_file(disk.join("ballast")).unwrap();
    wait_until_writable(&admin).await;
    assert_eq!(reserve_bytes(&data), 4 << 20);
    assert_eq!(admin.post("/api-keys", key_body(100_000)).await.status, 201);
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
}
