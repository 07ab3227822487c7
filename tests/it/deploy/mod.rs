//! The files in `deploy/`, run with the programs that they are made for.

mod compose;
mod deb;
mod image;
mod kubernetes;
mod litestream;
mod scratch_machine;
mod systemd;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Binary, guide};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command printed on both outputs, for messages.
fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The documents of a YAML file of the repository.
fn yaml(file: &str) -> Vec<Value> {
    yaml_text(&std::fs::read_to_string(guide::root().join(file)).unwrap())
}

/// The documents of a YAML text, as PyYAML reads it.
fn yaml_text(text: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let python = Command::new(guide::root().join("target/python/bin/python"))
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut python = python.unwrap_or_else(|error| panic!("Python: {error}; scripts/test installs it"));
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}\n{}", printed(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Fails if one of the environment variables is a setting that the program doesn't know, or a wrong value.
fn assert_settings_are_known(variables: &[(String, String)]) {
    assert!(variables.iter().any(|(name, _)| name.starts_with("TOLLHOUSE_")), "{variables:?}");
    let mut check = Binary::command(&["config", "check"]);
    let checked = check.envs(variables.iter().map(|(name, value)| (name, value))).output().unwrap();
    assert_eq!(printed(&checked), "ok\n", "{variables:?}");
}
