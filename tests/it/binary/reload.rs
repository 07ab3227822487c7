//! SIGHUP applies `log.level` and names other changed settings.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{ADMIN_KEY, Binary};

/// Serves with this configuration file.
fn serve(dir: &Path, file: &str, variables: &[(&str, &str)]) -> (Binary, PathBuf) {
    let path = dir.join("tollhouse.toml");
    fs::write(&path, file).unwrap();
    let server = Binary::serve_with(&dir.join("data"), |command| {
        command.arg("--config").arg(&path).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        command.envs(variables.iter().copied());
    });
    (server, path)
}

/// Reloads the server and returns the lines until one contains `last`.
fn reload(server: &Binary, last: &str) -> Vec<Value> {
    server.signal("HUP");
    let mut lines = Vec::new();
    loop {
        let line: Value = serde_json::from_str(&server.line_with("{")).unwrap();
        let is_last = line["message"] == last;
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

#[tokio::test]
async fn a_reload_applies_the_log_level() {
    let dir = tempfile::tempdir().unwrap();
    let (server, file) = serve(dir.path(), "log.level = 'info'", &[]);
    let admin = server.admin();
    fs::write(&file, "log.level = 'debug'").unwrap();
    let lines = reload(&server, "log level changed");
    assert_eq!(lines.last().unwrap()["log_level"], "debug");
    assert_eq!(admin.get_at_root("/healthz").await.status, 200);
    server.line_with("\"route\":\"/healthz\"");

    // The change is reported whichever events the levels include.
    fs::write(&file, "log.level = 'warn'").unwrap();
    reload(&server, "log level changed");
    fs::write(&file, "log.level = 'error'").unwrap();
    reload(&server, "log level changed");
    assert_eq!(admin.get("/whoami").await.status, 200);
    fs::write(&file, "log.level = 'info'").unwrap();
    let lines = reload(&server, "log level changed");
    assert!(lines.iter().all(|line| line["message"] != "request"), "{lines:?}");
}

/// The environment still overrides the file.
#[test]
fn a_reload_keeps_the_precedence_of_sources() {
    let dir = tempfile::tempdir().unwrap();
    let (server, file) = serve(dir.path(), "", &[("TOLLHOUSE_LOG__LEVEL", "debug")]);
    fs::write(&file, "log.level = 'error'").unwrap();
    reload(&server, "configuration reloaded");
    fs::write(&file, "log.level = 'warn'").unwrap();
    let lines = reload(&server, "configuration reloaded");
    assert!(lines.iter().all(|line| line["message"] != "log level changed"), "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["log_level"], &last["origin"]), (&"debug".into(), &"TOLLHOUSE_LOG__LEVEL".into()));
}

#[test]
fn a_reload_names_settings_that_need_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (server, file) = serve(dir.path(), "", &[]);
    let text = "http.max_connections = 4321\nmetrics.listen = '127.0.0.1:0'\nkeys.default_expiry_days = 9\n";
    fs::write(&file, text).unwrap();
    let lines = reload(&server, "configuration reloaded");
    let settings = |message: &str| {
        let line = lines.iter().find(|line| line["message"].as_str().unwrap().starts_with(message)).unwrap();
        assert_eq!(line["level"], "WARN");
        line["settings"].clone()
    };
    assert_eq!(
        settings("changed settings take effect after a restart"),
        "http.max_connections, metrics.listen"
    );
    assert_eq!(settings("changed initial values ignored"), "keys.default_expiry_days");
    let text = lines.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("4321"), "values are not logged: {text}");
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, file) = serve(dir.path(), "log.level = 'info'", &[]);
    fs::write(&file, "log.level = 'debug'\nhttp.max_connections = 'many'\n").unwrap();
    let lines = reload(&server, "keeping the previous configuration");
    let error = lines.last().unwrap();
    assert_eq!((&error["level"], &error["setting"]), (&"ERROR".into(), &"http.max_connections".into()));
    assert!(error["source"].as_str().unwrap().ends_with("tollhouse.toml:2"), "{error}");
    let admin = server.admin();
    assert_eq!(admin.get_at_root("/healthz").await.status, 200);
    fs::remove_file(&file).unwrap();
    reload(&server, "keeping the previous configuration");
    assert_eq!(server.terminate(), Some(0));
    assert!(!server.log.iter().any(|line| line.contains("/healthz")), "the level is still info");
}

/// Reading a pipe that nobody writes to would never end, and one that was read at the start is empty.
#[tokio::test]
async fn a_pipe_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, file) = serve(dir.path(), "log.level = 'info'", &[]);
    fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let lines = reload(&server, "keeping the previous configuration");
    assert_eq!(lines.last().unwrap()["problem"], "is not a regular file");
    assert_eq!(server.admin().get("/whoami").await.status, 200);
    assert_eq!(server.terminate(), Some(0));
}
