//! A small cache of each thread in front of the cache that all threads share. A hit touches no memory that another
//! thread writes, except the key's own state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::key_record::KeyRecord;
use crate::domain::api_key::SecretHash;
use crate::telemetry::tally::Sharded;

/// The largest number of slots of a thread.
const MAX_SLOTS: usize = 4096;

/// Memory of a slot with its allocation, in bytes.
const SLOT_BYTES: u64 = 96;

/// The largest record that is remembered, in bytes.
const MAX_RECORD_BYTES: u32 = 16 * 1024;

/// A thread gets a slot for this many bytes of its share, because few records take less.
const BYTES_PER_SLOT: u64 = 2048;

/// There are this many shards for each thread that verifies keys, so most shards stay empty.
const SHARDS_PER_WORKER: u64 = 4;

/// One hit in this many is also a use of the shared cache.
const HITS_PER_SHARED_USE: u32 = 16;

/// A record replaces another one in its slot only one time in this many, so that keys that are used once don't displace
/// those that are used often.
const MISSES_PER_REPLACEMENT: u32 = 8;

/// The caches of all threads. Their memory is bounded, because a record that the shared cache has evicted stays in
/// memory as long as a thread remembers it.
pub(super) struct WorkerCaches {
    shards: Sharded<Mutex<WorkerCache>>,
    /// Number of slots of each thread: a power of two.
    slots: usize,
    /// The largest memory of the records of one thread, in bytes.
    max_thread_bytes: u64,
    /// The largest memory of the records of all threads, in bytes.
    max_record_bytes: u64,
    /// Memory of the records of all threads, in bytes. A record that several threads remember counts for each.
    record_bytes: AtomicU64,
}

/// The recently used records of one thread, by a part of the hash.
#[derive(Default)]
struct WorkerCache {
    /// Empty until the first record is remembered.
    slots: Vec<Option<Slot>>,
    hits: u32,
    misses: u32,
    /// Memory of the records, in bytes.
    record_bytes: u64,
    /// The slot that is emptied next when the memory is used up.
    next_to_empty: usize,
}

/// A record. The outer `Arc` belongs to the thread: a clone of it doesn't write to the count that all threads share.
pub(super) type ThreadRecord = Arc<Arc<KeyRecord>>;

struct Slot {
    hash: SecretHash,
    record: ThreadRecord,
    /// Memory of the record, in bytes.
    weight: u32,
}

impl WorkerCaches {
    /// Creates caches that take at most about `max_bytes` of memory together, with the records that they keep in memory.
    pub(super) fn new(max_bytes: u64) -> Self {
        let shards: Sharded<Mutex<WorkerCache>> = Sharded::new(Mutex::default);
        let count = shards.shards().count() as u64;
        let per_thread = max_bytes * SHARDS_PER_WORKER / count;
        let slots = usize::try_from(per_thread / BYTES_PER_SLOT).unwrap_or(MAX_SLOTS).clamp(1, MAX_SLOTS);
        // Rounded down to a power of two.
        let slots = 1 << slots.ilog2();
        let max_record_bytes = max_bytes.saturating_sub(count * slots as u64 * SLOT_BYTES);
        let max_thread_bytes = max_record_bytes * SHARDS_PER_WORKER / count;
        Self { shards, slots, max_thread_bytes, max_record_bytes, record_bytes: AtomicU64::new(0) }
    }

    /// The record that this thread remembers for a hash, and whether this use should be one of the shared cache too.
    pub(super) fn get(&self, hash: &SecretHash) -> Option<(ThreadRecord, bool)> {
        let mut cache = self.shards.local().lock();
        let slot = cache.slots.get(self.index(hash))?.as_ref().filter(|slot| slot.hash == *hash)?;
        let record = slot.record.clone();
        cache.hits = cache.hits.wrapping_add(1);
        Some((record, cache.hits.is_multiple_of(HITS_PER_SHARED_USE)))
    }

    /// Remembers a record on this thread. `weigh` returns its memory, in bytes.
    pub(super) fn insert(&self, hash: &SecretHash, record: &Arc<KeyRecord>, weigh: impl Fn() -> u32) {
        let mut cache = self.shards.local().lock();
        let cache = &mut *cache;
        if cache.slots.is_empty() {
            cache.slots.resize_with(self.slots, || None);
        }
        cache.misses = cache.misses.wrapping_add(1);
        let is_due = cache.misses.is_multiple_of(MISSES_PER_REPLACEMENT);
        let index = self.index(hash);
        match &cache.slots[index] {
            Some(slot) if slot.hash == *hash => self.empty(cache, index),
            Some(_) if !is_due => return,
            _ => {}
        }
        let weight = weigh();
        if weight > MAX_RECORD_BYTES {
            return;
        }
        self.empty(cache, index);
        if is_due {
            self.make_room(cache, weight);
        }
        if self.has_room(cache, weight) {
            cache.record_bytes += u64::from(weight);
            self.record_bytes.fetch_add(weight.into(), Ordering::Relaxed);
            cache.slots[index] = Some(Slot { hash: *hash, record: Arc::new(record.clone()), weight });
        }
    }

    /// True if a record of this weight fits. Concurrent threads may exceed the memory of all by one record each.
    fn has_room(&self, cache: &WorkerCache, weight: u32) -> bool {
        let weight = u64::from(weight);
        cache.record_bytes + weight <= self.max_thread_bytes
            && self.record_bytes.load(Ordering::Relaxed) + weight <= self.max_record_bytes
    }

    /// Empties slots, in turn, until a record of this weight fits or no slot is left.
    fn make_room(&self, cache: &mut WorkerCache, weight: u32) {
        for _ in 0..self.slots {
            if self.has_room(cache, weight) {
                return;
            }
            self.empty(cache, cache.next_to_empty);
            cache.next_to_empty = (cache.next_to_empty + 1) & (self.slots - 1);
        }
    }

    fn empty(&self, cache: &mut WorkerCache, index: usize) {
        if let Some(slot) = cache.slots[index].take() {
            cache.record_bytes -= u64::from(slot.weight);
            self.record_bytes.fetch_sub(slot.weight.into(), Ordering::Relaxed);
        }
    }

    fn index(&self, hash: &SecretHash) -> usize {
        usize::from(u16::from_le_bytes([hash[0], hash[1]])) & (self.slots - 1)
    }
}
