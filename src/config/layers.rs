//! The layers of the configuration, one for each source: merges them, and reports invalid settings.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use figment::error::{Actual, Kind};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml_edit::{Document, TableLike};

use super::plans::{self, PlanPath, settings_of_plan};
use super::{Config, LogFormat};
use crate::domain::fields::{Faults, Json};
use crate::domain::redaction::Redactor;
use crate::domain::settings::{self, Rule};
use crate::error::ErrorDetail;

/// The text of the default configuration, which is also the list of all settings.
pub(crate) const DEFAULT_CONFIG_TOML: &str = include_str!("../../config.toml");
/// The name of the configuration layer that holds the defaults.
const DEFAULTS_LAYER: &str = "default";

/// The edit distance up to which a short name counts as a misspelling. A longer name may have more errors.
const MAX_NEAR_DISTANCE: usize = 2;

/// The path of a setting, such as `["http", "listen"]`.
pub(super) type SettingPath = Vec<String>;

/// The settings in effect, and the source of each setting that is not a default.
#[derive(Clone, Debug)]
pub(crate) struct EffectiveConfig {
    pub(crate) config: Config,
    /// The source of each setting that is not a default, by the setting's name (`http.listen`): a file and
    /// line, an environment variable or a flag. A section of a plan without settings (`plans.free`) has its own.
    pub(crate) setting_sources: BTreeMap<String, String>,
    /// Warnings about environment variables that have no effect but were probably meant as settings.
    pub(crate) warnings: Vec<String>,
}

/// Which files the configuration may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Any,
    /// Not a pipe, which was read at the start and is empty now.
    Regular,
}

/// All errors of the configuration, reported together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The errors in the order in which they were found; at least one error.
    pub(crate) faults: Vec<ConfigFault>,
    /// The format of log lines, in which the server reports the errors: the configured one, if it is valid.
    pub(crate) log_format: LogFormat,
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
pub(super) struct ConfigLayers {
    figment: Figment,
    /// The default value of every setting, by the setting's path.
    pub(super) defaults: BTreeMap<SettingPath, Value>,
    kind: FileKind,
    /// The name and the text of the user's file.
    file: Option<(String, String)>,
    /// The sections of plans that have no settings (`plans.free`), each with its place in the file.
    empty_plans: Vec<(String, String)>,
    faults: Vec<ConfigFault>,
    pub(super) warnings: Vec<String>,
}

impl ConfigLayers {
    pub(super) fn new(kind: FileKind) -> Result<Self, ConfigError> {
        let data: Dict = Toml::from_str(DEFAULT_CONFIG_TOML).map_err(|error| {
            let fault =
                ConfigFault { source: DEFAULTS_LAYER.to_owned(), setting: None, message: error.to_string() };
            ConfigError { faults: vec![fault], log_format: LogFormat::Auto }
        })?;
        let defaults = collect_leaves(&data);
        let figment = Figment::from(ConfigLayer { name: DEFAULTS_LAYER.to_owned(), data });
        Ok(Self {
            figment,
            defaults,
            kind,
            file: None,
            empty_plans: Vec::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// Adds the settings of the user's file. `named_by` precedes the path in the error for an unreadable
    /// file.
    pub(super) fn add_file(&mut self, path: &Path, named_by: &str) {
        let name = path.display().to_string();
        if self.kind == FileKind::Regular && fs::metadata(path).is_ok_and(|file| !file.is_file()) {
            return self.add_fault(format!("{named_by}{name}"), None, "is not a regular file".to_owned());
        }
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
            let declared = self.declare_plan(&names, &value);
            if matches!(value, Value::Dict(..)) && declared.is_ok() && plans::is_plan(&names) {
                self.empty_plans.push((names.join("."), self.position_in_file(&names)));
            }
            if self.defaults.contains_key(&names) {
                self.add_value(&name, &names, value);
                continue;
            }
            let is_section = self.defaults.keys().any(|known| known.starts_with(&names));
            let message = match (value, declared) {
                (_, Err(message)) => message,
                (Value::Dict(..), _) if is_section => continue,
                _ if is_section => "is a section, not a setting".to_owned(),
                _ => {
                    let of_plan = settings_of_plan(&names);
                    let nearest = nearest_setting(&names, self.defaults.keys().chain(&of_plan));
                    unknown_setting_message(nearest.map(|nearest| nearest.join(".")))
                }
            };
            self.add_fault(self.position_in_file(&names), Some(names.join(".")), message);
        }
    }

    pub(super) fn add_value(&mut self, layer: &str, names: &[impl AsRef<str>], value: Value) {
        let layer = ConfigLayer { name: layer.to_owned(), data: nest_value(names, value) };
        self.figment = std::mem::take(&mut self.figment).merge(layer);
    }

    /// Makes the settings of a plan known, with their defaults, if this is the path of a new plan or of a setting of one.
    ///
    /// # Errors
    /// A message that says why no plan can have this path.
    pub(super) fn declare_plan(&mut self, names: &[String], value: &Value) -> Result<(), String> {
        let new = match plans::classify(names, value, self.defaults.keys()) {
            PlanPath::Other => return Ok(()),
            PlanPath::Invalid(message) => return Err(message),
            PlanPath::New(settings) => settings,
        };
        for (names, default) in new {
            // Every layer overrides it.
            let data = nest_value(&names, default.clone());
            let layer = ConfigLayer { name: DEFAULTS_LAYER.to_owned(), data };
            self.figment = std::mem::take(&mut self.figment).join(layer);
            self.defaults.insert(names, default);
        }
        Ok(())
    }

    /// Adds a fault of the value of a setting.
    pub(super) fn add_fault_of(&mut self, names: &[String], message: String) {
        let source = self.source_of(names).unwrap_or_else(|| DEFAULTS_LAYER.to_owned());
        self.add_fault(source, Some(names.join(".")), message);
    }

    pub(super) fn add_fault(&mut self, source: String, setting: Option<String>, message: String) {
        self.faults.push(ConfigFault { source, setting, message });
    }

    /// Deserializes all settings. serde stops at the first invalid value: its error is recorded, the
    /// setting's default replaces the value, and all settings are deserialized again, until no value is
    /// invalid.
    pub(super) fn into_effective_config(mut self) -> Result<EffectiveConfig, ConfigError> {
        self.check_initial_settings();
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
                    return Err(ConfigError { faults: self.faults, log_format: LogFormat::Auto });
                }
            }
        };
        if let Err(message) = config.initial_settings().keys.ensure_consistent() {
            self.add_fault_of(&["keys", "default_expiry_days"].map(str::to_owned), message.to_owned());
        }
        for (names, message) in plans::find_unknown_meters(&config) {
            self.add_fault_of(&names, message);
        }
        self.check_tls_pair(&config);
        self.check_request_memory(&config);
        if !self.faults.is_empty() {
            return Err(ConfigError { faults: self.faults, log_format: config.log.format });
        }
        let given = self.defaults.keys().filter_map(|names| Some((names.join("."), self.source_of(names)?)));
        let setting_sources = given.chain(self.empty_plans.iter().cloned()).collect();
        Ok(EffectiveConfig { config, setting_sources, warnings: self.warnings })
    }

    /// Reports initial values of platform settings that are no valid settings, and replaces them by the defaults.
    fn check_initial_settings(&mut self) {
        for (names, default) in self.defaults.clone() {
            let Some(rule) = settings::find_rule(&names) else { continue };
            let Ok(value) = self.figment.find_value(&names.join(".")) else { continue };
            let Err(details) = check_setting(rule, &value) else { continue };
            let source = self.source_of(&names).unwrap_or_else(|| DEFAULTS_LAYER.to_owned());
            let setting = names.join(".");
            if value.as_array().is_none() || details.is_empty() {
                let found = match value.to_actual() {
                    Actual::Str(text) => Actual::Str(Redactor::default().redact(&text).into_owned()),
                    found => found,
                };
                let message = format!("found {found}, expected {}", rule.expected());
                self.add_fault(source, Some(setting), message);
            } else {
                for ErrorDetail { pointer, message, .. } in details {
                    let item = pointer.unwrap_or_default().replace('/', ".");
                    self.add_fault(source.clone(), Some(format!("{setting}{item}")), as_clause(&message));
                }
            }
            self.add_value(DEFAULTS_LAYER, &names, default);
        }
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

/// Checks that the value is valid for the setting. An empty text stands for no value, because TOML has no `null`. The
/// error has the faults of the value, as far as they are known.
fn check_setting(rule: &Rule, value: &Value) -> Result<(), Vec<ErrorDetail>> {
    if *rule == Rule::OptionalText && value.as_str() == Some("") {
        return Ok(());
    }
    let json = serde_json::to_vec(value).ok().and_then(|json| Json::parse(&json).ok());
    let Some(mut json) = json else { return Err(Vec::new()) };
    Redactor::default().flag_secrets(&mut json);
    let mut faults = Faults::default();
    let is_parsed = rule.parse(&json, &mut faults).is_some();
    match faults.finish(()) {
        Ok(()) if is_parsed => Ok(()),
        Ok(()) => Err(Vec::new()),
        Err(error) => Err(error.details),
    }
}

/// The sentence of a fault as a part of a line, like the other messages.
fn as_clause(sentence: &str) -> String {
    let mut chars = sentence.trim_end_matches('.').chars();
    chars.next().into_iter().flat_map(char::to_lowercase).chain(chars).collect()
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

pub(super) fn unknown_setting_message(nearest: Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("unknown setting; the nearest known one is {nearest}"),
        None => "unknown setting; `tollhouse config init -` lists all settings".to_owned(),
    }
}

/// The known setting that was most likely meant by the unknown setting `names`, which is misspelled, in the wrong
/// section, or taken for a section. `None` if no setting is similar.
pub(super) fn nearest_setting<'a>(
    names: &SettingPath,
    known: impl Iterator<Item = &'a SettingPath>,
) -> Option<&'a SettingPath> {
    let name = names.join(".");
    let distance = |known: &SettingPath| {
        let is_related = names.last() == known.last() || names.starts_with(known);
        let edits = strsim::damerau_levenshtein(&name, &known.join("."));
        if is_related { edits.min(MAX_NEAR_DISTANCE) } else { edits }
    };
    let nearest = known.map(|known| (distance(known), known)).min_by_key(|(distance, _)| *distance);
    let max_distance = (name.len() / 4).max(MAX_NEAR_DISTANCE);
    nearest.filter(|(distance, _)| *distance <= max_distance).map(|(_, known)| known)
}
