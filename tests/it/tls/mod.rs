//! TLS on the listener: real clients, certificate reload, invalid files, and timeouts.

mod clients;
mod files;
mod hosts;
mod reload;
mod timeouts;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::{ADMIN_KEY, Binary};

const H2: &[&[u8]] = &[b"h2"];
const HTTP_1_1: &[&[u8]] = &[b"http/1.1"];

/// Fails a test that would otherwise hang.
async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the operation timed out")
}

/// A self-signed certificate for localhost and its key.
struct Certificate {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        // OpenSSL distinguishes trusted certificates by subject, so each needs its own.
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("test {}", fastrand::u64(..)));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() }
    }
}

/// A server with TLS, and its certificate and key files.
struct TlsServer {
    binary: Binary,
    certificate: Certificate,
    cert_file: PathBuf,
    key_file: PathBuf,
    dir: TempDir,
    /// The limit that `tcp` observes; `None` for the shipped one, which no test reaches.
    max_connections: Option<f64>,
}

impl TlsServer {
    fn start(variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cert_file = dir.path().join("cert.pem");
        let key_file = dir.path().join("key.pem");
        let certificate = Certificate::new();
        write_files(&certificate, &cert_file, &key_file);
        let binary = Binary::serve_with(&dir.path().join("data"), |command: &mut Command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).envs(variables.iter().copied());
            command.env("TOLLHOUSE_TLS__CERT", &cert_file).env("TOLLHOUSE_TLS__KEY", &key_file);
            command.env("TOLLHOUSE_METRICS__LISTEN", "127.0.0.1:0");
        });
        let limit = variables.iter().rfind(|(name, _)| *name == "TOLLHOUSE_HTTP__MAX_CONNECTIONS");
        let max_connections = limit.map(|(_, limit)| limit.parse().unwrap());
        assert!(binary.url.starts_with("https://127.0.0.1:"), "{}", binary.url);
        Self { binary, certificate, cert_file, key_file, dir, max_connections }
    }

    /// A new connection, which the server accepts within `max_connections`: it may notice late that another
    /// connection is closed.
    async fn tcp(&self) -> TcpStream {
        if let Some(max_connections) = self.max_connections {
            let slot_is_free = async { while self.open_connections().await >= max_connections {} };
            within_deadline(slot_is_free).await;
        }
        let address = self.binary.url.strip_prefix("https://").unwrap();
        within_deadline(TcpStream::connect(address)).await.unwrap()
    }

    async fn open_connections(&self) -> f64 {
        let metrics = reqwest::get(self.binary.metrics_url()).await.unwrap().text().await.unwrap();
        let sample =
            metrics.lines().find_map(|line| line.strip_prefix("tollhouse_connections{listener=\"http\"} "));
        sample.unwrap().parse().unwrap()
    }

    /// A connection after the TLS handshake that negotiated one of these protocols.
    async fn tls(&self, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let config = client_config([&self.certificate], alpn);
        self.tls_with(config).await
    }

    async fn tls_with(&self, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        within_deadline(TlsConnector::from(config).connect(name, self.tcp().await)).await.unwrap()
    }

    async fn http2(&self) -> Http2 {
        self.http2_with(&h2::client::Builder::new()).await
    }

    async fn http2_with(&self, builder: &h2::client::Builder) -> Http2 {
        let (sender, connection) = within_deadline(builder.handshake(self.tls(H2).await)).await.unwrap();
        Http2 { sender, connection: tokio::spawn(connection) }
    }
}

fn write_files(certificate: &Certificate, cert_file: &Path, key_file: &Path) {
    std::fs::write(cert_file, &certificate.pem).unwrap();
    std::fs::write(key_file, &certificate.key_pem).unwrap();
}

/// The configuration of a client that trusts only these certificates.
fn client_config<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    certificates.into_iter().for_each(|certificate| roots.add(certificate.der.clone()).unwrap());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// The certificate that the server presented.
fn peer_certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// An HTTP/2 connection.
struct Http2 {
    sender: SendRequest<Bytes>,
    /// Drives the connection; ends when the connection closes.
    connection: JoinHandle<Result<(), h2::Error>>,
}

fn request(method: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    request.header("authorization", format!("Bearer {ADMIN_KEY}")).body(()).unwrap()
}

impl Http2 {
    /// Sends a GET and reads the whole answer; returns its status.
    async fn get(&self, path: &str) -> Result<StatusCode, h2::Error> {
        let mut sender = within_deadline(self.sender.clone().ready()).await?;
        let (answer, _) = sender.send_request(request("GET", path), true)?;
        let answer = within_deadline(answer).await?;
        let status = answer.status();
        read_body(answer.into_body()).await.map(|_| status)
    }
}

/// Reads a whole body, releasing flow-control capacity as data arrives.
async fn read_body(mut body: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = within_deadline(body.data()).await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
