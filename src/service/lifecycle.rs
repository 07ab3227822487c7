//! Opens the state of the server, and closes it: the database, the caches in front of it, and what is buffered in
//! memory, in order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ring::rand::SystemRandom;

use super::{housekeeping, usage, usage_reports, windows};
use crate::app::catalogue::CatalogueCache;
use crate::app::cursors::Cursors;
use crate::app::long_reads::LongReads;
use crate::app::unstored::Unstored;
use crate::app::{App, MemoryBudgets, RateLimiters, Traffic};
use crate::clock::Clock;
use crate::config::{CheckpointMode, Config, DatabaseConfig};
use crate::domain::settings::Settings;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store::{self, db};
use crate::telemetry::machine;
use crate::verify::access_blocks::AccessBlocks;
use crate::verify::cache::{KeyCache, LoadFuture};
use crate::verify::leases::Leases;
use crate::verify::recorder::Recorder;
use crate::verify::report_queue::ReportQueue;
use crate::verify::settings::SettingsCache;
use crate::verify::verifier::Verifier;
use crate::verify::version_clock::VersionClock;

/// The least maximum number of keys and organizations whose limits and counts are held in memory. Those that aren't
/// needed are dropped.
const MIN_SUBJECT_STATES: usize = 2_000_000;

/// Opens the database and creates the caches. Fails when the database file isn't a Tollhouse database,
/// has a newer schema than this program supports, or can't be opened.
pub async fn open(config: Config, clock: Clock) -> Result<Arc<App>> {
    open_with(config, clock, false).await
}

/// Opens the database like [`open`], also for reading only if it can't be written.
pub(crate) async fn open_or_read_only(config: Config, clock: Clock) -> Result<Arc<App>> {
    open_with(config, clock, true).await
}

async fn open_with(config: Config, clock: Clock, allow_read_only: bool) -> Result<Arc<App>> {
    let version_clock = Arc::new(VersionClock::default());
    let access_blocks = Arc::new(AccessBlocks::default());
    let db = open_database(&config.database, allow_read_only, &version_clock, &access_blocks)?;
    clock.resume(db.read(store::clock::stored_time).await?);
    let cursor_key = db.read(store::schema::load_cursor_key).await?;
    let memory_limit_bytes = machine::memory_limit_bytes();
    let max_cache_bytes = config.cache.effective_max_bytes(memory_limit_bytes);
    let request_memory_bytes = config.http.effective_request_memory_bytes(memory_limit_bytes);
    let keys = Arc::new(create_key_cache(&db, &version_clock, &access_blocks, max_cache_bytes));
    let settings =
        Arc::new(load_settings_cache(&db, &version_clock, config.initial_settings(), clock.now()).await?);
    let leases = leases_stored_in(&db);
    let reports = reports_stored_in(&db, config.usage.max_report_ids, &clock, &leases);
    let recorder = Recorder::default();
    let verifier = Verifier::new(
        keys.clone(),
        settings.clone(),
        clock.clone(),
        max_subject_states(max_cache_bytes),
        leases,
        recorder,
        db.file().lost_flag(),
    );
    Ok(Arc::new(App {
        access_blocks,
        keys,
        verifier,
        reports,
        settings,
        version_clock,
        catalogue: CatalogueCache::default(),
        traffic: Traffic::default(),
        rate_limiters: RateLimiters::default(),
        memory: MemoryBudgets::new(request_memory_bytes),
        in_flight: Arc::default(),
        audit_reads: LongReads::of_audit_log(),
        usage_by_user_reads: LongReads::of_usage_by_user(),
        unstored: Unstored::default(),
        cursors: Cursors::new(&cursor_key)?,
        random: SystemRandom::new(),
        draining: AtomicBool::new(false),
        config,
        clock,
        db,
    }))
}

/// The maximum number of keys and organizations whose limits and counts are held in memory: enough for all keys in a
/// cache of this size. Each of them needs its own state and that of its organization.
fn max_subject_states(max_cache_bytes: u64) -> usize {
    let max_states = usize::try_from(KeyCache::max_records(max_cache_bytes) * 2).unwrap_or(usize::MAX);
    max_states.max(MIN_SUBJECT_STATES)
}

/// Opens the database. Each commit publishes to the version clock what it invalidates.
fn open_database(
    config: &DatabaseConfig,
    allow_read_only: bool,
    version_clock: &Arc<VersionClock>,
    access_blocks: &Arc<AccessBlocks>,
) -> Result<db::Db> {
    let options = db::Options {
        file: config.file(),
        must_exist: config.must_exist,
        readers: config.readers,
        read_timeout: config.read_timeout,
        writer_queue: config.writer_queue,
        group_limit: config.group_limit,
        max_bytes: config.max_bytes,
        external_checkpoints: config.checkpoint == CheckpointMode::External,
        allow_read_only,
    };
    let version_clock = version_clock.clone();
    let access_blocks = access_blocks.clone();
    db::Db::open(&options, move |invalidations| {
        access_blocks.lift_stored(invalidations);
        version_clock.publish(invalidations);
    })
}

/// Creates the cache of keys, which loads them from this database and applies the access blocks to them.
fn create_key_cache(
    db: &db::Db,
    version_clock: &Arc<VersionClock>,
    access_blocks: &Arc<AccessBlocks>,
    max_bytes: u64,
) -> KeyCache {
    let db = db.clone();
    let access_blocks = access_blocks.clone();
    let load = move |hash| -> LoadFuture {
        let db = db.clone();
        let access_blocks = access_blocks.clone();
        Box::pin(async move {
            let loaded = db.look_up(move |tx| store::api_keys::find_credential_by_hash(tx, &hash)).await?;
            Ok(loaded.map(|mut credential| {
                access_blocks.apply(&mut credential);
                credential
            }))
        })
    };
    KeyCache::new(max_bytes, version_clock.clone(), load)
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

/// Reads and writes the leases of quotas in this database. Only one process serves a database, so no other process
/// leases from it.
fn leases_stored_in(db: &db::Db) -> Leases {
    let reader = db.clone();
    let writer = db.clone();
    Leases::new(
        move |id| {
            let db = reader.clone();
            Box::pin(async move { db.look_up(move |tx| store::quotas::leased_units(tx, id)).await })
        },
        move |leases| {
            let db = writer.clone();
            Box::pin(async move { db.write(move |tx| store::quotas::put(tx, &leases)).await })
        },
    )
}

/// Creates the queue of usage reports, which are stored in this database.
fn reports_stored_in(db: &db::Db, max_ids: u64, clock: &Clock, leases: &Leases) -> ReportQueue {
    let db = db.clone();
    ReportQueue::new(clock.clone(), leases.clone(), move |batch| {
        let db = db.clone();
        Box::pin(async move { db.write(move |tx| usage_reports::write_batch(tx, &batch, max_ids)).await })
    })
}

/// Stores everything that is buffered in memory, then closes the database. Logs what could not be stored.
pub async fn close(app: &App) -> Result<()> {
    // At the same time, because each may wait for a slow disk or for a lock.
    let (usage, refusals, quotas) =
        tokio::join!(usage::flush(app), housekeeping::write_aggregated_events(app, true), async {
            // Before the leases, because reports need them.
            app.reports.close().await;
            app.verifier.leases().close().await
        },);
    // On a full disk, units can be returned, but not together with writes that need room.
    let quotas = match quotas {
        Err(error) if error.code == Code::StorageFull => app.verifier.leases().close().await,
        closed => closed,
    };
    let last_used = housekeeping::write_last_used(app).await;
    windows::store(app).await;
    let stored = usage.and(refusals).and(last_used).and(quotas);
    if let Err(error) = &stored {
        log_unstored(app, error);
    }
    app.traffic.repeated_requests.log_counts(app.clock.now(), true);
    app.traffic.log_refused_connections();
    housekeeping::log_audit_head(app, "stop").await;
    app.db.close().await;
    stored
}

/// Logs what could not be stored because of `error`, after the last attempt. Nothing that a client was told to be
/// stored is among it.
fn log_unstored(app: &App, error: &Error) {
    let usage = app.verifier.recorder().take();
    let verifications: u64 = usage.hourly_counts.iter().map(|row| row.counts.requests()).sum();
    let denials: u64 = usage.denials.iter().map(|denial| denial.count).sum();
    let requests = app.unstored.aggregated.take(app.clock.now(), true, usize::MAX);
    let aggregated_requests: u64 = requests.iter().map(|event| event.count).sum();
    tracing::error!(
        %error,
        verifications,
        denials,
        aggregated_requests,
        last_uses = app.unstored.last_uses.len(),
        quota_units = app.verifier.leases().forfeitable_units(),
        "stopping without storing everything that was counted in memory"
    );
}
