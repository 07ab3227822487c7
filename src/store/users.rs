//! Statements on users.

use std::collections::BTreeSet;

use super::engine::{self, Row, ToValue as _, params};
use super::list::{self, ListQuery};
use super::rows;
use super::search::{self, ListAccess, Lookup, Search};
use super::tx::Tx;
use super::words::{self, ALL_ROWS};
use crate::domain::expand::UserName;
use crate::domain::id::Kind;
use crate::domain::page::{Page, Rows};
use crate::domain::time::Timestamp;
use crate::domain::unicode;
use crate::domain::user::{User, UserFilter};
use crate::error::Result;

/// The columns that [`user_from_row`] reads, of the table `users` as `u`.
pub(super) const COLUMNS: &str =
    "u.id, u.email, u.name, u.external_id, u.status, u.metadata, u.created_at, u.updated_at, u.revision";

/// Reads [`COLUMNS`], starting at the column `first`.
pub(super) fn user_from_row(row: &Row<'_>, first: usize) -> engine::Result<User> {
    Ok(User {
        id: row.get(first)?,
        email: row.get(first + 1)?,
        name: row.get(first + 2)?,
        external_id: row.get(first + 3)?,
        status: rows::enum_column(row, first + 4)?,
        metadata: rows::json_column(row, first + 5)?,
        created_at: rows::timestamp_column(row, first + 6)?,
        updated_at: rows::timestamp_column(row, first + 7)?,
        revision: row.get(first + 8)?,
    })
}

/// True if the id is in use, also by a deleted user.
pub(crate) fn id_taken(tx: &Tx<'_>, id: &str) -> Result<bool> {
    Ok(tx.query_first("SELECT 1 FROM users WHERE id = ?1", params![id], |_| Ok(()))?.is_some())
}

/// The id of the user with this email address, ignoring case.
pub(crate) fn id_by_email(tx: &Tx<'_>, email: &str) -> Result<Option<String>> {
    let sql = "SELECT id FROM users WHERE email_key = ?1 AND deleted_at IS NULL";
    tx.query_first(sql, params![unicode::fold_email(email)], |row| row.get(0))
}

/// Stores a user; with `deleted_at`, as the tombstone of a deleted user. The id must not be in use, and
/// without `deleted_at` the email address must not be in use either.
pub(crate) fn insert(tx: &Tx<'_>, new: &User, deleted_at: Option<Timestamp>) -> Result<()> {
    let seq = tx.query_first(
        "INSERT INTO users (id, email, email_key, name, external_id, status, metadata, created_at, updated_at, \
         deleted_at, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) RETURNING seq",
        params![
            new.id,
            new.email,
            unicode::fold_email(&new.email),
            new.name,
            new.external_id,
            new.status.name(),
            rows::to_json(&new.metadata)?,
            new.created_at.as_millis(),
            new.updated_at.as_millis(),
            deleted_at.map(Timestamp::as_millis),
            new.revision,
        ],
        |row| row.get(0),
    )?;
    if let Some(seq) = seq.filter(|_| deleted_at.is_none()) {
        words::insert(tx, &[ALL_ROWS], seq, words::of(new));
    }
    Ok(())
}

/// Fetches a user; `None` when the user doesn't exist or is deleted.
pub fn get(tx: &Tx<'_>, id: &str) -> Result<Option<User>> {
    let sql = format!("SELECT {COLUMNS} FROM users u WHERE u.id = ?1 AND u.deleted_at IS NULL");
    tx.query_first(&sql, params![id], |row| user_from_row(row, 0))
}

/// Stores all mutable fields of a user.
pub(crate) fn update(tx: &Tx<'_>, before: &User, changed: &User) -> Result<()> {
    let seq = tx.query_first(
        "UPDATE users SET email = ?2, email_key = ?3, name = ?4, external_id = ?5, status = ?6, metadata = ?7, \
         updated_at = ?8, revision = ?9 WHERE id = ?1 RETURNING seq",
        params![
            changed.id,
            changed.email,
            unicode::fold_email(&changed.email),
            changed.name,
            changed.external_id,
            changed.status.name(),
            rows::to_json(&changed.metadata)?,
            changed.updated_at.as_millis(),
            changed.revision,
        ],
        |row| row.get(0),
    )?;
    let before = words::of(before);
    let after = words::of(changed);
    if let Some(seq) = seq.filter(|_| before != after) {
        words::replace(tx, &tenants(tx, &changed.id)?, seq, &before, &after);
    }
    Ok(())
}

/// The tenants in `words` of a user: all rows, and each organization that the user is a member of.
fn tenants(tx: &Tx<'_>, id: &str) -> Result<Vec<i64>> {
    let sql = "SELECT o.seq FROM memberships m JOIN organizations o ON o.id = m.organization_id WHERE m.user_id = ?1";
    let mut tenants = tx.query_all(sql, params![id], |row| row.get(0))?;
    tenants.push(ALL_ROWS);
    Ok(tenants)
}

/// Deletes a user by marking the row as deleted. The row stays as a tombstone; the email address can be used
/// again. The user must have no memberships any more.
pub(crate) fn delete(tx: &Tx<'_>, id: &str, now: Timestamp) -> Result<()> {
    let before = get(tx, id)?;
    let seq = tx.query_first(
        "UPDATE users SET deleted_at = ?2, revision = revision + 1 WHERE id = ?1 RETURNING seq",
        params![id, now.as_millis()],
        |row| row.get(0),
    )?;
    let Some((before, seq)) = before.zip(seq) else { return Ok(()) };
    words::delete(tx, &[ALL_ROWS], seq, words::of(&before));
    Ok(())
}

/// Fetches a page of users that aren't deleted.
pub(crate) fn list(tx: &Tx<'_>, filter: &UserFilter, page: &Page) -> Result<Rows<User>> {
    let query = filter.q.as_ref().filter(|query| query.has_words());
    let list_access = match filter {
        UserFilter { email: None, external_id: None, organization_id: None, .. } => ListAccess::InOrder,
        UserFilter { email: None, external_id: None, .. } => ListAccess::NotInOrder,
        _ => ListAccess::FewRows,
    };
    let list = |lookup: Lookup| list_query(filter, lookup);
    let map = |row: &Row<'_>| user_from_row(row, 1);
    if query.is_none() && list_access != ListAccess::NotInOrder {
        return list(Lookup::ByConditions).fetch_page(tx, "u.seq", page, map);
    }
    let tenant = words::tenant(tx, filter.organization_id.as_deref())?;
    let Some(query) = query else {
        let every_row = (tenant, words::kind_number(Kind::User), vec![words::EVERY_ROW.to_owned()]);
        return search::fetch_page_of_words(tx, list, "u.seq", page, every_row, map);
    };
    let search = Search::new(query, tenant, list_access);
    search::fetch_page(tx, list, "u.seq", page, &search, map)
}

pub(super) fn list_query(filter: &UserFilter, lookup: Lookup) -> ListQuery {
    let is_member = "EXISTS (SELECT 1 FROM memberships m WHERE m.organization_id = ? AND m.user_id = u.id)";
    let hint = lookup.hint();
    let email = filter.email.as_deref().map(unicode::fold_email);
    ListQuery::new(&format!("SELECT u.seq, {COLUMNS} FROM users u{hint} WHERE u.deleted_at IS NULL"))
        .and_condition(is_member, filter.organization_id.clone())
        .and_equal(&[
            ("u.email_key", email.as_deref()),
            ("u.external_id", filter.external_id.as_deref()),
            ("u.status", filter.status.map(|status| status.name())),
        ])
}

/// Fetches the names of users that aren't deleted; with `organization_id`, only of its members.
pub(crate) fn names(
    tx: &Tx<'_>,
    organization_id: Option<&str>,
    ids: &BTreeSet<&str>,
) -> Result<Vec<UserName>> {
    let (placeholders, mut values) = list::text_list(ids.iter().copied());
    let mut sql = format!(
        "SELECT u.id, u.name, u.email FROM users u WHERE u.deleted_at IS NULL AND u.id IN ({placeholders})"
    );
    if organization_id.is_some() {
        sql.push_str(
            " AND EXISTS (SELECT 1 FROM memberships m WHERE m.organization_id = ? AND m.user_id = u.id)",
        );
        values.push(organization_id.to_value());
    }
    tx.query_all(&sql, &values, |row| Ok(UserName { id: row.get(0)?, name: row.get(1)?, email: row.get(2)? }))
}
