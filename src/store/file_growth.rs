//! Whether the database's files can grow.

use std::io::{ErrorKind, Write};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::paths::{parent_directory, with_suffix};

/// Room without which files count as unable to grow.
const MIN_ROOM_BYTES: usize = 64 << 10;

/// True if files beside this database can't grow: the disk is full, a quota is used up, or the size limit of the
/// process for files (`RLIMIT_FSIZE`) is reached. SQLite reports the last two like a disk that is damaged.
pub(in crate::store) fn is_exhausted(database: &Path) -> bool {
    let wal = with_suffix(database, "-wal");
    let bytes = |file: &Path| file.metadata().map_or(0, |metadata| metadata.len());
    let largest = bytes(database).max(bytes(&wal));
    if getrlimit(Resource::Fsize).current.is_some_and(|max| largest + MIN_ROOM_BYTES as u64 > max) {
        return true;
    }
    let write = || {
        let mut file = tempfile::tempfile_in(parent_directory(database))?;
        file.write_all(&[0; MIN_ROOM_BYTES])?;
        file.sync_all()
    };
    let is_full =
        |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge);
    write().is_err_and(|error: std::io::Error| is_full(error.kind()))
}
