//! Prefixes of keys: with the command line, and through imports and restores.

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::verify::secret::hash_secret;

use super::{code, data, result, run, write_lines};
use crate::support::{Binary, Client};

/// Digits with a checksum that is wrong with every prefix of these tests.
const WRONG_DIGITS: &str = "0123456789abcdefABCDEF0123456789000000";

async fn configure(client: &Client, prefixes: &[&str]) {
    let request = client.request(Method::PATCH, "/config").header("if-match", "*");
    data(client.send(request.json(&json!({"keys": {"prefixes": prefixes}}))).await);
}

async fn create(client: &Client, fields: Value) -> Value {
    let mut key = json!({"name": "n", "scopes": []});
    key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    data(client.post("/api-keys", key).await)
}

async fn rotate(client: &Client, id: &str) -> String {
    let rotated = data(client.post(&format!("/api-keys/{id}/rotate"), json!({})).await);
    rotated["key"].as_str().unwrap().to_owned()
}

fn has_prefix(secret: &str, prefix: &str) -> bool {
    secret.rsplit_once('_').is_some_and(|(found, digits)| found == prefix && digits.len() == 38)
}

/// The first key of a new database, and the keys of the command line, have the first prefix.
#[tokio::test]
async fn keys_of_the_command_line_have_the_first_prefix() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("admin.key");
    let server = Binary::serve_with(&dir, |command| {
        command.env("TOLLHOUSE_KEYS__PREFIXES", "acme_live,acme_test");
        command.arg("--admin-key-file").arg(&file);
    });
    let first = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(has_prefix(&first, "acme_live"));
    let admin = server.client(&first);
    assert_eq!(data(admin.get("/whoami").await)["api_key"]["start"], first[..14]);
    let created = result(&dir, &["admin-key", "create"]);
    assert!(has_prefix(created["key"].as_str().unwrap(), "acme_live"));
    // The configured prefixes are initial values: the command line follows the database.
    configure(&admin, &["acme_test", "acme_live"]).await;
    let created = result(&dir, &["admin-key", "create"]);
    assert!(has_prefix(created["key"].as_str().unwrap(), "acme_test"));
    assert_eq!(code(&admin, created["key"].as_str().unwrap()).await, "VALID");
    for prefix in ["acme_live", "acme_test"] {
        assert_eq!(code(&admin, &format!("{prefix}_{WRONG_DIGITS}")).await, "MALFORMED");
    }
}

#[tokio::test]
async fn a_given_first_key_has_a_right_checksum_with_any_configured_prefix() {
    let temp = tempfile::tempdir().unwrap();
    let serve = |key: String| {
        let mut command = Binary::command(&["--listen", "127.0.0.1:0", "--data"]);
        command.arg(temp.path().join("data")).env("TOLLHOUSE_KEYS__PREFIXES", "acme_live,acme_test");
        command.env("TOLLHOUSE_ADMIN_KEY", key);
        command
    };
    let output = serve(format!("acme_test_{WRONG_DIGITS}")).output().unwrap();
    let error = super::stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("the key has the form acme_test_… but a wrong checksum"), "{error}");
    let other = Binary::serve_with(&temp.path().join("other"), |command| {
        command
            .env("TOLLHOUSE_KEYS__PREFIXES", "acme_test")
            .env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
    });
    let key = create(&other.admin(), json!({})).await["key"].as_str().unwrap().to_owned();
    let server = Binary::start(serve(key.clone()));
    let whoami = data(server.client(&key).get("/whoami").await);
    assert_eq!(whoami["api_key"]["start"], key[..14]);
}

/// Keys of another system that start like a prefix verify if they were imported before the prefix was configured, or
/// after settings that were imported with it.
#[tokio::test]
async fn imported_keys_verify_without_a_checksum_under_prefixes_that_are_configured_later() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("keys.ndjson");
    let server = Binary::serve(&dir);
    let admin = server.admin();
    let key = |secret: &str, fields: Value| {
        let hash = hex::encode(hash_secret(secret));
        let mut key =
            json!({"hash": hash, "hash_encoding": "hex", "organization_id": null, "name": "n", "scopes": []});
        key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        key
    };
    let secret = |prefix: &str| format!("{prefix}_{WRONG_DIGITS}");
    let previous = secret("old");
    write_lines(
        &file,
        &[
            json!({"type": "settings", "keys": {"prefixes": ["toll", "with"]}}),
            key(&secret("with"), json!({"start": "with_0123"})),
            key(&secret("acme"), json!({"start": "acme_0123"})),
            key(&secret("acme_live"), json!({"start": "acme_live_01"})),
            key(&secret("short"), json!({"start": "sh"})),
            key(
                "rotated elsewhere",
                json!({"start": "rota", "previous_hash": hex::encode(hash_secret(&previous)),
                "previous_secret_expires_at": "2999-01-01T00:00:00Z"}),
            ),
        ],
    );
    assert_eq!(result(&dir, &["import", file.to_str().unwrap()])["refused"], 0);
    let prefixes = ["with", "acme", "acme_live", "short", "old"];
    for prefix in prefixes {
        while code(&admin, &secret(prefix)).await == "NOT_FOUND" {
            tokio::task::yield_now().await;
        }
    }
    configure(&admin, &prefixes).await;
    for prefix in prefixes {
        assert_eq!(code(&admin, &secret(prefix)).await, "VALID", "{prefix}");
        let created = create(&admin, json!({"prefix": prefix})).await;
        assert_eq!(code(&admin, created["key"].as_str().unwrap()).await, "VALID", "{prefix}");
    }
    // Their secrets get the prefix with which they start.
    let keys = data(admin.get("/api-keys?order=asc&limit=100").await);
    let acme_live = keys.as_array().unwrap().iter().find(|key| key["start"] == "acme_live_01").unwrap();
    assert!(has_prefix(&rotate(&admin, acme_live["id"].as_str().unwrap()).await, "acme_live"));
}

/// Keys keep their prefix, and wrong checksums are refused, although the backup doesn't know the prefix.
#[tokio::test]
async fn a_restore_keeps_the_prefixes_that_were_used_since_the_backup() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let keys = temp.path().join("keys.ndjson");
    let backup = temp.path().join("b.db");
    let mut server = Binary::serve(&dir);
    let foreign = json!({"hash": hex::encode(hash_secret("foreign")), "hash_encoding": "hex", "organization_id": null,
        "id": "key_foreign", "name": "n", "scopes": [], "start": "fore"});
    write_lines(&keys, &[foreign]);
    assert_eq!(result(&dir, &["import", keys.to_str().unwrap()])["refused"], 0);
    result(&dir, &["backup", backup.to_str().unwrap()]);
    let admin = server.admin();
    configure(&admin, &["acme"]).await;
    let rotated = rotate(&admin, "key_foreign").await;
    assert!(has_prefix(&rotated, "acme"));
    assert_eq!(server.terminate(), Some(0));
    result(&dir, &["restore", backup.to_str().unwrap(), "--force"]);

    let server = Binary::serve(&dir);
    let admin = server.admin();
    assert_eq!(data(admin.get("/config").await)["keys"]["prefixes"], json!(["toll"]));
    assert_eq!(code(&admin, &rotated).await, "VALID");
    assert_eq!(code(&admin, &format!("acme_{WRONG_DIGITS}")).await, "MALFORMED");
    assert!(has_prefix(&rotate(&admin, "key_foreign").await, "acme"));
}

/// Keys keep their prefix on another server, also a removed one, and wrong checksums are refused there.
#[tokio::test]
async fn an_import_keeps_the_prefixes_of_the_exporting_server() {
    let temp = tempfile::tempdir().unwrap();
    let [source, target] = ["source", "target"].map(|name| temp.path().join(name));
    let file = temp.path().join("all.ndjson");
    let mut server = Binary::serve(&source);
    let admin = server.admin();
    configure(&admin, &["acme"]).await;
    let secret = create(&admin, json!({"id": "key_acme"})).await["key"].as_str().unwrap().to_owned();
    configure(&admin, &["acme_live"]).await;
    assert_eq!(server.terminate(), Some(0));
    assert!(run(&source, &["export", "--output", file.to_str().unwrap()]).status.success());
    let first = result(&target, &["import", file.to_str().unwrap()]);
    assert_eq!((&first["refused"], &first["imported"]["settings"]), (&json!(0), &json!(1)), "{first}");
    let again = result(&target, &["import", file.to_str().unwrap()]);
    for kind in ["api_key", "settings"] {
        assert_eq!(again["unchanged"][kind], first["imported"][kind], "{again}");
    }

    let server = Binary::serve(&target);
    let admin = server.admin();
    assert_eq!(data(admin.get("/config").await)["keys"]["prefixes"], json!(["acme_live"]));
    for prefix in ["toll", "acme", "acme_live"] {
        assert_eq!(code(&admin, &format!("{prefix}_{WRONG_DIGITS}")).await, "MALFORMED", "{prefix}");
    }
    assert_eq!(code(&admin, &secret).await, "VALID");
    assert!(has_prefix(&rotate(&admin, "key_acme").await, "acme"));
}
