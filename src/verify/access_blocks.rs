//! Access that is denied in memory, because the change that takes it away could not be stored: the database is
//! damaged or its disk failed. Denials end when such a change is stored, and with the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::domain::access::Caller;
use crate::domain::access_change::AccessChange;
use crate::domain::api_key::Credential;
use crate::domain::invalidation::Invalidation;

/// Maximum number of changes that are denied in memory.
const MAX_BLOCKS: usize = 10_000;

/// Maximum number of changes by callers of one organization, and by those of all organizations together. They may not
/// use up the room of platform keys.
const MAX_BLOCKS_PER_ORGANIZATION: usize = 1_000;
const MAX_BLOCKS_OF_ORGANIZATIONS: usize = 5_000;

/// Maximum number of changes of one key, organization or user, by callers of one organization or by platform keys.
/// Those that end its access for good are not counted: there is only one for each caller.
const MAX_BLOCKS_PER_ID: usize = 16;

/// A change that could not be stored.
#[derive(Debug)]
struct AccessBlock {
    change: AccessChange,
    caller: Caller,
}

/// The access that is denied in memory.
#[derive(Debug, Default)]
pub(crate) struct AccessBlocks {
    /// Number of changes in `by_id`. It is read first, because it is nearly always 0.
    count: AtomicUsize,
    by_id: RwLock<HashMap<String, Vec<AccessBlock>>>,
    /// Held while it is determined whether a key may be blocked, and until it is. Otherwise two recovery keys, each
    /// spared by the existence of the other, could be blocked at the same time.
    pub(crate) adding: tokio::sync::Mutex<()>,
}

impl AccessBlocks {
    /// Number of changes that are denied in memory.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// True if a change of the key, organization or user with this id is denied in memory.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.len() > 0 && self.by_id.read().contains_key(id)
    }

    /// Denies what this change takes away, from the next load of a credential on. The caller of this function
    /// publishes an invalidation. Returns false if there is no room.
    pub(crate) fn add(&self, change: AccessChange, caller: Caller) -> bool {
        let mut by_id = self.by_id.write();
        let existing = by_id.get(&change.id).map_or(&[][..], Vec::as_slice);
        let caller_id = |caller: &Caller| caller.key().map(|key| key.id.clone());
        let is_same =
            |block: &AccessBlock| block.change == change && caller_id(&block.caller) == caller_id(&caller);
        if existing.iter().any(is_same) {
            return true;
        }
        let is_of_same_organization =
            |block: &&AccessBlock| block.caller.organization_id() == caller.organization_id();
        let has_room = self.len() < MAX_BLOCKS
            && (change.is_final()
                || existing.iter().filter(is_of_same_organization).count() < MAX_BLOCKS_PER_ID)
            && has_room_for_organization(&by_id, caller.organization_id());
        if has_room {
            let block = AccessBlock { change, caller };
            by_id.entry(block.change.id.clone()).or_default().push(block);
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        has_room
    }

    /// Ends the denials that stored changes supersede.
    pub(crate) fn lift_stored(&self, invalidations: &[Invalidation]) {
        if self.len() == 0 {
            return;
        }
        let mut by_id = self.by_id.write();
        for invalidation in invalidations {
            let Invalidation::Access(stored) = invalidation else { continue };
            if let Some(blocks) = by_id.get_mut(&stored.id) {
                blocks.retain(|block| !stored.supersedes(&block.change));
            }
        }
        by_id.retain(|_, blocks| !blocks.is_empty());
        self.count.store(by_id.values().map(Vec::len).sum(), Ordering::SeqCst);
    }

    /// Applies the denials to a credential as stored.
    pub(crate) fn apply(&self, credential: &mut Credential) {
        if self.len() == 0 {
            return;
        }
        let by_id = self.by_id.read();
        let key = &credential.key;
        let ids = [Some(&key.id), key.organization_id.as_ref(), key.user_id.as_ref()];
        let blocks: Vec<_> = ids.into_iter().flatten().filter_map(|id| by_id.get(id)).flatten().collect();
        for block in blocks {
            block.change.deny(&block.caller, credential);
        }
    }
}

fn has_room_for_organization(
    by_id: &HashMap<String, Vec<AccessBlock>>,
    organization_id: Option<&str>,
) -> bool {
    if organization_id.is_none() {
        return true;
    }
    let organizations = by_id.values().flatten().filter_map(|block| block.caller.organization_id());
    let mut own = 0;
    let mut all = 0;
    for organization in organizations {
        all += 1;
        own += usize::from(Some(organization) == organization_id);
    }
    own < MAX_BLOCKS_PER_ORGANIZATION && all < MAX_BLOCKS_OF_ORGANIZATIONS
}

#[cfg(test)]
#[path = "access_blocks_tests.rs"]
mod tests;
