//! Settings from environment variables, and the variables that look like settings but aren't.

use std::ffi::OsString;

use figment::value::Value;

use super::layers::{ConfigLayers, SettingPath, nearest_setting, unknown_setting_message};
use super::plans::{is_plan, settings_of_plan};
use super::values;
use crate::domain::settings::{self, Rule};

/// The prefix of all environment variables of this program.
const ENV_PREFIX: &str = "TOLLHOUSE_";
/// The environment variable with the path of the user's file; the flag `--config` overrides this variable.
pub(super) const CONFIG_VARIABLE: &str = "TOLLHOUSE_CONFIG";
/// Environment variables of this program that are not settings. `TOLLHOUSE_ADMIN_KEY` and
/// `TOLLHOUSE_ADMIN_KEY_FILE` give the secret of the first admin key, which is used only once.
const NON_SETTING_VARIABLES: [&str; 3] = ["TOLLHOUSE_ADMIN_KEY", "TOLLHOUSE_ADMIN_KEY_FILE", CONFIG_VARIABLE];
/// The environment variable that the guides use for the API key of a client program. The variable is not
/// taken for a misspelled `tls.key`.
const CLIENT_KEY_VARIABLE: &str = "TOLLHOUSE_KEY";
/// The variable with which Rust programs are commonly told what to log. It overrides `log.level`.
const RUST_LOG: &str = "RUST_LOG";

impl ConfigLayers {
    /// Adds the settings of the environment.
    pub(super) fn add_environment(&mut self, environment: Vec<(OsString, OsString)>) {
        let rust_log = environment.iter().find(|(name, _)| name == RUST_LOG).map(|(_, value)| value.clone());
        for (name, value) in environment {
            self.add_variable(&name.to_string_lossy(), value);
        }
        if let Some(directives) = rust_log.filter(|value| !value.is_empty()) {
            self.add_rust_log(directives);
        }
    }

    /// Adds `RUST_LOG` as the value of `log.level`. An invalid value is only a warning, because the variable may be
    /// meant for another program.
    fn add_rust_log(&mut self, directives: OsString) {
        match directives.into_string() {
            Ok(text) if values::is_log_filter(&text) => {
                self.add_value(RUST_LOG, &["log", "level"], text.into())
            }
            _ => {
                let expected = values::LOG_FILTER_FORM;
                self.warnings.push(format!("{RUST_LOG} has no effect; it must be {expected}"));
            }
        }
    }

    fn add_variable(&mut self, name: &str, value: OsString) {
        let Some(rest) = name.strip_prefix(ENV_PREFIX).filter(|_| !NON_SETTING_VARIABLES.contains(&name))
        else {
            return;
        };
        if !rest.contains("__") {
            // The variable belongs to another program, or Kubernetes sets the variable for a Service named
            // tollhouse (TOLLHOUSE_PORT).
            self.warnings.extend(self.misnamed_variable_warning(name, rest));
            return;
        }
        let names: SettingPath = rest.to_lowercase().split("__").map(str::to_owned).collect();
        // A plan that no file has. Its value is parsed like the defaults of its settings.
        let declared = self.declare_plan(&names, &Value::from(""));
        let Some(default) = self.defaults.get(&names) else {
            if let Err(message) = declared {
                return self.add_fault(name.to_owned(), Some(names.join(".")), message);
            }
            if is_kubernetes_service(rest, &value.to_string_lossy()) {
                return;
            }
            if is_plan(&names) {
                let settings =
                    settings_of_plan(&names).iter().map(|names| variable_name(names)).collect::<Vec<_>>();
                let message =
                    format!("a plan has a variable for each of its settings: {}", settings.join(", "));
                return self.add_fault(name.to_owned(), None, message);
            }
            let others = NON_SETTING_VARIABLES.map(|name| vec![name[ENV_PREFIX.len()..].to_lowercase()]);
            let of_plan = settings_of_plan(&names);
            let known =
                self.defaults.keys().filter(|names| is_variable(names)).chain(&others).chain(&of_plan);
            let nearest = nearest_setting(&names, known);
            // The error omits the value, which may be a secret whose variable was misspelled.
            return self.add_fault(
                name.to_owned(),
                None,
                unknown_setting_message(nearest.map(|names| variable_name(names))),
            );
        };
        match value.into_string() {
            Ok(text) => {
                let is_limits = matches!(settings::find_rule(&names), Some(Rule::Limits));
                // An empty variable, such as an unset one that Compose passes on, would remove all limits.
                if is_limits && text.trim().is_empty() {
                    let message = "is empty; write [] for no limits".to_owned();
                    return self.add_fault(name.to_owned(), Some(names.join(".")), message);
                }
                // Limits aren't separated by commas, so that the error of another text shows the right form.
                let value = if is_limits && !text.trim_start().starts_with('[') {
                    text.into()
                } else {
                    values::parse_like_default(text, default)
                };
                self.add_value(name, &names, value);
            }
            Err(_) => self.add_fault(name.to_owned(), Some(names.join(".")), "is not UTF-8".to_owned()),
        }
    }

    /// Returns a warning if a variable without `__` in its name was probably meant as a setting (the name is
    /// the last part of the setting's path, its flag, or its path with single underscores) or as another
    /// variable of this program.
    fn misnamed_variable_warning(&self, name: &str, rest: &str) -> Option<String> {
        if name == CLIENT_KEY_VARIABLE {
            return None;
        }
        let rest = rest.to_lowercase();
        let is_meant = |names: &&SettingPath| {
            names.last() == Some(&rest)
                || names.join("_") == rest
                || rest == "data" && names.join(".") == "database.dir"
        };
        if let Some(setting) = self.defaults.keys().find(|names| !is_variable(names) && is_meant(names)) {
            return Some(format!(
                "{name} has no effect; set {} in the configuration file",
                setting.join(".")
            ));
        }
        let settings = self.defaults.keys().filter(is_meant).map(|names| variable_name(names));
        let others =
            NON_SETTING_VARIABLES.into_iter().filter(|other| strsim::damerau_levenshtein(other, name) <= 2);
        let meant: Vec<_> = settings.chain(others.map(str::to_owned)).collect();
        (!meant.is_empty()).then(|| format!("{name} has no effect; did you mean {}?", meant.join(" or ")))
    }
}

/// True if Kubernetes sets this variable, of which `rest` is the name without [`ENV_PREFIX`], for a Service whose
/// name begins with `tollhouse-`: the Service `tollhouse-a--b` has `TOLLHOUSE_A__B_SERVICE_HOST`.
fn is_kubernetes_service(rest: &str, value: &str) -> bool {
    let is_port = |suffix: &str| {
        let parts: Vec<_> = suffix.split('_').collect();
        let (number, protocol) = match parts.as_slice() {
            [number, protocol] | [number, protocol, "PROTO" | "PORT" | "ADDR"] => (number, protocol),
            _ => return false,
        };
        number.parse::<u16>().is_ok() && matches!(*protocol, "TCP" | "UDP" | "SCTP")
    };
    rest.match_indices('_').any(|(at, _)| {
        let service = &rest[..at];
        // The name of a Service doesn't end in a hyphen, so `TOLLHOUSE_HTTP__PORT` is a misspelled setting.
        if service.is_empty() || service.ends_with('_') {
            return false;
        }
        match &rest[at + 1..] {
            "SERVICE_HOST" | "SERVICE_PORT" => true,
            "PORT" => value.contains("://"),
            suffix => {
                suffix.starts_with("SERVICE_PORT_") || suffix.strip_prefix("PORT_").is_some_and(is_port)
            }
        }
    })
}

/// True if a variable can set this setting: names without `__` are left to other programs.
fn is_variable(names: &SettingPath) -> bool {
    names.len() > 1
}

fn variable_name(names: &[String]) -> String {
    format!("{ENV_PREFIX}{}", names.join("__").to_uppercase())
}
