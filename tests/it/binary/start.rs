//! The first start, the first key, and starts that are refused.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rexpect::process::WaitStatus;
use rexpect::session::spawn_command;

use super::{assert_fails, refused};
use crate::support::{ADMIN_KEY, Binary, Client, until};

/// Of our form, with a checksum that isn't its own.
const WRONG_CHECKSUM: &str = "toll_0123456789abcdefABCDEF0123456789000000";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn status_with(url: &str, key: &str) -> u16 {
    Client::new(url, Some(key)).get("/whoami").await.status
}

#[tokio::test]
async fn an_empty_directory_is_enough() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("not/there/yet");
    let server = Binary::serve_with(&dir, |_| ());
    assert!(server.url.starts_with("http://127.0.0.1:") && !server.url.ends_with(":0"), "{}", server.url);

    let file = dir.join("admin.key");
    let key = fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("toll_") && key.ends_with('\n') && key.trim_end().len() == 43, "{}", key.len());
    let whoami = Client::new(&server.url, Some(key.trim_end())).get("/whoami").await;
    assert_eq!((whoami.status, &whoami.data()["api_key"]["scopes"]), (200, &serde_json::json!(["*"])));

    let said = server.start.join("\n");
    assert!(said.contains(file.to_str().unwrap()), "{said}");
    assert!(!said.contains(key.trim_end()), "the key itself is in the log");
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.contains(&dir.join("tollhouse.db")), "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn the_first_key_goes_where_it_is_wanted_and_is_made_once() {
    let place = tempfile::tempdir().unwrap();
    let (dir, file) = (place.path().join("data"), place.path().join("elsewhere.key"));
    let wanted = |command: &mut Command| {
        command.arg("--admin-key-file").arg(&file);
    };
    let mut server = Binary::serve_with(&dir, wanted);
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!((mode(&file), dir.join("admin.key").exists()), (0o600, false));
    assert_eq!(server.terminate(), Some(0));
    fs::remove_file(&file).unwrap();

    let server = Binary::serve_with(&dir, wanted);
    assert!(!file.exists());
    assert_eq!(status_with(&server.url, key.trim_end()).await, 200);
}

#[tokio::test]
async fn the_environment_may_give_the_first_key() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("given");
    fs::write(&file, format!("{ADMIN_KEY}\n")).unwrap();
    for (name, value) in
        [("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY), ("TOLLHOUSE_ADMIN_KEY_FILE", file.to_str().unwrap())]
    {
        let dir = place.path().join(name);
        let mut server = Binary::serve_with(&dir, |command| {
            command.env(name, value);
        });
        assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
        assert!(!dir.join("admin.key").exists());
        assert!(!server.start.join("\n").contains(ADMIN_KEY));
        assert_eq!(server.terminate(), Some(0));

        // Later ones open nothing, and even a bad one stops nobody.
        for other in ["another-key-of-more-than-32-characters", "short", WRONG_CHECKSUM] {
            let other_key = |command: &mut Command| {
                command.env("TOLLHOUSE_ADMIN_KEY", other);
            };
            let mut server = Binary::serve_with(&dir, other_key);
            assert_eq!(status_with(&server.url, other).await, 401);
            assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
            assert_eq!(server.terminate(), Some(0));
        }
    }
}

#[tokio::test]
async fn a_first_key_that_is_none_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let file = place.path().join("given");
    let path = file.to_str().unwrap();
    let long = "x".repeat(10_000);
    for (key, why) in [
        ("", "32 to"),
        ("short-but-secret", "32 to"),
        ("with a space and more than 32 characters", "32 to"),
        (long.as_str(), "32 to"),
        (WRONG_CHECKSUM, "wrong checksum"),
    ] {
        assert_fails(&refused(&dir, &[("TOLLHOUSE_ADMIN_KEY", key)]), 1, &["TOLLHOUSE_ADMIN_KEY", why]);
        fs::write(&file, key).unwrap();
        let output = refused(&dir, &[("TOLLHOUSE_ADMIN_KEY_FILE", path)]);
        assert_fails(&output, 1, &["TOLLHOUSE_ADMIN_KEY_FILE", why]);
        assert!(key.is_empty() || !String::from_utf8(output.stderr).unwrap().contains(key));
    }
    fs::remove_file(&file).unwrap();
    let output = refused(&dir, &[("TOLLHOUSE_ADMIN_KEY_FILE", path)]);
    assert_fails(&output, 1, &["TOLLHOUSE_ADMIN_KEY_FILE", path, "No such file"]);

    // None of them was taken: the next start has the choice again.
    assert!(!dir.join("admin.key").exists());
    let server = Binary::serve(&dir);
    assert_eq!(status_with(&server.url, ADMIN_KEY).await, 200);
}

/// A terminal is told the key itself, and there Ctrl-C stops the server.
#[tokio::test]
async fn a_person_at_a_terminal_is_shown_the_first_key() {
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

/// What a person at a terminal is told once the server is ready; everybody else is told where it listens alone.
#[tokio::test]
async fn a_person_at_a_terminal_is_shown_the_pages() {
    let dir = tempfile::tempdir().unwrap();
    for (listen, reached) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]")] {
        let command = Binary::command(&["--listen", listen, "--data", dir.path().to_str().unwrap()]);
        let mut terminal = spawn_command(command, Some(30_000)).unwrap();
        terminal.exp_string("\nlistening on http://").unwrap();
        let address = terminal.exp_string("\r\n").unwrap();
        let (host, port) = address.rsplit_once(':').unwrap();
        assert_eq!(format!("{host}:0"), listen);
        for page in ["console", "docs"] {
            let url = format!("http://{reached}:{port}/{page}/");
            terminal.exp_string(&url).unwrap();
            assert_eq!(reqwest::get(&url).await.unwrap().status(), 200, "{url}");
        }
        terminal.send_control('c').unwrap();
        terminal.exp_eof().unwrap();
        assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)));
    }

    let mut server = Binary::serve(dir.path());
    assert_eq!(server.terminate(), Some(0));
    let said = [server.start.clone(), server.log.iter().collect()].concat();
    assert!(said.contains(&format!("listening on {}", server.url)), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("/console/") || line.contains("/docs/")), "{said:#?}");
}

#[test]
fn one_directory_serves_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Binary::serve(dir.path());
    assert_fails(&refused(dir.path(), &[]), 1, &["in use by another", dir.path().to_str().unwrap()]);
}

#[test]
fn a_port_in_use_is_refused_before_anything_is_made() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Binary::run(&["serve", "--listen", &address, "--data", dir.to_str().unwrap()]);
    assert_fails(&output, 1, &[&address, "in use"]);
    assert!(!dir.join("tollhouse.db").exists() && !dir.join("admin.key").exists());
}

#[test]
fn i11_a_newer_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Binary::serve(dir.path()).terminate(), Some(0));
    let file = dir.path().join("tollhouse.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&file).unwrap();
    assert_fails(&refused(dir.path(), &[]), 1, &["schema version 99", file.to_str().unwrap(), "backup"]);
    assert!(before == fs::read(&file).unwrap(), "the file was changed");

    fs::write(&file, "This is no database at all, but somebody's letter to a friend.").unwrap();
    assert_fails(&refused(dir.path(), &[]), 1, &["not a Tollhouse database"]);
}

#[test]
fn a_usage_error_has_a_status_of_its_own() {
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

/// What may take long gives way; what a verification waits for does not.
#[tokio::test]
async fn those_who_verify_come_first() {
    const PRIORITIES: [(&str, i64); 4] =
        [("lookups", 0), ("tokio-rt-worker", 10), ("worker", 0), ("writer", 0)];
    let place = tempfile::tempdir().unwrap();
    let server = Binary::serve(place.path());
    let process = procfs::process::Process::new(server.id().try_into().unwrap()).unwrap();
    // Its runtime's threads take their places while it starts.
    until("each kind of thread has its priority", || {
        let tasks = process.tasks().unwrap().filter_map(|task| task.ok()?.stat().ok());
        let found: BTreeSet<_> = tasks.map(|stat| (stat.comm, stat.nice)).collect();
        let found = found.iter().map(|(name, nice)| (name.as_str(), *nice));
        found.filter(|(name, _)| PRIORITIES.iter().any(|(known, _)| known == name)).eq(PRIORITIES)
    })
    .await;
}
