//! Statements on the stored responses of idempotent requests.

use super::engine::{Row, params};
use super::rows;
use super::tx::Tx;
use crate::domain::idempotency::StoredBytes;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// The key that sent a request, and its organization, by their `seq`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseOwner {
    /// The API key.
    pub(crate) key_seq: i64,
    /// The organization; `None` for a platform key.
    pub(crate) organization_seq: Option<i64>,
}

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

/// Stores a response that counts this number of bytes.
pub(crate) fn insert(
    tx: &Tx<'_>,
    name: &[u8; 32],
    owner: ResponseOwner,
    bytes: u64,
    response: &ResponseRow,
) -> Result<()> {
    tx.execute(
        "INSERT INTO idempotency \
         (name, key_seq, organization_seq, request, created_at, bytes, status, etag, sealed, answer) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            name,
            owner.key_seq,
            owner.organization_seq,
            response.request,
            response.created_at.as_millis(),
            bytes,
            response.status,
            response.etag,
            response.sealed,
            response.answer
        ],
    )?;
    Ok(())
}

/// Deletes the response stored under a name, if there is one.
pub(crate) fn delete(tx: &Tx<'_>, name: &[u8; 32]) -> Result<()> {
    tx.execute("DELETE FROM idempotency WHERE name = ?1", params![name])?;
    Ok(())
}

/// The bytes that the stored responses of a key, of its organization and of all keys take.
pub(crate) fn stored_bytes(tx: &Tx<'_>, owner: ResponseOwner) -> Result<StoredBytes> {
    let organization = -1 - owner.organization_seq.unwrap_or(0);
    let sql = "SELECT subject, bytes FROM idempotency_bytes WHERE subject IN (0, ?1, ?2)";
    let mut stored = StoredBytes::default();
    for (subject, bytes) in tx.query_all(sql, params![owner.key_seq, organization], |row| {
        let subject: i64 = row.get(0)?;
        let bytes: u64 = row.get(1)?;
        Ok((subject, bytes))
    })? {
        match subject {
            0 => stored.total = bytes,
            subject if subject == organization => stored.organization = bytes,
            _ => stored.key = bytes,
        }
    }
    Ok(stored)
}

/// Deletes responses created before a time, until `max_rows` or about `max_bytes` are deleted. Deletes also
/// responses that seem to be created after `now`, because the clock was wrong, if a response that was stored
/// later is expired. Returns `true` if there may be more.
pub(crate) fn prune(
    tx: &Tx<'_>,
    before: Timestamp,
    now: Timestamp,
    max_rows: usize,
    max_bytes: u64,
) -> Result<bool> {
    let seq_and_bytes = |row: &Row<'_>| {
        let seq: i64 = row.get(0)?;
        let bytes: u64 = row.get(1)?;
        Ok((seq, bytes))
    };
    // The unary pluses make SQLite use the index on `created_at`. Otherwise it would read the table from its end back to
    // the first expired row, which usually isn't there.
    let sql = "SELECT seq, bytes FROM idempotency WHERE created_at > ?1 \
               AND +seq < (SELECT max(+seq) FROM idempotency WHERE created_at < ?2) LIMIT ?3";
    let mut expired =
        tx.query_all(sql, params![now.as_millis(), before.as_millis(), max_rows], seq_and_bytes)?;
    let sql = "SELECT seq, bytes FROM idempotency WHERE created_at < ?1 ORDER BY created_at LIMIT ?2";
    expired.extend(tx.query_all(
        sql,
        params![before.as_millis(), max_rows - expired.len()],
        seq_and_bytes,
    )?);
    let may_be_more = expired.len() == max_rows;
    let mut deleted_bytes = 0;
    for (seq, bytes) in expired {
        if deleted_bytes >= max_bytes {
            return Ok(true);
        }
        tx.execute("DELETE FROM idempotency WHERE seq = ?1", params![seq])?;
        deleted_bytes += bytes;
    }
    Ok(may_be_more)
}
