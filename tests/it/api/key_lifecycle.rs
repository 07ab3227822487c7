//! A key from its first call to its last: expiry, disabling, rotation, revocation, and the key that the
//! platform must not lose.

use std::time::Duration;

use serde_json::{Value, json};

use super::api_keys::in_seconds;
use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::{Client, Server};

const DAY: u64 = 86_400;

/// A platform key `key_1` with `admin:keys`: a client that has it.
async fn key(server: &Server, more: Value) -> Client {
    let mut body = json!({"id": "key_1", "name": "n", "scopes": ["admin:keys"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.key_with(body).await.0
}

/// Gives `key_1` a new secret: a client that has it, and the answer's data.
async fn rotate(server: &Server, body: Value) -> (Client, Value) {
    let rotated = expect_ok(server.admin().post("/api-keys/key_1/rotate", body).await, 200);
    (server.client(rotated["key"].as_str()), rotated)
}

async fn good(client: &Client) {
    expect_ok(client.get("/whoami").await, 200);
}

async fn bad(client: &Client) {
    expect_error(&client.get("/whoami").await, 401, "INVALID_API_KEY");
}

#[tokio::test]
async fn expires_to_the_millisecond() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({"expires_at": in_seconds(60)})).await;
    let etag = admin.get("/api-keys/key_1").await.header("etag").unwrap().to_owned();
    server.advance(Duration::from_millis(59_999));
    good(&client).await;
    server.advance(Duration::from_millis(1));
    bad(&client).await;
    let expired = admin.get("/api-keys/key_1").await;
    assert_eq!(expired.data()["status"], "expired");
    assert_eq!(expired.header("etag"), Some(etag.as_str()), "time alone changes no stored state");
    expect_error(&admin.post("/api-keys/key_1/rotate", json!({})).await, 409, "CONFLICT");
    let revived =
        expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_seconds(120)})).await, 200);
    assert_eq!(revived["status"], "active");
    good(&client).await;
    let for_ever = expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": null})).await, 200);
    assert_eq!(for_ever["expires_at"], Value::Null);
    server.advance(Duration::from_secs(1000 * DAY));
    good(&client).await;
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
    good(&client).await;
    server.advance(Duration::from_secs(30 * DAY));
    bad(&client).await;
}

#[tokio::test]
async fn i3_disabling_refuses_at_the_next_call_and_enabling_accepts() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({})).await;
    for _ in 0..2 {
        good(&client).await;
        assert_eq!(
            expect_ok(admin.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200)["status"],
            "disabled"
        );
        bad(&client).await;
        expect_ok(admin.patch("/api-keys/key_1", json!({"status": "active"})).await, 200);
    }
    good(&client).await;
    // A key may switch itself off, and then has no way back.
    expect_ok(client.patch("/api-keys/key_1", json!({"status": "disabled"})).await, 200);
    expect_error(&client.patch("/api-keys/key_1", json!({"status": "active"})).await, 401, "INVALID_API_KEY");
}

#[tokio::test]
async fn i3_narrower_scopes_and_addresses_hold_at_the_next_call() {
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
async fn i3_revocation_is_at_once_and_for_good() {
    let server = Server::start().await;
    let admin = server.admin();
    let client = key(&server, json!({})).await;
    let (client_2, _) = rotate(&server, json!({})).await;
    good(&client).await;
    good(&client_2).await;
    server.advance(Duration::from_secs(1));
    let revoked = admin.post("/api-keys/key_1/revoke", json!({"reason": "leaked"})).await;
    let etag = revoked.header("etag").unwrap().to_owned();
    let revoked = expect_ok(revoked, 200);
    for (field, value) in
        [("status", "revoked"), ("revoked_reason", "leaked"), ("revoked_at", &in_seconds(1))]
    {
        assert_eq!(revoked[field], value);
    }
    bad(&client).await;
    bad(&client_2).await;
    server.advance(Duration::from_secs(1));
    for again in [
        admin.post("/api-keys/key_1/revoke", json!({"reason": "another"})).await,
        admin.call(reqwest::Method::POST, "/api-keys/key_1/revoke", None).await,
        admin.delete("/api-keys/key_1").await,
    ] {
        assert_eq!(again.header("etag"), Some(etag.as_str()));
        assert_eq!(expect_ok(again, 200), revoked, "the first one counts");
    }
    for patch in [json!({"status": "active"}), json!({"name": "m"}), json!({})] {
        expect_error(&admin.patch("/api-keys/key_1", patch).await, 409, "CONFLICT");
    }
    expect_error(&admin.post("/api-keys/key_1/rotate", json!({})).await, 409, "CONFLICT");
    assert_eq!(expect_ok(admin.get("/api-keys/key_1").await, 200), revoked);
    bad(&client_2).await;
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
async fn the_old_secret_works_until_its_grace_ends() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = key(&server, json!({})).await;
    let before = expect_ok(admin.get("/api-keys/key_1").await, 200);
    server.advance(Duration::from_secs(1));
    let bare = admin.call(reqwest::Method::POST, "/api-keys/key_1/rotate", None).await;
    assert_eq!(bare.header("cache-control"), Some("no-store"));
    let mut rotated = expect_ok(bare, 200);
    let second = server.client(rotated["key"].as_str());
    assert_eq!(rotated["start"], second.key.as_ref().unwrap()[..9]);
    rotated.as_object_mut().unwrap().remove("key");
    let mut expected = before.clone();
    expected["start"] = rotated["start"].clone();
    expected["rotated_at"] = json!(in_seconds(1));
    expected["updated_at"] = json!(in_seconds(1));
    expected["previous_secret_expires_at"] = json!(in_seconds(1 + 86_400));
    assert_eq!(rotated, expected, "the same key, its grace a day");
    good(&first).await;
    good(&second).await;
    server.advance(Duration::from_millis(DAY * 1000 - 1));
    good(&first).await;
    server.advance(Duration::from_millis(1));
    bad(&first).await;
    good(&second).await;
    let after = expect_ok(admin.get("/api-keys/key_1").await, 200);
    assert_eq!(after["previous_secret_expires_at"], Value::Null);
}

#[tokio::test]
async fn at_most_two_secrets_live() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = key(&server, json!({})).await;
    let (second, _) = rotate(&server, json!({"grace_period_seconds": 604_800})).await;
    let (third, _) = rotate(&server, json!({"grace_period_seconds": 60})).await;
    bad(&first).await;
    good(&second).await;
    good(&third).await;
    let expired =
        expect_ok(admin.call(reqwest::Method::POST, "/api-keys/key_1/expire-previous", None).await, 200);
    assert_eq!(expired["previous_secret_expires_at"], Value::Null);
    bad(&second).await;
    good(&third).await;
    let etag = admin.get("/api-keys/key_1").await.header("etag").unwrap().to_owned();
    let again = admin.call(reqwest::Method::POST, "/api-keys/key_1/expire-previous", None).await;
    assert_eq!((again.status, again.header("etag")), (200, Some(etag.as_str())), "nothing more to end");
    good(&third).await;
}

/// With no grace the old secret is refused from the answer on; what was replaced once never comes back.
#[tokio::test]
async fn i3_no_grace_means_none() {
    let server = Server::start().await;
    let mut all = vec![key(&server, json!({})).await];
    for grace in [60, 0, 60, 0] {
        good(&all[all.len() - 1]).await;
        let (next, rotated) = rotate(&server, json!({"grace_period_seconds": grace})).await;
        assert_eq!(rotated["previous_secret_expires_at"].is_null(), grace == 0);
        all.push(next);
    }
    for old in &all[..4] {
        bad(old).await;
    }
    good(&all[4]).await;
}

#[tokio::test]
async fn the_grace_never_outlasts_the_key() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = key(&server, json!({"expires_at": in_seconds(3600)})).await;
    let (second, rotated) = rotate(&server, json!({"grace_period_seconds": 7200})).await;
    assert_eq!(rotated["previous_secret_expires_at"], in_seconds(3600));
    let sooner = expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_seconds(600)})).await, 200);
    assert_eq!(sooner["previous_secret_expires_at"], in_seconds(600), "nor when the key's end comes nearer");
    let later = expect_ok(admin.patch("/api-keys/key_1", json!({"expires_at": in_seconds(1200)})).await, 200);
    assert_eq!(later["previous_secret_expires_at"], in_seconds(600), "nor does it grow with the key");
    server.advance(Duration::from_secs(600));
    bad(&first).await;
    good(&second).await;
    server.advance(Duration::from_secs(600));
    bad(&second).await;
}

#[tokio::test]
async fn the_grace_is_bounded() {
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
    good(&client).await;
}

/// Every way to end the last key that can manage keys is closed, also for that key itself.
#[tokio::test]
async fn the_last_platform_key_that_manages_keys_stays() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    // None of these could let the platform's people back in.
    server.key(Some("org_1"), &["*"]).await;
    server.key(None, &["admin:users", "admin:config"]).await;
    server.key_with(json!({"name": "n", "scopes": ["*"], "expires_at": in_seconds(60)})).await;
    let (_, off) = server.key(None, &["*"]).await;
    let off = format!("/api-keys/{}", off["id"].as_str().unwrap());
    expect_ok(admin.patch(&off, json!({"status": "disabled"})).await, 200);
    let first = expect_ok(admin.get("/whoami").await, 200)["api_key"].clone();
    let path = format!("/api-keys/{}", first["id"].as_str().unwrap());
    for patch in [
        json!({"status": "disabled"}),
        json!({"scopes": ["admin:users"]}),
        json!({"scopes": []}),
        json!({"expires_at": in_seconds(1_000_000)}),
    ] {
        expect_error(&admin.patch(&path, patch).await, 409, "CONFLICT");
    }
    expect_error(&admin.delete(&path).await, 409, "CONFLICT");
    expect_error(&admin.post(&format!("{path}/revoke"), json!({})).await, 409, "CONFLICT");
    assert_eq!(expect_ok(admin.get(&path).await, 200), first, "nothing was done");
    // What keeps it able is allowed.
    expect_ok(admin.patch(&path, json!({"scopes": ["admin:*"], "name": "still there"})).await, 200);
    // It no longer has `*`, so that it can't touch a key that has.
    expect_error(&admin.patch(&off, json!({"name": "n"})).await, 403, "INSUFFICIENT_SCOPE");
}

/// With another one it may go, and then that one is the last.
#[tokio::test]
async fn the_last_but_one_platform_key_may_go() {
    let server = Server::start().await;
    let admin = server.admin();
    let other = key(&server, json!({"scopes": ["*"]})).await;
    let first = expect_ok(admin.get("/whoami").await, 200)["api_key"]["id"].as_str().unwrap().to_owned();
    expect_ok(other.delete(&format!("/api-keys/{first}")).await, 200);
    bad(&admin).await;
    expect_error(&other.delete("/api-keys/key_1").await, 409, "CONFLICT");
    let left = expect_ok(other.get("/api-keys?status=active").await, 200);
    assert_eq!(column(&left, "id"), ["key_1"]);
}
