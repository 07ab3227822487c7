//! What the errors of SQLite mean for clients, and what the operator can do about them.

use std::path::Path;

use rusqlite::ffi::{Error as SqliteFailure, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE, SQLITE_READONLY};
use rusqlite::{Connection, ErrorCode};

use super::space;
use crate::error::{DatabaseFault, Error};

const FULL_DISK_ADVICE: &str = "free space on the disk, or raise database.max_bytes";

/// What the operator can do about an error. It follows SQLite's own text in the log and on the command line.
/// `None` for errors that only a fault of this program causes.
pub(super) fn advice(failure: SqliteFailure) -> Option<&'static str> {
    Some(match failure.code {
        // There was no room for the index of the WAL.
        ErrorCode::SystemIoFailure if failure.extended_code == SQLITE_IOERR_SHMSIZE => FULL_DISK_ADVICE,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            "the file is damaged: `tollhouse check` lists the errors, `tollhouse restore` replaces it with a backup"
        }
        ErrorCode::SystemIoFailure => {
            "the disk or the file system failed: look in the system's log, and run `tollhouse check` when the \
             disk works again"
        }
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            "the file can't be written: check the owner and permissions of the file and its directory, and whether \
             the file system is mounted read-only"
        }
        ErrorCode::CannotOpen => {
            "a file can't be opened: check the permissions of the directory and the limit on open files"
        }
        ErrorCode::DiskFull => FULL_DISK_ADVICE,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            "another process holds the lock on the database: wait until it has ended, then try again"
        }
        ErrorCode::FileLockingProtocolFailed | ErrorCode::NoLargeFileSupport => {
            "the file system doesn't work with SQLite: use a local disk"
        }
        ErrorCode::OutOfMemory => "the process can't get more memory",
        _ => return None,
    })
}

/// The message for clients if the database can't be used because of its file or its disk. A retry can succeed
/// after the operator has acted.
pub(super) fn unavailable_message(failure: SqliteFailure) -> Option<&'static str> {
    Some(match failure.code {
        // Without a more specific code, this program wrote through a connection for reading.
        ErrorCode::ReadOnly if failure.extended_code == SQLITE_READONLY => return None,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            "The database is damaged. Nothing was stored. The server log says what to do."
        }
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => {
            "The database's disk failed. Nothing was stored. The server log says what to do."
        }
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            "The database can't be written. Nothing was stored. The server log says what to do."
        }
        _ => return None,
    })
}

/// The fault of the file or its disk that this error tells of. A stored value that can't be read counts as damage.
pub(super) fn database_fault(error: &rusqlite::Error) -> Option<DatabaseFault> {
    use rusqlite::Error as Sqlite;
    let failure = match error {
        Sqlite::FromSqlConversionFailure(..)
        | Sqlite::IntegralValueOutOfRange(..)
        | Sqlite::InvalidColumnType(..)
        | Sqlite::Utf8Error(..) => return Some(DatabaseFault::Damage),
        _ => error.sqlite_error()?,
    };
    unavailable_message(*failure)?;
    match failure.code {
        ErrorCode::SystemIoFailure if failure.extended_code == SQLITE_IOERR_SHMSIZE => None,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(DatabaseFault::Damage),
        _ => Some(DatabaseFault::Io),
    }
}

/// Converts an error of a statement. Its cause names the file of the connection.
pub(super) fn in_file_of(conn: &Connection, error: rusqlite::Error) -> Error {
    let Some(path) = conn.path().filter(|path| !path.is_empty()) else { return error.into() };
    let mut converted = match is_write_error(&error) && space::is_exhausted(Path::new(path)) {
        true => Error { cause: Some(format!("{error}; {NO_GROWTH_ADVICE}")), ..Error::storage_full() },
        false => Error::from(error),
    };
    converted.cause = converted.cause.map(|cause| format!("{path}: {cause}"));
    converted
}

/// What the operator can do if SQLite reports a failed write and no file can grow.
const NO_GROWTH_ADVICE: &str = "free space on the disk, or raise the disk quota or the process's limit on the size of \
                                files";

/// True if SQLite reports a failed write without its reason: a used-up quota (`EDQUOT`), a file at its largest size
/// (`EFBIG`), or a fault of the disk. Only for `ENOSPC` it reports a full disk.
fn is_write_error(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|failure| failure.extended_code == SQLITE_IOERR_WRITE)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Code;
    use crate::store::tx::Tx;

    #[test]
    fn an_error_of_the_engine_names_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tollhouse.db");
        let conn = Connection::open(&file).unwrap();
        conn.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (zeroblob(100000))").unwrap();
        conn.close().unwrap();
        // The second page and those after it: the table.
        let mut bytes = fs::read(&file).unwrap();
        bytes[4096..].fill(0xff);
        fs::write(&file, bytes).unwrap();
        let conn = Connection::open(&file).unwrap();
        let damaged = Tx::new(&conn).query_first("SELECT n FROM t", [], |row| row.get::<_, Vec<u8>>(0));
        conn.execute_batch("PRAGMA query_only = ON").unwrap();
        let refused = Tx::new(&conn).execute("DELETE FROM t", []);
        for (error, code, advice) in [
            (damaged.unwrap_err(), Code::Unavailable, "tollhouse check"),
            (refused.unwrap_err(), Code::Internal, "permissions"),
        ] {
            assert_eq!(error.code, code, "{error}");
            let cause = error.cause.unwrap();
            assert!(cause.contains(file.to_str().unwrap()) && cause.contains(advice), "{cause}");
            assert!(!error.message.contains("SQLite") && !error.message.contains("tollhouse.db"));
        }
    }
}
