//! [`Tx`], through which all SQL runs.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::engine::{self, Connection, Row, Statement, Value};
use super::tx_state::{ReserveAccess, TxState};
use crate::domain::invalidation::Invalidation;
use crate::error::{Code, Error, Result};

/// A mutation's result, type-erased so that mutations with different results can share the writer's queue.
pub(super) type MutationResult = Box<dyn Any + Send>;
pub(super) type Mutation = Box<dyn FnMut(&Tx<'_>) -> Result<MutationResult> + Send>;

/// An open transaction. SQL never generates times, ids or random bytes; the caller passes them in.
pub struct Tx<'c> {
    conn: &'c Connection,
    pub(in crate::store) state: &'c TxState,
    /// The error that failed the whole transaction, if there was one. Further statements are refused then, because each
    /// would be committed on its own if SQLite has rolled the transaction back.
    aborted_by: RefCell<Option<Error>>,
}

impl<'c> Tx<'c> {
    pub(in crate::store) fn new(conn: &'c Connection, state: &'c TxState) -> Self {
        Self { conn, state, aborted_by: RefCell::default() }
    }

    /// Requests a checkpoint of the WAL after the commit. After free pages were reclaimed, only a checkpoint
    /// shortens the file. Open readers can delay it.
    pub(crate) fn request_wal_checkpoint(&self) {
        self.state.checkpoint_requested.set(true);
    }

    /// True if storage is full. The transaction then fails if it makes the database larger, unless it
    /// [is allowed to](Self::allow_reserve).
    pub(crate) fn is_storage_full(&self) -> bool {
        self.state.reserve_access.get() != ReserveAccess::NotNeeded
    }

    /// Lets the transaction use the storage reserve. Only for changes that only take access away.
    pub(crate) fn allow_reserve(&self) {
        if self.is_storage_full() {
            self.state.reserve_access.set(ReserveAccess::Allowed);
        }
    }

    /// True if storage is full and the transaction may nevertheless make the database larger.
    pub(crate) fn may_use_reserve(&self) -> bool {
        self.state.reserve_access.get() == ReserveAccess::Allowed
    }

    /// Number of pages of the database that are not free.
    pub(super) fn count_used_pages(&self) -> Result<u64> {
        let count = |sql| self.query_first::<u64>(sql, &[], |row| row.get(0));
        let pages = count("PRAGMA page_count")?.unwrap_or(0);
        let free = count("PRAGMA freelist_count")?.unwrap_or(0);
        Ok(pages.saturating_sub(free))
    }

    /// Records an invalidation, which is published after the commit and before the mutation's caller gets its
    /// result. It is discarded when the change is rolled back.
    pub(crate) fn invalidate(&self, invalidation: Invalidation) {
        self.state.invalidations.borrow_mut().push(invalidation);
    }

    /// Number of invalidations recorded so far. While it stays the same, records of keys and their
    /// owners that were read in this transaction are still current.
    pub(crate) fn invalidation_count(&self) -> usize {
        self.state.invalidations.borrow().len()
    }

    /// Runs a statement that returns no rows; returns the number of rows changed.
    pub(in crate::store) fn execute(&self, sql: &str, params: &[Value<'_>]) -> Result<usize> {
        self.run_statement(sql, |statement| statement.execute(params))
    }

    /// Runs a query and returns its first row, if there is one.
    pub(in crate::store) fn query_first<T>(
        &self,
        sql: &str,
        params: &[Value<'_>],
        map: impl FnOnce(&Row<'_>) -> engine::Result<T>,
    ) -> Result<Option<T>> {
        self.run_statement(sql, |statement| statement.query_first(params, map))
    }

    /// Runs a query and returns all its rows. The SQL has to limit their number.
    pub(in crate::store) fn query_all<T>(
        &self,
        sql: &str,
        params: &[Value<'_>],
        map: impl FnMut(&Row<'_>) -> engine::Result<T>,
    ) -> Result<Vec<T>> {
        self.run_statement(sql, |statement| statement.query_all(params, map))
    }

    fn run_statement<T>(
        &self,
        sql: &str,
        f: impl FnOnce(&mut Statement<'_>) -> engine::Result<T>,
    ) -> Result<T> {
        if let Some(error) = &*self.aborted_by.borrow() {
            return Err(error.clone());
        }
        let result = self.conn.statement(sql).and_then(|mut statement| {
            if !statement.is_read_only() {
                self.state.has_written.set(true);
            }
            f(&mut statement)
        });
        result.map_err(|cause| {
            let mut error = cause.in_file(self.conn.path());
            error.cause = error.cause.map(|cause| format!("{cause}, in: {sql}"));
            // On a full disk, SQLite ends the transaction or only undoes the statement. Both fail the whole transaction, so
            // that a change that only takes access away is tried again with the storage reserve.
            if error.code == Code::StorageFull || !self.conn.is_in_transaction() {
                self.aborted_by.replace(Some(error.clone()));
            }
            error
        })
    }

    /// Runs one mutation of a group in a savepoint. The outer error means that the whole transaction is lost
    /// and that the group fails; the inner error fails only this mutation.
    pub(super) fn run_mutation<T>(&self, mutation: impl FnOnce(&Self) -> Result<T>) -> Result<Result<T>> {
        self.run_in_savepoint(|tx| match tx.is_storage_full() {
            true => tx.run_without_growth(mutation),
            false => mutation(tx),
        })
    }

    /// Fails if the mutation makes the database larger without being allowed to use the storage reserve.
    fn run_without_growth<T>(&self, mutation: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let used_pages = self.count_used_pages()?;
        let value = mutation(self)?;
        if !self.may_use_reserve() && self.count_used_pages()? > used_pages {
            return Err(Error::storage_full());
        }
        Ok(value)
    }

    /// Runs a closure in a savepoint. If it fails or panics, only its changes are rolled back and the
    /// transaction continues. An outer error means that the whole transaction is lost.
    pub(crate) fn run_in_savepoint<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<Result<T>> {
        let saved = self.state.save();
        // Nested savepoints may have the same name: SQLite releases or rolls back the innermost.
        self.execute("SAVEPOINT mutation", &[])?;
        let result = catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(Error::internal("a mutation panicked")));
        // Checked even if the closure succeeded: it may have ignored the error that aborted the transaction.
        if let Some(error) = &*self.aborted_by.borrow() {
            return Err(error.clone());
        }
        if result.is_err() {
            self.state.restore(saved);
            self.execute("ROLLBACK TO mutation", &[])?;
        }
        self.execute("RELEASE mutation", &[])?;
        Ok(result)
    }
}
