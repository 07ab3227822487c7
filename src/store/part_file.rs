//! Files that are written under a temporary name and renamed when they are complete.
//!
//! Each has a name of its own, so that two processes that write the same target don't write into one file. Its
//! writer holds a lock on it. A part without a lock was left by a process that was killed, and the next one
//! that writes the same target removes it.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file_access::copy_owner;
use super::paths::{parent_directory, sync_to_disk, with_suffix};
use super::unfinished;
use crate::error::{Code, Error, Result};

/// Number of names that are tried before creating a part fails.
const MAX_ATTEMPTS: u32 = 8;

/// A file that only its owner can read, which is removed when this value is dropped before the rename.
pub(crate) struct PartFile {
    path: PathBuf,
    target: PathBuf,
    /// Holds the lock. SQLite opens the file itself.
    file: File,
}

impl PartFile {
    /// Creates an empty file beside `target`, and removes those that dead processes left there.
    ///
    /// # Errors
    /// The errors of the file system.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        remove_abandoned(target);
        for _ in 0..MAX_ATTEMPTS {
            let path = with_suffix(target, &format!(".{:08x}.part", fastrand::u32(..)));
            let mut open = OpenOptions::new();
            open.read(true).write(true).create_new(true).mode(0o600);
            let file = match unfinished::create(&path, || open.open(&path)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::at_path(&path, error)),
            };
            let part = Self { path, target: target.to_owned(), file };
            // Another process that removes abandoned parts may have seen the file before it was locked.
            if part.file.try_lock().is_ok() && part.is_in_place() {
                return Ok(part);
            }
        }
        Err(Error::internal(format!("{}: could not create and lock a temporary file", target.display())))
    }

    /// Creates the part of a file that a command writes for the operator. It gets the owner of the replaced file,
    /// or else that of `data_dir`.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` if `target` exists and `replace` is false, `CONFLICT` if it isn't a regular file.
    pub(crate) fn create_for_operator(target: &Path, replace: bool, data_dir: &Path) -> Result<Self> {
        let model = match target.symlink_metadata() {
            // Renaming to the target would destroy a device such as /dev/null, or a symbolic link.
            Ok(existing) if !existing.is_file() => {
                let message =
                    format!("{} exists and is not a regular file. Choose another file.", target.display());
                return Err(Error::new(Code::Conflict, message));
            }
            Ok(_) if !replace => return Err(already_exists(target)),
            Ok(_) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => data_dir,
            Err(error) => return Err(Error::at_path(target, error)),
        };
        let part = Self::create(target)?;
        copy_owner(model, &part.path)?;
        Ok(part)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Renames the file to its target and syncs both to disk. Without `replace`, an existing target is kept.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when the target exists and `replace` is false; `CONFLICT` when the file at the
    /// temporary name isn't the one that was written.
    pub(crate) fn rename_to_target(self, replace: bool) -> Result<()> {
        self.file.sync_all().map_err(|error| self.error(error))?;
        if !self.is_in_place() {
            let message = format!("{} was removed or replaced while it was written.", self.path.display());
            return Err(Error::new(Code::Conflict, message));
        }
        match unfinished::end(&self.path, || rename(&self.path, &self.target, replace)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(already_exists(&self.target));
            }
            renamed => renamed.map_err(|error| self.error(error))?,
        }
        sync_to_disk(parent_directory(&self.target))
    }

    /// An error of the file, with the path of the target.
    pub(crate) fn error(&self, error: io::Error) -> Error {
        Error::at_path(&self.target, error)
    }

    /// True if the file at the path is the one that is open.
    fn is_in_place(&self) -> bool {
        let identity = |file: io::Result<fs::Metadata>| file.ok().map(|file| (file.dev(), file.ino()));
        let opened = identity(self.file.metadata());
        opened.is_some() && opened == identity(self.path.symlink_metadata())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        unfinished::end(&self.path, || {
            // After the rename, the path doesn't exist.
            if self.is_in_place() {
                let _ = unfinished::remove_with_journals(&self.path);
            }
        });
    }
}

fn already_exists(target: &Path) -> Error {
    let message = format!("{} already exists. Use --force to replace it.", target.display());
    Error::new(Code::AlreadyExists, message)
}

/// Renames a file. Without `replace`, an existing target is an error.
#[cfg(target_os = "linux")]
fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system doesn't support the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_if_absent(from, to),
        renamed => renamed.map_err(io::Error::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace { fs::rename(from, to) } else { rename_if_absent(from, to) }
}

fn rename_if_absent(from: &Path, to: &Path) -> io::Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Removes parts of this target that no process holds. Failures are ignored, because a part that remains does
/// no harm.
fn remove_abandoned(target: &Path) {
    let Some(prefix) = target.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}."))
    else {
        return;
    };
    let Ok(entries) = fs::read_dir(parent_directory(target)) else { return };
    for entry in entries.flatten().filter(|entry| is_part(entry, &prefix)) {
        let path = entry.path();
        // The lock is held until the file is removed, so that no other process takes it for its own.
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && unfinished::remove_with_journals(&path).is_ok()
        {
            tracing::info!(file = %path.display(), "removed an unfinished file of a process that was killed");
        }
    }
}

/// True if this is a regular file named `{prefix}{8 hexadecimal digits}.part`.
fn is_part(entry: &DirEntry, prefix: &str) -> bool {
    let name = entry.file_name();
    let random = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(".part"));
    random.is_some_and(|random| random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && entry.file_type().is_ok_and(|kind| kind.is_file())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn parts_of_the_dead_are_removed_and_those_of_the_living_kept() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.db");
        for left in ["b.db.0123abcd.part", "b.db.0123abcd.part-journal", "b.db.0123abcd.part-wal"] {
            fs::write(dir.path().join(left), "left by a killed process").unwrap();
        }
        for kept in ["b.db.notes.part", "b.db.0123abcd.part.old", "bb.db.0123abcd.part", "b.db.0123abcd"] {
            fs::write(dir.path().join(kept), "of somebody else").unwrap();
        }
        let one = PartFile::create(&target).unwrap();
        let two = PartFile::create(&target).unwrap();
        assert_ne!(one.path(), two.path());
        assert!(one.path().exists() && two.path().exists());
        assert!(!dir.path().join("b.db.0123abcd.part").exists());
        drop(one);
        fs::write(two.path(), "two").unwrap();
        two.rename_to_target(false).unwrap();
        let expected =
            ["b.db", "b.db.0123abcd", "b.db.0123abcd.part.old", "b.db.notes.part", "bb.db.0123abcd.part"];
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn of_two_parts_for_one_name_the_second_replaces_only_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.db");
        let parts = ["one", "two", "three"].map(|text| {
            let part = PartFile::create(&target).unwrap();
            fs::write(part.path(), text).unwrap();
            part
        });
        let [one, two, three] = parts;
        one.rename_to_target(false).unwrap();
        let refused = two.rename_to_target(false).unwrap_err();
        assert_eq!(refused.code, Code::AlreadyExists, "{refused}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "one");
        three.rename_to_target(true).unwrap();
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), names(dir.path()).len()), ("three", 1));
    }

    #[test]
    fn a_file_for_the_operator_is_complete_and_private_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("export.ndjson");
        let write = |replace, text: &str| {
            let part = PartFile::create_for_operator(&target, replace, dir.path())?;
            part.file().write_all(text.as_bytes()).unwrap();
            assert_ne!(fs::read_to_string(&target).unwrap_or_default(), text);
            part.rename_to_target(replace)
        };
        let mode = || target.metadata().unwrap().permissions().mode() & 0o777;
        write(false, "one").unwrap();
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), mode()), ("one", 0o600));
        assert_eq!(write(false, "two").unwrap_err().code, Code::AlreadyExists);
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        write(true, "three").unwrap();
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), mode()), ("three", 0o600));

        drop(PartFile::create_for_operator(&target, true, dir.path()).unwrap());
        let link = dir.path().join("link");
        symlink(&target, &link).unwrap();
        let refused = PartFile::create_for_operator(&link, true, dir.path()).map(drop).unwrap_err();
        assert!(refused.to_string().contains("link exists and is not a regular file"), "{refused}");
        assert_eq!(names(dir.path()), ["export.ndjson", "link"]);
    }

    #[test]
    fn a_part_that_was_replaced_is_not_renamed_and_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.db");
        let part = PartFile::create(&target).unwrap();
        let path = part.path().to_owned();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "of somebody else").unwrap();
        assert_eq!(part.rename_to_target(true).unwrap_err().code, Code::Conflict);
        assert!(path.exists() && !target.exists());
    }
}
