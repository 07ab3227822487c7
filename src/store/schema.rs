//! Everything before the first transaction: the directory and its lock, the file and its permissions,
//! the schema, the settings of a connection.
//!
//! A missing file is created with `schema.sql`, an older one gets numbered upgrades, everything else is refused.
//! `PRAGMA application_id` identifies a Tollhouse database, `PRAGMA user_version` is its schema version.
//! A refused file is left unchanged: it is inspected through a read-only connection first. The inspection
//! is repeated inside the transaction that acts on its result, because another process may be opening the
//! same file.

use std::fs;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::conflict_error;
pub(crate) use super::data_dir_lock::{has_lock_file, is_served, lock_data_dir};
use super::engine::{self, Connection, EngineError, OpenMode, params};
use super::file_access::copy_owner;
use super::part_file::PartFile;
use super::paths::{create_private_dir, parent_directory, with_suffix};
use super::schema_comparison::ensure_same_schema;
use super::schema_version::{APPLICATION_ID, SCHEMA, UPGRADES, latest_version};
use super::tx::Tx;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};

/// The properties by which a file is classified.
struct FileInfo {
    file_bytes: u64,
    application_id: i32,
    version: i64,
}

impl FileInfo {
    fn read(conn: &Connection) -> engine::Result<Self> {
        Ok(Self {
            file_bytes: conn.path().and_then(|path| path.metadata().ok()).map_or(u64::MAX, |file| file.len()),
            application_id: conn.query_value("PRAGMA application_id")?,
            version: conn.query_value("PRAGMA user_version")?,
        })
    }
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
    ensure_same_schema(&engine::open(file, OpenMode::ReadOnly)?, file)
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

/// [`create_or_upgrade`] with any schema and upgrades, for the tests of upgrades.
fn create_or_upgrade_with(file: &Path, schema: &str, upgrades: &[&str]) -> Result<()> {
    let latest = 1 + i64::try_from(upgrades.len()).map_err(Error::internal)?;
    if !file.exists() {
        create_database(file, schema, latest)?;
    }
    // The queries of `read` run in one transaction, because another process may be upgrading the schema
    // meanwhile.
    let info = FileInfo::read(&*engine::open(file, OpenMode::ReadOnly)?.begin()?);
    // A crash during an upgrade leaves a journal that only a writer can roll back.
    if !info.as_ref().is_err_and(EngineError::is_read_only) && version_of_file(info, file, latest)? == latest
    {
        return Ok(());
    }
    let conn = engine::open(file, OpenMode::ReadWrite)?;
    // The writer's connection, which is opened next, or another process checkpoints the WAL.
    conn.disable_checkpoint_at_close()?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")?;
    let mut snapshot_saved = false;
    loop {
        let tx = conn.begin_writing()?;
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
        tx.execute_batch(&format!("PRAGMA user_version = {}", version + 1))?;
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
    let conn = engine::open(part.path(), OpenMode::ReadWrite)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA auto_vacuum = INCREMENTAL")?;
    let tx = conn.begin()?;
    create_schema(&tx, schema)?;
    tx.execute_batch(&format!("PRAGMA user_version = {version}"))?;
    tx.commit()?;
    conn.close()?;
    match part.rename_to_target(false) {
        Err(error) if error.code == Code::AlreadyExists => Ok(()),
        created => {
            created?;
            tracing::info!(file = %file.display(), version, "database created");
            Ok(())
        }
    }
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
fn version_of_file(info: engine::Result<FileInfo>, file: &Path, latest: i64) -> Result<i64> {
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
        Err(error) if !error.is_not_a_database() => {
            let mut error = Error::from(error);
            error.cause = error.cause.map(|cause| format!("{name}: {cause}"));
            Err(error)
        }
        Ok(_) | Err(_) => {
            Err(conflict_error(format!("{name} is not a Tollhouse database. The file was not changed.")))
        }
    }
}

fn create_schema(conn: &Connection, schema: &str) -> Result<()> {
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Error::internal("could not get random bytes from the operating system"))?;
    conn.execute_batch(schema)?;
    conn.statement("INSERT INTO meta (name, value) VALUES ('cursor_key', ?1)")?
        .execute(params![hex::encode(random)])?;
    Ok(conn.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}"))?)
}

/// The key that encrypts list cursors, created together with the database.
///
/// # Errors
/// `INTERNAL` when the stored key is damaged.
pub(crate) fn load_cursor_key(tx: &Tx<'_>) -> Result<[u8; 32]> {
    let hex = tx.query_first("SELECT value FROM meta WHERE name = 'cursor_key'", &[], |row| row.get(0))?;
    let hex: String = hex.unwrap_or_default();
    let mut key = [0; 32];
    hex::decode_to_slice(hex, &mut key)
        .map_err(|_| Error::internal("meta.cursor_key is not 32 bytes in hex"))?;
    Ok(key)
}

/// Time of the last verified backup; `None` when there was no backup.
pub(crate) fn last_backup_at(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    let millis =
        tx.query_first("SELECT value FROM meta WHERE name = 'last_backup_at'", &[], |row| row.get(0))?;
    Ok(millis.and_then(|millis: String| millis.parse().ok()).map(Timestamp::from_millis))
}

fn ensure_foreign_keys_hold(conn: &Connection, version: i64) -> Result<()> {
    if conn.statement("PRAGMA foreign_key_check")?.query_first(&[], |_| Ok(()))?.is_some() {
        return Err(Error::internal(format!("the upgrade to version {version} leaves broken foreign keys")));
    }
    Ok(())
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
    engine::open(file, OpenMode::ReadOnly)?.statement("VACUUM INTO ?1")?.execute(params![target])?;
    let copy = engine::open(part, OpenMode::ReadOnly)?;
    let result: String = copy.query_value("PRAGMA quick_check(1)")?;
    if result != "ok" || FileInfo::read(&copy)?.version != version {
        return Err(Error::internal(format!(
            "the snapshot {} failed its integrity check: {result}",
            part.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
