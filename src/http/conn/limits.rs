//! Limits and timeouts of connections.

use std::time::Duration;

use ipnet::IpNet;

use crate::config::HttpConfig;

/// Maximum size of a request head (request line and headers), and of a connection's buffer, in bytes.
/// The number of headers stays at hyper's default of 100, the only limit that needs no allocation per
/// request. A request that exceeds either limit gets a 431.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Limits and timeouts of connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Maximum number of connections served at once (at least 1). Further connections are closed.
    pub max_connections: usize,
    /// Maximum number of connections of one client address (an IPv6 /64) on which no key has authenticated yet;
    /// 0 means unlimited. Further connections are closed.
    pub max_unauthenticated_per_address: usize,
    /// The networks whose addresses `max_unauthenticated_per_address` doesn't limit, because many clients share a
    /// proxy.
    pub trusted_proxies: Vec<IpNet>,
    /// Maximum time from the start of the connection, or the end of a response, to the end of the next
    /// request's head. This is therefore also the idle timeout. A TLS handshake has its own timeout of
    /// the same length.
    pub header_timeout: Duration,
    /// Maximum time for which a client may read no byte of a response; then the server closes the
    /// connection, or resets the HTTP/2 stream.
    pub write_timeout: Duration,
    /// Maximum time that running requests have to finish after the shutdown has begun.
    pub drain_timeout: Duration,
}

impl From<&HttpConfig> for ConnectionLimits {
    fn from(http: &HttpConfig) -> Self {
        Self {
            max_connections: http.max_connections,
            max_unauthenticated_per_address: http.max_unauthenticated_per_address,
            trusted_proxies: http.trusted_proxies.clone(),
            header_timeout: http.header_timeout,
            write_timeout: http.write_timeout,
            drain_timeout: http.drain_timeout,
        }
    }
}
