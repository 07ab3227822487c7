//! Loads the configuration from its sources (defaults, file, environment, flags) and reports invalid
//! settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml_edit::{Document, TableLike};

use super::{Config, ListenAddress, values};

/// The text of the default configuration, which is also the list of all settings.
pub(crate) const DEFAULT_CONFIG_TOML: &str = include_str!("../../config.toml");
/// The name of the configuration layer that holds the defaults.
const DEFAULTS_LAYER: &str = "default";
/// The prefix of all environment variables of this program.
const ENV_PREFIX: &str = "TOLLHOUSE_";
/// The environment variable with the path of the user's file; the flag `--config` overrides this variable.
const CONFIG_VARIABLE: &str = "TOLLHOUSE_CONFIG";
/// The user's file if neither the flag nor the variable names one, and this one exists.
const SYSTEM_FILE: &str = "/etc/tollhouse/config.toml";
/// Environment variables of this program that are not settings. `TOLLHOUSE_ADMIN_KEY` and
/// `TOLLHOUSE_ADMIN_KEY_FILE` give the secret of the first admin key, which is used only once.
const NON_SETTING_VARIABLES: [&str; 3] = ["TOLLHOUSE_ADMIN_KEY", "TOLLHOUSE_ADMIN_KEY_FILE", CONFIG_VARIABLE];
/// The environment variable that the guides use for the API key of a client program. The variable is not
/// taken for a misspelled `tls.key`.
const CLIENT_KEY_VARIABLE: &str = "TOLLHOUSE_KEY";

/// The path of a setting, such as `["http", "listen"]`.
type SettingPath = Vec<String>;

/// Settings given on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigFlags {
    /// The value of the flag `--listen`, which sets `http.listen`.
    pub(crate) listen: Option<ListenAddress>,
    /// The value of the flag `--data`, which sets `database.dir`.
    pub(crate) data: Option<String>,
    /// True if the flag `--must-exist` is given, which sets `database.must_exist`.
    pub(crate) must_exist: bool,
}

/// The settings in effect, and the source of each setting that is not a default.
#[derive(Clone, Debug)]
pub(crate) struct EffectiveConfig {
    pub(crate) config: Config,
    /// The source of each setting that is not a default, by the setting's name (`http.listen`): a file and
    /// line, an environment variable or a flag.
    pub(crate) setting_sources: BTreeMap<String, String>,
    /// Warnings about environment variables that have no effect but were probably meant as settings.
    pub(crate) warnings: Vec<String>,
}

impl EffectiveConfig {
    /// Merges the sources in this order, in which later sources override earlier ones: the defaults, `file`
    /// (or the file named by the environment, or else [`SYSTEM_FILE`]), the `environment` as pairs of name and value, the `flags`.
    ///
    /// # Errors
    /// `ConfigError` with all errors of all sources.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
    ) -> Result<Self, ConfigError> {
        Self::load_with(file, environment, flags, Some(Path::new(SYSTEM_FILE)))
    }

    /// Loads only the defaults, whatever this machine has in [`SYSTEM_FILE`].
    pub(super) fn load_defaults() -> Result<Self, ConfigError> {
        Self::load_with(None, [], ConfigFlags::default(), None)
    }

    /// [`load`](Self::load) with another system file.
    pub(super) fn load_with(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
        system_file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut layers = ConfigLayers::new()?;
        let environment: Vec<_> = environment.into_iter().collect();
        let named = environment.iter().find(|(name, path)| name == CONFIG_VARIABLE && !path.is_empty());
        match (file, named) {
            (Some(path), _) => layers.add_file(path, ""),
            (None, Some((_, path))) => layers.add_file(Path::new(path), &format!("{CONFIG_VARIABLE}: ")),
            (None, None) => {
                // A file that exists and can't be read is an error: its settings would be ignored silently.
                let existing = system_file.filter(|path| !matches!(path.try_exists(), Ok(false)));
                existing.into_iter().for_each(|path| layers.add_file(path, ""));
            }
        }
        for (name, value) in environment {
            layers.add_variable(&name.to_string_lossy(), value);
        }
        if let Some(listen) = flags.listen {
            layers.add_value("--listen", &["http", "listen"], listen.to_string().into());
        }
        if let Some(data) = flags.data {
            layers.add_value("--data", &["database", "dir"], data.into());
        }
        if flags.must_exist {
            layers.add_value("--must-exist", &["database", "must_exist"], true.into());
        }
        layers.into_effective_config()
    }
}

/// All errors of the configuration, reported together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The errors in the order in which they were found; at least one error.
    pub(crate) faults: Vec<ConfigFault>,
}

/// One error of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigFault {
    /// The source of the error: a file and line, an environment variable or a flag.
    pub(crate) source: String,
    /// The name of the setting; `None` if the error concerns the source as a whole.
    pub(crate) setting: Option<String>,
    /// What is wrong with the setting, and which values are valid.
    pub(crate) message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => f.write_str("The configuration has 1 error:")?,
            count => write!(f, "The configuration has {count} errors:")?,
        }
        self.faults.iter().try_for_each(|fault| write!(f, "\n{fault}"))
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if let Some(setting) = &self.setting {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Settings of one source, with the source's name as shown to users.
struct ConfigLayer {
    name: String,
    data: Dict,
}

impl Provider for ConfigLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.data.clone()))
    }
}

/// Merges the sources of the configuration, and collects their errors and warnings.
struct ConfigLayers {
    figment: Figment,
    /// The default value of every setting, by the setting's path.
    defaults: BTreeMap<SettingPath, Value>,
    /// The name and the text of the user's file.
    file: Option<(String, String)>,
    faults: Vec<ConfigFault>,
    warnings: Vec<String>,
}

impl ConfigLayers {
    fn new() -> Result<Self, ConfigError> {
        let data: Dict = Toml::from_str(DEFAULT_CONFIG_TOML).map_err(|error| {
            let fault =
                ConfigFault { source: DEFAULTS_LAYER.to_owned(), setting: None, message: error.to_string() };
            ConfigError { faults: vec![fault] }
        })?;
        let defaults = collect_leaves(&data);
        let figment = Figment::from(ConfigLayer { name: DEFAULTS_LAYER.to_owned(), data });
        Ok(Self { figment, defaults, file: None, faults: Vec::new(), warnings: Vec::new() })
    }

    /// Adds the settings of the user's file. `named_by` precedes the path in the error for an unreadable
    /// file.
    fn add_file(&mut self, path: &Path, named_by: &str) {
        let name = path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.add_fault(format!("{named_by}{name}"), None, format!("can't be read: {error}"));
            }
        };
        let data: Dict = match Toml::from_str(&text) {
            Ok(data) => data,
            Err(error) => return self.add_fault(name, None, error.to_string().trim_end().to_owned()),
        };
        self.file = Some((name.clone(), text));
        // Only known settings are added, so that each error of a later step concerns exactly one setting.
        for (names, value) in collect_leaves(&data) {
            if self.defaults.contains_key(&names) {
                self.add_value(&name, &names, value);
                continue;
            }
            let is_section = self.defaults.keys().any(|known| known.starts_with(&names));
            let message = match value {
                Value::Dict(..) if is_section => continue,
                _ if is_section => "is a section, not a setting".to_owned(),
                _ => unknown_setting_message(
                    nearest_setting(&names, self.defaults.keys()).map(|names| names.join(".")),
                ),
            };
            self.add_fault(self.position_in_file(&names), Some(names.join(".")), message);
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
        let Some(default) = self.defaults.get(&names) else {
            let others = NON_SETTING_VARIABLES.map(|name| vec![name[ENV_PREFIX.len()..].to_lowercase()]);
            let nearest = nearest_setting(&names, self.defaults.keys().chain(&others));
            // The error omits the value, which may be a secret whose variable was misspelled.
            return self.add_fault(
                name.to_owned(),
                None,
                unknown_setting_message(nearest.map(|names| variable_name(names))),
            );
        };
        match value.into_string() {
            Ok(text) => {
                let value = values::parse_like_default(text, default);
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
        let settings = self.defaults.keys().filter(is_meant).map(|names| variable_name(names));
        let others =
            NON_SETTING_VARIABLES.into_iter().filter(|other| strsim::damerau_levenshtein(other, name) <= 2);
        let meant: Vec<_> = settings.chain(others.map(str::to_owned)).collect();
        (!meant.is_empty()).then(|| format!("{name} has no effect; did you mean {}?", meant.join(" or ")))
    }

    fn add_value(&mut self, layer: &str, names: &[impl AsRef<str>], value: Value) {
        let layer = ConfigLayer { name: layer.to_owned(), data: nest_value(names, value) };
        self.figment = std::mem::take(&mut self.figment).merge(layer);
    }

    fn add_fault(&mut self, source: String, setting: Option<String>, message: String) {
        self.faults.push(ConfigFault { source, setting, message });
    }

    /// Deserializes all settings. serde stops at the first invalid value: its error is recorded, the
    /// setting's default replaces the value, and all settings are deserialized again, until no value is
    /// invalid.
    fn into_effective_config(mut self) -> Result<EffectiveConfig, ConfigError> {
        let config = loop {
            let error = match self.figment.extract::<Config>() {
                Ok(config) => break config,
                Err(error) => error,
            };
            // The path in the error may be longer than the setting's path: it may include an index into a
            // list.
            let wrong = self.defaults.iter().find(|(names, _)| error.path.starts_with(names));
            let wrong = wrong.map(|(names, default)| (names.clone(), default.clone()));
            let setting = error.path.join(".");
            let message = describe_error(&error.kind);
            match wrong.and_then(|(names, default)| Some((self.source_of(&names)?, names, default))) {
                Some((source, names, default)) => {
                    self.add_fault(source, Some(setting), message);
                    self.add_value(DEFAULTS_LAYER, &names, default);
                }
                None => {
                    // The invalid value is the default itself, so that no valid value can replace it.
                    self.add_fault(DEFAULTS_LAYER.to_owned(), Some(setting), message);
                    return Err(ConfigError { faults: self.faults });
                }
            }
        };
        if let Err(message) = config.initial_settings().keys.ensure_consistent() {
            let names = ["keys", "default_expiry_days"].map(str::to_owned);
            let source = self.source_of(&names).unwrap_or_else(|| DEFAULTS_LAYER.to_owned());
            self.add_fault(source, Some(names.join(".")), message.to_owned());
        }
        self.check_tls_pair(&config);
        self.check_request_memory(&config);
        if !self.faults.is_empty() {
            return Err(ConfigError { faults: self.faults });
        }
        let given = self.defaults.keys().filter_map(|names| Some((names.join("."), self.source_of(names)?)));
        let setting_sources = given.collect();
        Ok(EffectiveConfig { config, setting_sources, warnings: self.warnings })
    }

    /// Reports a certificate without its key, or a key without its certificate.
    fn check_tls_pair(&mut self, config: &Config) {
        let (given, missing) = match (&config.tls.cert, &config.tls.key) {
            (Some(_), None) => ("cert", "key"),
            (None, Some(_)) => ("key", "cert"),
            _ => return,
        };
        let source = self.source_of(&["tls".to_owned(), given.to_owned()]).unwrap_or_default();
        let message = format!("is missing: tls.{given} is given, and TLS needs both");
        self.add_fault(source, Some(format!("tls.{missing}")), message);
    }

    /// Reports memory for requests that is too little for a request with the largest body.
    fn check_request_memory(&mut self, config: &Config) {
        let minimum = config.http.min_request_memory_bytes();
        if (1..minimum).contains(&config.http.request_memory_bytes) {
            let names = ["http", "request_memory_bytes"].map(str::to_owned);
            let source = self.source_of(&names).unwrap_or_default();
            let message = format!(
                "must be at least {minimum}, or 0: a quarter, the share of one organization, must suffice for a \
                 body of http.max_body_bytes and its values"
            );
            self.add_fault(source, Some(names.join(".")), message);
        }
    }

    /// The source of a setting's value in effect; `None` if the value is the default.
    fn source_of(&self, names: &[String]) -> Option<String> {
        let layer = &*self.figment.find_metadata(&names.join("."))?.name;
        match &self.file {
            _ if layer == DEFAULTS_LAYER => None,
            Some((file, _)) if layer == file => Some(self.position_in_file(names)),
            _ => Some(layer.to_owned()),
        }
    }

    /// The name of the user's file with the line of this setting: `file:line`.
    fn position_in_file(&self, names: &[String]) -> String {
        let (file, text) = self.file.as_ref().map_or(("", ""), |(file, text)| (file, text));
        match line_of_setting(text, names) {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        }
    }
}

/// Collects the leaves of a tree of settings, by their paths.
pub(crate) fn collect_leaves(tree: &Dict) -> BTreeMap<SettingPath, Value> {
    let mut all = BTreeMap::new();
    for (name, value) in tree {
        match value {
            Value::Dict(_, below) if !below.is_empty() => {
                let below = collect_leaves(below).into_iter();
                all.extend(below.map(|(names, value)| ([vec![name.clone()], names].concat(), value)));
            }
            _ => {
                all.insert(vec![name.clone()], value.clone());
            }
        }
    }
    all
}

/// Builds a tree of settings that has a single value, at the path `names`.
fn nest_value(names: &[impl AsRef<str>], value: Value) -> Dict {
    match names {
        [] => Dict::new(),
        [name] => Dict::from([(name.as_ref().to_owned(), value)]),
        [name, below @ ..] => Dict::from([(name.as_ref().to_owned(), nest_value(below, value).into())]),
    }
}

fn variable_name(names: &[String]) -> String {
    format!("{ENV_PREFIX}{}", names.join("__").to_uppercase())
}

/// Describes an error of deserialization, in the same form for values of a wrong type and invalid values.
fn describe_error(wrong: &Kind) -> String {
    match wrong {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {found}, expected {expected}")
        }
        other => other.to_string(),
    }
}

fn unknown_setting_message(nearest: Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("unknown setting; the nearest known one is {nearest}"),
        None => "unknown setting".to_owned(),
    }
}

/// The known setting that was most likely meant by the unknown setting `names`, which is misspelled or in the
/// wrong section.
fn nearest_setting<'a>(
    names: &SettingPath,
    known: impl Iterator<Item = &'a SettingPath>,
) -> Option<&'a SettingPath> {
    known.min_by_key(|known| match names.last() == known.last() {
        true => 1,
        false => strsim::damerau_levenshtein(&names.join("."), &known.join(".")),
    })
}

/// The line, counted from 1, on which a TOML text sets the setting with this path.
fn line_of_setting(text: &str, names: &[String]) -> Option<usize> {
    let document = Document::parse(text).ok()?;
    let mut table: Option<&dyn TableLike> = Some(document.as_table());
    let mut at = None;
    for name in names {
        let (key, item) = table?.get_key_value(name)?;
        at = key.span().or(item.span());
        table = item.as_table_like();
    }
    Some(1 + text[..at?.start].matches('\n').count())
}
