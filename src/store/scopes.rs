//! Statements on the catalogue of scopes.

use super::engine::{self, Row, params};
use super::list::ListQuery;
use super::tx::Tx;
use crate::domain::page::{Page, Rows};
use crate::domain::scope::{Catalogue, Scope};
use crate::domain::time::Timestamp;
use crate::error::Result;

const SELECT: &str = "SELECT seq, scope, description, built_in FROM scopes WHERE 1 = 1";

fn scope_from_row(row: &Row<'_>) -> engine::Result<Scope> {
    Ok(Scope { scope: row.get(1)?, description: row.get(2)?, built_in: row.get(3)? })
}

/// Fetches the names of all scopes.
pub(crate) fn load_catalogue(tx: &Tx<'_>) -> Result<Catalogue> {
    Ok(tx.query_all("SELECT scope FROM scopes", &[], |row| row.get(0))?.into_iter().collect())
}

/// True if `grant` is `*`, an existing scope, or the wildcard of a resource that has at least one scope.
pub(crate) fn is_known_grant(tx: &Tx<'_>, grant: &str) -> Result<bool> {
    let Some(resource) = grant.strip_suffix(":*") else {
        return Ok(grant == "*" || get(tx, grant)?.is_some());
    };
    // `;` is the character after `:`, so that the index finds the resource's first scope.
    let sql = "SELECT 1 FROM scopes WHERE scope > ?1 || ':' AND scope < ?1 || ';' LIMIT 1";
    Ok(tx.query_first(sql, params![resource], |_| Ok(()))?.is_some())
}

/// Stores a new scope. Returns `false` when the catalogue already has a scope of this name.
pub(crate) fn insert(tx: &Tx<'_>, new: &Scope, now: Timestamp) -> Result<bool> {
    let stored = tx.execute(
        "INSERT INTO scopes (scope, description, built_in, created_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (scope) DO NOTHING",
        params![new.scope, new.description, new.built_in, now.as_millis()],
    )?;
    Ok(stored == 1)
}

pub(crate) fn get(tx: &Tx<'_>, name: &str) -> Result<Option<Scope>> {
    tx.query_first(&format!("{SELECT} AND scope = ?1"), params![name], scope_from_row)
}

pub(crate) fn delete(tx: &Tx<'_>, name: &str) -> Result<()> {
    tx.execute("DELETE FROM scopes WHERE scope = ?1", params![name])?;
    Ok(())
}

/// True if any key that isn't revoked has exactly this scope or scope pattern.
pub(crate) fn is_scope_in_use(tx: &Tx<'_>, grant: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM api_key_scopes s JOIN api_keys k ON k.seq = s.key_seq \
               WHERE s.scope = ?1 AND k.status <> 'revoked' LIMIT 1";
    Ok(tx.query_first(sql, params![grant], |_| Ok(()))?.is_some())
}

/// Fetches a page of the catalogue of scopes.
pub(crate) fn list(tx: &Tx<'_>, page: &Page) -> Result<Rows<Scope>> {
    ListQuery::new(SELECT).fetch_page(tx, "seq", page, scope_from_row)
}
