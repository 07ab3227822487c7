//! The storage reserve: room that is kept for changes that only take access away, so that a full disk doesn't
//! keep a leaked key valid.
//!
//! On a full disk the reserve is a preallocated file, which is shortened step by step until a change fits. At
//! `database.max_bytes` it is a number of pages beyond that limit. While a part of it is used, the database
//! must not grow for any other reason.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::engine::Connection;
use super::file_access::copy_owner;
use super::paths::parent_directory;
use super::tx::Tx;
use crate::error::{Code, Error, Result};
use crate::telemetry::machine::free_disk_bytes;

/// Size of the reserve: of its file, and of the pages beyond `database.max_bytes`.
pub(crate) const RESERVE_BYTES: u64 = 4 << 20;

/// Number of bytes by which the file is shortened at a time. Another process that fills the disk can take the
/// bytes that are released and not used.
const STEP_BYTES: u64 = 64 << 10;

/// Time between two attempts to refill the reserve.
const REFILL_INTERVAL: Duration = Duration::from_secs(1);

/// Name of the file, beside the database.
const FILE_NAME: &str = "tollhouse.reserve";

/// The state of the reserve, for metrics and the readiness check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReserveStatus {
    /// The part that is not used.
    pub(crate) available_bytes: u64,
    /// True while a part is used; only changes that take access away are accepted then.
    pub(crate) in_use: bool,
}

/// The state of the reserve, which the writer publishes for other threads.
#[derive(Default)]
pub(super) struct SharedStatus {
    available_bytes: AtomicU64,
    in_use: AtomicBool,
}

impl SharedStatus {
    pub(super) fn get(&self) -> ReserveStatus {
        ReserveStatus {
            available_bytes: self.available_bytes.load(Ordering::Relaxed),
            in_use: self.in_use.load(Ordering::Acquire),
        }
    }
}

/// The largest size of the database file.
#[derive(Clone, Copy)]
struct PageLimit {
    pages: u64,
    page_bytes: u64,
}

impl PageLimit {
    fn reserve_pages(self) -> u64 {
        RESERVE_BYTES / self.page_bytes
    }
}

/// The reserve of one database, owned by its writer.
pub(super) struct Reserve {
    file: PathBuf,
    /// `None` without a limit on the size of the database.
    limit: Option<PageLimit>,
    /// True while the database file is longer than the limit. It may then have free pages, which must not be
    /// filled beyond the limit.
    is_file_over_limit: bool,
    next_refill: Duration,
    status: Arc<SharedStatus>,
}

impl Reserve {
    /// Fills the reserve, if there is room, and applies the page limit to the writer's connection.
    ///
    /// # Errors
    /// The errors of SQLite.
    pub(super) fn open(database: &Path, max_bytes: u64, conn: &Connection) -> Result<Self> {
        let limit = if max_bytes > 0 {
            let page_bytes: u64 = conn.query_value("PRAGMA page_size")?;
            let pages = (max_bytes / page_bytes).clamp(1, u64::from(u32::MAX) - RESERVE_BYTES / page_bytes);
            Some(PageLimit { pages, page_bytes })
        } else {
            None
        };
        let mut reserve = Self {
            file: reserve_file(database),
            limit,
            is_file_over_limit: false,
            next_refill: Duration::ZERO,
            status: Arc::default(),
        };
        reserve.restore_page_limit(conn)?;
        if !conn.is_read_only()?
            && let Err(error) = reserve.refill_file()
        {
            tracing::warn!(%error, "could not set aside the storage reserve; will retry");
        }
        reserve.update(conn)?;
        Ok(reserve)
    }

    pub(super) fn status(&self) -> Arc<SharedStatus> {
        Arc::clone(&self.status)
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.status.get().in_use
    }

    /// Lets the file grow into the pages of the reserve.
    pub(super) fn raise_page_limit(&self, conn: &Connection) -> Result<()> {
        self.limit.map_or(Ok(()), |limit| set_page_limit(conn, limit.pages + limit.reserve_pages()))
    }

    pub(super) fn restore_page_limit(&self, conn: &Connection) -> Result<()> {
        self.limit.map_or(Ok(()), |limit| set_page_limit(conn, limit.pages))
    }

    /// Refuses a transaction that fills free pages beyond the limit. SQLite itself only limits the length of the
    /// file, which is longer than the limit after the reserve was used.
    ///
    /// # Errors
    /// `STORAGE_FULL`; the errors of SQLite.
    pub(super) fn ensure_within_limit(&self, tx: &Tx<'_>) -> Result<()> {
        let Some(limit) = self.limit.filter(|_| self.is_file_over_limit) else { return Ok(()) };
        if tx.count_used_pages()? > limit.pages { Err(Error::storage_full()) } else { Ok(()) }
    }

    /// Shortens the file by one step, which leaves that much room on the disk. Returns false if nothing is left.
    pub(super) fn release_step(&self) -> bool {
        release_step(&self.file)
    }

    /// True if a part of the file was released.
    pub(super) fn is_file_short(&self) -> bool {
        file_bytes(&self.file).is_some_and(|bytes| bytes < RESERVE_BYTES)
    }

    /// Updates the published state after a change that may have used the reserve.
    pub(super) fn update(&mut self, conn: &Connection) -> Result<()> {
        let mut in_use = self.is_file_short();
        let mut available_bytes = file_bytes(&self.file).unwrap_or(0).min(RESERVE_BYTES);
        if let Some(limit) = self.limit {
            let pages: u64 = conn.query_value("PRAGMA page_count")?;
            let free: u64 = conn.query_value("PRAGMA freelist_count")?;
            let excess = pages.saturating_sub(free).saturating_sub(limit.pages);
            self.is_file_over_limit = pages > limit.pages;
            in_use |= excess > 0;
            available_bytes = available_bytes.min(RESERVE_BYTES.saturating_sub(excess * limit.page_bytes));
        }
        self.status.available_bytes.store(available_bytes, Ordering::Relaxed);
        let was_in_use = self.status.in_use.swap(in_use, Ordering::Release);
        match (was_in_use, in_use) {
            (false, true) => tracing::error!(
                available_bytes,
                "storage is full; only changes that take access away are stored, in the storage reserve"
            ),
            (true, false) => tracing::info!("storage reserve refilled; all changes are stored again"),
            _ => {}
        }
        Ok(())
    }

    /// Tries to refill the reserve if it is incomplete and the last attempt was long enough ago. `now` is
    /// monotonic time.
    pub(super) fn maintain(&mut self, conn: &Connection, now: Duration) {
        if now < self.next_refill || conn.is_read_only().unwrap_or(true) {
            return;
        }
        self.next_refill = now + REFILL_INTERVAL;
        let is_complete = file_bytes(&self.file).is_some_and(|bytes| bytes >= RESERVE_BYTES);
        if is_complete && !self.is_in_use() && !self.is_file_over_limit {
            return;
        }
        if let Err(error) = self.refill_file() {
            tracing::debug!(%error, "could not refill the storage reserve; will retry");
        }
        if let Err(error) = self.update(conn) {
            tracing::warn!(%error, "could not determine the state of the storage reserve");
        }
    }

    /// Creates the file, or lengthens it to its full size. Without enough room nothing is changed, except that a
    /// missing file stays missing.
    fn refill_file(&self) -> io::Result<()> {
        let existing = file_bytes(&self.file);
        if existing.is_some_and(|bytes| bytes >= RESERVE_BYTES) {
            return Ok(());
        }
        let missing = RESERVE_BYTES.saturating_sub(existing.unwrap_or(0));
        // Checked first, because a preallocation that fails takes the remaining room meanwhile.
        if free_disk_bytes(parent_directory(&self.file)).is_some_and(|free| free < missing) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.file)?;
        copy_owner(parent_directory(&self.file), &self.file).map_err(io::Error::other)?;
        allocate(&file).inspect_err(|_| {
            // Errors are ignored: the error to report is the one of the allocation.
            let _ = match existing {
                Some(bytes) => file.set_len(bytes),
                None => fs::remove_file(&self.file),
            };
        })
    }
}

fn set_page_limit(conn: &Connection, pages: u64) -> Result<()> {
    conn.query_value::<u64>(&format!("PRAGMA max_page_count = {pages}"))?;
    Ok(())
}

/// Runs `open`, and again after each step of the reserve that is released, as long as it fails because the disk
/// is full. Opening a database takes some room for the index of its WAL.
pub(super) fn open_with_reserve<T>(database: &Path, mut open: impl FnMut() -> Result<T>) -> Result<T> {
    let file = reserve_file(database);
    loop {
        match open() {
            Err(error) if error.code == Code::StorageFull && release_step(&file) => {}
            opened => return opened,
        }
    }
}

fn reserve_file(database: &Path) -> PathBuf {
    parent_directory(database).join(FILE_NAME)
}

fn file_bytes(file: &Path) -> Option<u64> {
    file.metadata().ok().map(|metadata| metadata.len())
}

fn release_step(file: &Path) -> bool {
    let Some(bytes) = file_bytes(file).filter(|bytes| *bytes > 0) else { return false };
    let shortened = OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|open| open.set_len(bytes.min(RESERVE_BYTES).saturating_sub(STEP_BYTES)));
    if let Err(error) = &shortened {
        tracing::error!(%error, "could not release a part of the storage reserve");
    }
    shortened.is_ok()
}

/// Allocates the blocks of the whole file.
fn allocate(file: &File) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            // The file system can't preallocate blocks; written blocks are allocated too.
            let mut output = file;
            let zeros = [0; 64 << 10];
            for _ in 0..RESERVE_BYTES / zeros.len() as u64 {
                output.write_all(&zeros)?;
            }
            file.sync_all()
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::engine;

    #[test]
    fn the_file_is_released_step_by_step_and_refilled() {
        let dir = TempDir::new().unwrap();
        let database = dir.path().join("tollhouse.db");
        File::create(&database).unwrap();
        let conn = engine::open(&database, engine::OpenMode::ReadWrite).unwrap();
        let mut reserve = Reserve::open(&database, 0, &conn).unwrap();
        let full = ReserveStatus { available_bytes: RESERVE_BYTES, in_use: false };
        assert_eq!(reserve.status.get(), full);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&reserve.file.metadata().unwrap());
        assert!(blocks * 512 >= RESERVE_BYTES, "the blocks are allocated: {blocks}");

        for released in 1..=RESERVE_BYTES / STEP_BYTES {
            assert!(reserve.release_step());
            reserve.update(&conn).unwrap();
            let available_bytes = RESERVE_BYTES - released * STEP_BYTES;
            assert_eq!(reserve.status.get(), ReserveStatus { available_bytes, in_use: true });
        }
        assert!(!reserve.release_step());
        // A restart with an incomplete file refills it.
        assert_eq!(Reserve::open(&database, 0, &conn).unwrap().status.get(), full);
        reserve.maintain(&conn, REFILL_INTERVAL);
        assert_eq!(reserve.status.get(), full);
    }
}
