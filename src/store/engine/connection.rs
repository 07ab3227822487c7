//! A connection to the database, its statements and transactions.

use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{CachedStatement, TransactionBehavior, params_from_iter};

use super::error::{EngineError, Result};
use super::row::Row;
use super::value::{FromValue, Value};

/// A connection to a database.
pub(in crate::store) struct Connection(pub(super) rusqlite::Connection);

impl Connection {
    /// Prepares a statement, or takes it from the connection's cache.
    pub(in crate::store) fn statement(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(Statement(self.0.prepare_cached(sql)?))
    }

    /// Runs several statements that return nothing.
    pub(in crate::store) fn execute_batch(&self, sql: &str) -> Result<()> {
        Ok(self.0.execute_batch(sql)?)
    }

    /// Runs a statement that isn't cached, and returns the first column of its first row.
    pub(in crate::store) fn query_value<T: for<'v> FromValue<'v>>(&self, sql: &str) -> Result<T> {
        let mut statement = self.0.prepare(sql)?;
        let mut rows = statement.query([])?;
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        Row(row).get(0)
    }

    /// Begins a transaction that sees the state at its first read.
    pub(in crate::store) fn begin(&self) -> Result<Transaction<'_>> {
        self.begin_transaction(TransactionBehavior::Deferred)
    }

    /// Begins a transaction that keeps other writers out.
    pub(in crate::store) fn begin_writing(&self) -> Result<Transaction<'_>> {
        self.begin_transaction(TransactionBehavior::Immediate)
    }

    fn begin_transaction(&self, behavior: TransactionBehavior) -> Result<Transaction<'_>> {
        let inner = rusqlite::Transaction::new_unchecked(&self.0, behavior)?;
        Ok(Transaction { conn: self, inner })
    }

    pub(in crate::store) fn is_in_transaction(&self) -> bool {
        !self.0.is_autocommit()
    }

    /// True if the database was opened for reading only, or can't be written.
    pub(in crate::store) fn is_read_only(&self) -> Result<bool> {
        Ok(self.0.is_readonly("main")?)
    }

    /// The path of the database file; `None` for a database in memory.
    pub(in crate::store) fn path(&self) -> Option<&Path> {
        self.0.path().filter(|path| !path.is_empty()).map(Path::new)
    }

    /// A number that changes when another connection commits.
    pub(in crate::store) fn data_version(&self) -> Result<i64> {
        let version = self.statement("PRAGMA data_version")?.query_first(&[], |row| row.get(0))?;
        Ok(version.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
    }

    /// Limits the time for which a statement waits for a lock of another connection.
    pub(in crate::store) fn set_lock_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(self.0.busy_timeout(timeout)?)
    }

    /// Interrupts the running statement when `should_stop` returns true, which is called every `steps` steps of
    /// SQLite's virtual machine.
    pub(in crate::store) fn interrupt_when(
        &self,
        steps: i32,
        should_stop: impl FnMut() -> bool + Send + 'static,
    ) -> Result<()> {
        Ok(self.0.progress_handler(steps, Some(should_stop))?)
    }

    /// Limits the length of a value that is read or computed, in bytes.
    pub(in crate::store) fn limit_value_length(&self, bytes: i32) -> Result<()> {
        self.0.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes)?;
        Ok(())
    }

    /// Leaves the WAL as it is when this connection is closed, even if it is the last one.
    pub(in crate::store) fn disable_checkpoint_at_close(&self) -> Result<()> {
        Ok(disable_checkpoint_at_close(&self.0)?)
    }

    /// Copies all pages into `target`, `pages_per_step` at a time. `after_step` gets the number of pages copied and
    /// their total.
    pub(in crate::store) fn copy_pages(
        &self,
        target: &mut Self,
        pages_per_step: i32,
        mut after_step: impl FnMut(u64, u64) -> crate::error::Result<()>,
    ) -> crate::error::Result<()> {
        let backup = Backup::new(&self.0, &mut target.0).map_err(EngineError::from)?;
        loop {
            match backup.step(pages_per_step).map_err(EngineError::from) {
                Ok(StepResult::Done) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.is_busy() => {}
                Err(error) => return Err(error.into()),
            }
            let status = backup.progress();
            let pages = |pages| u64::try_from(pages).unwrap_or(0);
            after_step(pages(status.pagecount - status.remaining), pages(status.pagecount))?;
        }
    }

    pub(in crate::store) fn close(self) -> Result<()> {
        Ok(self.0.close().map_err(|(_, error)| error)?)
    }
}

/// A transaction, which is rolled back when it is dropped before its commit.
pub(in crate::store) struct Transaction<'c> {
    conn: &'c Connection,
    inner: rusqlite::Transaction<'c>,
}

impl Transaction<'_> {
    pub(in crate::store) fn commit(self) -> Result<()> {
        Ok(self.inner.commit()?)
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.conn
    }
}

/// A prepared statement.
pub(in crate::store) struct Statement<'c>(CachedStatement<'c>);

impl Statement<'_> {
    /// True if the statement doesn't write to the database.
    pub(in crate::store) fn is_read_only(&self) -> bool {
        self.0.readonly()
    }

    /// Runs a statement that returns no rows; returns the number of rows changed.
    pub(in crate::store) fn execute(&mut self, params: &[Value<'_>]) -> Result<usize> {
        Ok(self.0.execute(params_from_iter(params))?)
    }

    /// Runs a query and returns its first row, if there is one.
    pub(in crate::store) fn query_first<T>(
        &mut self,
        params: &[Value<'_>],
        map: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut rows = self.0.query(params_from_iter(params))?;
        rows.next()?.map(|row| map(&Row(row))).transpose()
    }

    /// Runs a query and returns all its rows.
    pub(in crate::store) fn query_all<T>(
        &mut self,
        params: &[Value<'_>],
        mut map: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut rows = self.0.query(params_from_iter(params))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(map(&Row(row))?);
        }
        Ok(all)
    }
}

/// Leaves the WAL as it is when this connection is closed, even if it is the last one.
pub(super) fn disable_checkpoint_at_close(conn: &rusqlite::Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}
