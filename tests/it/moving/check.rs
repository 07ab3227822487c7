//! `tollhouse check` detects damage.

use std::fs;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{assert_refused, data, result, run, stdout};
use crate::support::Binary;

#[tokio::test]
async fn every_kind_of_damage_is_detected() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let mut server = Binary::serve(&dir);
    let admin = server.admin();
    data(admin.post("/organizations", json!({"id": "org_1", "name": "n", "email": "n@example.com"})).await);
    let key = json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
    data(admin.post("/api-keys", key).await);
    let report = result(&dir, &["check"]);
    assert_eq!((&report["ok"], &report["rows"]["api_keys"]), (&json!(true), &json!(2)), "{report}");
    assert_eq!(server.terminate(), Some(0));
    assert!(stdout(&run(&dir, &["check"])).starts_with("ok: "));

    let live = dir.join("tollhouse.db");
    let undamaged = fs::read(&live).unwrap();
    for (damage, message) in [
        (
            "UPDATE counts SET n = 7 WHERE what = 'active' AND organization_id = 'org_1'",
            "active keys of org_1: the stored count is 7",
        ),
        ("DELETE FROM counts WHERE what = 'organizations'", "the stored count is 0, the actual count 1"),
        (
            "INSERT INTO counts VALUES ('active', 'org_none', 3)",
            "active keys of org_none: the stored count is 3, the actual count 0",
        ),
        (
            "INSERT OR REPLACE INTO idempotency_bytes VALUES (0, 7)",
            "stored responses in total: the stored sum is 7 bytes, the actual sum 0",
        ),
        ("PRAGMA foreign_keys = OFF; DELETE FROM organizations", "refers to a missing row of organizations"),
        (
            "UPDATE audit_events SET actor_id = 'key_other' WHERE seq = 2",
            "the audit log is broken at event 2",
        ),
        ("DELETE FROM audit_events WHERE seq = 2", "the audit log is broken at event 2"),
        ("UPDATE api_key_hashes SET state = 'retired'", "key_1 has 0 current secrets"),
        ("DELETE FROM api_key_scopes", "the scope index doesn't match the scopes of key_1"),
        (
            "DELETE FROM words WHERE tenant = 0 AND kind = 2",
            "the search index doesn't match the organizations: 0 words are stored, 3 expected",
        ),
        ("UPDATE words SET block = 7 WHERE tenant = 1", "the search index doesn't match the API keys"),
        (
            "INSERT INTO words VALUES (1, 1, 'x1', 0, x'01')",
            "the search index doesn't match the users: 1 words",
        ),
        ("INSERT INTO words VALUES (1, 9, 'x1', 0, x'01')", "the search index doesn't match any rows"),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema \
             WHERE name = 'users_email') WHERE name = 'api_keys_user'",
            "",
        ),
    ] {
        fs::write(&live, &undamaged).unwrap();
        Connection::open(&live).unwrap().execute_batch(damage).unwrap();
        let output = run(&dir, &["check"]);
        assert_eq!(output.status.code(), Some(1), "{damage}");
        assert!(
            stdout(&output).starts_with("ERRORS FOUND") && stdout(&output).contains(message),
            "{}",
            stdout(&output)
        );
        let json: Value = serde_json::from_str(&stdout(&run(&dir, &["check", "--json"]))).unwrap();
        assert_eq!(json["ok"], false);
    }
    fs::write(&live, "not a database").unwrap();
    assert_refused(&dir, &["check"], &["not a Tollhouse database"]);
    assert_refused(&temp.path().join("none"), &["check"], &["doesn't exist"]);
}
