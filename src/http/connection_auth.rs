//! Cache of a connection's last authentication. A gateway sends the same header with every request;
//! caching its result saves the checksum, the hash and the lookup in the cache that all cores share.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::domain::api_key::Credential;
use crate::verify::cache::{KeyCache, Loaded};

/// The last `Authorization` header that belonged to a key, verbatim, and the key. It isn't shared between
/// connections, so that no client can probe for the header of another.
#[derive(Debug, Default)]
pub(crate) struct ConnectionAuthCache(Mutex<Option<Entry>>);

struct Entry {
    header: Box<[u8]>,
    loaded: Loaded,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(…)") // The header is a secret.
    }
}

impl ConnectionAuthCache {
    /// The key, if the header is the same as in the last request and the key hasn't changed since. The
    /// caller must check that the key is usable.
    pub(crate) fn get(&self, headers: &HeaderMap, keys: &KeyCache) -> Option<Arc<Credential>> {
        let header = single_header(headers)?;
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = last.as_ref().filter(|entry| *entry.header == *header && keys.is_fresh(&entry.loaded))?;
        entry.loaded.credential().cloned()
    }

    /// Caches the key of the request's header.
    pub(crate) fn set(&self, headers: &HeaderMap, loaded: Loaded) {
        let Some(header) = single_header(headers) else { return };
        let entry = Entry { header: header.into(), loaded };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
    }
}

/// The value of the `Authorization` header; `None` if there isn't exactly one. It is borrowed, and
/// copied by the cache, because it is a slice of a much larger buffer of the connection.
fn single_header(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let header = values.next()?;
    values.next().is_none().then_some(header.as_bytes())
}
