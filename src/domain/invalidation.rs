//! What a committed change made out of date in the caches.

/// Said inside a transaction, carried out after its commit and before its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// What is remembered of the key, organization or user with this id.
    Id(String),
    /// That there is no secret with this hash: there is one now.
    Secret([u8; 32]),
    /// Everything: another process wrote.
    All,
}
