//! The changes of access that a request attempts. If one can't be stored, [`access_blocks`](super::access_blocks) takes the
//! access away in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::domain::access::Caller;
use crate::domain::access_change::AccessChange;
use crate::domain::api_key::Credential;
use crate::domain::invalidation::Invalidation;
use crate::error::Result;
use crate::store::db::Tx;
use crate::verify::access_blocks::AccessBlocks;

/// The changes of access that a request attempts, and the access that is blocked.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessChangeAttempts {
    blocks: Arc<AccessBlocks>,
    /// The change of this operation; `None` if it makes none.
    own: Option<Arc<Attempt>>,
    /// The changes of all operations of the request.
    of_request: Arc<Mutex<Vec<Arc<Attempt>>>>,
}

/// An attempted change of access.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) change: AccessChange,
    /// What the operation requires of its caller, as in [`RequestContext`](super::RequestContext).
    scopes: &'static [&'static str],
    requires_current_secret: bool,
    /// True if the change was refused, for another reason than a fault of the database.
    is_refused: AtomicBool,
}

impl Attempt {
    pub(super) fn new(
        change: AccessChange,
        scopes: &'static [&'static str],
        requires_current_secret: bool,
    ) -> Self {
        Self { change, scopes, requires_current_secret, is_refused: AtomicBool::new(false) }
    }

    /// True if the caller may make the change, as far as that doesn't depend on the affected keys. It may not have been
    /// checked before the database failed.
    pub(super) fn is_allowed_for(&self, caller: &Caller) -> bool {
        caller.require_scope(self.scopes).is_ok()
            && (!self.requires_current_secret || caller.require_current_secret().is_ok())
            && self.change.is_allowed_for(caller)
    }
}

impl AccessChangeAttempts {
    pub(crate) fn new(blocks: Arc<AccessBlocks>) -> Self {
        Self { blocks, ..Self::default() }
    }

    /// Adds the attempt of this operation.
    pub(super) fn add(&mut self, attempt: Attempt) {
        let attempt = Arc::new(attempt);
        self.of_request.lock().push(attempt.clone());
        self.own = Some(attempt);
    }

    /// Applies the blocks to a credential as stored.
    pub(super) fn apply_blocks(&self, credential: &mut Credential) {
        self.blocks.apply(credential);
    }

    /// Declares that the change of this operation is made in the transaction: once it is stored, the blocks of the
    /// same access end.
    pub(super) fn declare_stored(&self, tx: &Tx<'_>) {
        if let Some(attempt) = &self.own
            && self.blocks.len() > 0
        {
            tx.invalidate(Invalidation::Access(attempt.change.clone()));
        }
    }

    /// Records whether the operation was refused: the error of its last run, if it failed.
    pub(super) fn record_outcome<T>(&self, result: &Result<T>) {
        if let Some(attempt) = &self.own {
            let is_refused = result.as_ref().is_err_and(|error| error.database_fault.is_none());
            attempt.is_refused.store(is_refused, Ordering::Relaxed);
        }
    }

    /// Records that the operation was not made, because the batch was refused.
    pub(super) fn refuse(&self) {
        if let Some(attempt) = &self.own {
            attempt.is_refused.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the attempts to take access away that were not refused.
    pub(super) fn take_withdrawals(&self) -> Vec<Arc<Attempt>> {
        let mut attempts = self.of_request.lock();
        let is_pending = |attempt: &Arc<Attempt>| {
            !attempt.is_refused.load(Ordering::Relaxed) && attempt.change.takes_access_away()
        };
        attempts.drain(..).filter(is_pending).collect()
    }
}
