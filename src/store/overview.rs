//! Totals of organizations, users and keys. Nothing here scans a table.

use super::engine::params;
use super::tx::Tx;
use crate::domain::overview::Keys;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Reads a count that database triggers maintain, of one organization or, with `None`, of all together.
fn count(tx: &Tx<'_>, kind: &str, organization_id: Option<&str>) -> Result<u64> {
    let sql = "SELECT n FROM counts WHERE what = ?1 AND organization_id = ?2";
    Ok(tx.query_first(sql, params![kind, organization_id.unwrap_or("*")], |row| row.get(0))?.unwrap_or(0))
}

/// Number of organizations, without deleted ones.
pub fn count_organizations(tx: &Tx<'_>) -> Result<u64> {
    count(tx, "organizations", None)
}

/// Number of members of an organization or, with `None`, of all users without deleted ones.
pub(crate) fn count_users(tx: &Tx<'_>, organization_id: Option<&str>) -> Result<u64> {
    count(tx, "users", organization_id)
}

/// Number of keys by status, of an organization or, with `None`, of all together. Takes time linear in the
/// number of expired keys that aren't revoked, because those are counted in an index.
pub(crate) fn keys(tx: &Tx<'_>, organization_id: Option<&str>, now: Timestamp) -> Result<Keys> {
    let owner = if organization_id.is_some() { "organization_id = ?2" } else { "?2 IS NULL" };
    let sql =
        format!("SELECT count(*) FROM api_keys WHERE status = 'active' AND expires_at <= ?1 AND {owner}");
    let expired: u64 =
        tx.query_first(&sql, params![now.as_millis(), organization_id], |row| row.get(0))?.unwrap_or(0);
    Ok(Keys {
        active: count(tx, "active", organization_id)?.saturating_sub(expired),
        disabled: count(tx, "disabled", organization_id)?,
        expired,
        revoked: count(tx, "revoked", organization_id)?,
    })
}

/// Number of keys of an organization that aren't revoked.
pub(crate) fn count_unrevoked_keys(tx: &Tx<'_>, organization_id: &str) -> Result<u64> {
    Ok(count(tx, "active", Some(organization_id))? + count(tx, "disabled", Some(organization_id))?)
}
