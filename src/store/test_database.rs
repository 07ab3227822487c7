//! Databases for the tests of the store.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::db::{Db, Options};

/// Options of a database in this directory.
pub(super) fn test_options(dir: &Path) -> Options {
    Options {
        file: dir.join("tollhouse.db"),
        must_exist: false,
        readers: 1,
        read_timeout: Duration::from_secs(10),
        writer_queue: 100,
        group_limit: 100,
        max_bytes: 0,
        external_checkpoints: false,
        allow_read_only: false,
    }
}

/// A new database, and its directory.
pub(super) fn open_new_database() -> (TempDir, Db) {
    let dir = TempDir::new().unwrap();
    let db = Db::open(&test_options(dir.path()), |_| ()).unwrap();
    (dir, db)
}
