//! Commands with environment variables that have the settings' prefix.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use super::{assert_fails, stderr, stdout};
use crate::support::{ADMIN_KEY, Binary};

/// Variables that are no settings: those that the guides use in users' own programs, and those that Kubernetes sets in
/// a pod for Services named tollhouse and tollhouse-a--b.
const FOREIGN_VARIABLES: [(&str, &str); 12] = [
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
    ("TOLLHOUSE_A__B_SERVICE_HOST", "10.0.0.1"),
    ("TOLLHOUSE_A__B_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
];

/// Runs every command with these variables, one after another, on a new database.
fn run_every_command(variables: &[(&str, &str)]) -> Vec<(String, Output)> {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let data = path("data");
    let mut server = Binary::serve_with(temp.path().join("data").as_path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).envs(variables.iter().copied());
    });
    assert_eq!(server.terminate(), Some(0));
    fs::write(path("records.ndjson"), format!("{}\n", json!({"type": "scope", "scope": "reports:read"})))
        .unwrap();
    let records = path("records.ndjson");
    let backup = path("backup");
    let commands: [&[&str]; 10] = [
        &["config", "show"],
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
    let outputs = commands.into_iter().map(|args| {
        let mut command: Command = Binary::command(args);
        let output = command.args(["--data", &data]).envs(variables.iter().copied()).output().unwrap();
        (args.join(" "), output)
    });
    outputs.collect()
}

#[test]
fn foreign_variables_stop_no_command() {
    for (command, output) in run_every_command(&FOREIGN_VARIABLES) {
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        assert!(!stderr(&output).contains("TOLLHOUSE_"), "{command}: {}", stderr(&output));
    }
    // The server doesn't log them either.
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve_with(dir.path(), |command| {
        command.envs(FOREIGN_VARIABLES);
    });
    assert_eq!(server.terminate(), Some(0));
    let log = [server.start.clone(), server.log.iter().collect()].concat().join("\n");
    assert!(!log.contains("TOLLHOUSE_"), "{log}");
}

#[test]
fn a_misnamed_setting_causes_a_warning_by_every_command() {
    let warning =
        "TOLLHOUSE_LISTEN has no effect; did you mean TOLLHOUSE_HTTP__LISTEN or TOLLHOUSE_METRICS__LISTEN?";
    let variables = [("TOLLHOUSE_LISTEN", "0.0.0.0:1")];
    for (command, output) in run_every_command(&variables) {
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        let warnings = stderr(&output).lines().filter(|line| *line == format!("warning: {warning}")).count();
        // `openapi` reads no settings.
        assert_eq!(warnings, usize::from(command != "openapi"), "{command}: {}", stderr(&output));
        assert!(
            !stdout(&output).contains("TOLLHOUSE_LISTEN"),
            "{command}: standard output is for results only"
        );
    }
    // The server logs the warning and listens on its default address.
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.envs(variables);
    });
    let logged = server.start.iter().find(|line| line.contains("TOLLHOUSE_LISTEN")).expect("no warning");
    let logged: serde_json::Value = serde_json::from_str(logged).unwrap();
    assert_eq!(
        (&logged["level"], &logged["message"]),
        (&json!("WARN"), &json!("environment variable ignored"))
    );
    assert_eq!(logged["problem"], warning);
    assert!(server.url.starts_with("http://127.0.0.1:"), "{}", server.url);
}

#[test]
fn an_unknown_setting_still_stops_every_command() {
    for args in [&["serve"][..], &["config", "show"], &["check"], &["export"], &["admin-key", "create"]] {
        let mut command = Binary::command(args);
        let output = command.env("TOLLHOUSE_HTTP__LISTN", "127.0.0.1:0").output().unwrap();
        assert_fails(
            &output,
            1,
            &["TOLLHOUSE_HTTP__LISTN", "unknown setting; the nearest known one is TOLLHOUSE_HTTP__LISTEN"],
        );
    }
}

#[tokio::test]
async fn the_environment_may_name_the_configuration_file() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file.toml");
    let other = temp.path().join("other.toml");
    let data = temp.path().join("data");
    let text = format!("[http]\nlisten = \"127.0.0.1:0\"\n[database]\ndir = {:?}\n", data.to_str().unwrap());
    fs::write(&file, text).unwrap();
    fs::write(&other, "[database]\nreaders = 3\n").unwrap();

    let mut command = Binary::command(&["serve"]);
    command.env("TOLLHOUSE_CONFIG", &file).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
    let server = Binary::start(command);
    assert!(data.join("tollhouse.db").exists());
    assert_eq!(server.admin().get("/whoami").await.status, 200);

    let check = |args: &[&str]| Binary::command(args).env("TOLLHOUSE_CONFIG", &file).output().unwrap();
    let from_variable = stdout(&check(&["config", "show"]));
    assert!(
        from_variable.contains("file.toml:4") && from_variable.contains("readers = 4"),
        "{from_variable}"
    );
    // The flag overrides the variable: the other file is read instead, not in addition.
    let from_flag = stdout(&check(&["config", "show", "--config", other.to_str().unwrap()]));
    assert!(from_flag.contains("readers = 3") && !from_flag.contains("file.toml"), "{from_flag}");

    fs::remove_file(&file).unwrap();
    assert_fails(&check(&["config", "show"]), 1, &["TOLLHOUSE_CONFIG: ", "file.toml: can't be read"]);
    assert_eq!(check(&["openapi"]).status.code(), Some(0), "openapi reads no settings");
}
