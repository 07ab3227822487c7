//! Invariant 7 for the calls of keys about themselves: those of an organization are limited together.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Client, Server};

async fn read(client: &Client) -> Answer {
    client.send(client.request_at_root(Method::GET, "/v1/keys/self")).await
}

async fn post(client: &Client, action: &str, body: Value) -> Answer {
    client.send(client.request_at_root(Method::POST, &format!("/v1/keys/self/{action}")).json(&body)).await
}

#[tokio::test]
async fn i7_calls_of_an_organizations_keys_about_themselves_are_limited_together() {
    let server = Server::with(|config| config.rate_limits.organization_factor = 2).await;
    for id in ["org_1", "org_2"] {
        server.organization(id).await;
    }
    let rotating = json!({"organization_id": "org_1", "name": "n", "scopes": [], "self_rotation": true});
    let (old, _) = server.key_with(rotating).await;
    let rotated = post(&old, "rotate", json!({"grace_period_seconds": 3600})).await;
    let first = old.with_key(rotated.data()["key"].as_str().unwrap());
    let (second, _) = server.key(Some("org_1"), &[]).await;
    let (third, _) = server.key(Some("org_1"), &[]).await;
    let (other, _) = server.key(Some("org_2"), &[]).await;
    server.advance(Duration::from_secs(60));
    // The previous secret uses up nothing of the others' share.
    for _ in 0..60 {
        assert_eq!(read(&old).await.status, 200);
        assert_eq!(read(&first).await.status, 200);
    }
    // Refused requests count, too.
    let invalid = json!({"grace_period_seconds": -1});
    for _ in 0..60 {
        assert_eq!(post(&second, "rotate", invalid.clone()).await.status, 400);
    }
    let grace_period = json!({"grace_period_seconds": 0});
    let answers = [
        read(&third).await,
        post(&third, "rotate", invalid).await,
        post(&third, "rotate", grace_period).await,
        post(&third, "revoke", json!({})).await,
    ];
    for answer in answers {
        assert_eq!((answer.status, answer.code()), (429, "RATE_LIMITED"), "{answer:?}");
        assert!(answer.text.contains("the keys of this organization"), "{answer:?}");
        let policies = "\"self\";q=60;w=60, \"self-organization\";q=120;w=60";
        assert_eq!(answer.header("ratelimit-policy"), Some(policies));
        assert_eq!(answer.header("ratelimit"), Some("\"self\";r=60;t=0, \"self-organization\";r=0;t=1"));
    }
    for unaffected in [&other, &server.own_key().await] {
        assert_eq!(read(unaffected).await.status, 200);
    }
    // Without a limit of organizations, each key has its own.
    let answer = server.configure(json!({"rate_limits": {"organization_factor": 0}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = read(&third).await;
    assert_eq!(answer.header("ratelimit-policy"), Some("\"self\";q=60;w=60"));
    assert_eq!(answer.status, 200, "{answer:?}");
}
