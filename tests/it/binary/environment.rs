//! Environment variables that begin like settings, with every command.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use super::{assert_fails, stderr, stdout};
use crate::support::{ADMIN_KEY, Binary};

/// What the guides have people set for their own programs, and what Kubernetes sets in a pod beside a Service named
/// tollhouse.
const OTHERS: [(&str, &str); 10] = [
    ("TOLLHOUSE_URL", "http://127.0.0.1:8080"),
    ("TOLLHOUSE_KEY", "a key"),
    ("TOLLHOUSE_KEY_ID", "key_1"),
    ("TOLLHOUSE_SERVICE_HOST", "10.0.0.1"),
    ("TOLLHOUSE_SERVICE_PORT", "8080"),
    ("TOLLHOUSE_PORT", "tcp://10.0.0.1:8080"),
    ("TOLLHOUSE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
    ("TOLLHOUSE_PORT_8080_TCP_PROTO", "tcp"),
    ("TOLLHOUSE_PORT_8080_TCP_PORT", "8080"),
    ("TOLLHOUSE_PORT_8080_TCP_ADDR", "10.0.0.1"),
];

/// Runs every command that reads settings over a new database, one after the other, with these variables.
fn every_command(variables: &[(&str, &str)]) -> Vec<(String, Output)> {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let data = at("data");
    let mut server = Binary::serve_with(place.path().join("data").as_path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).envs(variables.iter().copied());
    });
    assert_eq!(server.terminate(), Some(0));
    fs::write(at("records.ndjson"), format!("{}\n", json!({"type": "scope", "scope": "reports:read"})))
        .unwrap();
    let (records, backup) = (at("records.ndjson"), at("backup"));
    let commands: [&[&str]; 10] = [
        &["config", "check"],
        &["admin-key", "create"],
        &["import", &records],
        &["export"],
        &["audit", "export"],
        &["audit", "verify"],
        &["check"],
        &["backup", &backup],
        &["restore", &backup, "--force"],
        &["openapi"],
    ];
    let run = commands.into_iter().map(|args| {
        let mut command: Command = Binary::command(args);
        let output = command.args(["--data", &data]).envs(variables.iter().copied()).output().unwrap();
        (args.join(" "), output)
    });
    run.collect()
}

#[test]
fn variables_of_others_stop_no_command() {
    for (command, output) in every_command(&OTHERS) {
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        assert!(!stderr(&output).contains("TOLLHOUSE_"), "{command}: {}", stderr(&output));
    }
    // The server says nothing about them either.
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve_with(dir.path(), |command| {
        command.envs(OTHERS);
    });
    assert_eq!(server.terminate(), Some(0));
    let said = [server.start.clone(), server.log.iter().collect()].concat().join("\n");
    assert!(!said.contains("TOLLHOUSE_"), "{said}");
}

#[test]
fn a_setting_under_another_name_is_a_warning_of_every_command() {
    let warning =
        "TOLLHOUSE_LISTEN has no effect; did you mean TOLLHOUSE_HTTP__LISTEN or TOLLHOUSE_METRICS__LISTEN?";
    let variables = [("TOLLHOUSE_LISTEN", "0.0.0.0:1")];
    for (command, output) in every_command(&variables) {
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        let told = stderr(&output).lines().filter(|line| *line == format!("warning: {warning}")).count();
        // It reads no settings.
        assert_eq!(told, usize::from(command != "openapi"), "{command}: {}", stderr(&output));
        assert!(!stdout(&output).contains("TOLLHOUSE_LISTEN"), "{command}: results are for programs");
    }
    // The server has it in its log, and listens where it would have anyway.
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.envs(variables);
    });
    let logged = server.start.iter().find(|line| line.contains("TOLLHOUSE_LISTEN")).expect("no warning");
    let logged: serde_json::Value = serde_json::from_str(logged).unwrap();
    assert_eq!((&logged["level"], &logged["message"]), (&json!("WARN"), &json!(warning)));
    assert!(server.url.starts_with("http://127.0.0.1:"), "{}", server.url);
}

#[test]
fn an_unknown_setting_still_stops_every_command() {
    for args in [&["serve"][..], &["config", "check"], &["check"], &["export"], &["admin-key", "create"]] {
        let mut command = Binary::command(args);
        let output = command.env("TOLLHOUSE_HTTP__LISTN", "127.0.0.1:0").output().unwrap();
        assert_fails(&output, 1, &["TOLLHOUSE_HTTP__LISTN: unknown setting", "TOLLHOUSE_HTTP__LISTEN"]);
    }
}

#[tokio::test]
async fn the_environment_may_name_the_configuration() {
    let place = tempfile::tempdir().unwrap();
    let (file, other) = (place.path().join("file.toml"), place.path().join("other.toml"));
    let data = place.path().join("data");
    let text = format!("[http]\nlisten = \"127.0.0.1:0\"\n[database]\ndir = {:?}\n", data.to_str().unwrap());
    fs::write(&file, text).unwrap();
    fs::write(&other, "[database]\nreaders = 3\n").unwrap();

    let mut command = Binary::command(&["serve"]);
    command.env("TOLLHOUSE_CONFIG", &file).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
    let server = Binary::start(command);
    assert!(data.join("tollhouse.db").exists());
    assert_eq!(server.admin().get("/whoami").await.status, 200);

    let check = |args: &[&str]| Binary::command(args).env("TOLLHOUSE_CONFIG", &file).output().unwrap();
    let named = stdout(&check(&["config", "check"]));
    assert!(named.contains("file.toml:4") && named.contains("readers = 4"), "{named}");
    // A flag wins: the other file is read instead, not as well.
    let flagged = stdout(&check(&["config", "check", "--config", other.to_str().unwrap()]));
    assert!(flagged.contains("readers = 3") && !flagged.contains("file.toml"), "{flagged}");

    fs::remove_file(&file).unwrap();
    assert_fails(&check(&["config", "check"]), 1, &["TOLLHOUSE_CONFIG: ", "file.toml: can't be read"]);
    assert_eq!(check(&["openapi"]).status.code(), Some(0), "it reads no settings");
}
