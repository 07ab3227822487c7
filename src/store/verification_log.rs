//! Statements on the verification log.

use super::engine::{self, Row, params};
use super::list::ListQuery;
use super::rows;
use super::seq_index::SeqIndex;
use super::tx::Tx;
use crate::domain::page::{Page, Rows};
use crate::domain::time::Timestamp;
use crate::domain::verification_log::{Entry, VerificationLogFilter};
use crate::error::Result;

const SEQ_INDEX: SeqIndex = SeqIndex { table: "verification_log", column: "minute" };

/// Adds the denials of an entry to their row of the verification log, which is inserted if it doesn't exist.
/// `aggregation_key` distinguishes the rows of one minute and code; the entry's `key_id` is ignored.
pub(crate) fn add(tx: &Tx<'_>, aggregation_key: &str, key_seq: Option<i64>, entry: &Entry) -> Result<()> {
    SEQ_INDEX.record_skew(tx, entry.first_at.start_of_minute())?;
    tx.execute(
        "INSERT INTO verification_log (minute, code, aggregation_key, key_seq, organization_id, ip, count, first_at, last_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (minute, code, aggregation_key) DO UPDATE SET \
         count = verification_log.count + excluded.count, last_at = CASE \
         WHEN verification_log.last_at < excluded.last_at THEN excluded.last_at ELSE verification_log.last_at END",
        params![
            entry.first_at.start_of_minute().as_millis(),
            entry.code.map_or("", |code| code.name()),
            aggregation_key,
            key_seq,
            entry.organization_id,
            entry.ip.map(|ip| ip.to_string()),
            entry.count,
            entry.first_at.as_millis(),
            entry.last_at.as_millis(),
        ],
    )?;
    Ok(())
}

fn entry_from_row(row: &Row<'_>) -> engine::Result<Entry> {
    let is_overflow = row.get::<&str>(1)?.is_empty();
    Ok(Entry {
        code: if is_overflow { None } else { Some(rows::enum_column(row, 1)?) },
        key_id: row.get(2)?,
        organization_id: row.get(3)?,
        ip: row.get::<Option<String>>(4)?.and_then(|ip| ip.parse().ok()),
        count: row.get(5)?,
        first_at: rows::timestamp_column(row, 6)?,
        last_at: rows::timestamp_column(row, 7)?,
    })
}

/// Fetches a page of the verification log.
pub fn list(tx: &Tx<'_>, filter: &VerificationLogFilter, page: &Page) -> Result<Rows<Entry>> {
    let select = "SELECT l.seq, l.code, k.id, l.organization_id, l.ip, l.count, l.first_at, l.last_at \
                  FROM verification_log l LEFT JOIN api_keys k ON k.seq = l.key_seq WHERE 1 = 1";
    let range = SEQ_INDEX.seq_range_of(tx, filter.from.map(Timestamp::start_of_minute), filter.to)?;
    ListQuery::new(select)
        .and_condition("l.organization_id = ?", filter.org_id.clone())
        .and_condition("l.key_seq = (SELECT seq FROM api_keys WHERE id = ?)", filter.key_id.clone())
        .and_condition("l.code = ?", filter.code.map(|code| code.name().to_owned()))
        .and_condition("l.ip = ?", filter.ip.map(|ip| ip.to_string()))
        .and_condition("l.last_at >= ?", filter.from.map(Timestamp::as_millis))
        .and_condition("l.first_at < ?", filter.to.map(Timestamp::as_millis))
        .in_seq_range(range)
        .fetch_page(tx, "l.seq", page, entry_from_row)
}

/// Deletes rows whose minute is before a time, oldest first. Deletes also rows whose minute seems to be after
/// `now`, because the clock was wrong, if a row that was stored later has expired. Deletes at most `max` rows of
/// either kind; returns the larger of both numbers.
pub(crate) fn prune(tx: &Tx<'_>, before: Timestamp, now: Timestamp, max: usize) -> Result<usize> {
    let max_rows = i64::try_from(max).unwrap_or(i64::MAX);
    // The unary pluses make SQLite use the index on `minute`. Otherwise it would read the table from its end back to the
    // first expired row, which usually isn't there.
    let from_future = tx.execute(
        "DELETE FROM verification_log WHERE seq IN (SELECT seq FROM verification_log WHERE minute > ?1 \
         AND +seq < (SELECT max(+seq) FROM verification_log WHERE minute < ?2) LIMIT ?3)",
        params![now.as_millis(), before.as_millis(), max_rows],
    )?;
    let expired = tx.execute(
        "DELETE FROM verification_log WHERE seq IN \
         (SELECT seq FROM verification_log WHERE minute < ?1 ORDER BY minute LIMIT ?2)",
        params![before.as_millis(), max_rows],
    )?;
    Ok(expired.max(from_future))
}
