//! Log lines that anyone can cause: of the calls with the same result, the first of a minute has a line of its
//! own, and the others are counted in one line when the minute closes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::time::Timestamp;

/// The number of calls by minute and error code. The codes are a fixed set, and closed minutes are taken out.
#[derive(Default)]
pub(crate) struct RepeatedCalls(Mutex<HashMap<(Timestamp, &'static str), u64>>);

impl RepeatedCalls {
    /// Counts a call. True if it is the first with this code in this minute, and so is logged by itself.
    pub(crate) fn is_first(&self, now: Timestamp, code: &'static str) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((now.minute(), code)).or_default();
        *count += 1;
        *count == 1
    }

    /// Logs the calls that have no line, of the minutes that have closed or, with `all`, of every minute.
    pub(crate) fn log(&self, now: Timestamp, all: bool) {
        let current = now.minute();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut closed: Vec<_> = counts.extract_if(|(minute, _), _| all || *minute != current).collect();
        drop(counts);
        closed.sort_unstable();
        for ((minute, code), count) in closed.into_iter().filter(|(_, count)| *count > 1) {
            tracing::info!(%minute, code, count = count - 1, "requests not logged one by one");
        }
    }
}
