//! The cache of credentials, by the hash of their secret, and of hashes that belong to no key.
//!
//! An entry is used only if its load **began after** the last change of the records it was loaded from.
//! Each use of an entry compares versions to check that, so it doesn't matter when a load ends: a load that
//! reads a row before a commit and stores its entry after the commit leaves an entry that is never used.
//! Suspending an organization publishes one version, however many keys the organization has.

use std::pin::Pin;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use ipnet::IpNet;
use moka::sync::Cache;

use super::key_record::KeyRecord;
use super::version_clock::{Freshness, ShardIndex, VersionClock, shard};
use super::worker_cache::{ThreadRecord, WorkerCaches};
use crate::domain::api_key::{Credential, SecretHash};
use crate::domain::limits::Limit;
use crate::error::{Error, Result};
use crate::telemetry::tally::Counts;

/// Maximum number of entries of the negative-lookup cache, which is separate so that guessed secrets cannot
/// evict real keys.
const MAX_NEGATIVE_LOOKUPS: u64 = 65_536;

/// Memory of a cache entry without its credential, in bytes: the cache's lists, its table and the entry's
/// timestamps. The test `i10_cached_keys_use_no_more_memory_than_their_weight` measures it.
const ENTRY_BYTES: usize = 400;

/// Memory of the state of a key with one rate limit, in bytes, which a cached key keeps in memory.
const STATE_BYTES: usize = 512;

/// The future of a function that loads a credential from the database.
pub type LoadFuture = Pin<Box<dyn Future<Output = Result<Option<Credential>>> + Send>>;

/// The result of a load: a key, or that the hash belongs to none.
#[derive(Clone)]
enum Loaded {
    Key(Arc<KeyRecord>),
    Nobody(Arc<Freshness>),
}

impl Loaded {
    fn into_record(self) -> Option<Arc<KeyRecord>> {
        if let Loaded::Key(record) = self { Some(record) } else { None }
    }
}

/// A load that several callers can wait for.
type SharedLoad = Shared<BoxFuture<'static, Result<Loaded>>>;

/// The cache of credentials, by the hash of their secret. When the cache is full, rarely used entries are
/// evicted.
pub struct KeyCache(Arc<Inner>);

struct Inner {
    records: Cache<SecretHash, Arc<KeyRecord>, RandomState>,
    /// Negative lookups: hashes that belong to no key.
    negative_lookups: Cache<SecretHash, Arc<Freshness>, RandomState>,
    worker_caches: WorkerCaches,
    /// Loads that have not ended, each with the version at which it began.
    loading: DashMap<SecretHash, (u64, SharedLoad), RandomState>,
    version_clock: Arc<VersionClock>,
    /// Two counters: of lookups answered from memory, and of lookups that required a load.
    lookups: Counts<2>,
    loader: Box<dyn Fn(SecretHash) -> LoadFuture + Send + Sync>,
}

impl KeyCache {
    /// Creates a cache that takes at most `max_bytes` of memory and loads missing credentials with `load`.
    /// Negative lookups take at most an eighth of it, and the caches of the threads a sixteenth.
    pub fn new(
        max_bytes: u64,
        version_clock: Arc<VersionClock>,
        load: impl Fn(SecretHash) -> LoadFuture + Send + Sync + 'static,
    ) -> Self {
        let max_negative_lookups = MAX_NEGATIVE_LOOKUPS.min(max_bytes / 8 / ENTRY_BYTES as u64);
        let max_worker_bytes = max_bytes / 16;
        let worker_caches = WorkerCaches::new(max_worker_bytes);
        let reserved = max_negative_lookups * ENTRY_BYTES as u64 + max_worker_bytes;
        let records = Cache::builder()
            .max_capacity(max_bytes - reserved)
            .weigher(|_, record: &Arc<KeyRecord>| weight_bytes(&record.credential))
            .build_with_hasher(RandomState::default());
        let negative_lookups =
            Cache::builder().max_capacity(max_negative_lookups).build_with_hasher(RandomState::default());
        let loading = DashMap::with_hasher(RandomState::default());
        let lookups = Counts::default();
        Self(Arc::new(Inner {
            records,
            negative_lookups,
            worker_caches,
            loading,
            version_clock,
            lookups,
            loader: Box::new(load),
        }))
    }

    /// An upper bound of the number of keys in a cache of this size.
    pub(crate) fn max_records(max_bytes: u64) -> u64 {
        max_bytes / (ENTRY_BYTES + STATE_BYTES) as u64
    }

    /// Returns the credential of a secret, including every change published before this call. A credential
    /// that is in memory and unchanged is returned from there; otherwise it is loaded, once for all
    /// concurrent callers. The caller has to check whether the credential is expired, disabled or revoked.
    ///
    /// # Errors
    /// The errors of the loader.
    pub async fn get(&self, hash: &SecretHash) -> Result<Option<Arc<Credential>>> {
        Ok(self.get_record(hash).await?.map(|record| record.credential.clone()))
    }

    /// Like [`get`](Self::get), with the states of the key and its organization. The record can be stored and later
    /// checked with [`is_fresh`](Self::is_fresh).
    ///
    /// # Errors
    /// The errors of the loader.
    pub(crate) async fn get_record(&self, hash: &SecretHash) -> Result<Option<Arc<KeyRecord>>> {
        match self.0.get_cached(hash) {
            Some(loaded) => {
                self.0.lookups.add(0);
                Ok(loaded.into_record())
            }
            None => {
                self.0.lookups.add(1);
                Ok(Box::pin(self.0.join_or_begin_load(*hash)).await?.into_record())
            }
        }
    }

    /// The record of a key that this thread has used recently, without a look into the cache that all threads share.
    pub(super) fn get_recent(&self, hash: &SecretHash) -> Option<ThreadRecord> {
        let (record, asks_shared) = self.0.worker_caches.get(hash)?;
        if !self.0.is_fresh(&record) {
            return None;
        }
        if asks_shared {
            // So that its policy sees the use.
            drop(self.0.records.get(hash));
        }
        self.0.lookups.add(0);
        Some(record)
    }

    /// Remembers the record of a key for [`get_recent`](Self::get_recent).
    pub(super) fn remember(&self, hash: &SecretHash, record: &Arc<KeyRecord>) {
        self.0.worker_caches.insert(hash, record, || weight_bytes(&record.credential));
    }

    /// True if none of the records that this one depends on has changed since it was loaded.
    pub(crate) fn is_fresh(&self, record: &KeyRecord) -> bool {
        self.0.is_fresh(record)
    }

    /// Number of lookups answered from memory (negative lookups included), and number of lookups that
    /// required a load.
    pub(crate) fn lookup_counts(&self) -> (u64, u64) {
        self.0.lookups.sums().into()
    }

    /// Approximate number of credentials and of negative lookups in memory.
    pub fn len(&self) -> (u64, u64) {
        self.0.records.run_pending_tasks();
        self.0.negative_lookups.run_pending_tasks();
        (self.0.records.entry_count(), self.0.negative_lookups.entry_count())
    }
}

impl Inner {
    fn get_cached(&self, hash: &SecretHash) -> Option<Loaded> {
        if let Some(record) = self.records.get(hash).filter(|record| self.is_fresh(record)) {
            return Some(Loaded::Key(record));
        }
        let negative = self.negative_lookups.get(hash)?;
        negative.is_fresh(&self.version_clock).then_some(Loaded::Nobody(negative))
    }

    fn is_fresh(&self, record: &KeyRecord) -> bool {
        record.freshness.is_fresh(&self.version_clock)
    }

    /// Joins the load of this hash, or begins a load. A load that began before the latest invalidation is not
    /// joined, because it may have read an outdated row; those already waiting for it still get its result.
    fn join_or_begin_load(self: &Arc<Self>, hash: SecretHash) -> SharedLoad {
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

    /// Runs a load in a separate task, so that its other callers get the result even if the caller that began
    /// it is dropped.
    fn spawn_load(self: &Arc<Self>, hash: SecretHash, version: u64) -> SharedLoad {
        let loading = (self.loader)(hash);
        let guard = RemoveLoadOnDrop { inner: self.clone(), hash, version };
        let task = tokio::spawn(async move {
            let credential = loading.await?;
            let freshness = Freshness::new(version, dependency_shards(&hash, credential.as_ref()));
            let loaded = match credential {
                Some(credential) => Loaded::Key(Arc::new(KeyRecord::new(credential, freshness))),
                None => Loaded::Nobody(Arc::new(freshness)),
            };
            guard.inner.insert(hash, loaded.clone());
            Ok(loaded)
        });
        let result = task.map(|ended| ended.unwrap_or_else(|_| Err(Error::internal("a load panicked"))));
        result.boxed().shared()
    }

    fn insert(&self, hash: SecretHash, loaded: Loaded) {
        match loaded {
            Loaded::Key(record) => self.records.insert(hash, record),
            Loaded::Nobody(freshness) => self.negative_lookups.insert(hash, freshness),
        }
    }
}

/// Removes a load from `loading` when it ends, also by an error or a panic.
struct RemoveLoadOnDrop {
    inner: Arc<Inner>,
    hash: SecretHash,
    version: u64,
}

impl Drop for RemoveLoadOnDrop {
    fn drop(&mut self) {
        self.inner.loading.remove_if(&self.hash, |_, (version, _)| *version == self.version);
    }
}

fn dependency_shards(hash: &SecretHash, credential: Option<&Credential>) -> [ShardIndex; 3] {
    let Some(Credential { key, .. }) = credential else { return [shard(hash); 3] };
    let own_shard = shard(key.id.as_str());
    let shard_of = |id: &Option<String>| id.as_deref().map_or(own_shard, shard);
    [own_shard, shard_of(&key.organization_id), shard_of(&key.user_id)]
}

/// An upper bound of the memory that a cached credential takes, in bytes.
fn weight_bytes(credential: &Credential) -> u32 {
    let Credential { key, organization, .. } = credential;
    let optional = |text: &Option<String>| text.as_ref().map_or(0, |text| allocation_bytes(text.capacity()));
    let text = |text: &String| allocation_bytes(text.capacity());
    let scopes: usize = key.scopes.iter().map(text).sum();
    let metadata: usize = key.metadata.iter().map(|(name, value)| text(name) + text(value)).sum();
    let mut bytes = ENTRY_BYTES + allocation_bytes(size_of::<Credential>() + 16);
    bytes += allocation_bytes(size_of::<KeyRecord>() + 16) + STATE_BYTES;
    let limits = |limits: &Option<Vec<Limit>>| {
        limits.as_ref().map_or(0, |limits| allocation_bytes(limits.capacity() * size_of::<Limit>()))
    };
    bytes += limits(&key.limits) + optional(&credential.owner_external_id);
    bytes += organization.as_ref().map_or(0, |organization| limits(&organization.limits));
    bytes += text(&key.id) + optional(&key.organization_id) + optional(&key.user_id) + text(&key.name);
    bytes += text(&key.start) + optional(&key.created_by) + optional(&key.revoked_reason);
    bytes +=
        organization.as_ref().map_or(0, |organization| text(&organization.name) + text(&organization.plan));
    bytes += scopes + allocation_bytes(key.scopes.capacity() * size_of::<String>());
    bytes += metadata + key.metadata.len().div_ceil(MIN_PAIRS_PER_METADATA_NODE) * METADATA_BTREE_NODE_BYTES;
    let networks = key.allowed_ips.as_ref();
    bytes += networks.map_or(0, |networks| allocation_bytes(networks.capacity() * size_of::<IpNet>()));
    bytes += allocation_bytes(max_shared_response_json_bytes(credential));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The smallest number of pairs in a node of a `BTreeMap` that has several nodes. A node has room for 11
/// pairs.
const MIN_PAIRS_PER_METADATA_NODE: usize = 5;
/// Memory of a node of the metadata's `BTreeMap`, in bytes.
const METADATA_BTREE_NODE_BYTES: usize = 640;

/// An upper bound of the memory that an allocation of `bytes` takes: the allocator rounds sizes up by at most
/// an eighth, or to 16 bytes.
fn allocation_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes + (bytes / 8).max(15) }
}

/// An upper bound of the length of `Memo::shared_response_json`, which the first verification stores with the
/// credential.
fn max_shared_response_json_bytes(credential: &Credential) -> usize {
    let Credential { key, organization, .. } = credential;
    let text = |text: &String| {
        let escapes = text.bytes().map(|byte| match byte {
            b'"' | b'\\' => 1,
            0..0x20 => 5,
            _ => 0,
        });
        text.len() + escapes.sum::<usize>() + 4
    };
    let optional = |value: &Option<String>| value.as_ref().map_or(0, text);
    let scopes: usize = key.scopes.iter().map(text).sum();
    let metadata: usize = key.metadata.iter().map(|(name, value)| text(name) + text(value)).sum();
    let plan = organization.as_ref().map_or(0, |organization| text(&organization.plan));
    let ids = text(&key.id) + optional(&key.organization_id) + optional(&key.user_id);
    let ids = ids + optional(&credential.owner_external_id);
    // 190 bytes are enough for the names of the fields and the expiry.
    190 + ids + text(&key.name) + plan + scopes + metadata
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
