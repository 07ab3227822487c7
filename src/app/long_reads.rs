//! The limits of long reads: one at a time for each holder, and a few in all.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::access::Caller;
use crate::error::{Code, Error, Result};

/// A kind of long reads, with the holders of those that are running.
pub(crate) struct LongReads {
    running: Mutex<HashSet<String>>,
    max_running: usize,
    /// True if all keys of an organization are one holder; otherwise, each key is a holder.
    is_by_organization: bool,
    /// Why a read is refused whose holder has one already.
    holder_is_busy: &'static str,
    /// Why a read is refused while the maximum number is running.
    too_many: &'static str,
}

impl LongReads {
    /// The audit exports and chain verifications: one for each key.
    pub(crate) fn of_audit_log() -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            max_running: 4,
            is_by_organization: false,
            holder_is_busy: "An audit export or chain verification of this key is still running; try again when it \
                             has ended.",
            too_many: "Too many audit exports and chain verifications are running; try again when one of them has \
                       ended.",
        })
    }

    /// The usage reports by user: one for each organization, so that its keys together can't occupy all readers of the
    /// database.
    pub(crate) fn of_usage_by_user() -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            max_running: 2,
            is_by_organization: true,
            holder_is_busy: "Another usage report by user is still running; try again when it has ended.",
            too_many: "Too many usage reports by user are running; try again when one of them has ended.",
        })
    }

    /// Counts one as running until the guard is dropped. Callers without a key, which are operators at the
    /// command line, aren't limited.
    ///
    /// # Errors
    /// `RATE_LIMITED` if the holder already has one, or too many are running.
    pub(crate) fn start(self: &Arc<Self>, caller: &Caller) -> Result<LongReadGuard> {
        let Some(key) = caller.key() else { return Ok(LongReadGuard(None)) };
        let holder = key.organization_id.as_ref().filter(|_| self.is_by_organization).unwrap_or(&key.id);
        let mut running = self.running.lock();
        let message = if running.contains(holder) {
            self.holder_is_busy
        } else if running.len() >= self.max_running {
            self.too_many
        } else {
            running.insert(holder.clone());
            return Ok(LongReadGuard(Some((self.clone(), holder.clone()))));
        };
        Err(Error { retry_after: Some(1), ..Error::new(Code::RateLimited, message) })
    }
}

/// Counts a long read as running until it is dropped.
pub(crate) struct LongReadGuard(Option<(Arc<LongReads>, String)>);

impl Drop for LongReadGuard {
    fn drop(&mut self) {
        if let Some((reads, holder)) = &self.0 {
            reads.running.lock().remove(holder);
        }
    }
}
