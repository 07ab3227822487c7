//! The configured rules for keys: the maximum expiry and allowlists of administrative keys.

use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;
use tollhouse::service::operator_keys;

use super::{expect_invalid, expect_ok};
use crate::support::{Binary, NOW, Server};

const DAY: i64 = 86_400_000;

fn in_days(days: i64) -> String {
    Timestamp::from_millis(NOW + days * DAY).to_string()
}

fn key(fields: Value) -> Value {
    let mut key = json!({"name": "n", "scopes": ["workflows:read"]});
    key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    key
}

#[tokio::test]
async fn keys_expire_within_the_configured_maximum() {
    let server = Server::start().await;
    let admin = server.admin();
    expect_ok(admin.post("/api-keys", key(json!({"id": "key_old"}))).await, 201);
    expect_ok(server.configure(json!({"keys": {"max_expiry_days": 30}})).await, 200);

    let exceeds_policy = &[("/expires_at", "EXCEEDS_POLICY")];
    expect_invalid(&admin.post("/api-keys", key(json!({"expires_at": null}))).await, exceeds_policy);
    let too_late = admin.post("/api-keys", key(json!({"expires_at": in_days(31)}))).await;
    expect_invalid(&too_late, exceeds_policy);
    assert!(too_late.text.contains("30 days") && too_late.text.contains(&in_days(30)), "{}", too_late.text);
    let latest =
        expect_ok(admin.post("/api-keys", key(json!({"id": "key_1", "expires_at": in_days(30)}))).await, 201);
    assert_eq!(latest["expires_at"], in_days(30));
    // Without `expires_at` a key gets the default expiry, or the maximum if there is no default.
    assert_eq!(expect_ok(admin.post("/api-keys", key(json!({}))).await, 201)["expires_at"], in_days(30));
    expect_ok(server.configure(json!({"keys": {"default_expiry_days": 7}})).await, 200);
    assert_eq!(expect_ok(admin.post("/api-keys", key(json!({}))).await, 201)["expires_at"], in_days(7));
    expect_invalid(
        &server.configure(json!({"keys": {"max_expiry_days": 6}})).await,
        &[("/keys/max_expiry_days", "INVALID_VALUE")],
    );

    expect_invalid(&admin.patch("/api-keys/key_1", json!({"expires_at": null})).await, exceeds_policy);
    expect_invalid(&admin.patch("/api-keys/key_1", json!({"expires_at": in_days(31)})).await, exceeds_policy);
    expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_days(29)})).await, 200);
    // An existing key is kept. It can be rotated, changed in other fields, and given an expiry.
    expect_ok(admin.patch("/api-keys/key_old", json!({"name": "renamed", "expires_at": null})).await, 200);
    expect_ok(admin.post("/api-keys/key_old/rotate", json!({})).await, 200);
    expect_ok(admin.patch("/api-keys/key_old", json!({"expires_at": in_days(1)})).await, 200);
    expect_invalid(&admin.patch("/api-keys/key_old", json!({"expires_at": null})).await, exceeds_policy);
}

#[tokio::test]
async fn administrative_keys_require_an_allowlist() {
    let server = Server::start().await;
    let admin = server.admin();
    let administrative = |id: &str| key(json!({"id": id, "scopes": ["admin:users", "admin:keys"]}));
    expect_ok(admin.post("/api-keys", administrative("key_old")).await, 201);
    expect_ok(server.configure(json!({"keys": {"require_allowed_ips_for_admin": true}})).await, 200);

    let exceeds_policy = &[("/allowed_ips", "EXCEEDS_POLICY")];
    for scopes in [json!(["admin:users"]), json!(["keys:verify"]), json!(["*"]), json!(["admin:*"])] {
        expect_invalid(&admin.post("/api-keys", key(json!({"scopes": scopes}))).await, exceeds_policy);
    }
    expect_ok(admin.post("/api-keys", key(json!({"id": "key_1"}))).await, 201);
    expect_invalid(&admin.patch("/api-keys/key_1", json!({"scopes": ["keys:verify"]})).await, exceeds_policy);
    let both = json!({"scopes": ["keys:verify"], "allowed_ips": ["192.0.2.0/24"]});
    expect_ok(admin.patch("/api-keys/key_1", both).await, 200);
    expect_invalid(&admin.patch("/api-keys/key_1", json!({"allowed_ips": null})).await, exceeds_policy);
    // An existing key can be narrowed and renamed, but not widened.
    expect_ok(admin.patch("/api-keys/key_old", json!({"name": "x", "scopes": ["admin:keys"]})).await, 200);
    expect_invalid(
        &admin.patch("/api-keys/key_old", json!({"scopes": ["admin:keys", "keys:verify"]})).await,
        exceeds_policy,
    );
    // Violations of both rules are reported at once.
    expect_ok(server.configure(json!({"keys": {"max_expiry_days": 30}})).await, 200);
    let answer = admin.post("/api-keys", key(json!({"scopes": ["*"], "expires_at": null}))).await;
    expect_invalid(&answer, &[exceeds_policy[0], ("/expires_at", "EXCEEDS_POLICY")]);
}

/// The rules don't apply to keys of the operator, so that they can't lock the operator out.
#[tokio::test]
async fn the_rules_do_not_apply_to_keys_of_the_operator() {
    let server = Server::start().await;
    let rules = json!({"keys": {"max_expiry_days": 1, "require_allowed_ips_for_admin": true, "prefixes": ["acme"]},
        "maintenance": {"read_only": true}});
    expect_ok(server.configure(rules.clone()).await, 200);
    let created = operator_keys::create_as_operator(&server.app, "n", vec!["*".to_owned()]).await.unwrap();
    assert!(
        created.key.starts_with("acme_") && created.api_key.start.starts_with("acme_"),
        "{}",
        created.api_key.start
    );
    assert_eq!((created.api_key.expires_at, created.api_key.allowed_ips), (None, None));
    let operator = server.client(Some(&created.key));
    expect_ok(operator.get("/whoami").await, 200);

    // Nor do they apply to the first admin key when they are configured from the start.
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
        command.env("TOLLHOUSE_KEYS__MAX_EXPIRY_DAYS", "1").env("TOLLHOUSE_MAINTENANCE__READ_ONLY", "true");
        command.env("TOLLHOUSE_KEYS__REQUIRE_ALLOWED_IPS_FOR_ADMIN", "true");
    });
    let whoami = server.admin().get("/whoami").await;
    assert_eq!((whoami.status, &whoami.data()["api_key"]["expires_at"]), (200, &Value::Null), "{whoami:?}");
}
