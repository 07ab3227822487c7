//! Prefixes of keys: which ones can be chosen, what happens to keys whose prefix is removed, and when a wrong checksum
//! is refused.

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Answer, Binary, Client, Server};

/// Random digits and a checksum that is wrong with every prefix of these tests.
const WRONG_DIGITS: &str = "0123456789abcdefABCDEF0123456789000000";

/// A key of another system that looks like one with the prefix `acme`, but for its checksum.
const FOREIGN: &str = "acme_k3Jw9QxT7bZr2LmV5hYd8NcP4sGf6aBe1uXoRt";

fn key(fields: Value) -> Value {
    let mut key = json!({"name": "n", "scopes": ["workflows:read"]});
    key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    key
}

async fn configure(client: &Client, prefixes: &[&str]) -> Answer {
    let request = client.request(Method::PATCH, "/config").header("if-match", "*");
    client.send(request.json(&json!({"keys": {"prefixes": prefixes}}))).await
}

/// The code of the verification of a secret.
async fn verify(client: &Client, secret: &str) -> String {
    let request = client.request_at_root(Method::POST, "/v1/keys/verify");
    let answer = client.send(request.json(&json!({"key": secret}))).await;
    expect_ok(answer, 200)["code"].as_str().unwrap().to_owned()
}

/// The code of a secret with this prefix and a wrong checksum: `MALFORMED` if it is refused without a lookup.
async fn verify_wrong(client: &Client, prefix: &str) -> String {
    verify(client, &format!("{prefix}_{WRONG_DIGITS}")).await
}

async fn create(client: &Client, fields: Value) -> (String, Value) {
    let created = expect_ok(client.post("/api-keys", key(fields)).await, 201);
    (created["key"].as_str().unwrap().to_owned(), created)
}

/// Asserts that a secret consists of this prefix and digits, and that the start of its key shows the prefix.
#[track_caller]
fn assert_prefix(secret: &str, key: &Value, prefix: &str) {
    assert_eq!(secret.rsplit_once('_').map(|(prefix, digits)| (prefix, digits.len())), Some((prefix, 38)));
    assert_eq!(key["start"], secret[..prefix.len() + 5]);
}

#[tokio::test]
async fn a_new_key_has_the_chosen_prefix_or_the_first_one() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let (of_organization, _) = server.key(Some("org_1"), &["admin:keys", "workflows:read"]).await;
    expect_ok(configure(&admin, &["acme_live", "acme", "acme_test"]).await, 200);
    for client in [&admin, &of_organization] {
        for (fields, prefix) in [
            (json!({}), "acme_live"),
            (json!({"prefix": "acme_test"}), "acme_test"),
            (json!({"prefix": "acme"}), "acme"),
        ] {
            let (secret, created) = create(client, fields).await;
            assert_prefix(&secret, &created, prefix);
            assert_eq!(verify(&admin, &secret).await, "VALID");
        }
    }
    // The order counts.
    expect_ok(configure(&admin, &["acme_test", "acme_live"]).await, 200);
    let (secret, created) = create(&admin, json!({})).await;
    assert_prefix(&secret, &created, "acme_test");
}

#[tokio::test]
async fn a_prefix_that_is_not_configured_is_refused_with_the_list() {
    let server = Server::start().await;
    let admin = server.admin();
    expect_ok(configure(&admin, &["acme_live", "acme_test"]).await, 200);
    let long = "x".repeat(100_000);
    for prefix in ["toll", "acme", "ACME_LIVE", "", "key", "acme_live_", &long] {
        let answer = admin.post("/api-keys", key(json!({"prefix": prefix}))).await;
        expect_invalid(&answer, &[("/prefix", "UNKNOWN_PREFIX")]);
        assert!(answer.text.contains("acme_live, acme_test") && answer.text.len() < 1000, "{}", answer.text);
    }
    for (prefix, code) in
        [(json!(7), "INVALID_TYPE"), (json!(["acme_live"]), "INVALID_TYPE"), (Value::Null, "NOT_NULLABLE")]
    {
        expect_invalid(&admin.post("/api-keys", key(json!({"prefix": prefix}))).await, &[("/prefix", code)]);
    }
    // Together with all other faults.
    let body = json!({"scopes": ["no:such"], "prefix": "toll"});
    expect_invalid(
        &admin.post("/api-keys", body).await,
        &[("/name", "REQUIRED"), ("/scopes/0", "UNKNOWN_SCOPE"), ("/prefix", "UNKNOWN_PREFIX")],
    );
    let (_, created) = create(&admin, json!({})).await;
    let path = format!("/api-keys/{}", created["id"].as_str().unwrap());
    expect_invalid(
        &admin.patch(&path, json!({"prefix": "acme_test"})).await,
        &[("/prefix", "UNKNOWN_FIELD")],
    );
}

/// An earlier operation of a batch may add the prefix, or remove it.
#[tokio::test]
async fn a_batch_uses_the_prefixes_of_its_earlier_operations() {
    let server = Server::start().await;
    let admin = server.admin();
    let change = |prefixes: &[&str]| json!({"method": "PATCH", "path": "/config", "if_match": "*", "body": {"keys": {"prefixes": prefixes}}});
    let create = |fields: Value| json!({"method": "POST", "path": "/api-keys", "body": key(fields)});
    let operations = [
        change(&["acme"]),
        create(json!({"prefix": "acme"})),
        create(json!({})),
        create(json!({"prefix": "toll"})),
        change(&["toll"]),
        create(json!({})),
    ];
    let answer = admin.post("/batch", json!({"atomic": false, "operations": operations})).await;
    let results = expect_ok(answer, 200)["results"].clone();
    let statuses: Vec<_> =
        results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 201, 201, 400, 200, 201], "{results}");
    for (index, prefix) in [(1, "acme"), (2, "acme"), (5, "toll")] {
        let created = &results[index]["body"]["data"];
        assert_prefix(created["key"].as_str().unwrap(), created, prefix);
        assert_eq!(verify(&admin, created["key"].as_str().unwrap()).await, "VALID");
    }
}

#[tokio::test]
async fn keys_with_a_removed_prefix_stay_valid_and_keep_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let (old, created) = create(&admin, json!({"id": "key_old"})).await;
    assert_prefix(&old, &created, "toll");
    expect_ok(configure(&admin, &["acme"]).await, 200);
    assert_eq!(verify(&admin, &old).await, "VALID");
    // Rotations keep the removed prefix, also the second one.
    let mut secrets = vec![old];
    for _ in 0..2 {
        let rotated = expect_ok(admin.post("/api-keys/key_old/rotate", json!({})).await, 200);
        let secret = rotated["key"].as_str().unwrap().to_owned();
        assert_prefix(&secret, &rotated, "toll");
        assert_eq!(verify(&admin, &secret).await, "VALID");
        secrets.push(secret);
    }
    assert_eq!(verify(&admin, &secrets[1]).await, "VALID", "the previous secret");

    // A wrong checksum is refused under both prefixes, also after a restart, and after the prefix is added back.
    let server = Server::start_in(server.stop().await, |_| {}).await;
    let admin = server.admin();
    for prefixes in [&["acme"][..], &["acme", "toll"], &["toll"], &["acme"]] {
        expect_ok(configure(&admin, prefixes).await, 200);
        for prefix in ["acme", "toll"] {
            assert_eq!(verify_wrong(&admin, prefix).await, "MALFORMED", "{prefix}");
        }
        assert_eq!(verify(&admin, &secrets[2]).await, "VALID");
    }
    assert_eq!(verify_wrong(&admin, "other").await, "NOT_FOUND");
    let wrong = format!("toll_{WRONG_DIGITS}");
    expect_error(&server.client(Some(&wrong)).get("/whoami").await, 401, "INVALID_API_KEY");
    expect_invalid(
        &admin.post("/api-keys", key(json!({"prefix": "toll"}))).await,
        &[("/prefix", "UNKNOWN_PREFIX")],
    );
}

/// A prefix that another one begins with: keys of one don't prevent that checksums of the other are checked.
#[tokio::test]
async fn prefixes_that_begin_alike_are_told_apart() {
    let server = Server::start().await;
    let admin = server.admin();
    for prefixes in [&["acme_live"][..], &["acme_live", "acme", "acme_live_eu", "live"]] {
        expect_ok(configure(&admin, prefixes).await, 200);
        for prefix in prefixes {
            let (secret, created) = create(&admin, json!({"prefix": prefix})).await;
            assert_prefix(&secret, &created, prefix);
            assert_eq!(verify(&admin, &secret).await, "VALID");
            assert_eq!(verify_wrong(&admin, prefix).await, "MALFORMED", "{prefix}");
            // The digits of a valid secret under another prefix.
            let digits = secret.rsplit_once('_').unwrap().1;
            for other in prefixes.iter().filter(|other| *other != prefix) {
                assert_eq!(
                    verify(&admin, &format!("{other}_{digits}")).await,
                    "MALFORMED",
                    "{prefix} {other}"
                );
            }
            let path = format!("/api-keys/{}", created["id"].as_str().unwrap());
            let rotated = expect_ok(admin.post(&format!("{path}/rotate"), json!({})).await, 200);
            assert_prefix(rotated["key"].as_str().unwrap(), &rotated, prefix);
            // Secrets are recognized in other fields with every prefix.
            let answer = admin.patch(&path, json!({"name": format!("x{secret}")})).await;
            expect_error(&answer, 400, "SECRET_IN_FIELD");
        }
    }
    assert_eq!(verify_wrong(&admin, "acme_test").await, "NOT_FOUND");
}

/// A server whose first key is [`FOREIGN`], and a client with it.
fn serve_with_foreign_key(dir: &std::path::Path) -> (Binary, Client) {
    let server = Binary::serve_with(dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", FOREIGN);
    });
    let client = server.client(FOREIGN);
    (server, client)
}

/// A foreign key without a checksum stays valid even if it starts with a new prefix.
#[tokio::test]
async fn a_new_prefix_does_not_make_foreign_keys_malformed() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = serve_with_foreign_key(dir.path());
    expect_ok(configure(&client, &["toll", "acme"]).await, 200);
    expect_ok(client.get("/whoami").await, 200);
    assert_eq!(verify_wrong(&client, "acme").await, "NOT_FOUND");
    let (secret, created) = create(&client, json!({"prefix": "acme"})).await;
    assert_prefix(&secret, &created, "acme");
    assert_eq!(verify(&client, &secret).await, "VALID");
}

/// The secret of a foreign key that was rotated stays valid in its grace period. Once it has ended, checksums are
/// checked when the prefix is added anew.
#[tokio::test]
async fn a_new_prefix_does_not_make_previous_foreign_secrets_malformed() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = serve_with_foreign_key(dir.path());
    let id = expect_ok(client.get("/whoami").await, 200)["api_key"]["id"].as_str().unwrap().to_owned();
    let rotated = expect_ok(client.post(&format!("/api-keys/{id}/rotate"), json!({})).await, 200);
    // A key in another format gets the default prefix.
    let secret = rotated["key"].as_str().unwrap();
    assert_prefix(secret, &rotated, "toll");
    let current = client.with_key(secret);
    expect_ok(configure(&current, &["toll", "acme"]).await, 200);
    assert_eq!(verify(&current, FOREIGN).await, "VALID");
    assert_eq!(verify_wrong(&current, "acme").await, "NOT_FOUND");
    expect_ok(current.post(&format!("/api-keys/{id}/expire-previous"), json!({})).await, 200);
    // An unrelated change doesn't decide anew.
    expect_ok(configure(&current, &["acme", "toll"]).await, 200);
    assert_eq!(verify_wrong(&current, "acme").await, "NOT_FOUND");
    expect_ok(configure(&current, &["toll"]).await, 200);
    expect_ok(configure(&current, &["toll", "acme"]).await, 200);
    assert_eq!(verify_wrong(&current, "acme").await, "MALFORMED");
    assert_ne!(verify(&current, FOREIGN).await, "VALID");
}

#[tokio::test]
async fn the_number_of_prefixes_ever_used_is_bounded() {
    let server = Server::start().await;
    let admin = server.admin();
    let (secret, _) = create(&admin, json!({})).await;
    let mut accepted = 0;
    let mut refused = 0;
    for change in 0..100 {
        let prefixes: Vec<_> = (0..16).map(|index| format!("p{change}_{index}")).collect();
        let before = admin.get("/config").await;
        let answer = server.configure(json!({"keys": {"prefixes": prefixes}})).await;
        match answer.status {
            200 => accepted += 1,
            _ => {
                expect_error(&answer, 409, "CONFLICT");
                assert!(answer.text.contains("At most 256 different prefixes"), "{}", answer.text);
                let after = admin.get("/config").await;
                assert_eq!((after.header("etag"), after.data()), (before.header("etag"), before.data()));
                refused += 1;
            }
        }
    }
    // 241 prefixes are known: 15 times 16, and the initial one.
    assert_eq!((accepted, refused), (15, 85));
    let file = server.dir.path().join("data/tollhouse.db");
    let sql = "SELECT count(*) FROM settings, json_each(known_prefixes)";
    let known: i64 = Connection::open(file).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(known, 241);
    // Earlier prefixes can be used again, and all are still checked.
    expect_ok(configure(&admin, &["toll", "p0_0"]).await, 200);
    for prefix in ["toll", "p0_0", "p14_15"] {
        assert_eq!(verify_wrong(&admin, prefix).await, "MALFORMED", "{prefix}");
    }
    assert_eq!(verify(&admin, &secret).await, "VALID");
}

/// While the list changes, each creation either succeeds with the chosen prefix or is refused, and verifications decide
/// as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_created_and_verified_while_the_list_changes() {
    let server = Server::start().await;
    let admin = server.admin();
    let (first, _) = create(&admin, json!({})).await;
    let changes = tokio::spawn({
        let admin = server.admin();
        async move {
            for round in 0..30 {
                let lists = [&["acme", "toll"][..], &["toll"], &["toll", "acme"], &["acme"]];
                expect_ok(configure(&admin, lists[round % lists.len()]).await, 200);
            }
        }
    });
    let create_until_done = |chosen: Option<&'static str>| {
        let admin = server.admin();
        let changes = changes.abort_handle();
        tokio::spawn(async move {
            let mut results = [0, 0];
            while !changes.is_finished() || results == [0, 0] {
                let fields = chosen.map_or(json!({}), |prefix| json!({"prefix": prefix}));
                let answer = admin.post("/api-keys", key(fields)).await;
                if answer.status == 400 {
                    assert!(chosen.is_some());
                    expect_invalid(&answer, &[("/prefix", "UNKNOWN_PREFIX")]);
                    results[1] += 1;
                    continue;
                }
                let created = expect_ok(answer, 201);
                let secret = created["key"].as_str().unwrap();
                let prefix = secret.rsplit_once('_').unwrap().0;
                assert!(
                    chosen.is_none_or(|chosen| chosen == prefix) && ["toll", "acme"].contains(&prefix),
                    "{prefix}"
                );
                assert_prefix(secret, &created, prefix);
                assert_eq!(verify(&admin, secret).await, "VALID");
                results[0] += 1;
            }
            results
        })
    };
    let creators = [None, Some("toll"), Some("acme")].map(create_until_done);
    while !changes.is_finished() {
        assert_eq!(verify(&admin, &first).await, "VALID");
        assert_eq!(verify_wrong(&admin, "toll").await, "MALFORMED");
        let code = verify_wrong(&admin, "acme").await;
        assert!(["NOT_FOUND", "MALFORMED"].contains(&code.as_str()), "{code}");
    }
    changes.await.unwrap();
    for creator in creators {
        assert!(creator.await.unwrap()[0] > 0);
    }
    assert_eq!(verify_wrong(&admin, "acme").await, "MALFORMED");
}
