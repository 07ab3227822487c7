//! Space in the file that nothing is in any more.

use super::db::Tx;
use crate::error::Result;

/// Pages that nothing is in and that can be given back: none of a file that was made without a way to do so.
pub(crate) fn free_pages(tx: &Tx<'_>) -> Result<u64> {
    const INCREMENTAL: u32 = 2;
    if tx.one("PRAGMA auto_vacuum", [], |row| row.get::<_, u32>(0))? != Some(INCREMENTAL) {
        return Ok(0);
    }
    Ok(tx.one("PRAGMA freelist_count", [], |row| row.get(0))?.unwrap_or(0))
}

/// Gives so many of them back: pages from the end of the file take their place. The file itself gets shorter
/// when the WAL is brought into it.
pub(crate) fn give_back(tx: &Tx<'_>, pages: u64) -> Result<()> {
    // It answers with a row for each page, and stops when nobody asks for the next.
    tx.all(&format!("PRAGMA incremental_vacuum({pages})"), [], |_| Ok(())).map(drop)
}
