//! Each command of the guides to import, export, backup and restore, run by the real program as it is shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::json;

use crate::support::{Binary, Client, guide};

const IMPORT_AND_EXPORT: &str = "guides/import-and-export.md";
const BACKUP: &str = "operate/backup.md";

/// All blocks of the two.
const BLOCKS: [&str; 14] = [
    "records.ndjson",
    "import.sh",
    "keys.csv",
    "import-csv.sh",
    "from_table.py",
    "from-table.sh",
    "from_unkey.mjs",
    "from-unkey.sh",
    "from-better-auth.sh",
    "export.sh",
    "backup.sh",
    "check.sh",
    "restore.sh",
    "restore-elsewhere.sh",
];

/// Runs the commands of a block in this directory, with the program on `PATH`. It uses `data`, its default.
fn run(dir: &Path, block: &str) -> Output {
    let guides = [IMPORT_AND_EXPORT, BACKUP].into_iter().flat_map(guide::blocks);
    let (_, code) = guides.into_iter().find(|(name, _)| name == block).expect(block);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_tollhouse"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.arg("-ec").arg(code).current_dir(dir).env("PATH", path);
    let output = shell.env_remove("TOLLHOUSE_ADMIN_KEY").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{block}: {said}{}", String::from_utf8_lossy(&output.stdout));
    output
}

async fn code(admin: &Client, key: &str) -> String {
    let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
    let answer = admin.send(request.json(&json!({"key": key, "dry_run": true}))).await;
    answer.data()["code"].as_str().unwrap().to_owned()
}

/// Once it has noticed what another process stored.
async fn valid(admin: &Client, key: &str) {
    while code(admin, key).await != "VALID" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn everything_moves_as_the_guide_says() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    for (name, text) in [IMPORT_AND_EXPORT, BACKUP].into_iter().flat_map(guide::blocks) {
        assert!(BLOCKS.contains(&name.as_str()), "no test runs the block {name:?}");
        if !name.ends_with(".sh") {
            fs::write(dir.join(name), text).unwrap();
        }
    }
    let app = Connection::open(dir.join("app.db")).unwrap();
    app.execute_batch(
        "CREATE TABLE api_keys (name TEXT, key TEXT, created TEXT);
         INSERT INTO api_keys VALUES ('own', 'own_0123456789', '2024-05-06T07:08:09Z')",
    )
    .unwrap();
    let unkey = json!([{"key": "unkey_3ZhX8q", "name": "u", "permissions": ["documents.read"]},
        {"key": "unkey_9vRt2k", "name": "u", "expires": 1_600_000_000_000_i64}]);
    fs::write(dir.join("unkey.json"), unkey.to_string()).unwrap();
    let program = dir.join("better_auth.mjs");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("tests/node/better_auth.mjs"), &program).unwrap();
    std::os::unix::fs::symlink(root.join("target/node/node_modules"), dir.join("node_modules")).unwrap();

    let mut server = Binary::serve(&dir.join("data"));
    let admin = server.admin();
    run(dir, "import.sh");
    valid(&admin, "acme_billing").await;
    run(dir, "import-csv.sh");
    valid(&admin, "acme_ci").await;
    run(dir, "from-table.sh");
    valid(&admin, "own_0123456789").await;
    run(dir, "from-unkey.sh");
    valid(&admin, "unkey_3ZhX8q").await;
    assert_eq!(code(&admin, "unkey_9vRt2k").await, "EXPIRED");

    let made = Command::new("node").arg(&program).arg(dir.join("auth.db")).output().unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    // One of them is made to be refused, which the guide's reader is told by the exit status.
    Connection::open(dir.join("auth.db"))
        .unwrap()
        .execute("DELETE FROM apikey WHERE name = 'refused'", [])
        .unwrap();
    run(dir, "from-better-auth.sh");
    valid(&admin, made["made"][0]["key"].as_str().unwrap()).await;

    run(dir, "export.sh");
    assert!(fs::read_to_string(dir.join("everything.ndjson")).unwrap().contains("\"name\":\"Billing\""));
    run(dir, "backup.sh");
    run(dir, "check.sh");
    let billing = admin.get("/api-keys?q=Billing").await.data()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(admin.delete(&format!("/api-keys/{billing}")).await.status, 200);
    assert_eq!(server.terminate(), Some(0));
    run(dir, "restore.sh");
    run(dir, "restore-elsewhere.sh");
    for (data, expected) in [("data", "REVOKED"), ("elsewhere", "VALID")] {
        let server = Binary::serve_with(&dir.join(data), |_| ());
        assert_eq!(code(&server.admin(), "acme_billing").await, expected, "{data}");
    }
}
