//! Statements on a database of the library better-auth, from which data is imported. The database is only
//! read.

use std::path::Path;

use serde_json::Value;
use strum::VariantArray as _;

use super::conflict_error;
use super::engine::params;
use super::reader::Reader;
use super::tx::Tx;
use crate::domain::better_auth::{self, Owner, Row, Table};
use crate::error::{Code, Result};

/// The largest length of a value that is read, or computed for a generated column, in bytes.
const MAX_VALUE_BYTES: i32 = 1 << 20;

/// The largest number of rows that are read at a time.
const MAX_ROWS_PER_PAGE: usize = 500;

/// The largest length of a row, in bytes. A page of rows also ends when its rows have this length in total.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Opens a database of better-auth.
///
/// # Errors
/// `CONFLICT` when the file isn't a database of better-auth.
pub(crate) fn open(file: &Path) -> Result<Reader> {
    let not_better_auth =
        |_| conflict_error(format!("{} is not a better-auth SQLite database.", file.display()));
    if !file.exists() {
        return Err(conflict_error(format!("{} doesn't exist.", file.display())));
    }
    let mut reader = Reader::open_any(file).map_err(not_better_auth)?;
    if !reader.read(|tx| has_table(tx, "user")).map_err(not_better_auth)? {
        return Err(not_better_auth(crate::error::Error::internal("")));
    }
    reader.conn.limit_value_length(MAX_VALUE_BYTES)?;
    Ok(reader)
}

fn has_table(tx: &Tx<'_>, table: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(tx.query_first(sql, params![table], |_| Ok(()))?.is_some())
}

/// Counts the rows that an import reads, for the progress display.
pub(crate) fn total(tx: &Tx<'_>) -> Result<u64> {
    let mut total = 0;
    for table in Table::VARIANTS.iter().map(|table| table.name()) {
        if has_table(tx, table)? {
            let n: Option<u64> =
                tx.query_first(&format!("SELECT count(*) FROM \"{table}\""), &[], |row| row.get(0))?;
            total += n.unwrap_or(0);
        }
    }
    Ok(total)
}

/// Fetches rows with a rowid greater than `after`, oldest first, each with its rowid. Returns no rows at the
/// end of the table, or when the table doesn't exist. A row that is too long is returned as `None`.
pub(crate) fn rows_after(tx: &Tx<'_>, table: Table, after: i64) -> Result<Vec<(i64, Option<Row>)>> {
    let name = table.name();
    if !has_table(tx, name)? {
        return Ok(Vec::new());
    }
    // better-auth stores no email address for an organization, so the address of the organization's owner is
    // used, or else that of its first member.
    let email_column = if table == Table::Organization && has_table(tx, "member")? {
        ", (SELECT u.email FROM member m JOIN user u ON u.id = m.userId WHERE m.organizationId = t.id \
         ORDER BY ',' || m.role || ',' NOT LIKE '%,owner,%', m.createdAt, m.rowid LIMIT 1) AS email"
    } else {
        ""
    };
    let mut columns = String::new();
    for column in imported_columns(tx, name)? {
        columns.push_str(&format!(", t.\"{column}\""));
    }
    let rest = format!("FROM \"{name}\" t WHERE t.rowid > ?1 ORDER BY t.rowid LIMIT 1");
    let next_row = format!("SELECT t.rowid{columns}{email_column} {rest}");
    let next_rowid = format!("SELECT t.rowid {rest}");
    let mut page: Vec<(i64, Option<Row>)> = Vec::new();
    let mut bytes = 0;
    while page.len() < MAX_ROWS_PER_PAGE && bytes < MAX_PAGE_BYTES {
        let after = page.last().map_or(after, |(rowid, _)| *rowid);
        let row =
            match tx.query_first(&next_row, params![after], |row| Ok((row.get(0)?, Some(row.to_json()?)))) {
                Err(error) if error.code == Code::PayloadTooLarge => {
                    tx.query_first(&next_rowid, params![after], |row| Ok((row.get(0)?, None)))
                }
                row => row,
            };
        let Some((rowid, row)) = row? else { break };
        let texts = row.iter().flat_map(Row::values).filter_map(Value::as_str);
        let length = texts.map(str::len).sum::<usize>();
        bytes += length;
        page.push((rowid, row.filter(|_| length <= MAX_PAGE_BYTES)));
    }
    Ok(page)
}

/// Finds the columns of a table that an import uses, including generated columns. Other columns are not read,
/// because their number and size are not bounded.
fn imported_columns(tx: &Tx<'_>, table: &str) -> Result<Vec<String>> {
    // `hidden` is 1 for hidden columns of virtual tables, and 2 or 3 for generated columns.
    let sql = "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 1";
    let mut columns: Vec<String> = tx.query_all(sql, params![table], |row| row.get(0))?;
    columns.retain(|column| better_auth::IMPORTED_COLUMNS.contains(&column.as_str()));
    Ok(columns)
}

/// The organization or user that owns a key. better-auth stores the owner's id in `referenceId`; before
/// release 1.5 it was in `userId`.
pub(crate) fn find_key_owner(tx: &Tx<'_>, key: &Row) -> Result<Owner> {
    let id = |column| key.get(column).and_then(Value::as_str);
    let Some(id) = id("referenceId").or(id("userId")) else { return Ok(Owner::Nobody) };
    let exists = |table: &str| -> Result<bool> {
        let sql = format!("SELECT 1 FROM \"{table}\" WHERE id = ?1");
        Ok(has_table(tx, table)? && tx.query_first(&sql, params![id], |_| Ok(()))?.is_some())
    };
    if exists("organization")? {
        return Ok(Owner::Organization(id.to_owned()));
    }
    if !exists("user")? {
        return Ok(Owner::Nobody);
    }
    let organizations = if has_table(tx, "member")? {
        let sql =
            "SELECT DISTINCT organizationId FROM member WHERE userId = ?1 AND length(organizationId) <= 200
             ORDER BY rowid LIMIT 100";
        tx.query_all(sql, params![id], |row| row.get(0))?
    } else {
        Vec::new()
    };
    Ok(Owner::User(id.to_owned(), organizations))
}
