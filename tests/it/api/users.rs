//! `/admin/v1/users`

use serde_json::{Value, json};

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::{Client, Server};

async fn join(server: &Server, organization: &str, user: &str, role: &str) {
    let path = format!("/organizations/{organization}/members");
    expect_ok(server.admin().post(&path, json!({"user_id": user, "role": role})).await, 201);
}

async fn owned_key(server: &Server, organization: &str, user: &str) -> Client {
    let body = json!({"organization_id": organization, "user_id": user, "name": "n", "scopes": ["*"]});
    server.key_with(body).await.0
}

#[tokio::test]
async fn users_are_created_read_changed_and_deleted() {
    let server = Server::start().await;
    let admin = server.admin();
    let new = json!({"id": "user_1", "email": "Ada@Example.com", "name": "Ada", "external_id": "x|1", "metadata": {"k": "v"}});
    let created = admin.post("/users", new).await;
    let read = admin.get("/users/user_1").await;
    assert_eq!((read.status, read.header("etag")), (200, created.header("etag")));
    assert_eq!(read.data(), created.data());
    let at = "2026-11-23T07:08:09.000Z";
    assert_eq!(
        expect_ok(created, 201),
        json!({"id": "user_1", "email": "Ada@Example.com", "name": "Ada", "external_id": "x|1", "status": "active",
            "metadata": {"k": "v"}, "created_at": at, "updated_at": at})
    );
    let patch = json!({"email": "ada@b", "name": "A.", "external_id": "x|2", "status": "suspended"});
    let changed = expect_ok(admin.patch("/users/user_1", patch.clone()).await, 200);
    for field in ["email", "name", "external_id", "status"] {
        assert_eq!(changed[field], patch[field]);
    }
    assert_eq!(expect_ok(admin.delete("/users/user_1").await, 200), json!({"id": "user_1", "deleted": true}));
    for answer in [
        admin.get("/users/user_1").await,
        admin.get("/users/user_1/memberships").await,
        admin.patch("/users/user_1", json!({})).await,
        admin.delete("/users/user_1").await,
    ] {
        expect_error(&answer, 404, "NOT_FOUND");
    }
    assert_eq!(expect_ok(admin.get("/users").await, 200), json!([]));
}

#[tokio::test]
async fn ids_are_generated_or_chosen_by_the_platform_and_never_reused() {
    let server = Server::start().await;
    let admin = server.admin();
    let created = expect_ok(admin.post("/users", json!({"email": "a@b", "name": "n"})).await, 201);
    let generated = created["id"].as_str().unwrap();
    assert!(generated.starts_with("user_") && generated.len() == 31, "{generated}");
    server.user("user_1").await;
    let again = json!({"id": "user_1", "email": "again@b", "name": "n"});
    expect_error(&admin.post("/users", again.clone()).await, 409, "ALREADY_EXISTS");
    expect_ok(admin.delete("/users/user_1").await, 200);
    expect_error(&admin.post("/users", again).await, 409, "ALREADY_EXISTS");
    let foreign = json!({"id": "org_1", "email": "c@b", "name": "n"});
    expect_invalid(&admin.post("/users", foreign).await, &[("/id", "INVALID_ID")]);
}

/// The error for a taken email does not reveal the user, who may belong to another organization.
#[tokio::test]
async fn emails_are_unique_without_case_and_freed_by_deletion() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    expect_ok(
        admin.post("/users", json!({"id": "user_1", "email": "Zoë@Example.com", "name": "Zoë"})).await,
        201,
    );
    for client in [&admin, &org_client] {
        for email in ["Zoë@Example.com", "zoë@example.com", "ZOË@EXAMPLE.COM"] {
            let answer = client.post("/users", json!({"email": email, "name": "n"})).await;
            expect_error(&answer, 409, "ALREADY_EXISTS");
            assert_eq!(answer.details(), [("/email".to_owned(), "ALREADY_EXISTS".to_owned())]);
            assert!(!answer.text.contains("user_1") && !answer.text.contains("Zoë"), "{}", answer.text);
        }
    }
    server.user("user_2").await;
    expect_error(
        &admin.patch("/users/user_2", json!({"email": "ZOË@example.com"})).await,
        409,
        "ALREADY_EXISTS",
    );
    let own_case = expect_ok(admin.patch("/users/user_1", json!({"email": "ZOË@example.com"})).await, 200);
    assert_eq!(own_case["email"], "ZOË@example.com");
    expect_ok(admin.delete("/users/user_1").await, 200);
    expect_ok(admin.patch("/users/user_2", json!({"email": "zoë@example.com"})).await, 200);
}

#[tokio::test]
async fn lists_by_status_email_external_id_and_words_without_case() {
    let server = Server::start().await;
    let admin = server.admin();
    for (id, email, name, external) in [
        ("user_1", "ada@example.com", "Ada Lovelace", json!("A1")),
        ("user_2", "grace@example.com", "Grace Hopper", json!("a1")),
        ("user_3", "ADAM@example.com", "Émile", Value::Null),
    ] {
        let new = json!({"id": id, "email": email, "name": name, "external_id": external});
        expect_ok(admin.post("/users", new).await, 201);
    }
    expect_ok(admin.patch("/users/user_2", json!({"status": "suspended"})).await, 200);
    for (query, expected) in [
        ("", &["user_3", "user_2", "user_1"][..]),
        ("order=asc", &["user_1", "user_2", "user_3"]),
        ("status=suspended", &["user_2"]),
        ("status=active", &["user_3", "user_1"]),
        ("email=ADA@EXAMPLE.com", &["user_1"]),
        ("email=ada@", &[]),
        ("external_id=a1", &["user_2"]),
        ("external_id=A", &[]),
        ("q=ada", &["user_3", "user_1"]),
        ("q=%C3%A9MI", &["user_3"]),
        ("q=hopper", &["user_2"]),
        ("q=hop%20gra", &["user_2"]),
        ("q=opper", &[]),
        ("q=a1", &["user_2", "user_1"]),
        ("q=adam@example.com", &["user_3"]),
        ("q=ada&status=active&external_id=A1", &["user_1"]),
    ] {
        let listed = expect_ok(admin.get(&format!("/users?{query}")).await, 200);
        assert_eq!(column(&listed, "id"), expected, "{query}");
    }
    expect_invalid(&admin.get("/users?status=deleted").await, &[("status", "INVALID_VALUE")]);
}

#[tokio::test]
async fn i5_an_organizations_key_creates_members_and_sees_only_members() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    server.user("user_free").await;
    server.user("user_2").await;
    join(&server, "org_2", "user_2", "member").await;
    let (org_client, _) = server.key(Some("org_1"), &["admin:users"]).await;
    let created = expect_ok(org_client.post("/users", json!({"email": "a@b", "name": "n"})).await, 201);
    let id = created["id"].as_str().unwrap();
    let membership = expect_ok(admin.get(&format!("/organizations/org_1/members/{id}")).await, 200);
    assert_eq!(membership["role"], "member");
    assert_eq!(column(&expect_ok(org_client.get("/users").await, 200), "id"), [id]);
    assert_eq!(expect_ok(org_client.get(&format!("/users/{id}")).await, 200), created);
    // It sees a user that is also a member of another organization, but not the membership there.
    join(&server, "org_2", id, "owner").await;
    let visible = expect_ok(org_client.get(&format!("/users/{id}/memberships")).await, 200);
    assert_eq!(column(&visible, "organization_id"), ["org_1"]);
    let all = expect_ok(admin.get(&format!("/users/{id}/memberships")).await, 200);
    assert_eq!(column(&all, "organization_id"), ["org_2", "org_1"]);
    for user in ["user_free", "user_2", "user_none"] {
        let path = format!("/users/{user}");
        for answer in [
            org_client.get(&path).await,
            org_client.get(&format!("{path}/memberships")).await,
            org_client.patch(&path, json!({"name": "n"})).await,
            org_client.delete(&path).await,
        ] {
            expect_error(&answer, 404, "NOT_FOUND");
        }
    }
    let path = format!("/users/{id}");
    expect_error(&org_client.patch(&path, json!({"name": "n"})).await, 403, "PLATFORM_KEY_REQUIRED");
    expect_error(&org_client.delete(&path).await, 403, "PLATFORM_KEY_REQUIRED");
    let named = json!({"id": "user_mine", "email": "mine@b", "name": "n"});
    expect_error(&org_client.post("/users", named).await, 403, "PLATFORM_KEY_REQUIRED");
    expect_error(&admin.get("/users/user_mine").await, 404, "NOT_FOUND");
    expect_ok(admin.delete(&format!("/organizations/org_1/members/{id}")).await, 200);
    expect_error(&org_client.get(&path).await, 404, "NOT_FOUND");
}

#[tokio::test]
async fn i3_deletion_ends_memberships_and_owned_keys() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    for user in ["user_1", "user_2"] {
        server.user(user).await;
        for organization in ["org_1", "org_2"] {
            join(&server, organization, user, "member").await;
        }
    }
    let mut revoked = Vec::new();
    for organization in ["org_1", "org_2"] {
        revoked.push(owned_key(&server, organization, "user_1").await);
    }
    let kept = [owned_key(&server, "org_1", "user_2").await, server.key(Some("org_1"), &["*"]).await.0];
    for client in revoked.iter().chain(&kept) {
        expect_ok(client.get("/whoami").await, 200);
    }
    expect_ok(admin.delete("/users/user_1").await, 200);
    for client in &revoked {
        expect_error(&client.get("/whoami").await, 401, "INVALID_API_KEY");
    }
    for client in &kept {
        expect_ok(client.get("/whoami").await, 200);
    }
    for organization in ["org_1", "org_2"] {
        let members = expect_ok(admin.get(&format!("/organizations/{organization}/members")).await, 200);
        assert_eq!(column(&members, "user_id"), ["user_2"]);
        let event = format!("/audit-logs?org_id={organization}&action=user.delete");
        assert_eq!(expect_ok(admin.get(&event).await, 200)[0]["target"]["id"], "user_1");
    }
    let keys = expect_ok(admin.get("/api-keys?user_id=user_1").await, 200);
    assert_eq!(column(&keys, "status"), ["revoked", "revoked"]);
    assert_eq!(column(&keys, "revoked_reason"), ["owner deleted", "owner deleted"]);
}

#[tokio::test]
async fn the_last_owner_of_an_organization_cannot_be_deleted() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    for user in ["user_1", "user_2"] {
        server.user(user).await;
    }
    join(&server, "org_1", "user_1", "member").await;
    join(&server, "org_2", "user_1", "owner").await;
    join(&server, "org_2", "user_2", "admin").await;
    let key = owned_key(&server, "org_1", "user_1").await;
    expect_error(&admin.delete("/users/user_1").await, 409, "CONFLICT");
    expect_ok(key.get("/whoami").await, 200);
    assert_eq!(expect_ok(admin.get("/users/user_1/memberships").await, 200).as_array().unwrap().len(), 2);
    expect_ok(admin.patch("/organizations/org_2/members/user_2", json!({"role": "owner"})).await, 200);
    expect_ok(admin.delete("/users/user_1").await, 200);
    expect_error(&key.get("/whoami").await, 401, "INVALID_API_KEY");
    expect_error(&admin.delete("/users/user_2").await, 409, "CONFLICT");
    expect_ok(admin.delete("/organizations/org_2").await, 200);
    expect_ok(admin.delete("/users/user_2").await, 200);
}

#[tokio::test]
async fn i3_a_suspended_users_keys_are_refused_until_the_user_is_active_again() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    join(&server, "org_1", "user_1", "owner").await;
    let owned = owned_key(&server, "org_1", "user_1").await;
    let (unowned, _) = server.key(Some("org_1"), &["*"]).await;
    for _ in 0..2 {
        expect_ok(owned.get("/whoami").await, 200);
        expect_ok(admin.patch("/users/user_1", json!({"status": "suspended"})).await, 200);
        expect_error(&owned.get("/whoami").await, 401, "INVALID_API_KEY");
        expect_ok(unowned.get("/whoami").await, 200);
        expect_ok(admin.patch("/users/user_1", json!({"status": "active"})).await, 200);
    }
    expect_ok(owned.get("/whoami").await, 200);
}
