//! Free pages of the file.

use super::tx::Tx;
use crate::error::Result;

/// Number of free pages that can be reclaimed; 0 for a file created without incremental vacuum.
pub(crate) fn count_free_pages(tx: &Tx<'_>) -> Result<u64> {
    const INCREMENTAL: u32 = 2;
    if tx.query_first("PRAGMA auto_vacuum", &[], |row| row.get::<u32>(0))? != Some(INCREMENTAL) {
        return Ok(0);
    }
    Ok(tx.query_first("PRAGMA freelist_count", &[], |row| row.get(0))?.unwrap_or(0))
}

/// Reclaims up to `pages` free pages: pages from the end of the file are moved into them. The file itself
/// becomes shorter at the next checkpoint of the WAL.
pub(crate) fn reclaim_free_pages(tx: &Tx<'_>, pages: u64) -> Result<()> {
    // The pragma returns one row per page and stops when no further row is requested.
    tx.query_all(&format!("PRAGMA incremental_vacuum({pages})"), &[], |_| Ok(())).map(drop)
}
