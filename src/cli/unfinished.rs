//! Ctrl-C and SIGTERM in commands: removes unfinished files and ends the process with exit status 1.
//!
//! Commands work in blocking calls, so the process is ended while they run. The database tolerates that: a
//! transaction is committed completely or not at all.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::store::unfinished;
use crate::telemetry::log_output;

/// Handles the signals from now on.
pub(crate) fn remove_on_signal() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        unfinished::remove_all();
        log_output::print_text("interrupted");
        std::process::exit(1);
    });
    Ok(())
}
