//! Statements that check the integrity of a database.

use std::collections::BTreeMap;

use super::schema;
use super::tx::Tx;
use crate::error::Result;

/// Number of rows, by table name.
pub(crate) type RowCounts = BTreeMap<String, i64>;

/// Maximum number of faults reported by each check.
const MAX_FAULTS: usize = 20;

/// Errors that SQLite finds in the file's pages and indexes; empty when there are none.
pub(crate) fn find_page_errors(tx: &Tx<'_>) -> Result<Vec<String>> {
    let lines =
        tx.query_all(&format!("PRAGMA integrity_check({MAX_FAULTS})"), &[], |row| row.get::<String>(0))?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Describes each foreign key that refers to a missing row.
pub(crate) fn find_broken_foreign_keys(tx: &Tx<'_>) -> Result<Vec<String>> {
    let faults = tx.query_all("PRAGMA foreign_key_check", &[], |row| {
        let table: String = row.get(0)?;
        let rowid: Option<i64> = row.get(1)?;
        let parent: String = row.get(2)?;
        Ok(format!("row {} of {table} refers to a missing row of {parent}", rowid.unwrap_or(0)))
    })?;
    Ok(faults.into_iter().take(MAX_FAULTS).collect())
}

/// Counts the rows of each table.
pub(crate) fn count_rows(tx: &Tx<'_>) -> Result<RowCounts> {
    let sql =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let tables = tx.query_all(sql, &[], |row| row.get::<String>(0))?;
    let count = |table: String| {
        let n = tx.query_first(&format!("SELECT count(*) FROM \"{table}\""), &[], |row| row.get(0))?;
        Ok((table, n.unwrap_or(0)))
    };
    tables.into_iter().map(count).collect()
}

/// Describes each entry of the table `counts` that differs from the actual number of rows.
pub(crate) fn find_wrong_counts(tx: &Tx<'_>) -> Result<Vec<String>> {
    tx.query_all(
        "WITH actual (what, organization_id, n) AS (
             SELECT 'organizations', '*', count(*) FROM organizations WHERE deleted_at IS NULL
             UNION ALL SELECT 'users', '*', count(*) FROM users WHERE deleted_at IS NULL
             UNION ALL SELECT 'users', organization_id, count(*) FROM memberships GROUP BY 2
             UNION ALL SELECT status, '*', count(*) FROM api_keys GROUP BY 1
             UNION ALL SELECT status, coalesce(organization_id, ''), count(*) FROM api_keys GROUP BY 1, 2
         ), both_of (what, organization_id, counted, n) AS (
             SELECT a.what, a.organization_id, coalesce(c.n, 0), a.n FROM actual a
                 LEFT JOIN counts c ON c.what = a.what AND c.organization_id = a.organization_id
             UNION ALL SELECT c.what, c.organization_id, c.n, 0 FROM counts c
                 LEFT JOIN actual a ON c.what = a.what AND c.organization_id = a.organization_id
                 WHERE a.what IS NULL AND c.what IN ('organizations', 'users', 'active', 'disabled', 'revoked')
         )
         SELECT what, organization_id, counted, n FROM both_of WHERE counted <> n LIMIT 20",
        &[],
        |row| {
            let kind: String = row.get(0)?;
            let organization_id: String = row.get(1)?;
            let counted: i64 = row.get(2)?;
            let actual: i64 = row.get(3)?;
            let kind = match kind.as_str() {
                "organizations" | "users" => kind,
                status => format!("{status} keys"),
            };
            let owner = match organization_id.as_str() {
                "*" => "in total".to_owned(),
                "" => "of the platform".to_owned(),
                id => format!("of {id}"),
            };
            Ok(format!("counts: {kind} {owner}: the stored count is {counted}, the actual count {actual}"))
        },
    )
}

/// Describes each entry of the table `idempotency_bytes` that differs from the actual sum.
pub(crate) fn find_wrong_response_sums(tx: &Tx<'_>) -> Result<Vec<String>> {
    tx.query_all(
        "WITH actual (subject, bytes) AS (
             SELECT 0, sum(bytes) FROM idempotency
             UNION ALL SELECT key_seq, sum(bytes) FROM idempotency GROUP BY 1
             UNION ALL SELECT -1 - coalesce(organization_seq, 0), sum(bytes) FROM idempotency GROUP BY 1
         )
         SELECT subject, coalesce(s.bytes, 0) AS summed, coalesce(a.bytes, 0) AS actual_sum
         FROM actual a FULL JOIN idempotency_bytes s USING (subject) WHERE summed <> actual_sum LIMIT 20",
        &[],
        |row| {
            let subject: i64 = row.get(0)?;
            let summed: i64 = row.get(1)?;
            let actual: i64 = row.get(2)?;
            let owner = match subject {
                0 => "in total".to_owned(),
                -1 => "of the platform's keys".to_owned(),
                seq if seq > 0 => format!("of the key in row {seq}"),
                organization => format!("of the organization in row {}", -1 - organization),
            };
            Ok(format!("stored responses {owner}: the stored sum is {summed} bytes, the actual sum {actual}"))
        },
    )
}

/// Describes each API key whose number of current secrets isn't 1, or whose scopes differ from the scope
/// index.
pub(crate) fn find_inconsistent_keys(tx: &Tx<'_>) -> Result<Vec<String>> {
    let mut faults = tx.query_all(
        "SELECT k.id, (SELECT count(*) FROM api_key_hashes h WHERE h.key_seq = k.seq AND h.state = 'current') AS n \
         FROM api_keys k WHERE n <> 1 LIMIT 20",
        &[],
        |row| {
            let id: String = row.get(0)?;
            let current: i64 = row.get(1)?;
            Ok(format!("{id} has {current} current secrets instead of 1"))
        },
    )?;
    faults.extend(tx.query_all(
        "SELECT k.id FROM api_keys k LEFT JOIN \
         (SELECT key_seq, count(*) AS n FROM api_key_scopes GROUP BY key_seq) s ON s.key_seq = k.seq \
         WHERE json_array_length(k.scopes) <> coalesce(s.n, 0) LIMIT 20",
        &[],
        |row| Ok(format!("the scope index doesn't match the scopes of {}", row.get::<String>(0)?)),
    )?);
    Ok(faults)
}

/// The schema version of the database.
pub(crate) fn schema_version(tx: &Tx<'_>) -> Result<i64> {
    Ok(tx.query_first("PRAGMA user_version", &[], |row| row.get(0))?.unwrap_or(0))
}

/// A random value that is created with a database and copied with its file, so a database and its copies have
/// the same value.
pub(crate) fn database_origin(tx: &Tx<'_>) -> Result<[u8; 32]> {
    schema::load_cursor_key(tx)
}
