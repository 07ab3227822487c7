//! Statements on the state of rate limits while the server is stopped.

use super::engine::{self, Row, params};
use super::tx::Tx;
use crate::domain::meter::Meter;
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::window::{StoredWindow, WindowState};
use crate::error::Result;

/// Stores the state of rate limits that have none in the table.
pub(crate) fn insert(tx: &Tx<'_>, windows: &[StoredWindow]) -> Result<()> {
    for StoredWindow { subject, organization, state, stored_at } in windows {
        tx.execute(
            "INSERT INTO windows (subject, meter, window_seconds, organization, tokens, spent, owed, stored_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                subject.number(),
                state.meter.name(),
                state.window_seconds,
                organization.number(),
                state.tokens,
                state.spent_units.to_string(),
                state.owed_units.to_string(),
                stored_at.as_millis(),
            ],
        )?;
    }
    Ok(())
}

/// Fetches stored states in the order of their keys, at most `max`, after this one; `None` fetches the first.
pub(crate) fn list_after(tx: &Tx<'_>, after: Option<&StoredWindow>, max: usize) -> Result<Vec<StoredWindow>> {
    let (subject, meter, seconds) = match after {
        Some(StoredWindow { subject, state, .. }) => {
            (subject.number(), state.meter.name(), state.window_seconds)
        }
        // No meter has an empty name.
        None => (i64::MIN, "", 0),
    };
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    tx.query_all(
        "SELECT subject, meter, window_seconds, organization, tokens, spent, owed, stored_at FROM windows \
         WHERE (subject, meter, window_seconds) > (?1, ?2, ?3) \
         ORDER BY subject, meter, window_seconds LIMIT ?4",
        params![subject, meter, seconds, max],
        stored_window_from_row,
    )
}

fn stored_window_from_row(row: &Row<'_>) -> engine::Result<StoredWindow> {
    // The numbers may exceed 64 bits.
    let units = |column| -> engine::Result<u128> {
        row.get::<&str>(column)?.parse().map_err(|_| row.invalid_value(column))
    };
    Ok(StoredWindow {
        subject: Subject::from_number(row.get(0)?),
        organization: Subject::from_number(row.get(3)?),
        state: WindowState {
            meter: Meter::parse(row.get(1)?).ok_or_else(|| row.invalid_value(1))?,
            window_seconds: row.get(2)?,
            tokens: row.get(4)?,
            spent_units: units(5)?,
            owed_units: units(6)?,
        },
        stored_at: Timestamp::from_millis(row.get(7)?),
    })
}

/// True if this is a key that isn't revoked, or an organization that isn't deleted.
pub(crate) fn is_in_use(tx: &Tx<'_>, subject: Subject) -> Result<bool> {
    let (sql, seq) = match subject {
        Subject::All => return Ok(false),
        Subject::Organization(seq) => {
            ("SELECT 1 FROM organizations WHERE seq = ?1 AND deleted_at IS NULL", seq)
        }
        Subject::Key(seq) => ("SELECT 1 FROM api_keys WHERE seq = ?1 AND status <> 'revoked'", seq),
    };
    Ok(tx.query_first(sql, params![seq], |_| Ok(()))?.is_some())
}

/// Deletes all stored states.
pub(crate) fn delete_all(tx: &Tx<'_>) -> Result<()> {
    // Without a condition, SQLite frees the pages without looking at the rows.
    tx.execute("DELETE FROM windows", &[])?;
    Ok(())
}
