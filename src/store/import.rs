//! Statements that store records of another system unchanged: with their times and statuses, deleted records
//! as tombstones.

use super::engine::params;
use super::tx::Tx;
use super::{api_keys, organizations, rows, users};
use crate::domain::api_key::ApiKey;
use crate::domain::api_key::SecretHash;
use crate::domain::import::{ImportedSecretState, NewKey};
use crate::domain::invalidation::Invalidation;
use crate::domain::organization::Organization;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::Result;

/// Fetches an organization, deleted or not, with its time of deletion if it is deleted.
pub(crate) fn find_organization_or_tombstone(
    tx: &Tx<'_>,
    id: &str,
) -> Result<Option<(Organization, Option<Timestamp>)>> {
    let sql = format!("SELECT {}, deleted_at FROM organizations WHERE id = ?1", organizations::COLUMNS);
    tx.query_first(&sql, params![id], |row| {
        Ok((organizations::organization_from_row(row)?, rows::optional_timestamp_column(row, 11)?))
    })
}

/// Fetches a user, deleted or not, with its time of deletion if it is deleted.
pub(crate) fn find_user_or_tombstone(tx: &Tx<'_>, id: &str) -> Result<Option<(User, Option<Timestamp>)>> {
    let sql = format!("SELECT u.deleted_at, {} FROM users u WHERE u.id = ?1", users::COLUMNS);
    tx.query_first(&sql, params![id], |row| {
        Ok((users::user_from_row(row, 1)?, rows::optional_timestamp_column(row, 0)?))
    })
}

/// The id of the key that has, or had, the secret with this hash.
pub(crate) fn find_key_id_by_hash(tx: &Tx<'_>, hash: &SecretHash) -> Result<Option<String>> {
    let sql = "SELECT k.id FROM api_key_hashes h JOIN api_keys k ON k.seq = h.key_seq WHERE h.hash = ?1";
    tx.query_first(sql, params![hash], |row| row.get(0))
}

/// Stores a key with all its secrets. Returns `false` when the id or one of the secrets is already in use.
pub(crate) fn insert_key(tx: &Tx<'_>, new: &NewKey) -> Result<bool> {
    let NewKey { key, secrets } = new;
    let Some((current, _)) = secrets.iter().find(|(_, state)| *state == ImportedSecretState::Current) else {
        return Ok(false);
    };
    if !api_keys::insert(tx, key, current)? {
        return Ok(false);
    }
    for secret in secrets.iter().filter(|(_, state)| *state != ImportedSecretState::Current) {
        if !insert_secret(tx, &key.id, secret)? {
            return Ok(false);
        }
    }
    if key.revoked_at.is_some() || key.rotated_at.is_some() || key.previous_secret_expires_at.is_some() {
        api_keys::update(tx, key, key)?;
    }
    Ok(true)
}

fn insert_secret(tx: &Tx<'_>, id: &str, (hash, state): &(SecretHash, ImportedSecretState)) -> Result<bool> {
    let stored = tx.execute(
        "INSERT INTO api_key_hashes (hash, key_seq, state) SELECT ?2, seq, ?3 FROM api_keys WHERE id = ?1 \
         ON CONFLICT (hash) DO NOTHING",
        params![id, hash, state.name()],
    )?;
    tx.invalidate(Invalidation::Secret(*hash));
    Ok(stored == 1)
}

/// Replaces the secrets of a key. Its earlier secrets stay stored as retired. A hash that belongs to
/// another key stays with that key.
pub(crate) fn replace_secrets(
    tx: &Tx<'_>,
    key: &ApiKey,
    secrets: &[(SecretHash, ImportedSecretState)],
) -> Result<()> {
    tx.execute(
        "UPDATE api_key_hashes SET state = 'retired' WHERE key_seq = (SELECT seq FROM api_keys WHERE id = ?1)",
        params![key.id],
    )?;
    tx.execute("UPDATE api_keys SET previous_start = NULL WHERE id = ?1", params![key.id])?;
    for (hash, state) in secrets {
        insert_secret(tx, &key.id, &(*hash, *state))?;
        tx.execute(
            "UPDATE api_key_hashes SET state = ?3 WHERE hash = ?2 \
             AND key_seq = (SELECT seq FROM api_keys WHERE id = ?1)",
            params![key.id, hash, state.name()],
        )?;
    }
    Ok(())
}
