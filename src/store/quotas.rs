//! Statements on quota leases.

use super::engine::params;
use super::tx::Tx;
use crate::domain::limits::Period;
use crate::domain::quota::{QuotaId, QuotaLease};
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Fetches the units that are leased for a quota; `None` if none are.
pub fn leased_units(tx: &Tx<'_>, id: QuotaId) -> Result<Option<u64>> {
    tx.query_first(
        "SELECT leased FROM quotas WHERE period = ?1 AND started_at = ?2 AND subject = ?3 AND meter = ?4",
        params![id.period.name(), id.start.as_millis(), id.subject.number(), id.meter.name()],
        |row| row.get(0),
    )
}

/// Stores leases, replacing those of the same quotas. A lease without units is deleted: storing it could need room,
/// and a full disk must not keep other units from being returned with it.
pub(crate) fn put(tx: &Tx<'_>, leases: &[QuotaLease]) -> Result<()> {
    for QuotaLease { id, units } in leases {
        let (period, start) = (id.period.name(), id.start.as_millis());
        let (subject, meter) = (id.subject.number(), id.meter.name());
        if *units == 0 {
            tx.execute(
                "DELETE FROM quotas WHERE period = ?1 AND started_at = ?2 AND subject = ?3 AND meter = ?4",
                params![period, start, subject, meter],
            )?;
            continue;
        }
        tx.execute(
            "INSERT INTO quotas (period, started_at, subject, meter, leased) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (period, started_at, subject, meter) DO UPDATE SET leased = excluded.leased",
            params![period, start, subject, meter, *units],
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
            "DELETE FROM quotas WHERE (period, started_at, subject, meter) IN \
             (SELECT period, started_at, subject, meter FROM quotas WHERE period = ?1 AND {condition} LIMIT ?3)"
        );
        deleted = deleted.max(tx.execute(&sql, params![period.name(), bound.as_millis(), max_rows])?);
    }
    Ok(deleted)
}
