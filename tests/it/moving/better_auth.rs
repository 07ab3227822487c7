//! Import of a database created by the real better-auth, with keys that better-auth verified itself.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{data, result, run, stdout, verify};
use crate::support::Binary;

/// Runs the real library to create a database; returns its description of the keys.
fn create_database(file: &std::path::Path) -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("target/node/node_modules");
    assert!(modules.exists(), "no {}; scripts/test fetches it", modules.display());
    // Node resolves packages relative to the script.
    let script = file.parent().unwrap().join("better_auth.mjs");
    std::fs::copy(root.join("tests/node/better_auth.mjs"), &script).unwrap();
    std::os::unix::fs::symlink(modules, file.parent().unwrap().join("node_modules")).unwrap();
    let output = Command::new("node").arg(script).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn imported_keys_verify_as_in_better_auth() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("auth.db");
    let original = create_database(&file);
    let before = std::fs::read(&file).unwrap();
    let server = Binary::serve(&dir);
    let admin = server.admin();
    let personal = json!({"id": "org_personal", "name": "Personal", "email": "p@example.com"});
    data(admin.post("/organizations", personal).await);

    let import = ["import", file.to_str().unwrap(), "--from", "better-auth"];
    let output = run(&dir, &[&import[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let reasons: Vec<_> = report["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refusal| refusal["reasons"][0].as_str().unwrap())
        .collect();
    assert!(
        matches!(reasons.as_slice(), [a, b, c] if [a, b, c].iter().any(|reason| reason.contains("--organization"))
        && [a, b, c].iter().any(|reason| reason.contains("--create-scopes"))
        && [a, b, c].iter().any(|reason| reason.contains("admin:keys would administer"))),
        "{reasons:?}"
    );

    // With the options that the refusals name, the remaining keys are imported.
    let args = [&import[..], &["--organization", "org_personal", "--create-scopes", "--json"]].concat();
    let report: Value = serde_json::from_str(&stdout(&run(&dir, &args))).unwrap();
    assert_eq!(report["imported"], json!({"api_key": 2, "membership": 1}), "{report}");
    assert_eq!(report["unchanged"], json!({"organization": 1, "user": 3, "membership": 2, "api_key": 4}));
    assert_eq!(report["refused"], 1);
    assert!(std::fs::read(&file).unwrap() == before, "the source database is not changed");

    let id = |kind: &str, name: &str| json!(format!("{kind}_{}", original[name].as_str().unwrap()));
    let acme = id("org", "acme");
    let personal = json!("org_personal");
    let expected = |name: &str| match name {
        "ofOrganization" => ("VALID", acme.clone(), Value::Null),
        "enabled" => ("VALID", acme.clone(), id("user", "ada")),
        "unlimited" => ("VALID", acme.clone(), id("user", "grace")),
        "disabled" => ("DISABLED", acme.clone(), id("user", "ada")),
        "expired" => ("EXPIRED", acme.clone(), id("user", "ada")),
        "homeless" => ("VALID", personal.clone(), id("user", "alone")),
        _ => ("NOT_FOUND", Value::Null, Value::Null),
    };
    let key_of = |name: &str| {
        let keys = original["made"].as_array().unwrap().iter();
        keys.clone().find(|key| key["what"] == name).unwrap()["key"].as_str().unwrap().to_owned()
    };
    // The server notices the import with a delay; wait for the last key.
    while verify(&admin, &key_of("homeless")).await.0 == "NOT_FOUND" {
        tokio::task::yield_now().await;
    }
    for key in original["made"].as_array().unwrap() {
        let name = key["what"].as_str().unwrap();
        let (code, organization, user) = expected(name);
        let (actual, key_id) = verify(&admin, key["key"].as_str().unwrap()).await;
        assert_eq!(actual, code, "{name}");
        if code == "NOT_FOUND" {
            continue;
        }
        assert_eq!(key["valid"], json!(code == "VALID"), "{name}: better-auth returned {key}");
        assert_eq!(key_id, format!("key_{}", key["id"].as_str().unwrap()), "{name}");
        let imported = admin.get(&format!("/api-keys/{}", key_id.as_str().unwrap())).await;
        let fields = ["organization_id", "user_id", "name"].map(|field| imported.data()[field].clone());
        assert_eq!(json!(fields), json!([organization, user, name]));
        if name == "enabled" {
            let fields = ["scopes", "metadata", "limits"].map(|field| imported.data()[field].clone());
            let rate = json!({"meter": "requests", "limit": 3, "window_seconds": 60});
            let metadata = json!({"team": "core", "number": "7"});
            assert_eq!(json!(fields), json!([["files:read", "files:write"], metadata, [rate]]));
        }
        assert_eq!(imported.data()["limits"] == json!([]), name == "unlimited", "{name}");
    }
    let members = admin.get(&format!("/organizations/{}/members", acme.as_str().unwrap())).await;
    let roles: Vec<_> = members.data().as_array().unwrap().iter().map(|member| &member["role"]).collect();
    assert_eq!(roles, ["admin", "owner"]);
    assert_eq!(result(&dir, &["check"])["ok"], true);
}

#[test]
fn a_file_that_is_no_better_auth_database_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("x.db");
    let args = ["import", file.to_str().unwrap(), "--from", "better-auth"];
    super::assert_refused(&dir, &args, &["x.db doesn't exist"]);
    std::fs::write(&file, "no database at all, but longer than the header of one, which is a hundred bytes ....................................").unwrap();
    super::assert_refused(&dir, &args, &["not a better-auth SQLite database"]);
    assert!(!dir.exists());
}

/// Values of generated columns are imported; values of any size, also in columns that aren't imported, are
/// not computed or cost only their row.
#[test]
fn i10_rows_and_generated_columns_are_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("auth.db");
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.execute_batch(
        "CREATE TABLE user (
             id TEXT PRIMARY KEY, first TEXT, email TEXT,
             unused TEXT AS (hex(zeroblob(450000000))),
             name TEXT AS (CASE first WHEN 'Large' THEN hex(zeroblob(450000000)) ELSE first || ' L.' END)
         );
         INSERT INTO user VALUES ('ada', 'Ada', 'ada@example.com');
         INSERT INTO user VALUES ('computed', 'Large', 'large@example.com');
         INSERT INTO user VALUES ('stored', 'Stored', printf('%.*c', 20000000, 'x'));
         INSERT INTO user VALUES ('eve', 'Eve', 'eve@example.com');",
    )
    .unwrap();
    drop(conn);
    let output = run(&dir, &["import", file.to_str().unwrap(), "--from", "better-auth", "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["imported"], json!({"user": 2}), "{report}");
    let at: Vec<_> = report["refusals"].as_array().unwrap().iter().map(|refusal| &refusal["at"]).collect();
    assert_eq!(at, ["user at rowid 2", "user at rowid 3"]);
    assert!(report["refusals"][0]["reasons"].to_string().contains("too long"), "{report}");
    let exported = stdout(&run(&dir, &["export"]));
    assert!(exported.contains("Ada L.") && exported.contains("Eve L."), "{exported}");
}
