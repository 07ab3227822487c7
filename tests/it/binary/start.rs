//! The first start, the initial admin key, and starts that are refused.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rexpect::process::WaitStatus;
use rexpect::session::spawn_command;

use super::{assert_fails, serve_refused};
use crate::support::{ADMIN_KEY, Binary, Client, until};

/// A key in Tollhouse's format with a wrong checksum.
const WRONG_CHECKSUM: &str = "toll_0123456789abcdefABCDEF0123456789000000";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn status_with(url: &str, key: &str) -> u16 {
    Client::new(url, Some(key)).get("/whoami").await.status
}

#[tokio::test]
async fn serve_creates_a_missing_data_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("not/there/yet");
    let server = Binary::serve_with(&dir, |_| ());
    assert!(server.url.starts_with("http://127.0.0.1:") && !server.url.ends_with(":0"), "{}", server.url);

    let file = dir.join("admin.key");
    let key = fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("toll_") && key.ends_with('\n') && key.trim_end().len() == 43, "{}", key.len());
    let whoami = Client::new(&server.url, Some(key.trim_end())).get("/whoami").await;
    assert_eq!((whoami.status, &whoami.data()["api_key"]["scopes"]), (200, &serde_json::json!(["*"])));

    let startup_log = server.start.join("\n");
    assert!(startup_log.contains(file.to_str().unwrap()), "{startup_log}");
    assert!(!startup_log.contains(key.trim_end()), "the key itself is in the log");
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.contains(&dir.join("tollhouse.db")), "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn the_initial_key_is_written_to_the_given_file_and_created_once() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("elsewhere.key");
    let with_key_file = |command: &mut Command| {
        command.arg("--admin-key-file").arg(&file);
    };
    let mut server = Binary::serve_with(&dir, with_key_file);
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!((mode(&file), dir.join("admin.key").exists()), (0o600, false));
    assert_eq!(server.terminate(), Some(0));
    fs::remove_file(&file).unwrap();

    let server = Binary::serve_with(&dir, with_key_file);
    assert!(!file.exists());
    assert_eq!(status_with(&server.url, key.trim_end()).await, 200);
}

#[tokio::test]
async fn the_environment_may_set_the_initial_key() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("given");
    fs::write(&file, format!("{ADMIN_KEY}\n")).unwrap();
    for (name, value) in
        [("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY), ("TOLLHOUSE_ADMIN_KEY_FILE", file.to_str().unwrap())]
    {
        let dir = temp.path().join(name);
        let mut server = Binary::serve_with(&dir, |command| {
            command.env(name, value);
        });
        assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
        assert!(!dir.join("admin.key").exists());
        assert!(!server.start.join("\n").contains(ADMIN_KEY));
        assert_eq!(server.terminate(), Some(0));

        // On later starts the variable is ignored with a warning, even if its key is invalid.
        for other in ["another-key-of-more-than-32-characters", "short", WRONG_CHECKSUM] {
            let other_key = |command: &mut Command| {
                command.env("TOLLHOUSE_ADMIN_KEY", other);
            };
            let mut server = Binary::serve_with(&dir, other_key);
            assert_eq!(status_with(&server.url, other).await, 401);
            assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
            let warning = server.start.iter().find(|line| line.contains("first admin key ignored")).unwrap();
            assert!(warning.contains("TOLLHOUSE_ADMIN_KEY") && !warning.contains(other), "{warning}");
            assert_eq!(server.terminate(), Some(0));
        }
    }
}

/// Without a changed key there is nothing to warn about: the key of the first start, also after its rotation, and a
/// file that was deleted.
#[tokio::test]
async fn a_known_or_missing_initial_key_causes_no_warning() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("given");
    let start = |name: &str, value: &str| {
        let mut server = Binary::serve_with(&dir, |command| {
            command.env(name, value);
        });
        let log = server.start.join("\n");
        assert_eq!(server.terminate(), Some(0));
        log.contains("first admin key ignored")
    };
    assert!(!start("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY), "the first start");
    assert!(!start("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY));
    assert!(!start("TOLLHOUSE_ADMIN_KEY", ""));
    assert!(!start("TOLLHOUSE_ADMIN_KEY_FILE", file.to_str().unwrap()), "the file was deleted");
    fs::write(&file, ADMIN_KEY).unwrap();
    assert!(!start("TOLLHOUSE_ADMIN_KEY_FILE", file.to_str().unwrap()));
    fs::write(&file, "another-key-of-more-than-32-characters").unwrap();
    assert!(start("TOLLHOUSE_ADMIN_KEY_FILE", file.to_str().unwrap()));

    let server = Binary::serve(&dir);
    let id = server.admin().get("/whoami").await.data()["api_key"]["id"].as_str().unwrap().to_owned();
    let rotated = server.admin().post(&format!("/api-keys/{id}/rotate"), serde_json::json!({})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    drop(server);
    assert!(!start("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY), "it was rotated");
}

/// An empty variable, as Compose files set it for an absent value, hides no file. An empty file name is none.
#[tokio::test]
async fn an_empty_variable_counts_as_unset() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("given");
    fs::write(&file, ADMIN_KEY).unwrap();
    for (number, (key, file)) in [("", file.to_str().unwrap()), (ADMIN_KEY, "")].into_iter().enumerate() {
        let server = Binary::serve_with(&temp.path().join(number.to_string()), |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", key).env("TOLLHOUSE_ADMIN_KEY_FILE", file);
        });
        assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
    }
    let dir = temp.path().join("generated");
    let server = Binary::serve_with(&dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY_FILE", "");
    });
    let key = fs::read_to_string(dir.join("admin.key")).unwrap();
    assert_eq!(status_with(&server.url, key.trim_end()).await, 200);
}

#[tokio::test]
async fn an_invalid_initial_key_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("given");
    let path = file.to_str().unwrap();
    let long = "x".repeat(10_000);
    for (key, reason) in [
        ("", "32 to"),
        ("short-but-secret", "32 to"),
        ("with a space and more than 32 characters", "32 to"),
        (long.as_str(), "32 to"),
        (WRONG_CHECKSUM, "wrong checksum"),
        ("changemechangemechangemechangeme", "openssl rand -hex 32"),
        ("1234567890123456789012345678901234567890", "easy to guess"),
    ] {
        assert_fails(
            &serve_refused(&dir, &[("TOLLHOUSE_ADMIN_KEY", key)]),
            1,
            &["TOLLHOUSE_ADMIN_KEY", reason],
        );
        fs::write(&file, key).unwrap();
        let output = serve_refused(&dir, &[("TOLLHOUSE_ADMIN_KEY_FILE", path)]);
        assert_fails(&output, 1, &["TOLLHOUSE_ADMIN_KEY_FILE", reason]);
        assert!(key.is_empty() || !String::from_utf8(output.stderr).unwrap().contains(key));
    }
    fs::remove_file(&file).unwrap();
    let output = serve_refused(&dir, &[("TOLLHOUSE_ADMIN_KEY_FILE", path)]);
    assert_fails(&output, 1, &["TOLLHOUSE_ADMIN_KEY_FILE", path, "No such file"]);

    // No key was created, so the next start still creates the initial key.
    assert!(!dir.join("admin.key").exists());
    let server = Binary::serve(&dir);
    assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
}

/// On a terminal, the server prints the key itself, and Ctrl-C stops the server.
#[tokio::test]
async fn the_initial_key_is_printed_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let command = Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.path().to_str().unwrap()]);
    let mut terminal = spawn_command(command, Some(30_000)).unwrap();
    terminal.exp_string("shown only once:").unwrap();
    let (_, key) = terminal.exp_regex("toll_[0-9A-Za-z]{38}").unwrap();
    let (_, url) = terminal.exp_regex(r"http://127\.0\.0\.1:\d+").unwrap();
    assert_eq!(status_with(&url, &key).await, 200);
    assert!(!dir.path().join("admin.key").exists());
    terminal.send_control('c').unwrap();
    let rest = terminal.exp_eof().unwrap();
    assert!(rest.contains("stopped"), "{rest}");
    assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)));
}

/// On a terminal, the server prints the addresses of its pages once it is ready; otherwise it logs only the address
/// it listens on.
#[tokio::test]
async fn the_pages_addresses_are_printed_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    for (listen, reachable_host) in
        [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]")]
    {
        let command = Binary::command(&["--listen", listen, "--data", dir.path().to_str().unwrap()]);
        let mut terminal = spawn_command(command, Some(30_000)).unwrap();
        terminal.exp_string("\nlistening on http://").unwrap();
        let address = terminal.exp_string("\r\n").unwrap();
        let (host, port) = address.rsplit_once(':').unwrap();
        assert_eq!(format!("{host}:0"), listen);
        for page in ["console", "docs"] {
            let url = format!("http://{reachable_host}:{port}/{page}/");
            terminal.exp_string(&url).unwrap();
            assert_eq!(reqwest::get(&url).await.unwrap().status(), 200, "{url}");
        }
        terminal.send_control('c').unwrap();
        terminal.exp_eof().unwrap();
        assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)));
    }

    let mut server = Binary::serve(dir.path());
    assert_eq!(server.terminate(), Some(0));
    let log = [server.start.clone(), server.log.iter().collect()].concat();
    let listening = format!("\"message\":\"listening on {}\"", server.url);
    assert!(log.iter().any(|line| line.contains(&listening)), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("/console/") || line.contains("/docs/")), "{log:#?}");
}

/// Without TLS, a listener that other machines can reach is worth a warning; one on loopback isn't.
#[test]
fn an_unencrypted_listener_beyond_loopback_is_warned_about() {
    for (listen, is_warned) in [
        ("127.0.0.1:0", false),
        ("[::1]:0", false),
        ("[::ffff:127.0.0.1]:0", false),
        ("0.0.0.0:0", true),
        ("[::]:0", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let command = Binary::command(&["--listen", listen, "--data", dir.path().to_str().unwrap()]);
        let server = Binary::start(command);
        let warnings = server.start.iter().filter(|line| line.contains("TLS is off")).count();
        assert_eq!(warnings, usize::from(is_warned), "{listen}: {:?}", server.start);
    }
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Binary::serve(dir.path());
    assert_fails(&serve_refused(dir.path(), &[]), 1, &["in use by another", dir.path().to_str().unwrap()]);
}

#[test]
fn a_port_in_use_is_refused_before_any_file_is_created() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let output = Binary::run(&["serve", "--listen", &address, "--data", dir.to_str().unwrap()]);
    assert_fails(&output, 1, &[&address, "in use"]);
    assert!(!dir.join("tollhouse.db").exists() && !dir.join("admin.key").exists());
}

#[test]
fn i11_a_database_with_a_newer_schema_is_refused_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Binary::serve(dir.path()).terminate(), Some(0));
    let file = dir.path().join("tollhouse.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&file).unwrap();
    assert_fails(
        &serve_refused(dir.path(), &[]),
        1,
        &["schema version 99", file.to_str().unwrap(), "backup"],
    );
    assert!(before == fs::read(&file).unwrap(), "the file was changed");

    fs::write(&file, "This is no database at all, but somebody's letter to a friend.").unwrap();
    assert_fails(&serve_refused(dir.path(), &[]), 1, &["not a Tollhouse database"]);
}

#[test]
fn a_usage_error_exits_with_status_2() {
    for args in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["--listen", "nonsense"],
        &["serve", "--listen", "127.0.0.1:65536"],
        &["admin-key"],
        &["admin-key", "create", "surplus"],
        &["audit", "export", "--format", "pdf"],
        &["audit", "verify", "--filtered"],
    ] {
        assert_fails(&Binary::run(args), 2, &["--help"]);
    }
}

/// Threads for long work run at a lower priority (nice 10); threads that verifications wait for do not.
#[tokio::test]
async fn threads_that_verifications_need_have_normal_priority() {
    const PRIORITIES: [(&str, i64); 4] =
        [("lookups", 0), ("tokio-rt-worker", 10), ("worker", 0), ("writer", 0)];
    let temp = tempfile::tempdir().unwrap();
    let server = Binary::serve(temp.path());
    let process = procfs::process::Process::new(server.id().try_into().unwrap()).unwrap();
    // The threads set their priorities while the server starts.
    until("each kind of thread has its priority", || {
        let tasks = process.tasks().unwrap().filter_map(|task| task.ok()?.stat().ok());
        let priorities: BTreeSet<_> = tasks.map(|stat| (stat.comm, stat.nice)).collect();
        let priorities = priorities.iter().map(|(name, nice)| (name.as_str(), *nice));
        priorities.filter(|(name, _)| PRIORITIES.iter().any(|(known, _)| known == name)).eq(PRIORITIES)
    })
    .await;
}

/// An unmounted volume is an empty directory; a new database there would know no key.
#[tokio::test]
async fn a_missing_or_emptied_database_is_not_created_anew() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let output =
        Binary::run(&["serve", "--must-exist", "--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("tollhouse.db doesn't exist, and database.must_exist is set"), "{message}");
    assert!(!dir.exists(), "nothing is created");

    assert_eq!(Binary::serve(&dir).terminate(), Some(0));
    let must_exist = |command: &mut Command| {
        command.env("TOLLHOUSE_DATABASE__MUST_EXIST", "true");
    };
    assert_eq!(Binary::serve_with(&dir, must_exist).terminate(), Some(0));

    let file = dir.join("tollhouse.db");
    fs::write(&file, "").unwrap();
    let output = Binary::run(&["serve", "--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("tollhouse.db is empty (0 bytes)"), "{message}");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
}
