//! Statements on memberships.

use super::engine::{self, Row, params};
use super::list::ListQuery;
use super::tx::Tx;
use super::{rows, users, words};
use crate::domain::membership::{Membership, MembershipFilter, Role};
use crate::domain::page::{Page, Rows};
use crate::error::Result;

/// The columns of a membership; the table `memberships` has the alias `m`.
pub(super) const COLUMNS: &str =
    "m.seq, m.organization_id, m.user_id, m.role, m.created_at, m.updated_at, m.revision";

fn select_statement() -> String {
    format!(
        "SELECT {COLUMNS}, {} \
         FROM memberships m JOIN users u ON u.id = m.user_id WHERE u.deleted_at IS NULL",
        users::COLUMNS
    )
}

fn membership_from_row(row: &Row<'_>) -> engine::Result<Membership> {
    Ok(Membership {
        organization_id: row.get(1)?,
        user_id: row.get(2)?,
        role: rows::enum_column(row, 3)?,
        created_at: rows::timestamp_column(row, 4)?,
        updated_at: rows::timestamp_column(row, 5)?,
        revision: row.get(6)?,
        user: users::user_from_row(row, 7)?,
    })
}

/// Stores a new membership. Returns `false` when the user is already a member.
pub(crate) fn insert(tx: &Tx<'_>, new: &Membership) -> Result<bool> {
    let stored = tx.query_first(
        "INSERT INTO memberships (organization_id, user_id, role, created_at, updated_at, revision) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (organization_id, user_id) DO NOTHING \
         RETURNING (SELECT seq FROM organizations WHERE id = ?1), (SELECT seq FROM users WHERE id = ?2)",
        params![
            new.organization_id,
            new.user_id,
            new.role.name(),
            new.created_at.as_millis(),
            new.updated_at.as_millis(),
            new.revision,
        ],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some((organization, user)) = stored else { return Ok(false) };
    words::insert(tx, &[organization], user, words::of_member(&new.user));
    Ok(true)
}

/// Fetches a user's membership in an organization.
pub(crate) fn get(tx: &Tx<'_>, organization_id: &str, user_id: &str) -> Result<Option<Membership>> {
    let sql = format!("{} AND m.organization_id = ?1 AND m.user_id = ?2", select_statement());
    tx.query_first(&sql, params![organization_id, user_id], membership_from_row)
}

/// Stores the changed role, time of update and revision of a membership.
pub(crate) fn update(tx: &Tx<'_>, changed: &Membership) -> Result<()> {
    tx.execute(
        "UPDATE memberships SET role = ?3, updated_at = ?4, revision = ?5 \
         WHERE organization_id = ?1 AND user_id = ?2",
        params![
            changed.organization_id,
            changed.user_id,
            changed.role.name(),
            changed.updated_at.as_millis(),
            changed.revision,
        ],
    )?;
    Ok(())
}

pub(crate) fn delete(tx: &Tx<'_>, organization_id: &str, user_id: &str) -> Result<()> {
    let sql = "DELETE FROM memberships WHERE organization_id = ?1 AND user_id = ?2 \
               RETURNING (SELECT seq FROM organizations WHERE id = ?1)";
    let organization = tx.query_first(sql, params![organization_id, user_id], |row| row.get(0))?;
    delete_words(tx, user_id, organization.as_slice())
}

/// Deletes all memberships of an organization.
pub(crate) fn delete_all_of_organization(tx: &Tx<'_>, organization_id: &str) -> Result<()> {
    tx.execute("DELETE FROM memberships WHERE organization_id = ?1", params![organization_id])?;
    words::delete_users_of_organization(tx, organization_id)
}

/// Deletes all memberships of a user.
pub(crate) fn delete_all_of_user(tx: &Tx<'_>, user_id: &str) -> Result<()> {
    let sql = "DELETE FROM memberships WHERE user_id = ?1 \
               RETURNING (SELECT o.seq FROM organizations o WHERE o.id = organization_id)";
    let organizations: Vec<i64> = tx.query_all(sql, params![user_id], |row| row.get(0))?;
    delete_words(tx, user_id, &organizations)
}

/// Deletes the words of a user under the organizations, by `seq`, of which the user is no longer a member.
fn delete_words(tx: &Tx<'_>, user_id: &str, organizations: &[i64]) -> Result<()> {
    if organizations.is_empty() {
        return Ok(());
    }
    let sql = "SELECT seq FROM users WHERE id = ?1";
    let seq = tx.query_first(sql, params![user_id], |row| row.get(0))?;
    let Some((user, seq)) = users::get(tx, user_id)?.zip(seq) else { return Ok(()) };
    words::delete(tx, organizations, seq, words::of_member(&user));
    Ok(())
}

/// True if the organization has an owner other than this user.
pub(crate) fn has_other_owner(tx: &Tx<'_>, organization_id: &str, user_id: &str) -> Result<bool> {
    let sql =
        "SELECT 1 FROM memberships WHERE organization_id = ?1 AND user_id <> ?2 AND role = 'owner' LIMIT 1";
    Ok(tx.query_first(sql, params![organization_id, user_id], |_| Ok(()))?.is_some())
}

/// The organizations a user belongs to, with the user's role in each.
pub(crate) fn organizations_and_roles_of_user(tx: &Tx<'_>, user_id: &str) -> Result<Vec<(String, Role)>> {
    let sql = "SELECT organization_id, role FROM memberships WHERE user_id = ?1 ORDER BY seq";
    tx.query_all(sql, params![user_id], |row| Ok((row.get(0)?, rows::enum_column(row, 1)?)))
}

/// Fetches a page of memberships, each with its user.
pub(crate) fn list(tx: &Tx<'_>, filter: &MembershipFilter, page: &Page) -> Result<Rows<Membership>> {
    ListQuery::new(&select_statement())
        .and_condition("m.organization_id = ?", filter.organization_id.clone())
        .and_condition("m.user_id = ?", filter.user_id.clone())
        .and_condition("m.role = ?", filter.role.map(|role| role.name().to_owned()))
        .fetch_page(tx, "m.seq", page, membership_from_row)
}
