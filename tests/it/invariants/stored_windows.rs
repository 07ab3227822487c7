//! Invariant 7 across stops: a graceful stop keeps what rate limits have spent, the time of the stop refills them, and
//! after a crash they begin full.

use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::service::{lifecycle, windows};

use crate::support::{Answer, Binary, Client, NOW, Server};

const DAY: u32 = 86_400;

async fn post(client: &Client, path: &str, body: Value) -> Answer {
    client.send(client.request_at_root(Method::POST, path).json(&body)).await
}

async fn verify(client: &Client, body: Value) -> Value {
    let answer = post(client, "/v1/keys/verify", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data().clone()
}

/// Spends units of the key; returns the code of the verification.
async fn spend(client: &Client, key: &str, cost: u64) -> Value {
    verify(client, json!({"key": key, "cost": cost})).await["code"].clone()
}

/// What is left of each limit of the key and its organization.
async fn remaining(client: &Client, key: &str) -> Vec<u64> {
    let answer = verify(client, json!({"key": key, "cost": 0, "dry_run": true})).await;
    let limits = answer["limits"].as_array().unwrap().iter();
    limits.map(|limit| limit["remaining"].as_u64().unwrap()).collect()
}

/// Creates an organization with these limits, and a key in it.
async fn create(admin: &Client, key_limits: Value, organization_limits: Value) -> String {
    let organization = json!({"id": "org_1", "name": "n", "email": "a@example.com"});
    assert_eq!(admin.post("/organizations", organization).await.status, 201);
    let limits = json!({"limits": organization_limits});
    assert_eq!(admin.patch("/organizations/org_1", limits).await.status, 200);
    create_key(admin, "key_1", key_limits).await
}

async fn create_key(admin: &Client, id: &str, limits: Value) -> String {
    let body = json!({"id": id, "organization_id": "org_1", "name": "n", "scopes": [], "limits": limits});
    let answer = admin.post("/api-keys", body).await;
    answer.data()["key"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn window(limit: u64, seconds: u32) -> Value {
    json!({"limit": limit, "window_seconds": seconds})
}

/// Stops the server and starts it again at this time after [`NOW`], in milliseconds.
async fn restart(server: Server, millis: i64) -> Server {
    start(server.stop().await, millis).await
}

async fn start(dir: TempDir, millis: i64) -> Server {
    Server::start_at(dir, NOW + millis, |_| ()).await
}

fn stored_rows(dir: &TempDir) -> i64 {
    let conn = Connection::open(dir.path().join("data/tollhouse.db")).unwrap();
    conn.query_row("SELECT count(*) FROM windows", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn i7_a_stop_keeps_what_was_spent_and_its_time_refills() {
    let server = Server::start().await;
    let key =
        create(&server.admin(), json!([window(10, 60), window(100, DAY)]), json!([window(20, 60)])).await;
    let other = create_key(&server.admin(), "key_2", json!([])).await;
    assert_eq!(spend(&server.admin(), &key, 7).await, "VALID");
    assert_eq!(spend(&server.admin(), &other, 5).await, "VALID");
    assert_eq!(remaining(&server.admin(), &key).await, [3, 93, 8]);

    let server = restart(server, 0).await;
    assert_eq!(remaining(&server.admin(), &key).await, [3, 93, 8]);
    assert_eq!(spend(&server.admin(), &key, 4).await, "RATE_LIMITED");
    // The process has spent nothing itself, and its stop keeps the state, too.
    let server = restart(restart(server, 0).await, 12_010).await;
    assert_eq!(remaining(&server.admin(), &key).await, [5, 93, 12]);
    assert_eq!(spend(&server.admin(), &key, 5).await, "VALID");
    assert_eq!(remaining(&server.admin(), &other).await, [7]);
    let server = restart(server, 12_010 + 120_000).await;
    assert_eq!(remaining(&server.admin(), &key).await, [10, 88, 20]);

    let dir = server.stop().await;
    assert_eq!(stored_rows(&dir), 1, "full buckets aren't stored");
    assert_eq!(stored_rows(&start(dir, 200_000).await.dir), 0, "what is taken over is deleted");
}

#[tokio::test]
async fn i7_debt_of_reports_survives_a_stop() {
    let server = Server::start().await;
    let key = create(&server.admin(), json!([window(10, 60)]), json!([window(1_000, 60)])).await;
    let report = json!({"key": key, "costs": {"requests": 25}});
    assert_eq!(post(&server.admin(), "/v1/keys/usage", report).await.status, 200);
    let server = restart(server, 30_010).await;
    let answer = verify(&server.admin(), json!({"key": key, "cost": 0})).await;
    assert_eq!((&answer["code"], &answer["retry_after_seconds"]), (&json!("RATE_LIMITED"), &json!(60)));
    let server = restart(server, 90_020).await;
    assert_eq!(verify(&server.admin(), json!({"key": key, "cost": 0})).await["code"], "VALID");
    assert_eq!(remaining(&server.admin(), &key).await[0], 0);
}

#[tokio::test]
async fn a_changed_limit_keeps_what_was_spent_before_a_stop() {
    let server = Server::start().await;
    let key = create(&server.admin(), json!([window(10, DAY)]), json!([])).await;
    assert_eq!(spend(&server.admin(), &key, 7).await, "VALID");
    let mut server = restart(server, 0).await;
    for (limits, left) in [
        (json!([window(30, DAY)]), vec![23]),
        (json!([window(5, DAY)]), vec![0]),
        (json!([window(10, DAY)]), vec![3]),
        (json!([window(10, DAY), window(10, DAY - 1)]), vec![3, 10]),
        (json!([window(10, DAY - 1)]), vec![10]),
        (json!([window(10, DAY)]), vec![10]),
    ] {
        let patched = server.admin().patch("/api-keys/key_1", json!({ "limits": limits })).await;
        assert_eq!(patched.status, 200, "{patched:?}");
        assert_eq!(remaining(&server.admin(), &key).await, left, "{limits}");
        server = restart(server, 0).await;
        assert_eq!(remaining(&server.admin(), &key).await, left, "{limits} after a stop");
    }
}

#[tokio::test]
async fn i14_a_clock_that_is_set_back_gives_no_time_twice() {
    let server = Server::start().await;
    let key = create(&server.admin(), json!([window(60, 60)]), json!([])).await;
    assert_eq!(spend(&server.admin(), &key, 60).await, "VALID");
    server.advance(Duration::from_secs(10));
    let server = restart(server, -3_600_000).await;
    assert_eq!(remaining(&server.admin(), &key).await, [10]);
    server.advance(Duration::from_secs(5));
    let server = restart(server, 0).await;
    assert!(remaining(&server.admin(), &key).await[0] <= 15 + 60);
    // A clock that is far ahead fills the window and no more.
    let server = restart(server, 10 * 365 * 86_400_000).await;
    assert_eq!(remaining(&server.admin(), &key).await, [60]);
}

/// Callers that take what they can get, across many stops of random lengths, against a token bucket of real numbers.
#[tokio::test]
async fn i7_stops_never_admit_more_than_the_limit_and_cost_a_paced_client_nothing() {
    const LIMIT: u64 = 50;
    const WINDOW: u32 = 10;
    let mut rng = fastrand::Rng::with_seed(14);
    let mut server = Server::start().await;
    let key = create(&server.admin(), json!([window(LIMIT, WINDOW)]), json!([window(LIMIT, WINDOW)])).await;
    let rate = LIMIT as f64 / f64::from(WINDOW) / 1000.0;
    let (mut now, mut admitted, mut level) = (0_i64, 0, LIMIT as f64);
    for stops in 1..=25 {
        for _ in 0..rng.u32(1..6) {
            let millis = rng.i64(0..3_000);
            server.advance(Duration::from_millis(millis.unsigned_abs()));
            now += millis;
            level = (level + millis as f64 * rate).min(LIMIT as f64);
            let cost = rng.u64(1..=LIMIT / 2);
            // Each stop may lose two milliseconds of refill, because stored times are whole milliseconds.
            let is_certain = level - 0.002 - f64::from(stops) * 2.0 * rate >= cost as f64;
            match spend(&server.admin(), &key, cost).await.as_str().unwrap() {
                "VALID" => {
                    admitted += cost;
                    level -= cost as f64;
                    assert!(level >= -0.001, "{level} after {stops} stops");
                }
                code => assert!(!is_certain, "{code} at {level}, a cost of {cost}"),
            }
            assert!(admitted as f64 <= LIMIT as f64 + now as f64 * rate + 0.001);
        }
        let millis = rng.i64(0..4_000);
        now += millis;
        level = (level + millis as f64 * rate).min(LIMIT as f64);
        server = restart(server, now).await;
    }
}

#[tokio::test]
async fn windows_of_keys_that_ended_are_dropped() {
    let server = Server::start().await;
    let key = create(&server.admin(), json!([window(10, DAY)]), json!([window(10, DAY)])).await;
    assert_eq!(spend(&server.admin(), &key, 7).await, "VALID");
    assert_eq!(server.admin().delete("/organizations/org_1").await.status, 200);
    let mut server = restart(server, 0).await;
    assert_eq!(verify(&server.admin(), json!({"key": key})).await["code"], "REVOKED");
    server = restart(server, 2 * i64::from(DAY) * 1000).await;
    assert_eq!(stored_rows(&server.stop().await), 0);
}

/// A limit that was lowered keeps what was spent for as long as the key is there, but a removed key costs nothing.
#[tokio::test]
async fn i10_what_a_lowered_limit_owes_ends_with_its_key() {
    const MILLION: u64 = 1_000_000;
    let server = Server::start().await;
    let key = create(&server.admin(), json!([window(MILLION, DAY)]), json!([])).await;
    let removed = create_key(&server.admin(), "key_2", json!([window(MILLION, DAY)])).await;
    for (id, key) in [("key_1", &key), ("key_2", &removed)] {
        assert_eq!(spend(&server.admin(), key, MILLION).await, "VALID");
        let lower = json!({"limits": [window(1, DAY)]});
        assert_eq!(server.admin().patch(&format!("/api-keys/{id}"), lower).await.status, 200);
        assert_eq!(remaining(&server.admin(), key).await, [0]);
    }
    assert_eq!(server.admin().delete("/api-keys/key_2").await.status, 200);
    let dir = server.stop().await;
    assert_eq!(stored_rows(&dir), 2);
    let dir = start(dir, 2 * i64::from(DAY) * 1000).await.stop().await;
    assert_eq!(stored_rows(&dir), 1, "that of the revoked key is gone");
    let server = start(dir, 2 * i64::from(DAY) * 1000).await;
    let higher = json!({"limits": [window(MILLION, DAY)]});
    assert_eq!(server.admin().patch("/api-keys/key_1", higher).await.status, 200);
    assert_eq!(remaining(&server.admin(), &key).await, [1]);
}

/// Another program has locked the database during the start, so the stored state can't be deleted then.
#[tokio::test]
async fn a_state_that_could_not_be_deleted_is_replaced_by_the_next_stop() {
    let server = Server::start().await;
    let key = create(&server.admin(), json!([window(10, DAY)]), json!([])).await;
    assert_eq!(spend(&server.admin(), &key, 3).await, "VALID");
    let (config, clock) = (server.app.config.clone(), server.clock.clone());
    let dir = server.stop().await;
    let stored_at = || {
        let conn = Connection::open(dir.path().join("data/tollhouse.db")).unwrap();
        conn.query_row("SELECT sum(stored_at) FROM windows", [], |row| row.get::<_, Option<i64>>(0)).unwrap()
    };
    assert_eq!(stored_at(), Some(NOW));
    let app = lifecycle::open(config, clock.clone()).await.unwrap();
    let other = Connection::open(dir.path().join("data/tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    windows::resume(&app).await;
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(stored_at(), Some(NOW), "it could be deleted");
    clock.advance(Duration::from_secs(1));
    lifecycle::close(&app).await.unwrap();
    assert_eq!(stored_at(), Some(NOW + 1000));
    let server = start(dir, 1000).await;
    assert_eq!(remaining(&server.admin(), &key).await, [7]);
}

/// Rows that make no sense cost nothing but the state that they had.
#[tokio::test]
async fn i15_a_damaged_state_does_not_keep_the_server_from_starting() {
    for damage in ["spent = 'many'", "meter = 'No meter'", "stored_at = -9223372036854775808", "tokens = 0"] {
        let server = Server::start().await;
        let key = create(&server.admin(), json!([window(10, DAY)]), json!([])).await;
        assert_eq!(spend(&server.admin(), &key, 3).await, "VALID");
        let dir = server.stop().await;
        let conn = Connection::open(dir.path().join("data/tollhouse.db")).unwrap();
        assert_eq!(conn.execute(&format!("UPDATE windows SET {damage}"), []).unwrap(), 1);
        drop(conn);
        let server = start(dir, 0).await;
        assert_eq!(stored_rows(&server.dir), 0, "{damage}");
        assert!(remaining(&server.admin(), &key).await[0] <= 10, "{damage}");
    }
}

/// Without room for the rows, the stop succeeds, and the limits begin full.
#[tokio::test]
async fn a_stop_on_a_full_disk_loses_only_the_windows() {
    let server = Server::with(|config| {
        config.database.max_bytes = 3 << 20;
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    let mut keys = vec![create(&server.admin(), json!([window(10, DAY)]), json!([])).await];
    for n in 2..=300 {
        keys.push(create_key(&server.admin(), &format!("key_{n}"), json!([window(10, DAY)])).await);
    }
    let large: serde_json::Map<_, _> = (0..50).map(|n| (n.to_string(), json!("v".repeat(500)))).collect();
    for key in &keys {
        assert_eq!(spend(&server.admin(), key, 4).await, "VALID");
    }
    tollhouse::service::usage::flush(&server.app).await.unwrap();
    for metadata in [json!(large), json!({})] {
        let body = json!({"name": "n", "email": "a@b", "metadata": metadata});
        while server.admin().post("/organizations", body.clone()).await.status == 201 {}
    }
    let (dir, _) = server.try_stop().await;
    let server = start(dir, 0).await;
    for key in &keys {
        assert_eq!(remaining(&server.admin(), key).await, [10]);
    }
    let usage = server.admin().get("/analytics/usage?org_id=org_1").await;
    assert_eq!(usage.data()["totals"]["cost"], 1200, "{usage:?}");
}

/// Spends until the server refuses or stops. Returns the number of admitted verifications, and whether the last call got
/// no response, so that it may have been charged.
async fn spend_until_refused(client: Client, key: String) -> (u64, bool) {
    let body = json!({ "key": key });
    for admitted in 0.. {
        let request = client.request_at_root(Method::POST, "/v1/keys/verify").json(&body);
        let Ok(response) = request.send().await else { return (admitted, true) };
        let Ok(answer) = response.json::<Value>().await else { return (admitted, true) };
        match answer["data"]["code"].as_str() {
            Some("VALID") => {}
            Some("RATE_LIMITED") => return (admitted, false),
            // 503 while the server stops.
            _ => return (admitted, true),
        }
    }
    unreachable!("the limits refuse at last")
}

/// Stops in the middle of bursts of two keys, which their limits and that of their organization bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_stops_in_the_middle_of_bursts_admit_no_more_than_the_limits() {
    const KEY_LIMIT: u64 = 1_000;
    const ORGANIZATION_LIMIT: u64 = 1_500;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    let limits = json!([window(KEY_LIMIT, DAY)]);
    let first = create(&server.admin(), limits.clone(), json!([window(ORGANIZATION_LIMIT, DAY)])).await;
    let keys = [first, create_key(&server.admin(), "key_2", limits).await];
    let mut admitted = [0; 2];
    let mut unknown = 0;
    for stops in 0..4 {
        let callers: Vec<_> =
            (0..16).map(|n| tokio::spawn(spend_until_refused(server.admin(), keys[n % 2].clone()))).collect();
        if stops < 3 {
            // A part of the burst has been admitted.
            let target = ORGANIZATION_LIMIT - 300 * (stops + 1);
            while remaining(&server.admin(), &keys[0]).await[1] > target {}
            assert_eq!(server.terminate(), Some(0));
        }
        for (n, caller) in callers.into_iter().enumerate() {
            let (count, is_unknown) = caller.await.unwrap();
            admitted[n % 2] += count;
            unknown += u64::from(is_unknown);
        }
        if stops < 3 {
            server = Binary::serve(dir.path());
        }
    }
    // Two minutes refill at most two units.
    let total: u64 = admitted.iter().sum();
    assert!(admitted.iter().all(|admitted| *admitted <= KEY_LIMIT + 2), "{admitted:?}");
    assert!(
        total <= ORGANIZATION_LIMIT + 3 && total + unknown >= ORGANIZATION_LIMIT,
        "{admitted:?}, {unknown}"
    );
    assert!(unknown > 0, "no stop was in the middle of a burst");
}

fn run(dir: &TempDir, args: &[&str]) {
    let output = Binary::run(&[args, &["--data", dir.path().to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn i7_the_program_keeps_windows_at_a_stop_and_forgets_them_in_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    let key = create(&server.admin(), json!([window(10, DAY)]), json!([window(100, DAY)])).await;
    assert_eq!(spend(&server.admin(), &key, 7).await, "VALID");
    assert_eq!(server.terminate(), Some(0));
    // Commands beside a stopped server leave the rows alone.
    run(&dir, &["check"]);
    run(&dir, &["admin-key", "list"]);
    let backup = dir.path().join("backup.db");
    run(&dir, &["backup", backup.to_str().unwrap()]);

    let mut server = Binary::serve(dir.path());
    assert_eq!(remaining(&server.admin(), &key).await, [3, 93]);
    assert_eq!(spend(&server.admin(), &key, 1).await, "VALID");
    server.kill();
    let mut server = Binary::serve(dir.path());
    assert_eq!(remaining(&server.admin(), &key).await, [10, 100], "after a crash, windows begin full");
    assert_eq!(spend(&server.admin(), &key, 2).await, "VALID");
    assert_eq!(server.terminate(), Some(0));

    // A backup that was made while the server was stopped has the state of that time.
    run(&dir, &["restore", backup.to_str().unwrap(), "--force"]);
    let server = Binary::serve(dir.path());
    assert_eq!(remaining(&server.admin(), &key).await, [3, 93]);
}
