//! Statements and file operations of a restore, which locks and reads the existing database, keeps it under
//! another name, and replaces it atomically.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use super::audit::ChainRow;
use super::backup::with_suffix;
use super::engine::{self, BUSY_TIMEOUT, Connection, OpenMode, POLL_INTERVAL, params};
use super::paths::{self, parent_directory};
use super::schema;
use super::tx::Tx;
use super::tx_state::TxState;
use super::{audit, rows, unfinished};
use crate::clock::Clock;
use crate::domain::quota::{QuotaId, QuotaLease};
use crate::domain::subject::Subject;
use crate::error::{Error, Result};

/// The database that a restore is about to replace, locked exclusively.
pub(crate) struct ReplacedDatabase(Connection);

impl ReplacedDatabase {
    /// Locks out all other processes and merges the WAL into the file, so that the database is one file. `None`
    /// when another process has the database open.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(crate) fn lock_for_replacement(file: &Path) -> Result<Option<Self>> {
        let conn = engine::open(file, OpenMode::ReadWrite)?;
        schema::ensure_readable(&conn, file)?;
        conn.execute_batch("PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF")?;
        match lock_exclusively(&conn) {
            Ok(true) => Ok(Some(Self(conn))),
            Ok(false) => Ok(None),
            Err(error) if error.is_busy() => Ok(None),
            Err(error) => Err(error.in_file(conn.path())),
        }
    }

    pub(crate) fn read<T>(&mut self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        f(&Tx::new(&self.0, &TxState::default()))
    }
}

/// Turns WAL mode off and begins an exclusive transaction. False when another process has the database open.
fn lock_exclusively(conn: &Connection) -> engine::Result<bool> {
    let mode = |sql| conn.query_value::<String>(sql);
    if mode("PRAGMA journal_mode = DELETE")? != "delete" {
        return Ok(false);
    }
    conn.execute_batch("BEGIN EXCLUSIVE")?;
    // Without a WAL the exclusive lock keeps all others out. If the mode isn't `delete` any more, another process
    // has opened the database in between and created a new WAL.
    Ok(mode("PRAGMA journal_mode")? == "delete")
}

/// Replaces the database `file` with `new`, atomically: whenever it is interrupted, `file` is the old or
/// the new database. With `previous`, the old database remains under that name. A remaining WAL is renamed
/// with the old database: SQLite would otherwise apply it to the new one.
///
/// # Errors
/// The errors of the file system. After an error nothing is replaced.
pub(crate) fn replace_database(new: &Path, file: &Path, previous: Option<&Path>) -> Result<()> {
    paths::sync_to_disk(new)?;
    if let Some(previous) = previous {
        fs::hard_link(file, previous).map_err(|error| Error::at_path(previous, error))?;
        for suffix in ["-wal", "-shm", "-journal"] {
            let remaining = with_suffix(file, suffix);
            if remaining.exists() {
                let renamed = fs::rename(&remaining, with_suffix(previous, suffix));
                renamed.map_err(|error| Error::at_path(&remaining, error))?;
            }
        }
        paths::sync_to_disk(parent_directory(file))?;
    }
    fs::rename(new, file).map_err(|error| Error::at_path(file, error))?;
    paths::sync_to_disk(parent_directory(file))
}

/// The directory in which a restore builds the new database. It is removed when this value is dropped, and by the
/// next server or restore if the process was killed.
pub(crate) struct StagingDir(PathBuf);

impl StagingDir {
    /// Creates the directory in a data directory that is locked.
    ///
    /// # Errors
    /// The errors of the file system.
    pub(crate) fn create(data_dir: &Path) -> Result<Self> {
        let dir = data_dir.join(paths::STAGING_DIR_NAME);
        unfinished::create(&dir, || paths::create_private_dir(&dir))?;
        Ok(Self(dir))
    }

    /// Creates an empty file in the directory, which only its owner can read, and returns its path.
    ///
    /// # Errors
    /// The errors of the file system.
    pub(crate) fn create_file(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        created.map_err(|error| Error::at_path(&path, error))?;
        Ok(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        if let Err(error) = unfinished::end(&self.0, || paths::remove_directory_if_exists(&self.0)) {
            tracing::warn!(%error, "could not remove the temporary directory of the restore");
        }
    }
}

/// Turns a database that is not open anywhere into a single file without a WAL.
pub(crate) fn disable_wal_mode(file: &Path) -> Result<()> {
    let conn = engine::open(file, OpenMode::ReadWrite)?;
    // Each attempt waits for a short time only, so that the total is bounded.
    conn.set_lock_timeout(POLL_INTERVAL)?;
    let clock = Clock::system();
    loop {
        // While another connection is being closed, this statement fails immediately instead of waiting for
        // the busy timeout.
        match conn.query_value::<String>("PRAGMA journal_mode = DELETE") {
            Ok(mode) if mode == "delete" => break,
            Err(error) if !error.is_busy() => return Err(error.into()),
            _ if clock.monotonic() >= BUSY_TIMEOUT => {
                return Err(Error::internal("another connection has the new database open"));
            }
            _ => thread::sleep(POLL_INTERVAL / 10),
        }
    }
    Ok(conn.close()?)
}

/// The hash of the audit event with this `seq`, if it exists, and the `seq` of the first event.
pub(crate) fn event_hash_and_first_seq(tx: &Tx<'_>, seq: i64) -> Result<(Option<[u8; 32]>, Option<i64>)> {
    let rows = audit::chain_rows(tx, seq, 1)?;
    let hash = rows.into_iter().find_map(|ChainRow { link, .. }| {
        link.filter(|(link, _)| link.seq == seq).map(|(link, _)| link.hash)
    });
    let first = tx.query_first("SELECT seq FROM audit_events ORDER BY seq LIMIT 1", &[], |row| row.get(0))?;
    Ok((hash, first))
}

/// Fetches the `seq` of a key in this database.
pub(crate) fn find_key_seq(tx: &Tx<'_>, id: &str) -> Result<Option<i64>> {
    tx.query_first("SELECT seq FROM api_keys WHERE id = ?1", params![id], |row| row.get(0))
}

/// Fetches the `seq` of an organization in this database.
fn find_organization_seq(tx: &Tx<'_>, id: &str) -> Result<Option<i64>> {
    tx.query_first("SELECT seq FROM organizations WHERE id = ?1", params![id], |row| row.get(0))
}

/// Finds a key or organization of another database in this one, by its id.
pub(crate) fn find_subject(tx: &Tx<'_>, other: Subject, id: &str) -> Result<Option<Subject>> {
    match other {
        Subject::Key(_) => Ok(find_key_seq(tx, id)?.map(Subject::Key)),
        Subject::Organization(_) => Ok(find_organization_seq(tx, id)?.map(Subject::Organization)),
        Subject::All => Ok(None),
    }
}

/// Fetches all quota leases, each with the id of its key or organization.
pub(crate) fn all_quota_leases(tx: &Tx<'_>) -> Result<Vec<(String, QuotaLease)>> {
    let sql = "SELECT coalesce(k.id, o.id), q.subject, q.meter, q.period, q.started_at, q.leased FROM quotas q \
               LEFT JOIN api_keys k ON k.seq = q.subject LEFT JOIN organizations o ON o.seq = -1 - q.subject \
               WHERE coalesce(k.id, o.id) IS NOT NULL";
    tx.query_all(sql, &[], |row| {
        let id = QuotaId {
            subject: Subject::from_number(row.get(1)?),
            meter: rows::meter_column(row, 2)?,
            period: rows::enum_column(row, 3)?,
            start: rows::timestamp_column(row, 4)?,
        };
        Ok((row.get(0)?, QuotaLease { id, units: row.get(5)? }))
    })
}
