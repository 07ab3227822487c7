//! The state of the server, shared by all requests and background jobs. `service::lifecycle` opens and closes it.

pub(crate) mod aggregated;
pub(crate) mod catalogue;
pub(crate) mod cursors;
pub(crate) mod in_flight;
pub(crate) mod long_reads;
pub(crate) mod request_memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use ipnet::IpNet;
use ring::rand::{SecureRandom, SystemRandom};

use self::aggregated::AggregatedEvents;
use self::catalogue::CatalogueCache;
use self::cursors::Cursors;
use self::in_flight::InFlight;
use self::long_reads::LongReads;
use self::request_memory::RequestMemory;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::api_key::Credential;
use crate::domain::id::Kind;
use crate::domain::scope::Catalogue;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::store::db::Db;
use crate::telemetry::connections::ListenerConnections;
use crate::telemetry::repeated_requests::RepeatedRequests;
use crate::telemetry::tally::HttpMetrics;
use crate::verify::access_blocks::AccessBlocks;
use crate::verify::bucket::Buckets;
use crate::verify::cache::{KeyCache, VersionClock};
use crate::verify::call_buckets::CallBuckets;
use crate::verify::settings::SettingsCache;
use crate::verify::verifier::Verifier;

/// Maximum number of keys whose time of last use is held in memory until it is stored.
const MAX_UNSTORED_LAST_USES: usize = 1_000_000;

/// Everything a request may need, shared by all requests.
pub struct App {
    /// The configuration of the process. It contains the platform's settings only as initial values; the
    /// current ones are in `settings`.
    pub config: Config,
    /// The source of the current time.
    pub clock: Clock,
    /// The database.
    pub db: Db,
    /// The connections of the listener of the API.
    pub http_connections: Arc<ListenerConnections>,
    /// The connections of the listener of the metrics.
    pub(crate) metrics_connections: Arc<ListenerConnections>,
    /// Counters of requests and responses.
    pub(crate) traffic: HttpMetrics,
    /// Access that is denied in memory, because the change that takes it away could not be stored.
    pub(crate) access_blocks: Arc<AccessBlocks>,
    /// The cache of API keys, by the hash of their secret.
    pub keys: Arc<KeyCache>,
    /// Decides whether keys are valid.
    pub verifier: Verifier,
    /// The platform's settings, which are stored in the database and can change while the server runs.
    pub(crate) settings: Arc<SettingsCache>,
    /// Versions of the cached records, for their invalidation.
    pub version_clock: Arc<VersionClock>,
    /// Rate-limit buckets of the Admin API calls other than batches.
    pub(crate) admin_limits: CallBuckets,
    /// Rate-limit buckets of batches.
    pub(crate) batch_limits: CallBuckets,
    /// Rate-limit buckets of failed authentications, by client address.
    pub(crate) failure_limits: Buckets<IpNet>,
    /// Refused requests, aggregated in memory and written once their minute is over.
    pub(crate) aggregated: AggregatedEvents,
    /// Counts of the requests that are not logged individually.
    pub(crate) repeated_requests: RepeatedRequests,
    /// Requests with an `Idempotency-Key` that are being processed.
    pub in_flight: Arc<InFlight>,
    /// The running audit exports and chain verifications.
    pub(crate) long_reads: Arc<LongReads>,
    /// The memory for requests of the control plane.
    pub request_memory: Arc<RequestMemory>,
    /// The memory for request bodies of the data plane that arrive slowly.
    pub data_plane_memory: Arc<RequestMemory>,
    /// Seals and opens the cursors of lists.
    pub(crate) cursors: Cursors,
    /// The catalogue of scopes; see [`catalogue`](App::catalogue).
    pub(crate) catalogue: CatalogueCache,
    /// Times of last use that are not stored yet, by the key's `seq`.
    pub unstored_last_uses: DashMap<i64, Timestamp>,
    /// Locked while the verifier's recorder is flushed, so that only one flush runs at a time.
    pub(crate) flush_lock: tokio::sync::Mutex<()>,
    pub(crate) random: SystemRandom,
    /// True once the server is shutting down.
    pub(crate) draining: AtomicBool,
}

impl App {
    /// Logs how many connections were refused since the last call.
    pub(crate) fn log_refused_connections(&self) {
        self.http_connections.log_refusals();
        self.metrics_connections.log_refusals();
    }

    /// Makes `/readyz` report from now on that the server is shutting down.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The scope catalogue with all changes committed before this call.
    ///
    /// # Errors
    /// Errors of reading the database.
    pub async fn catalogue(&self) -> Result<Arc<Catalogue>> {
        self.catalogue.get(&self.db, &self.version_clock).await
    }

    /// Generates a new id of this kind. Fails when the operating system provides no random bytes.
    pub(crate) fn new_id(&self, kind: Kind) -> Result<String> {
        Ok(kind.new_id(self.clock.now(), self.random_bits()?))
    }

    /// Generates 128 random bits for an id. Fails when the operating system provides no random bytes.
    pub(crate) fn random_bits(&self) -> Result<u128> {
        let mut bytes = [0; 16];
        self.random
            .fill(&mut bytes)
            .map_err(|_| Error::internal("could not get random bytes from the operating system"))?;
        Ok(u128::from_ne_bytes(bytes))
    }

    /// The random number generator of the operating system.
    pub(crate) fn system_random(&self) -> &SystemRandom {
        &self.random
    }

    /// Records that this API key is used now. Has no effect within a second of the key's last record.
    pub(crate) fn record_call(&self, credential: &Credential, now: Timestamp) {
        // Checked before the map `last_used`, because that map is shared by all cores, while
        // `last_recorded_millis` is rarely written. The difference is negative after the clock was set back.
        let last_recorded_millis = &credential.memo.last_use_recorded_millis;
        if (now.as_millis() - last_recorded_millis.load(Ordering::Relaxed)).abs() >= 1000 {
            last_recorded_millis.store(now.as_millis(), Ordering::Relaxed);
            self.record_last_use(credential.seq, now);
        }
    }

    /// Records the time of a key's last use in `unstored_last_uses`. While that map is full, uses of keys that
    /// aren't in it yet are not recorded.
    pub(crate) fn record_last_use(&self, key_seq: i64, now: Timestamp) {
        if let Some(mut at) = self.unstored_last_uses.get_mut(&key_seq) {
            *at = now.max(*at);
        } else if self.unstored_last_uses.len() < MAX_UNSTORED_LAST_USES {
            self.unstored_last_uses.insert(key_seq, now);
        }
    }
}
