//! A dedicated connection for long-running reads: exports, backups, checks.
//!
//! Reads on this connection have no timeout and don't occupy a connection of the server's pool. An open
//! transaction sees one state and keeps the WAL from being reset, so it should be as short as the work
//! allows.

use std::path::Path;

use super::engine::{self, Connection, EngineError, OpenMode};
use super::tx::Tx;
use super::tx_state::TxState;
use super::{fallback, file_access, schema};
use crate::error::{Code, Error, Result};

/// A read-only connection to a database file.
pub(crate) struct Reader {
    pub(in crate::store) conn: Connection,
}

impl Reader {
    /// Opens a Tollhouse database that this program can read.
    ///
    /// # Errors
    /// `CONFLICT` when the file isn't a Tollhouse database, has a newer schema than this program supports, or
    /// is empty. The message says what to do.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        if !file_access::exists(file)? {
            return Err(super::conflict_error(format!("{} doesn't exist.", file.display())));
        }
        let mut conn = engine::open(file, OpenMode::ReadOnly)?;
        let probed = conn.query_value::<i64>("PRAGMA user_version");
        if probed.as_ref().is_err_and(EngineError::is_read_only) {
            // A crash left a journal that only a writable connection can roll back.
            let writer = engine::open(file, OpenMode::ReadWrite)?;
            writer.query_value::<i64>("PRAGMA user_version")?;
            conn = engine::open(file, OpenMode::ReadOnly)?;
        }
        let is_unopenable = probed.as_ref().is_err_and(EngineError::is_unopenable);
        if probed.is_err_and(|error| Error::from(error).code == Code::StorageFull) {
            let location = fallback::memory_index_location(file)?;
            conn = engine::open(&location, OpenMode::ReadWrite)?;
        }
        if is_unopenable {
            conn = fallback::open_read_only(file)?.1;
        }
        schema::ensure_readable(&conn, file)?;
        Self::from_connection(conn)
    }

    /// Opens any SQLite file, not only one of Tollhouse.
    pub(in crate::store) fn open_any(file: &Path) -> Result<Self> {
        Self::from_connection(engine::open(file, OpenMode::ReadOnly)?)
    }

    fn from_connection(conn: Connection) -> Result<Self> {
        let configured = conn.execute_batch(
            "PRAGMA mmap_size = 0; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
        );
        configured.map_err(|error| error.in_file(conn.path()))?;
        Ok(Self { conn })
    }

    /// Runs reads in one transaction: all of them see the same state.
    ///
    /// # Errors
    /// The closure's error.
    pub(crate) fn read<T>(&mut self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let conn = &self.conn;
        let transaction = conn.begin().map_err(|error| error.in_file(conn.path()))?;
        f(&Tx::new(&transaction, &TxState::default()))
    }
}
