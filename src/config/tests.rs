use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};
use toml_edit::{DocumentMut, Table};

use super::*;

pub(super) fn env_pairs(environment: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    environment.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

pub(super) fn load_with_env(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    EffectiveConfig::load(None, env_pairs(environment), ConfigFlags::default())
        .map(|effective| effective.config)
}

/// Loads the configuration from a file with this text; errors show the file's path as `FILE`.
pub(super) fn load_with_file(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollhouse.toml");
    fs::write(&path, text).unwrap();
    let loaded =
        EffectiveConfig::load(Some(&path), [], ConfigFlags::default()).map(|effective| effective.config);
    loaded.map_err(|mut error| {
        for fault in &mut error.faults {
            fault.source = fault.source.replace(path.to_str().unwrap(), "FILE");
        }
        error
    })
}

/// The warnings about these environment variables. Panics unless the settings stay the defaults.
pub(super) fn env_warnings(environment: &[(&str, &str)]) -> Vec<String> {
    let effective = EffectiveConfig::load(None, env_pairs(environment), ConfigFlags::default()).unwrap();
    assert_eq!((effective.config, effective.setting_sources.len()), (Config::load_defaults().unwrap(), 0));
    effective.warnings
}

pub(super) fn fault_messages(loaded: Result<Config, ConfigError>) -> Vec<String> {
    loaded.unwrap_err().faults.iter().map(ToString::to_string).collect()
}

fn setting_names(tree: &Dict) -> BTreeSet<String> {
    layers::collect_leaves(tree).into_keys().map(|names| names.join(".")).collect()
}

#[test]
fn the_default_file_lists_exactly_the_fields_of_config() {
    let config = Config::load_defaults().unwrap();
    let fields = Value::serialize(&config).unwrap().into_dict().unwrap();
    let listed: Dict = Toml::from_str(layers::DEFAULT_CONFIG_TOML).unwrap();
    assert_eq!(setting_names(&listed), setting_names(&fields));
    assert_eq!(setting_names(&listed).len(), 52);
}

#[test]
fn the_default_file_has_a_default_for_every_field() {
    let listed: Dict = Toml::from_str(layers::DEFAULT_CONFIG_TOML).unwrap();
    let assert_missing = |without: Dict, name: &str| {
        let read = Value::from(without).deserialize::<Config>();
        assert!(read.unwrap_err().missing(), "a default hides in the code for {name}");
    };
    for (section, settings) in &listed {
        let Some(settings) = settings.as_dict() else {
            let mut without: Dict = listed.clone();
            without.remove(section);
            assert_missing(without, section);
            continue;
        };
        // Every plan is optional, but its fields are not.
        for name in settings.keys().filter(|_| section != "plans") {
            let mut without: Dict = listed.clone();
            let Some(Value::Dict(_, settings)) = without.get_mut(section) else { panic!("{section}") };
            settings.remove(name);
            assert_missing(without, name);
        }
    }
}

#[test]
fn every_setting_of_the_default_file_is_commented() {
    let document: DocumentMut = layers::DEFAULT_CONFIG_TOML.parse().unwrap();
    for (section, item) in document.iter() {
        let Some(table) = item.as_table() else {
            let above = document.key(section).unwrap().leaf_decor().prefix().unwrap().as_str().unwrap();
            let comment = above.rsplit("\n\n").next().unwrap();
            assert!(comment.starts_with("# ") && comment.len() > 40, "{section} is not explained");
            continue;
        };
        for (name, setting) in table.iter() {
            let decor =
                setting.as_table().map_or_else(|| table.key(name).unwrap().leaf_decor(), Table::decor);
            let above = decor.prefix().unwrap().as_str().unwrap();
            let comment = above.trim_start();
            assert!(comment.starts_with("# ") && comment.len() > 40, "{section}.{name} is not explained");
            assert!(!comment.contains("\n\n"), "the comment above {section}.{name} stands apart from it");
        }
    }
}

#[test]
fn an_effective_configuration_can_be_loaded_again() {
    let first = load_with_env(&[
        ("TOLLHOUSE_HTTP__HEADER_TIMEOUT", "1m 30s"),
        ("TOLLHOUSE_HTTP__TRUSTED_PROXIES", "::1"),
    ]);
    let first = first.unwrap();
    let again = load_with_file(&toml_edit::ser::to_string_pretty(&first).unwrap()).unwrap();
    assert_eq!(first, again);
}

#[test]
fn later_sources_override_earlier_ones_and_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollhouse.toml");
    fs::write(
        &file,
        "http.listen = '127.0.0.1:1'\n\n[database]\nreaders = 7\ndir = 'a'\n[keys]\nprefixes = ['file']\n",
    )
    .unwrap();
    let environment =
        env_pairs(&[("TOLLHOUSE_HTTP__LISTEN", "127.0.0.1:2"), ("TOLLHOUSE_DATABASE__DIR", "b")]);
    let flags = ConfigFlags { data: Some("c".to_owned()), ..ConfigFlags::default() };
    let EffectiveConfig { config, setting_sources: origins, .. } =
        EffectiveConfig::load(Some(&file), environment, flags).unwrap();

    assert_eq!(config.http.listen.port(), 2);
    assert_eq!((config.database.readers, &*config.database.dir), (7, Path::new("c")));
    assert_eq!(config.keys.prefixes, ["file"]);
    assert_eq!(config.database.group_limit, 256);
    let file = file.display();
    let expected = [
        ("database.dir", "--data".to_owned()),
        ("database.readers", format!("{file}:4")),
        ("http.listen", "TOLLHOUSE_HTTP__LISTEN".to_owned()),
        ("keys.prefixes", format!("{file}:7")),
    ];
    assert_eq!(origins, expected.map(|(setting, origin)| (setting.to_owned(), origin)).into());
}

#[test]
fn an_environment_variable_is_parsed_as_the_type_of_the_setting() {
    let config = load_with_env(&[
        ("TOLLHOUSE_DATABASE__DIR", "2024"),
        ("TOLLHOUSE_DATABASE__READERS", " 8 "),
        ("TOLLHOUSE_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1,2001:db8::/32"),
        ("TOLLHOUSE_LOG__LEVEL", "info,tollhouse=debug"),
        ("PATH", "/bin"),
        ("TOLLHOUSES", "x"),
    ])
    .unwrap();
    assert_eq!(config.database.dir, Path::new("2024"));
    assert_eq!(config.database.readers, 8);
    let networks = ["10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32"].map(|net| net.parse().unwrap());
    assert_eq!(config.http.trusted_proxies, networks);

    for (list, count) in [("", 0), ("[]", 0), ("[\"10.0.0.0/8\", '::1']", 2), ("::ffff:192.0.2.1", 1)] {
        let config = load_with_env(&[("TOLLHOUSE_HTTP__TRUSTED_PROXIES", list)]).unwrap();
        assert_eq!(config.http.trusted_proxies.len(), count, "{list}");
    }
    let config = load_with_env(&[("TOLLHOUSE_HTTP__TRUSTED_PROXIES", "::ffff:192.0.2.1")]).unwrap();
    assert_eq!(config.http.trusted_proxies[0].to_string(), "192.0.2.1/32");
}

#[test]
fn optional_settings_are_none_when_empty() {
    let shipped = Config::load_defaults().unwrap();
    assert_eq!((shipped.metrics.listen, shipped.tls.cert, shipped.tls.key), (None, None, None));
    for (given, listen) in [
        ("9464", "127.0.0.1:9464"),
        ("0", "127.0.0.1:0"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:1", "[::1]:1"),
        (":9464", "[::]:9464"),
        ("localhost:9464", "localhost:9464"),
    ] {
        let config = load_with_env(&[("TOLLHOUSE_METRICS__LISTEN", given)]).unwrap();
        assert_eq!(config.metrics.listen.unwrap().to_string(), listen, "{given}");
        assert_eq!(load_with_file(&toml_edit::ser::to_string_pretty(&config).unwrap()).unwrap(), config);
    }
    for given in ["65536", "example.com:9464", ":x", "127.0.0.1"] {
        let errors = fault_messages(load_with_env(&[("TOLLHOUSE_METRICS__LISTEN", given)]));
        assert!(
            errors.len() == 1
                && errors[0].contains("an address and a port (\"127.0.0.1:9464\"), or an empty string"),
            "{errors:?}"
        );
    }
}

#[test]
fn a_certificate_requires_its_key() {
    let both = load_with_file("[tls]\ncert = 'c.pem'\nkey = 'k.pem'\n").unwrap();
    assert_eq!(both.tls.cert.as_deref(), Some(Path::new("c.pem")));
    assert_eq!(load_with_file(&toml_edit::ser::to_string_pretty(&both).unwrap()).unwrap(), both);
    let errors = fault_messages(load_with_file("[tls]\ncert = 'c.pem'\n[cache]\nmax_bytes = 1\n"));
    assert_eq!(errors.len(), 2, "beside other faults: {errors:?}");
    assert_eq!(errors[1], "FILE:2: tls.key: is missing: tls.cert is given, and TLS needs both");
    let errors = fault_messages(load_with_env(&[("TOLLHOUSE_TLS__KEY", "k.pem")]));
    assert_eq!(errors, ["TOLLHOUSE_TLS__KEY: tls.cert: is missing: tls.key is given, and TLS needs both"]);
}

#[test]
fn the_first_key_is_not_a_setting_and_is_never_shown() {
    let secret = "a-secret-of-at-least-32-characters";
    let first_key = [("TOLLHOUSE_ADMIN_KEY", secret), ("TOLLHOUSE_ADMIN_KEY_FILE", secret)];
    let effective = EffectiveConfig::load(None, env_pairs(&first_key), ConfigFlags::default()).unwrap();
    assert_eq!(effective.config, Config::load_defaults().unwrap());
    assert!(effective.setting_sources.is_empty());

    assert!(effective.warnings.is_empty(), "{:?}", effective.warnings);

    let misspelt = [("TOLLHOUSE_ADMIN__KEY_FILE", secret)];
    assert_eq!(
        fault_messages(load_with_env(&misspelt)),
        ["TOLLHOUSE_ADMIN__KEY_FILE: unknown setting; the nearest known one is TOLLHOUSE_ADMIN_KEY_FILE"]
    );
    assert_eq!(
        env_warnings(&[("TOLLHOUSE_ADMINKEY", secret)]),
        ["TOLLHOUSE_ADMINKEY has no effect; did you mean TOLLHOUSE_ADMIN_KEY?"]
    );
}

#[test]
fn unknown_settings_are_reported_with_position_and_nearest_name() {
    let file = "readers = 2\n[http]\nlistne = '127.0.0.1:1'\nreaders = 3\n[cahce]\nmax_bytes = 1\n[empty]\n[log]\n\
                \"level.x\" = 1\n[http.listen]\nport = 1\n";
    let unknown = |position: &str, nearest: &str| {
        format!("FILE:{position}: unknown setting; the nearest known one is {nearest}")
    };
    let mut errors = fault_messages(load_with_file(file));
    errors.sort();
    let mut expected = vec![
        unknown("1: readers", "database.readers"),
        unknown("3: http.listne", "http.listen"),
        unknown("4: http.readers", "database.readers"),
        unknown("6: cahce.max_bytes", "cache.max_bytes"),
        unknown("9: log.level.x", "log.level"),
        unknown("11: http.listen.port", "http.listen"),
    ];
    expected.sort();
    errors.retain(|fault| !fault.starts_with("FILE:7: empty: unknown setting"));
    assert_eq!(errors, expected);

    assert_eq!(
        fault_messages(load_with_env(&[
            ("TOLLHOUSE_HTTP__LISTN", "x"),
            ("TOLLHOUSE_HTTP", "x"),
            ("TOLLHOUSE_", "")
        ])),
        ["TOLLHOUSE_HTTP__LISTN: unknown setting; the nearest known one is TOLLHOUSE_HTTP__LISTEN"]
    );
    assert_eq!(fault_messages(load_with_file("http = 5")), ["FILE:1: http: is a section, not a setting"]);
    assert_eq!(load_with_file("[http]\n").unwrap(), Config::load_defaults().unwrap());
}

#[test]
fn all_config_errors_are_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollhouse.toml");
    let text = "[http]\nlisten = 8080\nheader_timeout = '0s'\ntrusted_proxies = ['10.0.0.0/8', 'x', '10.0.0.1/8']\n\
                [database]\nreaders = 'many'\nreader = 1\n[cache]\nmax_bytes = -1\n";
    fs::write(&path, text).unwrap();
    let environment =
        env_pairs(&[("TOLLHOUSE_KEYS__PREFIXES", "acme, 7"), ("TOLLHOUSE_DATABASE__GROUP_LIMIT", "0")]);
    let flags = ConfigFlags { data: Some(String::new()), ..ConfigFlags::default() };
    let error = EffectiveConfig::load(Some(&path), environment, flags).unwrap_err();
    let errors = error.to_string().replace(path.to_str().unwrap(), "FILE");
    let mut lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.remove(0), "The configuration has 9 errors:");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "--data: database.dir: found string \"\", expected the path of a directory",
            "FILE:2: http.listen: found signed int `8080`, expected a port (\"8080\", from this machine only), \
             \":8080\" (all addresses), \"localhost:8080\", or an address and a port, such as \
             \"127.0.0.1:8080\" or \"[::]:8080\"",
            "FILE:3: http.header_timeout: found string \"0s\", expected a duration longer than 0s and \
             at most 1h, such as \"10s\" or \"1m 30s\"",
            "FILE:4: http.trusted_proxies: found string \"x, 10.0.0.1/8\", expected IP addresses or \
             CIDR networks without host bits, such as \"10.0.0.0/8\"",
            "FILE:6: database.readers: found string \"many\", expected a whole number from 1 to 64",
            "FILE:7: database.reader: unknown setting; the nearest known one is database.readers",
            "FILE:9: cache.max_bytes: found signed int `-1`, expected a whole number from 1048576 to 9223372036854775807, or 0, \
             optionally with a unit, such as \"256MiB\"",
            "TOLLHOUSE_DATABASE__GROUP_LIMIT: database.group_limit: found unsigned int `0`, expected \
             a whole number from 1 to 65536",
            "TOLLHOUSE_KEYS__PREFIXES: keys.prefixes.1: must be 1 to 16 lowercase letters, digits and underscores, a \
             letter first and no underscore last",
        ][..]
    );
}

#[test]
fn setting_values_outside_their_bounds_are_rejected() {
    let valid = [
        ("http.listen", "'[::]:0'"),
        ("http.listen", "'8080'"),
        ("http.listen", "'localhost:80'"),
        ("http.max_body_bytes", "1024"),
        ("http.max_body_bytes", "67108864"),
        ("http.request_memory_bytes", "0"),
        ("http.request_memory_bytes", "31782912"),
        ("http.max_connections", "1"),
        ("http.max_unauthenticated_per_address", "0"),
        ("http.header_timeout", "'1ms'"),
        ("http.header_timeout", "'60 minutes'"),
        ("http.drain_timeout", "'0s'"),
        ("http.trusted_proxies", "['::/0']"),
        ("database.readers", "64"),
        ("database.max_bytes", "0"),
        ("database.max_bytes", "1048576"),
        ("database.max_bytes", "9223372036854775807"),
        ("keys.prefixes", "['a']"),
        ("keys.prefixes", "['acme_live', 'acme_test', 'a123456789012345']"),
        ("rate_limits.admin_per_minute", "0"),
        ("rate_limits.organization_factor", "0"),
        ("rate_limits.organization_factor", "1000"),
        ("log.level", "'OFF'"),
        ("log.level", "'warn,tollhouse::store=debug,[call{id=1}]=trace'"),
        ("log.format", "'json'"),
    ];
    for (name, value) in valid {
        load_with_file(&format!("{name} = {value}"))
            .unwrap_or_else(|error| panic!("{name} = {value}: {error}"));
    }
    let invalid = [
        ("http.listen", "'example.com:80'"),
        ("http.listen", "'127.0.0.1'"),
        ("http.listen", "['127.0.0.1:1']"),
        ("http.max_body_bytes", "1023"),
        ("http.max_body_bytes", "67108865"),
        ("http.request_memory_bytes", "1048575"),
        ("http.max_connections", "0"),
        ("http.max_connections", "1.5"),
        ("http.max_unauthenticated_per_address", "1000001"),
        ("http.header_timeout", "'0s'"),
        ("http.header_timeout", "'-1s'"),
        ("http.header_timeout", "'10s ago'"),
        ("http.header_timeout", "'1h 1ms'"),
        ("http.header_timeout", "'10'"),
        ("http.header_timeout", "10"),
        ("http.header_timeout", "'1 day'"),
        ("http.drain_timeout", "'2h'"),
        ("http.trusted_proxies", "'10.0.0.0/8'"),
        ("rate_limits.organization_factor", "1001"),
        ("rate_limits.organization_factor", "1.5"),
        ("http.trusted_proxies", "[10]"),
        ("http.trusted_proxies", "['10.0.0.0/33']"),
        ("http.trusted_proxies", "['::ffff:10.0.0.0/104']"),
        ("database.readers", "0"),
        ("database.readers", "65"),
        ("database.readers", "4294967297"),
        ("database.readers", "true"),
        ("database.max_bytes", "1048575"),
        ("database.dir", "''"),
        ("database.dir", "{}"),
        ("keys.prefixes", "'toll'"),
        ("log.level", "''"),
        ("log.level", "'inf'"),
        ("log.level", "'info,'"),
        ("log.level", "'tollhouse=loud'"),
        ("log.format", "'pretty'"),
        ("log.format", "1"),
    ];
    for (name, value) in invalid {
        let errors = fault_messages(load_with_file(&format!("{name} = {value}")));
        assert_eq!(errors.len(), 1, "{name} = {value}: {errors:?}");
        assert!(
            errors[0].starts_with(&format!("FILE:1: {name}")) && errors[0].contains(", expected "),
            "{errors:?}"
        );
    }
}

#[test]
fn unreadable_config_files_are_reported_with_path_line_and_column() {
    let missing = Path::new("does/not/exist.toml");
    let environment = env_pairs(&[("TOLLHOUSE_DATABASE__READERS", "none")]);
    let errors = fault_messages(
        EffectiveConfig::load(Some(missing), environment, ConfigFlags::default()).map(|e| e.config),
    );
    assert!(errors[0].starts_with("does/not/exist.toml: can't be read: "), "{errors:?}");
    assert_eq!(errors.len(), 2, "the other faults are reported, too: {errors:?}");

    for text in ["[http]\nlisten = \n", "[http]\nlisten = 'a'\nlisten = 'b'\n"] {
        let errors = fault_messages(load_with_file(text));
        assert_eq!(errors.len(), 1);
        let line = text.lines().count();
        assert!(errors[0].contains(&format!("line {line}, column ")), "{errors:?}");
    }
}

#[cfg(unix)]
#[test]
fn environment_values_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || OsString::from_vec(vec![b'a', 0xff]);
    let errors = fault_messages(
        EffectiveConfig::load(
            None,
            [("TOLLHOUSE_DATABASE__DIR".into(), bytes()), (bytes(), bytes())],
            ConfigFlags::default(),
        )
        .map(|e| e.config),
    );
    assert_eq!(errors, ["TOLLHOUSE_DATABASE__DIR: database.dir: is not UTF-8"]);
}

#[test]
fn initial_settings_are_read_and_must_be_consistent() {
    let config = load_with_env(&[
        ("TOLLHOUSE_KEYS__REQUIRE_ALLOWED_IPS_FOR_ADMIN", "true"),
        ("TOLLHOUSE_MAINTENANCE__MESSAGE", "Back at noon."),
        ("TOLLHOUSE_RETENTION__AUDIT_DAYS", "30"),
    ]);
    let initial = config.unwrap().initial_settings();
    assert!(initial.keys.require_allowed_ips_for_admin);
    assert_eq!(initial.maintenance.message.as_deref(), Some("Back at noon."));
    assert_eq!(initial.retention.audit_days, 30);
    assert_eq!(Config::load_defaults().unwrap().initial_settings().maintenance.message, None);

    let wrong =
        [("TOLLHOUSE_KEYS__REQUIRE_ALLOWED_IPS_FOR_ADMIN", "yes"), ("TOLLHOUSE_RETENTION__AUDIT_DAYS", "29")];
    let errors = fault_messages(load_with_env(&wrong));
    assert!(errors.iter().any(|fault| fault.contains("expected true or false")), "{errors:?}");
    assert!(errors.iter().any(|fault| fault.contains("from 30 to 36500, or 0")), "{errors:?}");
    let inconsistent =
        [("TOLLHOUSE_KEYS__DEFAULT_EXPIRY_DAYS", "91"), ("TOLLHOUSE_KEYS__MAX_EXPIRY_DAYS", "90")];
    assert_eq!(
        fault_messages(load_with_env(&inconsistent)),
        [
            "TOLLHOUSE_KEYS__DEFAULT_EXPIRY_DAYS: keys.default_expiry_days: default_expiry_days must not exceed \
             max_expiry_days."
        ]
    );
}
