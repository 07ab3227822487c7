//! Writes log lines to standard error on a separate thread, so that a stalled reader of standard error delays
//! no request.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use super::escape::{escape_controls, escape_event};
use crate::domain::redaction::Redactor;

/// The largest number of lines that wait to be written; further lines are dropped. The lines take about 2
/// MiB.
const MAX_QUEUED_LINES: usize = 8192;

/// The time for which a process that stops waits until its queued lines are written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The queue of lines to write; unset until [`start_writer`] is called.
static LINE_QUEUE: OnceLock<NonBlocking> = OnceLock::new();

/// True if every line is a JSON object.
static WRITES_JSON: AtomicBool = AtomicBool::new(false);

/// The number of dropped lines that [`log_dropped_lines`] has logged.
static LOGGED_DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

/// Writes the queued lines when it is dropped.
#[must_use]
pub(crate) struct LogGuard(Option<WorkerGuard>);

/// Puts log lines into the queue without secrets and control characters. The code that logs passes none on purpose; this
/// catches those in messages of errors and libraries, at any log level.
#[derive(Clone)]
pub(super) struct SafeWriter(NonBlocking);

impl Write for SafeWriter {
    /// Writes one event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The line is UTF-8, which this checks much faster than `from_utf8_lossy`.
        let text = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
        self.0.write_all(escape_event(&Redactor::default().redact(&text)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<'w> MakeWriter<'w> for SafeWriter {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

/// Starts the thread that writes queued lines to standard error.
pub(super) fn start_writer() -> (SafeWriter, LogGuard) {
    let builder = NonBlockingBuilder::default().lossy(true).thread_name("log");
    let (output, guard) = builder.buffered_lines_limit(MAX_QUEUED_LINES).finish(io::stderr());
    (SafeWriter(LINE_QUEUE.get_or_init(|| output).clone()), LogGuard(Some(guard)))
}

/// Declares that every line is a JSON object from now on.
pub(super) fn use_json() {
    WRITES_JSON.store(true, Ordering::Relaxed);
}

/// True if every line is a JSON object.
pub(crate) fn writes_json() -> bool {
    WRITES_JSON.load(Ordering::Relaxed)
}

/// Writes plain text to standard error, in order with the log lines. Control characters are escaped. While lines are
/// JSON, a [`Notice`](super::notice::Notice) must be used instead.
pub(crate) fn print_text(text: &str) {
    print_line(&format!("{}\n", escape_controls(text)));
}

/// Writes a line to standard error as it is, in order with the log lines.
pub(super) fn print_line(line: &str) {
    // Errors are ignored: the server must run even if standard error is closed.
    let _ = match LINE_QUEUE.get() {
        Some(output) => output.clone().write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Clears the line of the terminal, on which a progress bar may be.
pub(crate) fn clear_line() {
    print_line("\r\x1b[K");
}

/// The number of lines that were dropped because the queue was full.
pub(crate) fn dropped_line_count() -> u64 {
    LINE_QUEUE.get().map_or(0, |output| output.error_counter().dropped_lines() as u64)
}

/// Logs the number of dropped lines if it has grown since it was last logged.
pub(crate) fn log_dropped_lines() {
    let total = dropped_line_count();
    if total == LOGGED_DROPPED_LINES.load(Ordering::Relaxed) {
        return;
    }
    tracing::warn!(total, "log lines dropped: standard error was not read in time");
    // If the line above was dropped too, the next call repeats it.
    if dropped_line_count() == total {
        LOGGED_DROPPED_LINES.store(total, Ordering::Relaxed);
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        log_dropped_lines();
        let guard = self.0.take();
        let (flushed, wait) = mpsc::channel();
        // The worker guard is dropped on a separate thread: if no line can be written, it prints a message to
        // standard output, which may have the same stalled reader.
        let flush = thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            drop(guard);
            let _ = flushed.send(());
        });
        if flush.is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}
