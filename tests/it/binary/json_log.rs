//! With `log.format = "json"`, each line of the server's standard error is a JSON object.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use super::stderr;
use crate::support::{Binary, Raw};

/// Parses all lines as JSON objects with the members of a log event.
fn events(text: &str) -> Vec<Value> {
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        for member in ["timestamp", "level", "message", "target"] {
            assert!(event[member].is_string(), "{member}: {line}");
        }
        event
    };
    text.lines().map(event).collect()
}

fn has_message(events: &[Value], message: &str) -> bool {
    events.iter().any(|event| event["message"].as_str().unwrap().starts_with(message))
}

#[tokio::test]
async fn every_line_of_a_server_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollhouse.toml");
    fs::write(&file, "[log]\nformat = \"json\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let data = dir.path().join("data");
    let args = ["serve", "--listen", "0.0.0.0:0", "--data", data.to_str().unwrap()];
    let mut command = Binary::command(&args);
    command.arg("--config").arg(&file).env("TOLLHOUSE_LISTEN", "misnamed").env("RUST_LOG", "my_program");
    let mut server = Binary::start(command);
    server.url = server.url.replace("0.0.0.0", "127.0.0.1");
    let key = fs::read_to_string(data.join("admin.key")).unwrap();
    let client = server.client(key.trim_end());
    assert_eq!(client.get("/whoami").await.status, 200);
    assert_eq!(client.post("/users", json!({"name": 1})).await.status, 400);
    assert_eq!(server.client("nobody-ever-had-this-key").get("/users").await.status, 401);
    let mut raw = Raw::connect(&server.url).await;
    raw.send(b"\x16\x03\x01 no HTTP\r\n\r\n").await;
    drop(raw.answers().await);
    let mut lines: Vec<String> = server.start.drain(..).collect();
    let mut reload = |server: &Binary, last: &str| {
        server.signal("HUP");
        while !lines.last().unwrap().contains(last) {
            lines.push(server.line_with(""));
        }
    };
    reload(&server, "configuration reloaded");
    fs::write(&file, "log = 7\nunknown = 8\n").unwrap();
    reload(&server, "keeping the previous configuration");
    assert_eq!(server.terminate(), Some(0));
    let text = lines.into_iter().chain(server.log.iter()).collect::<Vec<_>>().join("\n");
    let events = events(&text);
    for message in [
        "environment variable ignored",
        "TLS is off",
        "first admin key written",
        "metrics on http://",
        "listening on http://",
        "try",
        "configuration reloaded",
        "keeping the previous configuration",
        "stopping",
        "stopped",
    ] {
        assert!(has_message(&events, message), "{message}: {text}");
    }
    let listening = events.iter().find(|event| event["message"].as_str().unwrap().starts_with("listening"));
    assert_eq!(listening.unwrap()["url"], server.url.replace("127.0.0.1", "0.0.0.0"));
    let tried = events.iter().find(|event| event["message"] == "try").unwrap();
    assert!(tried["command"].as_str().unwrap().starts_with("curl "), "{tried}");
}

#[tokio::test]
async fn sample_data_is_announced_in_json() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = Binary::command(&["serve", "--dev", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", temp.path()).env("TOLLHOUSE_LOG__FORMAT", "json");
    let mut server = Binary::start(command);
    assert_eq!(server.terminate(), Some(0));
    let lines: Vec<String> = server.start.drain(..).chain(server.log.iter()).collect();
    let events = events(&lines.join("\n"));
    let sample =
        events.iter().find(|event| event["message"] == "sample data, discarded when the server stops");
    assert!(sample.unwrap()["admin_key"].as_str().unwrap().starts_with("toll_"), "{events:?}");
}

#[test]
fn a_start_that_fails_is_reported_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let serve = |variables: &[(&str, &str)]| {
        let mut command: Command = Binary::command(&["serve", "--data", dir.path().to_str().unwrap()]);
        command.envs(variables.iter().copied()).env("TOLLHOUSE_LOG__FORMAT", "json");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        events(&stderr(&output))
    };
    let failed = serve(&[("TOLLHOUSE_HTTP__LISTEN", &address)]);
    assert_eq!((&failed[0]["level"], &failed[0]["message"]), (&json!("ERROR"), &json!("server failed")));
    assert!(failed[0]["error"].as_str().unwrap().contains("in use"), "{failed:?}");
    // The level doesn't filter it out.
    let failed = serve(&[("TOLLHOUSE_HTTP__LISTEN", &address), ("TOLLHOUSE_LOG__LEVEL", "off")]);
    assert!(has_message(&failed, "server failed"), "{failed:?}");

    let variables = [("TOLLHOUSE_HTTP__LISTEN", "x:y"), ("TOLLHOUSE_CACHE__MAX_BYTES", "1")];
    let invalid = serve(&variables);
    assert_eq!(invalid.len(), variables.len(), "{invalid:?}");
    for (variable, _) in variables {
        let event = invalid.iter().find(|event| event["source"] == variable).unwrap();
        assert_eq!(event["message"], "invalid configuration");
        assert!(event["setting"].is_string() && event["problem"].is_string(), "{event}");
    }
    // Another command has the same errors as text.
    let output = Binary::command(&["check"]).env("TOLLHOUSE_CACHE__MAX_BYTES", "1").output().unwrap();
    assert!(stderr(&output).starts_with("The configuration has 1 error:\n"), "{}", stderr(&output));
}
