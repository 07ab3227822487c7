//! Lists with filters: keyset pagination over `seq`, the order in which the writer stored the rows.

use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};

use super::db::Tx;
use crate::domain::page::{Order, Page, Rows};
use crate::domain::rules;
use crate::error::Result;

/// A query that grows by its filters. Its `SELECT` must bring `seq` as its first column.
pub struct List {
    sql: String,
    values: Vec<Value>,
}

impl List {
    /// Begins with everything up to and including a first condition.
    pub fn new(select: &str) -> Self {
        Self { sql: select.to_owned(), values: Vec::new() }
    }

    /// One more condition with one `?`, when there is something to ask for.
    pub fn and(mut self, condition: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.sql.push_str(" AND ");
            self.sql.push_str(condition);
            self.values.push(value.into());
        }
        self
    }

    /// A condition without a value.
    pub fn and_also(mut self, condition: &str) -> Self {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self
    }

    /// One of these folded columns begins with the text. A range, so that an index could serve it.
    pub fn prefix(mut self, columns: &[&str], text: Option<&str>) -> Self {
        let Some(text) = text else { return self };
        let low = rules::fold(text);
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

    /// Fetches a page; `seq` is the column's name with its table.
    pub fn page<T>(
        mut self,
        tx: &Tx<'_>,
        seq: &str,
        page: &Page,
        mut map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Rows<T>> {
        let (beyond, direction) = match page.order {
            Order::Desc => ("<", "DESC"),
            Order::Asc => (">", "ASC"),
        };
        self = self.and(&format!("{seq} {beyond} ?"), page.after);
        // One more than asked for tells whether there are more.
        let more = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
        let sql = format!("{} ORDER BY {seq} {direction} LIMIT {more}", self.sql);
        let found = tx.all(&sql, params_from_iter(self.values), |row| Ok((row.get(0)?, map(row)?)))?;
        Ok(page.cut(found))
    }
}
