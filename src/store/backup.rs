//! Copies of a whole database, also beside those who write to it.
//!
//! SQLite's backup API copies pages as they are. It would begin anew whenever another connection writes;
//! here a read transaction holds one state for the time of the copy, so that it never does. Until its end
//! the WAL grows by what is written meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::backup::{Backup, StepResult};

use super::check;
use super::db::Tx;
use super::reader::Reader;
use super::schema::{self, directory};
use super::tx::is_busy;
use super::{audit, check::Rows};
use crate::domain::audit::ChainHash;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// Pages that are copied at once: half a MiB of 4 KiB pages.
const STEP: i32 = 128;

/// Pages after which the copy is brought to the disk, so that what others sync doesn't wait behind it.
const SYNCED: i32 = 2048;

/// How long the copy rests after a step, so that it doesn't take the whole disk.
const REST: Duration = Duration::from_millis(1);

/// What was copied, by what the source itself said.
pub(crate) struct Copied {
    /// Bytes of the copy.
    pub(crate) bytes: u64,
    /// The head of the audit chain.
    pub(crate) head: (i64, ChainHash),
    /// Rows of each table.
    pub(crate) rows: Rows,
}

/// Copies a database into a new file that only its owner can read, and brings that to the disk. `progress` is
/// told how many pages are copied, and of how many.
///
/// # Errors
/// `CONFLICT` when the source isn't ours; what SQLite or the disk answers.
pub(crate) fn copy(source: &mut Reader, target: &Path, progress: &dyn Fn(u64, u64)) -> Result<Copied> {
    remove(target)?;
    let named = |error: io::Error| Error::internal(format!("{}: {error}", target.display()));
    // SQLite takes an empty file as it is, and with it the permissions.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(named)?;
    let mut copy = schema::connect(target, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Nobody needs half of it: it is synced by hand, and removed after a failure.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2048")?;
    let state = source.conn.transaction()?;
    let tx = Tx::new(&state);
    // The first read fixes the state.
    let head = audit::head(&tx)?;
    let backup = Backup::new(&state, &mut copy)?;
    let mut unsynced = 0;
    loop {
        match backup.step(STEP) {
            Ok(StepResult::Done) => break,
            Ok(_) => {}
            Err(error) if is_busy(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let at = backup.progress();
        let pages = |pages| u64::try_from(pages).unwrap_or(0);
        progress(pages(at.pagecount - at.remaining), pages(at.pagecount));
        unsynced += STEP;
        if unsynced >= SYNCED {
            unsynced = 0;
            file.sync_data().map_err(named)?;
        }
        thread::sleep(REST);
    }
    drop(backup);
    let rows = check::rows(&tx)?;
    drop(tx);
    state.finish()?;
    // One file is the whole: no WAL beside it.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    copy.close().map_err(|(_, error)| error)?;
    file.sync_all().map_err(named)?;
    let bytes = file.metadata().map_err(named)?.len();
    Ok(Copied { bytes, head, rows })
}

/// Removes a file that may not be there.
pub(crate) fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

/// Gives a whole, synced file its name, durably. One that has it already is replaced.
pub(crate) fn publish(part: &Path, target: &Path) -> Result<()> {
    fs::rename(part, target).map_err(|error| Error::internal(format!("{}: {error}", target.display())))?;
    schema::sync(directory(target))
}

/// The path with something appended.
pub(crate) fn beside(file: &Path, suffix: &str) -> std::path::PathBuf {
    schema::beside(file, suffix)
}

/// Do both paths name one file?
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// Is this on a disk that it was brought to?
pub(crate) fn sync(file: &Path) -> Result<()> {
    let synced = File::open(file).and_then(|open| open.sync_all());
    synced.map_err(|error| Error::internal(format!("{}: {error}", file.display())))
}

/// Notes in the live file when the last proven backup was made.
pub(crate) fn note(tx: &Tx<'_>, at: Timestamp) -> Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES ('last_backup_at', ?1) \
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    tx.execute(sql, [at.as_millis().to_string()])?;
    Ok(())
}
