//! Statements on organizations.

use super::engine::{self, Row, params};
use super::limit_meters;
use super::list::ListQuery;
use super::rows;
use super::tx::Tx;
use crate::domain::organization::{Organization, OrganizationFilter};
use crate::domain::page::{Page, Rows};
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::unicode;
use crate::error::Result;

/// The columns that [`organization_from_row`] reads.
pub(super) const COLUMNS: &str =
    "seq, id, name, email, plan, status, metadata, created_at, updated_at, revision, limits";

fn select() -> String {
    format!("SELECT {COLUMNS} FROM organizations WHERE deleted_at IS NULL")
}

pub(super) fn organization_from_row(row: &Row<'_>) -> engine::Result<Organization> {
    Ok(Organization {
        id: row.get(1)?,
        name: row.get(2)?,
        email: row.get(3)?,
        plan: row.get(4)?,
        status: rows::enum_column(row, 5)?,
        metadata: rows::json_column(row, 6)?,
        created_at: rows::timestamp_column(row, 7)?,
        updated_at: rows::timestamp_column(row, 8)?,
        revision: row.get(9)?,
        limits: rows::optional_json_column(row, 10)?,
    })
}

/// Stores an organization; with `deleted_at`, as the tombstone of a deleted organization. Returns `false`
/// when the id is already in use, also by a deleted organization.
pub(crate) fn insert(tx: &Tx<'_>, new: &Organization, deleted_at: Option<Timestamp>) -> Result<bool> {
    let seq: Option<i64> = tx.query_first(
        "INSERT INTO organizations (id, name, name_key, email, email_key, plan, status, metadata, created_at, \
         updated_at, deleted_at, revision, limits) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (id) DO NOTHING RETURNING seq",
        params![
            new.id,
            new.name,
            unicode::fold(&new.name),
            new.email,
            unicode::fold_email(&new.email),
            new.plan,
            new.status.name(),
            rows::to_json(&new.metadata)?,
            new.created_at.as_millis(),
            new.updated_at.as_millis(),
            deleted_at.map(Timestamp::as_millis),
            new.revision,
            new.limits.as_ref().map(rows::to_json).transpose()?,
        ],
        |row| row.get(0),
    )?;
    let Some(seq) = seq else { return Ok(false) };
    limit_meters::replace(tx, Subject::Organization(seq), None, new.limits.as_deref())?;
    Ok(true)
}

/// Fetches an organization; `None` when it doesn't exist or is deleted.
pub(crate) fn get(tx: &Tx<'_>, id: &str) -> Result<Option<Organization>> {
    tx.query_first(&format!("{} AND id = ?1", select()), params![id], organization_from_row)
}

/// Stores all mutable fields of an organization.
pub(crate) fn update(tx: &Tx<'_>, before: &Organization, changed: &Organization) -> Result<()> {
    let seq: Option<i64> = tx.query_first(
        "UPDATE organizations SET name = ?2, name_key = ?3, email = ?4, email_key = ?5, plan = ?6, status = ?7, \
         metadata = ?8, updated_at = ?9, revision = ?10, limits = ?11 WHERE id = ?1 RETURNING seq",
        params![
            changed.id,
            changed.name,
            unicode::fold(&changed.name),
            changed.email,
            unicode::fold_email(&changed.email),
            changed.plan,
            changed.status.name(),
            rows::to_json(&changed.metadata)?,
            changed.updated_at.as_millis(),
            changed.revision,
            changed.limits.as_ref().map(rows::to_json).transpose()?,
        ],
        |row| row.get(0),
    )?;
    let Some(seq) = seq else { return Ok(()) };
    limit_meters::replace(tx, Subject::Organization(seq), before.limits.as_deref(), changed.limits.as_deref())
}

/// Deletes an organization by marking its row as deleted. The row stays as a tombstone.
pub(crate) fn delete(tx: &Tx<'_>, id: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE organizations SET deleted_at = ?2, revision = revision + 1 WHERE id = ?1",
        params![id, now.as_millis()],
    )?;
    Ok(())
}

/// Fetches a page of organizations that aren't deleted.
pub(crate) fn list(tx: &Tx<'_>, filter: &OrganizationFilter, page: &Page) -> Result<Rows<Organization>> {
    ListQuery::new(&select())
        .and_condition("id = ?", filter.id.clone())
        .and_condition("status = ?", filter.status.map(|status| status.name().to_owned()))
        .and_condition("plan = ?", filter.plan.clone())
        .and_name_or_email_prefix("name_key", "email_key", filter.q.as_deref())
        .fetch_page(tx, "seq", page, organization_from_row)
}

/// True if an organization that isn't deleted is on this plan.
pub(crate) fn any_organization_on_plan(tx: &Tx<'_>, plan: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM organizations WHERE plan = ?1 AND deleted_at IS NULL LIMIT 1";
    Ok(tx.query_first(sql, params![plan], |_| Ok(()))?.is_some())
}
