//! Starts and commands on a disk without any room, on a read-only disk, and at the process's limit for files.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::DEADLINE;
use super::full_disk::{SMALL_DISK, assert_full, fill_disk, key_body, readiness, run_on_small_disk, verify};
use crate::support::{ADMIN_KEY, Binary, Client};

/// Creates an organization and the key `key_0`; returns the key's secret.
async fn create_key(admin: &Client) -> String {
    let organization = json!({"id": "org_1", "name": "n", "email": "a@b"});
    assert_eq!(admin.post("/organizations", organization).await.status, 201);
    let answer = admin.post("/api-keys", key_body(0)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.data()["key"].as_str().unwrap().to_owned()
}

/// Runs every command that only reads the database, with results in another directory. Returns their standard
/// errors.
fn run_reading_commands(data: &Path) -> Vec<String> {
    let results = TempDir::new().unwrap();
    let path = |name: &str| results.path().join(name).to_str().unwrap().to_owned();
    let data = data.to_str().unwrap();
    let backup = path("backup");
    let export = path("export");
    let audit = path("audit");
    let mut notes = Vec::new();
    for arguments in [
        &["check"][..],
        &["audit", "verify"],
        &["backup", &backup],
        &["export", "--output", &export],
        &["audit", "export", "--output", &audit],
        &["check", &backup],
    ] {
        let output = Binary::run(&[arguments, &["--data", data]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        notes.push(String::from_utf8(output.stderr).unwrap());
    }
    assert!(fs::read_to_string(&export).unwrap().contains("key_0"));
    assert!(fs::read_to_string(&audit).unwrap().contains("api_key.create"));
    notes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_reading_commands_work_without_any_room() {
    let Some(disk) = env::var_os(SMALL_DISK) else {
        return run_on_small_disk(
            "invariants::no_room::a_start_and_reading_commands_work_without_any_room",
            16,
        );
    };
    let disk = Path::new(&disk);
    let data = disk.join("data");
    let mut server = Binary::serve(&data);
    let secret = create_key(&server.admin()).await;
    assert_eq!(server.terminate(), Some(0));
    // Not even the reserve is left.
    fs::remove_file(data.join("tollhouse.reserve")).unwrap();
    fill_disk(disk);
    let notes = run_reading_commands(&data);
    for note in &notes[2..5] {
        assert!(note.contains("complete but not recorded in the database: The disk is full"), "{note}");
    }

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Binary::command(&["check", "--data", "/none"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(1), "a full standard error doesn't make the command panic");
    let mut server = Binary::serve(&data);
    let admin = server.admin();
    assert_eq!(verify(&admin, &secret).await, "VALID");
    assert_full(&admin.post("/api-keys", key_body(1)).await);
    let (status, verifies, writes, reasons) = readiness(&admin, "").await;
    assert_eq!((status, verifies, writes, reasons), (200, true, false, vec!["STORAGE_FULL".to_owned()]));
    server.kill();

    let mounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk).status().unwrap();
    assert!(mounted.success());
    let notes = run_reading_commands(&data);
    for note in &notes[2..5] {
        assert!(note.contains("not recorded in the database: The database can't be written"), "{note}");
    }
}

/// The size limit of a process for files makes a write fail with EFBIG, and sends SIGXFSZ.
#[tokio::test(flavor = "multi_thread")]
async fn the_size_limit_of_the_process_for_files_is_a_full_disk() {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    // 1,024 blocks of 512 bytes.
    command.args(["-c", r#"ulimit -f 1024; exec "$0" "$@""#, env!("CARGO_BIN_EXE_tollhouse")]);
    command.args(["--listen", "127.0.0.1:0", "--data", dir.path().to_str().unwrap()]);
    command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    let mut server = Binary::start(command);
    let admin = server.admin();
    let secret = create_key(&admin).await;
    for index in 1.. {
        let answer = admin.post("/api-keys", key_body(index)).await;
        if answer.status != 201 {
            assert_full(&answer);
            break;
        }
    }
    assert_eq!(verify(&admin, &secret).await, "VALID");
    server.signal("TERM");
    assert!(server.wait().is_some(), "no signal ended the process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_room_says_what_could_not_be_stored() {
    let dir = TempDir::new().unwrap();
    let mut server = Binary::serve_with(dir.path(), |command| {
        // Polling must not be refused, because refusals are counted below.
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    });
    let admin = server.admin();
    let body = json!({"name": "n", "scopes": [], "limits": [{"limit": 1000, "period": "month"}]});
    let answer = admin.post("/api-keys", body).await;
    let secret = answer.data()["key"].as_str().unwrap();
    assert_eq!(verify(&admin, secret).await, "VALID");
    let counted = async {
        while admin.get("/analytics/usage?period=1h").await.data()["totals"]["requests"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, counted).await.expect("the verification is counted");
    // From here on, no file can grow.
    let id = server.id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &id, "--fsize=4096:4096"]).status().unwrap().success());
    for _ in 0..3 {
        assert_eq!(verify(&admin, secret).await, "VALID");
    }
    assert_eq!(verify(&admin, "unknown").await, "NOT_FOUND");
    assert_eq!(server.client("unknown").get("/whoami").await.status, 401);
    assert_eq!(server.terminate(), Some(1));
    let line: Value =
        serde_json::from_str(&server.line_with("stopping without storing everything that was counted"))
            .unwrap();
    for (what, count) in [
        ("verifications", 3),
        ("denials", 1),
        ("aggregated_requests", 1),
        ("last_uses", 2),
        ("quota_units", 6),
    ] {
        assert_eq!(line[what], count, "{what}: {line}");
    }
    assert!(line["error"].as_str().unwrap().starts_with("STORAGE_FULL"), "{line}");

    let server = Binary::serve(dir.path());
    let request = json!({"key": secret});
    let request = server.admin().request_at_root(reqwest::Method::POST, "/v1/keys/verify").json(&request);
    let answer = server.admin().send(request).await;
    assert_eq!(answer.data()["limits"][0]["remaining"], 989, "all leased units count as used");
}
