//! `import`, `export`, `backup`, `restore` and `check`, run with the real program.

mod backup;
mod better_auth;
mod check;
mod foreign_files;
mod import;
mod leftovers;
mod prefixes;
mod restore;
mod round_trip;
mod search_index;
mod tables;

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Binary, Client};

/// Runs a command with `dir` as its data directory.
fn run(dir: &Path, args: &[&str]) -> Output {
    Binary::command(args).arg("--data").arg(dir).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command with `--json`, which must succeed; returns its output.
#[track_caller]
fn result(dir: &Path, args: &[&str]) -> Value {
    let output = run(dir, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Asserts that a command fails with all of `parts` on standard error and nothing on standard output.
#[track_caller]
fn assert_refused(dir: &Path, args: &[&str], parts: &[&str]) {
    let output = run(dir, args);
    let message = stderr(&output);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// Writes the values as NDJSON.
fn write_lines(file: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(file, text).unwrap();
}

/// Verifies a key with `dry_run`; returns the verification's code and the key's id.
async fn verify(admin: &Client, key: &str) -> (String, Value) {
    let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
    let answer = admin.send(request.json(&json!({"key": key, "dry_run": true}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.data()["code"].as_str().unwrap().to_owned(), answer.data()["key_id"].clone())
}

async fn code(admin: &Client, key: &str) -> String {
    verify(admin, key).await.0
}

/// The `data` of an answer, which must be a success.
#[track_caller]
fn data(answer: crate::support::Answer) -> Value {
    assert!(answer.status < 300, "{answer:?}");
    answer.data().clone()
}

/// The actions of write events by this type of actor, oldest first.
async fn actions(admin: &Client, actor_type: &str) -> Vec<String> {
    let listed = admin.get("/audit-logs?access=write&order=asc&limit=100").await;
    let events = listed.data().as_array().unwrap().clone();
    let is_by_actor = |event: &&Value| event["actor"]["type"] == actor_type;
    events.iter().filter(is_by_actor).map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}
