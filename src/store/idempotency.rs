//! Statements on the stored responses of idempotent requests.

use rusqlite::params;

use super::db::Tx;
use super::rows;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// A stored response, as a row of the table.
#[derive(Clone, Debug)]
pub(crate) struct ResponseRow {
    /// Hash of the request that the response belongs to.
    pub(crate) request: [u8; 32],
    /// Time of the request.
    pub(crate) created_at: Timestamp,
    /// HTTP status of the response.
    pub(crate) status: u16,
    /// ETag of the response.
    pub(crate) etag: Option<String>,
    /// True if `answer` is encrypted.
    pub(crate) sealed: bool,
    /// The JSON of the response, encrypted if `sealed`.
    pub(crate) answer: Vec<u8>,
}

/// Fetches the response stored under a name.
pub(crate) fn get(tx: &Tx<'_>, name: &[u8; 32]) -> Result<Option<ResponseRow>> {
    let sql = "SELECT request, created_at, status, etag, sealed, answer FROM idempotency WHERE name = ?1";
    tx.query_first(sql, params![name], |row| {
        Ok(ResponseRow {
            request: row.get(0)?,
            created_at: rows::timestamp_column(row, 1)?,
            status: row.get(2)?,
            etag: row.get(3)?,
            sealed: row.get(4)?,
            answer: row.get(5)?,
        })
    })
}

/// Stores a response, replacing an expired one under the same name.
pub(crate) fn put(tx: &Tx<'_>, name: &[u8; 32], response: &ResponseRow) -> Result<()> {
    tx.execute(
        "INSERT INTO idempotency (name, request, created_at, status, etag, sealed, answer) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (name) DO UPDATE SET request = excluded.request, \
         created_at = excluded.created_at, status = excluded.status, etag = excluded.etag, \
         sealed = excluded.sealed, answer = excluded.answer",
        params![
            name,
            response.request,
            response.created_at.as_millis(),
            response.status,
            response.etag,
            response.sealed,
            response.answer
        ],
    )?;
    Ok(())
}

/// Deletes responses created before a time, oldest first, at most `max`. Returns the number of deleted
/// responses.
pub(crate) fn prune(tx: &Tx<'_>, before: Timestamp, max: usize) -> Result<usize> {
    tx.execute(
        "DELETE FROM idempotency WHERE name IN \
         (SELECT name FROM idempotency WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
        params![before.as_millis(), max],
    )
}
