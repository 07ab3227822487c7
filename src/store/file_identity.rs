//! Detects that the database's files were moved, removed or replaced while they are open.
//!
//! SQLite keeps writing to the files that it opened, wherever they are now. A change stored in a file that
//! isn't at its path any more is lost at the next start, so nothing may be acknowledged from then on. Each
//! file is identified by its device and inode, which no other file gets while it is open.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::data_dir_lock::LOCK_FILE_NAME;
use super::paths::{parent_directory, with_suffix};
use crate::error::{Code, Error, Result};

/// Interval at which all files are compared. Within this time verifications stop after a difference.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);

/// Seconds after which a refused request may be repeated (`Retry-After`).
const RETRY_AFTER: u64 = 5;

/// Device and inode, which together identify a file while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DeviceAndInode(u64, u64);

/// A file that has to stay at its path.
#[derive(Debug)]
struct WatchedFile {
    /// What the file is, for messages: "database file".
    kind: &'static str,
    path: PathBuf,
    opened: DeviceAndInode,
}

/// A difference between an open file and the file at its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileProblem {
    kind: &'static str,
    path: PathBuf,
    what: &'static str,
    /// The error of the file system, if the path could not be examined.
    cause: Option<String>,
}

impl FileProblem {
    /// What happened, without the path, which clients may not see.
    pub(crate) fn summary(&self) -> String {
        format!("the {} {}", self.kind, self.what)
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.summary())?;
        if let Some(cause) = &self.cause {
            write!(f, " ({cause})")?;
        }
        Ok(())
    }
}

impl WatchedFile {
    /// Records the file at this path.
    fn record(kind: &'static str, path: PathBuf) -> io::Result<Self> {
        let opened = device_and_inode(&path)?;
        Ok(Self { kind, path, opened })
    }

    /// Compares the file at the path with the recorded one, with one system call.
    fn compare(&self) -> Result<(), FileProblem> {
        let (what, cause) = match device_and_inode(&self.path) {
            Ok(found) if found == self.opened => return Ok(()),
            Ok(_) => ("was replaced by another file", None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => ("was moved or removed", None),
            Err(error) => ("can't be examined", Some(error.to_string())),
        };
        Err(FileProblem { kind: self.kind, path: self.path.clone(), what, cause })
    }
}

fn device_and_inode(path: &Path) -> io::Result<DeviceAndInode> {
    fs::metadata(path).map(|file| DeviceAndInode(file.dev(), file.ino()))
}

/// The identities of the open files, and whether they are still at their paths.
#[derive(Debug)]
pub(crate) struct FileIdentity {
    /// The database file and its WAL, where each change is stored. A database on a read-only disk may have no WAL.
    written: Vec<WatchedFile>,
    /// Files by which processes coordinate: the index of the WAL, and the lock of the server if it exists.
    coordinating: Vec<WatchedFile>,
    /// True while a file isn't the one that is open. Read by each verification.
    is_lost: Arc<AtomicBool>,
    /// True if the WAL was removed when the writer looked last.
    is_wal_removed: AtomicBool,
    problem: Mutex<Option<FileProblem>>,
}

impl FileIdentity {
    /// Records the identities of the files. The database must be open in WAL mode. Without `requires_wal`, the WAL
    /// and its index may be missing: on a full disk the index may be in memory, and on a read-only disk there may be
    /// neither.
    ///
    /// # Errors
    /// `CONFLICT` when a file is missing, because it was removed just now.
    pub(in crate::store) fn record(file: &Path, requires_wal: bool) -> Result<Self> {
        let record = |kind, path: PathBuf| {
            let name = path.display().to_string();
            WatchedFile::record(kind, path).map_err(|error| {
                Error::new(Code::Conflict, format!("{name} can't be examined: {error}. Start again."))
            })
        };
        let mut written = vec![record("database file", file.to_owned())?];
        let mut coordinating = Vec::new();
        let wal = with_suffix(file, "-wal");
        if requires_wal || wal.exists() {
            written.push(record("WAL", wal)?);
        }
        let index = with_suffix(file, "-shm");
        if requires_wal || index.exists() {
            coordinating.push(record("index of the WAL", index)?);
        }
        let lock = parent_directory(file).join(LOCK_FILE_NAME);
        if lock.exists() {
            coordinating.push(record("lock file", lock)?);
        }
        Ok(Self {
            written,
            coordinating,
            is_lost: Arc::default(),
            is_wal_removed: AtomicBool::new(false),
            problem: Mutex::default(),
        })
    }

    /// Fails if the database file or its WAL isn't at its path. Called before each commit. After an earlier
    /// difference all files are compared, so that changes continue once the files are back.
    ///
    /// # Errors
    /// `UNAVAILABLE`: nothing may be stored.
    pub(in crate::store) fn ensure_in_place(&self) -> Result<()> {
        let problem = if self.is_lost() { self.compare_all() } else { self.compare_written() };
        problem.map_or(Ok(()), |problem| Err(unavailable(&problem)))
    }

    /// Fails if the database file or its WAL isn't at its path any more. Called after each commit, before its
    /// changes are acknowledged.
    ///
    /// # Errors
    /// `OUTCOME_UNKNOWN`: the changes are in a file that was moved, removed or replaced during the commit.
    pub(in crate::store) fn ensure_still_in_place(&self) -> Result<()> {
        let Some(problem) = self.compare_written() else { return Ok(()) };
        let message = format!(
            "During the commit {}, so it is unknown whether the change is kept. Retry with the same \
             Idempotency-Key.",
            problem.summary()
        );
        let retry_after = Some(RETRY_AFTER);
        Err(Error {
            cause: Some(problem.to_string()),
            retry_after,
            ..Error::new(Code::OutcomeUnknown, message)
        })
    }

    /// True while a file isn't the one that is open.
    pub(in crate::store) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// A flag that is true while a file isn't the one that is open.
    pub(in crate::store) fn lost_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_lost)
    }

    /// What is wrong with the files; `None` if nothing is.
    pub(in crate::store) fn problem(&self) -> Option<FileProblem> {
        self.problem.lock().clone()
    }

    /// True once after the WAL was removed while the database file is in place.
    pub(in crate::store) fn is_wal_newly_removed(&self) -> bool {
        let [database, wal] = self.written.as_slice() else { return false };
        let is_removed = self.is_lost() && database.compare().is_ok() && wal.compare().is_err();
        let was_removed = self.is_wal_removed.swap(is_removed, Ordering::Relaxed);
        is_removed && !was_removed
    }

    fn compare_written(&self) -> Option<FileProblem> {
        let problem = self.written.iter().find_map(|file| file.compare().err())?;
        self.set_problem(Some(problem.clone()));
        Some(problem)
    }

    fn compare_all(&self) -> Option<FileProblem> {
        let mut files = self.written.iter().chain(&self.coordinating);
        let problem = files.find_map(|file| file.compare().err());
        self.set_problem(problem.clone());
        problem
    }

    /// Stores the result of a comparison, and logs it if it differs from the previous one.
    fn set_problem(&self, problem: Option<FileProblem>) {
        let mut current = self.problem.lock();
        self.is_lost.store(problem.is_some(), Ordering::Relaxed);
        if *current == problem {
            return;
        }
        match &problem {
            Some(problem) => tracing::error!(
                problem = %problem,
                "database files changed under the running server; refusing changes and verifications until they \
                 are back or the server is restarted"
            ),
            None => tracing::info!("database files are in place again; resuming"),
        }
        *current = problem;
    }
}

fn unavailable(problem: &FileProblem) -> Error {
    let message = format!("The database isn't available: {}. Nothing was stored.", problem.summary());
    Error { cause: Some(problem.to_string()), ..Error::unavailable(message, RETRY_AFTER) }
}

/// Compares all files each second on a thread of its own, which ends when this value is dropped. The writer's
/// thread can't do it, because it may wait for a slow disk.
pub(in crate::store) struct FileWatch {
    /// Nothing is sent; the thread ends when the channel closes.
    _open: SyncSender<()>,
}

impl FileWatch {
    pub(in crate::store) fn start(files: Arc<FileIdentity>) -> Result<Self> {
        let (open, closed) = mpsc::sync_channel::<()>(0);
        let compare = move || {
            while closed.recv_timeout(COMPARE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                files.compare_all();
            }
        };
        thread::Builder::new().name("file-watch".to_owned()).spawn(compare).map_err(Error::internal)?;
        Ok(Self { _open: open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(dir: &Path) -> PathBuf {
        let file = dir.join("tollhouse.db");
        for name in ["tollhouse.db", "tollhouse.db-wal", "tollhouse.db-shm", LOCK_FILE_NAME] {
            fs::write(dir.join(name), name).unwrap();
        }
        file
    }

    #[test]
    fn a_file_that_is_gone_or_another_one_is_detected_and_its_return_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = database(dir.path());
        let files = FileIdentity::record(&file, true).unwrap();
        for (name, kind) in [
            ("tollhouse.db", "the database file"),
            ("tollhouse.db-wal", "the WAL"),
            ("tollhouse.db-shm", "the index of the WAL"),
            (LOCK_FILE_NAME, "the lock file"),
        ] {
            let path = dir.path().join(name);
            let aside = dir.path().join("aside");
            files.ensure_in_place().unwrap();
            assert_eq!(files.problem(), None);
            fs::rename(&path, &aside).unwrap();
            let removed = files.compare_all().unwrap();
            assert_eq!(removed.summary(), format!("{kind} was moved or removed"));
            fs::write(&path, "another").unwrap();
            assert_eq!(
                files.compare_all().unwrap().summary(),
                format!("{kind} was replaced by another file")
            );
            assert!(files.is_lost() && files.lost_flag().load(Ordering::Relaxed));
            let refused = files.ensure_in_place().unwrap_err();
            assert_eq!((refused.code, refused.retry_after), (Code::Unavailable, Some(RETRY_AFTER)));
            assert!(refused.cause.unwrap().contains(&path.display().to_string()));
            assert!(!refused.message.contains(&path.display().to_string()), "clients don't see paths");
            fs::rename(&aside, &path).unwrap();
        }
        files.ensure_in_place().unwrap();
        assert!(!files.is_lost());
    }

    #[test]
    fn a_difference_after_the_commit_leaves_the_outcome_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let file = database(dir.path());
        let files = FileIdentity::record(&file, true).unwrap();
        files.ensure_still_in_place().unwrap();
        fs::remove_file(with_suffix(&file, "-wal")).unwrap();
        assert_eq!(files.ensure_still_in_place().unwrap_err().code, Code::OutcomeUnknown);
        assert!(files.is_wal_newly_removed());
        assert!(!files.is_wal_newly_removed(), "it is saved only once");
        fs::remove_file(&file).unwrap();
        assert!(!files.is_wal_newly_removed());
    }
}
