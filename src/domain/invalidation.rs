//! Cache invalidations caused by committed changes.

use super::access_change::AccessChange;

/// Cached records that a committed change makes outdated. A transaction records invalidations; they are
/// applied after its commit and before the response is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Cached records of the key, organization or user with this id.
    Id(String),
    /// The cached information that no key has the secret with this hash. The secret now exists.
    Secret([u8; 32]),
    /// Cached records that this change of access affects. Access that was denied because such a change could not be
    /// stored is now as stored.
    Access(AccessChange),
    /// All cached records, because another process wrote to the database.
    All,
}
