//! A certificate is exchanged while the server serves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::HandshakeKind;

use super::{Certificate, H2, HTTP_1_1, Secured, shown, soon, trusting, write};
use crate::support::{ADMIN_KEY, head};

/// Certificates that are exchanged in one run, one after the other.
const EXCHANGES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_under_load_fails_nobody() {
    let server = Secured::start(&[("TOLLHOUSE_LOG__LEVEL", "info")]);
    let all: Vec<_> = (0..EXCHANGES).map(|_| Certificate::new()).collect();
    let bundle = server.dir.path().join("all.pem");
    let pem: String = all.iter().chain([&server.certificate]).map(|one| one.pem.as_str()).collect();
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
    let mut said = BufReader::new(node.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "going");
    assert_eq!(said.next().unwrap().unwrap(), "seen", "the certificate that it began with");
    let any = trusting(all.iter().chain([&server.certificate]), H2);
    for certificate in &all {
        write(certificate, &server.cert, &server.key);
        server.binary.signal("HUP");
        server.binary.line_with("certificate reloaded");
        // Whoever comes now sees it, and all kinds of connections are answered before the next one.
        assert_eq!(shown(&server.tls_with(any.clone()).await), certificate.der);
        assert_eq!(said.next().unwrap().unwrap(), "seen");
    }
    drop(node.stdin.take());
    let told: Value = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
    assert!(node.wait().unwrap().success());
    assert_eq!(told["failures"], Value::Array(Vec::new()), "{told}");
    let (fresh, kept) = (told["fresh"].as_array().unwrap(), told["kept"].as_array().unwrap());
    assert_eq!(kept.len(), 1, "who stays connected keeps what it had: {told}");
    assert_eq!(fresh.len(), 1 + EXCHANGES, "{told}");
}

#[tokio::test]
async fn a_bad_file_leaves_the_certificate_of_before_in_force() {
    let server = Secured::start(&[]);
    let other = Certificate::new();
    let good = (&server.certificate.pem, &server.certificate.key_pem);
    for (cert, key, why) in [
        ("", good.1.as_str(), "no certificate found in"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", good.1, "is not valid PEM"),
        (good.0, other.key_pem.as_str(), "doesn't match"),
        (good.0, "", "no private key found in"),
    ] {
        std::fs::write(&server.cert, cert).unwrap();
        std::fs::write(&server.key, key).unwrap();
        server.binary.signal("HUP");
        let line: Value =
            serde_json::from_str(&server.binary.line_with("keeping the previous certificate")).unwrap();
        assert_eq!(line["level"], "ERROR", "{line}");
        assert!(line["problem"].as_str().unwrap().contains(why), "{line}");
        assert_eq!(shown(&server.tls(H2).await), server.certificate.der);
    }
    std::fs::remove_file(&server.key).unwrap();
    server.binary.signal("HUP");
    assert!(server.binary.line_with("keeping the previous certificate").contains("No such file"));
    write(&other, &server.cert, &server.key);
    server.binary.signal("HUP");
    server.binary.line_with("new connections get");
    assert_eq!(shown(&server.tls_with(trusting([&other], H2)).await), other.der);
}

/// A client that comes back with a ticket isn't asked to check a certificate, unless there is a new one.
#[tokio::test]
async fn tickets_end_with_the_certificate() {
    let server = Secured::start(&[]);
    let other = Certificate::new();
    let client = trusting([&server.certificate, &other], HTTP_1_1);
    let visit = async || {
        let mut stream = server.tls_with(client.clone()).await;
        // Tickets come behind the handshake, with the first answer at the latest.
        stream.write_all(&head("GET /healthz", &["connection: close"])).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (stream.get_ref().1.handshake_kind().unwrap(), shown(&stream))
    };
    assert_eq!(visit().await, (HandshakeKind::Full, server.certificate.der.clone()));
    assert_eq!(visit().await.0, HandshakeKind::Resumed);
    write(&other, &server.cert, &server.key);
    server.binary.signal("HUP");
    server.binary.line_with("new connections get");
    assert_eq!(visit().await, (HandshakeKind::Full, other.der.clone()));
    assert_eq!(visit().await.0, HandshakeKind::Resumed);
}
