//! `/admin/v1/organizations/{id}/members`

use std::time::Duration;

use serde_json::json;

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::Server;

const MEMBERS: &str = "/organizations/org_1/members";

/// A server with `org_1`, `org_2` and these users.
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
async fn adds_reads_changes_and_removes() {
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
        // Another owner, so that this one may stop being it.
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
    assert_eq!(expect_ok(admin.get("/users/user_1").await, 200), user, "the user itself stays");
}

#[tokio::test]
async fn faults_and_unknown_things() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    expect_invalid(&admin.post(MEMBERS, json!({})).await, &[("/user_id", "REQUIRED"), ("/role", "REQUIRED")]);
    let more = json!({"user_id": 1, "role": "king", "organization_id": "org_2", "since": "now"});
    expect_invalid(
        &admin.post(MEMBERS, more).await,
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

/// An organization may be without an owner at first; one that has an owner keeps one.
#[tokio::test]
async fn the_last_owner_stays() {
    let server = start(&["user_1", "user_2"]).await;
    let admin = server.admin();
    let (one, two) = (format!("{MEMBERS}/user_1"), format!("{MEMBERS}/user_2"));
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_1", "role": "owner"})).await, 201);
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_2", "role": "member"})).await, 201);
    // An owner elsewhere is none here.
    expect_ok(
        admin.post("/organizations/org_2/members", json!({"user_id": "user_2", "role": "owner"})).await,
        201,
    );
    let (own, _) = server.key(Some("org_1"), &["admin:users"]).await;
    for client in [&admin, &own] {
        for role in ["admin", "member", "viewer"] {
            expect_error(&client.patch(&one, json!({"role": role})).await, 409, "CONFLICT");
        }
        expect_error(&client.delete(&one).await, 409, "CONFLICT");
        expect_ok(client.patch(&one, json!({"role": "owner"})).await, 200);
    }
    expect_ok(admin.patch(&two, json!({"role": "owner"})).await, 200);
    expect_ok(admin.patch(&one, json!({"role": "member"})).await, 200);
    expect_error(&admin.delete(&two).await, 409, "CONFLICT");
    expect_ok(admin.delete(&one).await, 200);
    expect_error(&admin.delete(&two).await, 409, "CONFLICT");
}

/// An organization's key adds only whom it sees already: the existence of others is none of its business.
#[tokio::test]
async fn i5_an_organizations_key_adds_nobody_that_it_does_not_see() {
    let server = start(&["user_1", "user_free", "user_2"]).await;
    let admin = server.admin();
    expect_ok(admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await, 201);
    expect_ok(
        admin.post("/organizations/org_2/members", json!({"user_id": "user_2", "role": "member"})).await,
        201,
    );
    let (own, _) = server.key(Some("org_1"), &["*"]).await;
    for user in ["user_free", "user_2", "user_none"] {
        let answer = own.post(MEMBERS, json!({"user_id": user, "role": "member"})).await;
        expect_error(&answer, 404, "NOT_FOUND");
        assert_eq!(answer.json["error"]["message"], "There is no such user.");
    }
    expect_error(
        &own.post(MEMBERS, json!({"user_id": "user_1", "role": "owner"})).await,
        409,
        "ALREADY_EXISTS",
    );
    let other = "/organizations/org_2/members";
    for user in ["user_1", "user_2"] {
        expect_error(&own.post(other, json!({"user_id": user, "role": "member"})).await, 404, "NOT_FOUND");
        expect_error(&own.get(&format!("{other}/{user}")).await, 404, "NOT_FOUND");
        expect_error(&own.delete(&format!("{other}/{user}")).await, 404, "NOT_FOUND");
    }
    assert_eq!(column(&expect_ok(admin.get(other).await, 200), "user_id"), ["user_2"]);
    expect_ok(own.patch(&format!("{MEMBERS}/user_1"), json!({"role": "owner"})).await, 200);
}

/// A key lives and dies with its owner's membership, and a new membership does not wake it.
#[tokio::test]
async fn i3_removal_revokes_the_keys_that_the_user_owns_there() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    let mut keys = Vec::new();
    for organization in ["org_1", "org_2"] {
        let path = format!("/organizations/{organization}/members");
        expect_ok(admin.post(&path, json!({"user_id": "user_1", "role": "member"})).await, 201);
        let key = json!({"organization_id": organization, "user_id": "user_1", "name": "n", "scopes": ["*"]});
        keys.push(server.key_with(key).await);
    }
    // Only now, so that both are remembered as good when the membership ends.
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

/// A membership that begins anew is another one: who knew the old one changes nothing.
#[tokio::test]
async fn the_etag_of_an_earlier_membership_is_stale() {
    let server = start(&["user_1"]).await;
    let admin = server.admin();
    let first = admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await;
    expect_ok(admin.delete(&format!("{MEMBERS}/user_1")).await, 200);
    server.advance(Duration::from_millis(1));
    let second = admin.post(MEMBERS, json!({"user_id": "user_1", "role": "member"})).await;
    assert_ne!(first.header("etag"), second.header("etag"));
}
