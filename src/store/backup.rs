//! Copies a whole database, also while other connections write to it.
//!
//! SQLite's backup API copies pages as they are, and restarts whenever another connection writes. Here a
//! read transaction pins one state for the duration of the copy, so that it never restarts. Until the
//! copy ends, the WAL grows by everything written meanwhile.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::check;
use super::engine::{self, OpenMode, params};
use super::paths;
use super::reader::Reader;
use super::tx::Tx;
use super::tx_state::TxState;
use super::{audit, check::RowCounts};
use crate::domain::audit::ChainHash;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// Pages copied per step: half a MiB of 4 KiB pages.
const PAGES_PER_STEP: i32 = 128;

/// Pages between two syncs of the copy. Syncing in small portions keeps the fsyncs of the server from
/// waiting behind a large one.
const PAGES_PER_SYNC: i32 = 2048;

/// Pause after each step, so that the copy doesn't use the whole bandwidth of the disk.
const PAUSE_BETWEEN_STEPS: Duration = Duration::from_millis(1);

/// Properties of a finished copy of a database. `head` and `rows` are read from the source database.
pub(crate) struct CopySummary {
    /// Size of the copy, in bytes.
    pub(crate) bytes: u64,
    /// `seq` and hash of the last audit event.
    pub(crate) head: (i64, ChainHash),
    /// Number of rows of each table.
    pub(crate) rows: RowCounts,
}

/// Copies a database into an existing empty file, and syncs it to disk. The file keeps its permissions.
/// `progress` is called with the number of pages copied and their total.
///
/// # Errors
/// `CONFLICT` when the file isn't empty; the errors of SQLite and of the file system.
pub(crate) fn copy_database(
    source: &mut Reader,
    target: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<CopySummary> {
    let with_path = |error| Error::at_path(target, error);
    let file = OpenOptions::new().write(true).open(target).map_err(with_path)?;
    if file.metadata().map_err(with_path)?.len() > 0 {
        return Err(super::conflict_error(format!("{} isn't empty.", target.display())));
    }
    let mut copy = engine::open(target, OpenMode::ReadWrite)?;
    // The copy needs no journal: a partial copy is useless and is removed after a failure. The code below
    // syncs the copy, so SQLite doesn't.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2048")?;
    let state = source.conn.begin()?;
    let tx_state = TxState::default();
    let tx = Tx::new(&state, &tx_state);
    // The first read of a transaction pins the state of the database that the transaction sees.
    let head = audit::chain_head(&tx)?;
    let mut unsynced = 0;
    state.copy_pages(&mut copy, PAGES_PER_STEP, |copied, total| {
        progress(copied, total);
        unsynced += PAGES_PER_STEP;
        if unsynced >= PAGES_PER_SYNC {
            unsynced = 0;
            file.sync_data().map_err(with_path)?;
        }
        thread::sleep(PAUSE_BETWEEN_STEPS);
        Ok(())
    })?;
    let rows = check::count_rows(&tx)?;
    drop(tx);
    drop(state);
    // The copy must be a single file, without a WAL.
    copy.query_value::<String>("PRAGMA journal_mode = DELETE")?;
    copy.close()?;
    file.sync_all().map_err(with_path)?;
    let bytes = file.metadata().map_err(with_path)?.len();
    Ok(CopySummary { bytes, head, rows })
}

/// The path with `suffix` appended to the file name.
pub(crate) fn with_suffix(file: &Path, suffix: &str) -> std::path::PathBuf {
    paths::with_suffix(file, suffix)
}

/// True if both paths exist and are the same file.
pub(crate) fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// Stores the time of the last verified backup in the live database.
pub(crate) fn set_last_backup_at(tx: &Tx<'_>, at: Timestamp) -> Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES ('last_backup_at', ?1) \
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    tx.execute(sql, params![at.as_millis().to_string()])?;
    Ok(())
}
