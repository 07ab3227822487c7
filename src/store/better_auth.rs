//! Statements on a database of the library better-auth, from which data is imported. The database is only
//! read.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Row as SqlRow, params};
use serde_json::Value;

use super::db::Tx;
use super::reader::Reader;
use super::schema::conflict_error;
use crate::domain::better_auth::{Owner, Row};
use crate::error::Result;

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
    Ok(reader)
}

fn has_table(tx: &Tx<'_>, table: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(tx.query_first(sql, params![table], |_| Ok(()))?.is_some())
}

/// Counts the rows that an import reads, for the progress display.
pub(crate) fn total(tx: &Tx<'_>) -> Result<u64> {
    let mut total = 0;
    for table in ["user", "organization", "member", "apikey"] {
        if has_table(tx, table)? {
            let n: Option<u64> =
                tx.query_first(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0))?;
            total += n.unwrap_or(0);
        }
    }
    Ok(total)
}

/// Fetches at most `max` rows with a rowid greater than `after`, oldest first, each with its rowid. Returns
/// none when the table doesn't exist.
pub(crate) fn rows(tx: &Tx<'_>, table: &str, after: i64, max: usize) -> Result<Vec<(i64, Row)>> {
    if !has_table(tx, table)? {
        return Ok(Vec::new());
    }
    // better-auth stores no email address for an organization, so the address of the organization's owner is
    // used, or else that of its first member.
    let email_column = if table == "organization" && has_table(tx, "member")? {
        ", (SELECT u.email FROM member m JOIN user u ON u.id = m.userId WHERE m.organizationId = t.id \
         ORDER BY ',' || m.role || ',' NOT LIKE '%,owner,%', m.createdAt, m.rowid LIMIT 1) AS email"
    } else {
        ""
    };
    let sql = format!(
        "SELECT t.rowid AS source_rowid, t.*{email_column} FROM \"{table}\" t \
         WHERE t.rowid > ?1 ORDER BY t.rowid LIMIT ?2"
    );
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    tx.query_all(&sql, params![after, max], |row| Ok((row.get(0)?, row_by_column_name(row)?)))
}

fn row_by_column_name(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let columns = row.as_ref().column_names().into_iter().map(str::to_owned).enumerate();
    let value = |(index, name)| {
        let value = match row.get_ref(index)? {
            ValueRef::Null | ValueRef::Blob(_) => Value::Null,
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(number) => Value::from(number),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        };
        Ok((name, value))
    };
    columns.map(value).collect()
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
        let sql = "SELECT DISTINCT organizationId FROM member WHERE userId = ?1 ORDER BY rowid LIMIT 100";
        tx.query_all(sql, params![id], |row| row.get(0))?
    } else {
        Vec::new()
    };
    Ok(Owner::User(id.to_owned(), organizations))
}
