//! The state of the server, shared by all requests and background jobs. `service::lifecycle` opens and closes it.

pub(crate) mod aggregated;
pub(crate) mod catalogue;
pub(crate) mod cursors;
pub(crate) mod in_flight;
pub(crate) mod long_reads;
pub(crate) mod request_memory;
pub(crate) mod unstored;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use ring::rand::{SecureRandom, SystemRandom};

use self::catalogue::{CatalogueCache, CatalogueGuard};
use self::cursors::Cursors;
use self::in_flight::InFlight;
use self::long_reads::LongReads;
use self::request_memory::RequestMemory;
use self::unstored::Unstored;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::id::Kind;
use crate::error::{Error, Result};
use crate::store::db::Db;
use crate::telemetry::connections::ListenerConnections;
use crate::telemetry::repeated_requests::RepeatedRequests;
use crate::telemetry::tally::HttpMetrics;
use crate::verify::access_blocks::AccessBlocks;
use crate::verify::buckets::Buckets;
use crate::verify::cache::KeyCache;
use crate::verify::call_buckets::CallBuckets;
use crate::verify::report_queue::ReportQueue;
use crate::verify::settings::SettingsCache;
use crate::verify::verifier::Verifier;
use crate::verify::version_clock::VersionClock;

/// Maximum number of token buckets in each map of the [`RateLimiters`].
const MAX_BUCKETS_PER_MAP: usize = 100_000;

/// Everything a request may need, shared by all requests.
pub struct App {
    /// The configuration of the process. It contains the platform's settings only as initial values; the
    /// current ones are in `settings`.
    pub config: Config,
    /// The source of the current time.
    pub clock: Clock,
    /// The database.
    pub db: Db,
    /// Access that is denied in memory, because the change that takes it away could not be stored.
    pub(crate) access_blocks: Arc<AccessBlocks>,
    /// The cache of API keys, by the hash of their secret.
    pub keys: Arc<KeyCache>,
    /// Decides whether keys are valid.
    pub verifier: Verifier,
    /// The usage reports that wait to be stored.
    pub(crate) reports: ReportQueue,
    /// The platform's settings, which are stored in the database and can change while the server runs.
    pub(crate) settings: Arc<SettingsCache>,
    /// Versions of the cached records, for their invalidation.
    pub version_clock: Arc<VersionClock>,
    /// The catalogue of scopes; see [`catalogue`](App::catalogue).
    pub(crate) catalogue: CatalogueCache,
    /// Connections, requests and responses, as they are counted for metrics and the log.
    pub traffic: Traffic,
    /// The rate limits of Admin API calls and of failed authentications.
    pub(crate) rate_limiters: RateLimiters,
    /// The memory for requests in progress.
    pub memory: MemoryBudgets,
    /// Requests with an `Idempotency-Key` that are being processed.
    pub in_flight: Arc<InFlight>,
    /// The running audit exports and chain verifications.
    pub(crate) audit_reads: Arc<LongReads>,
    /// The running usage reports by user.
    pub(crate) usage_by_user_reads: Arc<LongReads>,
    /// What is held in memory until it is stored.
    pub unstored: Unstored,
    /// Seals and opens the cursors of lists.
    pub(crate) cursors: Cursors,
    /// The random number generator of the operating system.
    pub(crate) random: SystemRandom,
    /// True once the server is shutting down.
    pub(crate) draining: AtomicBool,
}

impl App {
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
    pub async fn catalogue(&self) -> Result<CatalogueGuard> {
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
}

/// What is counted of connections, requests and responses.
pub struct Traffic {
    /// The connections of the listener of the API.
    pub http_connections: Arc<ListenerConnections>,
    /// The connections of the listener of the metrics.
    pub(crate) metrics_connections: Arc<ListenerConnections>,
    /// Counters of responses, and response times of verifications.
    pub(crate) responses: HttpMetrics,
    /// Counts of the requests that are not logged individually.
    pub(crate) repeated_requests: RepeatedRequests,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            http_connections: Arc::default(),
            metrics_connections: Arc::new(ListenerConnections::new("metrics")),
            responses: HttpMetrics::default(),
            repeated_requests: RepeatedRequests::default(),
        }
    }
}

impl Traffic {
    /// Logs how many connections were refused since the last call.
    pub(crate) fn log_refused_connections(&self) {
        self.http_connections.log_refusals();
        self.metrics_connections.log_refusals();
    }
}

/// The token buckets of Admin API calls, of calls of keys about themselves, and of failed authentications.
pub(crate) struct RateLimiters {
    /// Those of Admin API calls other than batches.
    pub(crate) admin: CallBuckets,
    /// Those of batches.
    pub(crate) batch: CallBuckets,
    /// Those of the calls of keys about themselves, with their current secrets.
    pub(crate) own_key: CallBuckets,
    /// The same with their previous secrets, so that whoever has an old secret can't use up the calls of the new one.
    pub(crate) own_key_superseded: CallBuckets,
    /// Those of failed authentications, by client address.
    pub(crate) failures: Buckets<IpNet>,
}

impl Default for RateLimiters {
    fn default() -> Self {
        Self {
            admin: CallBuckets::new(MAX_BUCKETS_PER_MAP),
            batch: CallBuckets::new(MAX_BUCKETS_PER_MAP),
            own_key: CallBuckets::new(MAX_BUCKETS_PER_MAP),
            own_key_superseded: CallBuckets::new(MAX_BUCKETS_PER_MAP),
            failures: Buckets::new(MAX_BUCKETS_PER_MAP),
        }
    }
}

impl RateLimiters {
    /// Drops the buckets that are full.
    pub(crate) fn sweep(&self, now: Duration) {
        self.admin.sweep(now);
        self.batch.sweep(now);
        self.own_key.sweep(now);
        self.own_key_superseded.sweep(now);
        self.failures.sweep(now);
    }
}

/// The memory that requests in progress may take.
pub struct MemoryBudgets {
    /// For requests of the control plane.
    pub control_plane: Arc<RequestMemory>,
    /// For request bodies of the data plane that arrive slowly.
    pub data_plane: Arc<RequestMemory>,
}

impl MemoryBudgets {
    /// Creates budgets from the memory for requests of the control plane. The data plane gets a quarter of as much in
    /// addition.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { control_plane: RequestMemory::new(max_bytes), data_plane: RequestMemory::new(max_bytes / 4) }
    }
}
