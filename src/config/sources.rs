//! Loads the configuration from its sources: the defaults, a file, the environment and the flags.

use std::ffi::OsString;
use std::path::Path;

use super::ListenAddress;
use super::environment::CONFIG_VARIABLE;
use super::layers::{ConfigError, ConfigLayers, EffectiveConfig, FileKind};

/// The user's file if neither the flag nor the variable names one, and this one exists.
const SYSTEM_FILE: &str = "/etc/tollhouse/config.toml";

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

impl EffectiveConfig {
    /// Merges the sources in this order, in which later sources override earlier ones: the defaults, `file`
    /// (or the file named by the environment, or else [`SYSTEM_FILE`]), the `environment` as pairs of name and
    /// value, the `flags`.
    ///
    /// # Errors
    /// `ConfigError` with all errors of all sources.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
    ) -> Result<Self, ConfigError> {
        Self::load_with(file, environment, flags, Some(Path::new(SYSTEM_FILE)), FileKind::Any)
    }

    /// [`load`](Self::load) again, while the server runs.
    pub(crate) fn reload(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
    ) -> Result<Self, ConfigError> {
        Self::load_with(file, environment, flags, Some(Path::new(SYSTEM_FILE)), FileKind::Regular)
    }

    /// Loads only the defaults, whatever this machine has in [`SYSTEM_FILE`].
    pub(super) fn load_defaults() -> Result<Self, ConfigError> {
        Self::load_with(None, [], ConfigFlags::default(), None, FileKind::Any)
    }

    /// [`load`](Self::load) with another system file, and files of this kind.
    pub(super) fn load_with(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
        system_file: Option<&Path>,
        kind: FileKind,
    ) -> Result<Self, ConfigError> {
        let mut layers = ConfigLayers::new(kind)?;
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
        layers.add_environment(environment);
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
