//! The sources of settings, and the errors for wrong ones.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml_edit::{ImDocument, TableLike};

use super::Config;

/// The defaults, which are also the list of all settings.
pub(crate) const SHIPPED: &str = include_str!("../../config.toml");
/// The name of the layer of the defaults.
const SHIPPED_NAME: &str = "default";
const PREFIX: &str = "TOLLHOUSE_";
/// Names the user's file, as `--config` does.
const CONFIG: &str = "TOLLHOUSE_CONFIG";
/// Variables of this program that are not settings. The first key is a secret, used once.
const NOT_SETTINGS: [&str; 3] = ["TOLLHOUSE_ADMIN_KEY", "TOLLHOUSE_ADMIN_KEY_FILE", CONFIG];
/// The guides' name for the key of a program that verifies keys. It is not a misspelled `tls.key`.
const CLIENT_KEY: &str = "TOLLHOUSE_KEY";

/// The path of a setting: `["http", "listen"]`.
type Names = Vec<String>;

/// Settings given on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// `--listen` sets `http.listen`.
    pub(crate) listen: Option<SocketAddr>,
    /// `--data` sets `database.dir`.
    pub(crate) data: Option<String>,
}

/// The settings in effect and their origins.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    pub(crate) config: Config,
    /// The origin of each setting (`http.listen`) that is not a default: the file and line, the environment
    /// variable or the flag.
    pub(crate) origins: BTreeMap<String, String>,
    /// Environment variables that have no effect but were probably meant as settings.
    pub(crate) warnings: Vec<String>,
}

impl Effective {
    /// Merges the sources, in this order, later ones overriding earlier ones: the defaults, `file` (or the one
    /// named by the environment), the `environment` as pairs of name and value, the `flags`.
    ///
    /// # Errors
    /// All faults at once.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: Flags,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::new()?;
        let environment: Vec<_> = environment.into_iter().collect();
        let named = environment.iter().find(|(name, path)| name == CONFIG && !path.is_empty());
        match (file, named) {
            (Some(path), _) => layers.add_file(path, ""),
            (None, Some((_, path))) => layers.add_file(Path::new(path), &format!("{CONFIG}: ")),
            (None, None) => {}
        }
        for (name, value) in environment {
            layers.add_variable(&name.to_string_lossy(), value);
        }
        if let Some(listen) = flags.listen {
            layers.add("--listen", &["http", "listen"], listen.to_string().into());
        }
        if let Some(data) = flags.data {
            layers.add("--data", &["database", "dir"], data.into());
        }
        layers.read()
    }
}

/// All faults of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The faults in the order in which they were found; at least one.
    pub(crate) faults: Vec<Fault>,
}

/// One fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The file (and line), the environment variable or the flag.
    pub(crate) origin: String,
    /// The setting; `None` if the origin itself is wrong.
    pub(crate) setting: Option<String>,
    /// What is wrong, and what is expected.
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(setting) = &self.setting {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// One source under the name shown to users.
struct Layer {
    name: String,
    data: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.data.clone()))
    }
}

/// The sources merged so far.
struct Layers {
    figment: Figment,
    /// The default of every setting.
    known: BTreeMap<Names, Value>,
    /// The user's file: its name and text.
    file: Option<(String, String)>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl Layers {
    fn new() -> Result<Self, ConfigError> {
        let data: Dict = Toml::from_str(SHIPPED).map_err(|error| {
            let fault = Fault { origin: SHIPPED_NAME.to_owned(), setting: None, message: error.to_string() };
            ConfigError { faults: vec![fault] }
        })?;
        let known = leaves(&data);
        let figment = Figment::from(Layer { name: SHIPPED_NAME.to_owned(), data });
        Ok(Self { figment, known, file: None, faults: Vec::new(), warnings: Vec::new() })
    }

    /// Adds the user's file. `named_by` precedes the path in the error for an unreadable file.
    fn add_file(&mut self, path: &Path, named_by: &str) {
        let name = path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.fault(format!("{named_by}{name}"), None, format!("can't be read: {error}"));
            }
        };
        let data: Dict = match Toml::from_str(&text) {
            Ok(data) => data,
            Err(error) => return self.fault(name, None, error.to_string().trim_end().to_owned()),
        };
        self.file = Some((name.clone(), text));
        // Only known settings are added, so that every later error concerns one setting.
        for (names, value) in leaves(&data) {
            if self.known.contains_key(&names) {
                self.add(&name, &names, value);
                continue;
            }
            let is_section = self.known.keys().any(|known| known.starts_with(&names));
            let message = match value {
                Value::Dict(..) if is_section => continue,
                _ if is_section => "is a section, not a setting".to_owned(),
                _ => unknown(nearest(&names, self.known.keys()).map(|names| names.join("."))),
            };
            self.fault(self.file_position(&names), Some(names.join(".")), message);
        }
    }

    fn add_variable(&mut self, name: &str, value: OsString) {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !NOT_SETTINGS.contains(&name)) else { return };
        if !rest.contains("__") {
            // A variable of another program, or one that Kubernetes sets for a Service named tollhouse
            // (TOLLHOUSE_PORT).
            self.warnings.extend(self.warning(name, rest));
            return;
        }
        let names: Names = rest.to_lowercase().split("__").map(str::to_owned).collect();
        let Some(default) = self.known.get(&names) else {
            let others = NOT_SETTINGS.map(|name| vec![name[PREFIX.len()..].to_lowercase()]);
            let nearest = nearest(&names, self.known.keys().chain(&others));
            // The value is not shown: it may be a secret whose variable was misspelled.
            return self.fault(name.to_owned(), None, unknown(nearest.map(|names| variable(names))));
        };
        match value.into_string() {
            Ok(text) => {
                let value = parse_as(text, default);
                self.add(name, &names, value);
            }
            Err(_) => self.fault(name.to_owned(), Some(names.join(".")), "is not UTF-8".to_owned()),
        }
    }

    /// A warning about a name without `__` that was probably meant as a setting (it is the last part of the
    /// setting's path, its flag, or its path with single underscores) or as another variable of this program.
    fn warning(&self, name: &str, rest: &str) -> Option<String> {
        if name == CLIENT_KEY {
            return None;
        }
        let rest = rest.to_lowercase();
        let is_meant = |names: &&Names| {
            names.last() == Some(&rest)
                || names.join("_") == rest
                || rest == "data" && names.join(".") == "database.dir"
        };
        let settings = self.known.keys().filter(is_meant).map(|names| variable(names));
        let others = NOT_SETTINGS.into_iter().filter(|other| strsim::damerau_levenshtein(other, name) <= 2);
        let meant: Vec<_> = settings.chain(others.map(str::to_owned)).collect();
        (!meant.is_empty()).then(|| format!("{name} has no effect; did you mean {}?", meant.join(" or ")))
    }

    fn add(&mut self, layer: &str, names: &[impl AsRef<str>], value: Value) {
        let layer = Layer { name: layer.to_owned(), data: nest(names, value) };
        self.figment = std::mem::take(&mut self.figment).merge(layer);
    }

    fn fault(&mut self, origin: String, setting: Option<String>, message: String) {
        self.faults.push(Fault { origin, setting, message });
    }

    /// Reads all settings. serde stops at the first wrong value; its fault is recorded, its default takes its
    /// place, and everything is read again, until no value is wrong.
    fn read(mut self) -> Result<Effective, ConfigError> {
        let config = loop {
            let error = match self.figment.extract::<Config>() {
                Ok(config) => break config,
                Err(error) => error,
            };
            // The error's path may be longer than the setting's: it may lead into a list.
            let wrong = self.known.iter().find(|(names, _)| error.path.starts_with(names));
            let wrong = wrong.map(|(names, default)| (names.clone(), default.clone()));
            let setting = error.path.join(".");
            let message = describe(&error.kind);
            match wrong.and_then(|(names, default)| Some((self.origin(&names)?, names, default))) {
                Some((origin, names, default)) => {
                    self.fault(origin, Some(setting), message);
                    self.add(SHIPPED_NAME, &names, default);
                }
                None => {
                    // The default itself is wrong, which can't be corrected here.
                    self.fault(SHIPPED_NAME.to_owned(), Some(setting), message);
                    return Err(ConfigError { faults: self.faults });
                }
            }
        };
        if let Err(message) = config.initial_settings().keys.ensure_consistent() {
            let names = ["keys", "default_expiry_days"].map(str::to_owned);
            let origin = self.origin(&names).unwrap_or_else(|| SHIPPED_NAME.to_owned());
            self.fault(origin, Some(names.join(".")), message.to_owned());
        }
        self.check_tls_pair(&config);
        if !self.faults.is_empty() {
            return Err(ConfigError { faults: self.faults });
        }
        let given = self.known.keys().filter_map(|names| Some((names.join("."), self.origin(names)?)));
        let origins = given.collect();
        Ok(Effective { config, origins, warnings: self.warnings })
    }

    /// Reports a certificate without its key, or a key without its certificate.
    fn check_tls_pair(&mut self, config: &Config) {
        let (given, missing) = match (&config.tls.cert, &config.tls.key) {
            (Some(_), None) => ("cert", "key"),
            (None, Some(_)) => ("key", "cert"),
            _ => return,
        };
        let origin = self.origin(&["tls".to_owned(), given.to_owned()]).unwrap_or_default();
        let message = format!("is missing: tls.{given} is given, and TLS needs both");
        self.fault(origin, Some(format!("tls.{missing}")), message);
    }

    /// The origin of the value in effect; `None` for a default.
    fn origin(&self, names: &[String]) -> Option<String> {
        let layer = &*self.figment.find_metadata(&names.join("."))?.name;
        match &self.file {
            _ if layer == SHIPPED_NAME => None,
            Some((file, _)) if layer == file => Some(self.file_position(names)),
            _ => Some(layer.to_owned()),
        }
    }

    /// The user's file, with the line of this setting.
    fn file_position(&self, names: &[String]) -> String {
        let (file, text) = self.file.as_ref().map_or(("", ""), |(file, text)| (file, text));
        match line_of(text, names) {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        }
    }
}

/// The leaves of a tree, by their paths.
pub(crate) fn leaves(tree: &Dict) -> BTreeMap<Names, Value> {
    let mut all = BTreeMap::new();
    for (name, value) in tree {
        match value {
            Value::Dict(_, below) if !below.is_empty() => {
                let below = leaves(below).into_iter();
                all.extend(below.map(|(names, value)| ([vec![name.clone()], names].concat(), value)));
            }
            _ => {
                all.insert(vec![name.clone()], value.clone());
            }
        }
    }
    all
}

/// A tree with a single value.
fn nest(names: &[impl AsRef<str>], value: Value) -> Dict {
    match names {
        [] => Dict::new(),
        [name] => Dict::from([(name.as_ref().to_owned(), value)]),
        [name, below @ ..] => Dict::from([(name.as_ref().to_owned(), nest(below, value).into())]),
    }
}

/// Parses a text of the environment as the type of the setting's default. A text that doesn't parse stays a
/// text, which the setting's deserializer refuses.
fn parse_as(text: String, default: &Value) -> Value {
    match default {
        Value::Num(..) => text.trim().parse::<i64>().map_or(text.into(), Value::from),
        Value::Bool(..) => text.trim().parse::<bool>().map_or(text.into(), Value::from),
        Value::Array(..) if text.trim_start().starts_with('[') => {
            let list = Toml::from_str::<Dict>(&format!("list = {text}"));
            list.ok().and_then(|mut list| list.remove("list")).unwrap_or(text.into())
        }
        Value::Array(..) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(str::to_owned).collect::<Vec<_>>().into()
        }
        _ => text.into(),
    }
}

fn variable(names: &[String]) -> String {
    format!("{PREFIX}{}", names.join("__").to_uppercase())
}

/// Describes a fault, in one form for wrong types and wrong values.
fn describe(wrong: &Kind) -> String {
    match wrong {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {found}, expected {expected}")
        }
        other => other.to_string(),
    }
}

fn unknown(nearest: Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("unknown setting; the nearest known one is {nearest}"),
        None => "unknown setting".to_owned(),
    }
}

/// The known setting most likely meant: it was misspelled, or put in the wrong section.
fn nearest<'a>(names: &Names, known: impl Iterator<Item = &'a Names>) -> Option<&'a Names> {
    known.min_by_key(|known| match names.last() == known.last() {
        true => 1,
        false => strsim::damerau_levenshtein(&names.join("."), &known.join(".")),
    })
}

/// The line, from 1, on which a TOML text sets this.
fn line_of(text: &str, names: &[String]) -> Option<usize> {
    let document = ImDocument::parse(text).ok()?;
    let mut table: Option<&dyn TableLike> = Some(document.as_table());
    let mut at = None;
    for name in names {
        let (key, item) = table?.get_key_value(name)?;
        at = key.span().or(item.span());
        table = item.as_table_like();
    }
    Some(1 + text[..at?.start].matches('\n').count())
}
