//! Statements on the platform's settings.

use std::sync::Arc;

use super::engine::params;
use super::rows;
use super::tx::Tx;
use crate::domain::secret_prefix::KnownPrefixes;
use crate::domain::settings::{Settings, StoredSettings};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// Fetches the settings, at most once per transaction.
pub(crate) fn get(tx: &Tx<'_>) -> Result<Arc<StoredSettings>> {
    if let Some(current) = &*tx.state.settings.borrow() {
        return Ok(current.clone());
    }
    let current =
        find_settings(tx)?.ok_or_else(|| Error::internal("the settings are missing from the database"))?;
    let current = Arc::new(current);
    tx.state.settings.replace(Some(current.clone()));
    Ok(current)
}

/// Fetches the settings; `None` in a newly created database.
pub(crate) fn find_settings(tx: &Tx<'_>) -> Result<Option<StoredSettings>> {
    tx.query_first("SELECT settings, known_prefixes, revision, updated_at FROM settings", &[], |row| {
        Ok(StoredSettings {
            settings: rows::json_column(row, 0)?,
            known_prefixes: rows::json_column(row, 1)?,
            revision: row.get(2)?,
            updated_at: rows::timestamp_column(row, 3)?,
        })
    })
}

/// Stores the initial settings if the database has no settings.
pub(crate) fn insert_initial(tx: &Tx<'_>, initial: &Settings, now: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO settings (one, settings, known_prefixes, revision, updated_at) VALUES (1, ?1, ?2, 1, ?3) \
         ON CONFLICT (one) DO NOTHING",
        params![rows::to_json(initial)?, rows::to_json(&KnownPrefixes::of_new_database(&initial.keys.prefixes))?, now.as_millis()],
    )?;
    Ok(())
}

pub(crate) fn update(tx: &Tx<'_>, changed: StoredSettings) -> Result<()> {
    tx.execute(
        "UPDATE settings SET settings = ?1, known_prefixes = ?2, revision = ?3, updated_at = ?4",
        params![
            rows::to_json(&changed.settings)?,
            rows::to_json(&changed.known_prefixes)?,
            changed.revision,
            changed.updated_at.as_millis(),
        ],
    )?;
    tx.state.settings.replace(Some(Arc::new(changed)));
    Ok(())
}
