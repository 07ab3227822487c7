//! The schema of this release: its SQL, its version, and the upgrades that lead to it.

use crate::error::{Error, Result};

/// Identifies a SQLite file as a Tollhouse database: "TOLL" in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x544F_4C4C;

/// The SQL that creates the latest schema.
pub(super) const SCHEMA: &str = include_str!("../../schema.sql");

/// The SQL of each schema upgrade. The first entry upgrades version 1 to 2, and so on; the last one results
/// in the schema of `schema.sql`. Upgrades run with foreign keys off, so that tables can be rebuilt; the
/// foreign keys are checked before the commit.
pub(super) const UPGRADES: &[&str] = &[];

/// The schema version of this program.
pub(in crate::store) fn latest_version() -> Result<i64> {
    Ok(1 + i64::try_from(UPGRADES.len()).map_err(Error::internal)?)
}
