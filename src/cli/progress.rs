//! Progress bars of long operations, shown only on a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on standard error. The bar is hidden if standard error isn't a terminal.
pub(crate) struct ProgressReporter {
    bar: ProgressBar,
    /// True if the progress bar counts bytes, false if it counts items.
    counts_bytes: bool,
}

impl ProgressReporter {
    /// Creates a progress bar that counts items.
    pub(crate) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, counts_bytes: false }
    }

    /// Creates a progress bar that counts bytes.
    pub(crate) fn counting_bytes() -> Self {
        let mut progress = Self::new();
        progress.counts_bytes = true;
        progress
    }

    /// Shows the current step and how much of `total` is done. `total` is 0 if it is unknown.
    pub(crate) fn show(&self, step: &'static str, done: u64, total: u64) {
        let template = match (total, self.counts_bytes) {
            (0, _) => "{spinner} {msg} {elapsed}",
            (_, true) => "{msg} {bar:30} {bytes}/{total_bytes} {eta}",
            (_, false) => "{msg} {bar:30} {human_pos}/{human_len} {eta}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_message(step);
        self.bar.set_position(done);
    }
}

impl Drop for ProgressReporter {
    /// Removes the progress bar from the terminal.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
