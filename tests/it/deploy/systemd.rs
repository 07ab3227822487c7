//! The units in `deploy/`, as `systemd-analyze` sees them. `deb` runs the service under a real systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::printed;
use crate::support::guide;

const UNITS: [&str; 2] = ["deploy/systemd/tollhouse.service", "deploy/litestream/litestream.service"];
const PAGE: &str = "operate/install.md";

/// The highest exposure that is accepted, in tenths. 0 is a service that can do nothing.
const MAX_EXPOSURE: &str = "15";

fn systemd_analyze(args: &[&str], file: &Path) -> Output {
    let output = Command::new("systemd-analyze").args(args).arg(file).env("SYSTEMD_COLORS", "0").output();
    output.unwrap_or_else(|error| panic!("systemd-analyze: {error}; scripts/test installs it"))
}

/// Writes a unit into a directory, with programs that exist here.
fn write_unit(unit: &str, directory: &Path) -> PathBuf {
    let text = fs::read_to_string(guide::root().join(unit)).unwrap();
    let program = env!("CARGO_BIN_EXE_tollhouse");
    let text = text.replace("/usr/bin/tollhouse", program).replace("/usr/bin/litestream", "/bin/true");
    let file = directory.join(Path::new(unit).file_name().unwrap());
    fs::write(&file, text).unwrap();
    file
}

fn assert_is_accepted(file: &Path) {
    let verified = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no"], file);
    let messages = printed(&verified);
    assert!(verified.status.success() && messages.is_empty(), "{}: {messages}", file.display());
}

#[test]
fn systemd_accepts_the_units() {
    for unit in UNITS {
        let dir = tempfile::tempdir().unwrap();
        assert_is_accepted(&write_unit(unit, dir.path()));
    }
}

/// Also with each change that the page shows.
#[test]
fn systemd_accepts_the_documented_changes_of_the_unit() {
    let changes = guide::blocks(PAGE).into_iter().filter(|(name, _)| name.ends_with(".conf"));
    let changes: Vec<_> = changes.collect();
    assert!(changes.len() >= 2, "docs/{PAGE} shows no changes of the unit");
    for (name, text) in changes {
        let dir = tempfile::tempdir().unwrap();
        let file = write_unit(UNITS[0], dir.path());
        let drop_ins = dir.path().join("tollhouse.service.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join(&name), &text).unwrap();
        assert_is_accepted(&file);
        // systemd has read the change: it complains about a wrong one.
        fs::write(drop_ins.join(&name), text.replace("[Service]", "[Service]\nMisspelled=yes")).unwrap();
        let verified = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no"], &file);
        assert!(printed(&verified).contains("Misspelled"), "{name} wasn't read: {}", printed(&verified));
    }
}

#[test]
fn the_service_is_exposed_to_little() {
    let dir = tempfile::tempdir().unwrap();
    let file = write_unit(UNITS[0], dir.path());
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let assessed = systemd_analyze(&["security", "--offline=true", "--no-pager", &threshold], &file);
    let text = printed(&assessed);
    assert!(assessed.status.success() && text.contains("Overall exposure level"), "{text}");
    // The threshold is in effect: without the hardening, the service is above it.
    fs::write(&file, format!("[Service]\nExecStart={}\n", env!("CARGO_BIN_EXE_tollhouse"))).unwrap();
    let assessed = systemd_analyze(&["security", "--offline=true", "--no-pager", &threshold], &file);
    assert!(!assessed.status.success(), "{}", printed(&assessed));
}
