//! Statements on users.

use super::engine::{self, Row, params};
use super::list::ListQuery;
use super::rows;
use super::tx::Tx;
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
    tx.execute(
        "INSERT INTO users (id, email, email_key, name, name_key, external_id, status, metadata, created_at, \
         updated_at, deleted_at, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            new.id,
            new.email,
            unicode::fold_email(&new.email),
            new.name,
            unicode::fold(&new.name),
            new.external_id,
            new.status.name(),
            rows::to_json(&new.metadata)?,
            new.created_at.as_millis(),
            new.updated_at.as_millis(),
            deleted_at.map(Timestamp::as_millis),
            new.revision,
        ],
    )?;
    Ok(())
}

/// Fetches a user; `None` when the user doesn't exist or is deleted.
pub fn get(tx: &Tx<'_>, id: &str) -> Result<Option<User>> {
    let sql = format!("SELECT {COLUMNS} FROM users u WHERE u.id = ?1 AND u.deleted_at IS NULL");
    tx.query_first(&sql, params![id], |row| user_from_row(row, 0))
}

/// Stores all mutable fields of a user.
pub(crate) fn update(tx: &Tx<'_>, changed: &User) -> Result<()> {
    tx.execute(
        "UPDATE users SET email = ?2, email_key = ?3, name = ?4, name_key = ?5, external_id = ?6, status = ?7, \
         metadata = ?8, updated_at = ?9, revision = ?10 WHERE id = ?1",
        params![
            changed.id,
            changed.email,
            unicode::fold_email(&changed.email),
            changed.name,
            unicode::fold(&changed.name),
            changed.external_id,
            changed.status.name(),
            rows::to_json(&changed.metadata)?,
            changed.updated_at.as_millis(),
            changed.revision,
        ],
    )?;
    Ok(())
}

/// Deletes a user by marking the row as deleted. The row stays as a tombstone; the email address can be used
/// again.
pub(crate) fn delete(tx: &Tx<'_>, id: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE users SET deleted_at = ?2, revision = revision + 1 WHERE id = ?1",
        params![id, now.as_millis()],
    )?;
    Ok(())
}

/// Fetches a page of users that aren't deleted.
pub(crate) fn list(tx: &Tx<'_>, filter: &UserFilter, page: &Page) -> Result<Rows<User>> {
    ListQuery::new(&format!("SELECT u.seq, {COLUMNS} FROM users u WHERE u.deleted_at IS NULL"))
        .and_condition(
            "u.id IN (SELECT user_id FROM memberships WHERE organization_id = ?)",
            filter.organization_id.clone(),
        )
        .and_condition("u.status = ?", filter.status.map(|status| status.name().to_owned()))
        .and_condition("u.email_key = ?", filter.email.as_deref().map(unicode::fold_email))
        .and_condition("u.external_id = ?", filter.external_id.clone())
        .and_name_or_email_prefix("u.name_key", "u.email_key", filter.q.as_deref())
        .fetch_page(tx, "u.seq", page, |row| user_from_row(row, 1))
}
