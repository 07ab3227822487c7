//! Limits the log lines of requests that anyone can repeat. Of the requests with the same error code in a
//! minute, the first is logged; the others are counted, and their number is logged when the minute is over.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::time::Timestamp;

/// The number of requests by minute and error code. It has few entries: there is a fixed set of codes, and
/// minutes that are over are removed.
#[derive(Default)]
pub(crate) struct RepeatedRequests(Mutex<HashMap<(Timestamp, &'static str), u64>>);

impl RepeatedRequests {
    /// Counts a request. Returns true if the request is the first with this code in its minute, and so has to
    /// be logged.
    pub(crate) fn count_request(&self, now: Timestamp, code: &'static str) -> bool {
        let mut counts = self.0.lock();
        let count = counts.entry((now.start_of_minute(), code)).or_default();
        *count += 1;
        *count == 1
    }

    /// Logs the number of requests that were only counted, for the minutes that are over. With
    /// `include_current_minute`, the current minute is logged as well.
    pub(crate) fn log_counts(&self, now: Timestamp, include_current_minute: bool) {
        let current = now.start_of_minute();
        let mut counts = self.0.lock();
        let is_due = |minute: Timestamp| include_current_minute || minute != current;
        let mut due: Vec<_> = counts.extract_if(|(minute, _), _| is_due(*minute)).collect();
        drop(counts);
        due.sort_unstable();
        for ((minute, code), count) in due.into_iter().filter(|(_, count)| *count > 1) {
            tracing::info!(%minute, code, count = count - 1, "repeated requests not logged individually");
        }
    }
}
