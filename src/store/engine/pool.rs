//! The connections for reading.

use std::ops::DerefMut;
use std::path::Path;
use std::time::Duration;

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;

use super::connection::{Connection, disable_checkpoint_at_close};
use super::open::{BUSY_TIMEOUT, READ_WRITE, STATEMENT_CACHE_CAPACITY, open_flags};
use crate::error::{Error, Result};

/// Opens connections that can only read.
pub(in crate::store) struct ReaderManager(SqliteConnectionManager);

impl ReaderManager {
    pub(in crate::store) fn new(location: &Path, external_checkpoints: bool) -> Self {
        let flags = open_flags(location, READ_WRITE);
        let manager = SqliteConnectionManager::file(location).with_flags(flags);
        Self(manager.with_init(move |conn| {
            conn.busy_timeout(BUSY_TIMEOUT)?;
            if external_checkpoints {
                disable_checkpoint_at_close(conn)?;
            }
            conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
            conn.execute_batch(
                "PRAGMA wal_autocheckpoint = 0; PRAGMA mmap_size = 0; PRAGMA cache_size = -8192;
                 PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
            )
        }))
    }

    /// Opens a connection outside of a pool.
    pub(in crate::store) fn open(&self) -> Result<Connection> {
        self.connect().map_err(Error::internal)
    }
}

impl ManageConnection for ReaderManager {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> Result<Connection, Self::Error> {
        self.0.connect().map(Connection)
    }

    fn is_valid(&self, conn: &mut Connection) -> Result<(), Self::Error> {
        self.0.is_valid(&mut conn.0)
    }

    fn has_broken(&self, conn: &mut Connection) -> bool {
        self.0.has_broken(&mut conn.0)
    }
}

/// A pool of connections that can only read.
#[derive(Clone)]
pub(in crate::store) struct ReaderPool(r2d2::Pool<ReaderManager>);

impl ReaderPool {
    /// Opens `size` connections. `timeout` limits the wait for one of them.
    pub(in crate::store) fn open(manager: ReaderManager, size: u32, timeout: Duration) -> Result<Self> {
        let pool = r2d2::Pool::builder()
            .max_size(size)
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(timeout)
            .build(manager);
        pool.map(Self).map_err(Error::internal)
    }

    /// Takes a connection, which returns to the pool when it is dropped.
    pub(in crate::store) fn get(&self) -> Result<impl DerefMut<Target = Connection> + use<>> {
        self.0.get().map_err(Error::internal)
    }
}
