//! The page on upgrades: its commands run.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{ADMIN_KEY, Binary, free_address, guide};

const UPGRADE: &str = "operate/upgrade.md";

/// Runs a block of the page on upgrades beside a server at this address. Returns its output.
fn run(block: &str, directory: &Path, address: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-ec", &guide::block(UPGRADE, block)]).current_dir(directory);
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).parent().unwrap();
    shell.env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()));
    shell.env("TOLLHOUSE_HTTP__LISTEN", address).env_remove("TOLLHOUSE_CONFIG");
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{block}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_commands_around_an_upgrade_work() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address().to_string();
    let data = directory.path().join("data");
    let serve = || {
        let mut command = Binary::command(&["--listen", &address, "--data", data.to_str().unwrap()]);
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        Binary::start(command)
    };
    let mut server = serve();
    let before = run("before.sh", directory.path(), &address);
    assert!(before.contains("tollhouse ") && before.contains("\nok\n"), "{before}");
    assert!(directory.path().join("before-upgrade.db").exists());
    assert_eq!(server.terminate(), Some(0));

    let _server = serve();
    let after = run("after.sh", directory.path(), &address);
    assert!(after.starts_with("ready\n") && after.contains("valid: "), "{after}");
}

/// A snapshot can be restored where the database was moved away, as the page says about going back.
#[test]
fn a_snapshot_is_restored_once_the_database_is_moved_away() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    assert_eq!(Binary::serve(&data).terminate(), Some(0));
    let snapshot = data.join("tollhouse.db.before-v2");
    fs::rename(data.join("tollhouse.db"), &snapshot).unwrap();
    let command =
        guide::fenced(&format!("docs/{UPGRADE}")).into_iter().find(|block| block.code.contains("restore"));
    let command = command.unwrap().code.replace("tollhouse.db.before-v2", snapshot.to_str().unwrap());
    let arguments: Vec<_> =
        command.split_whitespace().skip(1).chain(["--data", data.to_str().unwrap()]).collect();
    let restored = Binary::run(&arguments);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(Binary::serve(&data).terminate(), Some(0));
}
