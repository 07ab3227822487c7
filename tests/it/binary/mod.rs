//! The real program: how it starts and stops, what it says, and its commands beside a running server.

mod commands;
mod environment;
mod log;
mod start;
mod stop;

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::Binary;

/// A command over this directory.
fn run(dir: &Path, args: &[&str]) -> Output {
    Binary::command(args).arg("--data").arg(dir).output().unwrap()
}

/// A `serve` that is to end by itself.
fn refused(dir: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
    command.envs(variables.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The result of a command that was asked for JSON.
fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

/// It failed with one line that has all of this in it, for people, and nothing for a program to read.
fn assert_fails(output: &Output, status: i32, parts: &[&str]) {
    let said = stderr(output);
    assert_eq!((output.status.code(), stdout(output).as_str()), (Some(status), ""), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}
