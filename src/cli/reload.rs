//! SIGHUP: reloads the TLS certificate and `log.level`, and names other changed settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

use super::service_manager::ServiceManager;
use crate::config::{Config, ConfigError, ConfigFlags, EffectiveConfig};
use crate::http::tls::Tls;
use crate::telemetry::LogFilter;

/// The sections whose settings are only the initial values of a new database.
const INITIAL_SECTIONS: [&str; 5] = ["keys", "rate_limits", "plans", "retention", "maintenance"];
/// The setting that a reload applies.
const LOG_LEVEL: &str = "log.level";

/// Where the configuration comes from, and which one the server runs with.
pub(crate) struct ConfigReloader {
    /// The file given with `--config`.
    file: Option<PathBuf>,
    flags: ConfigFlags,
    /// The configuration as it was loaded at the start, with the current `log.level`.
    current: Config,
    log_filter: LogFilter,
}

impl ConfigReloader {
    pub(super) fn new(
        file: Option<PathBuf>,
        flags: ConfigFlags,
        current: Config,
        log_filter: LogFilter,
    ) -> Self {
        Self { file, flags, current, log_filter }
    }

    /// Reloads certificate and configuration at each SIGHUP, until the returned future is dropped.
    pub(super) async fn run(
        mut self,
        hangup: Option<Signal>,
        tls: Option<&Tls>,
        service_manager: &ServiceManager,
    ) {
        let Some(mut hangup) = hangup else { return std::future::pending().await };
        while hangup.recv().await.is_some() {
            service_manager.report_reloading().await;
            // Independent of the configuration: an error there must not keep an expiring certificate in use.
            reload_certificate(tls);
            self.reload().await;
            service_manager.report_reloaded().await;
        }
        std::future::pending().await
    }

    /// Loads the configuration anew. If it has errors, nothing changes.
    async fn reload(&mut self) {
        let file = self.file.clone().or_else(|| std::env::var_os("TOLLHOUSE_CONFIG").map(PathBuf::from));
        // A pipe was read at the start, and is empty now.
        if let Some(file) = file.filter(|file| file.metadata().is_ok_and(|file| !file.is_file())) {
            let source = &*file.display().to_string();
            tracing::error!(
                source,
                setting = None::<&str>,
                problem = "is not a regular file",
                "keeping the previous configuration"
            );
            return;
        }
        let new = match self.load().await {
            Ok(effective) => effective.config,
            Err(error) => {
                for fault in &error.faults {
                    let source = &*fault.source;
                    let setting = fault.setting.as_deref();
                    let problem = &*fault.message;
                    tracing::error!(source, setting, problem, "keeping the previous configuration");
                }
                return;
            }
        };
        let (initial, others): (Vec<_>, Vec<_>) = changed_settings(&self.current, &new)
            .into_iter()
            .filter(|name| name != LOG_LEVEL)
            .partition(|name| INITIAL_SECTIONS.iter().any(|section| name.split('.').next() == Some(section)));
        if !others.is_empty() {
            tracing::warn!(settings = others.join(", "), "changed settings take effect after a restart");
        }
        if !initial.is_empty() {
            tracing::warn!(
                settings = initial.join(", "),
                "changed initial values ignored: the database has its own; use PATCH /admin/v1/config to change them"
            );
        }
        tracing::info!("configuration reloaded");
        self.apply_log_level(new.log.level);
    }

    /// Loads the configuration on a thread of its own: a file system may not respond, and the server must nevertheless
    /// serve and stop.
    async fn load(&self) -> Result<EffectiveConfig, ConfigError> {
        let (file, flags) = (self.file.clone(), self.flags.clone());
        let (loaded, load) = oneshot::channel();
        let thread = std::thread::Builder::new().name("reload".to_owned());
        let started = thread.spawn(move || {
            drop(loaded.send(EffectiveConfig::load(file.as_deref(), std::env::vars_os(), flags)));
        });
        match (started, load.await) {
            (Ok(_), Ok(result)) => result,
            // The thread could not be started.
            _ => EffectiveConfig::load(self.file.as_deref(), std::env::vars_os(), self.flags.clone()),
        }
    }

    fn apply_log_level(&mut self, level: String) {
        if level == self.current.log.level {
            return;
        }
        let report = || tracing::info!(log_level = level, "log level changed");
        // One of the two levels may exclude this event.
        let was_reported = tracing::enabled!(tracing::Level::INFO);
        if was_reported {
            report();
        }
        self.log_filter.set(&level);
        if !was_reported {
            report();
        }
        self.current.log.level = level;
    }
}

fn reload_certificate(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => {}
        Some(Ok(())) => tracing::info!(signal = "SIGHUP", "certificate reloaded"),
        Some(Err(error)) => {
            let problem = &*error.message;
            tracing::error!(signal = "SIGHUP", problem, "keeping the previous certificate");
        }
    }
}

/// The names of the settings that differ.
fn changed_settings(one: &Config, other: &Config) -> Vec<String> {
    let one = settings_by_name(one);
    let other = settings_by_name(other);
    one.into_iter().filter(|(name, value)| other.get(name) != Some(value)).map(|(name, _)| name).collect()
}

fn settings_by_name(config: &Config) -> BTreeMap<String, Value> {
    let mut settings = BTreeMap::new();
    add_settings(String::new(), serde_json::to_value(config).unwrap_or_default(), &mut settings);
    settings
}

fn add_settings(name: String, value: Value, settings: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let path = if name.is_empty() { member } else { format!("{name}.{member}") };
                add_settings(path, value, settings);
            }
        }
        value => drop(settings.insert(name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_settings_are_named_by_their_paths() {
        let before = Config::load_defaults().unwrap();
        assert_eq!(changed_settings(&before, &before), [""; 0]);
        let mut after = before.clone();
        after.http.trusted_proxies.push("10.0.0.0/8".parse().unwrap());
        after.tls.key = Some("key.pem".into());
        after.plans.standard.requests_per_minute += 1;
        after.log.level = "warn".to_owned();
        let expected = ["http.trusted_proxies", LOG_LEVEL, "plans.standard.requests_per_minute", "tls.key"];
        assert_eq!(changed_settings(&before, &after), expected);
        assert_eq!(changed_settings(&after, &before), expected);
    }
}
