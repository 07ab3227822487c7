//! The real program: start, shutdown, log, and commands beside a running server.

mod commands;
mod environment;
mod files;
mod json_log;
mod log;
mod open_files;
mod operator;
mod output;
mod packaged_files;
mod plans;
mod reload;
mod service_manager;
mod start;
mod stop;
mod terminal;

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::Binary;

/// Runs a command with `dir` as its data directory.
fn run(dir: &Path, args: &[&str]) -> Output {
    Binary::command(args).arg("--data").arg(dir).output().unwrap()
}

/// Runs a `serve` that is expected to refuse to start.
fn serve_refused(dir: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
    command.envs(variables.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The output of a command that ran with `--json`.
fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

/// Asserts that the command failed with `status`, that standard error contains all of `parts`, and that standard
/// output is empty.
fn assert_fails(output: &Output, status: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!((output.status.code(), stdout(output).as_str()), (Some(status), ""), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}
