//! The table `words`, an index for searches. The functions that store, change and delete a row change its words in the same
//! transaction. The changes are collected in [`TxState`](super::tx_state::TxState), because those of a whole group are
//! stored faster at once: before the commit, or before a search in the same transaction.

use super::engine::{ToValue, Value, params};
use super::tx::Tx;
pub(super) use super::word_changes::Words;
use super::word_changes::{BlockChange, CombinedChanges};
use crate::domain::api_key::{ApiKey, buckets_of_expiry, buckets_of_last_use};
use crate::domain::id::Kind;
use crate::domain::search::Searchable;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::Result;

/// The tenant under which all rows are, for platform keys.
pub(super) const ALL_ROWS: i64 = 0;
/// The tenant of an organization that doesn't exist, which has no rows.
const NO_ROWS: i64 = -1;

/// The word that all members of an organization have.
pub(super) const EVERY_ROW: &str = "";

/// The numbers in the column `kind` of the buckets of API keys' `expires_at` and `last_used_at`.
pub(super) const EXPIRY: i64 = 3;
pub(super) const LAST_USE: i64 = 4;

/// The numbers of blocks that one statement stores, largest first.
const BLOCKS_PER_STATEMENT: [usize; 4] = [64, 16, 4, 1];

/// The number of a kind of row in the column `kind`. Keys have 0, which takes no space, because there are the most.
pub(super) fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::User => 1,
        Kind::Organization => 2,
        _ => 0,
    }
}

/// The words by which a row is found.
pub(super) fn of<T: Searchable>(row: &T) -> Words {
    let kind = kind_number(T::KIND);
    row.words().to_stored().into_iter().map(|word| (kind, word.to_owned())).collect()
}

/// The words by which a user is found under the tenant of an organization. The empty one, [`EVERY_ROW`], finds all members
/// in the order of the list.
pub(super) fn of_member(user: &User) -> Words {
    let mut words = of(user);
    words.insert((kind_number(Kind::User), EVERY_ROW.to_owned()));
    words
}

/// The words by which a key is found, and the buckets of its times.
pub(super) fn of_key(key: &ApiKey) -> Words {
    let mut words = of(key);
    words.extend(buckets_of_expiry(key.expires_at).into_iter().map(|bucket| (EXPIRY, bucket)));
    words.extend(of_last_use(key.last_used_at));
    words
}

/// The buckets of a key's `last_used_at`.
pub(super) fn of_last_use(last_used_at: Option<Timestamp>) -> Words {
    buckets_of_last_use(last_used_at).into_iter().map(|bucket| (LAST_USE, bucket)).collect()
}

/// The tenant of an organization, or of all rows.
pub(super) fn tenant(tx: &Tx<'_>, organization_id: Option<&str>) -> Result<i64> {
    let Some(organization_id) = organization_id else { return Ok(ALL_ROWS) };
    let sql = "SELECT seq FROM organizations WHERE id = ?1";
    Ok(tx.query_first(sql, params![organization_id], |row| row.get(0))?.unwrap_or(NO_ROWS))
}

/// The tenants of a row that belongs to the organization, or to none.
pub(super) fn tenants(tx: &Tx<'_>, organization_id: Option<&str>) -> Result<Vec<i64>> {
    let own = organization_id.map(|_| tenant(tx, organization_id)).transpose()?;
    Ok([ALL_ROWS].into_iter().chain(own).collect())
}

/// Adds the words of a new row. They are stored with the transaction.
pub(super) fn insert(tx: &Tx<'_>, tenants: &[i64], seq: i64, words: Words) {
    tx.state.word_changes.borrow_mut().add(tenants.to_vec(), seq, words);
}

/// Adds and removes words of a row that changed.
pub(super) fn replace(tx: &Tx<'_>, tenants: &[i64], seq: i64, before: &Words, after: &Words) {
    let removed: Words = before.difference(after).cloned().collect();
    let added: Words = after.difference(before).cloned().collect();
    let mut changes = tx.state.word_changes.borrow_mut();
    changes.remove(tenants.to_vec(), seq, removed);
    changes.add(tenants.to_vec(), seq, added);
}

/// Removes the words of a row that was deleted.
pub(super) fn delete(tx: &Tx<'_>, tenants: &[i64], seq: i64, words: Words) {
    tx.state.word_changes.borrow_mut().remove(tenants.to_vec(), seq, words);
}

/// Removes the words of all users under the tenant of an organization.
pub(super) fn delete_users_of_organization(tx: &Tx<'_>, organization_id: &str) -> Result<()> {
    let tenant = tenant(tx, Some(organization_id))?;
    tx.state.word_changes.borrow_mut().remove_kind(tenant, kind_number(Kind::User));
    Ok(())
}

/// Stores the collected changes.
pub(super) fn store_changes(tx: &Tx<'_>) -> Result<()> {
    let changes = tx.state.word_changes.borrow();
    if changes.are_stored() {
        return Ok(());
    }
    let CombinedChanges { removed_kinds, blocks } = changes.combine();
    for (tenant, kind) in removed_kinds {
        tx.execute("DELETE FROM words WHERE tenant = ?1 AND kind = ?2", params![tenant, kind])?;
    }
    let (shrinking, growing): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|change| !change.removed.is_empty());
    for change in &shrinking {
        store_block(tx, change)?;
    }
    add_rows(tx, &growing)?;
    drop(changes);
    tx.state.word_changes.borrow_mut().set_stored();
    Ok(())
}

/// Stores a block of which rows are removed.
fn store_block(tx: &Tx<'_>, change: &BlockChange<'_>) -> Result<()> {
    let BlockChange { tenant, kind, word, block, .. } = change;
    let sql = "SELECT offsets FROM words WHERE tenant = ?1 AND kind = ?2 AND word = ?3 AND block = ?4";
    let stored: Option<Vec<u8>> =
        tx.query_first(sql, params![tenant, kind, word, block], |row| row.get(0))?;
    let offsets = change.apply_to(&stored.unwrap_or_default());
    if offsets.is_empty() {
        let sql = "DELETE FROM words WHERE tenant = ?1 AND kind = ?2 AND word = ?3 AND block = ?4";
        return tx.execute(sql, params![tenant, kind, word, block]).map(drop);
    }
    let sql = "INSERT INTO words (tenant, kind, word, block, offsets) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT (tenant, kind, word, block) DO UPDATE SET offsets = excluded.offsets";
    tx.execute(sql, params![tenant, kind, word, block, offsets]).map(drop)
}

/// Adds rows to blocks, many blocks at once. SQLite's `||` makes a text even of two blobs.
fn add_rows(tx: &Tx<'_>, mut changes: &[BlockChange<'_>]) -> Result<()> {
    while let Some(count) = BLOCKS_PER_STATEMENT.into_iter().find(|count| *count <= changes.len()) {
        let (stored, later) = changes.split_at(count);
        let values: Vec<Value<'_>> = stored
            .iter()
            .flat_map(|BlockChange { tenant, kind, word, block, added, .. }| {
                [tenant.to_value(), kind.to_value(), word.to_value(), block.to_value(), added.to_value()]
            })
            .collect();
        let placeholders = vec!["(?, ?, ?, ?, ?)"; count].join(", ");
        let sql = format!(
            "INSERT INTO words (tenant, kind, word, block, offsets) VALUES {placeholders} \
             ON CONFLICT (tenant, kind, word, block) \
             DO UPDATE SET offsets = CAST(words.offsets || excluded.offsets AS BLOB)"
        );
        tx.execute(&sql, &values)?;
        changes = later;
    }
    Ok(())
}
