//! Accepts connections, and closes those that exceed a limit at once, so that their clients don't wait: when the
//! maximum number of connections is open, when a client address has too many connections on which no key has
//! authenticated, and when the process has no file descriptor left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::io::Errno;
use tokio::time::Instant;

use super::auth::{UnauthenticatedConnection, UnauthenticatedConnections};
use super::limits::ConnectionLimits;
use super::listeners::Listeners;
use crate::http::address;
use crate::telemetry::connections::{ListenerConnections, OpenConnection, RefusalReason};

/// The delay before the next accept after a failed one. The cause, such as a lack of memory, lasts until other
/// connections end.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The minimum interval between two log lines about failed accepts.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A connection that the server serves.
pub(super) struct AcceptedConnection {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    /// Held until the connection is closed.
    pub(super) open: OpenConnection,
    /// Held until a key has authenticated on the connection; `None` if the peer isn't limited.
    pub(super) unauthenticated: Option<UnauthenticatedConnection>,
}

/// Accepts the connections of a listener within its limits.
pub(super) struct Acceptor {
    listener: Listeners,
    limits: Arc<ConnectionLimits>,
    connections: Arc<ListenerConnections>,
    unauthenticated: Arc<UnauthenticatedConnections>,
    /// A spare file descriptor. When there are no others, it is closed to accept a connection and close that
    /// connection; otherwise the connection would wait in the kernel's backlog.
    spare_file: Option<File>,
    error_logged_at: Option<Instant>,
}

impl Acceptor {
    pub(super) fn new(
        listener: Listeners,
        limits: Arc<ConnectionLimits>,
        connections: Arc<ListenerConnections>,
    ) -> Self {
        Self {
            listener,
            limits,
            connections,
            unauthenticated: Arc::default(),
            spare_file: open_spare_file(),
            error_logged_at: None,
        }
    }

    /// Accepts the next connection that exceeds no limit.
    ///
    /// Cancel-safe: dropping the future loses no connection.
    pub(super) async fn accept(&mut self) -> AcceptedConnection {
        loop {
            let error = match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let admitted = self.admit(stream, peer);
                    self.connections.count_accepted();
                    match admitted {
                        Ok(Some(accepted)) => return accepted,
                        Ok(None) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) if is_peer_error(&error) => {
                    tracing::debug!(%error, "connection lost before it was accepted");
                    continue;
                }
                Err(error) if is_out_of_files(&error) && self.refuse_with_spare_file() => continue,
                Err(error) => error,
            };
            self.log_error(&error);
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Checks the limits on an accepted connection. Returns `None` and closes the connection if it exceeds one.
    fn admit(
        &self,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
    ) -> io::Result<Option<AcceptedConnection>> {
        let limits = &self.limits;
        let Some(open) = self.connections.open(limits.max_connections) else {
            self.connections.record_refusal(RefusalReason::MaxConnections, peer);
            return Ok(None);
        };
        let is_limited = limits.max_unauthenticated_per_address > 0
            && !address::is_trusted_proxy(peer.ip(), &limits.trusted_proxies);
        let unauthenticated = match is_limited {
            false => None,
            true => {
                let max = limits.max_unauthenticated_per_address;
                let Some(unauthenticated) = self.unauthenticated.open(peer.ip(), max) else {
                    self.connections.record_refusal(RefusalReason::MaxUnauthenticatedPerAddress, peer);
                    return Ok(None);
                };
                Some(unauthenticated)
            }
        };
        Ok(Some(AcceptedConnection { stream: stream.into_std()?, peer, open, unauthenticated }))
    }

    /// Accepts and closes a connection with the spare file descriptor, if one is waiting: an accept without file
    /// descriptors fails even if none is. Returns false if the spare descriptor was missing or of no use, for
    /// example because another thread has taken it.
    fn refuse_with_spare_file(&mut self) -> bool {
        if self.spare_file.take().is_none() {
            self.spare_file = open_spare_file();
            return false;
        }
        let accepted = self.listener.accept().now_or_never();
        let is_handled = match accepted {
            Some(Ok((stream, peer))) => {
                drop(stream);
                self.connections.record_refusal(RefusalReason::OpenFiles, peer);
                self.connections.count_accepted();
                true
            }
            Some(Err(_)) => false,
            None => true,
        };
        self.spare_file = open_spare_file();
        is_handled
    }

    /// Logs a failed accept, at most once per [`LOG_INTERVAL`].
    fn log_error(&mut self, error: &io::Error) {
        if self.error_logged_at.is_none_or(|logged_at| logged_at.elapsed() >= LOG_INTERVAL) {
            self.error_logged_at = Some(Instant::now());
            tracing::warn!(%error, "could not accept a connection; will retry");
        }
    }
}

fn open_spare_file() -> Option<File> {
    File::open("/dev/null").ok()
}

/// True if an accept failed because the process, or the whole system, has no file descriptor left.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// True if an accept failed because the peer disconnected before it. The next accept then needs no delay.
fn is_peer_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_retried_immediately_only_after_a_peer_error() {
        assert!(is_peer_error(&io::ErrorKind::ConnectionAborted.into()));
        const EMFILE: i32 = 24;
        let out_of_files = io::Error::from_raw_os_error(EMFILE);
        assert!(!is_peer_error(&out_of_files) && is_out_of_files(&out_of_files));
    }
}
