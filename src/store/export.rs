//! Statements that read all rows, tombstones included, page by page in the order of `seq`.

use super::engine::{self, Row, params};
use super::tx::Tx;
use super::{api_keys, memberships, organizations, rows, users};
use crate::domain::api_key::ApiKey;
use crate::domain::api_key::SecretHash;
use crate::domain::import::{ImportedSecretState, NewMembership, NewScope};
use crate::domain::organization::Organization;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::Result;

/// An API key with the hashes of all its secrets.
pub(crate) type KeyWithSecrets = (ApiKey, Vec<(SecretHash, ImportedSecretState)>);

/// One page of an export: records, each with the `seq` of its row.
pub(crate) type ExportPage<T> = Vec<(i64, T)>;

fn rows_after<T>(
    tx: &Tx<'_>,
    select: &str,
    seq: &str,
    after: i64,
    max: usize,
    mut map: impl FnMut(&Row<'_>) -> engine::Result<T>,
) -> Result<ExportPage<T>> {
    let sql = format!("{select} WHERE {seq} > ?1 ORDER BY {seq} LIMIT ?2");
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    tx.query_all(&sql, params![after, max], |row| Ok((row.get(0)?, map(row)?)))
}

/// Fetches a page of organizations, each with its time of deletion if it is deleted.
pub(crate) fn organizations_page(
    tx: &Tx<'_>,
    after: i64,
    max: usize,
) -> Result<ExportPage<(Organization, Option<Timestamp>)>> {
    let select = format!("SELECT {}, deleted_at FROM organizations", organizations::COLUMNS);
    rows_after(tx, &select, "seq", after, max, |row| {
        Ok((organizations::organization_from_row(row)?, rows::optional_timestamp_column(row, 11)?))
    })
}

/// Fetches a page of users, each with its time of deletion if it is deleted.
pub(crate) fn users_page(
    tx: &Tx<'_>,
    after: i64,
    max: usize,
) -> Result<ExportPage<(User, Option<Timestamp>)>> {
    let select = format!("SELECT u.seq, u.deleted_at, {} FROM users u", users::COLUMNS);
    rows_after(tx, &select, "u.seq", after, max, |row| {
        Ok((users::user_from_row(row, 2)?, rows::optional_timestamp_column(row, 1)?))
    })
}

pub(crate) fn memberships_page(tx: &Tx<'_>, after: i64, max: usize) -> Result<ExportPage<NewMembership>> {
    let select = format!("SELECT {} FROM memberships m", memberships::COLUMNS);
    rows_after(tx, &select, "m.seq", after, max, |row| {
        Ok(NewMembership {
            organization_id: row.get(1)?,
            user_id: row.get(2)?,
            role: rows::enum_column(row, 3)?,
            created_at: rows::timestamp_column(row, 4)?,
            updated_at: rows::timestamp_column(row, 5)?,
            revision: row.get(6)?,
        })
    })
}

/// Fetches a page of the scopes that are not built in.
pub(crate) fn scopes_page(tx: &Tx<'_>, after: i64, max: usize) -> Result<ExportPage<NewScope>> {
    let select = "SELECT seq, scope, description, created_at FROM \
                  (SELECT * FROM scopes WHERE built_in = 0)";
    rows_after(tx, select, "seq", after, max, |row| {
        Ok(NewScope {
            scope: row.get(1)?,
            description: row.get(2)?,
            created_at: rows::timestamp_column(row, 3)?,
        })
    })
}

/// Fetches a page of keys, whatever their status, each with the hashes of all its secrets.
pub(crate) fn api_keys_page(tx: &Tx<'_>, after: i64, max: usize) -> Result<ExportPage<KeyWithSecrets>> {
    let select = format!("SELECT {} FROM api_keys k", api_keys::COLUMNS);
    let keys = rows_after(tx, &select, "k.seq", after, max, api_keys::api_key_from_row)?;
    keys.into_iter().map(|(seq, key)| Ok((seq, (key, secrets_of_key(tx, seq)?)))).collect()
}

/// The hashes of a key's secrets: the current one first, then the previous, then the retired ones.
pub(crate) fn secrets_of_key(tx: &Tx<'_>, key_seq: i64) -> Result<Vec<(SecretHash, ImportedSecretState)>> {
    tx.query_all(
        "SELECT hash, state FROM api_key_hashes WHERE key_seq = ?1 ORDER BY state, hash",
        params![key_seq],
        |row| Ok((row.get(0)?, rows::enum_column(row, 1)?)),
    )
}
