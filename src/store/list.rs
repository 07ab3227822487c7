//! Lists with filters: keyset pagination over `seq`, the order in which the writer stored the rows.

use std::borrow::Cow;

use super::engine::{self, Row, Value};
use super::seq_index::SeqRange;
use super::tx::Tx;
use crate::domain::page::{Order, Page, Rows};
use crate::error::Result;

/// A query for a list, to which filters are added. Its `SELECT` must return `seq` as the first column.
#[derive(Clone)]
pub(crate) struct ListQuery {
    sql: String,
    values: Vec<Value<'static>>,
    range: SeqRange,
}

impl ListQuery {
    /// A query from an SQL text that ends in a first condition (`WHERE …`).
    pub(crate) fn new(select: &str) -> Self {
        Self { sql: select.to_owned(), values: Vec::new(), range: (None, None) }
    }

    /// Adds a condition with one placeholder `?` for `value`; adds nothing if `value` is `None`.
    pub(crate) fn and_condition(mut self, condition: &str, value: Option<impl Into<Value<'static>>>) -> Self {
        if let Some(value) = value {
            self.sql.push_str(" AND ");
            self.sql.push_str(condition);
            self.values.push(value.into());
        }
        self
    }

    /// Adds conditions on columns that each have an index. SQLite uses the index of the first column that has
    /// a value, so the most selective column comes first; a unary plus excludes the indexes of the others,
    /// because SQLite can't know which is the most selective.
    pub(crate) fn and_equal(mut self, columns: &[(&str, Option<&str>)]) -> Self {
        let given = columns.iter().filter_map(|(column, value)| Some((column, (*value)?)));
        for (index, (column, value)) in given.enumerate() {
            let plus = if index == 0 { "" } else { "+" };
            self = self.and_condition(&format!("{plus}{column} = ?"), Some(value.to_owned()));
        }
        self
    }

    /// Adds a condition that has no placeholder.
    pub(crate) fn and_fixed_condition(mut self, condition: &str) -> Self {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self
    }

    /// Adds the condition that `seq` is one of these numbers. `count` is the number of placeholders, of which there are at
    /// least as many as numbers, so that statements for different numbers of rows are the same.
    pub(super) fn and_seq_in(mut self, seq: &str, rows: &[i64], count: usize) -> Self {
        self.sql.push_str(&format!(" AND {seq} IN ({})", placeholders(count)));
        let padding = std::iter::repeat_n(Value::Null, count.saturating_sub(rows.len()));
        self.values.extend(rows.iter().copied().map(Value::from).chain(padding));
        self
    }

    /// Limits the scan to a range of `seq`, which must contain all rows that match the conditions.
    pub(crate) fn in_seq_range(self, range: SeqRange) -> Self {
        Self { range, ..self }
    }

    /// Fetches a page. `seq` is the qualified name of the column `seq`, such as `k.seq`.
    pub(crate) fn fetch_page<T>(
        self,
        tx: &Tx<'_>,
        seq: &str,
        page: &Page,
        map: impl FnMut(&Row<'_>) -> engine::Result<T>,
    ) -> Result<Rows<T>> {
        // One row more than requested shows whether there is a next page.
        let one_more = Page { limit: page.limit.saturating_add(1), ..*page };
        Ok(page.paginate(self.fetch_rows(tx, seq, &one_more, map)?))
    }

    /// Fetches the rows of a page, each with its `seq`.
    pub(super) fn fetch_rows<T>(
        self,
        tx: &Tx<'_>,
        seq: &str,
        page: &Page,
        mut map: impl FnMut(&Row<'_>) -> engine::Result<T>,
    ) -> Result<Vec<(i64, T)>> {
        let (sql, values) = self.page_statement(seq, page);
        tx.query_all(&sql, &values, |row| Ok((row.get(0)?, map(row)?)))
    }

    fn page_statement(self, seq: &str, page: &Page) -> (String, Vec<Value<'static>>) {
        let (low, high) = self.range;
        let (after, start, before, end, direction) = match page.order {
            Order::Desc => ("<", high, ">", low, "DESC"),
            Order::Asc => (">", low, "<", high, "ASC"),
        };
        // The page starts after the cursor's row, which lies in the range. So that row replaces the bound of
        // the range on its side.
        let list = self.and_condition(&format!("{seq} {after} ?"), page.after.or(start));
        let list = list.and_condition(&format!("{seq} {before} ?"), end);
        (format!("{} ORDER BY {seq} {direction} LIMIT {}", list.sql, page.limit), list.values)
    }
}

/// This many placeholders, for a list of values.
pub(super) fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Placeholders and values for a list of texts. Lists of similar length have the same placeholders, so that statements
/// are found in the cache.
pub(super) fn text_list<'t>(texts: impl IntoIterator<Item = &'t str>) -> (String, Vec<Value<'t>>) {
    let mut values: Vec<_> = texts.into_iter().map(|text| Value::Text(Cow::Borrowed(text))).collect();
    values.resize(values.len().next_power_of_two(), Value::Null);
    (placeholders(values.len()), values)
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
