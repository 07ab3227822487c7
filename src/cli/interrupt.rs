//! Ctrl-C in commands: removes unfinished files, says what was done, and ends the process with exit status 1.
//!
//! Commands work in blocking calls, so the process is ended while they run. The database tolerates that: a
//! transaction is committed completely or not at all.

use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::output;
use crate::error::{Error, Result};
use crate::store::unfinished;
use crate::telemetry::log_output;

/// Ends the process at SIGINT (Ctrl-C), SIGTERM or SIGHUP. `describe` returns what was done until then and how
/// to continue. It is called when no file can be completed any more.
pub(crate) fn end_process_on_signal(describe: impl Fn() -> String + Send + 'static) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::internal)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        unfinished::remove_all();
        if std::io::stderr().is_terminal() {
            // Clears the line with the progress bar and the terminal's ^C.
            log_output::clear_line();
        }
        output::message(&format!("interrupted: {}", describe()));
        std::process::exit(1);
    });
    Ok(())
}

/// Ends the process at a signal, like [`end_process_on_signal`], and says whether `target` was written until then.
/// `task` is what the command does, such as "export".
pub(crate) fn end_process_while_writing(target: &Path, task: &'static str) -> Result<()> {
    let target = target.to_owned();
    let inode_before = inode(&target);
    end_process_on_signal(move || {
        let name = target.display();
        match inode(&target) == inode_before {
            true => format!("{name} was not written. Run the command again to {task}."),
            false => format!("{name} is already written and complete."),
        }
    })
}

/// The inode of a file, which a replacement of the file changes. `None` if there is no file.
pub(crate) fn inode(file: &Path) -> Option<u64> {
    file.metadata().ok().map(|file| file.ino())
}

/// The file that an export is written to; `None` for standard output. A signal ends the process from now on, and says
/// whether the export is complete.
pub(crate) fn export_target(output: Option<&Path>) -> Result<Option<&Path>> {
    let target = output.filter(|target| *target != Path::new("-"));
    match target {
        Some(target) => end_process_while_writing(target, "export")?,
        None => end_process_on_signal(|| {
            "the output is not complete. Run the command again to export.".to_owned()
        })?,
    }
    Ok(target)
}
