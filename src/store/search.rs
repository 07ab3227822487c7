//! Pages of lists in which each row matches a query by words.
//!
//! The table `words` has the rows of each word in the order of the list, up to 256 in a row of the table. The rows of a beginning of words are merged from
//! those of the words that begin with it. The work for a page is bounded: where few of many rows match, a page may have
//! fewer rows than requested, and its cursor continues the search.

use std::collections::BTreeSet;

use super::engine::{self, Row, params};
use super::list::ListQuery;
use super::tx::Tx;
use super::word_changes::{MAX_ROWS_PER_BLOCK, block_of, rows_of_block};
use super::words;
use crate::domain::page::{Order, Page, Rows};
use crate::domain::search::{SearchQuery, Searchable};
use crate::error::Result;

/// Maximum number of rows that are read for a page. The search then ends, although the page may not be full.
const MAX_READ_ROWS: usize = 2000;
/// Number of rows that are read at once, after those of the first page of candidates didn't suffice.
const BATCH_ROWS: usize = 200;
/// Maximum number of words whose rows are merged.
const MAX_MERGED_WORDS: usize = 32;
/// Maximum number of rows of a beginning of words that are sorted, if more words begin with it and the list can be read in
/// its order instead.
const MAX_SORTED_ROWS: usize = 20_000;
/// Maximum number of rows that are counted to compare words whose rows can be merged.
const MAX_COUNTED_ROWS: usize = 1000;

/// A condition of words on the rows of a list.
pub(super) struct Search<'q> {
    query: &'q SearchQuery,
    /// Whose rows are searched, as in the column `tenant`.
    tenant: i64,
    list_access: ListAccess,
    max_sorted_rows: usize,
}

impl<'q> Search<'q> {
    pub(super) fn new(query: &'q SearchQuery, tenant: i64, list_access: ListAccess) -> Self {
        Self { query, tenant, list_access, max_sorted_rows: MAX_SORTED_ROWS }
    }
}

/// How the list can be read without `words`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ListAccess {
    /// Its other conditions leave few rows.
    FewRows,
    /// Through an index, in its order.
    InOrder,
    /// Only together with rows that the caller doesn't see. All rows have the word [`words::EVERY_ROW`].
    NotInOrder,
}

/// Where the rows of a list are looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// By the conditions of the list.
    ByConditions,
    /// By `seq`, which other conditions must not replace: they may leave many rows.
    BySeq,
}

impl Lookup {
    /// What follows the name of the table in the query.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Lookup::ByConditions => "",
            Lookup::BySeq => " NOT INDEXED",
        }
    }
}

/// Where the rows of a page come from, in the order of the list.
enum Source {
    /// The rows of these words of this kind, under a tenant.
    Words { tenant: i64, kind: i64, words: Vec<String> },
    /// The rows with these `seq`, in ascending order.
    Rows(Vec<i64>),
    /// All rows of the list.
    List,
}

/// Fetches a page of the rows of `list` that match the query, which has words. `seq` is the qualified name of the column
/// `seq`. Changes that this transaction has made are found, too.
pub(super) fn fetch_page<T: Searchable>(
    tx: &Tx<'_>,
    list: impl Fn(Lookup) -> ListQuery,
    seq: &str,
    page: &Page,
    search: &Search<'_>,
    map: impl FnMut(&Row<'_>) -> engine::Result<T>,
) -> Result<Rows<T>> {
    words::store_changes(tx)?;
    let source = find_source::<T>(tx, search)?;
    let lookup = if matches!(source, Source::List) { Lookup::ByConditions } else { Lookup::BySeq };
    let matches = |row: &T| row.words().match_query(search.query);
    fetch_checked(tx, &list(lookup), seq, page, &source, map, matches)
}

/// Fetches a page of the rows of `list` that have one of the words of this kind.
pub(super) fn fetch_page_of_words<T>(
    tx: &Tx<'_>,
    list: impl Fn(Lookup) -> ListQuery,
    seq: &str,
    page: &Page,
    (tenant, kind, words): (i64, i64, Vec<String>),
    map: impl FnMut(&Row<'_>) -> engine::Result<T>,
) -> Result<Rows<T>> {
    words::store_changes(tx)?;
    let source = Source::Words { tenant, kind, words };
    fetch_checked(tx, &list(Lookup::BySeq), seq, page, &source, map, |_| true)
}

/// Chooses the source with the fewest rows that contains all matches.
fn find_source<T: Searchable>(tx: &Tx<'_>, search: &Search<'_>) -> Result<Source> {
    let tenant = search.tenant;
    let kind = words::kind_number(T::KIND);
    if search.list_access == ListAccess::FewRows {
        return Ok(Source::List);
    }
    let prefixes: Vec<&str> = search.query.stored_prefixes().collect();
    let mut fewest: Option<(usize, &str, Vec<String>)> = None;
    for &prefix in &prefixes {
        let words = words_with_prefix(tx, tenant, kind, prefix)?;
        let size = match words.len() > MAX_MERGED_WORDS {
            true => count_rows(tx, tenant, kind, prefix, search.max_sorted_rows)?,
            // The number of rows of the only source doesn't matter if they can be merged.
            false if prefixes.len() == 1 => 0,
            false => count_rows(tx, tenant, kind, prefix, MAX_COUNTED_ROWS)?,
        };
        let is_better = |(fewest, _, other): &(usize, &str, Vec<String>)| {
            // Of large sources, the one with fewer words to merge.
            (size, words.len()) < (*fewest, other.len())
        };
        if fewest.as_ref().is_none_or(is_better) {
            fewest = Some((size, prefix, words));
        }
    }
    Ok(match fewest {
        Some((_, _, words)) if words.len() <= MAX_MERGED_WORDS => Source::Words { tenant, kind, words },
        Some((size, prefix, _)) if size <= search.max_sorted_rows => {
            Source::Rows(rows_with_prefix(tx, tenant, kind, prefix)?)
        }
        _ if search.list_access == ListAccess::NotInOrder => {
            Source::Words { tenant, kind, words: vec![words::EVERY_ROW.to_owned()] }
        }
        _ => Source::List,
    })
}

/// The end of the range of words that begin with `prefix`.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

/// The words that begin with `prefix`, at most one more than [`MAX_MERGED_WORDS`]. Each is found with one lookup, however
/// many rows it has.
fn words_with_prefix(tx: &Tx<'_>, tenant: i64, kind: i64, prefix: &str) -> Result<Vec<String>> {
    let first = "SELECT word FROM words WHERE tenant = ?1 AND kind = ?2 AND word >= ?3 AND word < ?4 \
                 ORDER BY word LIMIT 1";
    let next = "SELECT word FROM words WHERE tenant = ?1 AND kind = ?2 AND word > ?3 AND word < ?4 \
                ORDER BY word LIMIT 1";
    let end = end_of(prefix);
    let mut words: Vec<String> = Vec::new();
    while words.len() <= MAX_MERGED_WORDS {
        let (sql, from) = words.last().map_or((first, prefix), |last| (next, last.as_str()));
        let Some(word) = tx.query_first(sql, params![tenant, kind, from, end], |row| row.get(0))? else {
            break;
        };
        words.push(word);
    }
    Ok(words)
}

/// The number of rows of the words that begin with `prefix`, at most one more than `max`. A row counts once for each of its
/// words.
fn count_rows(tx: &Tx<'_>, tenant: i64, kind: i64, prefix: &str, max: usize) -> Result<usize> {
    let sql = "SELECT count(*), coalesce(sum(length(offsets)), 0) FROM \
               (SELECT offsets FROM words WHERE tenant = ?1 AND kind = ?2 AND word >= ?3 AND word < ?4 LIMIT ?5) AS found";
    let end = end_of(prefix);
    // Few blocks if they are full, otherwise as many as have enough rows: at least one each.
    let mut limit = max / MAX_ROWS_PER_BLOCK + 1;
    loop {
        let values = params![tenant, kind, prefix, end, limit];
        let counts = tx.query_first(sql, values, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (blocks, rows): (usize, usize) = counts.unwrap_or_default();
        if rows > max || blocks < limit || limit > max {
            return Ok(rows.min(max + 1));
        }
        limit = max + 1;
    }
}

/// The rows of the words that begin with `prefix`, each once, in ascending order.
fn rows_with_prefix(tx: &Tx<'_>, tenant: i64, kind: i64, prefix: &str) -> Result<Vec<i64>> {
    let sql = "SELECT block, offsets FROM words WHERE tenant = ?1 AND kind = ?2 AND word >= ?3 AND word < ?4";
    let end = end_of(prefix);
    let mut rows: Vec<i64> = Vec::new();
    tx.query_all(sql, params![tenant, kind, prefix, end], |row| {
        let offsets: Vec<u8> = row.get(1)?;
        rows.extend(rows_of_block(row.get(0)?, &offsets));
        Ok(())
    })?;
    rows.sort_unstable();
    rows.dedup();
    Ok(rows)
}

impl Source {
    /// The next rows, in the order of the list; `None` if the source is the list itself.
    fn next_rows(&self, tx: &Tx<'_>, page: &Page) -> Result<Option<Vec<i64>>> {
        let rows = match self {
            Source::List => return Ok(None),
            Source::Rows(rows) => {
                let is_after = |seq: &i64| match (page.order, page.after) {
                    (_, None) => true,
                    (Order::Desc, Some(after)) => *seq < after,
                    (Order::Asc, Some(after)) => *seq > after,
                };
                let rows = rows.iter().copied().filter(is_after);
                match page.order {
                    Order::Desc => rows.rev().take(page.limit).collect(),
                    Order::Asc => rows.take(page.limit).collect(),
                }
            }
            Source::Words { tenant, kind, words } => merge_rows(tx, *tenant, *kind, words, page)?,
        };
        Ok(Some(rows))
    }
}

/// The next rows that have one of the words, in the order of the list.
fn merge_rows(tx: &Tx<'_>, tenant: i64, kind: i64, words: &[String], page: &Page) -> Result<Vec<i64>> {
    let Page { limit, order, after } = *page;
    let mut nearest = BTreeSet::new();
    for word in words {
        // Rows beyond the last of those found so far aren't needed.
        let is_full = nearest.len() >= limit;
        let (low, high) = match order {
            Order::Desc => (nearest.first().filter(|_| is_full).copied(), after),
            Order::Asc => (after, nearest.last().filter(|_| is_full).copied()),
        };
        let range = (low.unwrap_or(i64::MIN), high.unwrap_or(i64::MAX));
        nearest.extend(rows_of_word(tx, (tenant, kind, word), range, order, limit)?);
        while nearest.len() > limit {
            match order {
                Order::Desc => nearest.pop_first(),
                Order::Asc => nearest.pop_last(),
            };
        }
    }
    Ok(match order {
        Order::Desc => nearest.into_iter().rev().collect(),
        Order::Asc => nearest.into_iter().collect(),
    })
}

/// The first rows of a word between two `seq`, in the order of the list: at least `limit` if there are as many.
fn rows_of_word(
    tx: &Tx<'_>,
    (tenant, kind, word): (i64, i64, &str),
    (low, high): (i64, i64),
    order: Order,
    limit: usize,
) -> Result<Vec<i64>> {
    let direction = match order {
        Order::Desc => "DESC",
        Order::Asc => "ASC",
    };
    let sql = format!(
        "SELECT block, offsets FROM words WHERE tenant = ?1 AND kind = ?2 AND word = ?3 AND block >= ?4 AND block <= ?5 \
         ORDER BY block {direction} LIMIT ?6"
    );
    let mut rows: Vec<i64> = Vec::new();
    let (mut first, mut last) = (block_of(low), block_of(high));
    // The blocks of a frequent word are full: two suffice. Those of a rare one may have a row each.
    let mut blocks = 2;
    loop {
        let mut nearest = None;
        let values = params![tenant, kind, word, first, last, blocks];
        let read = tx.query_all(&sql, values, |row| {
            let block = row.get(0)?;
            let offsets: Vec<u8> = row.get(1)?;
            let found = rows_of_block(block, &offsets).filter(|seq| low < *seq && *seq < high);
            match order {
                Order::Desc => rows.extend(found.rev()),
                Order::Asc => rows.extend(found),
            }
            nearest = match order {
                Order::Desc => block.checked_sub(1),
                Order::Asc => block.checked_add(1),
            };
            Ok(())
        })?;
        let is_complete = read.len() < blocks || rows.len() >= limit;
        let Some(nearest) = nearest.filter(|_| !is_complete) else { return Ok(rows) };
        match order {
            Order::Desc => last = nearest,
            Order::Asc => first = nearest,
        }
        blocks = limit;
    }
}

/// Fetches a page of the rows of `list` that are in the source and for which `matches` is true.
fn fetch_checked<T>(
    tx: &Tx<'_>,
    list: &ListQuery,
    seq: &str,
    page: &Page,
    source: &Source,
    mut map: impl FnMut(&Row<'_>) -> engine::Result<T>,
    matches: impl Fn(&T) -> bool,
) -> Result<Rows<T>> {
    let mut rows: Vec<(i64, T)> = Vec::new();
    let mut read_rows = 0;
    let mut batch = Page { limit: page.limit + 1, ..*page };
    loop {
        let (found, read, last) = match source.next_rows(tx, &batch)? {
            None => {
                let found = list.clone().fetch_rows(tx, seq, &batch, &mut map)?;
                let last = found.last().map(|(seq, _)| *seq);
                let read = found.len();
                (found, read, last)
            }
            Some(candidates) => {
                let with_conditions = list.clone().and_seq_in(seq, &candidates, batch.limit);
                let found = with_conditions.fetch_rows(tx, seq, &Page { after: None, ..batch }, &mut map)?;
                (found, candidates.len(), candidates.last().copied())
            }
        };
        rows.extend(found.into_iter().filter(|(_, row)| matches(row)));
        read_rows += read;
        if rows.len() > page.limit || read < batch.limit {
            return Ok(page.paginate(rows));
        }
        if let Some(last) = last.filter(|_| read_rows >= MAX_READ_ROWS) {
            return Ok(page.paginate_incomplete(rows, last));
        }
        batch = Page { limit: BATCH_ROWS, after: last, ..batch };
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
