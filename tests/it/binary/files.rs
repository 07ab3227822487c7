//! Files that commands write for the operator: complete or not there, private, and with the right owner.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use rusqlite::Connection;

use super::{assert_fails, run, stderr, stdout};
use crate::support::{Binary, until};

fn database() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve(&dir.path().join("data"));
    assert_eq!(server.terminate(), Some(0));
    dir
}

fn mode(file: &Path) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

#[test]
fn files_are_private_and_replaced_only_with_force() {
    let temp = database();
    let data = temp.path().join("data");
    let file = temp.path().join("file");
    let name = file.to_str().unwrap();
    for args in [&["audit", "export", "--output", name][..], &["export", "--output", name], &["backup", name]]
    {
        fs::write(&file, "theirs").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_fails(&run(&data, args), 1, &["already exists. Use --force to replace it."]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        succeeds(&run(&data, &[args, &["--force"]].concat()));
        assert_eq!(mode(&file), 0o600, "{args:?}");
        assert!(file.metadata().unwrap().len() > 100);
        assert_eq!(names(temp.path()), ["data", "file"], "{args:?}");
        fs::remove_file(&file).unwrap();
        succeeds(&run(&data, args));
        assert_eq!(mode(&file), 0o600, "{args:?}");
    }
}

/// What `sudo` creates, the service must be able to open.
#[test]
fn files_of_root_get_the_owner_of_what_they_replace_or_of_the_data_directory() {
    let temp = database();
    if temp.path().metadata().unwrap().uid() != 0 {
        // Only root can create files for another user. For any other user the files are theirs.
        return;
    }
    let (service, other) = ((12_345, 23_456), (34_567, 45_678));
    let give = |path: &Path, (user, group)| chown(path, Some(user), Some(group)).unwrap();
    let owner = |path: &Path| path.metadata().map(|file| (file.uid(), file.gid())).unwrap();
    let data = temp.path().join("data");
    give(&data, service);
    for name in names(&data) {
        give(&data.join(name), service);
    }
    let file = |name: &str| temp.path().join(name);
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    for (command, name) in [
        (&["audit", "export", "--output"][..], "audit"),
        (&["export", "--output"], "all.ndjson"),
        (&["backup"], "b"),
    ] {
        let name = path(name);
        succeeds(&run(&data, &[command, &[&name]].concat()));
        assert_eq!(owner(Path::new(&name)), service, "{command:?}");
        give(Path::new(&name), other);
        succeeds(&run(&data, &[command, &[&name, "--force"]].concat()));
        assert_eq!(owner(Path::new(&name)), other, "{command:?} replaces");
    }
    fs::remove_file(data.join("tollhouse.lock")).unwrap();
    succeeds(&run(&data, &["restore", &path("b"), "--force"]));
    for name in names(&data) {
        assert_eq!(owner(&data.join(&name)), service, "{name} after a restore");
    }

    let empty = file("empty");
    fs::create_dir(&empty).unwrap();
    give(&empty, service);
    succeeds(&run(&empty, &["import", &path("all.ndjson")]));
    for name in names(&empty) {
        assert_eq!(owner(&empty.join(&name)), service, "{name} after an import");
    }
}

#[test]
fn a_hyphen_is_standard_input_or_output() {
    let temp = database();
    let data = temp.path().join("data");
    let with_input = |dir: &Path, args: &[&str], input: &[u8]| {
        let mut command = Binary::command(args);
        command.arg("--data").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let events = run(&data, &["audit", "export", "--output", "-"]);
    succeeds(&events);
    let verified = with_input(&data, &["audit", "verify", "-"], &events.stdout);
    assert!(verified.status.success() && stdout(&verified).starts_with("valid: "), "{verified:?}");
    let tampered = stdout(&events).replace("api_key.create", "api_key.update");
    let verified = with_input(&data, &["audit", "verify", "-"], tampered.as_bytes());
    assert!(!verified.status.success() && stdout(&verified).starts_with("BROKEN"), "{verified:?}");

    let exported = run(&data, &["export", "--output", "-"]);
    succeeds(&exported);
    assert_eq!(run(&data, &["export"]).stdout.len(), exported.stdout.len());
    let copy = temp.path().join("copy");
    let imported = with_input(&copy, &["import", "-"], &exported.stdout);
    assert!(imported.status.success() && stdout(&imported).contains("1 api_key"), "{imported:?}");

    let backup = run(&data, &["backup", "-", "--json"]);
    succeeds(&backup);
    let file = temp.path().join("backup.db");
    fs::write(&file, &backup.stdout).unwrap();
    assert!(stderr(&backup).contains("\"file\":\"-\""), "{}", stderr(&backup));
    succeeds(&run(&data, &["check", file.to_str().unwrap()]));
    assert!(names(&data).iter().all(|name| name.starts_with("tollhouse.")), "{:?}", names(&data));
}

/// Sends a signal to a command once `is_ready` or the command has ended, and returns its output.
async fn interrupt(mut child: Child, signal: &str, is_ready: impl Fn() -> bool) -> Output {
    until("the command is ready", || child.try_wait().unwrap().is_some() || is_ready()).await;
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
    // Its standard input stays open until it has ended, so that the signal ends it and not the end of its input.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    output
}

fn spawn(dir: &Path, args: &[&str]) -> Child {
    let mut command = Binary::command(args);
    command.arg("--data").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test]
async fn an_interrupted_command_says_what_was_done() {
    let temp = database();
    let data = temp.path().join("data");
    let target = temp.path().join("new");
    fs::create_dir(&target).unwrap();
    for signal in ["-INT", "-TERM", "-HUP"] {
        // The import waits for its standard input. It opens the database once its signals are handled.
        let child = spawn(&target, &["import", "-"]);
        let output = interrupt(child, signal, || target.join("tollhouse.db-wal").exists()).await;
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("interrupted: a part of - was imported and stays. Run the command again"));
        for name in names(&target) {
            fs::remove_file(target.join(name)).unwrap();
        }
    }

    // A database that takes a while to copy. A backup may nevertheless end before the signal.
    let live = data.join("tollhouse.db");
    let filler = "INSERT INTO meta (name, value) VALUES ('filler', hex(zeroblob(20000000)))";
    Connection::open(&live).unwrap().execute_batch(filler).unwrap();
    let file: PathBuf = temp.path().join("backup.db");
    let is_part = |name: &String| name.starts_with("backup.db.") && name.ends_with(".part");
    let (mut interrupted, mut completed) = (0, 0);
    while interrupted < 10 {
        let child = spawn(&data, &["backup", file.to_str().unwrap()]);
        let output = interrupt(child, "-INT", || names(temp.path()).iter().any(is_part)).await;
        let message = stderr(&output);
        if output.status.success() {
            completed += 1;
            assert!(completed < 100, "no backup takes long enough to be interrupted");
            assert_eq!(names(temp.path()), ["backup.db", "data", "new"]);
            fs::remove_file(&file).unwrap();
            continue;
        }
        interrupted += 1;
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{message}");
        if message.contains("backup.db is already written and complete.") {
            fs::remove_file(&file).unwrap();
        } else {
            assert!(
                message.contains("backup.db was not written. Run the command again to back up."),
                "{message}"
            );
        }
        assert_eq!(names(temp.path()), ["data", "new"], "nothing remains");
    }
}
