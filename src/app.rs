//! The house as a whole: what was configured, the database, the caches and limits, the clock. Opened
//! and closed here, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use ipnet::IpNet;
use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::api_key::Credential;
use crate::domain::id::Kind;
use crate::domain::scope::Catalogue;
use crate::domain::settings::Settings;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::service::aggregated::Aggregated;
use crate::service::cursors::Cursors;
use crate::service::idempotency::InFlight;
use crate::service::{housekeeping, usage};
use crate::store::{self, db};
use crate::telemetry::tally::Traffic;
use crate::verify::bucket::Buckets;
use crate::verify::cache::{KeyCache, VersionClock};
use crate::verify::quota::Quotas;
use crate::verify::recorder::Recorder;
use crate::verify::settings::SettingsCache;
use crate::verify::verifier::Verifier;

/// Distinct keys, and distinct addresses without a valid key, whose limits are kept in memory.
const MAX_BUCKETS: usize = 100_000;
/// Distinct keys whose time of use waits in memory.
const MAX_USES: usize = 1_000_000;

/// Verified keys whose limits are kept in memory, about 150 bytes each while they aren't at rest.
const MAX_VERIFIED: usize = 1_000_000;

/// Everything that a call may need. Shared by all of them.
pub struct App {
    /// What was configured. Of the platform's settings these are the first values: `settings` has what they
    /// are.
    pub config: Config,
    /// The only "now".
    pub clock: Clock,
    /// The database.
    pub db: db::Db,
    /// Requests and their answers, counted.
    pub(crate) traffic: Traffic,
    /// Credentials in memory.
    pub keys: Arc<KeyCache>,
    /// Says whether a key is good.
    pub verifier: Verifier,
    /// The platform's settings, which are data and change while the server runs.
    pub(crate) settings: Arc<SettingsCache>,
    /// What changed when.
    pub version_clock: Arc<VersionClock>,
    /// The `admin` bucket of each key, by its id.
    pub(crate) admin_limits: Buckets<String>,
    /// The `batch` bucket of each key, by its id.
    pub(crate) batch_limits: Buckets<String>,
    /// Failed authentications by address.
    pub(crate) failure_limits: Buckets<IpNet>,
    /// Refusals that wait for their minute to close.
    pub(crate) aggregated: Aggregated,
    /// Calls with an `Idempotency-Key` that are being answered.
    pub in_flight: Arc<InFlight>,
    /// Seals the cursors of lists.
    pub(crate) cursors: Cursors,
    /// The catalogue of scopes with the time at which its load began.
    pub(crate) catalogue: std::sync::Mutex<Option<(u64, Arc<Catalogue>)>>,
    /// When keys, by `seq`, were used since that was last written down.
    pub used: DashMap<i64, Timestamp>,
    /// Held while what the verifier's recorder counted is being written.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    random: SystemRandom,
    draining: AtomicBool,
}

impl App {
    /// Opens the database and builds the caches around it. Fails when the file isn't ours, is newer
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
        let load = move |hash| -> crate::verify::cache::Loading {
            let db = loader.clone();
            Box::pin(async move { db.look_up(move |tx| store::api_keys::by_hash(tx, &hash)).await })
        };
        let keys = Arc::new(KeyCache::new(config.cache.max_bytes, version_clock.clone(), load));
        let settings = Arc::new(settings(&db, &version_clock, config.initial_settings(), clock.now()).await?);
        let (quotas, recorder) = (quotas(&db), Recorder::default());
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
            cursors: Cursors::new(&cursor_key)?,
            catalogue: std::sync::Mutex::new(None),
            used: DashMap::new(),
            flushing: tokio::sync::Mutex::default(),
            random: SystemRandom::new(),
            draining: AtomicBool::new(false),
            config,
            clock,
            db,
        }))
    }

    /// Writes down what waits in memory, then closes the database.
    pub async fn close(&self) -> Result<()> {
        let counted = usage::flush(self).await;
        let refusals = housekeeping::write_refusals(self, true).await;
        let uses = housekeeping::write_last_used(self).await;
        let units = self.verifier.quotas().close().await;
        housekeeping::log_head(self, "stop").await;
        self.db.close().await;
        counted.and(refusals).and(uses).and(units)
    }

    /// From now on `/readyz` says that the server is going.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Is the server going?
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// A new id. Fails when the operating system has no randomness.
    pub(crate) fn new_id(&self, kind: Kind) -> Result<String> {
        Ok(kind.new_id(self.clock.now(), self.random()?))
    }

    /// Randomness for ids.
    pub(crate) fn random(&self) -> Result<u128> {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes).map_err(|_| Error::internal("no randomness"))?;
        Ok(u128::from_ne_bytes(bytes))
    }

    /// The operating system's randomness.
    pub(crate) fn system_random(&self) -> &SystemRandom {
        &self.random
    }

    /// Notes that a key calls, now; of several calls in a second one is enough.
    pub(crate) fn note_call(&self, credential: &Credential, now: Timestamp) {
        // The map is shared by all cores, this is hardly ever written.
        let noted = &credential.memo.last_use_recorded;
        if now.as_millis() - noted.load(Ordering::Relaxed) >= 1000 {
            noted.store(now.as_millis(), Ordering::Relaxed);
            self.note_use(credential.seq, now);
        }
    }

    /// Notes when a key, by `seq`, was used. Bounded: what doesn't fit until the next writing is not noted.
    pub(crate) fn note_use(&self, key_seq: i64, now: Timestamp) {
        if let Some(mut at) = self.used.get_mut(&key_seq) {
            *at = now.max(*at);
        } else if self.used.len() < MAX_USES {
            self.used.insert(key_seq, now);
        }
    }
}

/// The settings of the database, which get their first values when it has none.
async fn settings(
    db: &db::Db,
    version_clock: &Arc<VersionClock>,
    first: Settings,
    now: Timestamp,
) -> Result<SettingsCache> {
    let began = version_clock.now();
    // Looked at before: a database that has them is not written to.
    if db.read(store::settings::find).await?.is_none() {
        db.write(move |tx| store::settings::begin(tx, &first, now)).await?;
    }
    let current = db.read(store::settings::get).await?;
    let db = db.clone();
    let load = move || -> crate::verify::settings::Loading {
        let db = db.clone();
        Box::pin(async move { db.look_up(store::settings::get).await })
    };
    Ok(SettingsCache::new(version_clock.clone(), began, current, load))
}

/// Counts of quotas over the database, which this process alone serves.
fn quotas(db: &db::Db) -> Quotas {
    let (reader, writer) = (db.clone(), db.clone());
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
