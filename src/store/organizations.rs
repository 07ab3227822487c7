//! Statements on organizations.

use std::collections::BTreeSet;

use super::engine::{self, Row, params};
use super::limit_meters;
use super::list::{self, ListQuery};
use super::rows;
use super::search::{self, ListAccess, Lookup, Search};
use super::tx::Tx;
use super::words::{self, ALL_ROWS};
use crate::domain::expand::OrganizationName;
use crate::domain::organization::{Organization, OrganizationFilter};
use crate::domain::page::{Page, Rows};
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
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
        "INSERT INTO organizations (id, name, email, plan, status, metadata, created_at, updated_at, deleted_at, \
         revision, limits) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING RETURNING seq",
        params![
            new.id,
            new.name,
            new.email,
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
    if deleted_at.is_none() {
        words::insert(tx, &[ALL_ROWS], seq, words::of(new));
    }
    Ok(true)
}

/// Fetches an organization; `None` when it doesn't exist or is deleted.
pub(crate) fn get(tx: &Tx<'_>, id: &str) -> Result<Option<Organization>> {
    tx.query_first(&format!("{} AND id = ?1", select()), params![id], organization_from_row)
}

/// Stores all mutable fields of an organization.
pub(crate) fn update(tx: &Tx<'_>, before: &Organization, changed: &Organization) -> Result<()> {
    let seq: Option<i64> = tx.query_first(
        "UPDATE organizations SET name = ?2, email = ?3, plan = ?4, status = ?5, metadata = ?6, updated_at = ?7, \
         revision = ?8, limits = ?9 WHERE id = ?1 RETURNING seq",
        params![
            changed.id,
            changed.name,
            changed.email,
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
    words::replace(tx, &[ALL_ROWS], seq, &words::of(before), &words::of(changed));
    limit_meters::replace(tx, Subject::Organization(seq), before.limits.as_deref(), changed.limits.as_deref())
}

/// Deletes an organization by marking its row as deleted. The row stays as a tombstone.
pub(crate) fn delete(tx: &Tx<'_>, id: &str, now: Timestamp) -> Result<()> {
    let before = get(tx, id)?;
    let seq = tx.query_first(
        "UPDATE organizations SET deleted_at = ?2, revision = revision + 1 WHERE id = ?1 RETURNING seq",
        params![id, now.as_millis()],
        |row| row.get(0),
    )?;
    let Some((before, seq)) = before.zip(seq) else { return Ok(()) };
    words::delete(tx, &[ALL_ROWS], seq, words::of(&before));
    Ok(())
}

/// Fetches a page of organizations that aren't deleted.
pub(crate) fn list(tx: &Tx<'_>, filter: &OrganizationFilter, page: &Page) -> Result<Rows<Organization>> {
    let list = |lookup: Lookup| list_query(filter, lookup);
    let Some(query) = filter.q.as_ref().filter(|query| query.has_words()) else {
        return list(Lookup::ByConditions).fetch_page(tx, "seq", page, organization_from_row);
    };
    let list_access = if filter.id.is_some() { ListAccess::FewRows } else { ListAccess::InOrder };
    let search = Search::new(query, ALL_ROWS, list_access);
    search::fetch_page(tx, list, "seq", page, &search, organization_from_row)
}

pub(super) fn list_query(filter: &OrganizationFilter, lookup: Lookup) -> ListQuery {
    let hint = lookup.hint();
    ListQuery::new(&format!("SELECT {COLUMNS} FROM organizations{hint} WHERE deleted_at IS NULL")).and_equal(
        &[
            ("id", filter.id.as_deref()),
            ("plan", filter.plan.as_deref()),
            ("status", filter.status.map(|status| status.name())),
        ],
    )
}

/// Fetches the names of organizations that aren't deleted.
pub(crate) fn names(tx: &Tx<'_>, ids: &BTreeSet<&str>) -> Result<Vec<OrganizationName>> {
    let (placeholders, values) = list::text_list(ids.iter().copied());
    let sql =
        format!("SELECT id, name FROM organizations WHERE deleted_at IS NULL AND id IN ({placeholders})");
    tx.query_all(&sql, &values, |row| Ok(OrganizationName { id: row.get(0)?, name: row.get(1)? }))
}

/// True if an organization that isn't deleted is on this plan.
pub(crate) fn any_organization_on_plan(tx: &Tx<'_>, plan: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM organizations WHERE plan = ?1 AND deleted_at IS NULL LIMIT 1";
    Ok(tx.query_first(sql, params![plan], |_| Ok(()))?.is_some())
}
