//! Sizes that follow the memory limit of the process or the size of the database.

use super::layers::FileKind;
use super::tests::{fault_messages, load_with_file};
use super::{ConfigFlags, EffectiveConfig};

#[test]
fn a_cache_without_a_size_follows_the_memory_limit() {
    let bytes = |file: &str, limit| load_with_file(file).unwrap().cache.effective_max_bytes(limit);
    assert_eq!(bytes("", Some(512 << 20)), 128 << 20);
    assert_eq!(bytes("", Some(1 << 20)), 1 << 20);
    assert_eq!(bytes("", None), 320 << 20);
    let configured = "[cache]\nmax_bytes = 2_000_000";
    assert_eq!((bytes(configured, Some(1 << 30)), bytes(configured, None)), (2_000_000, 2_000_000));
}

#[test]
fn memory_for_requests_follows_the_memory_limit_and_suffices_for_any_request() {
    let http = |file: &str| load_with_file(file).unwrap().http;
    assert_eq!(http("").effective_request_memory_bytes(Some(1 << 30)), 128 << 20);
    assert_eq!(http("").effective_request_memory_bytes(Some(512 << 20)), 64 << 20);
    assert_eq!(http("").effective_request_memory_bytes(None), 128 << 20);
    assert_eq!(http("").effective_request_memory_bytes(Some(64 << 20)), 31_782_912);
    let large_bodies = http("[http]\nmax_body_bytes = 67_108_864");
    assert_eq!(large_bodies.effective_request_memory_bytes(None), large_bodies.min_request_memory_bytes());
    let configured = http("[http]\nrequest_memory_bytes = 40_000_000");
    assert_eq!(configured.effective_request_memory_bytes(Some(1 << 30)), 40_000_000);

    let errors =
        fault_messages(load_with_file("[http]\nmax_body_bytes = 1_024\nrequest_memory_bytes = 1_048_576"));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].starts_with("FILE:3: http.request_memory_bytes: must be at least 19212288, or 0: "),
        "{errors:?}"
    );
}

#[test]
fn the_limits_of_stored_responses_follow_the_size_of_the_database() {
    let limits = |file: &str, max_database_bytes| {
        let limits = load_with_file(file).unwrap().idempotency.storage_limits(max_database_bytes);
        [limits.response, limits.key, limits.organization, limits.total]
    };
    assert_eq!(limits("", 0), [2 << 20, 64 << 20, 256 << 20, 1 << 30]);
    assert_eq!(limits("", 128 << 20), [2 << 20, 8 << 20, 8 << 20, 32 << 20]);
    let configured = "[idempotency]\nmax_response_bytes = 2_000\nmax_bytes_per_key = 1_500_000\n\
                      max_total_bytes = 8_000_000";
    assert_eq!(limits(configured, 0), [2_000, 1_500_000, 2_000_000, 8_000_000]);
    assert_eq!(limits(configured, 128 << 20), limits(configured, 0));
}

#[test]
fn sizes_may_have_units() {
    let load = |value: &str| load_with_file(&format!("[database]\nmax_bytes = {value}"));
    for (value, bytes) in [
        ("'256MiB'", 256 << 20),
        ("'1_048_576'", 1 << 20),
        ("'2048 KiB'", 2 << 20),
        ("'3gib'", 3 << 30),
        ("'1TiB'", 1 << 40),
        ("'5MB'", 5_000_000),
        ("'2 GB'", 2_000_000_000),
        ("'1TB'", 1_000_000_000_000),
        ("'2000kB'", 2_000_000),
        ("'2000000 B'", 2_000_000),
        ("'0'", 0),
    ] {
        assert_eq!(load(value).unwrap().database.max_bytes, bytes, "{value}");
    }
    for wrong in ["'256M'", "'MiB'", "'-1MiB'", "'1.5GiB'", "'1KiB'", "'9999999999TiB'", "''", "true"] {
        let errors = fault_messages(load(wrong));
        assert!(errors[0].contains("optionally with a unit, such as \"256MiB\""), "{wrong}: {errors:?}");
    }
    let variable = [("TOLLHOUSE_CACHE__MAX_BYTES".into(), "64MiB".into())];
    let effective =
        EffectiveConfig::load_with(None, variable, ConfigFlags::default(), None, FileKind::Any).unwrap();
    let config = effective.config;
    assert_eq!(config.cache.max_bytes, 64 << 20);
}
