//! The cache of credentials, by the hash of their secret, and of the hashes that are nobody's.
//!
//! An entry is believed only if its load **began after** the last change of what it tells. That is
//! decided at the hit, by stamps, so nothing depends on when a fill arrives: a loader that read the row
//! before a commit and fills the cache after it leaves an entry that nobody believes. A suspended
//! organization costs one stamp, however many keys it has.

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

/// Ids share stamps; a shared one costs a needless load, never a wrong answer.
const VERSION_SHARDS: usize = 4096;

/// Hashes of which it is remembered that they are nobody's: apart from the keys, so that who guesses
/// can't push them out. About 100 bytes each.
const MAX_MISSES: u64 = 65_536;

/// What a credential takes in memory without its own texts: the record, its names, the cache's share.
const BYTES_OF_A_RECORD: usize = 1024;

/// When what was last changed, in a time that only changes move.
#[derive(Debug)]
pub struct VersionClock {
    now: AtomicU64,
    all: AtomicU64,
    by_shard: Vec<AtomicU64>,
}

/// The place of a stamp.
pub(super) type Shard = usize;

impl Default for VersionClock {
    fn default() -> Self {
        // Loads begin at 1, so that nothing is older than the beginning.
        Self {
            now: AtomicU64::new(1),
            all: AtomicU64::new(0),
            by_shard: (0..VERSION_SHARDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl VersionClock {
    /// Now; asked before a load begins to read.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Notes what changed; asked after its commit and before its answer.
    pub fn publish(&self, invalidations: &[Invalidation]) {
        for what in invalidations {
            // Every load that began before this line has an earlier time.
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            let version = match what {
                Invalidation::Id(id) => &self.by_shard[shard(id)],
                Invalidation::Secret(hash) => &self.by_shard[shard(hash)],
                Invalidation::All => &self.all,
            };
            version.fetch_max(now, Ordering::SeqCst);
        }
    }

    /// Has nothing of these changed since a load that began then?
    pub(crate) fn is_fresh<'a>(&self, began: u64, ids: impl IntoIterator<Item = &'a str>) -> bool {
        self.is_fresh_at(began, ids.into_iter().map(shard))
    }

    pub(super) fn is_fresh_at(&self, began: u64, shards: impl IntoIterator<Item = Shard>) -> bool {
        let since = |version: &AtomicU64| began >= version.load(Ordering::SeqCst);
        since(&self.all) && shards.into_iter().all(|shard| since(&self.by_shard[shard]))
    }
}

pub(super) fn shard(what: &(impl std::hash::Hash + ?Sized)) -> Shard {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    usize::try_from(hasher.finish() % VERSION_SHARDS as u64).unwrap_or(0)
}

/// A load under way.
pub type Loading = Pin<Box<dyn Future<Output = Result<Option<Credential>>> + Send>>;

/// What a load brought, and when it began. Whoever keeps one asks [`KeyCache::is_fresh`] before each use.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    began: u64,
    /// Where changes of it are stamped: its key, organization and owner; of nobody's hash, the hash.
    shards: [Shard; 3],
    credential: Option<Arc<Credential>>,
}

impl Loaded {
    /// The credential; `None` when the hash was nobody's.
    pub(crate) fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }
}

/// A load that several wait for.
type Load = Shared<BoxFuture<'static, Result<Loaded>>>;

/// Credentials by the hash of their secret; the least used go when there are too many.
pub struct KeyCache(Arc<Inner>);

struct Inner {
    found: Cache<SecretHash, Loaded, RandomState>,
    missing: Cache<SecretHash, Loaded, RandomState>,
    /// Loads under way, with the time at which they began.
    loading: DashMap<SecretHash, (u64, Load), RandomState>,
    version_clock: Arc<VersionClock>,
    /// Hits, then misses.
    looks: Counts<2>,
    load: Box<dyn Fn(SecretHash) -> Loading + Send + Sync>,
}

impl KeyCache {
    /// A cache of credentials that take about so many bytes, which misses are loaded into.
    pub fn new(
        max_bytes: u64,
        version_clock: Arc<VersionClock>,
        load: impl Fn(SecretHash) -> Loading + Send + Sync + 'static,
    ) -> Self {
        let found = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, loaded: &Loaded| loaded.credential.as_deref().map_or(1, weight))
            .build_with_hasher(RandomState::default());
        let missing = Cache::builder().max_capacity(MAX_MISSES).build_with_hasher(RandomState::default());
        let loading = DashMap::with_hasher(RandomState::default());
        let looks = Counts::default();
        Self(Arc::new(Inner { found, missing, loading, version_clock, looks, load: Box::new(load) }))
    }

    /// The credential of a secret, as of no earlier than this call: from memory when nothing of it
    /// changed since it was read, else loaded, once for all who ask. Whether it is good is for the
    /// caller to see.
    ///
    /// # Errors
    /// What the loader answers.
    pub async fn get(&self, hash: &SecretHash) -> Result<Option<Arc<Credential>>> {
        Ok(self.get_loaded(hash).await?.credential)
    }

    /// The same, to be kept.
    ///
    /// # Errors
    /// What the loader answers.
    pub(crate) async fn get_loaded(&self, hash: &SecretHash) -> Result<Loaded> {
        match self.0.remembered(hash) {
            Some(remembered) => {
                self.0.looks.add(0);
                Ok(remembered)
            }
            None => {
                self.0.looks.add(1);
                self.0.load(*hash).await
            }
        }
    }

    /// Is that still so?
    pub(crate) fn is_fresh(&self, loaded: &Loaded) -> bool {
        self.0.is_fresh(loaded)
    }

    /// How often a secret was found in memory (or that it is nobody's), and how often it was not.
    pub(crate) fn looks(&self) -> (u64, u64) {
        self.0.looks.sums().into()
    }

    /// How many credentials and misses are in memory, about.
    pub fn len(&self) -> (u64, u64) {
        self.0.found.run_pending_tasks();
        self.0.missing.run_pending_tasks();
        (self.0.found.entry_count(), self.0.missing.entry_count())
    }
}

impl Inner {
    fn remembered(&self, hash: &SecretHash) -> Option<Loaded> {
        let fresh = |loaded: &Loaded| self.is_fresh(loaded);
        self.found.get(hash).filter(fresh).or_else(|| self.missing.get(hash).filter(fresh))
    }

    fn is_fresh(&self, loaded: &Loaded) -> bool {
        self.version_clock.is_fresh_at(loaded.began, loaded.shards)
    }

    /// Joins the load of this hash, or begins one. One that began before the last change of anything is
    /// left to those who wait for it: it may have read what is no longer so.
    fn load(self: &Arc<Self>, hash: SecretHash) -> Load {
        let began = self.version_clock.now();
        match self.loading.entry(hash) {
            Entry::Occupied(entry) if entry.get().0 == began => entry.get().1.clone(),
            entry => {
                let load = self.begin(hash, began);
                entry.insert((began, load.clone()));
                load
            }
        }
    }

    /// A load runs in a task of its own: who asked first may go away, the others still get their answer.
    fn begin(self: &Arc<Self>, hash: SecretHash, began: u64) -> Load {
        let loading = (self.load)(hash);
        let done = Done { inner: self.clone(), hash, began };
        let task = tokio::spawn(async move {
            let credential = loading.await?.map(Arc::new);
            let loaded = Loaded { began, shards: shards(&hash, credential.as_deref()), credential };
            done.inner.remember(hash, loaded.clone());
            Ok(loaded)
        });
        let answer = task.map(|ended| ended.unwrap_or_else(|_| Err(Error::internal("a load panicked"))));
        answer.boxed().shared()
    }

    fn remember(&self, hash: SecretHash, loaded: Loaded) {
        let cache = if loaded.credential.is_some() { &self.found } else { &self.missing };
        cache.insert(hash, loaded);
    }
}

/// Takes a load from the list when it ends, however it ends.
struct Done {
    inner: Arc<Inner>,
    hash: SecretHash,
    began: u64,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.inner.loading.remove_if(&self.hash, |_, (began, _)| *began == self.began);
    }
}

fn shards(hash: &SecretHash, credential: Option<&Credential>) -> [Shard; 3] {
    let Some(Credential { key, .. }) = credential else { return [shard(hash); 3] };
    let id = shard(key.id.as_str());
    let or_own = |other: &Option<String>| other.as_deref().map_or(id, shard);
    [id, or_own(&key.organization_id), or_own(&key.user_id)]
}

/// About how many bytes a credential takes.
fn weight(credential: &Credential) -> u32 {
    let key = &credential.key;
    // A text of its own costs a pointer, a length and an allocation too.
    let text = |text: &String| text.len() + 40;
    let scopes: usize = key.scopes.iter().map(text).sum();
    let metadata: usize = key.metadata.iter().map(|(name, value)| text(name) + text(value)).sum();
    let cidrs = key.allowed_ips.as_ref().map_or(0, |cidrs| cidrs.len() * 32);
    let bytes = BYTES_OF_A_RECORD + key.name.len() + scopes + metadata + cidrs;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
