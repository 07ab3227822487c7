//! The pages on upgrades and troubleshooting: their commands run, and they name messages that exist.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{ADMIN_KEY, Binary, files_below, free_address, guide};

const UPGRADE: &str = "operate/upgrade.md";
const TROUBLESHOOT: &str = "docs/operate/troubleshoot.md";

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

/// The first code spans of the rows of the table with this header.
fn first_column(page: &str, header: &str) -> Vec<String> {
    let rows = guide::table(page, header).into_iter();
    rows.flat_map(|row| guide::code_spans(&row[0]).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Each log message of the level `error` has advice, and the advice is on messages that exist.
#[test]
fn each_logged_error_has_advice() {
    let page = fs::read_to_string(guide::root().join(TROUBLESHOOT)).unwrap();
    let (_, page) = page.split_once("\n## Log lines with the level").unwrap();
    let advised = first_column(page, "message");
    let logs = fs::read_to_string(guide::root().join("docs/operate/logs.md")).unwrap();
    let errors = logs.lines().filter(|line| line.starts_with("| error"));
    let errors: Vec<_> = errors.map(|line| guide::code_spans(line).next().unwrap()).collect();
    assert!(errors.len() > 15, "{errors:?}");
    // `…` stands for the rest of a long message.
    let is_meant = |advised: &str, message: &str| match advised.strip_suffix('…') {
        Some(beginning) => message.starts_with(beginning.trim_end()),
        None => message == advised,
    };
    for message in &errors {
        assert!(advised.iter().any(|advised| is_meant(advised, message)), "no advice on: {message}");
    }
    for advised in &advised {
        assert!(errors.iter().any(|message| is_meant(advised, message)), "no such message: {advised}");
    }
}

/// The texts by which a reader recognizes why a start fails are those of the program.
#[test]
fn the_reasons_of_a_failed_start_exist() {
    let page = fs::read_to_string(guide::root().join(TROUBLESHOOT)).unwrap();
    let reasons = first_column(&page, "the message contains");
    assert!(reasons.len() > 6, "{reasons:?}");
    let sources = files_below(&guide::root().join("src"));
    let code: String = sources
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for reason in reasons {
        for part in reason.split(" … ") {
            assert!(code.contains(part), "no message contains: {part}");
        }
    }
}
