//! Files that are no good: a start and `config check` say which, and why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use super::Certificate;
use crate::support::Binary;

/// What a start and a check say with these files; both fail.
fn complaints(dir: &Path, cert: &Path, key: &Path) -> String {
    let data = dir.join("data");
    let with = |args: &[&str]| -> Output {
        let mut command = Binary::command(args);
        command.env("TOLLHOUSE_TLS__CERT", cert).env("TOLLHOUSE_TLS__KEY", key);
        command.output().unwrap()
    };
    let started = with(&["--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    let checked = with(&["config", "check"]);
    for output in [&started, &checked] {
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    }
    assert!(!data.exists(), "it is found out before anything is made");
    let said = |output: Output| String::from_utf8(output.stderr).unwrap();
    let (started, checked) = (said(started), said(checked));
    assert!(started.contains(checked.trim_end()), "{started}\n{checked}");
    assert!(!started.contains("panicked") && started.lines().count() == 1, "{started}");
    started
}

#[test]
fn a_bad_file_is_named_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let (own, other) = (Certificate::new(), Certificate::new());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let chain = format!("{}{}", other.pem, own.pem);
    for (cert_text, key_text, whose, why) in [
        ("", &*own.key_pem, "tls.cert", "BEGIN CERTIFICATE"),
        ("hello", &own.key_pem, "tls.cert", "no certificate found in"),
        (&own.key_pem, &own.pem, "tls.cert", "swapped"),
        (no_certificate, &own.key_pem, "tls.cert", "is invalid"),
        (
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            &own.key_pem,
            "tls.cert",
            "is not valid PEM",
        ),
        (&own.pem, "", "tls.key", "BEGIN PRIVATE KEY"),
        (&own.pem, &own.pem, "tls.key", "swapped"),
        (&own.pem, encrypted, "tls.key", "openssl pkey"),
        (&own.pem, nonsense, "tls.key", "can't be used"),
        (&own.pem, &other.key_pem, "tls.key", "doesn't match"),
        (&chain, &own.key_pem, "tls.key", "must come first"),
    ] {
        fs::write(&cert, cert_text).unwrap();
        fs::write(&key, key_text).unwrap();
        let said = complaints(dir.path(), &cert, &key);
        let file = if whose == "tls.cert" { &cert } else { &key };
        for part in [whose, why, file.to_str().unwrap()] {
            assert!(said.contains(part), "no {part:?} in: {said}");
        }
        assert!(!said.contains("AAAA"), "what is in a key is nobody's business: {said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let own = Certificate::new();
    let said = complaints(dir.path(), &cert, &key);
    assert!(said.contains("tls.cert") && said.contains("No such file"), "{said}");
    fs::write(&cert, &own.pem).unwrap();
    let said = complaints(dir.path(), &cert, &key);
    assert!(said.contains(key.to_str().unwrap()) && said.contains("No such file"), "{said}");
    let said = complaints(dir.path(), &cert, dir.path());
    assert!(said.contains("tls.key") && said.contains("directory"), "{said}");
    fs::write(&key, &own.key_pem).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    // Nothing is closed to root.
    if fs::read(&key).is_err() {
        let said = complaints(dir.path(), &cert, &key);
        assert!(said.contains(key.to_str().unwrap()) && said.contains("Permission denied"), "{said}");
    }
}

#[test]
fn one_file_without_the_other_is_a_fault_of_the_configuration() {
    for (given, missing) in [("TOLLHOUSE_TLS__CERT", "tls.key"), ("TOLLHOUSE_TLS__KEY", "tls.cert")] {
        let output = Binary::command(&["config", "check"]).env(given, "/some/file.pem").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(given) && said.contains(missing) && said.contains("both"), "{said}");
    }
}

/// One file for both is common.
#[test]
fn certificate_and_key_may_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("both.pem");
    let own = Certificate::new();
    fs::write(&file, format!("{}{}", own.key_pem, own.pem)).unwrap();
    let mut check = Binary::command(&["config", "check"]);
    let output = check.env("TOLLHOUSE_TLS__CERT", &file).env("TOLLHOUSE_TLS__KEY", &file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
