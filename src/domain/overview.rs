//! The overview: totals of resources and verifications, and the busiest organizations and keys.

use serde::Serialize;

use super::usage::{Group, Totals};

/// Number of API keys by current status.
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
    /// Number of organizations; 1 if the caller's key belongs to an organization.
    pub(crate) organizations: u64,
    /// Number of users. If the caller's key belongs to an organization, the number of that organization's
    /// members.
    pub(crate) users: u64,
    /// Number of API keys by status.
    pub(crate) api_keys: Keys,
    /// Verifications in the last 24 hours, starting at a full hour.
    pub(crate) last_24h: Totals,
    /// Up to ten organizations with the most verifications in the last 24 hours.
    pub(crate) busiest_organizations: Vec<Group>,
    /// Up to ten keys with the most verifications in the last 24 hours.
    pub(crate) busiest_keys: Vec<Group>,
}
