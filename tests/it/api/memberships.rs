//! `/admin/v1/organizations/{id}/members`

use std::time::Duration;

use serde_json::json;

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::Server;

const MEMBERS: &str = "/organizations/org_1/members";

/// Starts a server with `org_1`, `org_2` and these users.
async fn start(users: &[&str]) -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.organization("org_2").await;
    for user in users {
        server.user(user).await;
    }
    server
}

#[tokio::test]
async fn members_are_added_read_changed_and_removed() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    let user = expect_ok(admin.get("/users/user_1").await, 200);
    let added = admin.post(MEMBERS, json!({"user_id": "user_1", "role": "admin"})).await;
    let read = admin.get(&format!("{MEMBERS}/user_1")).await;
    assert_eq!((read.status, read.header("etag")), (200, added.header("etag")));
    assert_eq!(read.data(), added.data());
    let at = "2026-11-23T07:08:09.000Z";
    assert_eq!(
        expect_ok(added, 201),
        json!({"organization_id": "org_1", "user_id": "user_1", "role": "admin", "user": user,
            "created_at": at, "updated_at": at})
    );
    expect_error(
        &admin.post(MEMBERS, json!({"user_id": "user_1", "role": "owner"})).await,
        409,
        "ALREADY_EXISTS",
    );
    for role in ["owner", "member", "viewer"] {
        // Adds another owner, so that this one can lose the role.
        let changed = expect_ok(admin.patch(&format!("{MEMBERS}/user_1"), json!({"role": role})).await, 200);
        assert_eq!(changed["role"], role);
        if role == "owner" {
            server.user("user_2").await;
            expect_ok(admin.post(MEMBERS, json!({"user_id": "user_2", "role": "owner"})).await, 201);
        }
    }
    let listed = expect_ok(admin.get(MEMBERS).await, 200);
    assert_eq!(column(&listed, "user_id"), ["user_2", "user_1"]);
    assert_eq!(listed[1]["user"], user);
    assert_eq!(
        column(&expect_ok(admin.get(&format!("{MEMBERS}?role=viewer")).await, 200), "user_id"),
        ["user_1"]
    );
    let removed = expect_ok(admin.delete(&format!("{MEMBERS}/user_1")).await, 200);
    assert_eq!(removed, json!({"organization_id": "org_1", "user_id": "user_1", "deleted": true}));
    for answer in [
        admin.get(&format!("{MEMBERS}/user_1")).await,
        admin.patch(&format!("{MEMBERS}/user_1"), json!({"role": "owner"})).await,
        admin.delete(&format!("{MEMBERS}/user_1")).await,
    ] {
        expect_error(&answer, 404, "NOT_FOUND");
    }
    assert_eq!(expect_ok(admin.get("/users/user_1").await, 200), user, "the user is not deleted");
}

#[tokio::test]
async fn invalid_and_unknown_values_are_refused() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    expect_invalid(&admin.post(MEMBERS, json!({})).await, &[("/user_id", "REQUIRED"), ("/role", "REQUIRED")]);
    let invalid = json!({"user_id": 1, "role": "king", "organization_id": "org_2", "since": "now"});
    expect_invalid(
        &admin.post(MEMBERS, invalid).await,
        &[
            ("/user_id", "INVALID_TYPE"),
            ("/role", "INVALID_VALUE"),
            ("/organization_id", "READ_ONLY"),
            ("/since", "UNKNOWN_FIELD"),
        ],
    );
    let member = |id: &str| json!({"user_id": id, "role": "member"});
    expect_error(&admin.post(MEMBERS, member("user_none")).await, 404, "NOT_FOUND");
    expect_error(&admin.post("/organizations/org_none/members", member("user_1")).await, 404, "NOT_FOUND");
    expect_error(&admin.get("/organizations/org_none/members").await, 404, "NOT_FOUND");
    expect_ok(admin.post(MEMBERS, member("user_1")).await, 201);
    expect_error(&admin.get("/organizations/org_2/members/user_1").await, 404, "NOT_FOUND");
    let moved = admin.patch(&format!("{MEMBERS}/user_1"), json!({"user_id": "user_2", "role": null})).await;
    expect_invalid(&moved, &[("/user_id", "READ_ONLY"), ("/role", "NOT_NULLABLE")]);
    expect_invalid(&admin.get(&format!("{MEMBERS}?role=king")).await, &[("role", "INVALID_VALUE")]);
}

/// A new organization may have no owner, but one that has an owner keeps at least one.
#[tokio::test]
async fn the_last_owner_cannot_be_removed() {
    let server = start(&["user_1", "user_2"]).await;
    let admin = server.admin();
    let path_1 = format!("{MEMBERS}/user_1");
    let path_2 = format!("{MEMBERS}/user_2");
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_1", "role": "owner"})).await, 201);
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_2", "role": "member"})).await, 201);
    // An owner of another organization does not count.
    expect_ok(
        admin.post("/organizations/org_2/members", json!({"user_id": "user_2", "role": "owner"})).await,
        201,
    );
    let (org_client, _) = server.key(Some("org_1"), &["admin:users"]).await;
    for client in [&admin, &org_client] {
        for role in ["admin", "member", "viewer"] {
            expect_error(&client.patch(&path_1, json!({"role": role})).await, 409, "CONFLICT");
        }
        expect_error(&client.delete(&path_1).await, 409, "CONFLICT");
        expect_ok(client.patch(&path_1, json!({"role": "owner"})).await, 200);
    }
    expect_ok(admin.patch(&path_2, json!({"role": "owner"})).await, 200);
    expect_ok(admin.patch(&path_1, json!({"role": "member"})).await, 200);
    expect_error(&admin.delete(&path_2).await, 409, "CONFLICT");
    expect_ok(admin.delete(&path_1).await, 200);
    expect_error(&admin.delete(&path_2).await, 409, "CONFLICT");
}

/// An organization's key can't add users that it doesn't see, or it would learn that they exist.
#[tokio::test]
async fn i5_an_organizations_key_cannot_add_users_that_it_does_not_see() {
    let server = start(&["user_1", "user_free", "user_2"]).await;
    let admin = server.admin();
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await, 201);
    expect_ok(
        admin.post("/organizations/org_2/members", json!({"user_id": "user_2", "role": "member"})).await,
        201,
    );
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    for user in ["user_free", "user_2", "user_none"] {
        let answer = org_client.post(MEMBERS, json!({"user_id": user, "role": "member"})).await;
        expect_error(&answer, 404, "NOT_FOUND");
        assert_eq!(answer.json["error"]["message"], "There is no such user.");
    }
    expect_error(
        &org_client.post(MEMBERS, json!({"user_id": "user_1", "role": "owner"})).await,
        409,
        "ALREADY_EXISTS",
    );
    let other = "/organizations/org_2/members";
    for user in ["user_1", "user_2"] {
        expect_error(
            &org_client.post(other, json!({"user_id": user, "role": "member"})).await,
            404,
            "NOT_FOUND",
        );
        expect_error(&org_client.get(&format!("{other}/{user}")).await, 404, "NOT_FOUND");
        expect_error(&org_client.delete(&format!("{other}/{user}")).await, 404, "NOT_FOUND");
    }
    assert_eq!(column(&expect_ok(admin.get(other).await, 200), "user_id"), ["user_2"]);
    expect_ok(org_client.patch(&format!("{MEMBERS}/user_1"), json!({"role": "owner"})).await, 200);
}

/// A user's keys are revoked when the membership ends, and a new membership does not restore them.
#[tokio::test]
async fn i3_removal_revokes_the_keys_that_the_user_owns_in_the_organization() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    let mut keys = Vec::new();
    for organization in ["org_1", "org_2"] {
        let path = format!("/organizations/{organization}/members");
        expect_ok(admin.post(&path, json!({"user_id": "user_1", "role": "member"})).await, 201);
        let key = json!({"organization_id": organization, "user_id": "user_1", "name": "n", "scopes": ["*"]});
        keys.push(server.key_with(key).await);
    }
    // Loads both keys into the cache before the membership ends.
    for (client, _) in &keys {
        expect_ok(client.get("/whoami").await, 200);
    }
    expect_ok(admin.delete(&format!("{MEMBERS}/user_1")).await, 200);
    expect_error(&keys[0].0.get("/whoami").await, 401, "INVALID_API_KEY");
    expect_ok(keys[1].0.get("/whoami").await, 200);
    let ended = expect_ok(admin.get(&format!("/api-keys/{}", keys[0].1["id"].as_str().unwrap())).await, 200);
    assert_eq!((&ended["status"], &ended["revoked_reason"]), (&json!("revoked"), &json!("membership ended")));
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await, 201);
    expect_error(&keys[0].0.get("/whoami").await, 401, "INVALID_API_KEY");
}

/// A user that is added again has a new membership, which the ETag of the earlier one doesn't match.
#[tokio::test]
async fn the_etag_of_an_earlier_membership_does_not_match() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    let first = admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await;
    expect_ok(admin.delete(&format!("{MEMBERS}/user_1")).await, 200);
    server.advance(Duration::from_millis(1));
    let second = admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await;
    assert_ne!(first.header("etag"), second.header("etag"));
}
