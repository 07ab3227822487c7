//! TLS on the listener: real clients, the exchange of certificates, bad files, and who says nothing.

mod clients;
mod exchange;
mod files;
mod silence;

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

/// A test that would hang fails instead.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should have happened by now")
}

/// A certificate for this machine that signs itself, with its key.
struct Certificate {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        // OpenSSL tells those that it trusts apart by their names.
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("test {}", fastrand::u64(..)));
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        Self { pem: made.pem(), key_pem: key.serialize_pem(), der: made.der().clone() }
    }
}

/// A server with TLS, and the files that it reads.
struct Secured {
    binary: Binary,
    certificate: Certificate,
    cert: PathBuf,
    key: PathBuf,
    dir: TempDir,
}

impl Secured {
    fn start(variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let certificate = Certificate::new();
        write(&certificate, &cert, &key);
        let binary = Binary::serve_with(&dir.path().join("data"), |command: &mut Command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).envs(variables.iter().copied());
            command.env("TOLLHOUSE_TLS__CERT", &cert).env("TOLLHOUSE_TLS__KEY", &key);
        });
        assert!(binary.url.starts_with("https://127.0.0.1:"), "{}", binary.url);
        Self { binary, certificate, cert, key, dir }
    }

    async fn tcp(&self) -> TcpStream {
        let address = self.binary.url.strip_prefix("https://").unwrap();
        soon(TcpStream::connect(address)).await.unwrap()
    }

    /// A connection that has shaken hands and agreed on one of these.
    async fn tls(&self, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let config = trusting([&self.certificate], alpn);
        self.tls_with(config).await
    }

    async fn tls_with(&self, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        soon(TlsConnector::from(config).connect(name, self.tcp().await)).await.unwrap()
    }

    async fn http2(&self) -> Http2 {
        self.http2_with(&h2::client::Builder::new()).await
    }

    async fn http2_with(&self, builder: &h2::client::Builder) -> Http2 {
        let (sender, connection) = soon(builder.handshake(self.tls(H2).await)).await.unwrap();
        Http2 { sender, connection: tokio::spawn(connection) }
    }
}

fn write(certificate: &Certificate, cert: &Path, key: &Path) {
    std::fs::write(cert, &certificate.pem).unwrap();
    std::fs::write(key, &certificate.key_pem).unwrap();
}

/// What a client needs that trusts these alone.
fn trusting<'a>(
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

/// The certificate that a server showed.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A connection of HTTP/2.
struct Http2 {
    sender: SendRequest<Bytes>,
    /// Ends when the connection does.
    connection: JoinHandle<Result<(), h2::Error>>,
}

fn request(method: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    request.header("authorization", format!("Bearer {ADMIN_KEY}")).body(()).unwrap()
}

impl Http2 {
    /// The status of an answer, read whole.
    async fn get(&self, path: &str) -> Result<StatusCode, h2::Error> {
        let mut sender = soon(self.sender.clone().ready()).await?;
        let (answer, _) = sender.send_request(request("GET", path), true)?;
        let answer = soon(answer).await?;
        let status = answer.status();
        read(answer.into_body()).await.map(|_| status)
    }
}

/// All of a body, taking whatever comes.
async fn read(mut body: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = soon(body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
