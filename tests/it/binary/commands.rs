//! Commands that run beside a running server.

use std::fs;

use serde_json::{Value, json};

use super::{assert_fails, run, stderr, stdout};
use crate::support::Binary;

#[tokio::test]
async fn a_locked_out_operator_regains_access_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());

    let created = run(dir.path(), &["admin-key", "create"]);
    assert!(created.status.success(), "{}", stderr(&created));
    let secret = stdout(&created);
    let whoami = server.client(secret.trim_end()).get("/whoami").await;
    assert_eq!(whoami.data()["api_key"]["scopes"], json!(["*"]), "{whoami:?}");
    assert!(!stderr(&created).contains(secret.trim_end()), "the secret belongs to standard output only");

    let args = ["admin-key", "create", "--name", "Ops", "--scopes", "admin:audit,keys:verify", "--json"];
    let created = super::json(&run(dir.path(), &args));
    assert_eq!(
        (&created["name"], &created["scopes"]),
        (&json!("Ops"), &json!(["admin:audit", "keys:verify"]))
    );
    let ops = server.client(created["key"].as_str().unwrap());
    assert_eq!(ops.get("/whoami").await.data()["api_key"]["id"], created["id"]);
    assert_eq!(ops.get("/users").await.code(), "INSUFFICIENT_SCOPE");

    let events = server.admin().get("/audit-logs?action=api_key.create").await;
    let event = &events.data()[0];
    assert_eq!((&event["actor"]["type"], &event["target"]["id"]), (&json!("cli"), &created["id"]));

    for (args, parts) in [
        (&["--scopes", "invoices:read"][..], &["invoices:read"][..]),
        (&["--scopes", "admin:keys,,"], &["\"\""]),
        (&["--name", ""], &["--name"]),
        (&["--name", "a\nb"], &["--name"]),
    ] {
        assert_fails(&run(dir.path(), &[&["admin-key", "create"], args].concat()), 1, parts);
    }
    let after = server.admin().get("/audit-logs?action=api_key.create").await;
    assert_eq!(after.data(), events.data(), "a refused command creates nothing");
}

#[test]
fn a_directory_without_a_database_is_refused_and_not_created() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("mistyped");
    for args in [&["admin-key", "create"][..], &["audit", "verify"], &["audit", "export"]] {
        assert_fails(&run(&dir, args), 1, &["No database at", dir.to_str().unwrap()]);
    }
    assert!(!dir.exists());
}

#[tokio::test]
async fn the_audit_log_is_exported_and_verified_beside_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    let body = json!({"id": "org_a", "name": "A", "email": "a@example.com"});
    assert_eq!(server.admin().post("/organizations", body).await.status, 201);

    let verified = run(dir.path(), &["audit", "verify"]);
    assert!(verified.status.success() && stdout(&verified).starts_with("valid: "), "{verified:?}");

    let file = dir.path().join("events.ndjson");
    let export = ["audit", "export", "--output", file.to_str().unwrap()];
    let exported = run(dir.path(), &export);
    assert!(exported.status.success(), "{}", stderr(&exported));
    let text = fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<_> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions[..2], ["api_key.create", "organization.create"]);
    assert_fails(&run(dir.path(), &export), 1, &[file.to_str().unwrap(), "exists"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "an existing file is not changed");

    let verify_file = |text: &str| {
        fs::write(&file, text).unwrap();
        let output = run(dir.path(), &["audit", "verify", file.to_str().unwrap(), "--json"]);
        (output.status.code(), super::json(&output)["valid"].as_bool().unwrap())
    };
    assert_eq!(verify_file(&text), (Some(0), true));
    assert_eq!(verify_file(&text.replace("\"org_a\"", "\"org_b\"")), (Some(1), false));

    let csv = run(dir.path(), &["audit", "export", "--format", "csv"]);
    assert!(csv.status.success() && stdout(&csv).starts_with("seq,id,occurred_at,"), "{csv:?}");
    // The exports themselves are recorded, and the server sees those events without a restart.
    let exports = server.admin().get("/audit-logs?action=audit_log.export").await;
    assert_eq!(
        (exports.data().as_array().unwrap().len(), &exports.data()[0]["actor"]["type"]),
        (2, &json!("cli"))
    );
}
