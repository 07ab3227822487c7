//! The requests with an `Idempotency-Key` that are being processed: at most one for each key of a caller.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Code, Error, Result};

/// The largest number of requests with an Idempotency-Key that run at the same time.
const MAX_IN_FLIGHT: usize = 10_000;

/// The running requests with an Idempotency-Key, identified by the digest of the caller and the
/// Idempotency-Key.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<HashSet<[u8; 32]>>);

impl InFlight {
    /// True if no request with an Idempotency-Key is running.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Marks a request as running until the guard is dropped.
    ///
    /// # Errors
    /// `CONFLICT` while another request with this id is running; `UNAVAILABLE` when too many are running.
    pub(crate) fn claim(self: &Arc<Self>, id: [u8; 32]) -> Result<InFlightGuard> {
        let mut ids = self.0.lock();
        if ids.contains(&id) {
            let message = "A request with this Idempotency-Key is still running. Try again in a moment.";
            return Err(Error::new(Code::Conflict, message));
        }
        if ids.len() >= MAX_IN_FLIGHT {
            return Err(Error::unavailable("Too many requests are running. Try again in a second.", 1));
        }
        ids.insert(id);
        Ok(InFlightGuard { id, requests: self.clone() })
    }
}

/// Marks a request as running until the guard is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    pub(crate) id: [u8; 32],
    requests: Arc<InFlight>,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.requests.0.lock().remove(&self.id);
    }
}
