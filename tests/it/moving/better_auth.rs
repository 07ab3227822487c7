//! A database that better-auth itself made, with keys that it verified itself.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{made, result, run, stdout, verdict};
use crate::support::Binary;

/// Has the real library make a database; what it says of its keys.
fn database(file: &std::path::Path) -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("target/node/node_modules");
    assert!(modules.exists(), "no {}; scripts/test fetches it", modules.display());
    // Node looks for packages beside the program.
    let program = file.parent().unwrap().join("better_auth.mjs");
    std::fs::copy(root.join("tests/node/better_auth.mjs"), &program).unwrap();
    std::os::unix::fs::symlink(modules, file.parent().unwrap().join("node_modules")).unwrap();
    let output = Command::new("node").arg(program).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn its_keys_verify_here_as_they_did_there() {
    let place = tempfile::tempdir().unwrap();
    let (dir, file) = (place.path().join("data"), place.path().join("auth.db"));
    let there = database(&file);
    let before = std::fs::read(&file).unwrap();
    let server = Binary::serve(&dir);
    let admin = server.admin();
    let personal = json!({"id": "org_personal", "name": "Personal", "email": "p@example.com"});
    made(admin.post("/organizations", personal).await);

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
        matches!(reasons.as_slice(), [a, b, c] if [a, b, c].iter().any(|why| why.contains("--organization"))
        && [a, b, c].iter().any(|why| why.contains("--create-scopes"))
        && [a, b, c].iter().any(|why| why.contains("admin:keys would administer"))),
        "{reasons:?}"
    );

    // With what it asked for, the rest comes too.
    let more = [&import[..], &["--organization", "org_personal", "--create-scopes", "--json"]].concat();
    let report: Value = serde_json::from_str(&stdout(&run(&dir, &more))).unwrap();
    assert_eq!(report["imported"], json!({"api_key": 2, "membership": 1}), "{report}");
    assert_eq!(report["unchanged"], json!({"organization": 1, "user": 3, "membership": 2, "api_key": 4}));
    assert_eq!(report["refused"], 1);
    assert!(std::fs::read(&file).unwrap() == before, "it is only read");

    let id = |kind: &str, name: &str| json!(format!("{kind}_{}", there[name].as_str().unwrap()));
    let (acme, personal) = (id("org", "acme"), json!("org_personal"));
    let expected = |what: &str| match what {
        "ofOrganization" => ("VALID", acme.clone(), Value::Null),
        "enabled" => ("VALID", acme.clone(), id("user", "ada")),
        "unlimited" => ("VALID", acme.clone(), id("user", "grace")),
        "disabled" => ("DISABLED", acme.clone(), id("user", "ada")),
        "expired" => ("EXPIRED", acme.clone(), id("user", "ada")),
        "homeless" => ("VALID", personal.clone(), id("user", "alone")),
        _ => ("NOT_FOUND", Value::Null, Value::Null),
    };
    // Until it has noticed the last of them.
    let key_of = |what: &str| {
        let keys = there["made"].as_array().unwrap().iter();
        keys.clone().find(|key| key["what"] == what).unwrap()["key"].as_str().unwrap().to_owned()
    };
    while verdict(&admin, &key_of("homeless")).await.0 == "NOT_FOUND" {
        tokio::task::yield_now().await;
    }
    for key in there["made"].as_array().unwrap() {
        let what = key["what"].as_str().unwrap();
        let (code, organization, user) = expected(what);
        let (found, key_id) = verdict(&admin, key["key"].as_str().unwrap()).await;
        assert_eq!(found, code, "{what}");
        if code == "NOT_FOUND" {
            continue;
        }
        assert_eq!(key["valid"], json!(code == "VALID"), "{what}: there it was {key}");
        assert_eq!(key_id, format!("key_{}", key["id"].as_str().unwrap()), "{what}");
        let here = admin.get(&format!("/api-keys/{}", key_id.as_str().unwrap())).await;
        let fields = ["organization_id", "user_id", "name"].map(|name| here.data()[name].clone());
        assert_eq!(json!(fields), json!([organization, user, what]));
        if what == "enabled" {
            let fields = ["scopes", "metadata", "rate_limit"].map(|name| here.data()[name].clone());
            let rate = json!({"limit": 3, "window_seconds": 60});
            let metadata = json!({"team": "core", "number": "7"});
            assert_eq!(json!(fields), json!([["files:read", "files:write"], metadata, rate]));
        }
        assert_eq!(here.data()["rate_limit"].is_null(), what == "unlimited", "{what}");
    }
    let members = admin.get(&format!("/organizations/{}/members", acme.as_str().unwrap())).await;
    let roles: Vec<_> = members.data().as_array().unwrap().iter().map(|member| &member["role"]).collect();
    assert_eq!(roles, ["admin", "owner"]);
    assert_eq!(result(&dir, &["check"])["sound"], true);
}

#[test]
fn what_is_not_its_database_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (dir, file) = (place.path().join("data"), place.path().join("x.db"));
    let args = ["import", file.to_str().unwrap(), "--from", "better-auth"];
    super::refused(&dir, &args, &["x.db doesn't exist"]);
    std::fs::write(&file, "no database at all, but longer than the header of one, which is a hundred bytes ....................................").unwrap();
    super::refused(&dir, &args, &["not a better-auth SQLite database"]);
    assert!(!dir.exists());
}
