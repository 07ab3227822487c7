//! Compares the schema of a database with the one that this program creates.
//!
//! SQLite's own integrity check accepts any schema. But a trigger on `api_keys` can undo each revocation, and a
//! missing index or an altered table breaks what the statements rely on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use super::engine::{self, Connection};
use super::schema_version;
use super::schema_version::SCHEMA;
use super::tx::Tx;
use super::tx_state::TxState;
use crate::error::Result;

/// Maximum number of differences that are reported.
const MAX_DIFFERENCES: usize = 20;

/// Tables that may exist in any database: those of SQLite's `ANALYZE`, and those that Litestream creates in a database
/// that it replicates.
const FOREIGN_TABLES: [&str; 5] =
    ["sqlite_stat1", "sqlite_stat3", "sqlite_stat4", "_litestream_seq", "_litestream_lock"];

/// The objects of a schema: type and name, with the table and the normalized definition.
type SchemaObjects = BTreeMap<(String, String), (String, String)>;

/// The objects that `schema.sql` creates. Shadow tables of virtual tables are among them.
static EXPECTED: LazyLock<Result<SchemaObjects>> = LazyLock::new(|| {
    let conn = engine::open_in_memory()?;
    conn.execute_batch(SCHEMA)?;
    read_objects(&Tx::new(&conn, &TxState::default()))
});

fn read_objects(tx: &Tx<'_>) -> Result<SchemaObjects> {
    let sql = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema";
    let objects = tx.query_all(sql, &[], |row| {
        let definition: String = row.get(3)?;
        Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, normalize_sql(&definition))))
    });
    Ok(objects?.into_iter().collect())
}

/// Describes each difference between the schema of this database and the schema of this program. A database
/// with an older schema version has none: it is compared after its upgrade.
pub(crate) fn find_schema_differences(tx: &Tx<'_>) -> Result<Vec<String>> {
    let version = tx.query_first("PRAGMA user_version", &[], |row| row.get::<i64>(0))?;
    if version != Some(schema_version::latest_version()?) {
        return Ok(Vec::new());
    }
    let expected = EXPECTED.as_ref().map_err(Clone::clone)?;
    Ok(differences(expected, &read_objects(tx)?))
}

fn differences(expected: &SchemaObjects, found: &SchemaObjects) -> Vec<String> {
    let is_allowed =
        |(kind, name): &(String, String)| kind == "table" && FOREIGN_TABLES.contains(&name.as_str());
    let unknown = found.iter().filter(|(key, _)| !expected.contains_key(key) && !is_allowed(key));
    let unknown = unknown.map(|((kind, name), (table, _))| match kind.as_str() {
        "table" | "view" => format!("schema: unknown {kind} {name}"),
        _ => format!("schema: unknown {kind} {name} on {table}"),
    });
    let changed = expected.iter().filter_map(|(key @ (kind, name), definition)| match found.get(key) {
        None => Some(format!("schema: the {kind} {name} is missing")),
        Some(other) if other != definition => Some(format!("schema: the {kind} {name} is altered")),
        Some(_) => None,
    });
    unknown.chain(changed).take(MAX_DIFFERENCES).collect()
}

/// Fails if the schema of this database isn't the schema of this program.
///
/// # Errors
/// `CONFLICT` with the first differences and what to do.
pub(in crate::store) fn ensure_same_schema(conn: &Connection, file: &Path) -> Result<()> {
    let differences = find_schema_differences(&Tx::new(conn, &TxState::default()))?;
    if differences.is_empty() {
        return Ok(());
    }
    Err(super::conflict_error(format!(
        "The schema of {} was changed by another program: {}. Undo these changes or restore a backup.",
        file.display(),
        differences.join("; ")
    )))
}

/// Removes comments, and replaces whitespace outside of quotes by single spaces.
fn normalize_sql(sql: &str) -> String {
    let mut normalized = String::with_capacity(sql.len());
    let mut rest = sql.trim();
    while let Some(first) = rest.chars().next() {
        let is_separator = first.is_ascii_whitespace() || rest.starts_with("--") || rest.starts_with("/*");
        let length = match first {
            '\'' | '"' | '`' | '[' => {
                let closing = if first == '[' { ']' } else { first };
                rest[1..].find(closing).map_or(rest.len(), |at| at + 2)
            }
            _ if rest.starts_with("--") => rest.find('\n').map_or(rest.len(), |at| at + 1),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match is_separator {
            false => normalized.push_str(token),
            true if normalized.ends_with(' ') => {}
            true => normalized.push(' '),
        }
        rest = after;
    }
    normalized
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::schema_version::UPGRADES;
    use super::*;

    fn differences_after(change: &str) -> Vec<String> {
        let conn = database(&[SCHEMA, change]);
        differences(EXPECTED.as_ref().unwrap(), &read_objects(&Tx::new(&conn, &TxState::default())).unwrap())
    }

    fn database(scripts: &[&str]) -> Connection {
        let conn = engine::open_in_memory().unwrap();
        scripts.iter().for_each(|script| conn.execute_batch(script).unwrap());
        conn
    }

    /// The differences, in definitions and rows, between a database of version 1 after these upgrades and a new one.
    fn differences_after_upgrades(version_1: &str, upgrades: &[&str]) -> Vec<String> {
        let upgraded = database(&[&[version_1], upgrades].concat());
        let new = database(&[SCHEMA]);
        let objects = read_objects(&Tx::new(&upgraded, &TxState::default())).unwrap();
        let expected = EXPECTED.as_ref().unwrap();
        let mut found = differences(expected, &objects);
        let tables = expected.keys().filter(|key| key.0 == "table" && objects.contains_key(key));
        for (_, table) in tables.filter(|(_, table)| !table.starts_with("sqlite_")) {
            let rows = |conn: &Connection| {
                let mut statement = conn.statement(&format!("SELECT * FROM {table}")).unwrap();
                statement.query_all(&[], |row| row.to_json()).unwrap()
            };
            if rows(&upgraded) != rows(&new) {
                found.push(format!("rows of {table}"));
            }
        }
        found
    }

    /// Releases keep the schema of version 1 in this file, so that it can be upgraded here.
    const VERSION_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/schema_v1.sql");

    /// Before the first release there is nothing to upgrade, and version 1 is `schema.sql` itself. Once the file of version 1
    /// exists, or there is an upgrade, a database of version 1 is upgraded here.
    #[test]
    fn upgrades_of_version_1_lead_to_the_current_schema() {
        let version_1 = fs::read_to_string(VERSION_1).unwrap_or_else(|_| {
            assert!(
                UPGRADES.is_empty(),
                "{VERSION_1} is missing: put the schema.sql of the first release there"
            );
            println!("There are no upgrades and no {VERSION_1}: nothing was upgraded.");
            SCHEMA.to_owned()
        });
        assert_eq!(
            differences_after_upgrades(&version_1, UPGRADES),
            [""; 0],
            "add what changed in schema.sql as an upgrade to UPGRADES in src/store/schema_version.rs"
        );
    }

    /// The test above detects an upgrade that is missing or differs from `schema.sql`.
    #[test]
    fn upgrades_that_lead_to_another_schema_are_found() {
        let version_1 = format!("{SCHEMA}; DROP INDEX users_email; DELETE FROM scopes WHERE seq > 10");
        let index = "CREATE UNIQUE INDEX users_email ON users (email_key) WHERE deleted_at IS NULL";
        let last = "('transactions:write', 'Change transactions', 0, 0)";
        let scope = format!("INSERT INTO scopes (scope, description, built_in, created_at) VALUES {last}");
        let scope = format!("UPDATE sqlite_sequence SET seq = 10 WHERE name = 'scopes'; {scope}");
        let missing_index = "schema: the index users_email is missing";
        for (upgrades, expected) in [
            (&[index, &scope][..], &[][..]),
            (&[index], &["rows of scopes"]),
            (&[&scope], &[missing_index]),
            (&[], &[missing_index, "rows of scopes"]),
            (
                &["CREATE INDEX users_email ON users (email_key)", &scope],
                &["schema: the index users_email is altered"],
            ),
        ] {
            assert_eq!(differences_after_upgrades(&version_1, upgrades), expected, "{upgrades:?}");
        }
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        assert_eq!(differences_after(""), [""; 0]);
        assert_eq!(differences_after("ANALYZE"), [""; 0]);
        let litestream = "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
                          CREATE TABLE _litestream_lock (id INTEGER)";
        assert_eq!(differences_after(litestream), [""; 0]);
        let revive = "CREATE TRIGGER revive AFTER UPDATE OF status ON api_keys BEGIN
                      UPDATE api_keys SET status = 'active' WHERE seq = NEW.seq; END";
        for (change, difference) in [
            (revive, "unknown trigger revive on api_keys"),
            ("CREATE TABLE theirs (n)", "unknown table theirs"),
            ("CREATE INDEX theirs ON users (name)", "unknown index theirs on users"),
            ("CREATE VIEW theirs AS SELECT 1", "unknown view theirs"),
            ("DROP INDEX users_email", "the index users_email is missing"),
            ("DROP TRIGGER api_keys_turn", "the trigger api_keys_turn is missing"),
            ("ALTER TABLE users ADD COLUMN theirs TEXT", "the table users is altered"),
            (
                "DROP INDEX users_email; CREATE INDEX users_email ON users (email_key)",
                "the index users_email is altered",
            ),
            // A name that looks like SQLite's own doesn't hide a trigger.
            (
                "CREATE TRIGGER theirs AFTER INSERT ON users BEGIN SELECT 1; END; PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET name = 'sqlite_stat1' WHERE name = 'theirs'",
                "unknown trigger sqlite_stat1 on users",
            ),
        ] {
            assert_eq!(differences_after(change), [format!("schema: {difference}")], "{change}");
        }
    }

    #[test]
    fn comments_and_whitespace_make_no_difference_but_quoted_text_does() {
        let sql = "CREATE TABLE t ( -- a 'comment'\n  a TEXT /* b */ DEFAULT '--  x',\n\tb)";
        assert_eq!(normalize_sql(sql), "CREATE TABLE t ( a TEXT DEFAULT '--  x', b)");
        assert_ne!(normalize_sql("SELECT 'a  b'"), normalize_sql("SELECT 'a b'"));
        assert_eq!(normalize_sql("SELECT 'it''s  x'"), "SELECT 'it''s  x'");
        assert_eq!(normalize_sql("SELECT 'open"), "SELECT 'open");
    }
}
