//! `GET /analytics/overview`

use serde_json::{Value, json};
use tollhouse::domain::verification::Outcome::*;

use super::super::expect_ok;
use super::{DAY, HOUR, expected_groups, flush, groups, key};
use crate::support::{Client, Server};

async fn overview(client: &Client) -> Value {
    expect_ok(client.get("/analytics/overview").await, 200)
}

#[tokio::test]
async fn the_overview_covers_the_last_24_hours() {
    let server = Server::start().await;
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    let key_2 = key(&server, Some("org_2"), "key_2").await;
    key_1.count(&server, Valid, 100);
    server.advance(HOUR);
    key_2.count(&server, Valid, 20);
    server.advance(DAY);
    key_1.count(&server, Valid, 3);
    key_1.count(&server, QuotaExceeded, 2);
    flush(&server).await;
    let data = overview(&server.admin()).await;
    let expected = json!({"requests": 25, "allowed": 23, "denied": 2, "rate_limited": 0, "quota_exceeded": 2, "cost": 23});
    assert_eq!(data["last_24h"], expected);
    assert_eq!(groups(&data, "busiest_organizations"), expected_groups(&[("org_2", 20), ("org_1", 5)]));
    assert_eq!(groups(&data, "busiest_keys"), expected_groups(&[("key_2", 20), ("key_1", 5)]));

    let (client, _) = server.key(Some("org_1"), &["admin:analytics"]).await;
    let org_overview = overview(&client).await;
    assert_eq!(
        (&org_overview["last_24h"]["requests"], &org_overview["organizations"]),
        (&json!(5), &json!(1))
    );
    assert_eq!(groups(&org_overview, "busiest_organizations"), expected_groups(&[("org_1", 5)]));
    assert_eq!(groups(&org_overview, "busiest_keys"), expected_groups(&[("key_1", 5)]));
}

/// Triggers maintain the counts. After each kind of change they equal the numbers of listed resources.
#[tokio::test]
async fn the_overview_counts_resources() {
    let server = Server::start().await;
    let admin = server.admin();
    let counted = async |client: &Client| {
        let data = overview(client).await;
        let keys = ["active", "disabled", "expired", "revoked"]
            .map(|status| data["api_keys"][status].as_u64().unwrap());
        (data["organizations"].as_u64().unwrap(), data["users"].as_u64().unwrap(), keys)
    };
    assert_eq!(counted(&admin).await, (0, 0, [1, 0, 0, 0]));
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    for user in ["user_1", "user_2", "user_3"] {
        server.user(user).await;
    }
    for (organization, user) in [("org_1", "user_1"), ("org_1", "user_2"), ("org_2", "user_2")] {
        let member = json!({"user_id": user, "role": "member"});
        expect_ok(admin.post(&format!("/organizations/{organization}/members"), member).await, 201);
    }
    let (org_client, _) = server.key(Some("org_1"), &["admin:analytics"]).await;
    for id in ["key_1", "key_2", "key_3"] {
        key(&server, Some("org_1"), id).await;
    }
    server
        .key_with(json!({"organization_id": "org_1", "user_id": "user_1", "name": "n", "scopes": []}))
        .await;
    key(&server, Some("org_2"), "key_4").await;
    // The ID is taken, so nothing is created or counted.
    let taken = json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": []});
    assert_eq!(admin.post("/api-keys", taken).await.status, 409);
    assert_eq!(counted(&admin).await, (2, 3, [7, 0, 0, 0]));
    assert_eq!(counted(&org_client).await, (1, 2, [5, 0, 0, 0]));

    expect_ok(admin.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200);
    expect_ok(admin.patch("/api-keys/key_1", json!({"name": "still disabled"})).await, 200);
    expect_ok(admin.patch("/api-keys/key_2", json!({"expires_at": "2026-11-23T08:00:00Z"})).await, 200);
    expect_ok(admin.delete("/api-keys/key_3").await, 200);
    expect_ok(admin.delete("/api-keys/key_3").await, 200);
    assert_eq!(counted(&org_client).await, (1, 2, [3, 1, 0, 1]));
    server.advance(HOUR);
    assert_eq!(counted(&org_client).await, (1, 2, [2, 1, 1, 1]));
    assert_eq!(counted(&admin).await, (2, 3, [4, 1, 1, 1]));
    expect_ok(admin.patch("/api-keys/key_2", json!({"expires_at": null})).await, 200);
    expect_ok(admin.delete("/users/user_1").await, 200);
    assert_eq!(counted(&org_client).await, (1, 1, [2, 1, 0, 2]));
    expect_ok(admin.delete("/organizations/org_2").await, 200);
    assert_eq!(counted(&admin).await, (1, 2, [3, 1, 0, 3]));
    expect_ok(admin.delete("/organizations/org_1/members/user_2").await, 200);
    assert_eq!(counted(&org_client).await, (1, 0, [2, 1, 0, 2]));
}
