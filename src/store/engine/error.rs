//! The errors of SQLite: what they mean for clients, and what the operator can do about them.

use std::fmt;
use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi::{Error as SqliteFailure, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE, SQLITE_READONLY};

use crate::error::{Code, DatabaseFault, Error};
use crate::store::file_growth;

pub(in crate::store) type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An error of the engine.
#[derive(Debug)]
pub(in crate::store) enum EngineError {
    Sqlite(rusqlite::Error),
    /// A stored value has another type than its column, is out of range, or isn't in the stored format.
    InvalidValue {
        column: usize,
        name: String,
    },
}

impl EngineError {
    fn failure(&self) -> Option<&SqliteFailure> {
        match self {
            Self::Sqlite(error) => error.sqlite_error(),
            Self::InvalidValue { .. } => None,
        }
    }

    fn code(&self) -> Option<ErrorCode> {
        self.failure().map(|failure| failure.code)
    }

    /// True if another connection holds a lock.
    pub(in crate::store) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// True if something would have to be written through a connection that can only read.
    pub(in crate::store) fn is_read_only(&self) -> bool {
        self.code() == Some(ErrorCode::ReadOnly)
    }

    pub(in crate::store) fn is_unopenable(&self) -> bool {
        self.code() == Some(ErrorCode::CannotOpen)
    }

    pub(in crate::store) fn is_not_a_database(&self) -> bool {
        self.code() == Some(ErrorCode::NotADatabase)
    }

    /// The fault of the file or its disk that this error tells of. A stored value that can't be read counts as
    /// damage.
    fn database_fault(&self) -> Option<DatabaseFault> {
        if let Self::InvalidValue { .. } = self {
            return Some(DatabaseFault::Damage);
        }
        let failure = self.failure()?;
        unavailable_message(*failure)?;
        match failure.code {
            ErrorCode::SystemIoFailure if failure.extended_code == SQLITE_IOERR_SHMSIZE => None,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(DatabaseFault::Damage),
            _ => Some(DatabaseFault::Io),
        }
    }

    /// True if SQLite reports a failed write without its reason: a used-up quota (`EDQUOT`), a file at its largest
    /// size (`EFBIG`), or a fault of the disk. Only for `ENOSPC` it reports a full disk.
    fn is_write_error(&self) -> bool {
        self.failure().is_some_and(|failure| failure.extended_code == SQLITE_IOERR_WRITE)
    }

    /// Converts an error of a statement. Its cause names the file.
    pub(in crate::store) fn in_file(self, path: Option<&Path>) -> Error {
        let Some(path) = path else { return self.into() };
        let mut converted = match self.is_write_error() && file_growth::is_exhausted(path) {
            true => Error { cause: Some(format!("{self}; {NO_GROWTH_ADVICE}")), ..Error::storage_full() },
            false => Error::from(self),
        };
        converted.cause = converted.cause.map(|cause| format!("{}: {cause}", path.display()));
        converted
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::InvalidValue { column, name } => write!(f, "column {column} ({name}) is not valid"),
        }
    }
}

impl From<rusqlite::Error> for EngineError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<EngineError> for Error {
    /// Converts an error of the engine. Its cause names columns and statements but no values, because a value may
    /// be a secret.
    fn from(error: EngineError) -> Self {
        let failure = error.failure().copied();
        let advice = failure.and_then(advice).map(|advice| format!("; {advice}")).unwrap_or_default();
        let cause = match failure {
            Some(failure) => format!("{error} (SQLite {}){advice}", failure.extended_code),
            None => error.to_string(),
        };
        let shown = match failure.map(|failure| (failure.code, failure.extended_code)) {
            // On a full disk, extending the WAL's index fails with SQLITE_IOERR_SHMSIZE instead of "disk
            // full".
            Some((ErrorCode::DiskFull, _) | (_, SQLITE_IOERR_SHMSIZE)) => Self::storage_full(),
            Some((
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OperationInterrupted,
                _,
            )) => Self::unavailable("The database is busy. Try again in a second.", 1),
            // The server sets no limit on a value; a reader of foreign databases does.
            Some((ErrorCode::TooBig, _)) => Self::new(Code::PayloadTooLarge, "A value is too long."),
            _ => match failure.and_then(unavailable_message) {
                Some(message) => Self::unavailable(message, 30),
                None => Self::internal(cause.as_str()),
            },
        };
        Self { cause: Some(cause), database_fault: error.database_fault(), ..shown }
    }
}

const FULL_DISK_ADVICE: &str = "free space on the disk, or raise database.max_bytes";

/// What the operator can do about an error. It follows SQLite's own text in the log and on the command line.
/// `None` for errors that only a fault of this program causes.
fn advice(failure: SqliteFailure) -> Option<&'static str> {
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
fn unavailable_message(failure: SqliteFailure) -> Option<&'static str> {
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

/// What the operator can do if SQLite reports a failed write and no file can grow.
const NO_GROWTH_ADVICE: &str = "free space on the disk, or raise the disk quota or the process's limit on the size of \
                                files";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{OpenMode, open};
    use super::*;
    use crate::store::tx::Tx;
    use crate::store::tx_state::TxState;

    #[test]
    fn an_error_of_the_engine_names_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tollhouse.db");
        let conn = rusqlite::Connection::open(&file).unwrap();
        conn.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (zeroblob(100000))").unwrap();
        conn.close().unwrap();
        // The second page and those after it: the table.
        let mut bytes = fs::read(&file).unwrap();
        bytes[4096..].fill(0xff);
        fs::write(&file, bytes).unwrap();
        let conn = open(&file, OpenMode::ReadWrite).unwrap();
        let damaged = Tx::new(&conn, &TxState::default())
            .query_first("SELECT n FROM t", &[], |row| row.get::<Vec<u8>>(0));
        conn.execute_batch("PRAGMA query_only = ON").unwrap();
        let refused = Tx::new(&conn, &TxState::default()).execute("DELETE FROM t", &[]);
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
