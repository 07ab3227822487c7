//! Counters of the writer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::tally::{Histogram, Observed};

/// Upper bounds of the histogram of group sizes.
const GROUP_SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Upper bounds of the histogram of commit times, in nanoseconds: from a disk with a write cache to a
/// slow one.
#[rustfmt::skip]
const COMMIT_TIMES: &[u64] = &[
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
    250_000_000, 500_000_000, 1_000_000_000, 5_000_000_000,
];

/// Totals since the database was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Mutations that succeeded and were committed, those of [`Db::probe`](super::db::Db::probe) included.
    pub(crate) mutations: u64,
    /// Transactions that wrote something and were committed, with one fsync each.
    pub(crate) commits: u64,
    /// Mutations refused because the queue was full.
    pub(crate) refused: u64,
}

/// Queue length, group sizes and commit times of the writer.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Mutations queued now.
    pub(crate) waiting: u64,
    /// Number of mutations per commit.
    pub(crate) groups: Observed,
    /// Commit times, in nanoseconds.
    pub(crate) commits: Observed,
}

pub(super) struct Counters {
    pub(super) mutations: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) groups: Histogram,
    pub(super) commit_times: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            mutations: AtomicU64::default(),
            commits: AtomicU64::default(),
            refused: AtomicU64::default(),
            waiting: AtomicU64::default(),
            groups: Histogram::new(GROUP_SIZES),
            commit_times: Histogram::new(COMMIT_TIMES),
        }
    }
}

impl Counters {
    pub(super) fn stats(&self) -> Stats {
        let counters = [&self.mutations, &self.commits, &self.refused];
        let [mutations, commits, refused] = counters.map(|n| n.load(Ordering::Relaxed));
        Stats { mutations, commits, refused }
    }

    pub(super) fn work(&self) -> Work {
        Work {
            waiting: self.waiting.load(Ordering::Relaxed),
            groups: self.groups.observed(),
            commits: self.commit_times.observed(),
        }
    }
}
