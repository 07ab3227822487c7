//! A wrong clock revives no key and no previous secret, and extends no grace period.

use reqwest::Method;
use serde_json::json;
use tollhouse::domain::time::Timestamp;
use tollhouse::service::clock;

use super::{DAY, HOUR, MINUTE, YEAR_2038, code, reasons, tick};
use crate::support::{NOW, Server};

/// Every way in which a key or secret is checked, for one that has ended.
async fn assert_ended(server: &Server, id: &str, secret: &str) {
    let admin = server.admin();
    assert_eq!(code(server, secret).await, "EXPIRED");
    let introspect = admin.request_at_root(Method::POST, "/v1/introspect").form(&[("token", secret)]);
    assert_eq!(admin.send(introspect).await.json, json!({"active": false}));
    let own = server.client(Some(secret));
    assert_eq!(own.send(own.request_at_root(Method::GET, "/v1/forward-auth")).await.status, 401);
    assert_eq!(own.get("/whoami").await.status, 401);
    let verify = own.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": secret}));
    assert_eq!(own.send(verify).await.status, 401);
    if !id.is_empty() {
        assert_eq!(admin.get(&format!("/api-keys/{id}")).await.data()["status"], "expired");
        let listed = admin.get("/api-keys?status=expired").await.data().clone();
        assert!(listed.as_array().unwrap().iter().any(|key| key["id"] == id), "{listed}");
        assert_eq!(admin.post(&format!("/api-keys/{id}/rotate"), json!({})).await.status, 409);
    }
}

#[tokio::test]
async fn i14_a_clock_that_goes_back_revives_no_key_and_no_previous_secret() {
    for (back, settled) in [(2 * MINUTE, true), (HOUR, false), (DAY, false)] {
        let server = Server::start().await;
        let expires_at = Timestamp::from_millis(NOW) + MINUTE;
        let body = json!({"name": "k", "scopes": ["keys:verify"], "expires_at": expires_at.to_string()});
        let (expired, key) = server.key_with(body).await;
        let expired = expired.key.unwrap();
        let (rotated, rotated_key) = server.key(None, &["keys:verify"]).await;
        let path = format!("/api-keys/{}/rotate", rotated_key["id"].as_str().unwrap());
        assert_eq!(server.admin().post(&path, json!({"grace_period_seconds": 60})).await.status, 200);
        let previous = rotated.key.unwrap();
        let id = key["id"].as_str().unwrap();
        assert_eq!(
            (code(&server, &expired).await, code(&server, &previous).await),
            ("VALID".into(), "VALID".into())
        );

        server.advance(2 * MINUTE);
        tick(&server).await;
        clock::store_settled_time(&server.app).await.unwrap();
        let wall = NOW + 120_000 - i64::try_from(back.as_millis()).unwrap();
        server.clock.set(Timestamp::from_millis(wall));
        for checked in [false, true] {
            assert_ended(&server, id, &expired).await;
            assert_ended(&server, "", &previous).await;
            if !checked {
                tick(&server).await;
                assert_eq!(
                    reasons(&server.admin()).await.as_array().unwrap().is_empty(),
                    settled,
                    "{back:?}"
                );
            }
        }
        let server = Server::start_at(server.stop().await, wall, |_| ()).await;
        assert_ended(&server, id, &expired).await;
        assert_ended(&server, "", &previous).await;
    }
}

/// A rotation while the clock is wrong doesn't keep the previous secret for years.
#[tokio::test]
async fn i14_a_grace_period_is_as_long_as_requested_when_the_clock_is_right_again() {
    let server = Server::start().await;
    let (client, key) = server.key(None, &["keys:verify"]).await;
    let previous = client.key.unwrap();
    server.clock.set(Timestamp::from_millis(YEAR_2038));
    let path = format!("/api-keys/{}/rotate", key["id"].as_str().unwrap());
    assert_eq!(server.admin().post(&path, json!({"grace_period_seconds": 60})).await.status, 200);
    server.clock.set(Timestamp::from_millis(NOW));
    assert_eq!(code(&server, &previous).await, "VALID");
    server.advance(MINUTE);
    assert_eq!(code(&server, &previous).await, "EXPIRED");
}
