//! Compares the table `words` with the rows that it is an index of.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;

use super::engine::{self, Row, Value, params};
use super::tx::Tx;
use super::word_changes::rows_of_block;
use super::words::{self, ALL_ROWS, Words};
use super::{api_keys, organizations, users};
use crate::error::Result;

/// Number of rows that are read at once.
const CHUNK_ROWS: usize = 1000;

/// Number and sum of hashes of the entries of the table, by the column `kind`. Two sets of entries with the same sums are
/// equal, so the sets needn't be in memory.
#[derive(Default)]
struct Sums(BTreeMap<i64, (u64, u64)>);

impl Sums {
    fn add(&mut self, tenant: i64, kind: i64, word: &str, seq: i64) {
        let hash = FixedState::default().hash_one((tenant, kind, word, seq));
        let (count, sum) = self.0.entry(kind).or_default();
        *count += 1;
        *sum = sum.wrapping_add(hash);
    }

    fn add_all(&mut self, tenants: impl IntoIterator<Item = i64>, words: &Words, seq: i64) {
        for tenant in tenants {
            words.iter().for_each(|(kind, word)| self.add(tenant, *kind, word, seq));
        }
    }
}

/// Describes each kind of row whose words in the table `words` differ from those of the rows.
pub(crate) fn find_wrong_words(tx: &Tx<'_>) -> Result<Vec<String>> {
    let expected = sum_expected(tx)?;
    let stored = sum_stored(tx)?;
    let kinds: BTreeSet<i64> = expected.0.keys().chain(stored.0.keys()).copied().collect();
    let faults = kinds.into_iter().filter_map(|kind| {
        let (expected_count, expected_hash) = expected.0.get(&kind).copied().unwrap_or_default();
        let (stored_count, stored_hash) = stored.0.get(&kind).copied().unwrap_or_default();
        let is_equal = (expected_count, expected_hash) == (stored_count, stored_hash);
        let kind = match kind {
            0 => "the API keys",
            1 => "the users",
            2 => "the organizations",
            words::EXPIRY => "the expiry of API keys",
            words::LAST_USE => "the last use of API keys",
            _ => "any rows",
        };
        (!is_equal).then(|| {
            format!(
                "the search index doesn't match {kind}: {stored_count} words are stored, {expected_count} expected"
            )
        })
    });
    Ok(faults.collect())
}

/// The sums of what should be stored.
fn sum_expected(tx: &Tx<'_>) -> Result<Sums> {
    let mut sums = Sums::default();
    let organizations = format!(
        "SELECT {} FROM organizations WHERE deleted_at IS NULL AND seq > ?1 ORDER BY seq LIMIT ?2",
        organizations::COLUMNS
    );
    each_row(tx, &organizations, |row, seq| {
        let organization = organizations::organization_from_row(row)?;
        sums.add_all([ALL_ROWS], &words::of(&organization), seq);
        Ok(())
    })?;
    let users = format!(
        "SELECT u.seq, {} FROM users u WHERE u.deleted_at IS NULL AND u.seq > ?1 ORDER BY u.seq LIMIT ?2",
        users::COLUMNS
    );
    each_row(tx, &users, |row, seq| {
        let user = users::user_from_row(row, 1)?;
        sums.add_all([ALL_ROWS], &words::of(&user), seq);
        Ok(())
    })?;
    let members = format!(
        "SELECT m.seq, o.seq, u.seq, {} FROM memberships m CROSS JOIN users u CROSS JOIN organizations o \
         WHERE u.id = m.user_id AND o.id = m.organization_id AND u.deleted_at IS NULL AND m.seq > ?1 \
         ORDER BY m.seq LIMIT ?2",
        users::COLUMNS
    );
    each_row(tx, &members, |row, _| {
        let user = users::user_from_row(row, 3)?;
        sums.add_all([row.get(1)?], &words::of_member(&user), row.get(2)?);
        Ok(())
    })?;
    let keys = format!(
        "SELECT {}, o.seq FROM api_keys k LEFT JOIN organizations o ON o.id = k.organization_id WHERE k.seq > ?1 \
         ORDER BY k.seq LIMIT ?2",
        api_keys::COLUMNS
    );
    each_row(tx, &keys, |row, seq| {
        let key = api_keys::api_key_from_row(row)?;
        let organization: Option<i64> = row.get(22)?;
        sums.add_all([ALL_ROWS].into_iter().chain(organization), &words::of_key(&key), seq);
        Ok(())
    })?;
    Ok(sums)
}

/// Runs a query for rows after a `seq`, which is their first column, until there are no more.
fn each_row(tx: &Tx<'_>, sql: &str, mut add: impl FnMut(&Row<'_>, i64) -> engine::Result<()>) -> Result<()> {
    let mut after = 0;
    loop {
        let rows = tx.query_all(sql, params![after, CHUNK_ROWS], |row| {
            let seq = row.get(0)?;
            add(row, seq)?;
            Ok(seq)
        })?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = *last;
    }
}

/// The sums of what is stored.
fn sum_stored(tx: &Tx<'_>) -> Result<Sums> {
    let sql = "SELECT tenant, kind, word, block, offsets FROM words \
               WHERE (tenant, kind, word, block) > (?1, ?2, ?3, ?4) \
               ORDER BY tenant, kind, word, block LIMIT ?5";
    let mut sums = Sums::default();
    let mut last = (i64::MIN, 0, String::new(), 0);
    loop {
        let (tenant, kind, word, block) = &last;
        let values: &[Value<'_>] = params![tenant, kind, word, block, CHUNK_ROWS];
        let blocks = tx.query_all(sql, values, |row| {
            let of: (i64, i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            let offsets: Vec<u8> = row.get(4)?;
            rows_of_block(of.3, &offsets).for_each(|seq| sums.add(of.0, of.1, &of.2, seq));
            Ok(of)
        })?;
        let Some(block) = blocks.into_iter().last() else { return Ok(sums) };
        last = block;
    }
}
