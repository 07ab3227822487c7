//! How much there is of everything. Nothing here walks a table.

use rusqlite::params;

use super::db::Tx;
use crate::domain::overview::Keys;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// How many there are of what the triggers count; `None` for all organizations together.
fn count(tx: &Tx<'_>, what: &str, organization_id: Option<&str>) -> Result<u64> {
    let sql = "SELECT n FROM counts WHERE what = ?1 AND organization_id = ?2";
    Ok(tx.one(sql, params![what, organization_id.unwrap_or("*")], |row| row.get(0))?.unwrap_or(0))
}

/// Organizations that aren't deleted.
pub fn organizations(tx: &Tx<'_>) -> Result<u64> {
    count(tx, "organizations", None)
}

/// Users, or the members of an organization.
pub(crate) fn users(tx: &Tx<'_>, organization_id: Option<&str>) -> Result<u64> {
    count(tx, "users", organization_id)
}

/// Keys, or those of an organization. Takes as long as there are expired ones that nobody revoked: only
/// these are walked over, in an index.
pub(crate) fn keys(tx: &Tx<'_>, organization_id: Option<&str>, now: Timestamp) -> Result<Keys> {
    let (and, now) =
        (if organization_id.is_some() { "organization_id = ?2" } else { "?2 IS NULL" }, now.as_millis());
    let sql = format!("SELECT count(*) FROM api_keys WHERE status = 'active' AND expires_at <= ?1 AND {and}");
    let expired: u64 = tx.one(&sql, params![now, organization_id], |row| row.get(0))?.unwrap_or(0);
    Ok(Keys {
        active: count(tx, "active", organization_id)?.saturating_sub(expired),
        disabled: count(tx, "disabled", organization_id)?,
        expired,
        revoked: count(tx, "revoked", organization_id)?,
    })
}

/// Keys of an organization that aren't revoked.
pub(crate) fn live_keys(tx: &Tx<'_>, organization_id: &str) -> Result<u64> {
    Ok(count(tx, "active", Some(organization_id))? + count(tx, "disabled", Some(organization_id))?)
}
