//! The unfinished files and directories of this process, which are removed when a command is interrupted.
//!
//! Other threads keep working until the process has ended. Each of them creates, completes and gives up its files under
//! one lock, which the interruption never releases, so that nothing is created after the removal.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::paths::with_suffix;

/// Number of times that removing a directory is tried. It fails while another thread creates files in it.
const MAX_ATTEMPTS: u32 = 8;

static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The suffixes of the files that SQLite writes beside a database.
const JOURNAL_SUFFIXES: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Removes a file and, before it, those that SQLite wrote beside it if it is a database: if only the file were gone,
/// nobody would remove the others.
pub(in crate::store) fn remove_with_journals(path: &Path) -> io::Result<()> {
    for suffix in JOURNAL_SUFFIXES {
        let _ = fs::remove_file(with_suffix(path, suffix));
    }
    fs::remove_file(path)
}

/// Creates a file or directory by `create`. It is unfinished from then on.
pub(in crate::store) fn create<T, E>(path: &Path, create: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let mut unfinished = UNFINISHED.lock();
    let created = create()?;
    unfinished.push(path.to_owned());
    Ok(created)
}

/// Completes or gives up a file or directory by `end`, which renames or removes it. It is no longer unfinished, whether
/// that succeeds or not.
pub(in crate::store) fn end<T>(path: &Path, end: impl FnOnce() -> T) -> T {
    let mut unfinished = UNFINISHED.lock();
    unfinished.retain(|other| other != path);
    end()
}

/// Removes all of them, before the process is ended. What can't be removed is left to the next run.
pub(crate) fn remove_all() {
    let unfinished = UNFINISHED.lock();
    for path in unfinished.iter() {
        if path.is_dir() {
            let _ = (0..MAX_ATTEMPTS).find(|_| fs::remove_dir_all(path).is_ok());
        } else {
            let _ = remove_with_journals(path);
        }
    }
    mem::forget(unfinished);
}
