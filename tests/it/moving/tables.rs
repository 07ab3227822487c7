//! Every table of the schema moves with an export and an import, or is listed here with the reason why it doesn't.

use std::path::Path;

use reqwest::Method;
use rusqlite::Connection;
use rusqlite::types::Value as SqlValue;
use serde_json::json;

use super::round_trip::populate;
use super::{data, result, run};
use crate::support::Binary;

/// Tables that an export doesn't contain, as `docs/guides/import-and-export.md` says.
const NOT_EXPORTED: &[&str] = &[
    "meta",              // Facts about the file, such as the time of its last backup.
    "quotas",            // Consumed quotas change with every verification.
    "windows",           // Rate limits flow back within their window.
    "idempotency",       // Stored responses serve repeated requests to the same server, for a day.
    "idempotency_bytes", // Sums over `idempotency`.
    "audit_events",      // The audit log proves what happened to this file; `audit export` copies it.
    "usage_hourly",      // Usage only moves with a backup.
    "usage_daily",
    "usage_units_hourly",
    "usage_units_daily",
    "usage_reports",    // Reports are repeated to the same server, for a day.
    "verification_log", // Denials belong to the usage.
];

/// Columns of exported tables that an import sets itself.
const NOT_RESTORED: &[(&str, &str)] = &[
    ("memberships", "seq"),         // Ended memberships leave no gaps behind.
    ("api_keys", "previous_start"), // An import doesn't know it.
    ("settings", "revision"),       // An import sets all settings in one change.
    ("settings", "updated_at"),     // The time of the import.
];

fn names(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// The rows of a table in the order of their values, without the columns that an import sets itself.
fn rows(dir: &Path, table: &str) -> Vec<Vec<SqlValue>> {
    let conn = Connection::open(dir.join("tollhouse.db")).unwrap();
    let mut columns = names(&conn, &format!("SELECT name FROM pragma_table_info('{table}')"));
    columns.retain(|column| !NOT_RESTORED.contains(&(table, column)));
    let columns_text = columns.join(", ");
    // A count of 0 is the same as none, and reports are not exported.
    let condition = if table == "counts" { "n > 0 AND what <> 'usage_reports'" } else { "true" };
    let sql = format!("SELECT {columns_text} FROM {table} WHERE {condition} ORDER BY {columns_text}");
    let mut statement = conn.prepare(&sql).unwrap();
    let row = |row: &rusqlite::Row<'_>| (0..columns.len()).map(|index| row.get(index)).collect();
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn every_table_is_exported_or_listed() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    let target = temp.path().join("target");
    let mut server = Binary::serve(&source);
    let admin = server.admin();
    populate(&server).await;
    let settings = admin.request(Method::PATCH, "/config").header("if-match", "*");
    data(admin.send(settings.json(&json!({"keys": {"prefixes": ["mine"]}}))).await);
    // Rows of the tables that aren't exported.
    let quota = json!({"name": "q", "scopes": [], "organization_id": "org_1", "limits": [
        {"limit": 9, "period": "month"}, {"limit": 9, "window_seconds": 86_400}]});
    let quota = data(admin.post("/api-keys", quota).await)["key"].as_str().unwrap().to_owned();
    for (path, body) in [
        ("/v1/keys/verify", json!({"key": quota})),
        ("/v1/keys/verify", json!({"key": "toll_unknown"})),
        ("/v1/keys/usage", json!({"key": quota, "costs": {"tokens": 5}, "id": "report"})),
    ] {
        data(admin.send(admin.request_at_root(Method::POST, path).json(&body)).await);
    }
    let repeatable = admin.request(Method::POST, "/scopes").header("idempotency-key", "1");
    data(admin.send(repeatable.json(&json!({"scope": "reports:read"}))).await);
    assert_eq!(server.terminate(), Some(0));
    let file = temp.path().join("all.ndjson");
    assert!(run(&source, &["export", "--output", file.to_str().unwrap()]).status.success());
    assert_eq!(result(&target, &["import", file.to_str().unwrap()])["refused"], 0);

    let schema = Connection::open_in_memory().unwrap();
    schema.execute_batch(include_str!("../../../schema.sql")).unwrap();
    let tables =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let tables = names(&schema, tables);
    for table in NOT_EXPORTED {
        assert!(tables.iter().any(|name| name == table), "NOT_EXPORTED lists {table}, which is no table");
    }
    for table in &tables {
        let before = rows(&source, table);
        let after = rows(&target, table);
        assert!(
            !before.is_empty(),
            "{table} is empty: add a row in this test or in populate() of round_trip.rs"
        );
        if NOT_EXPORTED.contains(&table.as_str()) {
            assert_ne!(before, after, "{table} is restored, although NOT_EXPORTED lists it");
        } else {
            assert_eq!(
                before, after,
                "{table} is not restored: export and import it, or list it in NOT_EXPORTED with the reason"
            );
        }
    }
}
