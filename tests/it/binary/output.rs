//! Standard output and standard error that are closed or full: no panic, and no secret is lost.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Output, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use super::{json, run, stderr, stdout};
use crate::support::Binary;

/// A pipe whose reader is closed.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Runs a command whose result goes to `output`; what it writes to standard error is captured.
fn run_into(output: Stdio, dir: &Path, args: &[&str]) -> Output {
    let child = Binary::command(args).arg("--data").arg(dir).stdout(output).stderr(Stdio::piped()).spawn();
    child.unwrap().wait_with_output().unwrap()
}

/// A database with a platform key.
fn database() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    assert_eq!(server.terminate(), Some(0));
    dir
}

const RESULTS: [&[&str]; 16] = [
    &["--help"],
    &["--version"],
    &["check"],
    &["check", "--json"],
    &["audit", "verify"],
    &["audit", "verify", "--json"],
    &["audit", "export"],
    &["export"],
    &["openapi"],
    &["completions", "bash"],
    &["config", "check"],
    &["config", "show"],
    &["config", "init", "-"],
    &["admin-key", "list"],
    &["version"],
    &["import", "/dev/null", "--format", "ndjson"],
];

#[test]
fn a_closed_pipe_ends_the_output_quietly() {
    let dir = database();
    for args in RESULTS {
        let output = run_into(closed_pipe(), dir.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("error"), "{args:?}: {}", stderr(&output));

        let mut command = Binary::command(args);
        command.arg("--data").arg(dir.path()).stdout(closed_pipe()).stderr(closed_pipe());
        assert_eq!(command.status().unwrap().code(), Some(0), "{args:?} without standard error");
    }
    // The verdict is the exit status, whether somebody reads it or not.
    let live = dir.path().join("tollhouse.db");
    Connection::open(&live).unwrap().execute_batch("UPDATE audit_events SET action = 'x'").unwrap();
    for args in [&["check"][..], &["check", "--json"], &["audit", "verify"], &["audit", "verify", "--json"]] {
        assert_eq!(run(dir.path(), args).status.code(), Some(1), "{args:?}");
        assert_eq!(run_into(closed_pipe(), dir.path(), args).status.code(), Some(1), "{args:?}");
    }
    let failing = Binary::command(&["fly"]).stderr(closed_pipe()).status().unwrap();
    assert_eq!(failing.code(), Some(2));
}

#[test]
fn a_full_output_is_an_error() {
    let dir = database();
    for args in RESULTS {
        let output = run_into(full(), dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        let message = stderr(&output);
        assert!(message.contains("error: Could not write to standard output: No space left"), "{message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
        let status =
            Binary::command(args).arg("--data").arg(dir.path()).stdout(full()).stderr(full()).status();
        assert_eq!(status.unwrap().code(), Some(1), "{args:?} with a full standard error");
    }
    let backup = run_into(full(), dir.path(), &["backup", "-"]);
    assert_eq!(backup.status.code(), Some(1), "{}", stderr(&backup));
    let backup = run_into(closed_pipe(), dir.path(), &["backup", "-"]);
    assert_eq!(backup.status.code(), Some(1), "a backup that nobody took is none: {}", stderr(&backup));
}

#[test]
fn i6_a_key_whose_secret_nobody_saw_does_not_remain() {
    let dir = database();
    let keys = || {
        let conn = Connection::open(dir.path().join("tollhouse.db")).unwrap();
        let mut query = conn.prepare("SELECT status FROM api_keys ORDER BY seq").unwrap();
        let statuses = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        statuses.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(keys(), ["active"]);
    for (output, json) in [(full(), false), (full(), true), (closed_pipe(), false), (closed_pipe(), true)] {
        let args: &[&str] = if json { &["admin-key", "create", "--json"] } else { &["admin-key", "create"] };
        let created = run_into(output, dir.path(), args);
        assert_eq!(created.status.code(), Some(1), "{}", stderr(&created));
        assert!(stderr(&created).contains("was revoked."), "{}", stderr(&created));
    }
    assert_eq!(keys(), ["active", "revoked", "revoked", "revoked", "revoked"]);

    // The shell's `>&-` closes standard output, and the standard library puts /dev/null in its place.
    let program = env!("CARGO_BIN_EXE_tollhouse");
    for redirection in [">&-", ">/dev/null"] {
        let line = format!("{program} admin-key create --data {} {redirection}", dir.path().display());
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{redirection}: {}", stderr(&output));
        assert!(stderr(&output).contains("No key was created"), "{}", stderr(&output));
    }
    assert_eq!(keys().len(), 5);
}

#[tokio::test]
async fn a_server_outlives_the_reader_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.path().to_str().unwrap()]);
    command.env("TOLLHOUSE_ADMIN_KEY", crate::support::ADMIN_KEY);
    let (mut server, reader) = Binary::start_unread(command);
    drop(reader);
    for _ in 0..3 {
        assert_eq!(server.admin().get("/whoami").await.status, 200);
    }
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_result_on_a_terminal_has_no_control_characters() {
    let dir = database();
    let file = dir.path().join("import.ndjson");
    let name = "\u{9b}31m\u{1b}]0;title\u{7}\u{202e}";
    let record = serde_json::json!({"type": "user", "id": name, "email": name, "nothing": name});
    fs::write(&file, format!("{record}\n")).unwrap();
    let refused = run(dir.path(), &["import", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let unsafe_in = |text: &str| text.contains(['\u{9b}', '\u{1b}', '\u{7}', '\u{202e}']);
    assert!(!unsafe_in(&(stdout(&refused) + &stderr(&refused))), "{refused:?}");
    let refused = run(dir.path(), &["import", file.to_str().unwrap(), "--json"]);
    assert!(!unsafe_in(&stdout(&refused)), "{refused:?}");
    let report: Value = json(&refused);
    assert_eq!(report["refused"], 1);

    let missing = dir.path().join(format!("missing{name}"));
    let failed = run(dir.path(), &["check", missing.to_str().unwrap()]);
    assert!(stderr(&failed).contains("missing\\u{9b}31m\\u{1b}]0;title"), "{}", stderr(&failed));
    assert!(!unsafe_in(&stderr(&failed)), "{failed:?}");
}
