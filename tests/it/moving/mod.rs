//! `import`, `export`, `backup`, `restore` and `check`, by the real program.

mod backup;
mod better_auth;
mod check;
mod import;
mod restore;
mod round_trip;

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Binary, Client};

/// A command over this directory.
fn run(dir: &Path, args: &[&str]) -> Output {
    Binary::command(args).arg("--data").arg(dir).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// It succeeded, and this is the JSON that it was asked for.
#[track_caller]
fn result(dir: &Path, args: &[&str]) -> Value {
    let output = run(dir, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// It failed, said all of this on standard error, and nothing on standard output.
#[track_caller]
fn refused(dir: &Path, args: &[&str], parts: &[&str]) {
    let output = run(dir, args);
    let said = stderr(&output);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Writes lines of JSON.
fn write_lines(file: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(file, text).unwrap();
}

/// What verification says of a key: its code, and its id.
async fn verdict(admin: &Client, key: &str) -> (String, Value) {
    let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
    let answer = admin.send(request.json(&json!({"key": key, "dry_run": true}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.data()["code"].as_str().unwrap().to_owned(), answer.data()["key_id"].clone())
}

async fn code(admin: &Client, key: &str) -> String {
    verdict(admin, key).await.0
}

/// Makes something, which must succeed; its `data`.
#[track_caller]
fn made(answer: crate::support::Answer) -> Value {
    assert!(answer.status < 300, "{answer:?}");
    answer.data().clone()
}

/// The actions in the log, oldest first, of these targets' kinds.
async fn actions(admin: &Client, actor: &str) -> Vec<String> {
    let listed = admin.get("/audit-logs?access=write&order=asc&limit=100").await;
    let events = listed.data().as_array().unwrap().clone();
    let of = |event: &&Value| event["actor"]["type"] == actor;
    events.iter().filter(of).map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}
