//! `tollhouse config`: validates the configuration, prints the effective settings, writes a file to start with.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use toml_edit::{DocumentMut, Item};

use super::args::{Config as ConfigCommand, ConfigInit};
use super::output;
use crate::config::{ConfigFlags, DEFAULT_CONFIG_TOML, EffectiveConfig};
use crate::http::conn::tls::Tls;
use crate::store::part_file::PartFile;

/// Runs `tollhouse config`. If the configuration has faults, prints all of them to standard error and returns
/// exit status 1.
pub(crate) fn run(command: &ConfigCommand, file: Option<&Path>, flags: ConfigFlags) -> ExitCode {
    if let ConfigCommand::Init(args) = command {
        return super::report_result(write_commented_file(args));
    }
    match format_effective_settings(file, std::env::vars_os(), flags) {
        Ok(_) if *command == ConfigCommand::Check => super::report_result(output::print("ok")),
        Ok(settings) => super::report_result(output::print_document(settings.as_bytes())),
        Err(error) => {
            output::message(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Writes the default configuration, with every setting commented out, so that the defaults of later releases
/// apply to what the user doesn't change.
fn write_commented_file(args: &ConfigInit) -> crate::error::Result<()> {
    let text = commented_out(DEFAULT_CONFIG_TOML);
    if args.file == Path::new("-") {
        return output::print_document(text.as_bytes());
    }
    let directory = args.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = PartFile::create_for_operator(&args.file, args.force, directory)?;
    part.file().write_all(text.as_bytes()).map_err(|error| part.error(error))?;
    // The user of the service must be able to read it. It contains no secrets.
    let permissions = Permissions::from_mode(0o644);
    part.file().set_permissions(permissions).map_err(|error| part.error(error))?;
    part.rename_to_target(args.force)?;
    output::message(&format!("wrote {}", args.file.display()));
    Ok(())
}

fn commented_out(toml: &str) -> String {
    let line = |line: &str| match line.as_bytes().first() {
        None | Some(b'#' | b'[') => format!("{line}\n"),
        Some(_) => format!("#{line}\n"),
    };
    toml.lines().map(line).collect()
}

/// Formats the effective settings as TOML that is usable as a configuration file. A comment behind each
/// setting that isn't a default names the setting's source.
fn format_effective_settings(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: ConfigFlags,
) -> Result<String, Box<dyn Error>> {
    let EffectiveConfig { config, setting_sources, warnings } =
        EffectiveConfig::load(file, environment, flags)?;
    super::print_warnings(&warnings);
    Tls::load(&config.tls).map_err(|error| error.message)?;
    let settings = toml_edit::ser::to_document(&config)?;
    let mut document = DocumentMut::new();
    document.decor_mut().set_prefix("# Effective settings:\n\n");
    for (section, settings) in settings.iter() {
        document.insert(section, with_sources(settings.clone(), section, &setting_sources));
    }
    Ok(document.to_string())
}

/// Adds a comment with the source to each setting that has one. Sections become tables.
fn with_sources(item: Item, name: &str, setting_sources: &BTreeMap<String, String>) -> Item {
    match item.into_table() {
        Ok(mut table) => {
            for (below, setting) in table.iter_mut() {
                let name = format!("{name}.{}", below.get());
                *setting = with_sources(std::mem::take(setting), &name, setting_sources);
            }
            // Without a header of its own, if it only consists of sections.
            table.set_implicit(true);
            Item::Table(table)
        }
        Err(mut setting) => {
            if let (Item::Value(value), Some(origin)) = (&mut setting, setting_sources.get(name)) {
                // A file name may contain a line break, which would end the comment.
                value.decor_mut().set_suffix(format!("  # {}", origin.escape_debug()));
            }
            setting
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_report_is_a_configuration_file_with_the_sources_of_settings() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("odd\nname.toml");
        fs::write(&file, "[http]\nlisten = \"[::1]:0\"\n").unwrap();
        let secret = "a-secret-of-at-least-32-characters";
        let environment = [
            ("TOLLHOUSE_HTTP__TRUSTED_PROXIES", "127.0.0.1"),
            ("TOLLHOUSE_HTTP__BODY_TIMEOUT", "90s"),
            ("TOLLHOUSE_PLANS__GOLD__MAX_KEYS", "7"),
            ("TOLLHOUSE_ADMIN_KEY", secret),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let flags = ConfigFlags { data: Some("with \"quotes\"".to_owned()), ..ConfigFlags::default() };
        let effective = EffectiveConfig::load(Some(&file), environment.clone(), flags.clone()).unwrap();
        let report = format_effective_settings(Some(&file), environment, flags).unwrap();

        assert!(report.starts_with("# Effective settings:"), "{report}");
        let has = |line: &str| assert!(report.lines().any(|reported| reported == line), "{line}\n\n{report}");
        has("[http]");
        has("trusted_proxies = [\"127.0.0.1/32\"]  # TOLLHOUSE_HTTP__TRUSTED_PROXIES");
        has("body_timeout = \"1m 30s\"  # TOLLHOUSE_HTTP__BODY_TIMEOUT");
        has("header_timeout = \"10s\"");
        has("[plans.gold]");
        has("max_keys = 7  # TOLLHOUSE_PLANS__GOLD__MAX_KEYS");
        has("dir = 'with \"quotes\"'  # --data");
        assert!(
            report.contains("listen = \"[::1]:0\"  # ") && report.contains("odd\\nname.toml:2\n"),
            "{report}"
        );
        assert!(!report.contains(secret), "{report}");

        fs::write(&file, &report).unwrap();
        assert_eq!(
            EffectiveConfig::load(Some(&file), [], ConfigFlags::default()).unwrap().config,
            effective.config
        );
    }

    #[test]
    fn every_setting_is_reported() {
        let report = format_effective_settings(None, [], ConfigFlags::default()).unwrap();
        assert_eq!(toml_edit::de::from_str::<Config>(&report).unwrap(), Config::load_defaults().unwrap());
        assert_eq!(report.matches('#').count(), 1, "defaults have no comment: {report}");
    }

    #[test]
    fn the_commented_file_sets_nothing_and_contains_every_setting() {
        let text = commented_out(DEFAULT_CONFIG_TOML);
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with(['#', '['])), "{text}");
        // A setting follows its # without a space.
        let settings = text.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|first: char| first.is_ascii_lowercase()) => setting,
            _ => line,
        });
        let settings: String = settings.flat_map(|line| [line, "\n"]).collect();
        assert_eq!(toml_edit::de::from_str::<Config>(&settings).unwrap(), Config::load_defaults().unwrap());
    }

    #[test]
    fn configuration_faults_replace_the_report() {
        let environment = [("TOLLHOUSE_CACHE__MAX_BYTES".into(), "few".into())];
        let error = format_effective_settings(None, environment, ConfigFlags::default()).unwrap_err();
        assert!(error.to_string().contains("TOLLHOUSE_CACHE__MAX_BYTES: cache.max_bytes: "), "{error}");
    }
}
