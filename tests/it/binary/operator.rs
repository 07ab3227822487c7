//! Commands for the operator: health, platform keys, configuration, and errors that say what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::{assert_fails, run, stderr, stdout};
use crate::support::{ADMIN_KEY, Binary};

#[tokio::test]
async fn health_asks_the_configured_listener() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let health = |listen: &str| Binary::run(&["health", "--listen", listen]);
    let ready = health(&address);
    assert_eq!((ready.status.code(), stdout(&ready).as_str()), (Some(0), "ready\n"), "{}", stderr(&ready));
    let port = address.rsplit(':').next().unwrap();
    for listen in [port.to_owned(), format!("0.0.0.0:{port}"), format!("localhost:{port}")] {
        assert_eq!(health(&listen).status.code(), Some(0), "{listen}");
    }
    let by_variable = Binary::command(&["health"]).env("TOLLHOUSE_HTTP__LISTEN", &address).output().unwrap();
    assert_eq!(by_variable.status.code(), Some(0), "{}", stderr(&by_variable));

    assert_eq!(server.terminate(), Some(0));
    assert_fails(&health(&address), 1, &["/readyz: ", "refused"]);
    assert_fails(&health("127.0.0.1:0"), 1, &["port 0"]);
}

/// A server that accepts connections and never answers, or answers that it isn't ready.
#[test]
fn health_says_why_a_server_is_not_ready() {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let count = stream.read(&mut request).unwrap();
        let body = r#"{"error":{"code":"UNAVAILABLE","message":"The server is shutting down."}}"#;
        let length = body.len();
        write!(stream, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        String::from_utf8_lossy(&request[..count]).into_owned()
    });
    let output = Binary::run(&["health", "--listen", &address]);
    assert_fails(&output, 1, &["/readyz: The server is shutting down."]);
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /readyz HTTP/1.1\r\n") && request.contains(&address), "{request}");
}

#[tokio::test]
async fn i3_a_key_revoked_by_the_command_line_is_refused_when_the_command_returns() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    let created = super::json(&run(dir.path(), &["admin-key", "create", "--name", "lost", "--json"]));
    let id = created["id"].as_str().unwrap();
    let lost = server.client(created["key"].as_str().unwrap());
    assert_eq!(lost.get("/whoami").await.status, 200);

    let listed = super::json(&run(dir.path(), &["admin-key", "list", "--json"]));
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[1]["id"], &listed[1]["status"]), (&json!(id), &json!("active")));
    assert!(listed.iter().all(|key| key.get("key").is_none()), "{listed:?}");

    let revoked = run(dir.path(), &["admin-key", "revoke", id, "--reason", "stolen"]);
    let printed = stdout(&revoked);
    assert!(revoked.status.success(), "{}", stderr(&revoked));
    assert_eq!(lost.get("/whoami").await.status, 401, "{printed}");
    assert_eq!(printed, format!("revoked {id} \"lost\"; the running server refuses it\n"));
    let table = stdout(&run(dir.path(), &["admin-key", "list"]));
    assert!(table.lines().any(|line| line.starts_with(id) && line.contains("revoked")), "{table}");
    let events = server.admin().get("/audit-logs?action=api_key.revoke").await;
    let event = &events.data()[0];
    assert_eq!((&event["actor"]["type"], &event["target"]["id"]), (&json!("cli"), &json!(id)));

    assert_fails(&run(dir.path(), &["admin-key", "revoke", "key_none"]), 1, &["no such API key"]);
    let last = listed[0]["id"].as_str().unwrap();
    assert_fails(&run(dir.path(), &["admin-key", "revoke", last]), 1, &["the last platform key"]);
}

#[test]
fn keys_are_listed_and_revoked_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    assert_eq!(server.terminate(), Some(0));
    let created = super::json(&run(dir.path(), &["admin-key", "create", "--json"]));
    let id = created["id"].as_str().unwrap();
    let revoked = run(dir.path(), &["admin-key", "revoke", id, "--json"]);
    assert_eq!(super::json(&revoked)["status"], "revoked");
    let listed = super::json(&run(dir.path(), &["admin-key", "list", "--json"]));
    let statuses: Vec<_> = listed.as_array().unwrap().iter().map(|key| &key["status"]).collect();
    assert_eq!(statuses, ["active", "revoked"]);
}

#[test]
fn a_configuration_is_created_checked_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollhouse.toml");
    let init = |args: &[&str]| Binary::command(args).current_dir(dir.path()).output().unwrap();
    let written = init(&["config", "init"]);
    assert!(written.status.success(), "{}", stderr(&written));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644, "the service must read it");
    assert_fails(&init(&["config", "init"]), 1, &["tollhouse.toml already exists"]);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(stdout(&init(&["config", "init", "-"])), text);

    let with_file = |command| Binary::run(&["config", command, "--config", file.to_str().unwrap()]);
    assert_eq!(stdout(&with_file("check")), "ok\n");
    let defaults = stdout(&with_file("show"));
    assert!(defaults.contains("listen = \"127.0.0.1:8080\""), "{defaults}");
    fs::write(&file, text.replace("#listen = \"127.0.0.1:8080\"", "listen = \":8080\"")).unwrap();
    assert!(
        stdout(&with_file("show")).contains("listen = \"[::]:8080\"  # "),
        "{}",
        stdout(&with_file("show"))
    );
    fs::write(&file, "[http]\nlisten = \"example.com:80\"\n").unwrap();
    for command in ["check", "show"] {
        assert_fails(&with_file(command), 1, &["tollhouse.toml:2: http.listen", "\"localhost:8080\""]);
    }
}

#[tokio::test]
async fn every_form_of_a_listener_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |listen: &str| {
        let mut command = Binary::command(&["--listen", listen, "--data", dir.path().to_str().unwrap()]);
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        Binary::start(command)
    };
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for (listen, shown, v6) in [
        ("0", "127.0.0.1", false),
        (":0", "[::]", true),
        ("localhost:0", "127.0.0.1", true),
        ("[::]:0", "[::]", true),
    ] {
        let mut server = serve(listen);
        let (host, port) = server.url.strip_prefix("http://").unwrap().rsplit_once(':').unwrap();
        assert!(host == shown || !has_ipv6, "{listen}: {host}");
        for host in ["127.0.0.1", "[::1]"] {
            let answered = reqwest::get(format!("http://{host}:{port}/healthz")).await.is_ok();
            assert_eq!(answered, host == "127.0.0.1" || (v6 && has_ipv6), "{listen}: {host}");
        }
        assert_eq!(server.terminate(), Some(0));
    }
}

#[test]
fn an_address_in_use_says_how_to_choose_another() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run(dir.path(), &["serve", "--listen", &address]);
    assert_fails(&refused, 1, &[&address, "in use", "--listen", "TOLLHOUSE_HTTP__LISTEN"]);
}

#[test]
fn no_permission_is_not_a_missing_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Binary::serve(&data);
    assert_eq!(server.terminate(), Some(0));
    // Root may read everything, so the commands run as another user then.
    let is_root = dir.path().metadata().unwrap().uid() == 0;
    let mode = |mode| fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
    mode(if is_root { 0o700 } else { 0o000 });
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("tollhouse");
    fs::copy(env!("CARGO_BIN_EXE_tollhouse"), &program).unwrap();
    for args in
        [&["check"][..], &["audit", "verify"], &["admin-key", "list"], &["backup", "copy"], &["export"]]
    {
        let mut command = std::process::Command::new(&program);
        command.args(args).arg("--data").arg(&data).current_dir(dir.path());
        if is_root {
            command.uid(12_345).gid(12_345);
        }
        let output = command.output().unwrap();
        assert_fails(&output, 1, &["No permission to read", "tollhouse.db", "sudo -u"]);
    }
    mode(0o700);
}

#[test]
fn a_damaged_database_says_where_it_is_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(dir.path());
    assert_eq!(server.terminate(), Some(0));
    let live = dir.path().join("tollhouse.db");
    // Everything after the file header is overwritten.
    let mut bytes = fs::read(&live).unwrap();
    bytes[100..].fill(0xa5);
    fs::write(&live, bytes).unwrap();
    let name = live.to_str().unwrap();
    let serve = &["serve", "--listen", "127.0.0.1:0"];
    for args in [&["check"][..], &["audit", "verify"], &["admin-key", "list"], &["backup", "copy"], serve] {
        assert_fails(&run(dir.path(), args), 1, &[name, "is damaged", "`tollhouse restore`"]);
    }
    for args in [&["check", "--json"][..], &["audit", "verify", "--json"]] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(1));
        let failure: Value = super::json(&output);
        assert_eq!((&failure["ok"], &failure["file"]), (&json!(false), &json!(name)), "{failure}");
        assert!(failure["error"]["message"].as_str().unwrap().contains("is damaged"), "{failure}");
    }
    let empty = dir.path().join("empty");
    let args = ["restore", name, "--accept-unrevoked"];
    assert_fails(&run(&empty, &args), 1, &[name, "is damaged", "Use another backup."]);
}

#[test]
fn help_and_version_are_words_too() {
    let text = |args: &[&str]| {
        let output = Binary::run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(text(&["version"]), text(&["--version"]));
    assert_eq!(text(&["help"]), text(&["--help"]));
    assert_eq!(text(&["help", "admin-key", "revoke"]), text(&["admin-key", "revoke", "--help"]));
    let document: Value =
        serde_json::from_str(&text(&["openapi", "--server", "https://api.example.com"])).unwrap();
    assert_eq!(document["servers"], json!([{"url": "https://api.example.com"}]));
    assert!(text(&["help", "completions"]).contains("bash-completion/completions/tollhouse"));
}

/// What bash offers for the last word of a line.
fn bash_completions(dir: &Path, line: &str) -> String {
    let program = env!("CARGO_BIN_EXE_tollhouse");
    let words = line.split(' ').map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "source <({program} completions bash)\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         cur=${{COMP_WORDS[COMP_CWORD]}}; prev=${{COMP_WORDS[COMP_CWORD-1]}}\n\
         _tollhouse tollhouse \"$cur\" \"$prev\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).current_dir(dir).output().unwrap();
    assert!(stderr(&output).is_empty(), "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn bash_completes_commands_options_and_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("events.ndjson"), "").unwrap();
    assert!(bash_completions(dir.path(), "tollhouse adm").contains("admin-key"));
    assert!(bash_completions(dir.path(), "tollhouse admin-key rev").contains("revoke"));
    assert!(bash_completions(dir.path(), "tollhouse backup --fo").contains("--force"));
    assert!(bash_completions(dir.path(), "tollhouse audit export --output ev").contains("events.ndjson"));
    assert!(bash_completions(dir.path(), "tollhouse --config ev").contains("events.ndjson"));
}
