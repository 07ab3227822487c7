//! What is held in memory until background work or the end of the process stores it.

use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;

use super::aggregated::AggregatedEvents;
use crate::domain::api_key::Credential;
use crate::domain::time::Timestamp;

/// Maximum number of keys whose time of last use is held in memory until it is stored.
const MAX_LAST_USES: usize = 1_000_000;

/// Events and times of last use. What is not stored of usage and quotas is in the verifier.
#[derive(Default)]
pub struct Unstored {
    /// Refused requests, aggregated in memory and written once their minute is over.
    pub(crate) aggregated: AggregatedEvents,
    /// Times of last use, by the key's `seq`.
    pub last_uses: DashMap<i64, Timestamp>,
    /// Locked while the verifier's recorder is flushed, so that only one flush runs at a time.
    pub(crate) flush_lock: tokio::sync::Mutex<()>,
    /// True once the server has taken over the rate limits that the last stop stored. From then on, a stop stores them
    /// again; other programs that open the database leave them alone.
    pub(crate) has_windows: AtomicBool,
    /// True while stored rate limits that were taken over still have to be deleted.
    pub(crate) has_stale_windows: AtomicBool,
}

impl Unstored {
    /// Records that this API key is used now. Has no effect within a second of the key's last record.
    pub(crate) fn record_call(&self, credential: &Credential, now: Timestamp) {
        // Checked before the map `last_uses`, because that map is shared by all cores, while
        // `last_recorded_millis` is rarely written. The difference is negative after the clock was set back.
        let last_recorded_millis = &credential.memo.last_use_recorded_millis;
        if (now.as_millis() - last_recorded_millis.load(Ordering::Relaxed)).abs() >= 1000 {
            last_recorded_millis.store(now.as_millis(), Ordering::Relaxed);
            self.record_last_use(credential.seq, now);
        }
    }

    /// Records the time of a key's last use. While `last_uses` is full, uses of keys that aren't in it yet are not
    /// recorded.
    pub(crate) fn record_last_use(&self, key_seq: i64, now: Timestamp) {
        if let Some(mut at) = self.last_uses.get_mut(&key_seq) {
            *at = now.max(*at);
        } else if self.last_uses.len() < MAX_LAST_USES {
            self.last_uses.insert(key_seq, now);
        }
    }
}
