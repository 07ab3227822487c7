//! The commit that is built, which `tollhouse --version` states.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A commit of this repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    /// The beginning of its hash.
    pub(crate) hash: String,
    /// Its day in UTC, such as 2026-11-28.
    pub(crate) date: Option<String>,
}

impl fmt::Display for Commit {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.date {
            Some(date) => write!(output, "{} {date}", self.hash),
            None => write!(output, "{}", self.hash),
        }
    }
}

impl Commit {
    /// Reads the values of `TOLLHOUSE_COMMIT` and `SOURCE_DATE_EPOCH`, for a build outside of a clone. An empty
    /// `TOLLHOUSE_COMMIT` means that the commit is unknown.
    pub(crate) fn from_variables(hash: &str, seconds: Option<&str>) -> Result<Option<Self>, String> {
        if hash.is_empty() {
            return Ok(None);
        }
        let is_hash = hash.len() >= 7 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash {
            return Err(format!("TOLLHOUSE_COMMIT is not the hash of a commit: {hash:?}"));
        }
        let date = seconds.map(|text| {
            let date = text.parse().ok().and_then(date_of);
            date.ok_or_else(|| format!("SOURCE_DATE_EPOCH is not a number of seconds: {text:?}"))
        });
        let date = date.transpose()?;
        Ok(Some(Self { hash: abbreviate(hash), date }))
    }

    /// Reads HEAD of the clone at `root`; `None` if that is not a clone, or without Git. A repository that contains
    /// the directory, such as a packager's, is not a clone of this one.
    pub(crate) fn from_git(root: &Path) -> Option<Self> {
        let top = git(root, &["rev-parse", "--show-toplevel"])?;
        if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
            return None;
        }
        let head = git(root, &["show", "--no-patch", "--format=%H %ct", "HEAD"])?;
        let (hash, seconds) = head.split_once(' ')?;
        Some(Self { hash: abbreviate(hash), date: date_of(seconds.parse().ok()?) })
    }
}

/// The file that changes with each change of HEAD: its reflog, or HEAD itself, which then only changes when another
/// branch is checked out.
pub(crate) fn file_of_head(root: &Path) -> Option<PathBuf> {
    let names = ["logs/HEAD", "HEAD"];
    let paths = names.iter().filter_map(|name| git(root, &["rev-parse", "--git-path", name]));
    paths.map(|path| root.join(path)).find(|path| path.exists())
}

fn abbreviate(hash: &str) -> String {
    hash.chars().take(7).collect()
}

/// The output of a command of Git, or `None` if it fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// The day, in UTC, of a time in seconds since 1970; `None` if no calendar has it.
fn date_of(seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_zoned_datetime(jiff::tz::TimeZone::UTC).date().to_string())
}
