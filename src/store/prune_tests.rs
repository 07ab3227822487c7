//! Tests of what the regular deletion of expired rows costs while nothing has expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Connection, open_in_memory};
use super::tx::Tx;
use super::tx_state::TxState;
use super::{audit, idempotency, quotas, usage, usage_reports, verification_log};
use crate::domain::limits::Period;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Number of rows in each table.
const ROWS: u64 = 10_000;
/// The time of the oldest row, in milliseconds. Each row is a second younger than the one before.
const FIRST: i64 = 1_800_000_000_000;

fn at_row(number: u64) -> Timestamp {
    Timestamp::from_millis(FIRST + i64::try_from(number).unwrap() * 1000)
}

/// A database with many rows in each table from which the housekeeping deletes.
fn open_filled() -> Connection {
    let conn = open_in_memory().unwrap();
    conn.execute_batch(include_str!("../../schema.sql")).unwrap();
    // No keys are stored.
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {})",
        ROWS - 1
    );
    let at = format!("{FIRST} + n * 1000");
    let counts = ["0"; 11].join(", ");
    for insert in [
        format!(
            "INSERT INTO idempotency (name, key_seq, request, created_at, bytes, status, sealed, answer) \
             {numbers} SELECT CAST(n AS BLOB), 1, x'', {at}, 1, 200, 0, x'' FROM numbers"
        ),
        format!(
            "INSERT INTO verification_log (minute, code, aggregation_key, count, first_at, last_at) \
             {numbers} SELECT {at}, 'REVOKED', n, 1, {at}, {at} FROM numbers"
        ),
        format!(
            "INSERT INTO audit_events (id, occurred_at, action, access, outcome, prev_hash, hash, event) \
             {numbers} SELECT CAST(n AS BLOB), {at}, 'whoami.read', 'read', 'success', x'', x'', '{{}}' FROM numbers"
        ),
        format!(
            "INSERT INTO usage_reports (key_seq, id, costs, reported_at) \
             {numbers} SELECT 1, n, '{{}}', {at} FROM numbers"
        ),
        format!(
            "INSERT INTO quotas (period, started_at, subject, meter, leased) \
             {numbers} SELECT 'day', {at}, n, 'requests', 1 FROM numbers"
        ),
        format!("INSERT INTO usage_hourly {numbers} SELECT {at}, n, {counts} FROM numbers"),
        format!(
            "INSERT INTO usage_units_hourly (start, subject, meter, units) \
             {numbers} SELECT {at}, n, 'tokens', 1 FROM numbers"
        ),
    ] {
        conn.execute_batch(&insert).unwrap_or_else(|error| panic!("{insert}: {error:?}"));
    }
    conn
}

/// Runs `work` and returns the number of steps of SQLite's virtual machine. A row that is looked at takes some of them.
fn count_steps<T>(conn: &Connection, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> (T, u64) {
    let steps = Arc::new(AtomicU64::new(0));
    let counter = steps.clone();
    conn.interrupt_when(1, move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    })
    .unwrap();
    let result = work(&Tx::new(conn, &TxState::default())).unwrap();
    conn.interrupt_when(1, || false).unwrap();
    (result, steps.load(Ordering::Relaxed))
}

#[test]
fn i10_a_search_for_expired_rows_reads_no_others() {
    let conn = open_filled();
    let (before, now) = (at_row(0), at_row(ROWS));
    let max = 100;
    let (deleted, steps) = count_steps(&conn, |tx| {
        assert!(!idempotency::prune(tx, before, now, max, u64::MAX)?);
        assert_eq!(audit::last_prunable_event(tx, before, now)?, None);
        assert_eq!(audit::last_pruning_checkpoint(tx)?, None);
        Ok(usage::prune(tx, before, before, max)?
            + verification_log::prune(tx, before, now, max)?
            + quotas::prune(tx, Period::Day, before, now, max)?
            + usage_reports::prune(tx, before, now, max)?)
    });
    assert_eq!(deleted, 0);
    assert!(steps < ROWS / 10, "{steps} steps");

    // Rows that seem to be from the future are found beside one that has expired, and only then.
    let expired = at_row(1);
    let now = at_row(ROWS - 10);
    assert_eq!(count_steps(&conn, |tx| verification_log::prune(tx, before, now, max)).0, 0);
    let first_two = "UPDATE verification_log SET minute = minute + 1000000000 WHERE seq <= 2; \
                     UPDATE idempotency SET created_at = created_at + 1000000000 WHERE seq <= 2; \
                     UPDATE verification_log SET minute = 1 WHERE seq = 5; \
                     UPDATE idempotency SET created_at = 1 WHERE seq = 5;";
    conn.execute_batch(first_two).unwrap();
    let left = |table| conn.query_value::<u64>(&format!("SELECT count(*) FROM {table}")).unwrap();
    let (_, steps) = count_steps(&conn, |tx| {
        verification_log::prune(tx, expired, now, max)?;
        idempotency::prune(tx, expired, now, max, u64::MAX)
    });
    assert_eq!((left("verification_log"), left("idempotency")), (ROWS - 3, ROWS - 3));
    assert!(steps < ROWS / 10, "{steps} steps");
}
