//! What is known about the authentication on a connection: the last caller, and whether any key has authenticated.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use constant_time_eq::constant_time_eq;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::domain::api_key::Credential;
use crate::domain::cidr::client_network;
use crate::verify::cache::KeyCache;
use crate::verify::key_record::KeyRecord;

/// The authentication state of a connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionAuth {
    pub(in crate::http) cache: ConnectionAuthCache,
    /// True once a key has authenticated. Requests check it before they lock `unauthenticated`.
    is_authenticated: AtomicBool,
    /// Held until a key has authenticated; `None` from then on, and for peers that aren't limited.
    unauthenticated: Mutex<Option<UnauthenticatedConnection>>,
}

impl ConnectionAuth {
    pub(super) fn new(unauthenticated: Option<UnauthenticatedConnection>) -> Self {
        Self { unauthenticated: Mutex::new(unauthenticated), ..Self::default() }
    }

    /// Records that a valid key has authenticated. From then on, the connection doesn't count as unauthenticated.
    pub(in crate::http) fn record_success(&self) {
        if !self.is_authenticated.load(Ordering::Relaxed) {
            self.is_authenticated.store(true, Ordering::Relaxed);
            drop(self.unauthenticated.lock().take());
        }
    }
}

/// The connection's last `Authorization` header that authenticated a key, verbatim, and that key. A gateway sends
/// the same header with every request; the cache saves the checksum, the hash and the lookup in the cache that all
/// cores share. It isn't shared between connections, so that no client can probe for the header of another client.
#[derive(Debug, Default)]
pub(crate) struct ConnectionAuthCache(Mutex<Option<CachedAuth>>);

struct CachedAuth {
    header: Box<[u8]>,
    record: Arc<KeyRecord>,
}

impl std::fmt::Debug for CachedAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CachedAuth(…)") // The header is a secret.
    }
}

impl ConnectionAuthCache {
    /// The cached key, if the `Authorization` header is the same as in the cached request and the key hasn't
    /// changed since. Callers of this function must check that the key is usable.
    pub(crate) fn get(&self, headers: &HeaderMap, keys: &KeyCache) -> Option<Arc<Credential>> {
        let header = single_authorization_header(headers)?;
        let last = self.0.lock();
        // Clients of a proxy share its connections, so the time must not depend on how much of the header is right.
        let is_cached = |entry: &&CachedAuth| constant_time_eq(&entry.header, header);
        let entry = last.as_ref().filter(is_cached).filter(|entry| keys.is_fresh(&entry.record))?;
        Some(entry.record.credential.clone())
    }

    /// Caches the key that the request's `Authorization` header authenticated.
    pub(crate) fn set(&self, headers: &HeaderMap, record: Arc<KeyRecord>) {
        let Some(header) = single_authorization_header(headers) else { return };
        let entry = CachedAuth { header: header.into(), record };
        *self.0.lock() = Some(entry);
    }
}

/// The value of the `Authorization` header; `None` if the request has no such header or several.
/// The cache copies the value instead of keeping the `HeaderValue`, which would retain the connection's much
/// larger read buffer.
fn single_authorization_header(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let header = values.next()?;
    values.next().is_none().then_some(header.as_bytes())
}

/// The number of connections of each client address on which no key has authenticated yet. It has no more entries
/// than connections are open.
#[derive(Debug, Default)]
pub(super) struct UnauthenticatedConnections(Mutex<HashMap<IpNet, usize>>);

impl UnauthenticatedConnections {
    /// Counts a connection of this address, unless it has `max` such connections (at least 1). IPv6 addresses of
    /// the same /64 count as one.
    pub(super) fn open(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<UnauthenticatedConnection> {
        let network = client_network(address);
        let mut counts = self.0.lock();
        let count = counts.entry(network).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(UnauthenticatedConnection { network, connections: Arc::clone(self) })
    }
}

/// Counts a connection as unauthenticated until it is dropped.
#[derive(Debug)]
pub(super) struct UnauthenticatedConnection {
    network: IpNet,
    connections: Arc<UnauthenticatedConnections>,
}

impl Drop for UnauthenticatedConnection {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_an_ipv6_network_count_together_and_leave_no_entries() {
        let connections = Arc::new(UnauthenticatedConnections::default());
        let open = |address: &str| connections.open(address.parse().unwrap(), 2);
        let mut held = vec![open("2001:db8::1").unwrap(), open("2001:db8::2:2").unwrap()];
        assert!(open("2001:db8::3").is_none());
        held.push(open("2001:db8:0:1::1").unwrap());
        held.push(open("192.0.2.1").unwrap());
        held.push(open("::ffff:192.0.2.1").unwrap());
        assert!(open("192.0.2.1").is_none());
        held.push(open("192.0.2.2").unwrap());
        drop(held.remove(0));
        held.push(open("2001:db8::4").unwrap());
        assert!(open("2001:db8::5").is_none());
        drop(held);
        assert!(connections.0.lock().is_empty());
    }
}
