//! The pages in Chromium, driven by the scripts in `tests/node`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{dev, guide};
use crate::invariants::wrong_clock::move_stored_time;
use crate::support::{ADMIN_KEY, Binary};

/// The scripts, and the modules that they import.
const FILES: [(&str, &str); 24] = [
    ("accessibility.mjs", include_str!("../../node/accessibility.mjs")),
    ("analytics.mjs", include_str!("../../node/analytics.mjs")),
    ("axe.mjs", include_str!("../../node/axe.mjs")),
    ("browser.mjs", include_str!("../../node/browser.mjs")),
    ("code_forms.mjs", include_str!("../../node/code_forms.mjs")),
    ("console.mjs", include_str!("../../node/console.mjs")),
    ("destruction.mjs", include_str!("../../node/destruction.mjs")),
    ("forms.mjs", include_str!("../../node/forms.mjs")),
    ("guide.mjs", include_str!("../../node/guide.mjs")),
    ("home.mjs", include_str!("../../node/home.mjs")),
    ("key_answer.mjs", include_str!("../../node/key_answer.mjs")),
    ("notices.mjs", include_str!("../../node/notices.mjs")),
    ("pages.mjs", include_str!("../../node/pages.mjs")),
    ("palette.mjs", include_str!("../../node/palette.mjs")),
    ("picker.mjs", include_str!("../../node/picker.mjs")),
    ("reading.mjs", include_str!("../../node/reading.mjs")),
    ("reference.mjs", include_str!("../../node/reference.mjs")),
    ("reference_accessibility.mjs", include_str!("../../node/reference_accessibility.mjs")),
    ("reference_page.mjs", include_str!("../../node/reference_page.mjs")),
    ("root.mjs", include_str!("../../node/root.mjs")),
    ("selection.mjs", include_str!("../../node/selection.mjs")),
    ("testing.mjs", include_str!("../../node/testing.mjs")),
    ("trust.mjs", include_str!("../../node/trust.mjs")),
    ("try_it.mjs", include_str!("../../node/try_it.mjs")),
];

// Each script has a server and a browser of its own, so that they can run at the same time.

#[test]
fn the_console_works_in_chromium() {
    run(&[("console.mjs", 5)], &dev::serve().url);
}

#[test]
fn the_reference_works_in_chromium() {
    run(&[("reference.mjs", 6)], &dev::serve().url);
}

#[test]
fn everyone_can_use_the_reference_in_chromium() {
    run(&[("reference_accessibility.mjs", 5)], &dev::serve().url);
}

#[test]
fn every_operation_can_be_tried_in_chromium() {
    run(&[("try_it.mjs", 4)], &dev::serve().url);
}

#[test]
fn the_code_of_the_reference_runs() {
    run(&[("code_forms.mjs", 3)], &dev::serve().url);
}

#[test]
fn forms_send_what_was_edited_and_show_errors_in_chromium() {
    run(&[("forms.mjs", 10)], &dev::serve().url);
}

#[test]
fn usage_and_the_audit_log_are_shown_in_chromium() {
    run(&[("analytics.mjs", 6)], &dev::serve().url);
}

#[test]
fn the_console_loses_no_secret_and_shows_none_in_chromium() {
    run(&[("trust.mjs", 6)], &dev::serve().url);
}

#[test]
fn organizations_users_keys_and_scopes_are_picked_in_chromium() {
    run(&[("picker.mjs", 5)], &dev::serve().url);
}

#[test]
fn what_ends_is_shown_and_confirmed_in_chromium() {
    run(&[("destruction.mjs", 3)], &dev::serve().url);
}

#[test]
fn everything_is_found_by_a_few_letters_in_chromium() {
    run(&[("palette.mjs", 2)], &dev::serve().url);
}

#[test]
fn selected_keys_are_changed_together_in_chromium() {
    run(&[("selection.mjs", 2)], &dev::serve().url);
}

#[test]
fn a_key_says_whether_it_works_in_chromium() {
    run(&[("key_answer.mjs", 1)], &dev::serve().url);
}

#[test]
fn the_first_steps_are_ticked_in_chromium() {
    run(&[("home.mjs", 1)], &dev::serve().url);
}

#[test]
fn names_times_and_phones_are_right_in_chromium() {
    run(&[("reading.mjs", 4)], &dev::serve().url);
}

#[test]
fn everyone_can_use_the_console_in_chromium() {
    run(&[("accessibility.mjs", 5)], &dev::serve().url);
}

#[test]
fn the_documentation_works_in_chromium() {
    let place = tempfile::tempdir().unwrap();
    let site = place.path().join("site");
    guide::write_site(&site);
    run_with(&[("guide.mjs", 9)], &dev::serve().url, &[("TOLLHOUSE_SITE", site.to_str().unwrap())]);
}

/// The stored time is twelve years behind, so the server finds a clock that jumped.
#[test]
fn an_unsettled_clock_and_full_storage_are_shown_in_chromium() {
    let dir = tempfile::tempdir().unwrap();
    let serve = || {
        Binary::serve_with(dir.path(), |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_DATABASE__MAX_BYTES", "1MiB");
            command.env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
        })
    };
    assert_eq!(serve().terminate(), Some(0));
    move_stored_time(dir.path(), -12 * 365);
    let server = serve();
    let program = ("TOLLHOUSE_PROGRAM", env!("CARGO_BIN_EXE_tollhouse"));
    let data = ("TOLLHOUSE_DATA", dir.path().to_str().unwrap());
    run_with(&[("notices.mjs", 5)], &server.url, &[program, data]);
}

#[test]
fn limits_become_text_and_rows_of_a_form() {
    run_without_browser("limits.mjs", 5);
}

#[test]
fn the_reference_reads_any_document() {
    run_without_browser("reference_parts.mjs", 8);
}

/// Runs a script where it is, because it imports files of `src`.
fn run_without_browser(script: &str, expected_tests: usize) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(script);
    let output = Command::new("node").arg("--test-reporter=tap").arg(script).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains(&format!("\n# pass {expected_tests}\n")), "{stdout}");
}

/// Runs scripts against a server. Panics unless each passes its number of tests: a script that ends early must fail.
pub(crate) fn run(scripts: &[(&str, usize)], url: &str) {
    run_with(scripts, url, &[]);
}

/// Runs scripts with further environment variables.
fn run_with(scripts: &[(&str, usize)], url: &str, variables: &[(&str, &str)]) {
    let modules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules");
    assert!(modules.join("playwright-core").exists(), "{} is missing; run scripts/test", modules.display());
    let chromium = std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
    assert!(Path::new(&chromium).exists(), "Chromium is missing; run scripts/test");

    let dir = tempfile::tempdir().unwrap();
    for (name, content) in FILES {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    symlink(modules, dir.path().join("node_modules")).unwrap();
    for (script, expected_tests) in scripts {
        let mut node = Command::new("node");
        node.arg(dir.path().join(script)).env("TOLLHOUSE_URL", url).env("TOLLHOUSE_KEY", ADMIN_KEY);
        node.envs(variables.iter().copied());
        let output = node.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stdout}{stderr}");
        let passed_tests = stdout.lines().filter(|line| line.starts_with("ok: ")).count();
        assert_eq!(passed_tests, *expected_tests, "{script}: {stdout}{stderr}");
    }
}
