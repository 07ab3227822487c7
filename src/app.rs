//! The state of the server: configuration, database, caches, limits, clock. Opened and closed here, in
//! order.

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
use crate::config::{CheckpointMode, Config};
use crate::domain::api_key::Credential;
use crate::domain::id::Kind;
use crate::domain::scope::Catalogue;
use crate::domain::settings::Settings;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::service::{housekeeping, unstored, usage};
use crate::store::{self, db};
use crate::telemetry::connections::ListenerConnections;
use crate::telemetry::machine;
use crate::telemetry::repeated_requests::RepeatedRequests;
use crate::telemetry::tally::HttpMetrics;
use crate::verify::access_blocks::AccessBlocks;
use crate::verify::bucket::Buckets;
use crate::verify::cache::{KeyCache, VersionClock};
use crate::verify::call_buckets::CallBuckets;
use crate::verify::quota::Quotas;
use crate::verify::recorder::Recorder;
use crate::verify::settings::SettingsCache;
use crate::verify::verifier::Verifier;

/// Maximum number of rate-limit buckets in each map of the Admin API, and of quota counts in memory.
const MAX_BUCKETS_PER_MAP: usize = 100_000;
/// Maximum number of keys whose time of last use is held in memory until it is stored.
const MAX_UNSTORED_LAST_USES: usize = 1_000_000;

/// Maximum number of keys with a rate-limit bucket in the verifier. A bucket takes about 150 bytes; full
/// buckets are dropped.
const MAX_VERIFIER_BUCKETS: usize = 1_000_000;

/// Everything a request may need, shared by all requests.
pub struct App {
    /// The configuration of the process. It contains the platform's settings only as initial values; the
    /// current ones are in `settings`.
    pub config: Config,
    /// The source of the current time.
    pub clock: Clock,
    /// The database.
    pub db: db::Db,
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
    random: SystemRandom,
    draining: AtomicBool,
}

impl App {
    /// Opens the database and creates the caches. Fails when the database file isn't a Tollhouse database,
    /// has a newer schema than this program supports, or can't be opened.
    pub async fn open(config: Config, clock: Clock) -> Result<Arc<Self>> {
        Self::open_with(config, clock, false).await
    }

    /// Opens the database like [`open`](Self::open), also for reading only if it can't be written.
    pub(crate) async fn open_or_read_only(config: Config, clock: Clock) -> Result<Arc<Self>> {
        Self::open_with(config, clock, true).await
    }

    async fn open_with(config: Config, clock: Clock, allow_read_only: bool) -> Result<Arc<Self>> {
        let version_clock = Arc::new(VersionClock::default());
        let publisher = version_clock.clone();
        let access_blocks = Arc::new(AccessBlocks::default());
        let stored_blocks = access_blocks.clone();
        let options = db::Options {
            file: config.database.file(),
            must_exist: config.database.must_exist,
            readers: config.database.readers,
            read_timeout: config.database.read_timeout,
            writer_queue: config.database.writer_queue,
            group_limit: config.database.group_limit,
            max_bytes: config.database.max_bytes,
            external_checkpoints: config.database.checkpoint == CheckpointMode::External,
            allow_read_only,
        };
        let db = db::Db::open(&options, move |invalidations| {
            stored_blocks.lift_stored(invalidations);
            publisher.publish(invalidations);
        })?;
        clock.resume(db.read(store::clock::stored_time).await?);
        let cursor_key = db.read(store::schema::load_cursor_key).await?;
        let loader = db.clone();
        let blocks = access_blocks.clone();
        let load = move |hash| -> crate::verify::cache::LoadFuture {
            let db = loader.clone();
            let blocks = blocks.clone();
            Box::pin(async move {
                let loaded =
                    db.look_up(move |tx| store::api_keys::find_credential_by_hash(tx, &hash)).await?;
                Ok(loaded.map(|mut credential| {
                    blocks.apply(&mut credential);
                    credential
                }))
            })
        };
        let memory_limit_bytes = machine::memory_limit_bytes();
        let max_cache_bytes = config.cache.effective_max_bytes(memory_limit_bytes);
        let request_memory_bytes = config.http.effective_request_memory_bytes(memory_limit_bytes);
        let keys = Arc::new(KeyCache::new(max_cache_bytes, version_clock.clone(), load));
        let settings =
            Arc::new(load_settings_cache(&db, &version_clock, config.initial_settings(), clock.now()).await?);
        let quotas = quotas_stored_in(&db);
        let recorder = Recorder::default();
        let verifier = Verifier::new(
            keys.clone(),
            settings.clone(),
            clock.clone(),
            MAX_VERIFIER_BUCKETS,
            quotas,
            recorder,
            db.file().lost_flag(),
        );
        Ok(Arc::new(Self {
            http_connections: Arc::default(),
            metrics_connections: Arc::new(ListenerConnections::new("metrics")),
            traffic: HttpMetrics::default(),
            access_blocks,
            keys,
            verifier,
            settings,
            version_clock,
            admin_limits: CallBuckets::new(MAX_BUCKETS_PER_MAP),
            batch_limits: CallBuckets::new(MAX_BUCKETS_PER_MAP),
            failure_limits: Buckets::new(MAX_BUCKETS_PER_MAP),
            aggregated: AggregatedEvents::default(),
            repeated_requests: RepeatedRequests::default(),
            in_flight: Arc::default(),
            long_reads: Arc::default(),
            request_memory: RequestMemory::new(request_memory_bytes),
            data_plane_memory: RequestMemory::new(request_memory_bytes / 4),
            cursors: Cursors::new(&cursor_key)?,
            catalogue: CatalogueCache::default(),
            unstored_last_uses: DashMap::new(),
            flush_lock: tokio::sync::Mutex::default(),
            random: SystemRandom::new(),
            draining: AtomicBool::new(false),
            config,
            clock,
            db,
        }))
    }

    /// Stores everything that is buffered in memory, then closes the database. Logs what could not be stored.
    pub async fn close(&self) -> Result<()> {
        // At the same time, because each may wait for a slow disk or for a lock.
        let (usage, refusals, quotas) = tokio::join!(
            usage::flush(self),
            housekeeping::write_aggregated_events(self, true),
            self.verifier.quotas().close(),
        );
        // On a full disk, units can be returned, but not together with writes that need room.
        let quotas = match quotas {
            Err(error) if error.code == Code::StorageFull => self.verifier.quotas().close().await,
            closed => closed,
        };
        let last_used = housekeeping::write_last_used(self).await;
        let stored = usage.and(refusals).and(last_used).and(quotas);
        if let Err(error) = &stored {
            unstored::log_unstored(self, error);
        }
        self.repeated_requests.log_counts(self.clock.now(), true);
        self.log_refused_connections();
        housekeeping::log_audit_head(self, "stop").await;
        self.db.close().await;
        stored
    }

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

/// Loads the settings into a cache. Stores the initial settings first if the database has none.
async fn load_settings_cache(
    db: &db::Db,
    version_clock: &Arc<VersionClock>,
    initial: Settings,
    now: Timestamp,
) -> Result<SettingsCache> {
    let loaded_at = version_clock.now();
    // Read before writing, so that a database that already has settings is not written to.
    if db.read(store::settings::find_settings).await?.is_none() {
        db.write(move |tx| store::settings::insert_initial(tx, &initial, now)).await?;
    }
    let current = db.read(store::settings::get).await?;
    let db = db.clone();
    let load = move || -> crate::verify::settings::LoadFuture {
        let db = db.clone();
        Box::pin(async move { db.look_up(store::settings::get).await })
    };
    Ok(SettingsCache::new(version_clock.clone(), loaded_at, current, load))
}

/// Creates the quota counts, whose leases are stored in this database. Only one process serves a database, so
/// no other process leases from it.
fn quotas_stored_in(db: &db::Db) -> Quotas {
    let reader = db.clone();
    let writer = db.clone();
    Quotas::new(
        MAX_BUCKETS_PER_MAP,
        move |key, period, start| {
            let db = reader.clone();
            Box::pin(async move {
                db.look_up(move |tx| store::quotas::leased_units(tx, key, period, start)).await
            })
        },
        move |leases| {
            let db = writer.clone();
            Box::pin(async move { db.write(move |tx| store::quotas::put(tx, &leases)).await })
        },
    )
}
