//! The overview: totals, and the busiest organizations and keys.

use serde::Serialize;

use super::usage::{Group, Totals};

/// Number of keys by current status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = OverviewKeys)]
#[allow(missing_docs)]
pub(crate) struct Keys {
    pub(crate) active: u64,
    pub(crate) disabled: u64,
    pub(crate) expired: u64,
    pub(crate) revoked: u64,
}

/// Totals of the resources that the caller can see, and the verifications of the last 24 hours.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Overview {
    /// Number of organizations; 1 for an organization's key.
    pub(crate) organizations: u64,
    /// Number of users; for an organization's key, of its members.
    pub(crate) users: u64,
    /// Number of keys by status.
    pub(crate) api_keys: Keys,
    /// Verifications in the last 24 hours, starting at a full hour.
    pub(crate) last_24h: Totals,
    /// The organizations with the most verifications in that time, up to ten.
    pub(crate) busiest_organizations: Vec<Group>,
    /// The keys with the most verifications in that time, up to ten.
    pub(crate) busiest_keys: Vec<Group>,
}
