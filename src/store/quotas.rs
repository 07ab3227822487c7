//! Statements on quota leases.

use rusqlite::params;

use super::db::Tx;
use super::rows;
use crate::domain::limits::Period;
use crate::domain::quota::QuotaLease;
use crate::error::Result;

/// Fetches the lease of a key's quota for this length of period; `None` when nothing was ever leased.
pub fn get(tx: &Tx<'_>, key: i64, period: Period) -> Result<Option<QuotaLease>> {
    tx.query_first(
        "SELECT started_at, leased FROM quotas WHERE key_seq = ?1 AND period = ?2",
        params![key, period.name()],
        |row| Ok(QuotaLease { key, period, start: rows::timestamp_column(row, 0)?, units: row.get(1)? }),
    )
}

/// Stores leases, replacing those of the same keys and periods.
pub(crate) fn put(tx: &Tx<'_>, leases: &[QuotaLease]) -> Result<()> {
    for lease in leases {
        tx.execute(
            "INSERT INTO quotas (key_seq, period, started_at, leased) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (key_seq, period) DO UPDATE SET started_at = excluded.started_at, leased = excluded.leased",
            params![lease.key, lease.period.name(), lease.start.as_millis(), lease.units],
        )?;
    }
    Ok(())
}
