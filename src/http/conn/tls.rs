//! TLS: loads the certificate and key from files, and reloads the files on request.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::ServerConfig;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, InconsistentKeys};
use tokio_rustls::server::TlsStream;

use crate::config;
use crate::error::{Code, Error, Result};

/// The ALPN name of HTTP/2.
const ALPN_HTTP_2: &[u8] = b"h2";
/// The ALPN name of HTTP/1.1.
const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// The TLS configuration of a listener.
pub struct Tls {
    cert_path: PathBuf,
    key_path: PathBuf,
    /// The rustls configuration of new connections. A reload replaces the whole configuration, including the
    /// keys of session tickets, so that a client that resumes an old session sees the new certificate.
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Loads the configured certificate and key files; `None` if TLS isn't configured.
    ///
    /// # Errors
    /// `CONFLICT` if a file can't be used; the message names the file and the reason.
    pub(crate) fn load(settings: &config::Tls) -> Result<Option<Arc<Self>>> {
        let (Some(cert), Some(key)) = (&settings.cert, &settings.key) else { return Ok(None) };
        let current = RwLock::new(load_server_config(cert, key)?);
        Ok(Some(Arc::new(Self { cert_path: cert.clone(), key_path: key.clone(), current })))
    }

    /// Reloads the certificate and key files. Open connections are not affected.
    ///
    /// # Errors
    /// The errors of [`load`](Self::load); the previous certificate is kept.
    pub(crate) fn reload(&self) -> Result<()> {
        let reloaded = load_server_config(&self.cert_path, &self.key_path)?;
        *self.current.write() = reloaded;
        Ok(())
    }

    /// Performs the TLS handshake with a client.
    pub(super) async fn accept<IO>(&self, stream: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.read().clone();
        TlsAcceptor::from(current).accept(stream).await
    }
}

/// True if the client and server negotiated HTTP/2. Clients that don't negotiate a protocol get HTTP/1.1.
pub(super) fn negotiated_http2<IO>(stream: &TlsStream<IO>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP_2)
}

fn load_server_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let certificates = read_certificates(cert)?;
    let private_key = read_private_key(key)?;
    let provider = Arc::new(ring::default_provider());
    let pair = CertifiedKey::from_der(certificates, private_key, &provider).map_err(|error| {
        let cert = cert.display();
        let key = key.display();
        tls_file_error(match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "tls.key: {key} doesn't match the first certificate in {cert}; the server's own certificate must \
                 come first, before intermediate certificates."
            ),
            rustls::Error::InvalidCertificate(reason) => {
                format!("tls.cert: the first certificate in {cert} is invalid ({reason}).")
            }
            other => format!("tls.key: the key in {key} can't be used: {other}."),
        })
    })?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![ALPN_HTTP_2.to_vec(), ALPN_HTTP_1_1.to_vec()];
    // Session state is encrypted and stored by the clients, so that it uses no memory of the server.
    config.ticketer = ring::Ticketer::new().map_err(Error::internal)?;
    Ok(Arc::new(config))
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read_file("tls.cert", file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| invalid_pem_error("tls.cert", file, &error))?;
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    let hint = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) => "it contains a private key; are tls.cert and tls.key swapped?",
        Err(_) => "it must be PEM with a -----BEGIN CERTIFICATE----- block.",
    };
    Err(tls_file_error(format!("tls.cert: no certificate found in {}: {hint}", file.display())))
}

fn read_private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read_file("tls.key", file)?;
    let name = file.display();
    if [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|marker| contains_bytes(&text, marker))
    {
        return Err(tls_file_error(format!(
            "tls.key: the key in {name} is encrypted, which is not supported. Decrypt it with: \
             openssl pkey -in {name} -out NEW_FILE"
        )));
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let hint = match CertificateDer::from_pem_slice(&text) {
                Ok(_) => "it contains a certificate; are tls.cert and tls.key swapped?",
                Err(_) => "it must be PEM with a -----BEGIN PRIVATE KEY----- block.",
            };
            Err(tls_file_error(format!("tls.key: no private key found in {name}: {hint}")))
        }
        Err(error) => Err(invalid_pem_error("tls.key", file, &error)),
    }
}

fn read_file(setting: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| tls_file_error(format!("{setting}: can't read {}: {error}.", file.display())))
}

fn contains_bytes(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn invalid_pem_error(setting: &str, file: &Path, error: &pem::Error) -> Error {
    tls_file_error(format!("{setting}: {} is not valid PEM: {error}.", file.display()))
}

fn tls_file_error(message: String) -> Error {
    Error::new(Code::Conflict, message)
}
