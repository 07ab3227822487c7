//! The cache of credentials, by the hash of their secret, and of hashes that belong to no key.
//!
//! An entry is used only if its load **began after** the last change of the records it was loaded from.
//! That is decided at each hit, by versions, so it doesn't matter when a load ends: a load that read the
//! row before a commit and stores its entry after it leaves an entry that is never used. Suspending an
//! organization publishes one version, however many keys it has.

use std::hash::{DefaultHasher, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;

use crate::domain::api_key::{Credential, SecretHash};
use crate::domain::invalidation::Invalidation;
use crate::error::{Error, Result};
use crate::telemetry::tally::Counts;

/// Number of version shards. Ids that share a shard cause unnecessary loads, never a wrong answer.
const VERSION_SHARDS: usize = 4096;

/// Maximum number of entries of the negative-lookup cache, which is separate so that guessing cannot evict
/// real keys. About 100 bytes each.
const MAX_MISSES: u64 = 65_536;

/// Memory of a credential without its variable-length texts, in bytes: the record with its ids, and the
/// overhead of the cache.
const BASE_WEIGHT: usize = 1024;

/// Logical clock, advanced by invalidations: the version of the last change, per shard.
#[derive(Debug)]
pub struct VersionClock {
    now: AtomicU64,
    all: AtomicU64,
    by_shard: Vec<AtomicU64>,
}

/// Index of a version shard.
pub(super) type Shard = usize;

impl Default for VersionClock {
    fn default() -> Self {
        // The clock begins at 1 and the versions at 0, so that an entry loaded before any change is fresh.
        Self {
            now: AtomicU64::new(1),
            all: AtomicU64::new(0),
            by_shard: (0..VERSION_SHARDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl VersionClock {
    /// The current version. A load takes it before it begins to read.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Makes everything loaded before now from these records stale. Called after the commit and before the
    /// answer.
    pub fn publish(&self, invalidations: &[Invalidation]) {
        for invalidation in invalidations {
            // Every load that began before this line has an earlier version.
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            let version = match invalidation {
                Invalidation::Id(id) => &self.by_shard[shard(id)],
                Invalidation::Secret(hash) => &self.by_shard[shard(hash)],
                Invalidation::All => &self.all,
            };
            version.fetch_max(now, Ordering::SeqCst);
        }
    }

    /// True if none of these records has changed since a load that began at this version.
    pub(crate) fn is_fresh<'a>(&self, loaded_at: u64, ids: impl IntoIterator<Item = &'a str>) -> bool {
        self.is_fresh_at(loaded_at, ids.into_iter().map(shard))
    }

    pub(super) fn is_fresh_at(&self, loaded_at: u64, shards: impl IntoIterator<Item = Shard>) -> bool {
        let is_unchanged = |version: &AtomicU64| loaded_at >= version.load(Ordering::SeqCst);
        is_unchanged(&self.all) && shards.into_iter().all(|shard| is_unchanged(&self.by_shard[shard]))
    }
}

pub(super) fn shard(key: &(impl std::hash::Hash + ?Sized)) -> Shard {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % VERSION_SHARDS as u64).unwrap_or(0)
}

/// The future of a loader.
pub type LoadFuture = Pin<Box<dyn Future<Output = Result<Option<Credential>>> + Send>>;

/// The result of a load. Code that stores one checks [`KeyCache::is_fresh`] before each use.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Version at which the load began.
    loaded_at: u64,
    /// The shards of the records it depends on: key, organization and owner; without a key, the hash.
    shards: [Shard; 3],
    credential: Option<Arc<Credential>>,
}

impl Loaded {
    /// The credential; `None` when the hash belongs to no key.
    pub(crate) fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }
}

/// A load that several callers can wait for.
type SharedLoad = Shared<BoxFuture<'static, Result<Loaded>>>;

/// Credentials by the hash of their secret. The least used are evicted when the cache is full.
pub struct KeyCache(Arc<Inner>);

struct Inner {
    hits: Cache<SecretHash, Loaded, RandomState>,
    /// Negative lookups: hashes that belong to no key.
    misses: Cache<SecretHash, Loaded, RandomState>,
    /// Loads under way, with the version at which they began.
    loading: DashMap<SecretHash, (u64, SharedLoad), RandomState>,
    version_clock: Arc<VersionClock>,
    /// Lookups answered from memory, then lookups that had to be loaded.
    lookups: Counts<2>,
    load: Box<dyn Fn(SecretHash) -> LoadFuture + Send + Sync>,
}

impl KeyCache {
    /// A cache that holds credentials of about `max_bytes` in total and loads missing ones with `load`.
    pub fn new(
        max_bytes: u64,
        version_clock: Arc<VersionClock>,
        load: impl Fn(SecretHash) -> LoadFuture + Send + Sync + 'static,
    ) -> Self {
        let hits = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, loaded: &Loaded| loaded.credential.as_deref().map_or(1, weight))
            .build_with_hasher(RandomState::default());
        let misses = Cache::builder().max_capacity(MAX_MISSES).build_with_hasher(RandomState::default());
        let loading = DashMap::with_hasher(RandomState::default());
        let lookups = Counts::default();
        Self(Arc::new(Inner { hits, misses, loading, version_clock, lookups, load: Box::new(load) }))
    }

    /// The credential of a secret, including every change published before this call: from memory if it
    /// hasn't changed since it was loaded, else loaded, once for all concurrent callers. The credential may
    /// be expired, disabled or revoked: the caller checks that.
    ///
    /// # Errors
    /// Those of the loader.
    pub async fn get(&self, hash: &SecretHash) -> Result<Option<Arc<Credential>>> {
        Ok(self.get_loaded(hash).await?.credential)
    }

    /// As [`get`](Self::get), with a result that can be stored and checked with [`is_fresh`](Self::is_fresh).
    ///
    /// # Errors
    /// Those of the loader.
    pub(crate) async fn get_loaded(&self, hash: &SecretHash) -> Result<Loaded> {
        match self.0.cached(hash) {
            Some(loaded) => {
                self.0.lookups.add(0);
                Ok(loaded)
            }
            None => {
                self.0.lookups.add(1);
                self.0.load(*hash).await
            }
        }
    }

    /// True if none of the records it depends on has changed since it was loaded.
    pub(crate) fn is_fresh(&self, loaded: &Loaded) -> bool {
        self.0.is_fresh(loaded)
    }

    /// Number of lookups that were answered from memory, negative ones included, and of those that were not.
    pub(crate) fn lookup_counts(&self) -> (u64, u64) {
        self.0.lookups.sums().into()
    }

    /// Approximate number of credentials and of negative lookups in memory.
    pub fn len(&self) -> (u64, u64) {
        self.0.hits.run_pending_tasks();
        self.0.misses.run_pending_tasks();
        (self.0.hits.entry_count(), self.0.misses.entry_count())
    }
}

impl Inner {
    fn cached(&self, hash: &SecretHash) -> Option<Loaded> {
        let fresh = |loaded: &Loaded| self.is_fresh(loaded);
        self.hits.get(hash).filter(fresh).or_else(|| self.misses.get(hash).filter(fresh))
    }

    fn is_fresh(&self, loaded: &Loaded) -> bool {
        self.version_clock.is_fresh_at(loaded.loaded_at, loaded.shards)
    }

    /// Joins the load of this hash, or begins one. A load that began before the latest invalidation is not
    /// joined, because it may have read an outdated row; those already waiting for it still get its result.
    fn load(self: &Arc<Self>, hash: SecretHash) -> SharedLoad {
        let version = self.version_clock.now();
        match self.loading.entry(hash) {
            Entry::Occupied(entry) if entry.get().0 == version => entry.get().1.clone(),
            entry => {
                let load = self.spawn_load(hash, version);
                entry.insert((version, load.clone()));
                load
            }
        }
    }

    /// Runs a load in a task of its own: when the caller that began it is dropped, the others still get
    /// their result.
    fn spawn_load(self: &Arc<Self>, hash: SecretHash, version: u64) -> SharedLoad {
        let loading = (self.load)(hash);
        let guard = LoadingGuard { inner: self.clone(), hash, version };
        let task = tokio::spawn(async move {
            let credential = loading.await?.map(Arc::new);
            let shards = shards(&hash, credential.as_deref());
            let loaded = Loaded { loaded_at: version, shards, credential };
            guard.inner.insert(hash, loaded.clone());
            Ok(loaded)
        });
        let result = task.map(|ended| ended.unwrap_or_else(|_| Err(Error::internal("a load panicked"))));
        result.boxed().shared()
    }

    fn insert(&self, hash: SecretHash, loaded: Loaded) {
        let cache = if loaded.credential.is_some() { &self.hits } else { &self.misses };
        cache.insert(hash, loaded);
    }
}

/// Removes a load from `loading` when it ends, also by an error or a panic.
struct LoadingGuard {
    inner: Arc<Inner>,
    hash: SecretHash,
    version: u64,
}

impl Drop for LoadingGuard {
    fn drop(&mut self) {
        self.inner.loading.remove_if(&self.hash, |_, (version, _)| *version == self.version);
    }
}

fn shards(hash: &SecretHash, credential: Option<&Credential>) -> [Shard; 3] {
    let Some(Credential { key, .. }) = credential else { return [shard(hash); 3] };
    let own_shard = shard(key.id.as_str());
    let shard_of = |id: &Option<String>| id.as_deref().map_or(own_shard, shard);
    [own_shard, shard_of(&key.organization_id), shard_of(&key.user_id)]
}

/// Approximate memory of a credential, in bytes.
fn weight(credential: &Credential) -> u32 {
    let key = &credential.key;
    // Each text also costs a pointer, a length and an allocation.
    let text = |text: &String| text.len() + 40;
    let scopes: usize = key.scopes.iter().map(text).sum();
    let metadata: usize = key.metadata.iter().map(|(name, value)| text(name) + text(value)).sum();
    let cidrs = key.allowed_ips.as_ref().map_or(0, |cidrs| cidrs.len() * 32);
    let bytes = BASE_WEIGHT + key.name.len() + scopes + metadata + cidrs;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
