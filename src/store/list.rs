//! Lists with filters: keyset pagination over `seq`, the order in which the writer stored the rows.

use super::engine::{self, Row, Value};
use super::seq_index::SeqRange;
use super::tx::Tx;
use crate::domain::page::{Order, Page, Rows};
use crate::domain::unicode;
use crate::error::Result;

/// A query for a list, to which filters are added. Its `SELECT` must return `seq` as the first column.
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

    /// Adds the condition that this column with a folded name starts with the text.
    pub(crate) fn and_name_prefix(self, column: &str, text: Option<&str>) -> Self {
        let Some(text) = text else { return self };
        self.and_any_prefix([(column, unicode::fold(text))])
    }

    /// Adds the condition that one of these columns with a folded name and a folded email address starts with the
    /// text.
    pub(crate) fn and_name_or_email_prefix(self, name: &str, email: &str, text: Option<&str>) -> Self {
        let Some(text) = text else { return self };
        self.and_any_prefix([(name, unicode::fold(text)), (email, unicode::fold_email(text))])
    }

    /// Adds the condition that one of the columns starts with its text. The condition is written as a range of
    /// values, so that SQLite can use an index.
    fn and_any_prefix<const N: usize>(mut self, prefixes: [(&str, String); N]) -> Self {
        let conditions = prefixes.each_ref().map(|(column, _)| format!("({column} >= ? AND {column} < ?)"));
        self.sql.push_str(&format!(" AND ({})", conditions.join(" OR ")));
        for (_, low) in prefixes {
            let high = format!("{low}\u{10FFFF}");
            self.values.push(low.into());
            self.values.push(high.into());
        }
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
        mut map: impl FnMut(&Row<'_>) -> engine::Result<T>,
    ) -> Result<Rows<T>> {
        let (sql, values) = self.page_statement(seq, page);
        let rows = tx.query_all(&sql, &values, |row| Ok((row.get(0)?, map(row)?)))?;
        Ok(page.paginate(rows))
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
        // One row more than requested shows whether there is a next page.
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
        (format!("{} ORDER BY {seq} {direction} LIMIT {limit}", list.sql), list.values)
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
