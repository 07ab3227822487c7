//! Everything before the first transaction: the directory and its lock, the file and its permissions,
//! the schema, the settings of a connection.
//!
//! A missing file is created with `schema.sql`, an older one gets numbered upgrades, everything else is refused.
//! `PRAGMA application_id` identifies a Tollhouse database, `PRAGMA user_version` is its schema version.
//! A refused file is left unchanged: it is inspected through a read-only connection first. The inspection
//! is repeated inside the transaction that acts on its result, because another process may be opening the
//! same file.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;

use r2d2_sqlite::SqliteConnectionManager;
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::checkpoint::{self, MAX_WAL_BYTES};
pub(crate) use super::data_dir_lock::{has_lock_file, is_served, lock_data_dir};
use super::db::{BUSY_TIMEOUT, Options, POLL_INTERVAL};
use super::engine_error::in_file_of;
use super::fallback;
use super::file_access::copy_owner;
use super::part_file::PartFile;
use super::schema_comparison::ensure_same_schema;
use super::tx::{Tx, is_busy_error};
use crate::clock::Clock;
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
pub(in crate::store) const SCHEMA: &str = include_str!("../../schema.sql");

/// The SQL of each schema upgrade. The first entry upgrades version 1 to 2, and so on; the last one results
/// in the schema of `schema.sql`. Upgrades run with foreign keys off, so that tables can be rebuilt; the
/// foreign keys are checked before the commit.
const UPGRADES: &[&str] = &[];

/// The properties by which a file is classified.
struct FileInfo {
    file_bytes: u64,
    application_id: i32,
    version: i64,
}

impl FileInfo {
    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            file_bytes: conn
                .path()
                .and_then(|path| fs::metadata(path).ok())
                .map_or(u64::MAX, |file| file.len()),
            application_id: conn.query_row("PRAGMA application_id", [], |row| row.get(0))?,
            version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
        })
    }
}

/// Name of the directory in the data directory in which a restore builds the new database.
pub(in crate::store) const STAGING_DIR_NAME: &str = ".restoring";

pub(in crate::store) fn parent_directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a directory with its contents, if it exists.
pub(in crate::store) fn remove_directory_if_exists(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::internal(format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

pub(in crate::store) fn create_private_dir(dir: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|error| Error::internal(format!("{}: {error}", dir.display())))
}

/// Creates the database if there is none, and upgrades its schema to the latest version.
///
/// # Errors
/// `CONFLICT` with a message for the operator when the file isn't a Tollhouse database, is newer than this
/// program, or has a schema that another program changed, or when there is none and `must_exist` is true; SQLite's
/// error otherwise.
pub(in crate::store) fn create_or_upgrade(file: &Path, must_exist: bool) -> Result<()> {
    if must_exist {
        ensure_exists(file)?;
    }
    create_or_upgrade_with(file, SCHEMA, UPGRADES)?;
    ensure_same_schema(&open_connection(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?, file)
}

/// Fails if there is no database, for `database.must_exist`.
///
/// # Errors
/// `CONFLICT` with a message for the operator.
pub(crate) fn ensure_exists(file: &Path) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    Err(conflict_error(format!(
        "{} doesn't exist, and database.must_exist is set. Check that its volume is mounted. To create a new \
         database, start once without database.must_exist.",
        file.display()
    )))
}

/// The schema version of this program.
pub(in crate::store) fn latest_version() -> Result<i64> {
    Ok(1 + i64::try_from(UPGRADES.len()).map_err(Error::internal)?)
}

/// [`create_or_upgrade`] with any schema and upgrades, for the tests of upgrades.
fn create_or_upgrade_with(file: &Path, schema: &str, upgrades: &[&str]) -> Result<()> {
    let latest = 1 + i64::try_from(upgrades.len()).map_err(Error::internal)?;
    if !file.exists() {
        create_database(file, schema, latest)?;
    }
    // The queries of `read` run in one transaction, because another process may be upgrading the schema
    // meanwhile.
    let info = FileInfo::read(&*open_connection(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?.transaction()?);
    // A crash during an upgrade leaves a journal that only a writer can roll back.
    let needs_recovery = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly);
    if !info.as_ref().is_err_and(needs_recovery) && version_of_file(info, file, latest)? == latest {
        return Ok(());
    }
    let mut conn = open_connection(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The writer's connection, which is opened next, or another process checkpoints the WAL.
    checkpoint::disable_at_close(&conn)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")?;
    let mut snapshot_saved = false;
    loop {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = version_of_file(FileInfo::read(&tx), file, latest)?;
        if version == latest {
            return Ok(());
        }
        let upgrade = usize::try_from(version - 1).ok().and_then(|index| upgrades.get(index));
        let upgrade = upgrade.ok_or_else(|| Error::internal("an upgrade is missing"))?;
        // The transaction excludes other writers, so nothing is stored after the snapshot.
        if !snapshot_saved {
            save_upgrade_snapshot(file, version)?;
            snapshot_saved = true;
        }
        tx.execute_batch(upgrade)?;
        ensure_foreign_keys_hold(&tx, version + 1)?;
        tx.pragma_update(None, "user_version", version + 1)?;
        tx.commit()?;
        tracing::info!(file = %file.display(), version = version + 1, "database schema upgraded");
    }
}

/// Creates a database under a temporary name and renames it, so that no crash leaves an empty or incomplete
/// file at its name. If another process creates the database meanwhile, that one is kept.
fn create_database(file: &Path, schema: &str, version: i64) -> Result<()> {
    create_private_dir(parent_directory(file))?;
    // SQLite would apply them to the new database.
    for suffix in ["-wal", "-journal"] {
        let remaining = with_suffix(file, suffix);
        if fs::metadata(&remaining).is_ok_and(|remaining| remaining.len() > 0) {
            return Err(conflict_error(format!(
                "{} doesn't exist, but {} does, so the database was moved or removed. Put it back, or move the \
                 other file away.",
                file.display(),
                remaining.display()
            )));
        }
    }
    let part = PartFile::create(file)?;
    copy_owner(parent_directory(file), part.path())?;
    let mut conn = open_connection(part.path(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA auto_vacuum = INCREMENTAL")?;
    let tx = conn.transaction()?;
    create_schema(&tx, schema)?;
    tx.pragma_update(None, "user_version", version)?;
    tx.commit()?;
    conn.close().map_err(|(_, error)| error)?;
    match part.rename_to_target(false) {
        Err(error) if error.code == Code::AlreadyExists => Ok(()),
        created => {
            created?;
            tracing::info!(file = %file.display(), version, "database created");
            Ok(())
        }
    }
}

pub(in crate::store) fn open_connection(file: &Path, access: OpenFlags) -> Result<Connection> {
    let flags = fallback::open_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    let conn = Connection::open_with_flags(file, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    checkpoint::disable_in_commits(&conn)?;
    Ok(conn)
}

/// Checks that this is a Tollhouse database with a schema version that this program supports.
///
/// # Errors
/// `CONFLICT` with a message for the operator when the database is another one.
pub(in crate::store) fn ensure_readable(conn: &Connection, file: &Path) -> Result<()> {
    version_of_file(FileInfo::read(conn), file, latest_version()?).map(drop)
}

/// Checks that this is a Tollhouse database with the latest schema.
///
/// # Errors
/// `CONFLICT` when it is another one.
pub(in crate::store) fn ensure_current(conn: &Connection, file: &Path) -> Result<()> {
    let latest = latest_version()?;
    if version_of_file(FileInfo::read(conn), file, latest)? != latest {
        return Err(conflict_error(format!("{} needs an upgrade of its schema.", file.display())));
    }
    ensure_same_schema(conn, file)
}

/// Returns the schema version of the database file. Fails when the file can't be used.
fn version_of_file(info: rusqlite::Result<FileInfo>, file: &Path, latest: i64) -> Result<i64> {
    let name = file.display();
    match info {
        // SQLite opens an empty file as an empty database. But a database that was emptied must not be taken
        // for a new one.
        Ok(FileInfo { file_bytes: 0, .. }) => Err(conflict_error(format!(
            "{name} is empty (0 bytes), which a database never is. If the database was here, restore a backup. If \
             there was none yet, an interrupted copy or start may have left the file: remove it and start again."
        ))),
        Ok(FileInfo { application_id: APPLICATION_ID, version, .. }) if version > latest => {
            Err(conflict_error(format!(
                "{name} has schema version {version}, but this release supports versions up to {latest}. \
                 Run the release that wrote the file, or a later one, or restore a backup with schema \
                 version {latest} or earlier. The file was not changed."
            )))
        }
        Ok(FileInfo { application_id: APPLICATION_ID, version, .. }) if version > 0 => Ok(version),
        Err(error) if error.sqlite_error_code() != Some(ErrorCode::NotADatabase) => {
            let mut error = Error::from(error);
            error.cause = error.cause.map(|cause| format!("{name}: {cause}"));
            Err(error)
        }
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
    let part = PartFile::create(&snapshot)?;
    copy_owner(file, part.path())?;
    write_verified_copy(file, version, part.path())?;
    part.rename_to_target(true)?;
    tracing::info!(snapshot = %snapshot.display(), "snapshot written before the schema upgrade");
    Ok(())
}

fn write_verified_copy(file: &Path, version: i64, part: &Path) -> Result<()> {
    // SQLite uses the existing empty file and keeps its permissions.
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
    Ok(())
}

pub(in crate::store) fn sync_to_disk(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::internal)
}

/// The writer's connection, in WAL mode.
///
/// # Errors
/// `CONFLICT` when the file isn't writable or WAL mode is not available; SQLite's error otherwise.
pub(in crate::store) fn open_writer_connection(options: &Options) -> Result<Connection> {
    let conn = Connection::open_with_flags(&options.file, fallback::open_flags(&options.file, READ_WRITE))?;
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
    conn.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0;
         PRAGMA journal_size_limit = {MAX_WAL_BYTES}; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF"
    ))?;
    checkpoint::disable_in_commits(&conn)?;
    if options.external_checkpoints {
        checkpoint::disable_at_close(&conn)?;
    }
    Ok(conn)
}

/// Switches the database to WAL mode. Retries in a loop, because `busy_timeout` has no effect here: while
/// another connection opens the same new file, the switch fails immediately, because it upgrades a shared
/// lock to an exclusive lock.
fn enable_wal_mode(conn: &Connection) -> Result<()> {
    let clock = Clock::system();
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(conflict_error(format!(
                    "The database can't use WAL mode here (its journal mode is {mode}). Use a local disk."
                )));
            }
            Err(error) if is_busy_error(&error) && clock.monotonic() < BUSY_TIMEOUT => {
                thread::sleep(POLL_INTERVAL / 10);
            }
            Err(error) => return Err(in_file_of(conn, error)),
        }
    }
}

/// The factory of the read connections, in the pool and for lookups.
pub(in crate::store) fn reader_connections(options: &Options) -> SqliteConnectionManager {
    let flags = fallback::open_flags(&options.file, READ_WRITE);
    let external_checkpoints = options.external_checkpoints;
    SqliteConnectionManager::file(&options.file).with_flags(flags).with_init(move |conn| {
        conn.busy_timeout(BUSY_TIMEOUT)?;
        checkpoint::disable_in_commits(conn)?;
        if external_checkpoints {
            checkpoint::disable_at_close(conn)?;
        }
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
