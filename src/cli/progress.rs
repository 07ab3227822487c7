//! Progress of long work, on a terminal alone.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error; nothing where that is no terminal.
pub(crate) struct ProgressReporter {
    bar: ProgressBar,
    /// What the numbers are.
    bytes: bool,
}

impl ProgressReporter {
    /// Of anything that is counted.
    pub(crate) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, bytes: false }
    }

    /// Of bytes.
    pub(crate) fn of_bytes() -> Self {
        let mut progress = Self::new();
        progress.bytes = true;
        progress
    }

    /// What is being done, how much of it is done, and of how much (0: nobody knows).
    pub(crate) fn show(&self, what: &'static str, done: u64, of: u64) {
        let form = match (of, self.bytes) {
            (0, _) => "{spinner} {msg} {elapsed}",
            (_, true) => "{msg} {bar:30} {bytes}/{total_bytes} {eta}",
            (_, false) => "{msg} {bar:30} {human_pos}/{human_len} {eta}",
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            self.bar.set_style(style);
        }
        if of > 0 {
            self.bar.set_length(of);
        }
        self.bar.set_message(what);
        self.bar.set_position(done);
    }
}

impl Drop for ProgressReporter {
    /// Nothing of it stays on the terminal.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
