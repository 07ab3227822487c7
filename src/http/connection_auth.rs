//! Cache of a connection's last authentication. A gateway sends the same header with every request;
//! caching its result saves the checksum, the hash and the lookup in the cache that all cores share.

use std::sync::{Arc, Mutex, PoisonError};

use constant_time_eq::constant_time_eq;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::domain::api_key::Credential;
use crate::verify::cache::{KeyCache, LoadedCredential};

/// The connection's last `Authorization` header that authenticated a key, verbatim, and that key. The cache
/// isn't shared between connections, so that no client can probe for the header of another client.
#[derive(Debug, Default)]
pub(crate) struct ConnectionAuthCache(Mutex<Option<CachedAuth>>);

struct CachedAuth {
    header: Box<[u8]>,
    loaded: LoadedCredential,
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
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Clients of a proxy share its connections, so the time must not depend on how much of the header is right.
        let is_cached = |entry: &&CachedAuth| constant_time_eq(&entry.header, header);
        let entry = last.as_ref().filter(is_cached).filter(|entry| keys.is_fresh(&entry.loaded))?;
        entry.loaded.credential().cloned()
    }

    /// Caches the key that the request's `Authorization` header authenticated.
    pub(crate) fn set(&self, headers: &HeaderMap, loaded: LoadedCredential) {
        let Some(header) = single_authorization_header(headers) else { return };
        let entry = CachedAuth { header: header.into(), loaded };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
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
