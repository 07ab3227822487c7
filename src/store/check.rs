//! Statements that look whether a file is whole.

use std::collections::BTreeMap;

use super::db::Tx;
use super::schema;
use crate::error::Result;

/// Rows of each table.
pub(crate) type Rows = BTreeMap<String, i64>;

/// Faults of one kind that are told.
const MAX: usize = 20;

/// What SQLite says of pages and indexes; nothing when all is well.
pub(crate) fn integrity(tx: &Tx<'_>) -> Result<Vec<String>> {
    let said = tx.all(&format!("PRAGMA integrity_check({MAX})"), [], |row| row.get::<_, String>(0))?;
    Ok(said.into_iter().filter(|line| line != "ok").collect())
}

/// References to rows that aren't there.
pub(crate) fn foreign_keys(tx: &Tx<'_>) -> Result<Vec<String>> {
    let found = tx.all("PRAGMA foreign_key_check", [], |row| {
        let (table, rowid, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("row {} of {table} refers to a row of {parent} that isn't there", rowid.unwrap_or(0)))
    })?;
    Ok(found.into_iter().take(MAX).collect())
}

/// How many rows each table has.
pub(crate) fn rows(tx: &Tx<'_>) -> Result<Rows> {
    let sql =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let tables = tx.all(sql, [], |row| row.get::<_, String>(0))?;
    let count = |table: String| {
        let n = tx.one(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0))?;
        Ok((table, n.unwrap_or(0)))
    };
    tables.into_iter().map(count).collect()
}

/// What the table of counts says other than there is.
pub(crate) fn counts(tx: &Tx<'_>) -> Result<Vec<String>> {
    tx.all(
        "WITH really (what, organization_id, n) AS (
             SELECT 'organizations', '*', count(*) FROM organizations WHERE deleted_at IS NULL
             UNION ALL SELECT 'users', '*', count(*) FROM users WHERE deleted_at IS NULL
             UNION ALL SELECT 'users', organization_id, count(*) FROM memberships GROUP BY 2
             UNION ALL SELECT status, '*', count(*) FROM api_keys GROUP BY 1
             UNION ALL SELECT status, coalesce(organization_id, ''), count(*) FROM api_keys GROUP BY 1, 2
         ), both_of (what, organization_id, counted, n) AS (
             SELECT r.what, r.organization_id, coalesce(c.n, 0), r.n FROM really r
                 LEFT JOIN counts c ON c.what = r.what AND c.organization_id = r.organization_id
             UNION ALL SELECT c.what, c.organization_id, c.n, 0 FROM counts c
                 LEFT JOIN really r ON c.what = r.what AND c.organization_id = r.organization_id
                 WHERE r.what IS NULL AND c.what IN ('organizations', 'users', 'active', 'disabled', 'revoked')
         )
         SELECT what, organization_id, counted, n FROM both_of WHERE counted <> n LIMIT 20",
        [],
        |row| {
            let (what, whose): (String, String) = (row.get(0)?, row.get(1)?);
            let (counted, really): (i64, i64) = (row.get(2)?, row.get(3)?);
            let whose = match whose.as_str() {
                "*" => "in all",
                "" => "of the platform",
                whose => whose,
            };
            Ok(format!("counts: {what} {whose}: {counted} are counted, there are {really}"))
        },
    )
}

/// Keys whose secrets or scopes are not as they are always stored.
pub(crate) fn keys(tx: &Tx<'_>) -> Result<Vec<String>> {
    let mut found = tx.all(
        "SELECT k.id, (SELECT count(*) FROM api_key_hashes h WHERE h.key_seq = k.seq AND h.state = 'current') AS n \
         FROM api_keys k WHERE n <> 1 LIMIT 20",
        [],
        |row| Ok(format!("{} has {} current secrets", row.get::<_, String>(0)?, row.get::<_, i64>(1)?)),
    )?;
    found.extend(tx.all(
        "SELECT k.id FROM api_keys k LEFT JOIN \
         (SELECT key_seq, count(*) AS n FROM api_key_scopes GROUP BY key_seq) s ON s.key_seq = k.seq \
         WHERE json_array_length(k.scopes) <> coalesce(s.n, 0) LIMIT 20",
        [],
        |row| Ok(format!("the index of scopes is wrong about {}", row.get::<_, String>(0)?)),
    )?);
    Ok(found)
}

/// The version of the schema.
pub(crate) fn version(tx: &Tx<'_>) -> Result<i64> {
    Ok(tx.one("PRAGMA user_version", [], |row| row.get(0))?.unwrap_or(0))
}

/// What tells files of one origin from others: it is made with the first of them and copied with it.
pub(crate) fn origin(tx: &Tx<'_>) -> Result<[u8; 32]> {
    schema::cursor_key(tx)
}
