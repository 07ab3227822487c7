//! `/admin/v1/api-keys`: the fields of a key, filters of the list, and who can create which keys.

use std::time::Duration;

use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::{NOW, Server};

/// Formats the time this many seconds after the start of the test.
pub(super) fn in_seconds(seconds: i64) -> String {
    Timestamp::from_millis(NOW + seconds * 1000).to_string()
}

/// The six base-62 digits of the CRC-32 that end a secret.
fn checksum(text: &str) -> String {
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let crc = u64::from(crc32fast::hash(text.as_bytes()));
    (0..6).rev().map(|exponent| char::from(digits[(crc / 62u64.pow(exponent) % 62) as usize])).collect()
}

#[tokio::test]
async fn i6_the_secret_is_shown_once_in_the_documented_form() {
    let server = Server::start().await;
    let admin = server.admin();
    let created =
        admin.post("/api-keys", json!({"id": "key_1", "name": "n", "scopes": ["admin:keys"]})).await;
    assert_eq!(created.header("cache-control"), Some("no-store"));
    let secret = expect_ok(created, 201)["key"].as_str().unwrap().to_owned();
    let (body, digits) = secret.split_at(secret.len() - 6);
    let random = body.strip_prefix("toll_").unwrap();
    assert!(random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{secret}");
    assert_eq!(digits, checksum(body));
    let org_client = server.client(Some(&secret));
    expect_ok(org_client.get("/whoami").await, 200);
    let patched = admin.patch("/api-keys/key_1", json!({"name": "m"})).await;
    assert_eq!(patched.data()["start"], secret[..9]);
    for answer in [
        patched,
        admin.get("/api-keys/key_1").await,
        admin.get("/api-keys").await,
        org_client.get("/whoami").await,
        admin.post("/api-keys/key_1/expire-previous", json!({})).await,
        admin.get("/audit-logs?limit=100").await,
        admin.get("/audit-logs/export").await,
        admin.delete("/api-keys/key_1").await,
    ] {
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(!answer.text.contains(&secret) && !answer.text.contains(random), "{}", answer.text);
        assert!(!answer.text.contains("\"key\":"), "{}", answer.text);
    }
    for entry in std::fs::read_dir(server.app.config.database.dir.clone()).unwrap() {
        let file = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !file.windows(random.len()).any(|bytes| bytes == random.as_bytes()),
            "a file contains the secret"
        );
    }
}

#[tokio::test]
async fn a_created_key_has_the_requested_fields() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    expect_ok(admin.post("/organizations/org_1/members", member).await, 201);
    let mut body = json!({
        "id": "key_1", "organization_id": "org_1", "user_id": "user_1", "name": "Production",
        "scopes": ["workflows:read", "transactions:*"], "expires_at": "2027-01-01T01:00:00+01:00",
        "allowed_ips": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.0/120"],
        "limits": [{"meter": "requests", "limit": 10, "window_seconds": 1},
            {"meter": "requests", "limit": 1000, "period": "month"}],
        "self_rotation": true, "metadata": {"k": "v"},
    });
    let mut created = expect_ok(admin.post("/api-keys", body.clone()).await, 201);
    assert!(created.as_object_mut().unwrap().remove("key").is_some());
    let start = created["start"].clone();
    let fields = json!({
        "expires_at": "2027-01-01T00:00:00.000Z",
        "allowed_ips": ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "198.51.100.0/24"],
        "start": start, "status": "active", "created_at": in_seconds(0), "updated_at": in_seconds(0),
        "last_used_at": null, "rotated_at": null, "previous_secret_expires_at": null, "revoked_at": null,
        "revoked_reason": null, "created_by": expect_ok(admin.get("/whoami").await, 200)["api_key"]["id"],
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    assert_eq!(created, body);
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), created);
    let smallest = expect_ok(admin.post("/api-keys", json!({"name": "n", "scopes": []})).await, 201);
    for empty in ["organization_id", "user_id", "expires_at", "allowed_ips", "limits"] {
        assert_eq!(smallest[empty], Value::Null, "{empty}");
    }
    let id = smallest["id"].as_str().unwrap();
    assert!(id.starts_with("key_") && id.len() == 30, "{id}");
    expect_error(&admin.get("/api-keys/key_none").await, 404, "NOT_FOUND");
}

#[tokio::test]
async fn all_errors_of_a_key_are_reported() {
    let server = Server::start().await;
    let admin = server.admin();
    let scopes: Vec<_> = (0..101).map(|_| "workflows:read").collect();
    let cidrs: Vec<_> = (0..101).map(|n| format!("10.0.0.{n}")).collect();
    let answer =
        admin.post("/api-keys", json!({"name": 1, "scopes": scopes, "allowed_ips": cidrs, "id": "k"})).await;
    expect_invalid(
        &answer,
        &[
            ("/name", "INVALID_TYPE"),
            ("/scopes", "TOO_MANY"),
            ("/allowed_ips", "INVALID_LENGTH"),
            ("/id", "INVALID_ID"),
        ],
    );
    let body = json!({
        "name": "n", "scopes": ["workflows:read", "nobody:knows", 7, "workflows", "nobody:*", "**"],
        "expires_at": in_seconds(0), "allowed_ips": ["10.0.0.1/8", "everywhere", 7, "10.0.0.0/33"],
        "status": "active", "key": "toll_mine", "start": "toll_", "created_by": "me", "revoked_at": null,
        "limits": [{"limit": 0, "period": "day", "burst": 1}, 7],
    });
    expect_invalid(
        &admin.post("/api-keys", body).await,
        &[
            ("/scopes/1", "UNKNOWN_SCOPE"),
            ("/scopes/2", "INVALID_TYPE"),
            ("/scopes/3", "UNKNOWN_SCOPE"),
            ("/scopes/4", "UNKNOWN_SCOPE"),
            ("/scopes/5", "UNKNOWN_SCOPE"),
            ("/expires_at", "NOT_AHEAD"),
            ("/allowed_ips/0", "INVALID_CIDR"),
            ("/allowed_ips/1", "INVALID_CIDR"),
            ("/allowed_ips/2", "INVALID_TYPE"),
            ("/allowed_ips/3", "INVALID_CIDR"),
            ("/status", "READ_ONLY"),
            ("/key", "READ_ONLY"),
            ("/start", "READ_ONLY"),
            ("/created_by", "READ_ONLY"),
            ("/revoked_at", "READ_ONLY"),
            ("/limits/0/limit", "INVALID_VALUE"),
            ("/limits/0/burst", "UNKNOWN_FIELD"),
            ("/limits/1", "INVALID_TYPE"),
        ],
    );
    for (field, value, code) in [
        ("expires_at", json!("tomorrow"), "INVALID_TIME"),
        ("expires_at", json!(1_795_417_690), "INVALID_TYPE"),
        ("allowed_ips", json!([]), "INVALID_LENGTH"),
        ("allowed_ips", json!("10.0.0.0/8"), "INVALID_TYPE"),
        ("scopes", json!("*"), "INVALID_TYPE"),
        ("status", json!("revoked"), "INVALID_VALUE"),
        ("status", json!("expired"), "INVALID_VALUE"),
        ("organization_id", json!(null), "READ_ONLY"),
        ("user_id", json!("user_1"), "READ_ONLY"),
    ] {
        let answer = admin.patch("/api-keys/key_none", json!({ field: value })).await;
        expect_invalid(&answer, &[(&format!("/{field}"), code)]);
    }
    assert_eq!(
        expect_ok(admin.get("/api-keys").await, 200).as_array().unwrap().len(),
        1,
        "no key was created"
    );
}

#[tokio::test]
async fn only_platform_keys_choose_ids_and_ids_are_never_reused() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let named = json!({"id": "key_1", "name": "n", "scopes": []});
    let (org_client, _) = server.key(Some("org_1"), &["*"]).await;
    expect_error(&org_client.post("/api-keys", named.clone()).await, 403, "PLATFORM_KEY_REQUIRED");
    expect_ok(admin.post("/api-keys", named.clone()).await, 201);
    expect_error(&admin.post("/api-keys", named.clone()).await, 409, "ALREADY_EXISTS");
    expect_ok(admin.delete("/api-keys/key_1").await, 200);
    expect_error(&admin.post("/api-keys", named).await, 409, "ALREADY_EXISTS");
}

#[tokio::test]
async fn organization_and_owner_of_a_new_key_are_checked() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    for user in ["user_1", "user_2"] {
        server.user(user).await;
    }
    expect_ok(
        admin.post("/organizations/org_1/members", json!({"user_id": "user_1", "role": "member"})).await,
        201,
    );
    expect_ok(
        admin.post("/organizations/org_2/members", json!({"user_id": "user_2", "role": "member"})).await,
        201,
    );
    let (org_client, resource) = server.key(Some("org_1"), &["*"]).await;
    let key = |fields: Value| {
        let mut body = json!({"name": "n", "scopes": []});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    for fields in [json!({}), json!({"organization_id": null}), json!({"organization_id": "org_1"})] {
        let created = expect_ok(org_client.post("/api-keys", key(fields)).await, 201);
        assert_eq!((&created["organization_id"], &created["created_by"]), (&json!("org_1"), &resource["id"]));
    }
    assert_eq!(expect_ok(admin.post("/api-keys", key(json!({}))).await, 201)["organization_id"], Value::Null);
    let owned = expect_ok(org_client.post("/api-keys", key(json!({"user_id": "user_1"}))).await, 201);
    assert_eq!((&owned["organization_id"], &owned["user_id"]), (&json!("org_1"), &json!("user_1")));
    for organization in ["org_2", "org_none"] {
        expect_error(
            &org_client.post("/api-keys", key(json!({"organization_id": organization}))).await,
            404,
            "NOT_FOUND",
        );
    }
    for user in ["user_2", "user_none"] {
        let of_org_1 = json!({"organization_id": "org_1", "user_id": user});
        expect_error(&org_client.post("/api-keys", key(of_org_1.clone())).await, 404, "NOT_FOUND");
        expect_error(&admin.post("/api-keys", key(of_org_1)).await, 404, "NOT_FOUND");
    }
    let without_organization = admin.post("/api-keys", key(json!({"user_id": "user_1"}))).await;
    expect_invalid(&without_organization, &[("/user_id", "NEEDS_ORGANIZATION")]);
}

#[tokio::test]
async fn lists_by_organization_user_status_scope_and_prefix() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    server.user("user_1").await;
    expect_ok(
        admin.post("/organizations/org_1/members", json!({"user_id": "user_1", "role": "member"})).await,
        201,
    );
    for (id, fields) in [
        ("key_active", json!({"organization_id": "org_1", "name": "Alpha", "scopes": ["workflows:read"]})),
        (
            "key_owned",
            json!({"organization_id": "org_1", "user_id": "user_1", "name": "alphabet", "scopes": ["workflows:*"]}),
        ),
        (
            "key_off",
            json!({"organization_id": "org_2", "name": "ALPHA 2", "scopes": ["workflows:read", "workflows:write"]}),
        ),
        (
            "key_past",
            json!({"organization_id": "org_2", "name": "Beta", "scopes": [], "expires_at": in_seconds(10)}),
        ),
        ("key_off-past", json!({"name": "Beta", "scopes": [], "expires_at": in_seconds(10)})),
        ("key_ended", json!({"name": "Gamma", "scopes": ["*"]})),
    ] {
        let mut body = fields;
        body["id"] = json!(id);
        server.key_with(body).await;
    }
    for id in ["key_off", "key_off-past"] {
        expect_ok(admin.patch(&format!("/api-keys/{id}"), json!({"status": "disabled"})).await, 200);
    }
    expect_ok(admin.delete("/api-keys/key_ended").await, 200);
    let first = expect_ok(admin.get("/whoami").await, 200)["api_key"]["id"].as_str().unwrap().to_owned();
    let ids =
        async |query: &str| column(&expect_ok(admin.get(&format!("/api-keys?{query}")).await, 200), "id");
    assert_eq!(ids("status=expired").await, Vec::<String>::new());
    assert_eq!(ids("status=active").await, ["key_past", "key_owned", "key_active", &first]);
    server.advance(Duration::from_secs(10));
    for (query, expected) in [
        ("", &["key_ended", "key_off-past", "key_past", "key_off", "key_owned", "key_active", &first][..]),
        ("status=active", &["key_owned", "key_active", &first]),
        ("status=expired", &["key_past"]),
        ("status=disabled", &["key_off-past", "key_off"]),
        ("status=revoked", &["key_ended"]),
        ("organization_id=org_1", &["key_owned", "key_active"]),
        ("organization_id=org_none", &[]),
        ("user_id=user_1", &["key_owned"]),
        ("scope=workflows:read", &["key_off", "key_active"]),
        ("scope=workflows:*", &["key_owned"]),
        ("q=aLPHA", &["key_off", "key_owned", "key_active"]),
        ("q=alpha&organization_id=org_2&status=disabled&scope=workflows:write", &["key_off"]),
    ] {
        assert_eq!(ids(query).await, expected, "{query}");
    }
    let shown = expect_ok(admin.get("/api-keys?q=beta").await, 200);
    assert_eq!(column(&shown, "status"), ["disabled", "expired"]);
    let (org_client, resource) = server.key(Some("org_1"), &["admin:keys"]).await;
    let visible = column(&expect_ok(org_client.get("/api-keys").await, 200), "id");
    assert_eq!(visible, [resource["id"].as_str().unwrap(), "key_owned", "key_active"]);
}

#[tokio::test]
async fn whoami_returns_key_organization_and_scopes() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (org_client, mut resource) = server.key(Some("org_1"), &["transactions:*", "admin:keys"]).await;
    resource.as_object_mut().unwrap().remove("key");
    assert_eq!(
        expect_ok(org_client.get("/whoami").await, 200),
        json!({"api_key": resource, "organization": {"id": "org_1", "name": "org_1"}, "rate_limit": null,
            "organization_rate_limit": null, "scopes": ["admin:keys", "transactions:read", "transactions:write"]})
    );
    let admin = expect_ok(server.admin().get("/whoami").await, 200);
    assert_eq!((&admin["organization"], &admin["api_key"]["scopes"]), (&Value::Null, &json!(["*"])));
    assert_eq!(admin["scopes"].as_array().unwrap().len(), 11, "the wildcard is expanded");
    expect_ok(server.admin().patch("/organizations/org_1", json!({"name": "Renamed"})).await, 200);
    assert_eq!(expect_ok(org_client.get("/whoami").await, 200)["organization"]["name"], "Renamed");
}
