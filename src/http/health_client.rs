//! The client of `tollhouse health`: asks a server on this machine whether it is ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::error::{Error, Result};

/// The time in which the server must answer. Less than the timeout of most health checks.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The largest response that is read.
const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

/// Asks `GET /readyz`. With `tls`, any certificate is accepted: it is issued for a public name, not for the
/// address of this machine, and no secret is sent.
///
/// # Errors
/// The reason why the server isn't ready, or doesn't answer.
pub(crate) async fn check_readiness(address: SocketAddr, tls: bool) -> Result<()> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}/readyz");
    let request = async {
        let stream = TcpStream::connect(address).await?;
        if tls {
            let name = ServerName::IpAddress(address.ip().into());
            exchange(TlsConnector::from(client_config()?).connect(name, stream).await?, address).await
        } else {
            exchange(stream, address).await
        }
    };
    let response = match tokio::time::timeout(TIMEOUT, request).await {
        Ok(response) => response.map_err(|error| Error::internal(format!("{url}: {error}")))?,
        Err(_) => {
            let seconds = TIMEOUT.as_secs();
            return Err(Error::internal(format!("{url}: no answer within {seconds} seconds")));
        }
    };
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(());
    }
    let message = serde_json::from_str::<Value>(body).ok();
    let message = message.as_ref().and_then(|body| body.pointer("/error/message")?.as_str());
    Err(Error::internal(format!("{url}: {}", message.map_or(format!("status {status}"), str::to_owned))))
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
) -> std::io::Result<String> {
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    match stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await {
        // A TLS connection that is closed without a closing message; the response is complete anyway.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !response.is_empty() => {}
        result => drop(result?),
    }
    Ok(String::from_utf8_lossy(&response).into_owned())
}

fn client_config() -> std::io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts every certificate whose private key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
