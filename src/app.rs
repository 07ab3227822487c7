//! The state of the server: configuration, database, caches, limits, clock. Opened and closed here, in
//! order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use ipnet::IpNet;
use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::api_key::Credential;
use crate::domain::id::Kind;
use crate::domain::settings::Settings;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::service::aggregated::Aggregated;
use crate::service::cursors::Cursors;
use crate::service::idempotency::InFlight;
use crate::service::long_reads::LongReads;
use crate::service::scopes::CatalogueCache;
use crate::service::{housekeeping, usage};
use crate::store::{self, db};
use crate::telemetry::tally::Traffic;
use crate::verify::bucket::Buckets;
use crate::verify::cache::{KeyCache, VersionClock};
use crate::verify::quota::Quotas;
use crate::verify::recorder::Recorder;
use crate::verify::settings::SettingsCache;
use crate::verify::verifier::Verifier;

/// Maximum number of buckets in each map of the Admin API's limits, and of quota counts in memory.
const MAX_BUCKETS: usize = 100_000;
/// Maximum number of keys whose last use is waiting in memory to be stored.
const MAX_LAST_USED: usize = 1_000_000;

/// Maximum number of keys with a rate-limit bucket in memory, about 150 bytes each. Full buckets are dropped.
const MAX_VERIFIED: usize = 1_000_000;

/// Everything a request may need, shared by all requests.
pub struct App {
    /// The configuration of the process. It contains the platform's settings only as initial values; the
    /// current ones are in `settings`.
    pub config: Config,
    /// The source of the current time.
    pub clock: Clock,
    /// The database.
    pub db: db::Db,
    /// Counters of requests and responses.
    pub(crate) traffic: Traffic,
    /// The cache of credentials.
    pub keys: Arc<KeyCache>,
    /// Decides whether keys are valid.
    pub verifier: Verifier,
    /// The platform's settings, which are stored in the database and can change while the server runs.
    pub(crate) settings: Arc<SettingsCache>,
    /// Versions of the cached records, for their invalidation.
    pub version_clock: Arc<VersionClock>,
    /// The `admin` bucket of each key, by its id.
    pub(crate) admin_limits: Buckets<String>,
    /// The `batch` bucket of each key, by its id.
    pub(crate) batch_limits: Buckets<String>,
    /// Limits of failed authentications, by address.
    pub(crate) failure_limits: Buckets<IpNet>,
    /// Refusals, aggregated until their minute has closed.
    pub(crate) aggregated: Aggregated,
    /// Requests with an `Idempotency-Key` that are being processed.
    pub in_flight: Arc<InFlight>,
    /// The running audit exports and chain verifications.
    pub(crate) long_reads: Arc<LongReads>,
    /// Seals and opens the cursors of lists.
    pub(crate) cursors: Cursors,
    /// The cached catalogue of scopes.
    pub(crate) catalogue: CatalogueCache,
    /// Time of the last use of keys, by `seq`, that is not stored yet.
    pub last_used: DashMap<i64, Timestamp>,
    /// Held during a flush of the verifier's recorder.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    random: SystemRandom,
    draining: AtomicBool,
}

impl App {
    /// Opens the database and creates the caches. Fails when the file isn't a Tollhouse database, is newer
    /// than this program, or can't be opened.
    pub async fn open(config: Config, clock: Clock) -> Result<Arc<Self>> {
        let version_clock = Arc::new(VersionClock::default());
        let publisher = version_clock.clone();
        let options = db::Options {
            file: config.database.dir.join("tollhouse.db"),
            readers: config.database.readers,
            read_timeout: config.database.read_timeout,
            writer_queue: config.database.writer_queue,
            group_limit: config.database.group_limit,
            max_bytes: config.database.max_bytes,
        };
        let db = db::Db::open(&options, move |invalidations| publisher.publish(invalidations))?;
        let cursor_key = db.read(store::schema::cursor_key).await?;
        let loader = db.clone();
        let load = move |hash| -> crate::verify::cache::LoadFuture {
            let db = loader.clone();
            Box::pin(async move { db.look_up(move |tx| store::api_keys::by_hash(tx, &hash)).await })
        };
        let keys = Arc::new(KeyCache::new(config.cache.max_bytes, version_clock.clone(), load));
        let settings = Arc::new(settings(&db, &version_clock, config.initial_settings(), clock.now()).await?);
        let quotas = quotas(&db);
        let recorder = Recorder::default();
        let verifier = Verifier::new(keys.clone(), settings.clone(), MAX_VERIFIED, quotas, recorder);
        Ok(Arc::new(Self {
            traffic: Traffic::default(),
            keys,
            verifier,
            settings,
            version_clock,
            admin_limits: Buckets::new(MAX_BUCKETS),
            batch_limits: Buckets::new(MAX_BUCKETS),
            failure_limits: Buckets::new(MAX_BUCKETS),
            aggregated: Aggregated::default(),
            in_flight: Arc::default(),
            long_reads: Arc::default(),
            cursors: Cursors::new(&cursor_key)?,
            catalogue: CatalogueCache::default(),
            last_used: DashMap::new(),
            flushing: tokio::sync::Mutex::default(),
            random: SystemRandom::new(),
            draining: AtomicBool::new(false),
            config,
            clock,
            db,
        }))
    }

    /// Stores everything that is buffered in memory, then closes the database.
    pub async fn close(&self) -> Result<()> {
        let usage = usage::flush(self).await;
        let refusals = housekeeping::write_refusals(self, true).await;
        let last_used = housekeeping::write_last_used(self).await;
        let quotas = self.verifier.quotas().close().await;
        housekeeping::log_head(self, "stop").await;
        self.db.close().await;
        usage.and(refusals).and(last_used).and(quotas)
    }

    /// Makes `/readyz` report from now on that the server is shutting down.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// A new id. Fails when the operating system provides no random bytes.
    pub(crate) fn new_id(&self, kind: Kind) -> Result<String> {
        Ok(kind.new_id(self.clock.now(), self.random()?))
    }

    /// Random bits for ids.
    pub(crate) fn random(&self) -> Result<u128> {
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

    /// Records that a key makes a call now, at most once a second per key.
    pub(crate) fn note_call(&self, credential: &Credential, now: Timestamp) {
        // Checked first, because the map is shared by all cores, while `noted` is rarely written.
        let noted = &credential.memo.last_use_recorded;
        if now.as_millis() - noted.load(Ordering::Relaxed) >= 1000 {
            noted.store(now.as_millis(), Ordering::Relaxed);
            self.note_use(credential.seq, now);
        }
    }

    /// Records the last use of a key, by `seq`. Ignored for further keys while the map is full.
    pub(crate) fn note_use(&self, key_seq: i64, now: Timestamp) {
        if let Some(mut at) = self.last_used.get_mut(&key_seq) {
            *at = now.max(*at);
        } else if self.last_used.len() < MAX_LAST_USED {
            self.last_used.insert(key_seq, now);
        }
    }
}

/// The cache of the settings. Stores the initial settings if the database has none.
async fn settings(
    db: &db::Db,
    version_clock: &Arc<VersionClock>,
    initial: Settings,
    now: Timestamp,
) -> Result<SettingsCache> {
    let loaded_at = version_clock.now();
    // Checked first, so that a database with settings is not written to.
    if db.read(store::settings::find).await?.is_none() {
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

/// The quota counts. No other process leases from this database: it is served by one process.
fn quotas(db: &db::Db) -> Quotas {
    let reader = db.clone();
    let writer = db.clone();
    Quotas::new(
        MAX_BUCKETS,
        move |key, period| {
            let db = reader.clone();
            Box::pin(async move { db.look_up(move |tx| store::quotas::get(tx, key, period)).await })
        },
        move |leases| {
            let db = writer.clone();
            Box::pin(async move { db.write(move |tx| store::quotas::put(tx, &leases)).await })
        },
    )
}
