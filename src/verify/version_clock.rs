//! Versions of the cached records: an entry is used only if its load began after the last change of the records that it
//! was loaded from.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::invalidation::Invalidation;
use crate::telemetry::tally::CachePadded;

/// Number of version shards. When two ids share a shard, a change of one causes an unnecessary load of the
/// other, but never a wrong result.
const VERSION_SHARDS: usize = 4096;

/// Logical clock, advanced by invalidations: the version of the last change, per shard.
pub struct VersionClock {
    current: AtomicU64,
    /// Number of publications that have ended. As long as it stays the same, nothing that was found fresh has changed:
    /// it is advanced after the versions of the shards.
    published: CachePadded<AtomicU64>,
    all_version: AtomicU64,
    shard_versions: Vec<AtomicU64>,
}

/// Index of a version shard.
pub(crate) type ShardIndex = usize;

impl Default for VersionClock {
    fn default() -> Self {
        // The clock and the version of all records begin at 1, so that an entry loaded before any change is fresh, and
        // an entry with the version 0 never is.
        Self {
            current: AtomicU64::new(1),
            published: CachePadded(AtomicU64::new(0)),
            all_version: AtomicU64::new(1),
            shard_versions: (0..VERSION_SHARDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl VersionClock {
    /// The current version. A load gets the version before it begins to read.
    pub(crate) fn now(&self) -> u64 {
        self.current.load(Ordering::SeqCst)
    }

    /// Invalidates cache entries loaded from these records before this call. Call it after the commit, before
    /// the response is sent.
    pub fn publish(&self, invalidations: &[Invalidation]) {
        for invalidation in invalidations {
            // Every load that began before this line has an earlier version.
            let now = self.current.fetch_add(1, Ordering::SeqCst) + 1;
            let version = match invalidation {
                Invalidation::Id(id) => &self.shard_versions[shard(id)],
                Invalidation::Access(change) => &self.shard_versions[shard(&change.id)],
                Invalidation::Secret(hash) => &self.shard_versions[shard(hash)],
                Invalidation::All => &self.all_version,
            };
            version.fetch_max(now, Ordering::SeqCst);
        }
        self.published.0.fetch_add(1, Ordering::SeqCst);
    }

    /// True if none of the records in these shards has changed since a load that began at this version.
    pub(crate) fn is_fresh(&self, loaded_at: u64, shards: impl IntoIterator<Item = ShardIndex>) -> bool {
        let is_unchanged = |version: &AtomicU64| loaded_at >= version.load(Ordering::SeqCst);
        is_unchanged(&self.all_version)
            && shards.into_iter().all(|shard| is_unchanged(&self.shard_versions[shard]))
    }
}

pub(crate) fn shard(key: &(impl std::hash::Hash + ?Sized)) -> ShardIndex {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % VERSION_SHARDS as u64).unwrap_or(0)
}

/// When a record was loaded, and the records that it depends on. Code that stores a record checks
/// [`KeyCache::is_fresh`](super::cache::KeyCache::is_fresh) before each use.
#[derive(Debug)]
pub(super) struct Freshness {
    /// Version at which the load began.
    loaded_at: u64,
    /// The version shards of the records that the result depends on: key, organization and owner; if there is
    /// no key, of the hash.
    shards: [ShardIndex; 3],
    /// Number of publications at which the record was last found fresh, or at an earlier time. Until the next one, it is
    /// fresh without a look at the shards.
    found_fresh_at: AtomicU64,
}

impl Freshness {
    pub(super) fn new(loaded_at: u64, shards: [ShardIndex; 3]) -> Self {
        Self { loaded_at, shards, found_fresh_at: AtomicU64::new(u64::MAX) }
    }

    /// That of a record that is never fresh. Its version is 0.
    pub(super) fn never() -> Self {
        Self::new(0, [0; 3])
    }

    /// The version at which the load began; 0 for a record that is never fresh.
    pub(super) fn loaded_at(&self) -> u64 {
        self.loaded_at
    }

    /// True if none of the records has changed since the load began.
    pub(super) fn is_fresh(&self, clock: &VersionClock) -> bool {
        // Read before the shards: a publication that ends in between makes the next call look at them again.
        let published = clock.published.0.load(Ordering::SeqCst);
        if self.found_fresh_at.load(Ordering::Relaxed) == published {
            return true;
        }
        let is_fresh = clock.is_fresh(self.loaded_at, self.shards);
        if is_fresh {
            self.found_fresh_at.store(published, Ordering::Relaxed);
        }
        is_fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_loaded_is_fresh() {
        let clock = VersionClock::default();
        assert!(!Freshness::never().is_fresh(&clock));
        let loaded = Freshness::new(clock.now(), [shard("org_1"); 3]);
        assert!(loaded.is_fresh(&clock));
        clock.publish(&[Invalidation::Id("org_1".to_owned())]);
        assert!(!loaded.is_fresh(&clock));
    }
}
