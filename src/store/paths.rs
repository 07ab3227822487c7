//! Paths and directories of the database's files.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Name of the directory in the data directory in which a restore builds the new database.
pub(in crate::store) const STAGING_DIR_NAME: &str = ".restoring";

pub(in crate::store) fn parent_directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a directory with its contents, if it exists.
pub(in crate::store) fn remove_directory_if_exists(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::at_path(dir, error)),
        _ => Ok(()),
    }
}

pub(in crate::store) fn create_private_dir(dir: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|error| Error::at_path(dir, error))
}

/// The path with `suffix` appended to the file name.
pub(in crate::store) fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

pub(in crate::store) fn sync_to_disk(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::at_path(path, error))
}
