//! Statements on the platform's settings.

use std::sync::Arc;

use rusqlite::params;

use super::db::Tx;
use super::rows;
use crate::domain::settings::{Current, Settings};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// The settings, read once for the whole group of changes.
pub(crate) fn get(tx: &Tx<'_>) -> Result<Arc<Current>> {
    if let Some(known) = &*tx.settings.borrow() {
        return Ok(known.clone());
    }
    let current = find(tx)?.ok_or_else(|| Error::internal("the settings are missing from the database"))?;
    let current = Arc::new(current);
    tx.settings.replace(Some(current.clone()));
    Ok(current)
}

/// The settings; `None` in a database that was just made.
pub(crate) fn find(tx: &Tx<'_>) -> Result<Option<Current>> {
    tx.one("SELECT settings, checked_prefixes, revision, updated_at FROM settings", [], |row| {
        Ok(Current {
            settings: rows::json(row, 0)?,
            checked_prefixes: rows::json(row, 1)?,
            revision: row.get(2)?,
            updated_at: rows::time(row, 3)?,
        })
    })
}

/// Stores the first values, unless there are some already.
pub(crate) fn begin(tx: &Tx<'_>, first: &Settings, now: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO settings (one, settings, checked_prefixes, revision, updated_at) VALUES (1, ?1, ?2, 1, ?3) \
         ON CONFLICT (one) DO NOTHING",
        params![rows::to_json(first)?, rows::to_json(&[&first.keys.prefix])?, now.as_millis()],
    )?;
    Ok(())
}

/// Stores the settings.
pub(crate) fn update(tx: &Tx<'_>, changed: Current) -> Result<()> {
    tx.execute(
        "UPDATE settings SET settings = ?1, checked_prefixes = ?2, revision = ?3, updated_at = ?4",
        params![
            rows::to_json(&changed.settings)?,
            rows::to_json(&changed.checked_prefixes)?,
            changed.revision,
            changed.updated_at.as_millis(),
        ],
    )?;
    tx.settings.replace(Some(Arc::new(changed)));
    Ok(())
}
