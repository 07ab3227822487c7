//! What the configuration demands of keys: when they end, from where they come, what they begin with.

use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;
use tollhouse::service::api_keys;

use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Binary, NOW, Server};

const DAY: i64 = 86_400_000;

fn in_days(days: i64) -> String {
    Timestamp::from_millis(NOW + days * DAY).to_string()
}

fn key(more: Value) -> Value {
    let mut key = json!({"name": "n", "scopes": ["workflows:read"]});
    key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    key
}

#[tokio::test]
async fn keys_end_when_they_must() {
    let server = Server::start().await;
    let admin = server.admin();
    expect_ok(admin.post("/api-keys", key(json!({"id": "key_old"}))).await, 201);
    expect_ok(server.configure(json!({"keys": {"max_expiry_days": 30}})).await, 200);

    let late = &[("/expires_at", "EXCEEDS_POLICY")];
    expect_invalid(&admin.post("/api-keys", key(json!({"expires_at": null}))).await, late);
    let never = admin.post("/api-keys", key(json!({"expires_at": in_days(31)}))).await;
    expect_invalid(&never, late);
    assert!(never.text.contains("30 days") && never.text.contains(&in_days(30)), "{}", never.text);
    let last =
        expect_ok(admin.post("/api-keys", key(json!({"id": "key_1", "expires_at": in_days(30)}))).await, 201);
    assert_eq!(last["expires_at"], in_days(30));
    // Whose maker names none, gets the latest, or the default.
    assert_eq!(expect_ok(admin.post("/api-keys", key(json!({}))).await, 201)["expires_at"], in_days(30));
    expect_ok(server.configure(json!({"keys": {"default_expiry_days": 7}})).await, 200);
    assert_eq!(expect_ok(admin.post("/api-keys", key(json!({}))).await, 201)["expires_at"], in_days(7));
    expect_invalid(
        &server.configure(json!({"keys": {"max_expiry_days": 6}})).await,
        &[("/keys/max_expiry_days", "INVALID_VALUE")],
    );

    expect_invalid(&admin.patch("/api-keys/key_1", json!({"expires_at": null})).await, late);
    expect_invalid(&admin.patch("/api-keys/key_1", json!({"expires_at": in_days(31)})).await, late);
    expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_days(29)})).await, 200);
    // One that was there before stays, can be changed otherwise, rotated, and given an end.
    expect_ok(admin.patch("/api-keys/key_old", json!({"name": "renamed", "expires_at": null})).await, 200);
    expect_ok(admin.post("/api-keys/key_old/rotate", json!({})).await, 200);
    expect_ok(admin.patch("/api-keys/key_old", json!({"expires_at": in_days(1)})).await, 200);
    expect_invalid(&admin.patch("/api-keys/key_old", json!({"expires_at": null})).await, late);
}

#[tokio::test]
async fn administrative_keys_say_from_where_they_come() {
    let server = Server::start().await;
    let admin = server.admin();
    let administrative = |id: &str| key(json!({"id": id, "scopes": ["admin:users", "admin:keys"]}));
    expect_ok(admin.post("/api-keys", administrative("key_old")).await, 201);
    expect_ok(server.configure(json!({"keys": {"require_allowed_ips_for_admin": true}})).await, 200);

    let bare = &[("/allowed_ips", "EXCEEDS_POLICY")];
    for scopes in [json!(["admin:users"]), json!(["keys:verify"]), json!(["*"]), json!(["admin:*"])] {
        expect_invalid(&admin.post("/api-keys", key(json!({"scopes": scopes}))).await, bare);
    }
    expect_ok(admin.post("/api-keys", key(json!({"id": "key_1"}))).await, 201);
    expect_invalid(&admin.patch("/api-keys/key_1", json!({"scopes": ["keys:verify"]})).await, bare);
    let both = json!({"scopes": ["keys:verify"], "allowed_ips": ["192.0.2.0/24"]});
    expect_ok(admin.patch("/api-keys/key_1", both).await, 200);
    expect_invalid(&admin.patch("/api-keys/key_1", json!({"allowed_ips": null})).await, bare);
    // One that was there before can be narrowed and renamed, not widened.
    expect_ok(admin.patch("/api-keys/key_old", json!({"name": "x", "scopes": ["admin:keys"]})).await, 200);
    expect_invalid(
        &admin.patch("/api-keys/key_old", json!({"scopes": ["admin:keys", "keys:verify"]})).await,
        bare,
    );
    // Both rules at once are told at once.
    expect_ok(server.configure(json!({"keys": {"max_expiry_days": 30}})).await, 200);
    let answer = admin.post("/api-keys", key(json!({"scopes": ["*"], "expires_at": null}))).await;
    expect_invalid(&answer, &[bare[0], ("/expires_at", "EXCEEDS_POLICY")]);
}

/// The rules lock nobody out: the operator's own keys are outside of them.
#[tokio::test]
async fn the_operators_keys_are_not_bound() {
    let server = Server::start().await;
    let rules = json!({"keys": {"max_expiry_days": 1, "require_allowed_ips_for_admin": true, "prefix": "acme"},
        "maintenance": {"read_only": true}});
    expect_ok(server.configure(rules.clone()).await, 200);
    let made = api_keys::create_as_operator(&server.app, "n", vec!["*".to_owned()]).await.unwrap();
    assert!(
        made.key.starts_with("acme_") && made.api_key.start.starts_with("acme_"),
        "{}",
        made.api_key.start
    );
    assert_eq!((made.api_key.expires_at, made.api_key.allowed_ips), (None, None));
    let locked_in = server.client(Some(&made.key));
    expect_ok(locked_in.get("/whoami").await, 200);

    // As is the very first, with rules that were there from the start.
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
        command.env("TOLLHOUSE_KEYS__MAX_EXPIRY_DAYS", "1").env("TOLLHOUSE_MAINTENANCE__READ_ONLY", "true");
        command.env("TOLLHOUSE_KEYS__REQUIRE_ALLOWED_IPS_FOR_ADMIN", "true");
    });
    let me = server.admin().get("/whoami").await;
    assert_eq!((me.status, &me.data()["api_key"]["expires_at"]), (200, &Value::Null), "{me:?}");
}

#[tokio::test]
async fn a_new_prefix_is_for_new_keys_and_the_old_ones_stay_good() {
    let server = Server::start().await;
    let admin = server.admin();
    let (old, resource) = server.key_with(key(json!({"id": "key_old"}))).await;
    expect_ok(server.configure(json!({"keys": {"prefix": "acme"}})).await, 200);
    expect_ok(old.get("/whoami").await, 200);
    let (new, made) = server.key_with(key(json!({}))).await;
    let secret = new.key.clone().unwrap();
    assert!(secret.starts_with("acme_"), "not so: {}", made["start"]);
    assert_eq!(made["start"], secret[..9]);
    expect_ok(new.get("/whoami").await, 200);
    let rotated = expect_ok(admin.post("/api-keys/key_old/rotate", json!({})).await, 200);
    assert!(rotated["key"].as_str().unwrap().starts_with("acme_"));
    assert_eq!(resource["start"].as_str().unwrap().len(), 9);
    expect_ok(old.get("/whoami").await, 200);

    // A wrong checksum is seen under either prefix.
    let verify = async |secret: &str| {
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        expect_ok(admin.send(request.json(&json!({"key": secret}))).await, 200)["code"].clone()
    };
    for prefix in ["acme", "toll"] {
        let wrong = format!("{prefix}_0123456789abcdefABCDEF0123456789000000");
        assert_eq!(verify(&wrong).await, "MALFORMED", "{prefix}");
    }
    assert_eq!(verify("other_0123456789abcdefABCDEF0123456789000000").await, "NOT_FOUND");
    expect_error(
        &server.client(Some("acme_0123456789abcdefABCDEF0123456789000000")).get("/whoami").await,
        401,
        "INVALID_API_KEY",
    );
}

/// A key from elsewhere that begins like a new prefix, and has no checksum, stays good.
#[tokio::test]
async fn a_new_prefix_does_not_make_foreign_keys_malformed() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = "acme_0123456789abcdefABCDEF0123456789000000";
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", foreign);
    });
    let client = server.client(foreign);
    expect_ok(client.get("/whoami").await, 200);
    let request = client.request(reqwest::Method::PATCH, "/config").header("if-match", "*");
    expect_ok(client.send(request.json(&json!({"keys": {"prefix": "acme"}}))).await, 200);
    expect_ok(client.get("/whoami").await, 200);
    let made = expect_ok(client.post("/api-keys", key(json!({}))).await, 201);
    assert!(made["key"].as_str().unwrap().starts_with("acme_"));
}
