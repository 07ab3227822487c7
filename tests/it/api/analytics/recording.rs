//! From the recorder to the database: nothing is counted twice or lost, and old rows are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tollhouse::domain::api_key::Credential;
use tollhouse::domain::subject::Subject;
use tollhouse::domain::time::Timestamp;
use tollhouse::domain::usage::{Interval, Span};
use tollhouse::domain::verification::Outcome::*;
use tollhouse::service::retention::prune;
use tollhouse::service::usage::flush as try_flush;

use super::super::expect_ok;
use super::{DAY, HOUR, Key, flush, key, usage};
use crate::support::{Binary, NOW, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_counts_of_64_callers_are_exact_across_a_restart() {
    /// Verifications that each caller counts with each of two outcomes.
    const EACH: u32 = 500;
    let server = Server::start().await;
    server.organization("org_1").await;
    let mut keys = Vec::new();
    for index in 0..5 {
        keys.push(Arc::new(key(&server, Some("org_1"), &format!("key_{index}")).await));
    }
    let server = Arc::new(server);
    let callers: Vec<_> = (0..64)
        .map(|index| {
            let server = server.clone();
            let key = keys[index % 5].clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    key.count(&server, Valid, 1);
                    key.count(&server, RateLimited, 1);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    while callers.iter().any(|caller| !caller.is_finished()) {
        flush(&server).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    // These counts are only in memory when the server stops.
    keys[0].count(&server, Valid, 7);
    keys.iter().for_each(|key| key.count(&server, Revoked, 1));
    let dir = Arc::into_inner(server).unwrap().stop().await;

    let server = Server::start_in(dir, |config| config.rate_limits.admin_per_minute = 0).await;
    let all = 64 * u64::from(EACH);
    let data = usage(&server.admin(), "org_id=org_1").await;
    let expected = json!({"requests": 2 * all + 12, "allowed": all + 7, "denied": all + 5,
        "rate_limited": all, "quota_exceeded": 0, "cost": all + 7});
    assert_eq!(data["totals"], expected);
    let mut sum = 0;
    for index in 0..5 {
        let data = usage(&server.admin(), &format!("key_id=key_{index}")).await;
        sum += data["totals"]["requests"].as_u64().unwrap();
    }
    assert_eq!(sum, 2 * all + 12);
    let denials = expect_ok(server.admin().get("/analytics/logs?limit=100").await, 200);
    let counted = denials.as_array().unwrap().iter().map(|row| row["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(counted, all + 5);
}

/// A flush writes in chunks. Here the first chunk is written, the second fails, and the third is not tried.
#[tokio::test]
async fn i9_a_partially_failed_flush_loses_and_repeats_nothing() {
    const KEYS: i64 = 2500;
    let server = Server::start().await;
    let key_1 = key(&server, None, "key_1").await;
    let count = || {
        for seq in 1..=KEYS {
            let credential = Arc::new(Credential { seq, ..(*key_1.credential).clone() });
            Key { credential }.count(&server, Disabled, 1);
        }
    };
    let other_connection = rusqlite::Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    let fail = "CREATE TRIGGER fail BEFORE INSERT ON usage_daily WHEN NEW.subject = 1500 \
                BEGIN SELECT RAISE (ABORT, 'not now'); END";
    other_connection.execute_batch(fail).unwrap();
    count();
    assert!(try_flush(&server.app).await.is_err());
    let written = usage(&server.admin(), "").await["totals"]["requests"].as_i64().unwrap();
    assert!((1..1500).contains(&written), "a chunk was written before the failed one: {written}");
    count();
    assert!(try_flush(&server.app).await.is_err());
    other_connection.execute_batch("DROP TRIGGER fail").unwrap();
    flush(&server).await;
    flush(&server).await;

    assert_eq!(usage(&server.admin(), "").await["totals"]["requests"], 2 * KEYS);
    for table in ["usage_hourly", "usage_daily"] {
        let sql = format!("SELECT count(*), min(disabled), max(disabled) FROM {table} WHERE subject > 0");
        let actual =
            other_connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        assert_eq!(actual, (KEYS, 2, 2), "{table}");
    }
    let denied: i64 =
        other_connection.query_row("SELECT sum(count) FROM verification_log", [], |row| row.get(0)).unwrap();
    assert_eq!(denied, 2 * KEYS);
}

#[tokio::test]
async fn the_time_of_the_last_valid_use_is_written() {
    let server = Server::start().await;
    let key_1 = key(&server, None, "key_1").await;
    let key_2 = key(&server, None, "key_2").await;
    key_1.count(&server, Valid, 1);
    key_2.count(&server, Disabled, 1);
    server.advance(Duration::from_secs(5));
    key_1.count(&server, Valid, 1);
    server.advance(Duration::from_secs(5));
    key_1.count(&server, RateLimited, 1);
    flush(&server).await;
    tollhouse::service::housekeeping::write_last_used(&server.app).await.unwrap();
    let admin = server.admin();
    assert_eq!(admin.get("/api-keys/key_1").await.data()["last_used_at"], "2026-11-23T07:08:14.000Z");
    assert_eq!(admin.get("/api-keys/key_2").await.data()["last_used_at"], json!(null));
}

#[tokio::test]
async fn expired_usage_and_denials_are_deleted() {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 0;
        config.retention.usage_hourly_days = 2;
        config.retention.usage_daily_days = 4;
        config.retention.verification_log_days = 1;
    })
    .await;
    let admin = server.admin();
    let key_1 = key(&server, None, "key_1").await;
    for _ in 0..5 * 24 {
        key_1.count(&server, Disabled, 1);
        server.advance(HOUR);
    }
    flush(&server).await;
    prune(&server.app).await.unwrap();
    // The time is 07:08 five days later. Kept are the hours since 07:00 two days ago, and the days since four
    // days ago.
    let hours = usage(&admin, "key_id=key_1&period=48h&interval=hour").await;
    assert_eq!(hours["totals"]["requests"], 48);
    let days = usage(&admin, "key_id=key_1&period=9d").await;
    assert_eq!(days["totals"]["requests"], 4 * 24 + 7);
    let log = expect_ok(admin.get("/analytics/logs?limit=100").await, 200);
    assert_eq!(log.as_array().unwrap().len(), 24);
    let older = server.app.db.read(move |tx| {
        let end = Timestamp::from_millis(NOW) + (DAY * 3 - HOUR);
        let span = Span::until(end, 4 * Interval::Day.millis(), Interval::Hour);
        tollhouse::store::usage::usage_by_bucket(tx, Subject::Key(key_1.credential.seq), &span)
    });
    assert_eq!(older.await.unwrap(), []);
}

/// Verifies a key from 64 concurrent callers of the real program. Returns the number of responses by code.
async fn verify_from_64(server: &Binary, key: &str) -> BTreeMap<String, u64> {
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let admin = server.admin();
            let body = json!({"key": key, "cost": 2});
            tokio::spawn(async move {
                let mut codes = Vec::new();
                for _ in 0..20 {
                    let request = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body);
                    codes
                        .push(expect_ok(admin.send(request).await, 200)["code"].as_str().unwrap().to_owned());
                }
                codes
            })
        })
        .collect();
    let mut answered = BTreeMap::new();
    for caller in callers {
        for code in caller.await.unwrap() {
            *answered.entry(code).or_default() += 1;
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_counts_match_the_responses_to_64_callers_across_graceful_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    let limited = json!({"name": "limited", "id": "key_1", "scopes": [], "limits": [{"limit": 500, "window_seconds": 86400}]});
    let free = json!({"name": "free", "id": "key_2", "scopes": []});
    let mut keys = Vec::new();
    for body in [limited, free] {
        keys.push(
            expect_ok(server.admin().post("/api-keys", body).await, 201)["key"].as_str().unwrap().to_owned(),
        );
    }
    let mut answered = vec![BTreeMap::<String, u64>::new(); 3];
    for _ in 0..2 {
        // The last key is unknown.
        for (key, answered) in keys.iter().map(String::as_str).chain(["unknown"]).zip(&mut answered) {
            for (code, times) in verify_from_64(&server, key).await {
                *answered.entry(code).or_default() += times;
            }
        }
        assert_eq!(server.terminate(), Some(0));
        server = Binary::serve(dir.path());
    }
    let admin = server.admin();
    for (key_id, answered) in ["key_1", "key_2"].iter().zip(&answered) {
        let of = |code: &str| answered.get(code).copied().unwrap_or(0);
        let data = usage(&admin, &format!("key_id={key_id}&period=1h&group_by=code")).await;
        let groups: BTreeMap<_, _> = super::groups(&data, "groups").into_iter().collect();
        assert_eq!(&groups, answered);
        assert_eq!(data["totals"]["requests"], 2 * 64 * 20);
        assert_eq!(data["totals"]["cost"], 2 * of("VALID"));
        assert_eq!(data["totals"]["rate_limited"], of("RATE_LIMITED"));
    }
    assert!(answered[0].len() == 2 && answered[1].len() == 1, "{answered:?}");
    let logs = expect_ok(admin.get("/analytics/logs?limit=100").await, 200);
    let logged = |code: &str| {
        let rows = logs.as_array().unwrap().iter().filter(|row| row["code"] == code);
        rows.map(|row| row["count"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(
        (logged("RATE_LIMITED"), logged("NOT_FOUND")),
        (answered[0]["RATE_LIMITED"], answered[2]["NOT_FOUND"])
    );
}
