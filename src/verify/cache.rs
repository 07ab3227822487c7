//! The cache of credentials, by the hash of their secret.
//!
//! An entry is believed only if its load **began after** the last change of its key, organization and
//! owner. That is decided at the hit, by stamps, so nothing depends on when a fill arrives: a loader
//! that read the row before a commit and fills the cache after it leaves an entry that nobody believes.
//! A suspended organization costs one stamp, however many keys it has.

use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use super::secret::Hash;
use crate::domain::api_key::Credential;
use crate::domain::stale::Stale;
use crate::error::Result;

/// Ids share stamps; a shared one costs a needless load, never a wrong answer.
const STAMPS: usize = 4096;

/// When what was last changed, in a time that only changes move.
#[derive(Debug)]
pub struct Stamps {
    now: AtomicU64,
    all: AtomicU64,
    by_id: Vec<AtomicU64>,
}

impl Default for Stamps {
    fn default() -> Self {
        // Loads begin at 1, so that nothing is older than the beginning.
        Self {
            now: AtomicU64::new(1),
            all: AtomicU64::new(0),
            by_id: (0..STAMPS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Stamps {
    fn stamp(&self, id: &str) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        &self.by_id[usize::try_from(hasher.finish() % STAMPS as u64).unwrap_or(0)]
    }

    /// Now; asked before a load begins to read.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Notes what changed; asked after its commit and before its answer.
    pub fn mark(&self, stale: &[Stale]) {
        for what in stale {
            // Every load that began before this line has an earlier time.
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            let stamp = match what {
                Stale::Id(id) => self.stamp(id),
                Stale::All => &self.all,
            };
            stamp.fetch_max(now, Ordering::SeqCst);
        }
    }

    /// Has nothing of these changed since a load that began then?
    pub fn is_fresh<'a>(&self, began: u64, ids: impl IntoIterator<Item = &'a str>) -> bool {
        let since = |stamp: &AtomicU64| began >= stamp.load(Ordering::SeqCst);
        since(&self.all) && ids.into_iter().all(|id| since(self.stamp(id)))
    }
}

/// A load under way.
pub type Loading = Pin<Box<dyn Future<Output = Result<Option<Credential>>> + Send>>;

#[derive(Clone)]
struct Entry {
    began: u64,
    credential: Arc<Credential>,
}

/// Credentials by the hash of their secret; the least used go when there are too many.
pub struct KeyCache {
    entries: Cache<Hash, Entry>,
    stamps: Arc<Stamps>,
    load: Box<dyn Fn(Hash) -> Loading + Send + Sync>,
}

impl KeyCache {
    /// A cache of so many credentials, which misses are loaded into.
    pub fn new(
        capacity: u64,
        stamps: Arc<Stamps>,
        load: impl Fn(Hash) -> Loading + Send + Sync + 'static,
    ) -> Self {
        Self { entries: Cache::new(capacity), stamps, load: Box::new(load) }
    }

    /// The credential of a secret, as of no earlier than this call: from memory when nothing of it
    /// changed since it was read, else loaded. Whether it is good is for the caller to see.
    pub async fn get(&self, hash: &Hash) -> Result<Option<Arc<Credential>>> {
        if let Some(entry) = self.entries.get(hash)
            && self.is_fresh(&entry)
        {
            return Ok(Some(entry.credential));
        }
        let began = self.stamps.now();
        let Some(credential) = (self.load)(*hash).await? else { return Ok(None) };
        let credential = Arc::new(credential);
        self.entries.insert(*hash, Entry { began, credential: credential.clone() });
        Ok(Some(credential))
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        let key = &entry.credential.key;
        let ids = [Some(&key.id), key.organization_id.as_ref(), key.user_id.as_ref()];
        self.stamps.is_fresh(entry.began, ids.into_iter().flatten().map(String::as_str))
    }
}
