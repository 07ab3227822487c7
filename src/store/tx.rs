//! [`Tx`], the only way to SQL, and what SQLite's errors mean to us.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, ErrorCode, Params, Row};

use crate::domain::invalidation::Invalidation;
use crate::domain::settings::Current;
use crate::error::{Code, Error, Result};

/// Result of a closure on its way through the writer, which needs not know its type.
pub(super) type Value = Box<dyn Any + Send>;
pub(super) type Mutation = Box<dyn FnMut(&Tx<'_>) -> Result<Value> + Send>;

/// An open transaction. Times, ids and random bytes come from the caller, never from SQL.
pub struct Tx<'c> {
    conn: &'c Connection,
    pub(super) invalidations: RefCell<Vec<Invalidation>>,
    pub(super) wrote: Cell<bool>,
    /// Why SQLite rolled the whole transaction back by itself. What ran after that would commit alone.
    ended: RefCell<Option<Error>>,
    /// Place and hash of the audit chain's last event, once [`super::audit`] has read it in this group.
    pub(in crate::store) head: Cell<Option<(i64, [u8; 32])>>,
    /// The settings, once [`super::settings`] has read them in this group.
    pub(in crate::store) settings: RefCell<Option<Arc<Current>>>,
    /// Shall the WAL be brought into the file behind the commit?
    pub(super) checkpoint: Cell<bool>,
}

impl<'c> Tx<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        let (invalidations, ended) = (RefCell::default(), RefCell::default());
        let (head, settings, checkpoint) = (Cell::new(None), RefCell::default(), Cell::new(false));
        Self { conn, invalidations, wrote: Cell::new(false), ended, head, settings, checkpoint }
    }

    /// Has the WAL brought into the file behind the commit, as far as no reader needs it: only then is a
    /// file that has become smaller cut.
    pub(crate) fn checkpoint(&self) {
        self.checkpoint.set(true);
    }

    /// Says what the change makes out of date: told after the commit and before the answer, forgotten
    /// when the change is rolled back.
    pub(crate) fn invalidate(&self, what: Invalidation) {
        self.invalidations.borrow_mut().push(what);
    }

    /// How much the changes so far made out of date: as long as it is the same, what was read of keys and
    /// their owners is as it was.
    pub(crate) fn told(&self) -> usize {
        self.invalidations.borrow().len()
    }

    /// Did a change so far make this out of date?
    pub(crate) fn is_stale(&self, id: &str) -> bool {
        self.invalidations.borrow().iter().any(|what| match what {
            Invalidation::Id(other) => other == id,
            Invalidation::All => true,
            Invalidation::Secret(_) => false,
        })
    }

    /// Runs a statement that returns no rows; how many rows it changed.
    pub(in crate::store) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.run(sql, |statement| statement.execute(params))
    }

    /// The first row, if there is one.
    pub(in crate::store) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        self.run(sql, |statement| {
            let mut rows = statement.query(params)?;
            rows.next()?.map(map).transpose()
        })
    }

    /// All rows; the SQL says how many there can be.
    pub(in crate::store) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.run(sql, |statement| statement.query_map(params, map)?.collect())
    }

    fn run<T>(
        &self,
        sql: &str,
        f: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        if let Some(error) = &*self.ended.borrow() {
            return Err(error.clone());
        }
        let result = self.conn.prepare_cached(sql).and_then(|mut statement| {
            if !statement.readonly() {
                self.wrote.set(true);
            }
            f(&mut statement)
        });
        result.map_err(|cause| {
            let mut error = Error::from(cause);
            error.cause = error.cause.map(|cause| format!("{cause}, in: {sql}"));
            if self.conn.is_autocommit() {
                self.ended.replace(Some(error.clone()));
            }
            error
        })
    }

    /// Runs one mutation of a group. The outer error is the group's: nothing of it can be committed.
    pub(super) fn savepoint(&self, mutation: &mut Mutation) -> Result<Result<Value>> {
        self.attempt(|tx| mutation(tx))
    }

    /// Runs a part that may fail, or panic, alone: what it did is rolled back, and the rest goes on. The
    /// outer error is that of the whole transaction, which is lost with it.
    pub(crate) fn attempt<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<Result<T>> {
        let (head, wrote, told) = (self.head.get(), self.wrote.get(), self.invalidations.borrow().len());
        // One in another may have the same name: SQLite means the innermost.
        self.execute("SAVEPOINT mutation", [])?;
        let result = catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(Error::internal("a mutation panicked")));
        // Asked whatever the result: a closure may have swallowed the error that ended it all.
        if let Some(error) = &*self.ended.borrow() {
            return Err(error.clone());
        }
        if result.is_err() {
            self.head.set(head);
            self.settings.take();
            self.wrote.set(wrote);
            self.invalidations.borrow_mut().truncate(told);
            self.execute("ROLLBACK TO mutation", [])?;
        }
        self.execute("RELEASE mutation", [])?;
        Ok(result)
    }
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

impl From<rusqlite::Error> for Error {
    /// The cause names columns and statements, never values: they may be somebody's secret.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as Sqlite;
        use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
        let cause = match &error {
            Sqlite::FromSqlConversionFailure(column, kind, _) => {
                format!("column {column} ({kind}) is not valid")
            }
            Sqlite::IntegralValueOutOfRange(column, _) => format!("column {column} is out of range"),
            Sqlite::ToSqlConversionFailure(_) => "a parameter can't be stored".to_owned(),
            Sqlite::SqliteFailure(code, _) => format!("{error} (SQLite {})", code.extended_code),
            _ => error.to_string(),
        };
        let shown = match error.sqlite_error().map(|failure| (failure.code, failure.extended_code)) {
            // The WAL's index fails in its own way where there is no room. Other failures to write are for
            // whoever reads the log: "full" would send people to look for room that is not missing.
            Some((ErrorCode::DiskFull, _) | (_, SQLITE_IOERR_SHMSIZE)) => {
                let message = "The disk is full or the database has reached its limit; nothing was stored.";
                Self { retry_after: Some(30), ..Self::new(Code::StorageFull, message) }
            }
            Some((
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OperationInterrupted,
                _,
            )) => Self::unavailable("The database is busy; try again in a second.", 1),
            _ => Self::internal(&cause),
        };
        Self { cause: Some(cause), ..shown }
    }
}
