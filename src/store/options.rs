//! How the database is opened.

use std::path::PathBuf;
use std::time::Duration;

/// Location and limits of the database.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Path of the database file. A missing parent directory is created.
    pub(crate) file: PathBuf,
    /// True if a missing file is an error; otherwise it is created.
    pub(crate) must_exist: bool,
    /// Maximum number of concurrent reads.
    pub(crate) readers: u32,
    /// Maximum time of one read, including the wait for a connection.
    pub(crate) read_timeout: Duration,
    /// Maximum number of queued mutations; more are refused.
    pub(crate) writer_queue: usize,
    /// Maximum number of mutations that share one commit.
    pub(crate) group_limit: usize,
    /// Maximum size of the database file, in bytes; 0 means no limit. The WAL is not counted.
    pub(crate) max_bytes: u64,
    /// True if another process checkpoints the WAL.
    pub(crate) external_checkpoints: bool,
    /// True if a database that can't be written, because of a read-only disk or its permissions, is opened for
    /// reading.
    pub(crate) allow_read_only: bool,
}
