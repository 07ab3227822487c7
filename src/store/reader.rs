//! A connection of its own for work that takes long: exports, backups, checks.
//!
//! It has no bound in time and takes no connection from those who serve. One transaction sees one state
//! for as long as it is open, and so long the WAL can't be begun anew: keep it as short as the work allows.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema;
use super::tx::Tx;
use crate::error::Result;

/// The connection, which never writes.
pub(crate) struct Reader {
    pub(in crate::store) conn: Connection,
}

impl Reader {
    /// Opens a database of ours that this program can read.
    ///
    /// # Errors
    /// `CONFLICT` when it isn't ours, is newer, or holds nothing yet: the message says what to do.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        if !file.exists() {
            return Err(schema::refuse(format!("There is no file {}.", file.display())));
        }
        let mut conn = schema::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        if let Err(error) = conn.query_row("PRAGMA user_version", [], |_| Ok(()))
            && error.sqlite_error_code() == Some(ErrorCode::ReadOnly)
        {
            // A crash left a journal, which only a writer can roll back.
            let writer = schema::connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            writer.query_row("PRAGMA user_version", [], |_| Ok(()))?;
            conn = schema::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        }
        schema::recognise(&conn, file)?;
        Self::over(conn)
    }

    /// Opens any SQLite file.
    pub(in crate::store) fn open_any(file: &Path) -> Result<Self> {
        Self::over(schema::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
    }

    fn over(conn: Connection) -> Result<Self> {
        conn.set_prepared_statement_cache_capacity(schema::STATEMENTS_CACHED);
        conn.execute_batch(
            "PRAGMA mmap_size = 0; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
        )?;
        Ok(Self { conn })
    }

    /// Runs reads that all see one state.
    ///
    /// # Errors
    /// The closure's own.
    pub(crate) fn read<T>(&mut self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let transaction = self.conn.transaction()?;
        f(&Tx::new(&transaction))
    }
}
