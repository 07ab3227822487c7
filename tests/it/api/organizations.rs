//! `/admin/v1/organizations`

use serde_json::{Value, json};

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::Server;

#[tokio::test]
async fn organizations_are_created_read_changed_and_deleted() {
    let server = Server::start().await;
    let admin = server.admin();
    let new =
        json!({"name": "Acme Corporation", "email": "admin@acme.com", "plan": "enterprise", "id": "org_123"});
    let created = admin.post("/organizations", new).await;
    let read = admin.get("/organizations/org_123").await;
    assert_eq!((read.status, read.header("etag")), (200, created.header("etag")));
    assert_eq!(read.data(), created.data());
    let at = "2026-11-23T07:08:09.000Z";
    assert_eq!(
        expect_ok(created, 201),
        json!({"id": "org_123", "name": "Acme Corporation", "email": "admin@acme.com", "plan": "enterprise",
            "limits": null, "status": "active", "metadata": {}, "created_at": at, "updated_at": at})
    );
    let patch = json!({"name": "Acme", "email": "a@acme.com", "plan": "standard", "metadata": {"k": "v"}});
    let changed = expect_ok(admin.patch("/organizations/org_123", patch).await, 200);
    assert_eq!(
        (&changed["name"], &changed["email"], &changed["plan"]),
        (&json!("Acme"), &json!("a@acme.com"), &json!("standard"))
    );
    assert_eq!(changed["metadata"], json!({"k": "v"}));
    assert_eq!(
        expect_ok(admin.delete("/organizations/org_123").await, 200),
        json!({"id": "org_123", "deleted": true})
    );
    expect_error(&admin.get("/organizations/org_123").await, 404, "NOT_FOUND");
    expect_error(&admin.patch("/organizations/org_123", json!({"name": "n"})).await, 404, "NOT_FOUND");
    expect_error(&admin.delete("/organizations/org_123").await, 404, "NOT_FOUND");
    assert_eq!(expect_ok(admin.get("/organizations").await, 200), json!([]));
}

#[tokio::test]
async fn ids_are_generated_or_chosen_by_the_platform_and_never_reused() {
    let server = Server::start().await;
    let admin = server.admin();
    let with_id = |id: &str| json!({"name": "n", "email": "n@example.com", "id": id});
    let created =
        expect_ok(admin.post("/organizations", json!({"name": "n", "email": "n@example.com"})).await, 201);
    let generated = created["id"].as_str().unwrap();
    assert!(generated.starts_with("org_") && generated.len() == 30, "{generated}");
    for id in ["org_1", "org_A-z", &format!("org_{}", "x".repeat(64))] {
        expect_ok(admin.post("/organizations", with_id(id)).await, 201);
        expect_error(&admin.post("/organizations", with_id(id)).await, 409, "ALREADY_EXISTS");
        expect_ok(admin.delete(&format!("/organizations/{id}")).await, 200);
        expect_error(&admin.post("/organizations", with_id(id)).await, 409, "ALREADY_EXISTS");
    }
    for id in ["", "1", "org_", "user_1", "org_a_b", "org_ä", "org_a/b", &format!("org_{}", "x".repeat(65))]
    {
        expect_invalid(&admin.post("/organizations", with_id(id)).await, &[("/id", "INVALID_ID")]);
    }
}

#[tokio::test]
async fn lists_by_status_plan_and_words_without_case() {
    let server = Server::start().await;
    let admin = server.admin();
    for (id, name, email, plan) in [
        ("org_1", "Acme Corporation", "hello@acme.com", "enterprise"),
        ("org_2", "Örtlich & Söhne", "info@oertlich.example", "standard"),
        ("org_3", "100% Pure_", "ACME@pure.example", "standard"),
    ] {
        let new = json!({"id": id, "name": name, "email": email, "plan": plan});
        expect_ok(admin.post("/organizations", new).await, 201);
    }
    expect_ok(admin.patch("/organizations/org_2", json!({"status": "suspended"})).await, 200);
    for (query, expected) in [
        ("", &["org_3", "org_2", "org_1"][..]),
        ("status=suspended", &["org_2"]),
        ("status=active&plan=standard", &["org_3"]),
        ("plan=enterprise", &["org_1"]),
        ("q=acme", &["org_3", "org_1"]),
        ("q=aCmE%20CORP", &["org_1"]),
        ("q=%C3%B6RTLICH", &["org_2"]),
        ("q=hello@", &["org_1"]),
        ("q=corporation", &["org_1"]),
        ("q=corp%20acme%20hello", &["org_1"]),
        ("q=orporation", &[]),
        ("q=corp%20pure", &[]),
        // `%` and `_` are not wildcards.
        ("q=100%25", &["org_3"]),
        ("q=10%25%25", &["org_3"]),
        ("q=p_re", &[]),
        ("q=acme&plan=enterprise", &["org_1"]),
        // All ids begin with it.
        ("q=org", &["org_3", "org_2", "org_1"]),
    ] {
        let listed = expect_ok(admin.get(&format!("/organizations?{query}")).await, 200);
        assert_eq!(column(&listed, "id"), expected, "{query}");
    }
    for (query, code) in [
        ("%25", "INVALID_VALUE"),
        ("_", "INVALID_VALUE"),
        ("a", "INVALID_LENGTH"),
        ("acme%20c", "INVALID_LENGTH"),
        ("one%20two%20three%20four", "TOO_MANY"),
    ] {
        expect_invalid(&admin.get(&format!("/organizations?q={query}")).await, &[("q", code)]);
    }
    expect_invalid(&admin.get("/organizations?status=deleted").await, &[("status", "INVALID_VALUE")]);
    assert_eq!(expect_ok(admin.get("/organizations?plan=gold").await, 200), json!([]));
}

/// An organization's key can change the name, email and metadata of its organization, not plan or status.
#[tokio::test]
async fn an_organizations_key_sees_and_changes_only_its_own_organization() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    assert_eq!(column(&expect_ok(org_client.get("/organizations").await, 200), "id"), ["org_1"]);
    assert_eq!(expect_ok(org_client.get("/organizations?q=org_2").await, 200), json!([]));
    let patch = json!({"name": "New", "email": "new@example.com", "metadata": {"k": "v"}});
    assert_eq!(expect_ok(org_client.patch("/organizations/org_1", patch).await, 200)["name"], "New");
    let before = expect_ok(admin.get("/organizations/org_1").await, 200);
    for patch in [
        json!({"plan": "enterprise"}),
        json!({"plan": "standard"}),
        json!({"status": "suspended"}),
        json!({"name": "Other", "status": "active"}),
    ] {
        expect_error(
            &org_client.patch("/organizations/org_1", patch.clone()).await,
            403,
            "PLATFORM_KEY_REQUIRED",
        );
        expect_error(&org_client.patch("/organizations/org_2", patch).await, 404, "NOT_FOUND");
    }
    expect_error(&org_client.delete("/organizations/org_1").await, 403, "PLATFORM_KEY_REQUIRED");
    expect_error(&org_client.delete("/organizations/org_2").await, 404, "NOT_FOUND");
    let new = json!({"name": "n", "email": "n@example.com", "id": "org_1"});
    expect_error(&org_client.post("/organizations", new).await, 403, "PLATFORM_KEY_REQUIRED");
    assert_eq!(expect_ok(admin.get("/organizations/org_1").await, 200), before);
}

/// The keys and memberships of a deleted organization end with it, from the next call on.
#[tokio::test]
async fn i3_deletion_ends_keys_and_memberships() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    server.user("user_1").await;
    for organization in ["org_1", "org_2"] {
        let member = json!({"user_id": "user_1", "role": "owner"});
        expect_ok(admin.post(&format!("/organizations/{organization}/members"), member).await, 201);
    }
    let (key, resource) = server.key(Some("org_1"), &["*"]).await;
    let owned = json!({"organization_id": "org_1", "user_id": "user_1", "name": "n", "scopes": ["*"]});
    let (owned, _) = server.key_with(owned).await;
    let (other, _) = server.key(Some("org_2"), &["*"]).await;
    for client in [&key, &owned, &other] {
        expect_ok(client.get("/whoami").await, 200);
    }
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    for client in [&key, &owned] {
        expect_error(&client.get("/whoami").await, 401, "INVALID_API_KEY");
    }
    expect_ok(other.get("/whoami").await, 200);
    let revoked = expect_ok(admin.get(&format!("/api-keys/{}", resource["id"].as_str().unwrap())).await, 200);
    assert_eq!(
        (&revoked["status"], &revoked["revoked_reason"]),
        (&json!("revoked"), &json!("organization deleted"))
    );
    expect_error(&admin.get("/organizations/org_1/members").await, 404, "NOT_FOUND");
    expect_error(&admin.get("/organizations/org_1/members/user_1").await, 404, "NOT_FOUND");
    let memberships = expect_ok(admin.get("/users/user_1/memberships").await, 200);
    assert_eq!(column(&memberships, "organization_id"), ["org_2"]);
    let new_key = json!({"organization_id": "org_1", "name": "n", "scopes": []});
    expect_error(&admin.post("/api-keys", new_key).await, 404, "NOT_FOUND");
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_error(&admin.post("/organizations/org_1/members", member).await, 404, "NOT_FOUND");
    // The audit events of the organization are kept.
    let events = expect_ok(admin.get("/audit-logs?org_id=org_1&action=organization.delete").await, 200);
    assert_eq!(events[0]["changes"], json!([{"field": "revoked_keys", "from": 0, "to": 2}]));
}

#[tokio::test]
async fn i3_a_suspended_organizations_keys_are_refused_until_it_is_active_again() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    let (key, resource) = server.key(Some("org_1"), &["*"]).await;
    let (other, _) = server.key(Some("org_2"), &["*"]).await;
    for _ in 0..2 {
        expect_ok(key.get("/whoami").await, 200);
        expect_ok(admin.patch("/organizations/org_1", json!({"status": "suspended"})).await, 200);
        expect_error(&key.get("/whoami").await, 401, "INVALID_API_KEY");
        expect_ok(other.get("/whoami").await, 200);
        expect_ok(admin.patch("/organizations/org_1", json!({"status": "active"})).await, 200);
    }
    expect_ok(key.get("/whoami").await, 200);
    // The key itself is unchanged.
    let path = format!("/api-keys/{}", resource["id"].as_str().unwrap());
    let after = expect_ok(admin.get(&path).await, 200);
    assert_eq!((&after["status"], &after["updated_at"]), (&json!("active"), &resource["updated_at"]));
}

#[tokio::test]
async fn emails_and_names_are_validated() {
    let server = Server::start().await;
    let admin = server.admin();
    for email in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\n", &format!("a@{}", "b".repeat(253))] {
        let answer = admin.post("/organizations", json!({"name": "n", "email": email})).await;
        expect_invalid(&answer, &[("/email", "INVALID_EMAIL")]);
    }
    for (name, code) in [
        (String::new(), "INVALID_LENGTH"),
        ("n".repeat(201), "INVALID_LENGTH"),
        ("a\u{7}".into(), "INVALID_CHARACTER"),
    ] {
        let answer = admin.post("/organizations", json!({"name": name, "email": "a@b"})).await;
        expect_invalid(&answer, &[("/name", code)]);
    }
    let longest = "ö".repeat(200);
    expect_ok(admin.post("/organizations", json!({"name": longest, "email": "a@b"})).await, 201);
    // Two organizations can have the same email address.
    let second = expect_ok(admin.post("/organizations", json!({"name": "n", "email": "a@b"})).await, 201);
    assert_ne!(second["id"], Value::Null);
}
