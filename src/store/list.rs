//! Lists with filters: keyset pagination over `seq`, the order in which the writer stored the rows.

use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};

use super::db::Tx;
use super::seq_index::Stretch;
use crate::domain::page::{Order, Page, Rows};
use crate::domain::rules;
use crate::error::Result;

/// A query that grows by its filters. Its `SELECT` must bring `seq` as its first column.
pub(crate) struct List {
    sql: String,
    values: Vec<Value>,
    stretch: Stretch,
}

impl List {
    /// Begins with everything up to and including a first condition.
    pub(crate) fn new(select: &str) -> Self {
        Self { sql: select.to_owned(), values: Vec::new(), stretch: (None, None) }
    }

    /// One more condition with one `?`, when there is something to ask for.
    pub(crate) fn and(mut self, condition: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.sql.push_str(" AND ");
            self.sql.push_str(condition);
            self.values.push(value.into());
        }
        self
    }

    /// Conditions on columns with an index of their own. The first that is given, the rarest mostly, leads the
    /// way by its index; the unary plus before the others keeps SQLite, which can't know, from theirs.
    pub(crate) fn equal(mut self, columns: &[(&str, Option<&str>)]) -> Self {
        let given = columns.iter().filter_map(|(column, value)| Some((column, (*value)?)));
        for (nth, (column, value)) in given.enumerate() {
            let plus = if nth == 0 { "" } else { "+" };
            self = self.and(&format!("{plus}{column} = ?"), Some(value.to_owned()));
        }
        self
    }

    /// A condition without a value.
    pub(crate) fn and_also(mut self, condition: &str) -> Self {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self
    }

    /// One of these folded columns begins with the text. A range, so that an index could serve it.
    pub(crate) fn prefix(mut self, columns: &[&str], text: Option<&str>) -> Self {
        let Some(text) = text else { return self };
        let low = rules::casefold(text);
        let high = format!("{low}\u{10FFFF}");
        let conditions: Vec<_> =
            columns.iter().map(|column| format!("({column} >= ? AND {column} < ?)")).collect();
        self.sql.push_str(&format!(" AND ({})", conditions.join(" OR ")));
        for _ in columns {
            self.values.push(low.clone().into());
            self.values.push(high.clone().into());
        }
        self
    }

    /// Only rows of this stretch, which holds all that fulfil the conditions: others need not be looked at.
    pub(crate) fn within(self, stretch: Stretch) -> Self {
        Self { stretch, ..self }
    }

    /// Fetches a page; `seq` is the column's name with its table.
    pub(crate) fn page<T>(
        self,
        tx: &Tx<'_>,
        seq: &str,
        page: &Page,
        mut map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Rows<T>> {
        let (sql, values) = self.statement(seq, page);
        let found = tx.all(&sql, params_from_iter(values), |row| Ok((row.get(0)?, map(row)?)))?;
        Ok(page.paginate(found))
    }

    fn statement(self, seq: &str, page: &Page) -> (String, Vec<Value>) {
        let (low, high) = self.stretch;
        let (beyond, first, until, last, direction) = match page.order {
            Order::Desc => ("<", high, ">", low, "DESC"),
            Order::Asc => (">", low, "<", high, "ASC"),
        };
        // A row that was listed lies within, so one bound is enough on that side.
        let list = self.and(&format!("{seq} {beyond} ?"), page.after.or(first));
        let list = list.and(&format!("{seq} {until} ?"), last);
        // One more than asked for tells whether there are more.
        let more = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
        (format!("{} ORDER BY {seq} {direction} LIMIT {more}", list.sql), list.values)
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
