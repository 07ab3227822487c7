use std::fs;
use std::path::Path;

use super::layers::FileKind;
use super::tests::{env_pairs, env_warnings, fault_messages, load_with_env, load_with_file};
use super::*;

#[test]
fn environment_variables_of_other_programs_are_ignored() {
    // The guides use these variables in examples of client programs.
    let guides =
        [("TOLLHOUSE_URL", "http://127.0.0.1:8080"), ("TOLLHOUSE_KEY", "x"), ("TOLLHOUSE_KEY_ID", "key_1")];
    // Kubernetes sets these in every pod of a namespace with a Service named tollhouse or tollhouse--canary.
    let service = "tcp://10.0.0.1:8080";
    let kubernetes = [
        ("TOLLHOUSE_SERVICE_HOST", "10.0.0.1"),
        ("TOLLHOUSE_SERVICE_PORT", "8080"),
        ("TOLLHOUSE_SERVICE_PORT_HTTP", "8080"),
        ("TOLLHOUSE_PORT", service),
        ("TOLLHOUSE_PORT_8080_TCP", service),
        ("TOLLHOUSE_PORT_8080_TCP_PROTO", "tcp"),
        ("TOLLHOUSE_PORT_8080_TCP_PORT", "8080"),
        ("TOLLHOUSE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TOLLHOUSE__CANARY_PORT", service),
    ];
    // Those of a Service named tollhouse-a--b.
    let service_with_two_hyphens = [
        ("TOLLHOUSE_A__B_SERVICE_HOST", "10.0.0.1"),
        ("TOLLHOUSE_A__B_SERVICE_PORT", "8080"),
        ("TOLLHOUSE_A__B_SERVICE_PORT_HTTP", "8080"),
        ("TOLLHOUSE_A__B_PORT", service),
        ("TOLLHOUSE_A__B_PORT_8080_TCP", service),
        ("TOLLHOUSE_A__B_PORT_8080_TCP_PROTO", "tcp"),
        ("TOLLHOUSE_A__B_PORT_8080_TCP_PORT", "8080"),
        ("TOLLHOUSE_A__B_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TOLLHOUSE_A__B_PORT_53_UDP", "udp://10.0.0.1:53"),
    ];
    assert_eq!(env_warnings(&service_with_two_hyphens), [""; 0]);
    let others =
        [("TOLLHOUSE_", ""), ("TOLLHOUSE_HTTP", "x"), ("TOLLHOUSE_VERSION", "1"), ("TOLLHOUSE", "x")];
    assert_eq!(env_warnings(&[&guides[..], &kubernetes, &others].concat()), [""; 0]);
}

/// Names that only resemble those of Kubernetes are misspelled settings.
#[test]
fn a_misspelled_setting_is_not_taken_for_a_service() {
    for (name, value) in [
        ("TOLLHOUSE_HTTP__PORT", "tcp://10.0.0.1:8080"),
        ("TOLLHOUSE_HTTP__SERVICE_PORT_HTTP", "8080"),
        ("TOLLHOUSE_HTTP__LISTEN_PORT", "8080"),
        ("TOLLHOUSE_A__B_PORT_X_TCP", "1"),
        ("TOLLHOUSE_A__B_PORT_8080_TCP_OTHER", "1"),
        ("TOLLHOUSE_A__B_SERVICE", "1"),
    ] {
        let environment = env_pairs(&[(name, value)]);
        let faults = fault_messages(
            EffectiveConfig::load(None, environment, ConfigFlags::default())
                .map(|effective| effective.config),
        );
        assert!(faults[0].starts_with(&format!("{name}: unknown setting")), "{faults:?}");
    }
}

#[test]
fn only_a_similar_setting_is_suggested() {
    let suggestion = |name: &str| {
        let environment = env_pairs(&[(name, "x")]);
        let faults = fault_messages(
            EffectiveConfig::load(None, environment, ConfigFlags::default())
                .map(|effective| effective.config),
        );
        faults[0].split_once("the nearest known one is ").map(|(_, nearest)| nearest.to_owned())
    };
    for (name, nearest) in [
        ("TOLLHOUSE_HTTP__LISTNE", Some("TOLLHOUSE_HTTP__LISTEN")),
        ("TOLLHOUSE_CACHE__MAXBYTES", Some("TOLLHOUSE_CACHE__MAX_BYTES")),
        ("TOLLHOUSE_SERVER__LISTEN", Some("TOLLHOUSE_HTTP__LISTEN")),
        ("TOLLHOUSE_HTTP__LISTEN__PORT", Some("TOLLHOUSE_HTTP__LISTEN")),
        ("TOLLHOUSE_ADMIN__KEY", Some("TOLLHOUSE_ADMIN_KEY")),
        ("TOLLHOUSE_FOO__BAR", None),
        ("TOLLHOUSE_SMTP__PASSWORD", None),
        ("TOLLHOUSE_HTTP__WORKERS", None),
        ("TOLLHOUSE_A__B", None),
    ] {
        assert_eq!(suggestion(name).as_deref(), nearest, "{name}");
    }
}

#[test]
fn rust_log_overrides_the_log_level() {
    let load = |environment: &[(&str, &str)]| {
        EffectiveConfig::load(None, env_pairs(environment), ConfigFlags::default()).unwrap()
    };
    for (first, second) in [(0, 1), (1, 0)] {
        let variables = [("RUST_LOG", "tollhouse=debug"), ("TOLLHOUSE_LOG__LEVEL", "warn")];
        let effective = load(&[variables[first], variables[second]]);
        assert_eq!(effective.config.log.level, "tollhouse=debug");
        assert_eq!(effective.setting_sources["log.level"], "RUST_LOG");
    }
    assert_eq!(load(&[("RUST_LOG", "")]).config.log.level, "info");
    for invalid in ["inf", "tollhouse", "debug,", "tollhouse=loud"] {
        let effective = load(&[("RUST_LOG", invalid), ("TOLLHOUSE_LOG__LEVEL", "warn")]);
        assert_eq!(effective.config.log.level, "warn");
        assert!(
            effective.warnings[0].starts_with("RUST_LOG has no effect; it must be "),
            "{:?}",
            effective.warnings
        );
    }
}

#[test]
fn a_misnamed_environment_variable_is_a_warning_with_the_right_name() {
    for (name, right) in [
        ("TOLLHOUSE_LISTEN", "TOLLHOUSE_HTTP__LISTEN or TOLLHOUSE_METRICS__LISTEN"),
        ("TOLLHOUSE_MAX_BYTES", "TOLLHOUSE_CACHE__MAX_BYTES or TOLLHOUSE_DATABASE__MAX_BYTES"),
        ("TOLLHOUSE_MAX_BODY_BYTES", "TOLLHOUSE_HTTP__MAX_BODY_BYTES"),
        ("TOLLHOUSE_CERT", "TOLLHOUSE_TLS__CERT"),
        ("TOLLHOUSE_HTTP_LISTEN", "TOLLHOUSE_HTTP__LISTEN"),
        ("TOLLHOUSE_TLS_KEY", "TOLLHOUSE_TLS__KEY"),
        ("TOLLHOUSE_DATABASE_DIR", "TOLLHOUSE_DATABASE__DIR"),
        ("TOLLHOUSE_PLANS_STANDARD_MAX_KEYS", "TOLLHOUSE_PLANS__STANDARD__MAX_KEYS"),
        ("TOLLHOUSE_DATA", "TOLLHOUSE_DATABASE__DIR"),
        ("TOLLHOUSE_CONFIGS", "TOLLHOUSE_CONFIG"),
    ] {
        // The warning omits the variable's value, which may be a secret.
        let warning = format!("{name} has no effect; did you mean {right}?");
        assert_eq!(env_warnings(&[(name, "the value")]), [warning]);
    }
    let meters = "TOLLHOUSE_METERS has no effect; set meters in the configuration file";
    assert_eq!(env_warnings(&[("TOLLHOUSE_METERS", "requests,tokens")]), [meters]);
    // If both the right and the wrong variable are set, the right one is in effect and the wrong one is a
    // warning.
    let both = env_pairs(&[("TOLLHOUSE_LISTEN", "127.0.0.1:1"), ("TOLLHOUSE_HTTP__LISTEN", "127.0.0.1:2")]);
    let effective = EffectiveConfig::load(None, both, ConfigFlags::default()).unwrap();
    assert_eq!((effective.config.http.listen.port(), effective.warnings.len()), (2, 1));
}

#[test]
fn an_environment_variable_can_name_the_config_file() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one.toml"), dir.path().join("other.toml"));
    fs::write(&one, "[database]\nreaders = 7\n").unwrap();
    fs::write(&other, "[database]\nreaders = 8\n").unwrap();
    let load = |flag: Option<&Path>, named: &Path, more: &[(&str, &str)]| {
        let named = [("TOLLHOUSE_CONFIG".into(), named.as_os_str().to_owned())];
        EffectiveConfig::load(flag, [named.into(), env_pairs(more)].concat(), ConfigFlags::default())
    };
    let effective = load(None, &one, &[]).unwrap();
    assert_eq!(effective.config.database.readers, 7);
    assert_eq!(effective.setting_sources["database.readers"], format!("{}:2", one.display()));
    // A variable for the setting itself overrides the file, and the flag --config overrides TOLLHOUSE_CONFIG.
    let more = [("TOLLHOUSE_DATABASE__READERS", "9")];
    assert_eq!(load(None, &one, &more).unwrap().config.database.readers, 9);
    assert_eq!(load(Some(&other), &one, &[]).unwrap().config.database.readers, 8);
    // An empty TOLLHOUSE_CONFIG counts as not set. The error for a missing file names the variable.
    assert_eq!(load(None, Path::new(""), &[]).unwrap().config, Config::load_defaults().unwrap());
    let missing =
        fault_messages(load(None, Path::new("not/there.toml"), &[]).map(|effective| effective.config));
    assert!(missing[0].starts_with("TOLLHOUSE_CONFIG: not/there.toml: can't be read: "), "{missing:?}");
    fs::write(&one, "[database]\nreader = 7\n").unwrap();
    let wrong = fault_messages(load(None, &one, &[]).map(|effective| effective.config));
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].starts_with(&format!("{}:2: database.reader: ", one.display())), "{wrong:?}");
}

#[test]
fn the_system_file_is_read_if_no_other_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let system = dir.path().join("config.toml");
    let named = dir.path().join("named.toml");
    let readers = |file, environment: &[(&str, &str)]| {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        EffectiveConfig::load_with(file, environment, ConfigFlags::default(), Some(&system), FileKind::Any)
            .map(|effective| effective.config.database.readers)
    };
    assert_eq!(readers(None, &[]).unwrap(), 4, "no file exists");
    std::fs::write(&system, "database.readers = 7").unwrap();
    std::fs::write(&named, "database.readers = 8").unwrap();
    assert_eq!(readers(None, &[]).unwrap(), 7);
    assert_eq!(readers(Some(&named), &[]).unwrap(), 8);
    assert_eq!(readers(None, &[("TOLLHOUSE_CONFIG", named.to_str().unwrap())]).unwrap(), 8);
    assert_eq!(readers(None, &[("TOLLHOUSE_DATABASE__READERS", "9")]).unwrap(), 9);
    std::fs::write(&system, "database.reader = 7").unwrap();
    assert!(readers(None, &[]).unwrap_err().to_string().contains("database.readers"));
}

#[test]
fn prefixes_of_keys_are_a_list_in_the_environment_too() {
    for list in ["acme_live, acme_test", "['acme_live', 'acme_test']"] {
        let config = load_with_env(&[("TOLLHOUSE_KEYS__PREFIXES", list)]).unwrap();
        assert_eq!(config.keys.prefixes, ["acme_live", "acme_test"], "{list}");
    }
    // A misspelled name.
    let file = fault_messages(load_with_file("keys.prefix = 'acme'"));
    assert!(
        file[0].ends_with("keys.prefix: unknown setting; the nearest known one is keys.prefixes"),
        "{file:?}"
    );
    let environment = load_with_env(&[("TOLLHOUSE_KEYS__PREFIX", "acme")]).unwrap_err().to_string();
    let hint = "TOLLHOUSE_KEYS__PREFIX: unknown setting; the nearest known one is TOLLHOUSE_KEYS__PREFIXES";
    assert!(environment.contains(hint), "{environment}");
}

#[test]
fn a_fault_in_a_list_names_the_item() {
    let form =
        "must be 1 to 16 lowercase letters, digits and underscores, a letter first and no underscore last";
    for (list, item, message) in [
        ("[]", "", "must have 1 to 16 prefixes; has 0"),
        ("['toll', 'toll']", ".1", "this prefix is already in the list"),
        ("['toll', '']", ".1", form),
        ("['toll', 'key']", ".1", "ids have this prefix, so secrets can't. Choose another"),
        ("['toll_']", ".0", form),
        ("['a1234567890123456']", ".0", form),
    ] {
        let faults = fault_messages(load_with_file(&format!("keys.prefixes = {list}")));
        assert_eq!(faults, [format!("FILE:1: keys.prefixes{item}: {message}")]);
    }
}
