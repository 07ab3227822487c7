//! The lifecycle of a key: expiry, disabling, rotation, revocation, and the last recovery key of the platform.

use std::time::Duration;

use serde_json::{Value, json};

use super::api_keys::in_seconds;
use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::{Client, Server};

const DAY: u64 = 86_400;

/// Creates the platform key `key_1` with `admin:keys` and returns a client that uses it.
async fn key(server: &Server, fields: Value) -> Client {
    let mut body = json!({"id": "key_1", "name": "n", "scopes": ["admin:keys"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.key_with(body).await.0
}

/// Rotates `key_1`. Returns a client with the new secret, and `data`.
async fn rotate(server: &Server, body: Value) -> (Client, Value) {
    let rotated = expect_ok(server.admin().post("/api-keys/key_1/rotate", body).await, 200);
    (server.client(rotated["key"].as_str()), rotated)
}

async fn expect_valid(client: &Client) {
    expect_ok(client.get("/whoami").await, 200);
}

async fn expect_refused(client: &Client) {
    expect_error(&client.get("/whoami").await, 401, "INVALID_API_KEY");
}

#[tokio::test]
async fn a_key_expires_to_the_millisecond() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({"expires_at": in_seconds(60)})).await;
    let etag = admin.get("/api-keys/key_1").await.header("etag").unwrap().to_owned();
    server.advance(Duration::from_millis(59_999));
    expect_valid(&client).await;
    server.advance(Duration::from_millis(1));
    expect_refused(&client).await;
    let expired = admin.get("/api-keys/key_1").await;
    assert_eq!(expired.data()["status"], "expired");
    assert_eq!(expired.header("etag"), Some(etag.as_str()), "expiry changes no stored state");
    expect_error(&admin.post("/api-keys/key_1/rotate", json!({})).await, 409, "CONFLICT");
    let revived =
        expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_seconds(120)})).await, 200);
    assert_eq!(revived["status"], "active");
    expect_valid(&client).await;
    let unlimited = expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": null})).await, 200);
    assert_eq!(unlimited["expires_at"], Value::Null);
    server.advance(Duration::from_secs(1000 * DAY));
    expect_valid(&client).await;
}

#[tokio::test]
async fn the_default_expiry_is_the_configured_one() {
    let server = Server::with(|config| config.keys.default_expiry_days = 30).await;
    let client = key(&server, json!({})).await;
    let admin = server.admin();
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200)["expires_at"], in_seconds(30 * 86_400));
    let never =
        expect_ok(admin.post("/api-keys", json!({"name": "n", "scopes": [], "expires_at": null})).await, 201);
    assert_eq!(never["expires_at"], Value::Null);
    expect_valid(&client).await;
    server.advance(Duration::from_secs(30 * DAY));
    expect_refused(&client).await;
}

#[tokio::test]
async fn i3_disabling_and_enabling_apply_to_the_next_call() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({})).await;
    for _ in 0..2 {
        expect_valid(&client).await;
        assert_eq!(
            expect_ok(admin.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200)["status"],
            "disabled"
        );
        expect_refused(&client).await;
        expect_ok(admin.patch("/api-keys/key_1", json!({"status": "active"})).await, 200);
    }
    expect_valid(&client).await;
    // A key can disable itself, and then can't enable itself.
    expect_ok(client.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200);
    expect_error(&client.patch("/api-keys/key_1", json!({"status": "active"})).await, 401, "INVALID_API_KEY");
}

#[tokio::test]
async fn i3_narrower_scopes_and_addresses_apply_to_the_next_call() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({"scopes": ["admin:keys", "admin:users"]})).await;
    expect_ok(client.get("/users").await, 200);
    expect_ok(admin.patch("/api-keys/key_1", json!({"scopes": ["admin:keys"]})).await, 200);
    expect_error(&client.get("/users").await, 403, "INSUFFICIENT_SCOPE");
    expect_ok(client.get("/api-keys").await, 200);
    expect_ok(admin.patch("/api-keys/key_1", json!({"allowed_ips": ["192.0.2.0/24"]})).await, 200);
    expect_error(&client.get("/api-keys").await, 403, "IP_NOT_ALLOWED");
    expect_ok(
        admin.patch("/api-keys/key_1", json!({"allowed_ips": ["192.0.2.0/24", "127.0.0.1"]})).await,
        200,
    );
    expect_ok(client.get("/api-keys").await, 200);
    expect_ok(admin.patch("/api-keys/key_1", json!({"allowed_ips": null})).await, 200);
    assert_eq!(expect_ok(client.get("/api-keys/key_1").await, 200)["allowed_ips"], Value::Null);
}

#[tokio::test]
async fn i3_revocation_is_immediate_and_permanent() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({})).await;
    let (rotated_client, _) = rotate(&server, json!({})).await;
    expect_valid(&client).await;
    expect_valid(&rotated_client).await;
    server.advance(Duration::from_secs(1));
    let revoked = admin.post("/api-keys/key_1/revoke", json!({"reason": "leaked"})).await;
    let etag = revoked.header("etag").unwrap().to_owned();
    let revoked = expect_ok(revoked, 200);
    for (field, value) in
        [("status", "revoked"), ("revoked_reason", "leaked"), ("revoked_at", &in_seconds(1))]
    {
        assert_eq!(revoked[field], value);
    }
    expect_refused(&client).await;
    expect_refused(&rotated_client).await;
    server.advance(Duration::from_secs(1));
    for again in [
        admin.post("/api-keys/key_1/revoke", json!({"reason": "another"})).await,
        admin.call(reqwest::Method::POST, "/api-keys/key_1/revoke", None).await,
        admin.delete("/api-keys/key_1").await,
    ] {
        assert_eq!(again.header("etag"), Some(etag.as_str()));
        assert_eq!(expect_ok(again, 200), revoked, "the first revocation is kept");
    }
    for patch in [json!({"status": "active"}), json!({"name": "m"}), json!({})] {
        expect_error(&admin.patch("/api-keys/key_1", patch).await, 409, "CONFLICT");
    }
    expect_error(&admin.post("/api-keys/key_1/rotate", json!({})).await, 409, "CONFLICT");
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), revoked);
    expect_refused(&rotated_client).await;
}

#[tokio::test]
async fn a_reason_is_optional_and_bounded() {
    let server = Server::start().await;
    let admin = server.admin();
    key(&server, json!({})).await;
    let revoke = "/api-keys/key_1/revoke";
    expect_invalid(
        &admin.post(revoke, json!({"reason": "r".repeat(201)})).await,
        &[("/reason", "INVALID_LENGTH")],
    );
    expect_invalid(&admin.post(revoke, json!({"why": "r"})).await, &[("/why", "UNKNOWN_FIELD")]);
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200)["status"], "active");
    let revoked = expect_ok(admin.call(reqwest::Method::POST, revoke, None).await, 200);
    assert_eq!((&revoked["status"], &revoked["revoked_reason"]), (&json!("revoked"), &Value::Null));
}

#[tokio::test]
async fn the_previous_secret_works_until_its_grace_period_ends() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = key(&server, json!({})).await;
    let before = expect_ok(admin.get("/api-keys/key_1").await, 200);
    server.advance(Duration::from_secs(1));
    let answer = admin.call(reqwest::Method::POST, "/api-keys/key_1/rotate", None).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let mut rotated = expect_ok(answer, 200);
    let second = server.client(rotated["key"].as_str());
    assert_eq!(rotated["start"], second.key.as_ref().unwrap()[..9]);
    rotated.as_object_mut().unwrap().remove("key");
    let mut expected = before.clone();
    expected["start"] = rotated["start"].clone();
    expected["rotated_at"] = json!(in_seconds(1));
    expected["updated_at"] = json!(in_seconds(1));
    expected["previous_secret_expires_at"] = json!(in_seconds(1 + 86_400));
    assert_eq!(rotated, expected, "the same key, with a grace period of one day");
    expect_valid(&first).await;
    expect_valid(&second).await;
    server.advance(Duration::from_millis(DAY * 1000 - 1));
    expect_valid(&first).await;
    server.advance(Duration::from_millis(1));
    expect_refused(&first).await;
    expect_valid(&second).await;
    let after = expect_ok(admin.get("/api-keys/key_1").await, 200);
    assert_eq!(after["previous_secret_expires_at"], Value::Null);
}

#[tokio::test]
async fn at_most_two_secrets_are_valid() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = key(&server, json!({})).await;
    let (second, _) = rotate(&server, json!({"grace_period_seconds": 604_800})).await;
    let (third, _) = rotate(&server, json!({"grace_period_seconds": 60})).await;
    expect_refused(&first).await;
    expect_valid(&second).await;
    expect_valid(&third).await;
    let expired =
        expect_ok(admin.call(reqwest::Method::POST, "/api-keys/key_1/expire-previous", None).await, 200);
    assert_eq!(expired["previous_secret_expires_at"], Value::Null);
    expect_refused(&second).await;
    expect_valid(&third).await;
    let etag = admin.get("/api-keys/key_1").await.header("etag").unwrap().to_owned();
    let again = admin.call(reqwest::Method::POST, "/api-keys/key_1/expire-previous", None).await;
    assert_eq!(
        (again.status, again.header("etag")),
        (200, Some(etag.as_str())),
        "there is no previous secret"
    );
    expect_valid(&third).await;
}

/// Without a grace period the previous secret is refused as soon as the rotation is answered. A replaced
/// secret never becomes valid again.
#[tokio::test]
async fn i3_without_a_grace_period_the_previous_secret_ends_at_once() {
    let server = Server::start().await;
    let mut clients = vec![key(&server, json!({})).await];
    for grace in [60, 0, 60, 0] {
        expect_valid(&clients[clients.len() - 1]).await;
        let (next, rotated) = rotate(&server, json!({"grace_period_seconds": grace})).await;
        assert_eq!(rotated["previous_secret_expires_at"].is_null(), grace == 0);
        clients.push(next);
    }
    for replaced in &clients[..4] {
        expect_refused(replaced).await;
    }
    expect_valid(&clients[4]).await;
}

#[tokio::test]
async fn the_grace_period_ends_with_the_key() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = key(&server, json!({"expires_at": in_seconds(3600)})).await;
    let (second, rotated) = rotate(&server, json!({"grace_period_seconds": 7200})).await;
    assert_eq!(rotated["previous_secret_expires_at"], in_seconds(3600));
    let sooner = expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_seconds(600)})).await, 200);
    assert_eq!(
        sooner["previous_secret_expires_at"],
        in_seconds(600),
        "an earlier expiry shortens the grace period"
    );
    let later = expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_seconds(1200)})).await, 200);
    assert_eq!(
        later["previous_secret_expires_at"],
        in_seconds(600),
        "a later expiry does not extend the grace period"
    );
    server.advance(Duration::from_secs(600));
    expect_refused(&first).await;
    expect_valid(&second).await;
    server.advance(Duration::from_secs(600));
    expect_refused(&second).await;
}

#[tokio::test]
async fn the_grace_period_is_validated() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({})).await;
    for grace in [json!(-1), json!(604_801), json!(1.5), json!("60"), json!(u64::MAX)] {
        let answer = admin.post("/api-keys/key_1/rotate", json!({"grace_period_seconds": grace})).await;
        expect_invalid(&answer, &[("/grace_period_seconds", "INVALID_VALUE")]);
    }
    let unknown = admin.post("/api-keys/key_1/rotate", json!({"grace": 60})).await;
    expect_invalid(&unknown, &[("/grace", "UNKNOWN_FIELD")]);
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200)["rotated_at"], Value::Null);
    expect_valid(&client).await;
}

/// The last recovery key can't be ended in any way, not even by itself.
#[tokio::test]
async fn the_last_recovery_key_cannot_be_ended() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    // None of these is a recovery key.
    server.key(Some("org_1"), &["*"]).await;
    server.key(None, &["admin:users", "admin:config"]).await;
    server.key_with(json!({"name": "n", "scopes": ["*"], "expires_at": in_seconds(60)})).await;
    server.key_with(json!({"name": "n", "scopes": ["*"], "allowed_ips": ["0.0.0.0/0", "::/0"]})).await;
    let (_, disabled) = server.key(None, &["*"]).await;
    let disabled = format!("/api-keys/{}", disabled["id"].as_str().unwrap());
    expect_ok(admin.patch(&disabled, json!({"status": "disabled"})).await, 200);
    let first = expect_ok(admin.get("/whoami").await, 200)["api_key"].clone();
    let path = format!("/api-keys/{}", first["id"].as_str().unwrap());
    for patch in [
        json!({"status": "disabled"}),
        json!({"scopes": ["admin:users"]}),
        json!({"scopes": []}),
        json!({"expires_at": in_seconds(1_000_000)}),
        json!({"allowed_ips": ["127.0.0.0/8"]}),
        json!({"allowed_ips": ["0.0.0.0/0", "::/0"]}),
    ] {
        expect_error(&admin.patch(&path, patch.clone()).await, 409, "CONFLICT");
        let operation = json!({"method": "PATCH", "path": path, "body": patch});
        expect_error(&admin.post("/batch", json!({"operations": [operation]})).await, 409, "BATCH_FAILED");
    }
    expect_error(&admin.delete(&path).await, 409, "CONFLICT");
    expect_error(&admin.post(&format!("{path}/revoke"), json!({})).await, 409, "CONFLICT");
    assert_eq!(expect_ok(admin.get(&path).await, 200), first, "the key is unchanged");
    // Changes that keep it a recovery key are allowed.
    expect_ok(admin.patch(&path, json!({"scopes": ["admin:*"], "name": "still there"})).await, 200);
    // It no longer has `*`, so it can't change a key that has it.
    expect_error(&admin.patch(&disabled, json!({"name": "n"})).await, 403, "INSUFFICIENT_SCOPE");
}

/// A recovery key can be revoked while another one exists, which then is the last.
#[tokio::test]
async fn a_recovery_key_can_be_revoked_while_another_one_exists() {
    let server = Server::start().await;
    let admin = server.admin();
    let other = key(&server, json!({"scopes": ["*"]})).await;
    let first = expect_ok(admin.get("/whoami").await, 200)["api_key"]["id"].as_str().unwrap().to_owned();
    expect_ok(other.delete(&format!("/api-keys/{first}")).await, 200);
    expect_refused(&admin).await;
    expect_error(&other.delete("/api-keys/key_1").await, 409, "CONFLICT");
    let remaining = expect_ok(other.get("/api-keys?status=active").await, 200);
    assert_eq!(column(&remaining, "id"), ["key_1"]);
}
