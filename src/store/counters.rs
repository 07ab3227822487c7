//! Counters of the writer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::tally::{Histogram, HistogramSnapshot};

/// Upper bounds of the buckets of the histogram of mutations per commit.
const GROUP_SIZE_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Upper bounds of the buckets of the histogram of commit times, in nanoseconds. They range from a disk with
/// a write cache to a slow disk.
#[rustfmt::skip]
const COMMIT_TIME_BOUNDS_NANOS: &[u64] = &[
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
    250_000_000, 500_000_000, 1_000_000_000, 5_000_000_000,
];

/// Totals of the writer since the database was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterTotals {
    /// Number of mutations that were committed, those of [`Db::probe`](super::db::Db::probe) included.
    pub(crate) mutations: u64,
    /// Number of committed transactions that wrote something. Each required one fsync.
    pub(crate) commits: u64,
    /// Number of mutations refused because the queue was full.
    pub(crate) refused_mutations: u64,
}

/// Queue length, group sizes and commit times of the writer.
#[derive(Clone, Debug)]
pub(crate) struct WriterMetrics {
    /// Number of mutations that are queued now.
    pub(crate) queued_mutations: u64,
    /// Number of mutations per commit.
    pub(crate) mutations_per_commit: HistogramSnapshot,
    /// Commit times, in nanoseconds.
    pub(crate) commit_nanos: HistogramSnapshot,
}

pub(super) struct WriterCounters {
    pub(super) mutations: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) waiting: AtomicU64,
    /// How often the writer has waited for a lock that another process holds.
    pub(super) lock_waits: AtomicU64,
    pub(super) groups: Histogram,
    pub(super) commit_times: Histogram,
}

impl Default for WriterCounters {
    fn default() -> Self {
        Self {
            mutations: AtomicU64::default(),
            commits: AtomicU64::default(),
            refused: AtomicU64::default(),
            waiting: AtomicU64::default(),
            lock_waits: AtomicU64::default(),
            groups: Histogram::new(GROUP_SIZE_BOUNDS),
            commit_times: Histogram::new(COMMIT_TIME_BOUNDS_NANOS),
        }
    }
}

impl WriterCounters {
    pub(super) fn stats(&self) -> WriterTotals {
        let counters = [&self.mutations, &self.commits, &self.refused];
        let [mutations, commits, refused] = counters.map(|n| n.load(Ordering::Relaxed));
        WriterTotals { mutations, commits, refused_mutations: refused }
    }

    pub(super) fn work(&self) -> WriterMetrics {
        WriterMetrics {
            queued_mutations: self.waiting.load(Ordering::Relaxed),
            mutations_per_commit: self.groups.snapshot(),
            commit_nanos: self.commit_times.snapshot(),
        }
    }
}
