//! Invariants 7, 8 and 17 for the limits that the keys of an organization share: together the keys are admitted exactly
//! up to them, and a refusal by one limit charges none.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Server};

/// Verifies a key; returns `data`.
async fn verify(client: &Client, body: Value) -> Value {
    let answer = client.send(client.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.data().clone()
}

async fn set_limits(server: &Server, path: &str, limits: Value) {
    let answer = server.admin().patch(path, json!({ "limits": limits })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Creates keys of an organization with these limits; returns their secrets.
async fn create_keys(server: &Server, organization: &str, limits: &Value, count: usize) -> Vec<String> {
    let mut secrets = Vec::new();
    for _ in 0..count {
        let body = json!({"organization_id": organization, "name": "n", "scopes": [], "limits": limits});
        secrets.push(server.key_with(body).await.0.key.unwrap());
    }
    secrets
}

/// 64 concurrent callers verify the keys, each as often as `calls`; returns the number of admitted calls by key.
async fn admitted(server: &Server, secrets: &[String], calls: usize) -> Vec<usize> {
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let client = server.admin();
            let secrets = secrets.to_vec();
            tokio::spawn(async move {
                let mut admitted = vec![0; secrets.len()];
                for call in 0..calls {
                    let key = (caller + call) % secrets.len();
                    let data = verify(&client, json!({"key": secrets[key]})).await;
                    admitted[key] += usize::from(data["valid"] == true);
                }
                admitted
            })
        })
        .collect();
    let mut total = vec![0; secrets.len()];
    for caller in callers {
        for (sum, admitted) in total.iter_mut().zip(caller.await.unwrap()) {
            *sum += admitted;
        }
    }
    total
}

/// Number of units left of the limits that a dry run answers, the key's first.
async fn remaining(server: &Server, secret: &str) -> Vec<u64> {
    let data = verify(&server.admin(), json!({"key": secret, "cost": 0, "dry_run": true})).await;
    let limits = data["limits"].as_array().unwrap().iter();
    limits.map(|limit| limit["remaining"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_keys_on_the_plan_have_a_limit_each_and_one_together() {
    let server = Server::start().await;
    server.organization("org_1").await;
    // Two keys have 100 each, less than the 1000 of the organization.
    let two = create_keys(&server, "org_1", &Value::Null, 2).await;
    assert_eq!(admitted(&server, &two, 6).await, [100, 100]);
    assert_eq!(remaining(&server, &two[0]).await, [0, 800]);
    // Ten more keys have 1000 on their own, but only the 800 that are left of the organization's limit.
    let ten = create_keys(&server, "org_1", &Value::Null, 10).await;
    let of_keys = admitted(&server, &ten, 20).await;
    assert_eq!(of_keys.iter().sum::<usize>(), 800, "{of_keys:?}");
    assert!(of_keys.iter().all(|admitted| *admitted <= 100), "{of_keys:?}");
    for (secret, admitted) in ten.iter().zip(of_keys) {
        let left = u64::try_from(100 - admitted).unwrap();
        assert_eq!(
            remaining(&server, secret).await,
            [left, 0],
            "what the organization refused cost the key nothing"
        );
    }
    // A paced client gets the organization's share: 1000 a minute.
    let unlimited = create_keys(&server, "org_1", &json!([]), 1).await.remove(0);
    for _ in 0..50 {
        server.advance(Duration::from_millis(60));
        assert_eq!(verify(&server.admin(), json!({"key": unlimited})).await["code"], "VALID");
        assert_eq!(verify(&server.admin(), json!({"key": unlimited})).await["code"], "RATE_LIMITED");
    }
    // Another organization and platform keys have nothing to do with it.
    server.organization("org_2").await;
    let other = create_keys(&server, "org_2", &Value::Null, 1).await.remove(0);
    assert_eq!(verify(&server.admin(), json!({"key": other})).await["limits"][1]["remaining"], 999);
    let (platform, _) = server.key(None, &[]).await;
    assert_eq!(verify(&server.admin(), json!({"key": platform.key})).await["limits"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_two_keys_share_their_organizations_own_limit() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let secrets = create_keys(&server, "org_1", &Value::Null, 2).await;
    for limit in [json!({"limit": 150, "window_seconds": 3600}), json!({"limit": 130, "period": "month"})] {
        set_limits(&server, "/organizations/org_1", json!([limit])).await;
        let of_keys = admitted(&server, &secrets, 6).await;
        assert_eq!(json!(of_keys.iter().sum::<usize>()), limit["limit"], "{of_keys:?}");
        assert!(of_keys.iter().all(|admitted| *admitted <= 100), "{of_keys:?}");
        server.advance(Duration::from_secs(60));
    }
    set_limits(&server, "/organizations/org_1", json!([])).await;
    assert_eq!(admitted(&server, &secrets, 6).await, [100, 100]);
}

/// One key is called as often as 64 callers can, another one at the rate of its limit. Both limits together are that of
/// the organization, so there is no unit to spare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_paced_client_gets_its_share_beside_a_hot_one() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let minute = |limit: u32| json!([{"limit": limit, "window_seconds": 60}]);
    set_limits(&server, "/organizations/org_1", minute(1000)).await;
    let hot = create_keys(&server, "org_1", &minute(600), 1).await.remove(0);
    let paced = create_keys(&server, "org_1", &minute(400), 1).await.remove(0);
    let client = server.admin();
    for (secret, burst) in [(&hot, 600), (&paced, 400)] {
        let spent = verify(&client, json!({"key": secret, "cost": burst})).await;
        assert_eq!(spent["code"], "VALID", "{spent}");
    }
    let mut hot_units = 0;
    for step in 0..20 {
        server.advance(Duration::from_millis(150));
        let call = |secret: &str| {
            let client = client.clone();
            let body = json!({ "key": secret });
            tokio::spawn(async move { verify(&client, body).await["valid"] == true })
        };
        let hot_calls: Vec<_> = (0..64).map(|_| call(&hot)).collect();
        assert!(call(&paced).await.unwrap(), "the paced client is refused in step {step}");
        assert!(!call(&paced).await.unwrap(), "the paced client gets more than its share in step {step}");
        for admitted in hot_calls {
            hot_units += u32::from(admitted.await.unwrap());
        }
    }
    assert_eq!(hot_units, 30, "the hot client gets its share, too");
    assert_eq!(remaining(&server, &hot).await, [0, 0]);
}

#[tokio::test]
async fn i8_a_refusal_by_one_of_the_two_charges_neither() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let meters = server.configure(json!({"meters": ["requests", "tokens"]})).await;
    assert_eq!(meters.status, 200, "{meters:?}");
    let tokens = |limit: u32| json!({"meter": "tokens", "limit": limit, "period": "day"});
    set_limits(
        &server,
        "/organizations/org_1",
        json!([{"limit": 10, "window_seconds": 86_400}, tokens(100)]),
    )
    .await;
    let limits = json!([{"limit": 6, "window_seconds": 86_400}, tokens(70)]);
    let secrets = create_keys(&server, "org_1", &limits, 2).await;
    for (key, costs, code, on, left) in [
        (0, json!({"requests": 4, "tokens": 60}), "VALID", Value::Null, [2, 10, 6, 40]),
        // The key refuses, the organization would not.
        (0, json!({"requests": 3}), "RATE_LIMITED", json!("key"), [2, 10, 6, 40]),
        (0, json!({"requests": 0, "tokens": 11}), "QUOTA_EXCEEDED", json!("key"), [2, 10, 6, 40]),
        // The organization refuses, the key would not.
        (1, json!({"requests": 0, "tokens": 41}), "QUOTA_EXCEEDED", json!("organization"), [6, 70, 6, 40]),
        (1, json!({"requests": 5, "tokens": 1}), "VALID", Value::Null, [1, 69, 1, 39]),
        (0, json!({"requests": 2}), "RATE_LIMITED", json!("organization"), [2, 10, 1, 39]),
        // One limit refuses on one meter, and the other meter is not charged.
        (1, json!({"requests": 2, "tokens": 5}), "RATE_LIMITED", json!("key"), [1, 69, 1, 39]),
        (1, json!({"requests": 1, "tokens": 40}), "QUOTA_EXCEEDED", json!("organization"), [1, 69, 1, 39]),
        (1, json!({"requests": 1, "tokens": 39}), "VALID", Value::Null, [0, 30, 0, 0]),
        (0, json!({"requests": 0, "tokens": 0}), "VALID", Value::Null, [2, 10, 0, 0]),
    ] {
        for dry_run in [true, false] {
            let body = json!({"key": secrets[key], "costs": costs, "dry_run": dry_run});
            let data = verify(&server.admin(), body).await;
            assert_eq!((&data["code"], &data["limited_by"]["on"]), (&json!(code), &on), "{costs} {data}");
        }
        assert_eq!(remaining(&server, &secrets[key]).await, left, "{costs}");
    }
}

/// The units of an organization's quota are leased durably, as those of a key are.
#[tokio::test]
async fn an_organizations_quota_is_counted_across_restarts_and_changes() {
    let mut server = Server::start().await;
    server.organization("org_1").await;
    let month = |limit: u32| json!([{"limit": limit, "period": "month"}]);
    set_limits(&server, "/organizations/org_1", month(1000)).await;
    let secrets = create_keys(&server, "org_1", &json!([]), 2).await;
    let mut left = 1000;
    for (key, cost) in [(0, 1), (1, 99), (0, 250), (1, 150)] {
        left -= cost;
        let data = verify(&server.admin(), json!({"key": secrets[key], "cost": cost})).await;
        assert_eq!(
            (&data["code"], &data["limits"][0]["remaining"]),
            (&json!("VALID"), &json!(left)),
            "{data}"
        );
        server = Server::start_in(server.stop().await, |_| ()).await;
        for secret in &secrets {
            assert_eq!(remaining(&server, secret).await, [left], "a graceful stop forfeits nothing");
        }
    }
    for (limits, expected) in [
        (month(600), vec![100]),
        (json!([]), vec![]),
        (json!([{"limit": 1000, "period": "week"}]), vec![1000]),
        (Value::Null, vec![1000]),
        (month(400), vec![0]),
        (month(501), vec![1]),
    ] {
        set_limits(&server, "/organizations/org_1", limits.clone()).await;
        assert_eq!(remaining(&server, &secrets[0]).await, expected, "{limits}");
    }
    // A key that is created later shares it, and a revoked key's units stay spent.
    let id = server.credential(&secrets[1]).await.key.id.clone();
    assert_eq!(server.admin().delete(&format!("/api-keys/{id}")).await.status, 200);
    let later = create_keys(&server, "org_1", &json!([]), 1).await.remove(0);
    assert_eq!(verify(&server.admin(), json!({"key": later})).await["code"], "VALID");
    assert_eq!(verify(&server.admin(), json!({"key": secrets[0]})).await["code"], "QUOTA_EXCEEDED");
}

/// An organization that moves to another plan takes what its keys have spent with it.
#[tokio::test]
async fn i7_moving_to_another_plan_refills_nothing() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let secrets = create_keys(&server, "org_1", &Value::Null, 1).await;
    let secret = &secrets[0];
    let move_to = async |plan: &str| {
        let moved = server.admin().patch("/organizations/org_1", json!({"plan": plan})).await;
        assert_eq!(moved.status, 200, "{moved:?}");
    };
    assert_eq!(verify(&server.admin(), json!({"key": secret, "cost": 100})).await["code"], "VALID");
    for (plan, left) in [("enterprise", [900, 9900]), ("standard", [0, 900]), ("enterprise", [900, 9900])] {
        move_to(plan).await;
        assert_eq!(remaining(&server, secret).await, left, "{plan}");
    }
    assert_eq!(verify(&server.admin(), json!({"key": secret, "cost": 900})).await["code"], "VALID");
    for _ in 0..3 {
        move_to("standard").await;
        assert_eq!(verify(&server.admin(), json!({"key": secret})).await["code"], "RATE_LIMITED");
        assert_eq!(remaining(&server, secret).await, [0, 0]);
        move_to("enterprise").await;
        assert_eq!(verify(&server.admin(), json!({"key": secret})).await["code"], "RATE_LIMITED");
        assert_eq!(remaining(&server, secret).await, [0, 9000]);
    }
}
