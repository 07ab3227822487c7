//! The state of an open transaction that isn't in the database.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::word_changes::{SavedChanges, WordChanges};
use crate::domain::audit::ChainHash;
use crate::domain::invalidation::Invalidation;
use crate::domain::settings::StoredSettings;

/// The relation of a transaction to the storage reserve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReserveAccess {
    /// There is room, as far as known. The reserve is not touched.
    #[default]
    NotNeeded,
    /// Storage is full. The transaction must not make the database larger.
    Denied,
    /// Storage is full, and the transaction may use the reserve, because it only takes access away.
    Allowed,
}

/// What the mutations of a group share: what was read once for all of them, and what the commit causes. It belongs to
/// whoever begins and commits the transaction.
#[derive(Default)]
pub(super) struct TxState {
    /// `seq` and hash of the last audit event; `None` until [`super::audit`] has read them.
    pub(super) chain_head: Cell<Option<(i64, ChainHash)>>,
    /// The settings; `None` until [`super::settings`] has read them.
    pub(super) settings: RefCell<Option<Arc<StoredSettings>>>,
    pub(super) invalidations: RefCell<Vec<Invalidation>>,
    /// Changes of the table `words`, which are stored before the commit or a search.
    pub(super) word_changes: RefCell<WordChanges>,
    pub(super) has_written: Cell<bool>,
    pub(super) reserve_access: Cell<ReserveAccess>,
    /// True if the WAL is to be checkpointed after the commit.
    pub(super) checkpoint_requested: Cell<bool>,
}

/// The part of a [`TxState`] that is restored when a savepoint is rolled back.
pub(super) struct SavedState {
    chain_head: Option<(i64, ChainHash)>,
    invalidations: usize,
    word_changes: SavedChanges,
    has_written: bool,
    reserve_access: ReserveAccess,
}

impl TxState {
    /// The state of a transaction with this relation to the storage reserve.
    pub(super) fn with_reserve_access(reserve_access: ReserveAccess) -> Self {
        Self { reserve_access: Cell::new(reserve_access), ..Self::default() }
    }

    pub(super) fn save(&self) -> SavedState {
        SavedState {
            chain_head: self.chain_head.get(),
            invalidations: self.invalidations.borrow().len(),
            word_changes: self.word_changes.borrow().save(),
            has_written: self.has_written.get(),
            reserve_access: self.reserve_access.get(),
        }
    }

    pub(super) fn restore(&self, saved: SavedState) {
        self.chain_head.set(saved.chain_head);
        self.settings.take();
        self.invalidations.borrow_mut().truncate(saved.invalidations);
        self.word_changes.borrow_mut().restore(saved.word_changes);
        self.has_written.set(saved.has_written);
        self.reserve_access.set(saved.reserve_access);
    }
}
