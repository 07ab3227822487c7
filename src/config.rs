//! The settings of the process.
//!
//! `config.toml` in the root of the repository is the only list of settings and holds their defaults. This
//! file defines their types, `values` parses and validates each, and `sources` overrides the defaults with
//! the user's file, the environment and the flags. Everything is validated at startup, and all faults are
//! reported at once.

mod sources;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::domain::settings::{self, Settings};

pub(crate) use sources::{ConfigError, Effective, Flags};

/// The largest integer in TOML.
const MAX: u64 = i64::MAX as u64;

/// All settings. `config.toml` documents each.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Config {
    /// The HTTP listener and its limits.
    pub http: Http,
    pub(crate) tls: Tls,
    /// The listener for Prometheus.
    pub(crate) metrics: Metrics,
    /// The database file and its connections.
    pub database: Database,
    pub(crate) cache: Cache,
    /// Initial values: new API keys.
    pub keys: Keys,
    /// Initial values: requests per minute.
    pub rate_limits: RateLimits,
    /// Initial values: the plans of organizations.
    pub plans: Plans,
    pub(crate) usage: Usage,
    /// Initial values: how long recorded data is kept.
    pub retention: Retention,
    /// Initial values: read-only mode.
    pub(crate) maintenance: Maintenance,
    pub(crate) log: Log,
}

impl Config {
    /// The shipped defaults.
    ///
    /// # Errors
    /// When `config.toml`, as compiled in, is invalid.
    pub fn shipped() -> Result<Self, ConfigError> {
        Effective::load(None, [], Flags::default()).map(|effective| effective.config)
    }

    /// The platform settings of a new database.
    pub(crate) fn initial_settings(&self) -> Settings {
        let Self { keys, rate_limits, plans, retention, maintenance, .. } = self;
        let plan = |name: &str, plan: &Plan| {
            let Plan { requests_per_minute, max_keys, max_members } = *plan;
            (name.to_owned(), settings::Plan { requests_per_minute, max_keys, max_members })
        };
        Settings {
            keys: settings::Keys {
                prefix: keys.prefix.clone(),
                default_expiry_days: keys.default_expiry_days,
                max_expiry_days: keys.max_expiry_days,
                require_allowed_ips_for_admin: keys.require_allowed_ips_for_admin,
            },
            rate_limits: settings::RateLimits {
                admin_per_minute: rate_limits.admin_per_minute,
                batch_per_minute: rate_limits.batch_per_minute,
                failed_auth_per_minute: rate_limits.failed_auth_per_minute,
            },
            plans: [plan(settings::STANDARD, &plans.standard), plan("enterprise", &plans.enterprise)].into(),
            retention: settings::Retention {
                audit_days: retention.audit_days,
                usage_hourly_days: retention.usage_hourly_days,
                usage_daily_days: retention.usage_daily_days,
                verification_log_days: retention.verification_log_days,
            },
            maintenance: settings::Maintenance {
                read_only: maintenance.read_only,
                message: Some(maintenance.message.clone()).filter(|message| !message.is_empty()),
            },
        }
    }
}

/// `[http]`: the HTTP listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Http {
    /// The address to listen on; port 0 picks a free port.
    #[serde(deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// The proxies whose `X-Forwarded-For` is trusted. None has host bits set, and none is an IPv4-mapped
    /// IPv6 network.
    #[serde(deserialize_with = "values::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The largest request body, in bytes.
    #[serde(deserialize_with = "values::number::<1_024, 67_108_864, _, _>")]
    pub max_body_bytes: usize,
    /// The largest number of open connections.
    #[serde(deserialize_with = "values::number::<1, 1_000_000, _, _>")]
    pub max_connections: usize,
    /// The timeout for receiving a request's head, and for an idle connection between two requests.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub header_timeout: Duration,
    /// The timeout for receiving a request's body.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub body_timeout: Duration,
    /// The timeout for sending a response without progress.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub write_timeout: Duration,
    /// The time running requests get to finish at shutdown; zero aborts them at once.
    #[serde(deserialize_with = "values::timeout_or_zero", serialize_with = "values::show_duration")]
    pub drain_timeout: Duration,
}

/// `[tls]`: both files, or neither for plain HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Tls {
    /// The certificate and its chain, as PEM.
    #[serde(deserialize_with = "values::file_or_none", serialize_with = "values::show_file")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key, as PEM.
    #[serde(deserialize_with = "values::file_or_none", serialize_with = "values::show_file")]
    pub(crate) key: Option<PathBuf>,
}

/// `[metrics]`: the listener for Prometheus.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Metrics {
    /// The address that serves `/metrics`; port 0 picks a free port, `None` disables it.
    #[serde(deserialize_with = "values::listen_or_none", serialize_with = "values::show_listen")]
    pub(crate) listen: Option<SocketAddr>,
}

/// `[database]`: the database file and its connections.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Database {
    /// The directory that holds `tollhouse.db`.
    #[serde(deserialize_with = "values::path")]
    pub dir: PathBuf,
    /// The number of read connections.
    #[serde(deserialize_with = "values::number::<1, 64, _, _>")]
    pub readers: u32,
    /// The timeout of a single read.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub read_timeout: Duration,
    /// The largest number of changes that can wait for the writer.
    #[serde(deserialize_with = "values::number::<1, 1_000_000, _, _>")]
    pub writer_queue: usize,
    /// The largest number of changes in one commit.
    #[serde(deserialize_with = "values::number::<1, 65_536, _, _>")]
    pub(crate) group_limit: usize,
    /// The largest size of the database file, in bytes; 0 = unlimited.
    #[serde(deserialize_with = "values::number_or_zero::<1_048_576, MAX, _, _>")]
    pub max_bytes: u64,
}

/// `[cache]`: the in-memory cache of keys.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Cache {
    /// The approximate memory for cached keys, in bytes.
    #[serde(deserialize_with = "values::number::<1_048_576, MAX, _, _>")]
    pub(crate) max_bytes: u64,
}

// The following sections are initial values; the settings in force are in the database (`domain::settings`).

/// `[keys]`: new API keys.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Keys {
    /// The prefix of new secrets: `^[a-z][a-z0-9]{0,15}$`.
    #[serde(deserialize_with = "values::prefix")]
    pub(crate) prefix: String,
    /// Days until a key expires if its creator sets no expiry; 0 = never.
    #[serde(deserialize_with = "values::number::<0, 36_500, _, _>")]
    pub default_expiry_days: u32,
    /// The largest number of days until a key must expire; 0 = keys need not expire.
    #[serde(deserialize_with = "values::number::<0, 36_500, _, _>")]
    pub(crate) max_expiry_days: u32,
    /// Require an IP allowlist on keys with administrative scopes.
    #[serde(deserialize_with = "values::flag")]
    pub(crate) require_allowed_ips_for_admin: bool,
}

/// `[rate_limits]`: requests per minute; 0 = unlimited.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct RateLimits {
    /// Control-plane requests by one key.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub admin_per_minute: u32,
    /// Batches by one key.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub batch_per_minute: u32,
    /// Failed authentications from one address.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub failed_auth_per_minute: u32,
}

/// `[plans]`: the plans of organizations.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Plans {
    /// The default plan.
    pub standard: Plan,
    pub(crate) enterprise: Plan,
}

/// The limits of one plan.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Plan {
    /// Verifications per minute of each key without a rate limit of its own; 0 = unlimited.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub requests_per_minute: u32,
    /// The largest number of unrevoked keys of an organization; 0 = unlimited.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub(crate) max_keys: u32,
    /// The largest number of members of an organization; 0 = unlimited.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub(crate) max_members: u32,
}

/// `[usage]`: counting verifications.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Usage {
    /// The interval at which counts are written to the database.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub(crate) flush_interval: Duration,
}

/// `[retention]`: how long recorded data is kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Retention {
    /// Days of the audit log; 0 = kept indefinitely.
    #[serde(deserialize_with = "values::number_or_zero::<30, 36_500, _, _>")]
    pub(crate) audit_days: u32,
    /// Days of hourly usage.
    #[serde(deserialize_with = "values::number::<1, 36_500, _, _>")]
    pub usage_hourly_days: u32,
    /// Days of daily usage.
    #[serde(deserialize_with = "values::number::<1, 36_500, _, _>")]
    pub usage_daily_days: u32,
    /// Days of the verification log.
    #[serde(deserialize_with = "values::number::<1, 36_500, _, _>")]
    pub verification_log_days: u32,
}

/// `[maintenance]`: read-only mode.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Maintenance {
    /// Refuse changes through the control plane.
    #[serde(deserialize_with = "values::flag")]
    pub(crate) read_only: bool,
    /// The error message of refused changes; empty = a default message.
    #[serde(deserialize_with = "values::message")]
    pub(crate) message: String,
}

/// `[log]`: the log on standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Log {
    /// Directives of `tracing_subscriber::EnvFilter`.
    #[serde(deserialize_with = "values::log_level")]
    pub(crate) level: String,
    /// The format of the lines.
    #[serde(deserialize_with = "values::log_format")]
    pub(crate) format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
    /// Text for people.
    Human,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod environment_tests;
#[cfg(test)]
mod tests;
