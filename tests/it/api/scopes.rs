//! `/admin/v1/scopes`

use serde_json::json;

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::Server;

const SHIPPED: [&str; 11] = [
    "admin:users",
    "admin:orgs",
    "admin:keys",
    "admin:audit",
    "admin:analytics",
    "admin:config",
    "keys:verify",
    "workflows:read",
    "workflows:write",
    "transactions:read",
    "transactions:write",
];

#[tokio::test]
async fn every_key_reads_the_catalogue() {
    let server = Server::start().await;
    let (none, _) = server.key(None, &[]).await;
    let shipped = expect_ok(none.get("/scopes?order=asc").await, 200);
    assert_eq!(column(&shipped, "scope"), SHIPPED);
    for scope in shipped.as_array().unwrap() {
        let name = scope["scope"].as_str().unwrap();
        assert_eq!(scope["built_in"], json!(name.starts_with("admin:") || name == "keys:verify"), "{name}");
    }
}

#[tokio::test]
async fn a_scope_is_added_used_and_deleted() {
    let server = Server::start().await;
    let admin = server.admin();
    let grant = json!({"id": "key_1", "name": "n", "scopes": ["invoices:read"]});
    expect_invalid(&admin.post("/api-keys", grant.clone()).await, &[("/scopes/0", "UNKNOWN_SCOPE")]);
    let new = json!({"scope": "invoices:read", "description": "Read invoices"});
    let added = expect_ok(admin.post("/scopes", new.clone()).await, 201);
    assert_eq!(added, json!({"scope": "invoices:read", "description": "Read invoices", "built_in": false}));
    expect_error(&admin.post("/scopes", new.clone()).await, 409, "ALREADY_EXISTS");
    let (holder, _) = server.key_with(grant).await;
    assert_eq!(expect_ok(holder.get("/whoami").await, 200)["scopes"], json!(["invoices:read"]));
    expect_error(&admin.delete("/scopes/invoices:read").await, 409, "CONFLICT");
    // A disabled key still holds the scope.
    expect_ok(admin.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200);
    expect_error(&admin.delete("/scopes/invoices:read").await, 409, "CONFLICT");
    expect_ok(admin.delete("/api-keys/key_1").await, 200);
    let deleted = expect_ok(admin.delete("/scopes/invoices:read").await, 200);
    assert_eq!(deleted, json!({"scope": "invoices:read", "deleted": true}));
    expect_error(&admin.delete("/scopes/invoices:read").await, 404, "NOT_FOUND");
    let after_deletion = json!({"name": "n", "scopes": ["invoices:read"]});
    expect_invalid(&admin.post("/api-keys", after_deletion).await, &[("/scopes/0", "UNKNOWN_SCOPE")]);
    expect_ok(admin.post("/scopes", new).await, 201);
}

/// A wildcard has no meaning without a scope of its resource.
#[tokio::test]
async fn the_last_scope_of_a_resource_is_kept_while_its_wildcard_is_held() {
    let server = Server::start().await;
    let admin = server.admin();
    for scope in ["invoices:read", "invoices:write"] {
        expect_ok(admin.post("/scopes", json!({"scope": scope})).await, 201);
    }
    let (holder, _) = server.key_with(json!({"id": "key_1", "name": "n", "scopes": ["invoices:*"]})).await;
    expect_ok(admin.delete("/scopes/invoices:write").await, 200);
    assert_eq!(expect_ok(holder.get("/whoami").await, 200)["scopes"], json!(["invoices:read"]));
    expect_error(&admin.delete("/scopes/invoices:read").await, 409, "CONFLICT");
    expect_ok(admin.patch("/api-keys/key_1", json!({"scopes": []})).await, 200);
    expect_ok(admin.delete("/scopes/invoices:read").await, 200);
    expect_invalid(
        &admin.patch("/api-keys/key_1", json!({"scopes": ["invoices:*"]})).await,
        &[("/scopes/0", "UNKNOWN_SCOPE")],
    );
}

/// The wildcard `*` does not keep a scope from being deleted.
#[tokio::test]
async fn unused_shipped_scopes_can_be_deleted_and_built_in_scopes_cannot() {
    let server = Server::start().await;
    let admin = server.admin();
    for scope in SHIPPED {
        let answer = admin.delete(&format!("/scopes/{scope}")).await;
        if scope.starts_with("admin:") || scope == "keys:verify" {
            expect_error(&answer, 409, "CONFLICT");
        } else {
            expect_ok(answer, 200);
        }
    }
    assert_eq!(column(&expect_ok(admin.get("/scopes?order=asc").await, 200), "scope"), SHIPPED[..7]);
    expect_error(&admin.delete("/scopes/nobody:knows").await, 404, "NOT_FOUND");
}

#[tokio::test]
async fn scope_names_are_validated_and_two_resources_are_reserved() {
    let server = Server::start().await;
    let admin = server.admin();
    let longest = format!("{0}:{0}", "a".repeat(32));
    for scope in ["a:b", "a-1:b-2", &longest] {
        expect_ok(admin.post("/scopes", json!({"scope": scope})).await, 201);
    }
    let too_long = format!("a:{}", "a".repeat(33));
    for scope in [
        "", "a", "a:", ":a", "A:b", "a:B", "1a:b", "-a:b", "a:b:c", "a:*", "*", "a b:c", "ä:b", "a.b:c",
        &too_long,
    ] {
        expect_invalid(&admin.post("/scopes", json!({"scope": scope})).await, &[("/scope", "INVALID_SCOPE")]);
    }
    for scope in ["admin:all", "keys:read"] {
        expect_invalid(&admin.post("/scopes", json!({"scope": scope})).await, &[("/scope", "RESERVED")]);
    }
    let body = json!({"description": "", "built_in": true, "resource": "a"});
    expect_invalid(
        &admin.post("/scopes", body).await,
        &[
            ("/scope", "REQUIRED"),
            ("/description", "INVALID_LENGTH"),
            ("/built_in", "READ_ONLY"),
            ("/resource", "UNKNOWN_FIELD"),
        ],
    );
}

#[tokio::test]
async fn only_platform_keys_change_the_catalogue() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    expect_ok(org_client.get("/scopes").await, 200);
    expect_error(&org_client.post("/scopes", json!({"scope": "a:b"})).await, 403, "PLATFORM_KEY_REQUIRED");
    expect_error(&org_client.delete("/scopes/workflows:read").await, 403, "PLATFORM_KEY_REQUIRED");
    let (weak, _) = server.key(None, &["admin:keys", "admin:orgs"]).await;
    expect_error(&weak.post("/scopes", json!({"scope": "a:b"})).await, 403, "INSUFFICIENT_SCOPE");
    assert_eq!(expect_ok(org_client.get("/scopes?limit=100").await, 200).as_array().unwrap().len(), 11);
}
