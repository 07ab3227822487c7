//! What the writer counts of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::tally::{Histogram, Observed};

/// Sizes of groups that are told apart.
const GROUP_SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Times of commits that are told apart, in nanoseconds: from a disk with a cache of its own to a bad one.
#[rustfmt::skip]
const COMMIT_TIMES: &[u64] = &[
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
    250_000_000, 500_000_000, 1_000_000_000, 5_000_000_000,
];

/// What the writer did since the database was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Mutations that succeeded and were committed, those of [`Db::probe`](super::db::Db::probe) included.
    pub(crate) mutations: u64,
    /// Transactions that wrote something and were committed: each paid an fsync.
    pub(crate) commits: u64,
    /// Mutations turned away because the queue was full.
    pub(crate) refused: u64,
}

/// How the writer works.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Mutations that wait for it now.
    pub(crate) waiting: u64,
    /// How many shared a commit.
    pub(crate) groups: Observed,
    /// How long commits took, in nanoseconds.
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
        let (mutations, commits, refused, waiting) = Default::default();
        let (groups, commit_times) = (Histogram::new(GROUP_SIZES), Histogram::new(COMMIT_TIMES));
        Self { mutations, commits, refused, waiting, groups, commit_times }
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
