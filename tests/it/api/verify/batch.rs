//! `POST /v1/keys/verify-batch`.

use reqwest::Method;
use serde_json::{Value, json};

use super::super::{expect_error, expect_invalid, expect_ok};
use super::{code, secret, start_server, unknown_key, verify_data};
use crate::support::{Answer, Client, Server};

/// A key of our form whose checksum is wrong.
const MALFORMED: &str = "toll_00000000000000000000000000000000000000";

async fn verify_batch(client: &Client, body: String) -> Answer {
    let request = client.request_at_root(Method::POST, "/v1/keys/verify-batch");
    client.send(request.header("content-type", "application/json").body(body)).await
}

fn body(verifications: &[Value]) -> String {
    json!({ "verifications": verifications }).to_string()
}

/// The results of a batch.
async fn results(client: &Client, verifications: &[Value]) -> Vec<Value> {
    let data = expect_ok(verify_batch(client, body(verifications)).await, 200);
    let results = data.as_array().unwrap().clone();
    assert_eq!(results.len(), verifications.len(), "{data}");
    results
}

#[tokio::test]
async fn verifications_are_decided_and_counted_in_order_as_if_each_had_come_alone() {
    let server = start_server().await;
    let limits = json!([{"limit": 3, "window_seconds": 86_400}, {"limit": 100, "period": "month"}]);
    let key = secret(&server, json!({"id": "key_1", "limits": limits})).await;
    let foreign = server.key(Some("org_2"), &[]).await.0.key.unwrap();
    let (verifier, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let answers = results(
        &verifier,
        &[
            json!({"key": key, "cost": 2}),
            json!({"key": key, "cost": 2}),
            json!({"key": key, "scopes": ["workflows:write"]}),
            json!({"key": key, "dry_run": true}),
            json!({"key": key}),
            json!({"key": foreign}),
            json!({"key": MALFORMED}),
        ],
    )
    .await;
    let told: Vec<_> =
        answers.iter().map(|data| (data["code"].as_str().unwrap(), data["valid"] == true)).collect();
    let expected = [
        ("VALID", true),
        ("RATE_LIMITED", false),
        ("INSUFFICIENT_SCOPE", false),
        ("VALID", true),
        ("VALID", true),
        ("NOT_FOUND", false),
        ("MALFORMED", false),
    ];
    assert_eq!(told, expected);
    let left = |data: &Value| [0, 1].map(|limit| data["limits"][limit]["remaining"].as_u64().unwrap());
    let left: Vec<_> = answers[..5].iter().map(left).collect();
    assert_eq!(left, [[1, 98], [1, 98], [1, 98], [1, 98], [0, 97]]);
    assert_eq!(answers[1]["retry_after_seconds"], 28_800);
    // Each result has the form of a single one.
    assert_eq!(answers[5], unknown_key("NOT_FOUND", "Key not found."));
    let single = verify_data(&verifier, json!({"key": key, "scopes": ["workflows:write"]})).await;
    let again = results(&verifier, &[json!({"key": key, "scopes": ["workflows:write"]})]).await.remove(0);
    assert_eq!(again, single);

    tollhouse::service::usage::flush(&server.app).await.unwrap();
    let usage = expect_ok(server.admin().get("/analytics/usage?key_id=key_1&period=1h").await, 200);
    let totals =
        ["requests", "allowed", "denied", "cost"].map(|field| usage["totals"][field].as_u64().unwrap());
    assert_eq!(totals, [6, 2, 4, 3], "the dry run isn't counted");
}

#[tokio::test]
async fn a_malformed_verification_refuses_the_batch_before_anything_is_decided() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({"limits": [{"limit": 5, "window_seconds": 86_400}]})).await;
    let valid = json!({"key": key});
    let wrong = [valid.clone(), json!({"key": 7, "ip": "here"}), json!({"more": 1, "cost": -1}), json!([])];
    let details = [
        ("/verifications/1/key", "INVALID_TYPE"),
        ("/verifications/1/ip", "INVALID_ADDRESS"),
        ("/verifications/2/key", "REQUIRED"),
        ("/verifications/2/more", "UNKNOWN_FIELD"),
        ("/verifications/2/cost", "INVALID_VALUE"),
        ("/verifications/3", "INVALID_TYPE"),
        ("/verifications/3/key", "REQUIRED"),
    ];
    expect_invalid(&verify_batch(&admin, body(&wrong)).await, &details);
    let unknown = [valid.clone(), json!({"key": key, "costs": {"bytes": 1}})];
    let refused = verify_batch(&admin, body(&unknown)).await;
    expect_error(&refused, 400, "UNKNOWN_METER");
    assert_eq!(refused.details(), [("/verifications/1/costs/bytes".to_owned(), "UNKNOWN_METER".to_owned())]);
    for count in [0, 101] {
        let answer = verify_batch(&admin, body(&vec![valid.clone(); count])).await;
        expect_invalid(&answer, &[("/verifications", "INVALID_LENGTH")]);
    }
    expect_invalid(&verify_batch(&admin, "{}".to_owned()).await, &[("/verifications", "REQUIRED")]);
    let data = verify_data(&admin, json!({"key": key, "dry_run": true})).await;
    assert_eq!(data["limits"][0]["remaining"], 5, "{data}");
    assert_eq!(results(&admin, &vec![json!({"key": key, "cost": 0}); 100]).await[99]["code"], "VALID");
}

#[tokio::test]
async fn a_batch_may_have_256_kib() {
    let server = start_server().await;
    let admin = server.admin();
    let key = secret(&server, json!({})).await;
    let text = body(&[json!({ "key": key })]);
    let padded = |size: usize| format!("{}{text}", " ".repeat(size - text.len()));
    assert_eq!(expect_ok(verify_batch(&admin, padded(256 * 1024)).await, 200)[0]["code"], "VALID");
    expect_error(&verify_batch(&admin, padded(256 * 1024 + 1)).await, 413, "PAYLOAD_TOO_LARGE");
}

/// A verification costs more than the 10 units of the first lease, and the next one can't be stored because another process
/// holds the lock on the database.
#[tokio::test]
async fn a_verification_that_cannot_be_decided_leaves_the_others() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let plain = secret(&server, json!({})).await;
    let quota = secret(&server, json!({"limits": [{"limit": 1000, "period": "month"}]})).await;
    for key in [&plain, &quota] {
        assert_eq!(code(&server.admin(), json!({"key": key})).await, "VALID");
    }
    let other = rusqlite::Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let list = [json!({"key": plain}), json!({"key": quota, "cost": 11}), json!({"key": plain})];
    let answers = results(&server.admin(), &list).await;
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(answers[1], unknown_key("UNAVAILABLE", "The verification could not be decided. Try again."));
    for (index, left) in [(0, 98), (2, 97)] {
        assert_eq!(
            (&answers[index]["code"], &answers[index]["limits"][0]["remaining"]),
            (&json!("VALID"), &json!(left))
        );
    }
    let data = verify_data(&server.admin(), json!({"key": quota, "cost": 11})).await;
    assert_eq!((&data["code"], &data["limits"][0]["remaining"]), (&json!("VALID"), &json!(988)), "{data}");
}

/// A caller with `admin:keys` can name a key by its ID, and then nothing is charged or recorded.
#[tokio::test]
async fn a_key_that_is_named_by_its_id_is_only_checked() {
    let server = start_server().await;
    let limits = json!([{"limit": 3, "window_seconds": 86_400}, {"limit": 100, "period": "month"}]);
    let fields = json!({"id": "key_1", "allowed_ips": ["203.0.113.0/24"], "limits": limits});
    let key = secret(&server, fields).await;
    let (manager, _) = server.key(Some("org_1"), &["admin:keys"]).await;
    for (fields, code) in [
        (json!({"ip": "203.0.113.7", "cost": 2}), "VALID"),
        (json!({"ip": "203.0.113.7", "cost": 2, "dry_run": false}), "VALID"),
        (json!({"ip": "203.0.113.7", "cost": 4}), "RATE_LIMITED"),
        (json!({"ip": "203.0.113.7", "scopes": ["workflows:write"]}), "INSUFFICIENT_SCOPE"),
        (json!({}), "IP_NOT_ALLOWED"),
    ] {
        let mut by_id = fields.clone();
        by_id["key_id"] = json!("key_1");
        let mut by_secret = fields;
        by_secret["key"] = json!(key);
        by_secret["dry_run"] = json!(true);
        let data = verify_data(&manager, by_id.clone()).await;
        assert_eq!(data["code"], code, "{data}");
        assert_eq!(data, verify_data(&manager, by_secret).await);
        assert_eq!(results(&manager, &[by_id]).await, [data]);
    }
    for client in [&manager, &server.admin()] {
        assert_eq!(code(client, json!({"key_id": "key_none"})).await, "NOT_FOUND");
    }
    let (foreign, _) = server.key(Some("org_2"), &["admin:keys"]).await;
    assert_eq!(code(&foreign, json!({"key_id": "key_1"})).await, "NOT_FOUND");
    let (verifier, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    for list in [vec![json!({"key_id": "key_1"})], vec![json!({"key": key}), json!({"key_id": "key_1"})]] {
        let answer = verify_batch(&verifier, body(&list)).await;
        expect_error(&answer, 403, "INSUFFICIENT_SCOPE");
        assert!(answer.header("www-authenticate").unwrap().contains("scope=\"admin:keys\""), "{answer:?}");
    }
    expect_invalid(
        &super::verify_key(&manager, json!({"key_id": "key_1", "key": key})).await,
        &[("/key_id", "CONFLICT")],
    );

    tollhouse::service::usage::flush(&server.app).await.unwrap();
    let admin = server.admin();
    let usage = expect_ok(admin.get("/analytics/usage?key_id=key_1&period=1h").await, 200);
    assert_eq!(usage["totals"]["requests"], 0);
    assert_eq!(expect_ok(admin.get("/analytics/logs").await, 200), json!([]));
    let data = verify_data(&admin, json!({"key_id": "key_1", "cost": 0})).await;
    assert_eq!([0, 1].map(|limit| data["limits"][limit]["remaining"].as_u64().unwrap()), [3, 100]);
    expect_ok(admin.delete("/api-keys/key_1").await, 200);
    assert_eq!(code(&manager, json!({"key_id": "key_1"})).await, "REVOKED");
}
