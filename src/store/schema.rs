//! All that comes before the first transaction: the directory and its lock, the file and its permissions,
//! the schema, the settings of a connection.
//!
//! An empty file gets `schema.sql`, an older one numbered upgrades, everything else is refused.
//! `PRAGMA application_id` says that a file is ours, `PRAGMA user_version` which schema it has. A file
//! that is refused is left as it was: it is looked at through a read-only connection first. Whatever is
//! decided there is decided again inside the transaction that acts on it, because another process may
//! be opening the same file.

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

use super::db::{BUSY_TIMEOUT, Options, POLL};
use super::tx::{Tx, is_busy};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};

/// Read and write, an existing file only. Readers too: without it they can't use the WAL's index.
const ACCESS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// More than there are statements, so that none is prepared twice.
pub(in crate::store) const STATEMENTS_CACHED: usize = 128;

/// Marks a SQLite file as ours: "TOLL" in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x544F_4C4C;

/// The schema as it is today.
const SCHEMA: &str = include_str!("../../schema.sql");

/// The first one leads from version 1 to 2, and so on; `schema.sql` is where the last one ends. They run
/// without foreign keys, so that tables can be rebuilt; the keys are checked before the commit.
const UPGRADES: &[&str] = &[];

/// What a file turned out to be.
#[derive(PartialEq)]
enum Found {
    Empty,
    /// Ours, with the schema of this version.
    Ours(i64),
}

/// What a file says about itself.
struct Marks {
    bytes: u64,
    /// Can it give space back piece by piece?
    incremental: bool,
    application: i32,
    version: i64,
    objects: i64,
}

impl Marks {
    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            // SQLite takes a file of a few bytes, whatever they are, for an empty database.
            bytes: conn.path().and_then(|path| fs::metadata(path).ok()).map_or(u64::MAX, |file| file.len()),
            incremental: conn.query_row("PRAGMA auto_vacuum", [], |row| row.get::<_, i32>(0))? == 2,
            application: conn.query_row("PRAGMA application_id", [], |row| row.get(0))?,
            version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
            objects: conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
        })
    }
}

/// Takes the directory for one serving process, as long as the file is kept open. The command line works
/// beside it without this lock.
///
/// # Errors
/// `CONFLICT` when another process has it.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    make_dir(dir)?;
    let path = dir.join("tollhouse.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(refuse(format!("{} is in use by another Tollhouse process.", dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::internal(format!("{}: {error}", path.display()))),
    }
}

pub(in crate::store) fn directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(in crate::store) fn make_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Error::internal(format!("{}: {error}", dir.display())))
}

/// Makes the file before SQLite does, for its permissions; the WAL inherits them. One that is there is
/// not even opened: closing it would drop the locks that this process holds on it through SQLite.
fn make_file(file: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

/// Makes the file if it is missing and brings it to today's schema, or says why it can't be used.
///
/// # Errors
/// `CONFLICT` with a message for the operator when the file isn't ours or is newer than this program;
/// what SQLite answers otherwise.
pub(in crate::store) fn prepare(file: &Path) -> Result<()> {
    make_dir(directory(file))?;
    make_file(file)?;
    prepare_with(file, SCHEMA, UPGRADES)
}

/// [`prepare`] with any schema, so that tests can upgrade for real.
fn prepare_with(file: &Path, schema: &str, upgrades: &[&str]) -> Result<()> {
    let newest = 1 + i64::try_from(upgrades.len()).map_err(Error::internal)?;
    // In a transaction, because another process may be making the schema between two of the questions.
    let marks = Marks::read(&*connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?.transaction()?);
    // A crash while the schema was being made leaves a journal that only a writer can roll back.
    let unfinished = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly);
    if !marks.as_ref().is_err_and(unfinished) && judge(marks, file, newest)? == Found::Ours(newest) {
        return Ok(());
    }
    let mut conn = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")?;
    if judge(Marks::read(&*conn.transaction()?), file, newest)? == Found::Empty {
        // Only before anything is in it can a file learn to give space back. This writes its first page, in
        // a transaction of its own.
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    let mut snapshot_taken = false;
    loop {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let to = match judge(Marks::read(&tx), file, newest)? {
            Found::Ours(version) if version == newest => return Ok(()),
            Found::Empty => {
                create(&tx, schema)?;
                newest
            }
            Found::Ours(version) => {
                let upgrade = usize::try_from(version - 1).ok().and_then(|index| upgrades.get(index));
                let upgrade = upgrade.ok_or_else(|| Error::internal("an upgrade is missing"))?;
                // The transaction keeps other writers out, so nothing is stored after the snapshot.
                if !snapshot_taken {
                    snapshot(file, version)?;
                    snapshot_taken = true;
                }
                tx.execute_batch(upgrade)?;
                check_foreign_keys(&tx, version + 1)?;
                version + 1
            }
        };
        tx.pragma_update(None, "user_version", to)?;
        tx.commit()?;
        tracing::info!(file = %file.display(), version = to, "the database has a new schema");
    }
}

pub(in crate::store) fn connect(file: &Path, access: OpenFlags) -> Result<Connection> {
    let conn = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Is this a database of ours that this program can read?
///
/// # Errors
/// `CONFLICT` with a message for the operator when it isn't.
pub(in crate::store) fn recognise(conn: &Connection, file: &Path) -> Result<()> {
    let newest = 1 + i64::try_from(UPGRADES.len()).map_err(Error::internal)?;
    match judge(Marks::read(conn), file, newest)? {
        Found::Ours(_) => Ok(()),
        Found::Empty => Err(refuse(format!("{} is empty.", file.display()))),
    }
}

/// What the file is; an error when it can't be used.
fn judge(marks: rusqlite::Result<Marks>, file: &Path, newest: i64) -> Result<Found> {
    let name = file.display();
    match marks {
        // With one page and nothing in it we leave it ourselves, should we crash there.
        Ok(Marks { bytes, incremental, application: 0, version: 0, objects: 0 })
            if bytes == 0 || incremental =>
        {
            Ok(Found::Empty)
        }
        Ok(Marks { application: APPLICATION_ID, version, .. }) if version > newest => Err(refuse(format!(
            "{name} has schema version {version}, but this program knows versions up to {newest} only. \
             Start the release that wrote it, or a later one; or restore a backup that has version {newest} \
             or older. The file was left as it is."
        ))),
        Ok(Marks { application: APPLICATION_ID, version, .. }) if version > 0 => Ok(Found::Ours(version)),
        Err(error) if error.sqlite_error_code() != Some(ErrorCode::NotADatabase) => Err(error.into()),
        Ok(_) | Err(_) => Err(refuse(format!("{name} is not a Tollhouse database; it was left as it is."))),
    }
}

pub(in crate::store) fn refuse(message: String) -> Error {
    Error::new(Code::Conflict, message)
}

fn create(conn: &Connection, schema: &str) -> Result<()> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| Error::internal("the system gives no random bytes"))?;
    let cursor_key = random.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    conn.execute_batch(schema)?;
    conn.execute("INSERT INTO meta (name, value) VALUES ('cursor_key', ?1)", [cursor_key])?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(())
}

/// The key that seals list cursors, made with the file.
///
/// # Errors
/// `INTERNAL` when somebody has damaged it.
pub(crate) fn cursor_key(tx: &Tx<'_>) -> Result<[u8; 32]> {
    let hex = tx.one("SELECT value FROM meta WHERE name = 'cursor_key'", [], |row| row.get(0))?;
    let hex: String = hex.unwrap_or_default();
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| Error::internal("meta.cursor_key is not 32 bytes in hex"))
}

/// When the last backup that was proven good was made; `None` when there was none.
///
/// # Errors
/// What SQLite answers.
pub(crate) fn last_backup_at(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    let millis = tx.one("SELECT value FROM meta WHERE name = 'last_backup_at'", [], |row| row.get(0))?;
    Ok(millis.and_then(|millis: String| millis.parse().ok()).map(Timestamp::from_millis))
}

fn check_foreign_keys(conn: &Connection, version: i64) -> Result<()> {
    let mut check = conn.prepare("PRAGMA foreign_key_check")?;
    if check.exists([])? {
        return Err(Error::internal(format!("the upgrade to version {version} leaves broken foreign keys")));
    }
    Ok(())
}

/// The file's path with something appended.
pub(in crate::store) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Keeps a verified, durable copy of the file beside it. One that is there already comes from an attempt
/// that was rolled back: the file has grown since, so the new copy takes its place.
fn snapshot(file: &Path, version: i64) -> Result<()> {
    let kept = beside(file, &format!(".before-v{}", version + 1));
    let part = beside(&kept, ".part");
    write_snapshot(file, version, &part)
        .and_then(|()| {
            fs::rename(&part, &kept).map_err(Error::internal)?;
            sync(directory(file))
        })
        .inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })?;
    tracing::info!(snapshot = %kept.display(), "the database was copied before its upgrade");
    Ok(())
}

fn write_snapshot(file: &Path, version: i64, part: &Path) -> Result<()> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::internal(error)),
        _ => {}
    }
    // SQLite takes an empty file as it is, and with it the permissions.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(Error::internal)?;
    let target = part.to_str().ok_or_else(|| Error::internal("the path of the database is not UTF-8"))?;
    connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?.execute("VACUUM INTO ?1", [target])?;
    let copy = connect(part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let verdict: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" || Marks::read(&copy)?.version != version {
        return Err(Error::internal(format!("the snapshot {} is not sound: {verdict}", part.display())));
    }
    drop(copy);
    sync(part)
}

pub(in crate::store) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::internal)
}

/// The writer's connection, in WAL mode.
///
/// # Errors
/// `CONFLICT` when the file can't be written or kept in WAL mode; what SQLite answers otherwise.
pub(in crate::store) fn write_connection(options: &Options) -> Result<Connection> {
    let conn = Connection::open_with_flags(&options.file, ACCESS)?;
    conn.busy_timeout(POLL)?;
    // SQLite opens what it may not write for reading, and says nothing.
    if conn.is_readonly("main")? {
        return Err(refuse(format!("{} can't be written; check its permissions.", options.file.display())));
    }
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    enter_wal(&conn)?;
    // A checkpoint writes each page once, however often it changed: four times SQLite's own 1000 pages
    // (16 MiB) of changes between two of them means fewer writes and fewer stalls.
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

/// Who opens a new file at the same moment makes this fail at once, `busy_timeout` or not: the switch
/// goes from a shared lock to an exclusive one.
fn enter_wal(conn: &Connection) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(refuse(format!(
                    "The database can't be kept in WAL mode here (it is in {mode} mode); use a local disk."
                )));
            }
            Err(error) if is_busy(&error) && waited < BUSY_TIMEOUT => thread::sleep(POLL / 10),
            Err(error) => return Err(error.into()),
        }
        waited += POLL / 10;
    }
}

/// What makes the connections for reads.
pub(in crate::store) fn readers(options: &Options) -> SqliteConnectionManager {
    SqliteConnectionManager::file(&options.file).with_flags(ACCESS).with_init(|conn| {
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        conn.execute_batch(
            "PRAGMA mmap_size = 0; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
        )
    })
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
