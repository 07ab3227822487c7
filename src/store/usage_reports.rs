//! Statements on reports of usage that were made afterwards. Their ids are kept for a day, so that none counts twice.

use super::engine::params;
use super::tx::Tx;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Fetches the costs of a key's report, as JSON; `None` if there is none with this id.
pub(crate) fn find_costs(tx: &Tx<'_>, key_seq: i64, id: &str) -> Result<Option<String>> {
    let sql = "SELECT costs FROM usage_reports WHERE key_seq = ?1 AND id = ?2";
    tx.query_first(sql, params![key_seq, id], |row| row.get(0))
}

/// Stores a key's report with its costs as JSON.
pub(crate) fn insert(tx: &Tx<'_>, key_seq: i64, id: &str, costs: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO usage_reports (key_seq, id, costs, reported_at) VALUES (?1, ?2, ?3, ?4)",
        params![key_seq, id, costs, now.as_millis()],
    )?;
    Ok(())
}

/// Number of stored reports of an organization's keys. The id is empty for platform keys, and `*` for all keys.
pub(crate) fn count(tx: &Tx<'_>, organization_id: &str) -> Result<u64> {
    let sql = "SELECT n FROM counts WHERE what = 'usage_reports' AND organization_id = ?1";
    Ok(tx.query_first(sql, params![organization_id], |row| row.get(0))?.unwrap_or(0))
}

/// Deletes reports that were made before `before` or after `after`, at most `max`. Returns the number of deleted
/// reports.
pub(crate) fn prune(tx: &Tx<'_>, before: Timestamp, after: Timestamp, max: usize) -> Result<usize> {
    let max_rows = i64::try_from(max).unwrap_or(i64::MAX);
    let mut deleted = 0;
    for (condition, bound) in [("reported_at < ?1", before), ("reported_at > ?1", after)] {
        let sql = format!(
            "DELETE FROM usage_reports WHERE (key_seq, id) IN \
             (SELECT key_seq, id FROM usage_reports WHERE {condition} LIMIT ?2)"
        );
        deleted = deleted.max(tx.execute(&sql, params![bound.as_millis(), max_rows])?);
    }
    Ok(deleted)
}
