//! The limit of audit exports and chain verifications: one at a time for each key, and [`MAX_RUNNING`] in all.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::access::Caller;
use crate::error::{Code, Error, Result};

/// Maximum number that run at the same time.
const MAX_RUNNING: usize = 4;

/// The keys whose export or chain verification is running.
#[derive(Default)]
pub(crate) struct LongReads(Mutex<HashSet<String>>);

impl LongReads {
    /// Counts one as running until the guard is dropped. Callers without a key, which are operators at the
    /// command line, aren't limited.
    ///
    /// # Errors
    /// `RATE_LIMITED` if the key already has one, or too many are running.
    pub(crate) fn start(self: &Arc<Self>, caller: &Caller) -> Result<LongReadGuard> {
        let Some(key) = caller.key() else { return Ok(LongReadGuard(None)) };
        let mut running = self.0.lock();
        let message = if running.contains(&key.id) {
            "An audit export or chain verification of this key is still running; try again when it has ended."
        } else if running.len() >= MAX_RUNNING {
            "Too many audit exports and chain verifications are running; try again when one of them has ended."
        } else {
            running.insert(key.id.clone());
            return Ok(LongReadGuard(Some((self.clone(), key.id.clone()))));
        };
        Err(Error { retry_after: Some(1), ..Error::new(Code::RateLimited, message) })
    }
}

/// Counts an export or a chain verification as running until it is dropped.
pub(crate) struct LongReadGuard(Option<(Arc<LongReads>, String)>);

impl Drop for LongReadGuard {
    fn drop(&mut self) {
        if let Some((running, key_id)) = &self.0 {
            running.0.lock().remove(key_id);
        }
    }
}
