//! Opens a database that can't be opened in the usual way, because its disk is full or read-only.
//!
//! Usually all connections, of all processes, share the index of the WAL in a file. On a disk without room for
//! that file, the index is kept in the memory of this process, and other processes can't use the database. On a
//! read-only disk, everything but writing works.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::engine::{self, Connection, OpenMode, URI_PREFIX};
use super::options::Options;
use super::paths;
use super::schema;
use crate::error::{Code, Error, Result};

/// The location of a database whose WAL has its index in memory.
pub(super) fn memory_index_location(file: &Path) -> Result<PathBuf> {
    location(file, "vfs=unix-excl")
}

fn location(file: &Path, parameters: &str) -> Result<PathBuf> {
    let file = file.canonicalize().map_err(|error| Error::at_path(file, error))?;
    let mut uri = URI_PREFIX.to_owned();
    for byte in file.as_os_str().as_bytes().iter().skip(1) {
        let _ = match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.write_char(char::from(*byte))
            }
            _ => write!(uri, "%{byte:02X}"),
        };
    }
    Ok(format!("{uri}?{parameters}").into())
}

/// Opens a database that can't be written, and returns its location too.
///
/// # Errors
/// `CONFLICT` when a WAL without an index was left by a crash, and the index can't be created; SQLite's error
/// otherwise.
pub(super) fn open_read_only(file: &Path) -> Result<(PathBuf, Connection)> {
    let open = |parameters| {
        let location = location(file, parameters)?;
        let conn = engine::open(&location, OpenMode::ReadOnly)?;
        conn.query_value::<i64>("PRAGMA user_version")?;
        Ok((location, conn))
    };
    let opened = open("mode=ro");
    let wal = paths::with_suffix(file, "-wal");
    let index = paths::with_suffix(file, "-shm");
    // A process that has the database open has an index that isn't empty.
    if opened.is_ok() || index.metadata().is_ok_and(|index| index.len() > 0) {
        return opened;
    }
    if wal.metadata().is_ok_and(|wal| wal.len() > 0) {
        return Err(super::conflict_error(format!(
            "{} is on a read-only disk, and a crash left changes in {}. Copy both files to another directory and \
             use that with --data.",
            file.display(),
            wal.display()
        )));
    }
    open("immutable=1")
}

/// Opens the writer's connection after `error` prevented that. Returns the options for further connections.
///
/// # Errors
/// `error` if nothing else helps.
pub(super) fn open(options: &Options, error: Error) -> Result<(Options, Connection)> {
    let is_writable = rustix::fs::access(&options.file, rustix::fs::Access::WRITE_OK).is_ok();
    let (location, conn) = if error.code == Code::StorageFull {
        let location = memory_index_location(&options.file)?;
        let conn = engine::open_writer(&location, options.external_checkpoints);
        (location, conn)
    } else if options.allow_read_only && options.file.exists() && !is_writable {
        let (location, conn) = open_read_only(&options.file)?;
        (location, Ok(conn))
    } else {
        return Err(error);
    };
    let conn = match conn.and_then(|conn| schema::ensure_current(&conn, &options.file).map(|()| conn)) {
        Ok(conn) => conn,
        Err(_) => return Err(error),
    };
    if is_writable {
        tracing::warn!(
            "the disk has no room for the index of the WAL, which is kept in memory; until the next start, no \
             other process can use the database"
        );
    }
    Ok((Options { file: location, ..options.clone() }, conn))
}
