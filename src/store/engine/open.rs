//! Opens connections, each with its settings.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::OpenFlags;

use super::connection::Connection;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};

/// SQLite 3.51.3, as an integer. Older versions can corrupt a database in WAL mode when the WAL is reset.
const MIN_SQLITE_VERSION: i32 = 3_051_003;

/// Maximum time for which a connection waits for a lock that another process holds.
pub(in crate::store) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the writer checks whether another process wrote to the database. The writer also waits
/// for locks in steps of this length and checks after each step: otherwise, while another process commits in
/// a tight loop, the writer would wait for much longer than a second without detecting that process's writes.
pub(in crate::store) const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Size to which the WAL's file is truncated once the WAL starts over, and of its part that is not checkpointed, above
/// which the WAL counts as too large.
pub(in crate::store) const MAX_WAL_BYTES: u64 = 64 << 20;

/// The beginning of a location that is a URI and not a path.
pub(in crate::store) const URI_PREFIX: &str = "file:///";

/// Number of prepared statements that a connection caches. It is larger than the number of distinct
/// statements, so that no statement is prepared twice.
pub(super) const STATEMENT_CACHE_CAPACITY: usize = 128;

/// Flags that open an existing file for reading and writing. Read connections use them too, because they need
/// write access to the WAL's index.
pub(super) const READ_WRITE: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// How a connection may use an existing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum OpenMode {
    ReadOnly,
    ReadWrite,
}

/// The version of the bundled SQLite, such as `3.51.3`.
pub(crate) fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Fails if SQLite is too old.
///
/// # Errors
/// `CONFLICT` with a message for the operator.
pub(in crate::store) fn ensure_supported_version() -> Result<()> {
    if rusqlite::version_number() < MIN_SQLITE_VERSION {
        let message = format!("SQLite {} is too old; 3.51.3 or later is required.", rusqlite::version());
        return Err(Error::new(Code::Conflict, message));
    }
    Ok(())
}

/// Opens an existing file.
///
/// # Errors
/// The errors of SQLite.
pub(in crate::store) fn open(location: &Path, mode: OpenMode) -> super::Result<Connection> {
    let flags = match mode {
        OpenMode::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        OpenMode::ReadWrite => READ_WRITE,
    };
    let conn = rusqlite::Connection::open_with_flags(location, open_flags(location, flags))?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    disable_checkpoints_in_commits(&conn)?;
    Ok(Connection(conn))
}

pub(in crate::store) fn open_in_memory() -> super::Result<Connection> {
    Ok(Connection(rusqlite::Connection::open_in_memory()?))
}

/// Opens the writer's connection, in WAL mode.
///
/// # Errors
/// `CONFLICT` when the file isn't writable or WAL mode is not available; SQLite's error otherwise.
pub(in crate::store) fn open_writer(location: &Path, external_checkpoints: bool) -> Result<Connection> {
    let conn = open(location, OpenMode::ReadWrite)?;
    conn.set_lock_timeout(POLL_INTERVAL)?;
    // SQLite reports no error when it lacks write permission; it opens the file read-only.
    if conn.is_read_only()? {
        let message = format!("{} is not writable. Check its permissions.", location.display());
        return Err(Error::new(Code::Conflict, message));
    }
    enable_wal_mode(&conn)?;
    conn.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0;
         PRAGMA journal_size_limit = {MAX_WAL_BYTES}; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF"
    ))?;
    if external_checkpoints {
        conn.disable_checkpoint_at_close()?;
    }
    Ok(conn)
}

/// Switches the database to WAL mode. Retries in a loop, because `busy_timeout` has no effect here: while
/// another connection opens the same new file, the switch fails immediately, because it upgrades a shared
/// lock to an exclusive lock.
fn enable_wal_mode(conn: &Connection) -> Result<()> {
    let clock = Clock::system();
    loop {
        match conn.query_value::<String>("PRAGMA journal_mode = WAL") {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let message = format!(
                    "The database can't use WAL mode here (its journal mode is {mode}). Use a local disk."
                );
                return Err(Error::new(Code::Conflict, message));
            }
            Err(error) if error.is_busy() && clock.monotonic() < BUSY_TIMEOUT => {
                thread::sleep(POLL_INTERVAL / 10);
            }
            Err(error) => return Err(error.in_file(conn.path())),
        }
    }
}

/// `flags`, with URIs allowed if this location is one.
pub(super) fn open_flags(location: &Path, flags: OpenFlags) -> OpenFlags {
    let is_uri = location.as_os_str().as_bytes().starts_with(URI_PREFIX.as_bytes());
    if is_uri { flags | OpenFlags::SQLITE_OPEN_URI } else { flags }
}

/// Turns off the checkpoints that SQLite runs inside of commits. It still checkpoints and removes the WAL when the last
/// connection of all processes is closed.
fn disable_checkpoints_in_commits(conn: &rusqlite::Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA wal_autocheckpoint = 0")
}
