//! The commit in `tollhouse --version`, which the build script determines.

#[path = "../../build/commit.rs"]
mod commit;

use std::fs;
use std::path::Path;
use std::process::Command;

use commit::{Commit, file_of_head};

/// Runs Git in a directory, on 29 February 2024 at 23:30 in a time zone where UTC is already a day further.
fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=Test", "-c", "user.email=test@example.com"]).args(arguments);
    git.current_dir(directory).env("GIT_COMMITTER_DATE", "2024-02-29T23:30:00-05:00");
    let output = git.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(directory: &Path) -> String {
    git(directory, &["commit", "--quiet", "--allow-empty", "--message", "test: a commit"]);
    git(directory, &["rev-parse", "HEAD"])
}

#[test]
fn a_clone_states_its_commit_and_the_day() {
    let dir = tempfile::tempdir().unwrap();
    let clone = dir.path();
    assert_eq!(Commit::from_git(clone), None);
    git(clone, &["init", "--quiet"]);
    assert_eq!(Commit::from_git(clone), None, "there is no commit");
    let first = commit(clone);
    let stated = Commit::from_git(clone).unwrap();
    assert_eq!(stated.to_string(), format!("{} 2024-03-01", &first[..7]));

    // A directory of another repository is not a clone.
    let below = clone.join("vendor/tollhouse");
    fs::create_dir_all(&below).unwrap();
    assert_eq!(Commit::from_git(&below), None);
    // A work tree is one.
    let work_tree = dir.path().join("other");
    git(clone, &["worktree", "add", "--quiet", work_tree.to_str().unwrap()]);
    assert_eq!(Commit::from_git(&work_tree), Some(stated));
}

#[test]
fn each_commit_changes_the_file_of_head() {
    let dir = tempfile::tempdir().unwrap();
    let clone = dir.path().join("clone");
    fs::create_dir(&clone).unwrap();
    git(&clone, &["init", "--quiet"]);
    commit(&clone);
    let work_tree = dir.path().join("other");
    git(&clone, &["worktree", "add", "--quiet", work_tree.to_str().unwrap()]);
    for directory in [&clone, &work_tree] {
        let file = file_of_head(directory).unwrap();
        for pack in [false, true] {
            let before = fs::read(&file).unwrap();
            if pack {
                git(directory, &["pack-refs", "--all"]);
            }
            commit(directory);
            assert_ne!(fs::read(&file).unwrap(), before, "{}", file.display());
        }
    }
}

#[test]
fn variables_state_the_commit_of_a_build_without_a_clone() {
    let stated = |hash: &str, seconds: Option<&str>| {
        Commit::from_variables(hash, seconds).unwrap().map(|commit| commit.to_string())
    };
    let hash = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(stated(hash, None).unwrap(), "0123456");
    assert_eq!(stated("", Some("0")), None);
    for (seconds, day) in [
        ("0", "1970-01-01"),
        ("-1", "1969-12-31"),
        ("951782399", "2000-02-28"),
        ("951782400", "2000-02-29"),
        ("951868800", "2000-03-01"),
        ("1709251199", "2024-02-29"),
        ("1795910399", "2026-11-28"),
        ("4107542400", "2100-03-01"),
    ] {
        assert_eq!(stated(hash, Some(seconds)).unwrap(), format!("0123456 {day}"));
    }
    for hash in ["main", "012345", "0123456 "] {
        let error = Commit::from_variables(hash, None).unwrap_err();
        assert!(error.contains("TOLLHOUSE_COMMIT"), "{error}");
    }
    assert!(Commit::from_variables(hash, Some("today")).unwrap_err().contains("SOURCE_DATE_EPOCH"));
}
