//! `tollhouse serve --dev`: serves sample data from a temporary database.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::reload::ConfigReloader;
use super::serve::{self, InitialData};
use crate::config::{EffectiveConfig, Tls};
use crate::error::{Code, Error, Result};
use crate::store::db;

/// The first characters of the name of a temporary database directory.
const DIR_PREFIX: &str = "tollhouse-dev-";

/// Serves a month of sample data from a temporary directory. The configured database directory is not used.
pub(crate) async fn run(mut effective: EffectiveConfig, reloader: ConfigReloader) -> Result<()> {
    let config = &mut effective.config;
    if !config.http.listen.is_loopback() {
        let message = format!("--dev listens only on loopback, but http.listen is {}.", config.http.listen);
        return Err(Error::new(Code::InvalidRequest, message));
    }
    remove_abandoned_directories(&std::env::temp_dir());
    let dir = tempfile::Builder::new().prefix(DIR_PREFIX).tempdir().map_err(Error::internal)?;
    // TLS is off: loopback traffic doesn't leave the machine, and no certificate authority issues
    // certificates for loopback addresses.
    config.tls = Tls { cert: None, key: None };
    config.database.dir = dir.path().to_owned();
    config.database.must_exist = false;
    let served = serve::run(effective, InitialData::Sample, reloader).await;
    let removed = dir.close().map_err(Error::internal);
    served.and(removed)
}

/// Removes the directories of earlier runs that were killed. A running server holds the lock of its directory, and
/// one that has no lock file yet is starting.
fn remove_abandoned_directories(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(DIR_PREFIX)
            && entry.metadata().is_ok_and(|dir| dir.is_dir() && dir.uid() == user);
        if is_ours
            && db::has_lock_file(&path)
            && db::lock_data_dir(&path).is_ok_and(|_lock| fs::remove_dir_all(&path).is_ok())
        {
            tracing::info!(dir = %path.display(), "removed the temporary database of a server that was killed");
        }
    }
}
