//! Statements on the index of the meters that limits of keys and organizations are on.

use super::engine::params;
use super::tx::Tx;
use crate::domain::limits::Limit;
use crate::domain::meter::Meter;
use crate::domain::subject::Subject;
use crate::error::Result;

/// Replaces the meters of a key or organization by those of its limits.
pub(super) fn replace(
    tx: &Tx<'_>,
    subject: Subject,
    before: Option<&[Limit]>,
    after: Option<&[Limit]>,
) -> Result<()> {
    if before == after {
        return Ok(());
    }
    if before.is_some_and(|limits| !limits.is_empty()) {
        tx.execute("DELETE FROM limit_meters WHERE subject = ?1", params![subject.number()])?;
    }
    for limit in after.unwrap_or_default() {
        tx.execute(
            "INSERT INTO limit_meters (meter, subject) VALUES (?1, ?2) ON CONFLICT (meter, subject) DO NOTHING",
            params![limit.meter.name(), subject.number()],
        )?;
    }
    Ok(())
}

/// Fetches the id of a key that isn't revoked, or of an organization, that has a limit on this meter.
pub(crate) fn find_user_of_meter(tx: &Tx<'_>, meter: Meter) -> Result<Option<String>> {
    let keys = "SELECT k.id FROM limit_meters l JOIN api_keys k ON k.seq = l.subject \
                WHERE l.meter = ?1 AND k.status <> 'revoked' LIMIT 1";
    let organizations = "SELECT o.id FROM limit_meters l JOIN organizations o ON o.seq = -1 - l.subject \
                         WHERE l.meter = ?1 AND o.deleted_at IS NULL LIMIT 1";
    for sql in [keys, organizations] {
        if let Some(id) = tx.query_first(sql, params![meter.name()], |row| row.get(0))? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}
