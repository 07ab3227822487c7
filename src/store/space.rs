//! Space: free pages of the file, and whether files can grow.

use std::io::{ErrorKind, Write};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::db::Tx;
use super::schema::{parent_directory, with_suffix};
use crate::error::Result;

/// Number of free pages that can be reclaimed; 0 for a file created without incremental vacuum.
pub(crate) fn count_free_pages(tx: &Tx<'_>) -> Result<u64> {
    const INCREMENTAL: u32 = 2;
    if tx.query_first("PRAGMA auto_vacuum", &[], |row| row.get::<u32>(0))? != Some(INCREMENTAL) {
        return Ok(0);
    }
    Ok(tx.query_first("PRAGMA freelist_count", &[], |row| row.get(0))?.unwrap_or(0))
}

/// Reclaims up to `pages` free pages: pages from the end of the file are moved into them. The file itself
/// becomes shorter at the next checkpoint of the WAL.
pub(crate) fn reclaim_free_pages(tx: &Tx<'_>, pages: u64) -> Result<()> {
    // The pragma returns one row per page and stops when no further row is requested.
    tx.query_all(&format!("PRAGMA incremental_vacuum({pages})"), &[], |_| Ok(())).map(drop)
}

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
