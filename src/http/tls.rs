//! TLS: the certificate and its key, read from files, and read again when they are exchanged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

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

/// HTTP/2 as ALPN calls it.
const H2: &[u8] = b"h2";
/// HTTP/1.1 as ALPN calls it.
const HTTP_1_1: &[u8] = b"http/1.1";

/// What a listener needs for TLS.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    /// What new connections get. All of it is exchanged at once, the keys of session tickets too: whoever
    /// comes back with a ticket of before sees the new certificate.
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files that the configuration names; `None` when it names none.
    ///
    /// # Errors
    /// When a file can't be used: the message names it and says why.
    pub(crate) fn load(settings: &config::Tls) -> Result<Option<Arc<Self>>> {
        let (Some(cert), Some(key)) = (&settings.cert, &settings.key) else { return Ok(None) };
        let current = RwLock::new(read(cert, key)?);
        Ok(Some(Arc::new(Self { cert: cert.clone(), key: key.clone(), current })))
    }

    /// Reads the files again. Connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`load`](Self::load); then what was read before stays in force.
    pub(crate) fn reload(&self) -> Result<()> {
        let fresh = read(&self.cert, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Shakes hands with a client.
    pub(super) async fn accept<IO>(&self, stream: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(current).accept(stream).await
    }
}

/// Did both sides agree on HTTP/2? Who doesn't speak of it gets HTTP/1.1.
pub(super) fn speaks_http2<IO>(stream: &TlsStream<IO>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let (certificates, private_key) = (read_certificates(cert)?, read_key(key)?);
    let provider = Arc::new(ring::default_provider());
    let pair = CertifiedKey::from_der(certificates, private_key, &provider).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        refuse(match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "tls.key: {key} is not the key of the first certificate in {cert}; the server's own certificate \
                 has to come first there, before those that signed it."
            ),
            rustls::Error::InvalidCertificate(why) => {
                format!("tls.cert: the first certificate in {cert} is damaged ({why}).")
            }
            other => format!("tls.key: the key in {key} can't be used: {other}."),
        })
    })?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    // Sealed and given to the clients to keep, so that no number of them fills our memory.
    config.ticketer = ring::Ticketer::new().map_err(Error::internal)?;
    Ok(Arc::new(config))
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read_file("tls.cert", file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| damaged("tls.cert", file, &error))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let hint = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) => "it holds a private key; are tls.cert and tls.key swapped?",
        Err(_) => "it has to be PEM, with a block that begins -----BEGIN CERTIFICATE-----.",
    };
    Err(refuse(format!("tls.cert: {} has no certificate in it: {hint}", file.display())))
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read_file("tls.key", file)?;
    let name = file.display();
    if [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"].iter().any(|mark| contains(&text, mark)) {
        return Err(refuse(format!(
            "tls.key: the key in {name} is encrypted, and nobody is there to give the passphrase at a start. \
             Write it out without one: openssl pkey -in {name} -out NEW_FILE"
        )));
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let hint = match CertificateDer::from_pem_slice(&text) {
                Ok(_) => "it holds a certificate; are tls.cert and tls.key swapped?",
                Err(_) => "it has to be PEM, with a block that begins -----BEGIN PRIVATE KEY-----.",
            };
            Err(refuse(format!("tls.key: {name} has no private key in it: {hint}")))
        }
        Err(error) => Err(damaged("tls.key", file, &error)),
    }
}

fn read_file(setting: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| refuse(format!("{setting}: {} can't be read: {error}.", file.display())))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn damaged(setting: &str, file: &Path, error: &pem::Error) -> Error {
    refuse(format!("{setting}: {} is damaged: {error}.", file.display()))
}

fn refuse(message: String) -> Error {
    Error::new(Code::Conflict, message)
}
