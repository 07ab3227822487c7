//! Statements on the settled time, which protects the data from a wrong clock.

use super::engine::params;
use super::tx::Tx;
use crate::domain::time::Timestamp;
use crate::error::Result;

const SETTLED_TIME: &str = "settled_time";
const ACCEPTED_AT: &str = "clock_accepted_at";

/// The settled time that was stored last. A database that has stored none states the time of its last audit
/// event; `None` if it has no event either.
pub(crate) fn stored_time(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    if let Some(stored) = read_time(tx, SETTLED_TIME)? {
        return Ok(Some(stored));
    }
    let sql = "SELECT occurred_at FROM audit_events ORDER BY seq DESC LIMIT 1";
    Ok(tx.query_first(sql, &[], |row| row.get(0))?.map(Timestamp::from_millis))
}

/// Stores the settled time.
pub(crate) fn store_settled_time(tx: &Tx<'_>, settled_time: Timestamp) -> Result<()> {
    write_time(tx, SETTLED_TIME, settled_time)
}

/// The wall-clock time that the operator has accepted and that no server has followed yet.
pub(crate) fn accepted_at(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    read_time(tx, ACCEPTED_AT)
}

/// Stores that the operator accepts this wall-clock time. A running server follows it; a server that starts
/// later finds it as the settled time.
pub(crate) fn accept(tx: &Tx<'_>, time: Timestamp) -> Result<()> {
    write_time(tx, SETTLED_TIME, time)?;
    write_time(tx, ACCEPTED_AT, time)
}

/// Stores the settled time of a server that has followed the operator.
pub(crate) fn complete_acceptance(tx: &Tx<'_>, settled_time: Timestamp) -> Result<()> {
    write_time(tx, SETTLED_TIME, settled_time)?;
    tx.execute("DELETE FROM meta WHERE name = ?1", params![ACCEPTED_AT])?;
    Ok(())
}

fn read_time(tx: &Tx<'_>, name: &str) -> Result<Option<Timestamp>> {
    let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE name = ?1";
    Ok(tx.query_first(sql, params![name], |row| row.get(0))?.map(Timestamp::from_millis))
}

fn write_time(tx: &Tx<'_>, name: &str, time: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![name, time.as_millis().to_string()],
    )?;
    Ok(())
}
