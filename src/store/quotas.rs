//! Statements on quota leases.

use super::engine::params;
use super::tx::Tx;
use crate::domain::limits::Period;
use crate::domain::quota::QuotaLease;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Fetches the units that a key has leased for its quota in the period that contains the time `at`; `None` if
/// it has leased none.
pub fn leased_units(tx: &Tx<'_>, key: i64, period: Period, at: Timestamp) -> Result<Option<u64>> {
    let (start, _) = period.bounds_at(at);
    tx.query_first(
        "SELECT leased FROM quotas WHERE period = ?1 AND started_at = ?2 AND key_seq = ?3",
        params![period.name(), start.as_millis(), key],
        |row| row.get(0),
    )
}

/// Stores leases, replacing those of the same keys and periods. A lease without units is deleted: storing it could need
/// room, and a full disk must not keep other units from being returned with it.
pub(crate) fn put(tx: &Tx<'_>, leases: &[QuotaLease]) -> Result<()> {
    for lease in leases {
        if lease.units == 0 {
            tx.execute(
                "DELETE FROM quotas WHERE period = ?1 AND started_at = ?2 AND key_seq = ?3",
                params![lease.period.name(), lease.start.as_millis(), lease.key],
            )?;
            continue;
        }
        tx.execute(
            "INSERT INTO quotas (period, started_at, key_seq, leased) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (period, started_at, key_seq) DO UPDATE SET leased = excluded.leased",
            params![lease.period.name(), lease.start.as_millis(), lease.key, lease.units],
        )?;
    }
    Ok(())
}

/// Deletes leases of periods of this length that began before `before` or after `after`, at most `max`.
/// Returns the number of deleted leases.
pub(crate) fn prune(
    tx: &Tx<'_>,
    period: Period,
    before: Timestamp,
    after: Timestamp,
    max: usize,
) -> Result<usize> {
    let max_rows = i64::try_from(max).unwrap_or(i64::MAX);
    let mut deleted = 0;
    for (condition, bound) in [("started_at < ?2", before), ("started_at > ?2", after)] {
        let sql = format!(
            "DELETE FROM quotas WHERE (period, started_at, key_seq) IN \
             (SELECT period, started_at, key_seq FROM quotas WHERE period = ?1 AND {condition} LIMIT ?3)"
        );
        deleted = deleted.max(tx.execute(&sql, params![period.name(), bound.as_millis(), max_rows])?);
    }
    Ok(deleted)
}
