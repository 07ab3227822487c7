//! The table `words`, an index for searches. The functions that store, change and delete a row keep its words in the same
//! transaction.

use std::collections::BTreeSet;

use super::engine::{ToValue, Value, params};
use super::tx::Tx;
use crate::domain::api_key::{ApiKey, buckets_of_expiry, buckets_of_last_use};
use crate::domain::id::Kind;
use crate::domain::search::Searchable;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// The tenant under which all rows are, for platform keys.
pub(super) const ALL_ROWS: i64 = 0;
/// The tenant of an organization that doesn't exist, which has no rows.
const NO_ROWS: i64 = -1;

/// The numbers in the column `kind` of the buckets of API keys' `expires_at` and `last_used_at`.
pub(super) const EXPIRY: i64 = 3;
pub(super) const LAST_USE: i64 = 4;

/// The numbers of rows that one statement inserts, largest first.
const ROWS_PER_STATEMENT: [usize; 3] = [8, 3, 1];

/// Words of a row, each with the number in the column `kind`.
pub(super) type Words = BTreeSet<(i64, String)>;

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

/// Stores the words of a new row.
pub(super) fn insert(tx: &Tx<'_>, tenants: &[i64], seq: i64, words: &Words) -> Result<()> {
    insert_each(tx, tenants, seq, words.iter())
}

/// Stores and deletes words of a row that changed.
pub(super) fn replace(tx: &Tx<'_>, tenants: &[i64], seq: i64, before: &Words, after: &Words) -> Result<()> {
    delete_each(tx, tenants, seq, before.difference(after))?;
    insert_each(tx, tenants, seq, after.difference(before))
}

/// Deletes the words of a row.
pub(super) fn delete(tx: &Tx<'_>, tenants: &[i64], seq: i64, words: &Words) -> Result<()> {
    delete_each(tx, tenants, seq, words.iter())
}

/// Deletes the words of all users under the tenant of an organization.
pub(super) fn delete_users_of_organization(tx: &Tx<'_>, organization_id: &str) -> Result<()> {
    let tenant = tenant(tx, Some(organization_id))?;
    let sql = "DELETE FROM words WHERE tenant = ?1 AND kind = ?2";
    tx.execute(sql, params![tenant, kind_number(Kind::User)])?;
    Ok(())
}

fn insert_each<'w>(
    tx: &Tx<'_>,
    tenants: &[i64],
    seq: i64,
    words: impl Iterator<Item = &'w (i64, String)> + Clone,
) -> Result<()> {
    let rows = tenants.iter().flat_map(|tenant| words.clone().map(move |(kind, word)| (tenant, kind, word)));
    let rows: Vec<_> = rows.collect();
    let mut rest = rows.as_slice();
    while let Some(count) = ROWS_PER_STATEMENT.into_iter().find(|count| *count <= rest.len()) {
        let (stored, later) = rest.split_at(count);
        let values: Vec<Value<'_>> = stored
            .iter()
            .flat_map(|(tenant, kind, word)| {
                [tenant.to_value(), kind.to_value(), word.to_value(), seq.into()]
            })
            .collect();
        let placeholders = vec!["(?, ?, ?, ?)"; count].join(", ");
        // A word that is there already is no reason to refuse the change.
        let sql = format!(
            "INSERT INTO words (tenant, kind, word, seq) VALUES {placeholders} ON CONFLICT DO NOTHING"
        );
        tx.execute(&sql, &values)?;
        rest = later;
    }
    Ok(())
}

fn delete_each<'w>(
    tx: &Tx<'_>,
    tenants: &[i64],
    seq: i64,
    words: impl Iterator<Item = &'w (i64, String)> + Clone,
) -> Result<()> {
    let sql = "DELETE FROM words WHERE tenant = ?1 AND kind = ?2 AND word = ?3 AND seq = ?4";
    for tenant in tenants {
        for (kind, word) in words.clone() {
            tx.execute(sql, params![tenant, kind, word, seq])?;
        }
    }
    Ok(())
}
