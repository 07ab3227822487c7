//! Statements on kept answers.

use rusqlite::params;

use super::db::Tx;
use super::rows;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// An answer as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// A hash of what was asked.
    pub(crate) request: [u8; 32],
    /// When it was asked.
    pub(crate) created_at: Timestamp,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The ETag that came with it.
    pub(crate) etag: Option<String>,
    /// Is the answer sealed?
    pub(crate) sealed: bool,
    /// JSON, or that sealed.
    pub(crate) answer: Vec<u8>,
}

/// The answer that is kept under a name.
pub(crate) fn get(tx: &Tx<'_>, name: &[u8; 32]) -> Result<Option<Stored>> {
    let sql = "SELECT request, created_at, status, etag, sealed, answer FROM idempotency WHERE name = ?1";
    tx.one(sql, params![name], |row| {
        Ok(Stored {
            request: row.get(0)?,
            created_at: rows::time(row, 1)?,
            status: row.get(2)?,
            etag: row.get(3)?,
            sealed: row.get(4)?,
            answer: row.get(5)?,
        })
    })
}

/// Keeps an answer, in place of one under the same name whose time is over.
pub(crate) fn put(tx: &Tx<'_>, name: &[u8; 32], kept: &Stored) -> Result<()> {
    tx.execute(
        "INSERT INTO idempotency (name, request, created_at, status, etag, sealed, answer) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (name) DO UPDATE SET request = excluded.request, \
         created_at = excluded.created_at, status = excluded.status, etag = excluded.etag, \
         sealed = excluded.sealed, answer = excluded.answer",
        params![
            name,
            kept.request,
            kept.created_at.as_millis(),
            kept.status,
            kept.etag,
            kept.sealed,
            kept.answer
        ],
    )?;
    Ok(())
}

/// Removes answers kept since before a time, at most so many; how many it were.
pub(crate) fn prune(tx: &Tx<'_>, before: Timestamp, at_most: usize) -> Result<usize> {
    tx.execute(
        "DELETE FROM idempotency WHERE name IN \
         (SELECT name FROM idempotency WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
        params![before.as_millis(), at_most],
    )
}
