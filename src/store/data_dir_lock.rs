//! The lock of the data directory: only one process serves or restores it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::conflict_error;
use super::file_access::copy_owner;
use super::paths::{STAGING_DIR_NAME, create_private_dir, remove_directory_if_exists};
use crate::error::{Error, Result};

/// Name of the file in the data directory that the server locks.
pub(in crate::store) const LOCK_FILE_NAME: &str = "tollhouse.lock";

/// The locks of a data directory, held while this value exists.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: File,
    /// The directory itself; `None` on a file system that can't lock directories.
    _dir: Option<File>,
}

/// Locks the data directory, so that only one process serves or restores it, and removes what a killed restore
/// left there. Commands such as `backup` don't take this lock and can run beside the server. The directory itself
/// is locked too, because a lock file that is removed and created again is another file, whose lock is free.
///
/// # Errors
/// `CONFLICT` when another process holds the lock.
pub(crate) fn lock_data_dir(dir: &Path) -> Result<DataDirLock> {
    create_private_dir(dir)?;
    let path = dir.join(LOCK_FILE_NAME);
    let with_path = |error| Error::at_path(&path, error);
    let in_use = || conflict_error(format!("{} is in use by another Tollhouse process.", dir.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(with_path)?;
    copy_owner(dir, &path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use()),
        Err(TryLockError::Error(error)) => return Err(with_path(error)),
    }
    let locked_dir = File::open(dir).map_err(|error| Error::at_path(dir, error))?;
    let locked_dir = match locked_dir.try_lock() {
        Ok(()) => Some(locked_dir),
        Err(TryLockError::WouldBlock) => return Err(in_use()),
        Err(TryLockError::Error(_)) => None,
    };
    // A killed restore left it.
    remove_directory_if_exists(&dir.join(STAGING_DIR_NAME))?;
    Ok(DataDirLock { _file: file, _dir: locked_dir })
}

/// True if a server has used this data directory.
pub(crate) fn has_lock_file(dir: &Path) -> bool {
    dir.join(LOCK_FILE_NAME).symlink_metadata().is_ok_and(|lock| lock.is_file())
}

/// True if a server is using the data directory.
pub(crate) fn is_served(dir: &Path) -> bool {
    let locked = File::open(dir.join(LOCK_FILE_NAME)).map(|file| file.try_lock_shared());
    matches!(locked, Ok(Err(TryLockError::WouldBlock)))
}
