//! The engine: the only place that knows the database's driver.
//!
//! The rest of the store sees a [`Connection`], its [`Statement`]s, the [`Row`]s that they return, and [`Value`]s,
//! which go in as parameters and come out as columns.

mod connection;
mod error;
mod open;
mod pool;
mod row;
mod value;

pub(in crate::store) use connection::{Connection, Statement};
pub(in crate::store) use error::{EngineError, Result};
pub(crate) use open::sqlite_version;
pub(in crate::store) use open::{
    BUSY_TIMEOUT, MAX_WAL_BYTES, OpenMode, POLL_INTERVAL, URI_PREFIX, ensure_supported_version, open,
    open_in_memory, open_writer,
};
pub(in crate::store) use pool::{ReaderManager, ReaderPool};
pub(in crate::store) use row::Row;
pub(in crate::store) use value::{ToValue, Value, params};
