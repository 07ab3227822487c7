//! Invalid certificate and key files: the start and `config check` report the file and the reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use super::Certificate;
use crate::support::Binary;

/// Runs a start and `config check` with these files; both must fail. Returns the start's message.
fn startup_error(dir: &Path, cert: &Path, key: &Path) -> String {
    let data = dir.join("data");
    let with = |args: &[&str]| -> Output {
        let mut command = Binary::command(args);
        command.env("TOLLHOUSE_TLS__CERT", cert).env("TOLLHOUSE_TLS__KEY", key);
        command.output().unwrap()
    };
    let start = with(&["--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    let check = with(&["config", "check"]);
    for output in [&start, &check] {
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    }
    assert!(!data.exists(), "the data directory must not be created");
    let stderr = |output: Output| String::from_utf8(output.stderr).unwrap();
    let start_error = stderr(start);
    let check_error = stderr(check);
    assert!(start_error.contains(check_error.trim_end()), "{start_error}\n{check_error}");
    assert!(!start_error.contains("panicked") && start_error.lines().count() == 1, "{start_error}");
    start_error
}

#[test]
fn an_invalid_file_is_reported_with_its_path_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let cert = dir.path().join("cert.pem");
    let key = dir.path().join("key.pem");
    let certificate = Certificate::new();
    let other = Certificate::new();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let chain = format!("{}{}", other.pem, certificate.pem);
    for (cert_text, key_text, setting, reason) in [
        ("", &*certificate.key_pem, "tls.cert", "BEGIN CERTIFICATE"),
        ("hello", &certificate.key_pem, "tls.cert", "no certificate found in"),
        (&certificate.key_pem, &certificate.pem, "tls.cert", "swapped"),
        (no_certificate, &certificate.key_pem, "tls.cert", "is invalid"),
        (
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            &certificate.key_pem,
            "tls.cert",
            "is not valid PEM",
        ),
        (&certificate.pem, "", "tls.key", "BEGIN PRIVATE KEY"),
        (&certificate.pem, &certificate.pem, "tls.key", "swapped"),
        (&certificate.pem, encrypted, "tls.key", "openssl pkey"),
        (&certificate.pem, nonsense, "tls.key", "can't be used"),
        (&certificate.pem, &other.key_pem, "tls.key", "doesn't match"),
        (&chain, &certificate.key_pem, "tls.key", "must come first"),
    ] {
        fs::write(&cert, cert_text).unwrap();
        fs::write(&key, key_text).unwrap();
        let error = startup_error(dir.path(), &cert, &key);
        let file = if setting == "tls.cert" { &cert } else { &key };
        for part in [setting, reason, file.to_str().unwrap()] {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
        assert!(!error.contains("AAAA"), "the message must not contain the key: {error}");
    }
}

#[test]
fn an_unreadable_file_is_reported_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let cert = dir.path().join("cert.pem");
    let key = dir.path().join("key.pem");
    let certificate = Certificate::new();
    let error = startup_error(dir.path(), &cert, &key);
    assert!(error.contains("tls.cert") && error.contains("No such file"), "{error}");
    fs::write(&cert, &certificate.pem).unwrap();
    let error = startup_error(dir.path(), &cert, &key);
    assert!(error.contains(key.to_str().unwrap()) && error.contains("No such file"), "{error}");
    let error = startup_error(dir.path(), &cert, dir.path());
    assert!(error.contains("tls.key") && error.contains("directory"), "{error}");
    fs::write(&key, &certificate.key_pem).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    // Root can read the file in spite of its mode.
    if fs::read(&key).is_err() {
        let error = startup_error(dir.path(), &cert, &key);
        assert!(error.contains(key.to_str().unwrap()) && error.contains("Permission denied"), "{error}");
    }
}

#[test]
fn a_certificate_without_a_key_or_the_reverse_is_a_configuration_error() {
    for (variable, missing) in [("TOLLHOUSE_TLS__CERT", "tls.key"), ("TOLLHOUSE_TLS__KEY", "tls.cert")] {
        let output = Binary::command(&["config", "check"]).env(variable, "/some/file.pem").output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(variable) && error.contains(missing) && error.contains("both"), "{error}");
    }
}

#[test]
fn certificate_and_key_may_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("both.pem");
    let certificate = Certificate::new();
    fs::write(&file, format!("{}{}", certificate.key_pem, certificate.pem)).unwrap();
    let mut check = Binary::command(&["config", "check"]);
    let output = check.env("TOLLHOUSE_TLS__CERT", &file).env("TOLLHOUSE_TLS__KEY", &file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
