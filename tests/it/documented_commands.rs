//! Every command in the documentation is run as it is written, or says why not.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::guide::{self, Block};
use crate::support::{Binary, free_address};

/// Pages whose shell blocks are all run by tests of their own, and the file of those tests.
const PAGES_WITH_TESTS: [(&str, &str); 19] = [
    ("README.md", "readme.rs"),
    ("docs/quickstart.md", "readme.rs"),
    ("docs/tour.md", "readme.rs"),
    ("docs/reference/configuration.md", "readme.rs"),
    ("docs/concepts/limits.md", "readme.rs"),
    ("docs/concepts/verification.md", "readme.rs"),
    ("docs/guides/plans.md", "readme.rs"),
    ("docs/guides/ai-gateway.md", "ai_gateway_guide/mod.rs"),
    ("docs/guides/own-key.md", "readme.rs"),
    ("docs/guides/rotate-a-key.md", "readme.rs"),
    ("docs/guides/leaked-key.md", "readme.rs"),
    ("docs/guides/personal-data.md", "readme.rs"),
    ("docs/guides/verify-keys.md", "verify_guide.rs"),
    ("docs/guides/gateways.md", "gateways/mod.rs"),
    ("docs/guides/generated-clients.md", "generated_clients.rs"),
    ("docs/guides/import-and-export.md", "moving_guide.rs"),
    ("docs/operate/backup.md", "moving_guide.rs"),
    ("docs/operate/upgrade.md", "operate_pages.rs"),
    ("docs/operate/litestream.md", "deploy/litestream.rs"),
];

/// Pages whose shell blocks are run by the tests below.
const CONFIGURE: &str = "docs/operate/configure.md";
const AUDIT_LOG: &str = "docs/concepts/audit-log.md";
const INSTALL: &str = "docs/operate/install.md";

/// The number of blocks that are marked as not run. Change it only with a block for which there is no other way.
const BLOCKS_NOT_RUN: usize = 22;

/// Separates the results of blocks.
const END: &str = "=== end of block ===";

/// All shell blocks, with their pages.
fn shell_blocks() -> Vec<(String, Block)> {
    let mut found = Vec::new();
    for document in guide::documents() {
        let page = document.strip_prefix(guide::root()).unwrap().to_str().unwrap().to_owned();
        let blocks = guide::fenced(&page).into_iter().filter(Block::is_shell);
        found.extend(blocks.map(|block| (page.clone(), block)));
    }
    found
}

#[test]
fn commands_are_run_or_say_why_not() {
    let mut not_run = 0;
    let mut run = 0;
    for (page, block) in shell_blocks() {
        if let Some(reason) = &block.not_run {
            assert!(reason.split_whitespace().count() >= 3, "{page}: why are these not run?\n{}", block.code);
            not_run += 1;
            continue;
        }
        let has_test = PAGES_WITH_TESTS.iter().any(|(known, _)| *known == page);
        assert!(
            has_test || [CONFIGURE, AUDIT_LOG, INSTALL].contains(&page.as_str()),
            "{page}: no test runs\n{}",
            block.code
        );
        run += 1;
    }
    assert_eq!(not_run, BLOCKS_NOT_RUN);
    assert!(run > 30, "the commands are not where they were: {run}");
    for (_, test) in PAGES_WITH_TESTS {
        assert!(guide::root().join("tests/it").join(test).exists(), "{test}");
    }
}

/// The scripts and benchmarks that blocks name, also those that are not run.
#[test]
fn named_scripts_and_benchmarks_exist() {
    let mut checked = 0;
    for (page, block) in shell_blocks() {
        for line in block.code.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [script, rest @ ..] = words.as_slice() else { continue };
            if !script.starts_with("scripts/") {
                continue;
            }
            assert!(guide::root().join(script).exists(), "{page}: {line}");
            if *script == "scripts/bench" {
                let benchmark = format!("scripts/benches/{}.py", rest[0]);
                assert!(guide::root().join(benchmark).exists(), "{page}: {line}");
            }
            checked += 1;
        }
    }
    assert!(checked > 15, "the scripts are not where they were: {checked}");
}

/// The program accepts the subcommands and flags of each command in running text. `--help` replaces their execution.
#[test]
fn commands_in_the_text_exist() {
    let mut checked = 0;
    for document in guide::documents() {
        let text = fs::read_to_string(&document).unwrap();
        let prose = text.split("```").step_by(2).flat_map(|part| part.split('`').skip(1).step_by(2));
        for command in prose.filter_map(|code| code.strip_prefix("tollhouse ")) {
            let words = command.split_whitespace().map(|word| word.trim_matches(['[', ']']));
            // Words in capitals stand for values.
            let words = words.filter(|word| !word.chars().all(|letter| letter.is_ascii_uppercase()));
            let mut arguments: Vec<_> = words.filter(|word| *word != "--help").collect();
            // `help` and `version` take no flags.
            if !["help", "version"].contains(&arguments.first().copied().unwrap_or_default()) {
                arguments.push("--help");
            }
            let output = Binary::run(&arguments);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: tollhouse {command}: {error}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 30, "the commands are not where they were: {checked}");
}

/// A shell block, and what the page shows as its output (empty if there is none).
struct Step {
    code: String,
    shown: String,
}

/// The steps of a page, without scripts with a name of their own, which other tests run. Its named blocks of other
/// languages are written into the directory, as files.
fn prepare(page: &str, directory: &Path) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut shows_output = false;
    for block in guide::fenced(page) {
        let is_shell = block.is_shell() && !block.name.ends_with(".sh");
        if is_shell {
            steps.push(Step { code: block.code, shown: String::new() });
        } else if block.language == "text" && shows_output {
            steps.last_mut().unwrap().shown = block.code;
        } else if block.name.contains('.') && !block.is_shell() {
            fs::write(directory.join(&block.name), block.code).unwrap();
        }
        shows_output = is_shell;
    }
    steps
}

/// A text without what differs from run to run: numbers and hashes.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end.max(first.len_utf8()));
        masked.push_str(match word {
            word if word.bytes().all(|byte| byte.is_ascii_digit()) => "<number>",
            word if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) => "<hash>",
            word => word,
        });
        rest = after;
    }
    masked
}

/// True if this was printed. A last line `…` stands for any further output.
fn is_as_shown(printed: &str, shown: &str) -> bool {
    let (printed, shown) = (masked(printed.trim()), masked(shown.trim()));
    match shown.strip_suffix('…') {
        Some(beginning) => printed.starts_with(beginning),
        None => printed == shown,
    }
}

/// Runs the steps in order in one shell that ends at the first failure, and compares what is shown.
fn run(page: &str, directory: &Path, steps: &[Step]) {
    let code: Vec<_> = steps.iter().map(|step| step.code.as_str()).collect();
    let script = code.join(&format!("printf '%s\\n' '{END}'\n"));
    let output = bash(directory, &script).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{page}:\n{printed}\n{errors}");
    let outputs: Vec<_> = printed.split(&format!("{END}\n")).collect();
    assert_eq!(outputs.len(), steps.len(), "{page}:\n{printed}");
    for (step, printed) in steps.iter().zip(outputs) {
        let is_shown = !step.shown.is_empty();
        assert!(
            !is_shown || is_as_shown(printed, &step.shown),
            "{page}: the output of\n{}is\n{printed}",
            step.code
        );
    }
}

fn bash(directory: &Path, script: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).parent().unwrap();
    let mut path = OsString::from(program);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(directory).env("PATH", path);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TOLLHOUSE_"))
    {
        bash.env_remove(name);
    }
    bash
}

#[test]
fn the_configuration_is_checked_and_shown_as_its_page_says() {
    let directory = tempfile::tempdir().unwrap();
    let mut steps = prepare(CONFIGURE, directory.path());
    assert_eq!(steps.len(), 2);
    // The variables of the last block are valid, too.
    steps[1].code.push_str("tollhouse config check\n");
    steps[1].shown = "ok\n".to_owned();
    run(CONFIGURE, directory.path(), &steps);
}

#[test]
fn an_audit_log_is_verified_as_its_page_says() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(Binary::serve(&directory.path().join("data")).terminate(), Some(0));
    let mut steps = prepare(AUDIT_LOG, directory.path());
    let [head, anchored] = steps.as_mut_slice() else { panic!("the page has other commands") };
    // The page shows another database's head: this one's takes its place.
    let output = bash(directory.path(), &head.code).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let anchor_in = |text: &str| text.trim().rsplit_once(' ').unwrap().1.to_owned();
    assert_eq!(anchor_in(&head.shown), anchor_in(&anchored.code), "the anchor is the head");
    anchored.code = anchored.code.replace(&anchor_in(&anchored.code), &anchor_in(&printed));
    run(AUDIT_LOG, directory.path(), &steps);
    let wrong = anchored_at_another_hash(&steps[1].code);
    assert_eq!(bash(directory.path(), &wrong).output().unwrap().status.code(), Some(1));
}

fn anchored_at_another_hash(command: &str) -> String {
    let (before, _) = command.rsplit_once(':').unwrap();
    format!("{before}:{}", "0".repeat(64))
}

#[test]
fn the_server_starts_as_its_page_says() {
    let directory = tempfile::tempdir().unwrap();
    let steps = prepare(INSTALL, directory.path());
    let [start] = steps.as_slice() else { panic!("the page has other commands") };
    // `exec` gives the server the process ID of the shell.
    let mut bash = bash(directory.path(), &format!("exec {}", start.code));
    bash.env("TOLLHOUSE_HTTP__LISTEN", free_address().to_string());
    let mut server = Binary::start(bash);
    assert!(directory.path().join("data/tollhouse.db").exists());
    assert_eq!(server.terminate(), Some(0));
}
