//! Invariant 8 and the contract's promise on quotas, over the real file: never exceeded, whatever ends the
//! process; nothing forfeited by a stop, and one lease at most by a crash.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::app::App;
use tollhouse::domain::api_key::Credential;
use tollhouse::domain::quota::QuotaStatus;
use tollhouse::error::{Code, Result};
use tollhouse::service::housekeeping;
use tollhouse::store;
use tollhouse::verify::quota::Spending::{self, Done, Exceeded};
use tollhouse::verify::secret::Secret;

use super::until;
use crate::support::{Client, Server};

const HOUR: Duration = Duration::from_secs(3600);

/// A key with a quota: its secret.
async fn key(server: &Server, quota: Value) -> String {
    let body = json!({"id": "key_1", "name": "n", "scopes": [], "quota": quota});
    server.key_with(body).await.1["key"].as_str().unwrap().to_owned()
}

async fn credential(app: &App, secret: &str) -> Arc<Credential> {
    app.keys.get(&Secret::from_outside(secret.to_owned()).hash()).await.unwrap().unwrap()
}

/// What a verification does with the quota, with the key as it is now.
async fn take(app: &App, secret: &str, cost: u32) -> Result<(Spending, QuotaStatus)> {
    let found = credential(app, secret).await;
    app.verifier.quotas().take(found.seq, found.key.quota.unwrap(), cost, app.clock.now(), || true).await
}

async fn took(app: &App, secret: &str, cost: u32) -> (Spending, u64) {
    let (spending, standing) = take(app, secret, cost).await.unwrap();
    (spending, standing.remaining)
}

/// What the file says is leased of the key's quota.
async fn leased(app: &App, secret: &str) -> u64 {
    let found = credential(app, secret).await;
    let period = found.key.quota.unwrap().period;
    let row = app.db.read(move |tx| store::quotas::get(tx, found.seq, period)).await.unwrap();
    row.map_or(0, |lease| lease.units)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_are_admitted_exactly_as_often_as_there_are_units() {
    for limit in [1, 7, 100, 1000] {
        let server = Server::start().await;
        let secret = key(&server, json!({"limit": limit, "period": "day"})).await;
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let (app, secret) = (server.app.clone(), secret.clone());
                tokio::spawn(async move {
                    let mut done = 0;
                    for _ in 0..20 {
                        done += u32::from(took(&app, &secret, 1).await.0 == Done);
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for caller in callers {
            done += caller.await.unwrap();
        }
        assert_eq!(done, limit);
        // A whole lease for each write, and nobody else's in between.
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
        "rate_limit": {"limit": 10, "window_seconds": 86_400}, "quota": {"limit": 25, "period": "month"}});
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
        let left = (&answer["rate_limit"]["remaining"], &answer["quota"]);
        let quota = json!({"limit": 25, "remaining": units, "resets_at": "2026-12-01T00:00:00.000Z"});
        assert_eq!(left, (&json!(tokens), &quota), "{body}");
    }
}

/// The bucket and the quota, each asked by 64 callers at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_concurrent_calls_get_what_both_allow() {
    for (tokens, units) in [(300, 200), (200, 300)] {
        let server = Server::start().await;
        let body = json!({"name": "n", "scopes": [],
            "rate_limit": {"limit": tokens, "window_seconds": 1}, "quota": {"limit": units, "period": "day"}});
        let secret = server.key_with(body).await.1["key"].clone();
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let (client, body) = (server.admin(), json!({"key": secret, "cost": 2}));
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
        let left = ["rate_limit", "quota"].map(|which| after[which]["remaining"].as_u64().unwrap());
        assert_eq!(left, [tokens - 200, units - 200], "the one that did not refuse has lost nothing");
    }
}

#[tokio::test]
async fn a_stop_forfeits_nothing() {
    let mut server = Server::start().await;
    let secret = key(&server, json!({"limit": 10_000, "period": "month"})).await;
    let mut left = 10_000;
    for cost in [1, 99, 100, 250] {
        left -= u64::from(cost);
        assert_eq!(took(&server.app, &secret, cost).await, (Done, left));
        assert!(leased(&server.app, &secret).await >= 10_000 - left, "durable before it is answered");
        server = Server::over(server.stop().await, |_| ()).await;
        assert_eq!(leased(&server.app, &secret).await, 10_000 - left);
    }
}

/// A second process over the same file knows no more than one after SIGKILL: what is committed.
#[tokio::test]
async fn crashes_exceed_nothing_and_forfeit_a_lease_each() {
    for (limit, costs) in [(1, 1..=1), (50, 1..=3), (1000, 1..=3), (1000, 1..=40), (100_000, 1..=500)] {
        let server = Server::start().await;
        let secret = key(&server, json!({"limit": limit, "period": "day"})).await;
        let largest_lease = (limit / 100).max(*costs.end());
        let (mut spent, mut crashes, mut app) = (0, 0, server.app.clone());
        let mut random = fastrand::Rng::with_seed(limit.into());
        loop {
            let cost = random.u32(costs.clone());
            let (spending, left) = took(&app, &secret, cost).await;
            if spending == Exceeded {
                assert!(left < cost.into());
                break;
            }
            spent += cost;
            assert!(spent <= limit, "exceeded");
            let forfeited = u64::from(limit - spent) - left;
            assert!(forfeited <= u64::from(crashes * largest_lease), "{forfeited} after {crashes}");
            if random.u8(..4) == 0 && crashes < 20 {
                crashes += 1;
                app = App::open(server.app.config.clone(), server.clock.clone()).await.unwrap();
            }
        }
    }
}

/// Stores things, large ones and then small ones, until there is no room.
async fn fill(server: &Server) {
    let pairs: serde_json::Map<_, _> = (0..50).map(|n| (n.to_string(), json!("v".repeat(500)))).collect();
    for metadata in [json!(pairs), json!({})] {
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
async fn a_full_disk_spends_nothing_and_forfeits_nothing() {
    let server = Server::with(|config| {
        config.database.max_bytes = 3 << 20;
        config.rate_limits.admin_per_minute = 0;
    })
    .await;
    let secret = key(&server, json!({"limit": 1000, "period": "day"})).await;
    assert_eq!(took(&server.app, &secret, 10).await, (Done, 990));
    // Their first leases need new pages, and there will be none.
    let mut others = Vec::new();
    for _ in 0..300 {
        let body = json!({"name": "n", "scopes": [], "quota": {"limit": 10, "period": "hour"}});
        others.push(server.key_with(body).await.1["key"].as_str().unwrap().to_owned());
    }
    fill(&server).await;
    let mut refused = Vec::new();
    for secret in &others {
        match take(&server.app, secret, 1).await {
            Ok((spending, standing)) => assert_eq!((spending, standing.remaining), (Done, 9)),
            Err(error) => {
                assert_eq!(error.code, Code::StorageFull, "{error}");
                refused.push(secret.clone());
            }
        }
    }
    assert!(!refused.is_empty(), "there was room for all of them");
    let (dir, _) = server.try_stop().await;
    let server = Server::over(dir, |_| ()).await;
    assert_eq!(took(&server.app, &secret, 1).await.1, 989);
    for secret in &refused {
        assert_eq!(took(&server.app, secret, 10).await, (Done, 0), "all of it is there");
    }
}

#[tokio::test]
async fn a_changed_quota_counts_what_was_used() {
    let server = Server::start().await;
    let admin = server.admin();
    let secret = key(&server, json!({"limit": 100, "period": "day"})).await;
    assert_eq!(took(&server.app, &secret, 60).await, (Done, 40));
    for (quota, cost, expected) in [
        (json!({"limit": 50, "period": "day"}), 1, (Exceeded, 0)),
        (json!({"limit": 200, "period": "day"}), 1, (Done, 139)),
        (json!({"limit": 61, "period": "day"}), 1, (Exceeded, 0)),
        (json!({"limit": 10, "period": "month"}), 4, (Done, 6)),
        (json!({"limit": 100, "period": "day"}), 9, (Done, 30)),
        (json!({"limit": 10, "period": "month"}), 4, (Done, 2)),
        (Value::Null, 0, (Done, 0)),
        (json!({"limit": 100, "period": "day"}), 30, (Done, 0)),
    ] {
        let patched = admin.patch("/api-keys/key_1", json!({"quota": quota})).await;
        assert_eq!(patched.status, 200, "{patched:?}");
        if quota.is_null() {
            assert_eq!(credential(&server.app, &secret).await.key.quota, None);
        } else {
            assert_eq!(took(&server.app, &secret, cost).await, expected, "{quota}");
        }
    }
    let rotated = admin.post("/api-keys/key_1/rotate", json!({})).await;
    let rotated = rotated.data()["key"].as_str().unwrap();
    assert_eq!(took(&server.app, rotated, 1).await, (Exceeded, 0), "the quota stays with the key");
}

#[tokio::test]
async fn each_period_has_its_own_units_also_after_a_restart() {
    let mut server = Server::start().await;
    let secret = key(&server, json!({"limit": 300, "period": "hour"})).await;
    for hours in 0..4 {
        if hours % 2 == 1 {
            // Begins at the same time as the first.
            server = Server::over(server.stop().await, |_| ()).await;
            server.advance(HOUR * hours);
        } else if hours > 0 {
            server.advance(HOUR);
        }
        let (spending, standing) = take(&server.app, &secret, 200).await.unwrap();
        assert_eq!((spending, standing.remaining), (Done, 100), "hour {hours}");
        assert_eq!(standing.resets_at.to_string(), format!("2026-11-23T{:02}:00:00.000Z", 8 + hours));
        assert_eq!(took(&server.app, &secret, 101).await, (Exceeded, 100));
    }
    // The clock is back at the first hour: what was counted last still is.
    server = Server::over(server.stop().await, |_| ()).await;
    assert_eq!(took(&server.app, &secret, 101).await, (Exceeded, 100));
    assert_eq!(took(&server.app, &secret, 100).await, (Done, 0));
}

#[tokio::test]
async fn housekeeping_gives_back_what_idle_keys_hold() {
    let server = Server::start().await;
    let secret = key(&server, json!({"limit": 1000, "period": "day"})).await;
    assert_eq!(took(&server.app, &secret, 1).await, (Done, 999));
    assert_eq!(leased(&server.app, &secret).await, 10);
    let app = server.app.clone();
    let keeping = tokio::spawn(async move { housekeeping::run(&app).await });
    until("the key is idle", || {
        server.advance(Duration::from_secs(30));
        server.app.verifier.quotas().is_empty()
    })
    .await;
    assert_eq!(leased(&server.app, &secret).await, 1);
    keeping.abort();
}
