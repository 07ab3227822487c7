//! The configuration of the process.
//!
//! `config.toml` in the root of the repository is the only list of settings and holds their defaults. This
//! file defines their types, and `values` parses and validates each. `sources` overrides the defaults with the user's
//! file, the environment and the flags, each of which is a layer that `layers` merges. Every setting is validated at
//! startup, and all errors are reported at once.

mod environment;
mod layers;
pub(crate) mod listen;
mod plans;
mod sources;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::domain::idempotency::StorageLimits;
use crate::domain::json;
use crate::domain::meter::Meter;
use crate::domain::settings::{KeySettings, Maintenance, Plan, RateLimits, Retention, Settings};

pub(crate) use layers::{ConfigError, ConfigFault, DEFAULT_CONFIG_TOML, EffectiveConfig};
pub use listen::ListenAddress;
pub(crate) use sources::ConfigFlags;

/// The largest integer that TOML can represent.
const MAX_TOML_INTEGER: u64 = i64::MAX as u64;

/// All settings of the process. `config.toml` documents each setting.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Config {
    /// The HTTP listener and its limits.
    pub http: HttpConfig,
    pub(crate) tls: Tls,
    /// The HTTP listener that Prometheus scrapes.
    pub(crate) metrics: MetricsConfig,
    /// The database file and its connections.
    pub database: DatabaseConfig,
    pub(crate) cache: CacheConfig,
    /// The limits of stored responses.
    pub idempotency: IdempotencyConfig,
    /// Initial values of the platform settings for new API keys.
    pub keys: KeySettings,
    /// Initial values of the platform's rate limits, in requests per minute.
    pub rate_limits: RateLimits,
    /// Initial value of the meters.
    pub(crate) meters: Vec<Meter>,
    /// Initial values of the plans of organizations, by name.
    pub plans: BTreeMap<String, Plan>,
    /// How verifications and reports of usage are counted.
    pub usage: UsageConfig,
    /// Initial values of the number of days for which recorded data is kept.
    pub retention: Retention,
    /// Initial values of read-only mode.
    #[serde(serialize_with = "values::serialize_without_null")]
    pub(crate) maintenance: Maintenance,
    pub(crate) log: LogConfig,
}

impl Config {
    /// Loads the defaults from the embedded `config.toml`, without the user's file, environment and flags.
    ///
    /// # Errors
    /// `ConfigError` when the embedded `config.toml` is invalid.
    pub fn load_defaults() -> Result<Self, ConfigError> {
        EffectiveConfig::load_defaults().map(|effective| effective.config)
    }

    /// The platform settings with which a new database is created.
    pub(crate) fn initial_settings(&self) -> Settings {
        Settings {
            keys: self.keys.clone(),
            rate_limits: self.rate_limits.clone(),
            meters: self.meters.clone(),
            plans: self.plans.clone(),
            retention: self.retention.clone(),
            maintenance: self.maintenance.clone(),
        }
    }
}

/// `[http]`: the HTTP listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct HttpConfig {
    /// The address to listen on; port 0 picks a free port.
    #[serde(deserialize_with = "values::deserialize_listen_address")]
    pub listen: ListenAddress,
    /// The networks of the proxies whose `X-Forwarded-For` header is trusted. Networks with host bits and
    /// IPv4-mapped IPv6 networks are rejected.
    #[serde(deserialize_with = "values::deserialize_networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The largest request body, in bytes.
    #[serde(deserialize_with = "values::deserialize_size_in_range::<1_024, 67_108_864, _, _>")]
    pub max_body_bytes: usize,
    /// The memory for the bodies and long responses of Admin API requests in progress, in bytes; 0 means that it
    /// is derived from the memory limit of the process.
    #[serde(
        deserialize_with = "values::deserialize_size_in_range_or_zero::<1_048_576, MAX_TOML_INTEGER, _, _>"
    )]
    pub request_memory_bytes: usize,
    /// The largest number of open connections.
    #[serde(deserialize_with = "values::deserialize_integer_in_range::<1, 1_000_000, _, _>")]
    pub max_connections: usize,
    /// The largest number of open connections of one client address on which no key has authenticated yet; 0
    /// means unlimited.
    #[serde(deserialize_with = "values::deserialize_integer_in_range::<0, 1_000_000, _, _>")]
    pub max_unauthenticated_per_address: usize,
    /// The timeout for receiving a request's headers, and for a connection that is idle between two requests.
    #[serde(
        deserialize_with = "values::deserialize_nonzero_timeout",
        serialize_with = "values::serialize_duration"
    )]
    pub header_timeout: Duration,
    /// The timeout for receiving a request's body.
    #[serde(
        deserialize_with = "values::deserialize_nonzero_timeout",
        serialize_with = "values::serialize_duration"
    )]
    pub body_timeout: Duration,
    /// The time for which sending a response may make no progress before the connection is closed.
    #[serde(
        deserialize_with = "values::deserialize_nonzero_timeout",
        serialize_with = "values::serialize_duration"
    )]
    pub write_timeout: Duration,
    /// The time that running requests get to finish at shutdown; zero aborts these requests at once.
    #[serde(deserialize_with = "values::deserialize_timeout", serialize_with = "values::serialize_duration")]
    pub drain_timeout: Duration,
}

impl HttpConfig {
    /// The memory for requests if neither the configuration nor a memory limit of the process determines it.
    const DEFAULT_REQUEST_MEMORY_BYTES: usize = 128 << 20;

    /// The memory for requests in progress, in bytes: what is configured, or else an eighth of the memory limit of
    /// the process.
    pub(crate) fn effective_request_memory_bytes(&self, memory_limit_bytes: Option<u64>) -> usize {
        if self.request_memory_bytes > 0 {
            return self.request_memory_bytes;
        }
        let share = memory_limit_bytes.and_then(|limit| usize::try_from(limit / 8).ok());
        share.unwrap_or(Self::DEFAULT_REQUEST_MEMORY_BYTES).max(self.min_request_memory_bytes())
    }

    /// The part of the memory for requests that the keys of one organization get together: one of this many.
    pub(crate) const ORGANIZATION_SHARE: usize = 4;

    /// The memory with which the share of one organization suffices for any single request.
    pub(crate) fn min_request_memory_bytes(&self) -> usize {
        Self::ORGANIZATION_SHARE * (3 * self.max_body_bytes + json::MAX_TREE_BYTES)
    }
}

/// `[tls]`: the certificate and its private key. Both files are set, or neither for plain HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Tls {
    /// The PEM file with the server's certificate and its chain.
    #[serde(
        deserialize_with = "values::deserialize_optional_file",
        serialize_with = "values::serialize_optional_file"
    )]
    pub(crate) cert: Option<PathBuf>,
    /// The PEM file with the certificate's private key.
    #[serde(
        deserialize_with = "values::deserialize_optional_file",
        serialize_with = "values::serialize_optional_file"
    )]
    pub(crate) key: Option<PathBuf>,
}

/// `[metrics]`: the HTTP listener that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct MetricsConfig {
    /// The address that serves `/metrics`; port 0 picks a free port, and `None` disables the listener.
    #[serde(
        deserialize_with = "values::deserialize_optional_listen_address",
        serialize_with = "values::serialize_optional_listen_address"
    )]
    pub(crate) listen: Option<ListenAddress>,
}

/// `[database]`: the database file and its connections.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct DatabaseConfig {
    /// The directory that holds the database file.
    #[serde(deserialize_with = "values::deserialize_directory")]
    pub dir: PathBuf,
    /// True if the server doesn't create a missing database.
    pub must_exist: bool,
    /// The number of database connections for reading.
    #[serde(deserialize_with = "values::deserialize_integer_in_range::<1, 64, _, _>")]
    pub readers: u32,
    /// The timeout of a single database read.
    #[serde(
        deserialize_with = "values::deserialize_nonzero_timeout",
        serialize_with = "values::serialize_duration"
    )]
    pub read_timeout: Duration,
    /// The largest number of changes that can wait for the database's writer.
    #[serde(deserialize_with = "values::deserialize_integer_in_range::<1, 1_000_000, _, _>")]
    pub writer_queue: usize,
    /// The largest number of changes that one database commit contains.
    #[serde(deserialize_with = "values::deserialize_integer_in_range::<1, 65_536, _, _>")]
    pub(crate) group_limit: usize,
    /// The largest size of the database file, in bytes; 0 means unlimited.
    #[serde(
        deserialize_with = "values::deserialize_size_in_range_or_zero::<1_048_576, MAX_TOML_INTEGER, _, _>"
    )]
    pub max_bytes: u64,
    /// Who checkpoints the write-ahead log.
    #[serde(deserialize_with = "values::deserialize_checkpoint_mode")]
    pub(crate) checkpoint: CheckpointMode,
}

impl DatabaseConfig {
    /// The name of the database file.
    pub(crate) const FILE_NAME: &str = "tollhouse.db";

    /// The path of the database file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join(Self::FILE_NAME)
    }
}

/// Who checkpoints the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckpointMode {
    /// This program.
    Internal,
    /// A replicator, such as Litestream.
    External,
}

/// `[cache]`: the in-memory cache of API keys.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct CacheConfig {
    /// The memory limit for cached API keys, in bytes; 0 means that it is derived from the memory limit of
    /// the process.
    #[serde(
        deserialize_with = "values::deserialize_size_in_range_or_zero::<1_048_576, MAX_TOML_INTEGER, _, _>"
    )]
    pub(crate) max_bytes: u64,
}

impl CacheConfig {
    /// The size of the cache if neither the configuration nor a memory limit of the process determines it. It holds more
    /// than 100,000 keys.
    const DEFAULT_MAX_BYTES: u64 = 320 << 20;

    /// The memory limit for cached API keys, in bytes: the configured limit, or else a quarter of the memory
    /// limit of the process.
    pub(crate) fn effective_max_bytes(&self, memory_limit_bytes: Option<u64>) -> u64 {
        match (self.max_bytes, memory_limit_bytes) {
            (0, Some(memory_limit_bytes)) => (memory_limit_bytes / 4).max(1 << 20),
            (0, None) => Self::DEFAULT_MAX_BYTES,
            (max_bytes, _) => max_bytes,
        }
    }
}

/// `[idempotency]`: the responses stored for `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct IdempotencyConfig {
    /// The largest body of a stored response, in bytes.
    #[serde(deserialize_with = "values::deserialize_size_in_range::<1_024, 67_108_864, _, _>")]
    pub max_response_bytes: u64,
    /// The largest size of all stored responses of an API key, in bytes.
    #[serde(deserialize_with = "values::deserialize_size_in_range::<1_048_576, MAX_TOML_INTEGER, _, _>")]
    pub max_bytes_per_key: u64,
    /// The largest size of all stored responses, in bytes; 0 means that it is derived from the largest size of
    /// the database.
    #[serde(
        deserialize_with = "values::deserialize_size_in_range_or_zero::<1_048_576, MAX_TOML_INTEGER, _, _>"
    )]
    pub max_total_bytes: u64,
}

impl IdempotencyConfig {
    /// The largest size of all stored responses if neither the configuration nor the largest size of the
    /// database determines it.
    const DEFAULT_MAX_TOTAL_BYTES: u64 = 1 << 30;

    /// The limits in effect. A key or an organization gets at most a quarter of the total, so that none can
    /// use up the space of the others.
    pub(crate) fn storage_limits(&self, max_database_bytes: u64) -> StorageLimits {
        let total = match (self.max_total_bytes, max_database_bytes) {
            (0, 0) => Self::DEFAULT_MAX_TOTAL_BYTES,
            (0, max_database_bytes) => max_database_bytes / 4,
            (max_total_bytes, _) => max_total_bytes,
        };
        let organization = total / 4;
        let key = self.max_bytes_per_key.min(organization);
        StorageLimits { response: self.max_response_bytes, key, organization, total }
    }
}

/// `[usage]`: how verifications and reports of usage are counted.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct UsageConfig {
    /// The interval at which verification counts are written to the database.
    #[serde(
        deserialize_with = "values::deserialize_nonzero_timeout",
        serialize_with = "values::serialize_duration"
    )]
    pub(crate) flush_interval: Duration,
    /// The largest number of ids of reports that are kept, each for 24 hours.
    #[serde(deserialize_with = "values::deserialize_integer_in_range::<1, 1_000_000_000, _, _>")]
    pub max_report_ids: u64,
}

/// `[log]`: the log, which is written to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct LogConfig {
    /// The log filter, as directives of `tracing_subscriber::EnvFilter`.
    #[serde(deserialize_with = "values::deserialize_log_filter")]
    pub(crate) level: String,
    /// The format of log lines.
    #[serde(deserialize_with = "values::deserialize_log_format")]
    pub(crate) format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// `Human` if standard error is a terminal, `Json` otherwise.
    Auto,
    /// Readable text, for a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod environment_tests;
#[cfg(test)]
mod sizes_tests;
#[cfg(test)]
mod tests;
