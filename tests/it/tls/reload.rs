//! Certificate reload without a restart.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::HandshakeKind;

use super::{
    Certificate, H2, HTTP_1_1, TlsServer, client_config, peer_certificate, within_deadline, write_files,
};
use crate::support::{ADMIN_KEY, head};

/// Number of certificate reloads in one run.
const RELOADS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_fails_no_request() {
    let server = TlsServer::start(&[("TOLLHOUSE_LOG__LEVEL", "info")]);
    let new_certificates: Vec<_> = (0..RELOADS).map(|_| Certificate::new()).collect();
    let bundle = server.dir.path().join("all.pem");
    let all = new_certificates.iter().chain([&server.certificate]);
    let pem: String = all.clone().map(|certificate| certificate.pem.as_str()).collect();
    std::fs::write(&bundle, pem).unwrap();
    let mut node = Command::new("node")
        .arg(format!("{}/tests/node/tls_load.mjs", env!("CARGO_MANIFEST_DIR")))
        .env("TOLLHOUSE_URL", &server.binary.url)
        .env("TOLLHOUSE_CA", &bundle)
        .env("TOLLHOUSE_KEY", ADMIN_KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node; scripts/test installs it");
    let mut node_output = BufReader::new(node.stdout.take().unwrap()).lines();
    assert_eq!(node_output.next().unwrap().unwrap(), "going");
    assert_eq!(node_output.next().unwrap().unwrap(), "seen", "the initial certificate");
    let trusts_all = client_config(all, H2);
    for certificate in &new_certificates {
        write_files(certificate, &server.cert_file, &server.key_file);
        server.binary.signal("HUP");
        server.binary.line_with("certificate reloaded");
        // New connections get the new certificate, and all kinds of connections are answered before the next reload.
        assert_eq!(peer_certificate(&server.tls_with(trusts_all.clone()).await), certificate.der);
        assert_eq!(node_output.next().unwrap().unwrap(), "seen");
    }
    drop(node.stdin.take());
    let report: Value = serde_json::from_str(&node_output.next().unwrap().unwrap()).unwrap();
    assert!(node.wait().unwrap().success());
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{report}");
    let on_kept_connection = report["kept"].as_array().unwrap();
    assert_eq!(on_kept_connection.len(), 1, "an open connection keeps its certificate: {report}");
    let on_new_connections = report["fresh"].as_array().unwrap();
    assert_eq!(on_new_connections.len(), 1 + RELOADS, "{report}");
}

#[tokio::test]
async fn an_invalid_file_keeps_the_previous_certificate() {
    let server = TlsServer::start(&[]);
    let other = Certificate::new();
    let valid_cert = &server.certificate.pem;
    let valid_key = &server.certificate.key_pem;
    for (cert, key, reason) in [
        ("", valid_key.as_str(), "no certificate found in"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", valid_key, "is not valid PEM"),
        (valid_cert, other.key_pem.as_str(), "doesn't match"),
        (valid_cert, "", "no private key found in"),
    ] {
        std::fs::write(&server.cert_file, cert).unwrap();
        std::fs::write(&server.key_file, key).unwrap();
        server.binary.signal("HUP");
        let line: Value =
            serde_json::from_str(&server.binary.line_with("keeping the previous certificate")).unwrap();
        assert_eq!(line["level"], "ERROR", "{line}");
        assert!(line["problem"].as_str().unwrap().contains(reason), "{line}");
        assert_eq!(peer_certificate(&server.tls(H2).await), server.certificate.der);
    }
    std::fs::remove_file(&server.key_file).unwrap();
    server.binary.signal("HUP");
    assert!(server.binary.line_with("keeping the previous certificate").contains("No such file"));
    write_files(&other, &server.cert_file, &server.key_file);
    server.binary.signal("HUP");
    server.binary.line_with("certificate reloaded");
    assert_eq!(peer_certificate(&server.tls_with(client_config([&other], H2)).await), other.der);
}

/// A session ticket resumes a session without a certificate check only until the certificate changes.
#[tokio::test]
async fn session_tickets_end_with_the_certificate() {
    let server = TlsServer::start(&[]);
    let other = Certificate::new();
    let client = client_config([&server.certificate, &other], HTTP_1_1);
    let connect = async || {
        let mut stream = server.tls_with(client.clone()).await;
        // Tickets arrive after the handshake, with the first answer at the latest.
        stream.write_all(&head("GET /healthz", &["connection: close"])).await.unwrap();
        let mut answer = String::new();
        within_deadline(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (stream.get_ref().1.handshake_kind().unwrap(), peer_certificate(&stream))
    };
    assert_eq!(connect().await, (HandshakeKind::Full, server.certificate.der.clone()));
    assert_eq!(connect().await.0, HandshakeKind::Resumed);
    write_files(&other, &server.cert_file, &server.key_file);
    server.binary.signal("HUP");
    server.binary.line_with("certificate reloaded");
    assert_eq!(connect().await, (HandshakeKind::Full, other.der.clone()));
    assert_eq!(connect().await.0, HandshakeKind::Resumed);
}
