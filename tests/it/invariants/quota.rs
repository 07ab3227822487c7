//! Invariant 8 and the contract's guarantee on quotas, with a real database file: a quota is never exceeded,
//! however the process ends. A graceful stop forfeits no units, a crash at most one lease.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tollhouse::app::App;
use tollhouse::domain::api_key::Credential;
use tollhouse::domain::limits::{LimitSpan, Period};
use tollhouse::domain::meter::{Cost, Meter};
use tollhouse::domain::quota::QuotaId;
use tollhouse::domain::subject::Subject;
use tollhouse::domain::time::Timestamp;
use tollhouse::domain::verification::Outcome::{self, QuotaExceeded, Valid};
use tollhouse::error::{Code, Result};
use tollhouse::service::{housekeeping, lifecycle};
use tollhouse::store;
use tollhouse::verify::secret::Secret;
use tollhouse::verify::verifier::{KeyToVerify, VerifyRequest};

use super::until;
use crate::support::{Client, NOW, Server};

const HOUR: Duration = Duration::from_secs(3600);
/// The start of the day of the tests' clock, 2026-11-23, in milliseconds since the epoch.
const DAY_START: i64 = NOW - NOW % 86_400_000;
/// The start of its month.
const MONTH_START: i64 = DAY_START - 22 * 86_400_000;

/// Creates a key with a quota; returns its secret.
async fn create_key(server: &Server, quota: Value) -> String {
    let body = json!({"id": "key_1", "name": "n", "scopes": [], "limits": [quota]});
    server.key_with(body).await.1["key"].as_str().unwrap().to_owned()
}

async fn credential(app: &App, secret: &str) -> Arc<Credential> {
    app.keys.get(&Secret::from_plain_text(secret.to_owned()).hash()).await.unwrap().unwrap()
}

/// Verifies the key at this cost; returns the outcome and the remaining units of its quota.
async fn try_charge(app: &App, secret: &str, cost: u32) -> Result<(Outcome, u64)> {
    let request = VerifyRequest::<&str> {
        key: KeyToVerify::Secret(secret),
        scopes: &[],
        ip: None,
        costs: &[Cost { meter: Meter::REQUESTS, units: cost }],
        dry_run: false,
        caller_organization_id: None,
    };
    let verdict = app.verifier.verify(&request, app.clock.now(), app.clock.monotonic()).await?;
    Ok((verdict.outcome, verdict.limits[0].remaining()))
}

async fn charge(app: &App, secret: &str, cost: u32) -> (Outcome, u64) {
    try_charge(app, secret, cost).await.unwrap()
}

/// The units of the key's quota that are leased on the day of the tests' clock, or in its month, as stored in the
/// database.
async fn leased(app: &App, secret: &str) -> u64 {
    let credential = credential(app, secret).await;
    let limit = credential.key.limits.as_ref().unwrap()[0];
    let (period, start) = match limit.span {
        LimitSpan::Period(Period::Day) => (Period::Day, DAY_START),
        LimitSpan::Period(Period::Month) => (Period::Month, MONTH_START),
        span => panic!("{span:?}"),
    };
    let start = Timestamp::from_millis(start);
    let id = QuotaId { subject: Subject::Key(credential.seq), meter: limit.meter, period, start };
    let leased = app.db.read(move |tx| store::quotas::leased_units(tx, id)).await;
    leased.unwrap().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_spend_exactly_the_units_of_the_quota() {
    for limit in [1, 7, 100, 1000] {
        let server = Server::start().await;
        let secret = create_key(&server, json!({"limit": limit, "period": "day"})).await;
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let app = server.app.clone();
                let secret = secret.clone();
                tokio::spawn(async move {
                    let mut admitted = 0;
                    for _ in 0..20 {
                        admitted += u32::from(charge(&app, &secret, 1).await.0 == Valid);
                    }
                    admitted
                })
            })
            .collect();
        let mut admitted = 0;
        for caller in callers {
            admitted += caller.await.unwrap();
        }
        assert_eq!(admitted, limit);
        // Concurrent callers lease no more units than the limit.
        assert_eq!(leased(&server.app, &secret).await, u64::from(limit));
    }
}

async fn verify(client: &Client, body: Value) -> Value {
    let answer = client.send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data().clone()
}

#[tokio::test]
async fn i8_a_denial_spends_neither_tokens_nor_units() {
    let server = Server::start().await;
    let body = json!({"name": "n", "scopes": [], "allowed_ips": ["192.0.2.0/24"],
        "limits": [{"limit": 10, "window_seconds": 86_400}, {"limit": 25, "period": "month"}]});
    let secret = server.key_with(body).await.1["key"].clone();
    let admin = server.admin();
    for (cost, ip, code, tokens, units) in [
        (4, "192.0.2.1", "VALID", 6, 21),
        (4, "198.51.100.1", "IP_NOT_ALLOWED", 6, 21),
        (7, "192.0.2.1", "RATE_LIMITED", 6, 21),
        (22, "192.0.2.1", "QUOTA_EXCEEDED", 6, 21),
        (6, "192.0.2.1", "VALID", 0, 15),
        (1, "192.0.2.1", "RATE_LIMITED", 0, 15),
        (15, "192.0.2.1", "RATE_LIMITED", 0, 15),
        (16, "192.0.2.1", "QUOTA_EXCEEDED", 0, 15),
        (0, "192.0.2.1", "VALID", 0, 15),
    ] {
        let mut body = json!({"key": secret, "cost": cost, "ip": ip, "dry_run": true});
        assert_eq!(verify(&admin, body.clone()).await["code"], code, "{body}");
        body["dry_run"] = json!(false);
        let answer = verify(&admin, body.clone()).await;
        assert_eq!(answer["code"], code, "{body}");
        let remaining = (&answer["limits"][0]["remaining"], &answer["limits"][1]);
        let quota = json!({"on": "key", "meter": "requests", "limit": 25, "period": "month", "remaining": units,
            "resets_at": "2026-12-01T00:00:00.000Z"});
        assert_eq!(remaining, (&json!(tokens), &quota), "{body}");
    }
}

/// 64 concurrent callers use up the rate limit or the quota, whichever is lower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_concurrent_calls_are_admitted_up_to_the_lower_limit() {
    for (tokens, units) in [(300, 200), (200, 300)] {
        let server = Server::start().await;
        let body = json!({"name": "n", "scopes": [],
            "limits": [{"limit": tokens, "window_seconds": 1}, {"limit": units, "period": "day"}]});
        let secret = server.key_with(body).await.1["key"].clone();
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let client = server.admin();
                let body = json!({"key": secret, "cost": 2});
                tokio::spawn(async move {
                    let mut valid = 0;
                    for _ in 0..5 {
                        valid += u64::from(verify(&client, body.clone()).await["valid"] == true);
                    }
                    valid
                })
            })
            .collect();
        let mut valid = 0;
        for caller in callers {
            valid += caller.await.unwrap();
        }
        assert_eq!(valid, 100);
        let after = verify(&server.admin(), json!({"key": secret, "dry_run": true})).await;
        let remaining = [0, 1].map(|index| after["limits"][index]["remaining"].as_u64().unwrap());
        assert_eq!(remaining, [tokens - 200, units - 200], "denied calls cost neither tokens nor units");
    }
}

#[tokio::test]
async fn a_graceful_stop_forfeits_no_units() {
    let mut server = Server::start().await;
    let secret = create_key(&server, json!({"limit": 10_000, "period": "month"})).await;
    let mut remaining = 10_000;
    for cost in [1, 99, 100, 250] {
        remaining -= u64::from(cost);
        assert_eq!(charge(&server.app, &secret, cost).await, (Valid, remaining));
        assert!(leased(&server.app, &secret).await >= 10_000 - remaining, "durable before it is answered");
        server = Server::start_in(server.stop().await, |_| ()).await;
        assert_eq!(leased(&server.app, &secret).await, 10_000 - remaining);
    }
}

/// Opening the database a second time simulates a restart after SIGKILL: both see only committed data.
#[tokio::test]
async fn crashes_exceed_no_quota_and_forfeit_at_most_one_lease_each() {
    for (limit, costs) in [(1, 1..=1), (50, 1..=3), (1000, 1..=3), (1000, 1..=40), (100_000, 1..=500)] {
        let server = Server::start().await;
        let secret = create_key(&server, json!({"limit": limit, "period": "day"})).await;
        let largest_lease = (limit / 100).max(*costs.end());
        let mut spent = 0;
        let mut crashes = 0;
        let mut app = server.app.clone();
        let mut rng = fastrand::Rng::with_seed(limit.into());
        loop {
            let cost = rng.u32(costs.clone());
            let (outcome, remaining) = charge(&app, &secret, cost).await;
            if outcome == QuotaExceeded {
                assert!(remaining < cost.into());
                break;
            }
            spent += cost;
            assert!(spent <= limit, "exceeded");
            let forfeited = u64::from(limit - spent) - remaining;
            assert!(forfeited <= u64::from(crashes * largest_lease), "{forfeited} after {crashes} crashes");
            if rng.u8(..4) == 0 && crashes < 20 {
                crashes += 1;
                // The crashed process must not write any more.
                until("no lease is being written", || !app.verifier.leases().is_busy()).await;
                app = lifecycle::open(server.app.config.clone(), server.clock.clone()).await.unwrap();
            }
        }
    }
}

/// Another process holds the lock on the database, as a slow disk would.
#[tokio::test(flavor = "multi_thread")]
async fn i9_verifications_go_on_without_the_writer_while_leased_units_are_left() {
    let server = Server::start().await;
    let secret = create_key(&server, json!({"limit": 1000, "period": "day"})).await;
    let admin = server.admin();
    let send = async |cost: u32| {
        let body = json!({"key": secret, "cost": cost});
        admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await
    };
    assert_eq!(send(4).await.data()["code"], "VALID");
    assert_eq!(leased(&server.app, &secret).await, 10);
    let other = Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // While the lock is held, no lease can be written: each answer shows that its verification didn't wait for one.
    for remaining in (990..996).rev() {
        let answer = send(1).await;
        assert_eq!(answer.data()["limits"][0]["remaining"], remaining, "{answer:?}");
    }
    assert!(server.app.verifier.leases().is_busy());
    let refused = send(1).await;
    assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE"), "{refused:?}");
    other.execute_batch("COMMIT").unwrap();

    assert_eq!(send(1).await.data()["limits"][0]["remaining"], 989);
    assert_eq!(send(990).await.data()["code"], "QUOTA_EXCEEDED");
    let server = Server::start_in(server.stop().await, |_| ()).await;
    assert_eq!(leased(&server.app, &secret).await, 11, "a stop returns what is not used");
}

/// Creates organizations, first large and then small ones, until the storage limit is reached.
async fn fill_storage(server: &Server) {
    let large: serde_json::Map<_, _> = (0..50).map(|n| (n.to_string(), json!("v".repeat(500)))).collect();
    for metadata in [json!(large), json!({})] {
        let body = json!({"name": "n", "email": "a@b", "metadata": metadata});
        let mut refusals = 0;
        while refusals < 5 {
            match server.admin().post("/organizations", body.clone()).await.status {
                201 => {}
                507 => refusals += 1,
                status => panic!("{status}"),
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_spends_and_forfeits_no_units() {
    let server = Server::with(|config| {
        config.database.max_bytes = 3 << 20;
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    let secret = create_key(&server, json!({"limit": 1000, "period": "day"})).await;
    assert_eq!(charge(&server.app, &secret, 10).await, (Valid, 990));
    // The first lease of each of these keys needs space, which runs out.
    let mut others = Vec::new();
    for _ in 0..300 {
        let body = json!({"name": "n", "scopes": [], "limits": [{"limit": 10, "period": "hour"}]});
        others.push(server.key_with(body).await.1["key"].as_str().unwrap().to_owned());
    }
    fill_storage(&server).await;
    let mut refused = Vec::new();
    for secret in &others {
        match try_charge(&server.app, secret, 1).await {
            Ok(admitted) => assert_eq!(admitted, (Valid, 9)),
            Err(error) => {
                assert_eq!(error.code, Code::Unavailable, "{error}");
                refused.push(secret.clone());
            }
        }
    }
    assert!(!refused.is_empty(), "the storage was not full");
    let (dir, _) = server.try_stop().await;
    let server = Server::start_in(dir, |_| ()).await;
    assert_eq!(charge(&server.app, &secret, 1).await.1, 989);
    for secret in &refused {
        assert_eq!(charge(&server.app, secret, 10).await, (Valid, 0), "all units remain");
    }
}

#[tokio::test]
async fn a_changed_quota_counts_the_units_already_used() {
    let server = Server::start().await;
    let admin = server.admin();
    let secret = create_key(&server, json!({"limit": 100, "period": "day"})).await;
    assert_eq!(charge(&server.app, &secret, 60).await, (Valid, 40));
    for (quota, cost, expected) in [
        (json!({"limit": 50, "period": "day"}), 1, (QuotaExceeded, 0)),
        (json!({"limit": 200, "period": "day"}), 1, (Valid, 139)),
        (json!({"limit": 61, "period": "day"}), 1, (QuotaExceeded, 0)),
        (json!({"limit": 10, "period": "month"}), 4, (Valid, 6)),
        (json!({"limit": 100, "period": "day"}), 9, (Valid, 30)),
        (json!({"limit": 10, "period": "month"}), 4, (Valid, 2)),
        (Value::Null, 0, (Valid, 0)),
        (json!({"limit": 100, "period": "day"}), 30, (Valid, 0)),
    ] {
        let limits = if quota.is_null() { Value::Null } else { json!([quota]) };
        let patched = admin.patch("/api-keys/key_1", json!({ "limits": limits })).await;
        assert_eq!(patched.status, 200, "{patched:?}");
        if quota.is_null() {
            assert_eq!(credential(&server.app, &secret).await.key.limits, None);
        } else {
            assert_eq!(charge(&server.app, &secret, cost).await, expected, "{quota}");
        }
    }
    let rotated = admin.post("/api-keys/key_1/rotate", json!({})).await;
    let rotated = rotated.data()["key"].as_str().unwrap();
    assert_eq!(charge(&server.app, rotated, 1).await, (QuotaExceeded, 0), "the quota stays with the key");
}

#[tokio::test]
async fn each_period_has_its_own_units_across_restarts() {
    let mut server = Server::start().await;
    let secret = create_key(&server, json!({"limit": 300, "period": "hour"})).await;
    for hours in 0..4 {
        if hours % 2 == 1 {
            // A restarted server's clock begins at the same time as the first one's.
            server = Server::start_in(server.stop().await, |_| ()).await;
            server.advance(HOUR * hours);
        } else if hours > 0 {
            server.advance(HOUR);
        }
        assert_eq!(charge(&server.app, &secret, 200).await, (Valid, 100), "hour {hours}");
        let answer = verify(&server.admin(), json!({"key": secret, "dry_run": true})).await;
        let resets_at = format!("2026-11-23T{:02}:00:00.000Z", 8 + hours);
        assert_eq!(answer["limits"][0]["resets_at"], resets_at);
        assert_eq!(charge(&server.app, &secret, 101).await, (QuotaExceeded, 100));
    }
    // The clock is set back to the first hour, whose count is used again.
    server = Server::start_in(server.stop().await, |_| ()).await;
    assert_eq!(charge(&server.app, &secret, 101).await, (QuotaExceeded, 100));
    assert_eq!(charge(&server.app, &secret, 100).await, (Valid, 0));
}

#[tokio::test]
async fn housekeeping_returns_the_leases_of_idle_keys() {
    let server = Server::start().await;
    let secret = create_key(&server, json!({"limit": 1000, "period": "day"})).await;
    assert_eq!(charge(&server.app, &secret, 1).await, (Valid, 999));
    assert_eq!(leased(&server.app, &secret).await, 10);
    let app = server.app.clone();
    let housekeeping = tokio::spawn(async move { housekeeping::run(&app).await });
    let mut advances = 0;
    until("the key is idle", || {
        // At most ten hours, so that the day of the quota doesn't end.
        if advances < 1200 {
            advances += 1;
            server.advance(Duration::from_secs(30));
        }
        server.app.verifier.leases().is_empty()
    })
    .await;
    assert_eq!(leased(&server.app, &secret).await, 1);
    housekeeping.abort();
}
