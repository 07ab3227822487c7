//! The pages in Chromium: `console.mjs`, `choices.mjs` and `everybody.mjs` of `tests/node` say what is done and what
//! must hold.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::dev;
use crate::support::ADMIN_KEY;

const SCRIPTS: [(&str, &str); 6] = [
    ("browser.mjs", include_str!("../../node/browser.mjs")),
    ("choices.mjs", include_str!("../../node/choices.mjs")),
    ("console.mjs", include_str!("../../node/console.mjs")),
    ("everybody.mjs", include_str!("../../node/everybody.mjs")),
    ("pages.mjs", include_str!("../../node/pages.mjs")),
    ("testing.mjs", include_str!("../../node/testing.mjs")),
];

#[test]
fn people_can_work_with_the_console_and_try_the_reference() {
    let modules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules");
    assert!(modules.join("playwright-core").exists(), "no {}; scripts/test fetches it", modules.display());
    let chromium = std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
    assert!(Path::new(&chromium).exists(), "no Chromium; scripts/test installs it");

    let dir = tempfile::tempdir().unwrap();
    for (name, script) in SCRIPTS {
        std::fs::write(dir.path().join(name), script).unwrap();
    }
    symlink(modules, dir.path().join("node_modules")).unwrap();
    let server = dev::serve();
    for (script, tests) in [("console.mjs", 6), ("choices.mjs", 9), ("everybody.mjs", 5)] {
        let mut node = Command::new("node");
        node.arg(dir.path().join(script)).env("TOLLHOUSE_URL", &server.url).env("TOLLHOUSE_KEY", ADMIN_KEY);
        let output = node.output().unwrap();
        let (said, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{complaint}");
        assert_eq!(said.lines().filter(|line| line.starts_with("ok: ")).count(), tests, "{said}{complaint}");
    }
}
