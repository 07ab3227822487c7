//! Standard error, written by a thread of its own: a reader that has stopped reading delays only that thread.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that can wait to be written; further ones are dropped. About 2 MiB.
const MAX_WAITING_LINES: usize = 8192;

/// The longest wait for the lines to be written when the process stops.
const MAX_FLUSH: Duration = Duration::from_secs(2);

/// The log of the process; unset until [`open`] is called.
static OUTPUT: OnceLock<NonBlocking> = OnceLock::new();

/// The number of dropped lines that [`log_dropped_lines`] has reported.
static REPORTED: AtomicU64 = AtomicU64::new(0);

/// Writes the lines that wait when it is dropped.
#[must_use]
pub(crate) struct LogGuard(Option<WorkerGuard>);

/// Starts the thread that writes the lines.
pub(super) fn open() -> (NonBlocking, LogGuard) {
    let builder = NonBlockingBuilder::default().lossy(true).thread_name("log");
    let (output, guard) = builder.buffered_lines_limit(MAX_WAITING_LINES).finish(io::stderr());
    (OUTPUT.get_or_init(|| output).clone(), LogGuard(Some(guard)))
}

/// Writes text for the person who starts the server, in order with the log lines. It is plain text in either
/// format.
pub(crate) fn print(text: &str) {
    let line = format!("{text}\n");
    // A closed standard error must not fail the server.
    let _ = match OUTPUT.get() {
        Some(output) => output.clone().write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// The number of lines that were dropped because too many were waiting.
pub(crate) fn dropped_lines() -> u64 {
    OUTPUT.get().map_or(0, |output| output.error_counter().dropped_lines() as u64)
}

/// Logs the number of dropped lines if it has grown.
pub(crate) fn log_dropped_lines() {
    let total = dropped_lines();
    if total == REPORTED.load(Ordering::Relaxed) {
        return;
    }
    tracing::warn!(total, "log lines dropped: standard error was not read in time");
    // This line may have been dropped too; then the next call reports it.
    if dropped_lines() == total {
        REPORTED.store(total, Ordering::Relaxed);
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        log_dropped_lines();
        let guard = self.0.take();
        let (flushed, wait) = mpsc::channel();
        // On a thread of its own: if no line can be written, the guard says so on standard output, which may
        // have the same reader.
        let flush = thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            drop(guard);
            let _ = flushed.send(());
        });
        if flush.is_ok() {
            let _ = wait.recv_timeout(MAX_FLUSH);
        }
    }
}
