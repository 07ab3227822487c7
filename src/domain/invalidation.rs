//! Cache invalidations caused by committed changes.

/// Recorded inside a transaction; applied after its commit and before its response is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Cached records of the key, organization or user with this id.
    Id(String),
    /// The cached miss for the secret with this hash, which now exists.
    Secret([u8; 32]),
    /// Everything, because another process wrote to the database.
    All,
}
