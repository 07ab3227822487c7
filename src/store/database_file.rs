//! What only a database in a file has.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::checkpoint::CheckpointStatus;
use super::db::Db;
use super::reserve::ReserveStatus;
use super::space;
use super::tx::Tx;
use crate::error::Result;

/// The file of an open database.
pub(crate) struct DatabaseFile<'a>(&'a Db);

impl Db {
    /// The file that this database is in.
    pub(crate) fn file(&self) -> DatabaseFile<'_> {
        DatabaseFile(self)
    }
}

impl DatabaseFile<'_> {
    /// The state of the storage reserve.
    pub(crate) fn reserve(&self) -> ReserveStatus {
        self.0.0.reserve.get()
    }

    /// The state of the WAL and its checkpoints.
    pub(crate) fn checkpoints(&self) -> CheckpointStatus {
        self.0.0.checkpoints.get()
    }

    /// What is wrong with the files, without their paths.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.0.files.problem().map(|problem| problem.summary())
    }

    /// A flag that is true while the files at the database's paths aren't those that are open.
    pub(crate) fn lost_flag(&self) -> Arc<AtomicBool> {
        self.0.0.files.lost_flag()
    }

    /// Number of free pages that can be released to the file system.
    pub(crate) async fn count_free_pages(&self) -> Result<u64> {
        self.0.read(space::count_free_pages).await
    }

    /// Releases free pages to the file system, at most `max`, and keeps `spare` of them. Returns `true` if any were
    /// released.
    pub(crate) async fn release_free_pages(&self, spare: u64, max: u64) -> Result<bool> {
        let release = move |tx: &Tx<'_>| {
            let before = space::count_free_pages(tx)?;
            space::reclaim_free_pages(tx, max.min(before.saturating_sub(spare)))?;
            Ok(space::count_free_pages(tx)? < before)
        };
        self.0.write(release).await
    }
}
