//! The unfinished files and directories of this process, which are removed when a command is interrupted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn lock() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(in crate::store) fn register(path: &Path) {
    lock().push(path.to_owned());
}

pub(in crate::store) fn unregister(path: &Path) {
    lock().retain(|other| other != path);
}

/// Removes all of them, before the process is ended. What can't be removed is left to the next run.
pub(crate) fn remove_all() {
    for path in lock().drain(..) {
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}
