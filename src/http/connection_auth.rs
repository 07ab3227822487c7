//! Who asked last over a connection. A gateway sends the same header with every question; remembering what
//! came of it spares the hash, its checksum and the look into the cache that all cores share.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::domain::api_key::Credential;
use crate::verify::cache::{KeyCache, Loaded};

/// The last `Authorization` header that led to a key, as it came, and the key. It never leaves the
/// connection, so that nobody can learn of another's header by trying.
#[derive(Debug, Default)]
pub(crate) struct ConnectionAuthCache(Mutex<Option<Known>>);

struct Known {
    header: Box<[u8]>,
    loaded: Loaded,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known(…)") // The header is a secret.
    }
}

impl ConnectionAuthCache {
    /// The key, if the header is the same as last time and nothing of the key has changed since. Whether
    /// it is good is for the caller to see.
    pub(crate) fn recall(&self, headers: &HeaderMap, keys: &KeyCache) -> Option<Arc<Credential>> {
        let header = only(headers)?;
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|known| *known.header == *header && keys.is_fresh(&known.loaded))?;
        known.loaded.credential().cloned()
    }

    /// Remembers a header that led to a key.
    pub(crate) fn remember(&self, headers: &HeaderMap, loaded: Loaded) {
        let Some(header) = only(headers) else { return };
        let known = Known { header: header.into(), loaded };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

/// The one `Authorization` header. Its bytes are copied where they are kept: they lie in a buffer of the
/// connection that is much larger.
fn only(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let header = all.next()?;
    all.next().is_none().then_some(header.as_bytes())
}
