//! A small cache of each thread in front of the cache that all threads share. A hit touches no memory that another
//! thread writes, except the key's own state.

use std::sync::Arc;

use parking_lot::Mutex;

use super::key_record::KeyRecord;
use crate::domain::api_key::SecretHash;
use crate::telemetry::tally::Sharded;

/// The largest number of slots of a thread.
const MAX_SLOTS: usize = 4096;

/// Memory of a slot with its allocation, in bytes.
const SLOT_BYTES: u64 = 96;

/// One hit in this many is also a use of the shared cache.
const HITS_PER_SHARED_USE: u32 = 16;

/// A record replaces another one in its slot only one time in this many, so that keys that are used once don't displace
/// those that are used often.
const MISSES_PER_REPLACEMENT: u32 = 8;

/// The caches of all threads.
pub(super) struct WorkerCaches {
    shards: Sharded<Mutex<WorkerCache>>,
    /// Number of slots of each thread: a power of two.
    slots: usize,
}

/// The recently used records of one thread, by a part of the hash.
#[derive(Default)]
struct WorkerCache {
    /// Empty until the first record is remembered.
    slots: Vec<Option<Slot>>,
    hits: u32,
    misses: u32,
}

/// A record. The outer `Arc` belongs to the thread: a clone of it doesn't write to the count that all threads share.
pub(super) type ThreadRecord = Arc<Arc<KeyRecord>>;

struct Slot {
    hash: SecretHash,
    record: ThreadRecord,
}

impl WorkerCaches {
    /// Creates caches that take at most about `max_bytes` of memory together. The records that they keep in memory are
    /// counted by the shared cache as long as they are in it.
    pub(super) fn new(max_bytes: u64) -> Self {
        let shards: Sharded<Mutex<WorkerCache>> = Sharded::new(Mutex::default);
        let per_shard = max_bytes / shards.shards().count() as u64 / SLOT_BYTES;
        let slots = usize::try_from(per_shard).unwrap_or(MAX_SLOTS).clamp(1, MAX_SLOTS);
        // Rounded down to a power of two.
        Self { shards, slots: 1 << slots.ilog2() }
    }

    /// The largest memory that the caches take, in bytes.
    pub(super) fn max_bytes(&self) -> u64 {
        self.shards.shards().count() as u64 * self.slots as u64 * SLOT_BYTES
    }

    /// The record that this thread remembers for a hash, and whether this use should be one of the shared cache too.
    pub(super) fn get(&self, hash: &SecretHash) -> Option<(ThreadRecord, bool)> {
        let mut cache = self.shards.local().lock();
        let slot = cache.slots.get(self.index(hash))?.as_ref().filter(|slot| slot.hash == *hash)?;
        let record = slot.record.clone();
        cache.hits = cache.hits.wrapping_add(1);
        Some((record, cache.hits.is_multiple_of(HITS_PER_SHARED_USE)))
    }

    /// Remembers a record on this thread.
    pub(super) fn insert(&self, hash: &SecretHash, record: &Arc<KeyRecord>) {
        let mut cache = self.shards.local().lock();
        if cache.slots.is_empty() {
            cache.slots.resize_with(self.slots, || None);
        }
        cache.misses = cache.misses.wrapping_add(1);
        let is_due = cache.misses.is_multiple_of(MISSES_PER_REPLACEMENT);
        let Some(slot) = cache.slots.get_mut(self.index(hash)) else { return };
        if slot.as_ref().is_none_or(|slot| slot.hash == *hash || is_due) {
            *slot = Some(Slot { hash: *hash, record: Arc::new(record.clone()) });
        }
    }

    fn index(&self, hash: &SecretHash) -> usize {
        usize::from(u16::from_le_bytes([hash[0], hash[1]])) & (self.slots - 1)
    }
}
