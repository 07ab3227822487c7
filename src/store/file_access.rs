//! Which files this process can read, and who owns the files that it creates.
//!
//! A command that root runs (`sudo tollhouse restore …`) creates files that belong to root, which the user of
//! the service couldn't open.

use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Code, Error, Result};

/// True if the file exists. The file isn't opened, because closing it would drop the locks that this process may
/// hold on it through SQLite.
///
/// # Errors
/// `CONFLICT` if this process may not read the file, or may not even know whether it exists.
pub(crate) fn exists(file: &Path) -> Result<bool> {
    match rustix::fs::access(file, rustix::fs::Access::READ_OK) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(Errno::ACCESS | Errno::PERM) => Err(Error::new(
            Code::Conflict,
            format!(
                "No permission to read {}. Run the command as the user of the service, for example with sudo -u.",
                file.display()
            ),
        )),
        Err(error) => Err(Error::at_path(file, error.into())),
    }
}

/// Gives `file` the owner and the group of `model`, if this process runs as root. Other users can't give files
/// away, and don't need to: what they create can be read by who created it.
pub(crate) fn copy_owner(model: &Path, file: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let copied = || -> io::Result<()> {
        let model = model.metadata()?;
        let current = file.metadata()?;
        if (model.uid(), model.gid()) != (current.uid(), current.gid()) {
            chown(file, Some(model.uid()), Some(model.gid()))?;
        }
        Ok(())
    };
    copied().map_err(|error| {
        Error::internal(format!(
            "could not set the owner of {} to that of {}: {error}",
            file.display(),
            model.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn root_gives_a_file_the_owner_of_its_model() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        let file = dir.path().join("file");
        fs::write(&model, "").unwrap();
        fs::write(&file, "").unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&model, Some(12_345), Some(23_456)).unwrap();
        }
        copy_owner(&model, &file).unwrap();
        let owner = |path: &Path| path.metadata().map(|file| (file.uid(), file.gid())).unwrap();
        assert_eq!(owner(&file), owner(&model));
    }
}
