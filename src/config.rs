//! The settings of the process.
//!
//! `config.toml` at the top of the project is the only list of them and holds their defaults; this file
//! gives them types, `values` says what is right for each, and `sources` lays the user's file, the
//! environment and the flags over the defaults. All of it is checked at the start, all faults at once.

mod sources;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::domain::settings::{self, Settings};

pub(crate) use sources::{ConfigError, Effective, Flags};

/// The largest number that TOML can hold.
const MAX: u64 = i64::MAX as u64;

/// Every setting. Each is explained in `config.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Config {
    /// The listener, and the limits of what comes through it.
    pub http: Http,
    /// TLS on the listener.
    pub(crate) tls: Tls,
    /// The listener for Prometheus.
    pub(crate) metrics: Metrics,
    /// The database file.
    pub database: Database,
    /// What is kept in memory.
    pub(crate) cache: Cache,
    /// First values: new API keys.
    pub keys: Keys,
    /// First values: calls in a minute.
    pub rate_limits: RateLimits,
    /// First values: what organizations can book.
    pub plans: Plans,
    /// Counting verifications.
    pub(crate) usage: Usage,
    /// First values: how long what was recorded and counted is kept.
    pub retention: Retention,
    /// First values: while the platform is being worked on.
    pub(crate) maintenance: Maintenance,
    /// What is logged, and how.
    pub(crate) log: Log,
}

impl Config {
    /// The shipped defaults alone.
    pub fn shipped() -> Result<Self, ConfigError> {
        Effective::load(None, [], Flags::default()).map(|effective| effective.config)
    }

    /// What the settings of the platform are at first.
    pub(crate) fn first_settings(&self) -> Settings {
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

/// `[http]`: the listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Http {
    /// Where to listen; port 0 takes a free one.
    #[serde(deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// Whose `X-Forwarded-For` is believed. None of them has bits behind its prefix, none is an
    /// IPv4-mapped IPv6 address.
    #[serde(deserialize_with = "values::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The largest body of a request, in bytes.
    #[serde(deserialize_with = "values::number::<1_024, 67_108_864, _, _>")]
    pub max_body_bytes: usize,
    /// Connections open at a time.
    #[serde(deserialize_with = "values::number::<1, 1_000_000, _, _>")]
    pub max_connections: usize,
    /// Longest time for a request's head, and longest idle time between two requests.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub header_timeout: Duration,
    /// Longest time for a request's body.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub body_timeout: Duration,
    /// Longest time without progress in sending an answer.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub write_timeout: Duration,
    /// Longest time that running requests have at a stop; zero cuts them off.
    #[serde(deserialize_with = "values::timeout_or_zero", serialize_with = "values::show_duration")]
    pub drain_timeout: Duration,
}

/// `[tls]`: both files, or neither for a listener in the clear.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Tls {
    /// The certificate and the chain behind it, as PEM.
    #[serde(deserialize_with = "values::file_or_none", serialize_with = "values::show_file")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key, as PEM.
    #[serde(deserialize_with = "values::file_or_none", serialize_with = "values::show_file")]
    pub(crate) key: Option<PathBuf>,
}

/// `[metrics]`: figures for Prometheus.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Metrics {
    /// Where `/metrics` is served; port 0 takes a free one, `None` serves none.
    #[serde(deserialize_with = "values::listen_or_none", serialize_with = "values::show_listen")]
    pub(crate) listen: Option<SocketAddr>,
}

/// `[database]`: the file and the ways to it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Database {
    /// The directory that holds `tollhouse.db`.
    #[serde(deserialize_with = "values::path")]
    pub dir: PathBuf,
    /// Connections that read.
    #[serde(deserialize_with = "values::number::<1, 64, _, _>")]
    pub(crate) readers: u32,
    /// Longest time for a single read.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub(crate) read_timeout: Duration,
    /// Changes that may wait for the writer.
    #[serde(deserialize_with = "values::number::<1, 1_000_000, _, _>")]
    pub writer_queue: usize,
    /// Changes that may share one commit.
    #[serde(deserialize_with = "values::number::<1, 65_536, _, _>")]
    pub(crate) group_limit: usize,
    /// The largest size of the database file, in bytes; 0 = no bound.
    #[serde(deserialize_with = "values::number_or_zero::<1_048_576, MAX, _, _>")]
    pub max_bytes: u64,
}

/// `[cache]`: what is kept in memory.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Cache {
    /// What records of keys may take, in bytes, about.
    #[serde(deserialize_with = "values::number::<1_048_576, MAX, _, _>")]
    pub(crate) max_bytes: u64,
}

// The next sections are first values: `domain::settings` has what becomes of them in the database.

/// `[keys]`: new API keys.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Keys {
    /// What they begin with: `^[a-z][a-z0-9]{0,15}$`.
    #[serde(deserialize_with = "values::prefix")]
    pub(crate) prefix: String,
    /// Days until they expire when nobody says otherwise; 0 = never.
    #[serde(deserialize_with = "values::number::<0, 36_500, _, _>")]
    pub default_expiry_days: u32,
    /// Days until they must expire; 0 = they need not.
    #[serde(deserialize_with = "values::number::<0, 36_500, _, _>")]
    pub(crate) max_expiry_days: u32,
    /// Must those with administrative scopes have an allowlist?
    #[serde(deserialize_with = "values::flag")]
    pub(crate) require_allowed_ips_for_admin: bool,
}

/// `[rate_limits]`: calls in a minute; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct RateLimits {
    /// Calls of the control plane by one key.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub admin_per_minute: u32,
    /// Batches by one key.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub batch_per_minute: u32,
    /// Failed authentications from one address.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub failed_auth_per_minute: u32,
}

/// `[plans]`: what organizations can book.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Plans {
    /// The plan of an organization that booked none.
    pub standard: Plan,
    /// The larger one.
    pub(crate) enterprise: Plan,
}

/// One plan.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Plan {
    /// Verifications of each key that has no rate limit of its own; 0 = no limit.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub requests_per_minute: u32,
    /// Keys of an organization that aren't revoked; 0 = no limit.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub(crate) max_keys: u32,
    /// Members of an organization; 0 = no limit.
    #[serde(deserialize_with = "values::number::<0, 1_000_000_000, _, _>")]
    pub(crate) max_members: u32,
}

/// `[usage]`: counting verifications.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Usage {
    /// Longest time until what was counted is in the database.
    #[serde(deserialize_with = "values::timeout", serialize_with = "values::show_duration")]
    pub(crate) flush_interval: Duration,
}

/// `[retention]`: how long what was recorded and counted is kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Retention {
    /// Days of the audit log; 0 = for ever.
    #[serde(deserialize_with = "values::number_or_zero::<30, 36_500, _, _>")]
    pub(crate) audit_days: u32,
    /// Days of usage by the hour.
    #[serde(deserialize_with = "values::number::<1, 36_500, _, _>")]
    pub usage_hourly_days: u32,
    /// Days of usage by the day.
    #[serde(deserialize_with = "values::number::<1, 36_500, _, _>")]
    pub usage_daily_days: u32,
    /// Days of the verification log.
    #[serde(deserialize_with = "values::number::<1, 36_500, _, _>")]
    pub verification_log_days: u32,
}

/// `[maintenance]`: while the platform is being worked on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Maintenance {
    /// Refuse changes of the control plane.
    #[serde(deserialize_with = "values::flag")]
    pub(crate) read_only: bool,
    /// What is said to those who are refused; empty = that it is being worked on.
    #[serde(deserialize_with = "values::message")]
    pub(crate) message: String,
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Log {
    /// Directives of `tracing_subscriber::EnvFilter`.
    #[serde(deserialize_with = "values::log_level")]
    pub(crate) level: String,
    /// The form of the lines.
    #[serde(deserialize_with = "values::log_format")]
    pub(crate) format: LogFormat,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod environment_tests;
#[cfg(test)]
mod tests;
