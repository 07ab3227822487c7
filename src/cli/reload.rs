//! SIGHUP: reloads the TLS certificate and `log.level`, and names other changed settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

use super::service_manager::ServiceManager;
use crate::app::App;
use crate::config::{Config, ConfigFault, ConfigFlags, EffectiveConfig};
use crate::error::{Error, Result};
use crate::http::conn::tls::Tls;
use crate::telemetry::LogFilter;
use crate::telemetry::notice::Notice;

/// The sections whose settings are only the initial values of a new database.
const INITIAL_SECTIONS: [&str; 6] = ["keys", "rate_limits", "meters", "plans", "retention", "maintenance"];
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

    /// Reloads certificate and configuration at each SIGHUP while the server isn't stopping, until the returned future
    /// is dropped.
    pub(super) async fn run(
        mut self,
        app: &App,
        hangup: Option<Signal>,
        tls: Option<Arc<Tls>>,
        service_manager: &ServiceManager,
    ) {
        let Some(mut hangup) = hangup else { return std::future::pending().await };
        while hangup.recv().await.is_some() {
            if app.is_draining() {
                continue;
            }
            service_manager.report_reloading().await;
            // Independent of the configuration: an error there must not keep an expiring certificate in use.
            if let Some(tls) = tls.clone() {
                reload_certificate(tls).await;
            }
            self.reload().await;
            service_manager.report_reloaded().await;
        }
        std::future::pending().await
    }

    /// Loads the configuration anew. If it has errors, nothing changes.
    async fn reload(&mut self) {
        let (file, flags) = (self.file.clone(), self.flags.clone());
        let load = move || EffectiveConfig::reload(file.as_deref(), std::env::vars_os(), flags);
        match read_files(load).await {
            Ok(Ok(effective)) => self.apply(effective),
            Ok(Err(error)) => {
                for ConfigFault { source, setting, message } in &error.faults {
                    keep_configuration(source, setting.as_deref(), message);
                }
            }
            Err(error) => keep_configuration("configuration", None, &error.to_string()),
        }
    }

    fn apply(&mut self, effective: EffectiveConfig) {
        let EffectiveConfig { config: new, setting_sources, .. } = effective;
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
        let level = new.log.level;
        // A level of the environment stays as long as the process runs, whatever the file says.
        let origin = setting_sources.get(LOG_LEVEL).map_or("default", String::as_str);
        tracing::info!(log_level = level, origin, "configuration reloaded");
        if level != self.current.log.level {
            // Written at any level: one of the two may exclude an event.
            Notice::info("log level changed").field("log_level", &level).print();
            self.log_filter.set(&level);
            self.current.log.level = level;
        }
    }
}

fn keep_configuration(source: &str, setting: Option<&str>, problem: &str) {
    tracing::error!(source, setting, problem, "keeping the previous configuration");
}

async fn reload_certificate(tls: Arc<Tls>) {
    match read_files(move || tls.reload()).await.and_then(|reloaded| reloaded) {
        Ok(()) => tracing::info!(signal = "SIGHUP", "certificate reloaded"),
        Err(error) => {
            let problem = &*error.message;
            tracing::error!(signal = "SIGHUP", problem, "keeping the previous certificate");
        }
    }
}

/// Reads files on a thread of its own: a file system may not respond, and the server must nevertheless serve and stop.
async fn read_files<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (send, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reload".to_owned());
    thread.spawn(move || drop(send.send(read()))).map_err(Error::internal)?;
    result.await.map_err(Error::internal)
}

/// The names of the settings that differ.
fn changed_settings(one: &Config, other: &Config) -> Vec<String> {
    let one = settings_by_name(one);
    let other = settings_by_name(other);
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
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
        after.plans.get_mut("standard").unwrap().max_keys += 1;
        after.log.level = "warn".to_owned();
        let expected = ["http.trusted_proxies", LOG_LEVEL, "plans.standard.max_keys", "tls.key"];
        assert_eq!(changed_settings(&before, &after), expected);
        assert_eq!(changed_settings(&after, &before), expected);
        let mut with_plan = before.clone();
        with_plan.plans.insert("gold".to_owned(), before.plans["standard"].clone());
        assert_eq!(changed_settings(&before, &with_plan)[0], "plans.gold.key_limits");
        assert_eq!(changed_settings(&before, &with_plan), changed_settings(&with_plan, &before));
    }
}
