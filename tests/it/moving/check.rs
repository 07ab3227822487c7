//! `tollhouse check` finds what is wrong.

use std::fs;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{made, refused, result, run, stdout};
use crate::support::Binary;

#[tokio::test]
async fn each_kind_of_damage_is_found() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let mut server = Binary::serve(&dir);
    let admin = server.admin();
    made(admin.post("/organizations", json!({"id": "org_1", "name": "n", "email": "n@example.com"})).await);
    let key = json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": ["workflows:read"]});
    made(admin.post("/api-keys", key).await);
    let beside = result(&dir, &["check"]);
    assert_eq!((&beside["sound"], &beside["rows"]["api_keys"]), (&json!(true), &json!(2)), "{beside}");
    assert_eq!(server.terminate(), Some(0));
    assert!(stdout(&run(&dir, &["check"])).starts_with("ok: "));

    let live = dir.join("tollhouse.db");
    let whole = fs::read(&live).unwrap();
    for (damage, told) in [
        (
            "UPDATE counts SET n = 7 WHERE what = 'active' AND organization_id = 'org_1'",
            "active org_1: 7 are counted",
        ),
        ("DELETE FROM counts WHERE what = 'organizations'", "0 are counted, there are 1"),
        (
            "INSERT INTO counts VALUES ('active', 'org_none', 3)",
            "active org_none: 3 are counted, there are 0",
        ),
        ("PRAGMA foreign_keys = OFF; DELETE FROM organizations", "refers to a row of organizations"),
        (
            "UPDATE audit_events SET actor_id = 'key_other' WHERE seq = 2",
            "the audit log is broken at event 2",
        ),
        ("DELETE FROM audit_events WHERE seq = 2", "the audit log is broken at event 2"),
        ("UPDATE api_key_hashes SET state = 'retired'", "key_1 has 0 current secrets"),
        ("DELETE FROM api_key_scopes", "the index of scopes is wrong about key_1"),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema \
             WHERE name = 'users_email') WHERE name = 'api_keys_user'",
            "",
        ),
    ] {
        fs::write(&live, &whole).unwrap();
        Connection::open(&live).unwrap().execute_batch(damage).unwrap();
        let found = run(&dir, &["check"]);
        assert_eq!(found.status.code(), Some(1), "{damage}");
        assert!(
            stdout(&found).starts_with("ERRORS FOUND") && stdout(&found).contains(told),
            "{}",
            stdout(&found)
        );
        let json: Value = serde_json::from_str(&stdout(&run(&dir, &["check", "--json"]))).unwrap();
        assert_eq!(json["sound"], false);
    }
    fs::write(&live, "not a database").unwrap();
    refused(&dir, &["check"], &["not a Tollhouse database"]);
    refused(&place.path().join("none"), &["check"], &["There is no file"]);
}
