//! The file that a restore replaces: held, read, kept beside, and replaced in one step.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::audit::Raw;
use super::backup::{beside, sync};
use super::db::{BUSY_TIMEOUT, POLL, Tx};
use super::schema::{self, directory};
use super::tx::is_busy;
use super::{audit, rows};
use crate::domain::limits::Period;
use crate::domain::quota::Lease;
use crate::error::{Error, Result};

/// The database that is to be replaced, with nobody else in it.
pub(crate) struct ReplacedDatabase(Connection);

impl ReplacedDatabase {
    /// Takes it from everybody else, and brings its WAL into it, so that it is one file.
    ///
    /// # Errors
    /// `UNAVAILABLE` when another process has it open; anything else when it can't be read.
    pub(crate) fn take(file: &Path) -> Result<Self> {
        let conn = schema::connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.set_prepared_statement_cache_capacity(schema::STATEMENTS_CACHED);
        schema::recognise(&conn, file)?;
        conn.execute_batch("PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF")?;
        let mode = |sql| conn.query_row(sql, [], |row| row.get::<_, String>(0));
        let elsewhere = || Error::unavailable("Another process has the database open.", 1);
        if mode("PRAGMA journal_mode = DELETE")? != "delete" {
            return Err(elsewhere());
        }
        conn.execute_batch("BEGIN EXCLUSIVE")?;
        // Without a WAL this keeps all others out; one that came between has made a new one.
        if mode("PRAGMA journal_mode")? != "delete" {
            return Err(elsewhere());
        }
        Ok(Self(conn))
    }

    /// Reads from it.
    pub(crate) fn read<T>(&mut self, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        f(&Tx::new(&self.0))
    }
}

/// Puts a whole database in the place of another, which keeps a name beside it. Whenever it is interrupted,
/// `file` is the old one or the new one. What is left of a WAL goes with the old one: SQLite would read it
/// into the new.
///
/// # Errors
/// What the disk answers; nothing is replaced then.
pub(crate) fn swap(new: &Path, file: &Path, kept: Option<&Path>) -> Result<()> {
    let named = |path: &Path| {
        let path = path.display().to_string();
        move |error| Error::internal(format!("{path}: {error}"))
    };
    sync(new)?;
    if let Some(kept) = kept {
        fs::hard_link(file, kept).map_err(named(kept))?;
        for suffix in ["-wal", "-shm", "-journal"] {
            let left = beside(file, suffix);
            if left.exists() {
                fs::rename(&left, beside(kept, suffix)).map_err(named(&left))?;
            }
        }
        schema::sync(directory(file))?;
    }
    fs::rename(new, file).map_err(named(file))?;
    schema::sync(directory(file))
}

/// Makes a directory for the new one that is empty and only ours.
pub(crate) fn stage(dir: &Path) -> Result<()> {
    unstage(dir)?;
    schema::make_dir(dir)
}

/// Removes it with all that is in it.
pub(crate) fn unstage(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Brings a database that nobody has open into one file, without a WAL.
pub(crate) fn settle(file: &Path) -> Result<()> {
    let conn = schema::connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut waited = Duration::ZERO;
    loop {
        // A connection on its way out makes this fail at once, whatever the timeout.
        match conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "delete" => break,
            Err(error) if !is_busy(&error) => return Err(error.into()),
            _ if waited >= BUSY_TIMEOUT => return Err(Error::internal("the new database is open elsewhere")),
            _ => thread::sleep(POLL / 10),
        }
        waited += POLL / 10;
    }
    conn.close().map_err(|(_, error)| Error::from(error))
}

/// The event at a place of the chain, and the first place that there is.
pub(crate) fn event_at(tx: &Tx<'_>, seq: i64) -> Result<(Option<[u8; 32]>, Option<i64>)> {
    let found = audit::links(tx, seq, 1)?;
    let hash = found
        .into_iter()
        .find_map(|Raw { link, .. }| link.filter(|(link, _)| link.seq == seq).map(|(link, _)| link.hash));
    let first = tx.one("SELECT seq FROM audit_events ORDER BY seq LIMIT 1", [], |row| row.get(0))?;
    Ok((hash, first))
}

/// A key's place in this file.
pub(crate) fn key_seq(tx: &Tx<'_>, id: &str) -> Result<Option<i64>> {
    tx.one("SELECT seq FROM api_keys WHERE id = ?1", params![id], |row| row.get(0))
}

/// What is leased of quotas, by the id of the key.
pub(crate) fn leases(tx: &Tx<'_>) -> Result<Vec<(String, Lease)>> {
    let sql = "SELECT k.id, q.key_seq, q.period, q.started_at, q.leased FROM quotas q \
               JOIN api_keys k ON k.seq = q.key_seq";
    tx.all(sql, [], |row| {
        let (key, period) = (row.get(1)?, rows::named(row, 2, Period::NAMES)?);
        Ok((row.get(0)?, Lease { key, period, start: rows::time(row, 3)?, units: row.get(4)? }))
    })
}
