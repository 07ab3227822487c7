//! Everything before the first transaction: the directory and its lock, the file and its permissions,
//! the schema, the settings of a connection.
//!
//! An empty file gets `schema.sql`, an older one numbered upgrades, everything else is refused.
//! `PRAGMA application_id` identifies a Tollhouse database, `PRAGMA user_version` is its schema version.
//! A refused file is left unchanged: it is inspected through a read-only connection first. The inspection
//! is repeated inside the transaction that acts on its result, because another process may be opening the
//! same file.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::db::{BUSY_TIMEOUT, Options, POLL_INTERVAL};
use super::tx::{Tx, is_busy_error};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};

/// Flags that open an existing file for reading and writing. Read connections use them too, because they need
/// write access to the WAL's index.
const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Number of prepared statements that a connection caches. It is larger than the number of distinct
/// statements, so that no statement is prepared twice.
pub(in crate::store) const STATEMENT_CACHE_CAPACITY: usize = 128;

/// Identifies a SQLite file as a Tollhouse database: "TOLL" in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x544F_4C4C;

/// The SQL that creates the latest schema.
const SCHEMA: &str = include_str!("../../schema.sql");

/// The SQL of each schema upgrade. The first entry upgrades version 1 to 2, and so on; the last one results
/// in the schema of `schema.sql`. Upgrades run with foreign keys off, so that tables can be rebuilt; the
/// foreign keys are checked before the commit.
const UPGRADES: &[&str] = &[];

#[derive(PartialEq)]
enum FileKind {
    Empty,
    /// A Tollhouse database with this schema version.
    Tollhouse(i64),
}

/// The properties by which a file is classified.
struct FileInfo {
    file_bytes: u64,
    /// True if incremental vacuum is on.
    incremental_vacuum: bool,
    application_id: i32,
    version: i64,
    object_count: i64,
}

impl FileInfo {
    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            // Needed because SQLite opens a file of a few arbitrary bytes as an empty database.
            file_bytes: conn
                .path()
                .and_then(|path| fs::metadata(path).ok())
                .map_or(u64::MAX, |file| file.len()),
            incremental_vacuum: conn.query_row("PRAGMA auto_vacuum", [], |row| row.get::<_, i32>(0))? == 2,
            application_id: conn.query_row("PRAGMA application_id", [], |row| row.get(0))?,
            version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
            object_count: conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
        })
    }
}

/// Name of the file in the data directory that the server locks.
pub(in crate::store) const LOCK_FILE_NAME: &str = "tollhouse.lock";

/// The locks of a data directory, held while this value exists.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: File,
    /// The directory itself; `None` on a file system that can't lock directories.
    _dir: Option<File>,
}

/// Locks the data directory, so that only one process serves it. Commands such as `backup` don't take this
/// lock and can run beside the server. The directory itself is locked too, because a lock file that is removed
/// and created again is another file, whose lock is free.
///
/// # Errors
/// `CONFLICT` when another process holds the lock.
pub(crate) fn lock_data_dir(dir: &Path) -> Result<DataDirLock> {
    create_private_dir(dir)?;
    let path = dir.join(LOCK_FILE_NAME);
    let with_path = |error: io::Error| Error::internal(format!("{}: {error}", path.display()));
    let in_use = || conflict_error(format!("{} is in use by another Tollhouse process.", dir.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(with_path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use()),
        Err(TryLockError::Error(error)) => return Err(with_path(error)),
    }
    let locked_dir =
        File::open(dir).map_err(|error| Error::internal(format!("{}: {error}", dir.display())))?;
    let locked_dir = match locked_dir.try_lock() {
        Ok(()) => Some(locked_dir),
        Err(TryLockError::WouldBlock) => return Err(in_use()),
        Err(TryLockError::Error(_)) => None,
    };
    Ok(DataDirLock { _file: file, _dir: locked_dir })
}

pub(in crate::store) fn parent_directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(in crate::store) fn create_private_dir(dir: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|error| Error::internal(format!("{}: {error}", dir.display())))
}

/// Creates the database file before SQLite does, readable only by its owner. The WAL inherits the
/// permissions. An existing file is not opened, because closing it would drop the locks that this process
/// holds on it through SQLite.
fn create_private_file(file: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

/// Creates the database file if it is missing, and creates or upgrades its schema to the latest version.
///
/// # Errors
/// `CONFLICT` with a message for the operator when the file isn't a Tollhouse database or is newer than
/// this program; SQLite's error otherwise.
pub(in crate::store) fn create_or_upgrade(file: &Path) -> Result<()> {
    create_private_dir(parent_directory(file))?;
    create_private_file(file)?;
    create_or_upgrade_with(file, SCHEMA, UPGRADES)
}

/// [`create_or_upgrade`] with any schema and upgrades, for the tests of upgrades.
fn create_or_upgrade_with(file: &Path, schema: &str, upgrades: &[&str]) -> Result<()> {
    let latest = 1 + i64::try_from(upgrades.len()).map_err(Error::internal)?;
    // The queries of `read` run in one transaction, because another process may be creating the schema
    // meanwhile.
    let info = FileInfo::read(&*open_connection(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?.transaction()?);
    // A crash during the creation of the schema leaves a journal that only a writer can roll back.
    let needs_recovery = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly);
    if !info.as_ref().is_err_and(needs_recovery)
        && classify_file(info, file, latest)? == FileKind::Tollhouse(latest)
    {
        return Ok(());
    }
    let mut conn = open_connection(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")?;
    if classify_file(FileInfo::read(&*conn.transaction()?), file, latest)? == FileKind::Empty {
        // Incremental vacuum can be turned on only in an empty file. This writes the first page, in a
        // transaction of its own.
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    let mut snapshot_saved = false;
    loop {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let to = match classify_file(FileInfo::read(&tx), file, latest)? {
            FileKind::Tollhouse(version) if version == latest => return Ok(()),
            FileKind::Empty => {
                create_schema(&tx, schema)?;
                latest
            }
            FileKind::Tollhouse(version) => {
                let upgrade = usize::try_from(version - 1).ok().and_then(|index| upgrades.get(index));
                let upgrade = upgrade.ok_or_else(|| Error::internal("an upgrade is missing"))?;
                // The transaction excludes other writers, so nothing is stored after the snapshot.
                if !snapshot_saved {
                    save_upgrade_snapshot(file, version)?;
                    snapshot_saved = true;
                }
                tx.execute_batch(upgrade)?;
                ensure_foreign_keys_hold(&tx, version + 1)?;
                version + 1
            }
        };
        tx.pragma_update(None, "user_version", to)?;
        tx.commit()?;
        tracing::info!(file = %file.display(), version = to, "database schema created or upgraded");
    }
}

pub(in crate::store) fn open_connection(file: &Path, access: OpenFlags) -> Result<Connection> {
    let conn = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Checks that this is a Tollhouse database with a schema version that this program supports.
///
/// # Errors
/// `CONFLICT` with a message for the operator when the database is another one.
pub(in crate::store) fn ensure_readable(conn: &Connection, file: &Path) -> Result<()> {
    let latest = 1 + i64::try_from(UPGRADES.len()).map_err(Error::internal)?;
    match classify_file(FileInfo::read(conn), file, latest)? {
        FileKind::Tollhouse(_) => Ok(()),
        FileKind::Empty => Err(conflict_error(format!("{} is empty.", file.display()))),
    }
}

/// Determines the kind of the database file. Fails when the file can't be used.
fn classify_file(info: rusqlite::Result<FileInfo>, file: &Path, latest: i64) -> Result<FileKind> {
    let name = file.display();
    match info {
        // A file of one page without tables is left when this program crashes between the two transactions
        // that create a database.
        Ok(FileInfo { file_bytes, incremental_vacuum, application_id: 0, version: 0, object_count: 0 })
            if file_bytes == 0 || incremental_vacuum =>
        {
            Ok(FileKind::Empty)
        }
        Ok(FileInfo { application_id: APPLICATION_ID, version, .. }) if version > latest => {
            Err(conflict_error(format!(
                "{name} has schema version {version}, but this release supports versions up to {latest}. \
                 Run the release that wrote the file, or a later one, or restore a backup with schema \
                 version {latest} or earlier. The file was not changed."
            )))
        }
        Ok(FileInfo { application_id: APPLICATION_ID, version, .. }) if version > 0 => {
            Ok(FileKind::Tollhouse(version))
        }
        Err(error) if error.sqlite_error_code() != Some(ErrorCode::NotADatabase) => Err(error.into()),
        Ok(_) | Err(_) => {
            Err(conflict_error(format!("{name} is not a Tollhouse database. The file was not changed.")))
        }
    }
}

pub(in crate::store) fn conflict_error(message: String) -> Error {
    Error::new(Code::Conflict, message)
}

fn create_schema(conn: &Connection, schema: &str) -> Result<()> {
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Error::internal("could not get random bytes from the operating system"))?;
    let cursor_key = random.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    conn.execute_batch(schema)?;
    conn.execute("INSERT INTO meta (name, value) VALUES ('cursor_key', ?1)", [cursor_key])?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(())
}

/// The key that encrypts list cursors, created together with the database.
///
/// # Errors
/// `INTERNAL` when the stored key is damaged.
pub(crate) fn load_cursor_key(tx: &Tx<'_>) -> Result<[u8; 32]> {
    let hex = tx.query_first("SELECT value FROM meta WHERE name = 'cursor_key'", [], |row| row.get(0))?;
    let hex: String = hex.unwrap_or_default();
    let byte = |index| u8::from_str_radix(hex.get(index..index + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| Error::internal("meta.cursor_key is not 32 bytes in hex"))
}

/// Time of the last verified backup; `None` when there was no backup.
pub(crate) fn last_backup_at(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    let millis =
        tx.query_first("SELECT value FROM meta WHERE name = 'last_backup_at'", [], |row| row.get(0))?;
    Ok(millis.and_then(|millis: String| millis.parse().ok()).map(Timestamp::from_millis))
}

fn ensure_foreign_keys_hold(conn: &Connection, version: i64) -> Result<()> {
    let mut check = conn.prepare("PRAGMA foreign_key_check")?;
    if check.exists([])? {
        return Err(Error::internal(format!("the upgrade to version {version} leaves broken foreign keys")));
    }
    Ok(())
}

/// The path with `suffix` appended to the file name.
pub(in crate::store) fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Stores a verified, durable copy of the database file beside the file, before a schema upgrade. An existing
/// copy is replaced: it is from an upgrade that was rolled back, and the database may have changed since.
fn save_upgrade_snapshot(file: &Path, version: i64) -> Result<()> {
    let snapshot = with_suffix(file, &format!(".before-v{}", version + 1));
    let part = with_suffix(&snapshot, ".part");
    write_verified_copy(file, version, &part)
        .and_then(|()| {
            fs::rename(&part, &snapshot).map_err(Error::internal)?;
            sync_to_disk(parent_directory(file))
        })
        .inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })?;
    tracing::info!(snapshot = %snapshot.display(), "snapshot written before the schema upgrade");
    Ok(())
}

fn write_verified_copy(file: &Path, version: i64, part: &Path) -> Result<()> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::internal(error)),
        _ => {}
    }
    // SQLite uses an existing empty file and keeps its permissions.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(Error::internal)?;
    let target = part.to_str().ok_or_else(|| Error::internal("the path of the database is not UTF-8"))?;
    open_connection(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?.execute("VACUUM INTO ?1", [target])?;
    let copy = open_connection(part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let result: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if result != "ok" || FileInfo::read(&copy)?.version != version {
        return Err(Error::internal(format!(
            "the snapshot {} failed its integrity check: {result}",
            part.display()
        )));
    }
    drop(copy);
    sync_to_disk(part)
}

pub(in crate::store) fn sync_to_disk(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::internal)
}

/// The writer's connection, in WAL mode.
///
/// # Errors
/// `CONFLICT` when the file isn't writable or WAL mode is not available; SQLite's error otherwise.
pub(in crate::store) fn open_writer_connection(options: &Options) -> Result<Connection> {
    let conn = Connection::open_with_flags(&options.file, READ_WRITE)?;
    conn.busy_timeout(POLL_INTERVAL)?;
    // SQLite reports no error when it lacks write permission; it opens the file read-only.
    if conn.is_readonly("main")? {
        return Err(conflict_error(format!(
            "{} is not writable. Check its permissions.",
            options.file.display()
        )));
    }
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    enable_wal_mode(&conn)?;
    // A checkpoint writes each page once, however often it changed: checkpoints every 4000 pages (16 MiB),
    // four times SQLite's default, mean fewer writes and fewer stalls.
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA foreign_keys = ON;
         PRAGMA mmap_size = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF",
    )?;
    if options.max_bytes > 0 {
        let page_size: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = (options.max_bytes / u64::from(page_size)).clamp(1, u32::MAX.into());
        conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    }
    Ok(conn)
}

/// Switches the database to WAL mode. Retries in a loop, because `busy_timeout` has no effect here: while
/// another connection opens the same new file, the switch fails immediately, because it upgrades a shared
/// lock to an exclusive lock.
fn enable_wal_mode(conn: &Connection) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(conflict_error(format!(
                    "The database can't use WAL mode here (its journal mode is {mode}). Use a local disk."
                )));
            }
            Err(error) if is_busy_error(&error) && waited < BUSY_TIMEOUT => thread::sleep(POLL_INTERVAL / 10),
            Err(error) => return Err(error.into()),
        }
        waited += POLL_INTERVAL / 10;
    }
}

/// The factory of the read connections, in the pool and for lookups.
pub(in crate::store) fn reader_connections(options: &Options) -> SqliteConnectionManager {
    SqliteConnectionManager::file(&options.file).with_flags(READ_WRITE).with_init(|conn| {
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
        conn.execute_batch(
            "PRAGMA mmap_size = 0; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
        )
    })
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
