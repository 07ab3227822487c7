//! The front page: how much there is, and who was busy.

use serde::Serialize;

use super::usage::{Group, Totals};

/// Keys by what they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = OverviewKeys)]
#[allow(missing_docs)]
pub(crate) struct Keys {
    pub(crate) active: u64,
    pub(crate) disabled: u64,
    pub(crate) expired: u64,
    pub(crate) revoked: u64,
}

/// How much there is of what the caller sees, and what the last 24 hours were like.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Overview {
    /// Organizations; 1 for an organization's key.
    pub(crate) organizations: u64,
    /// Users; for an organization's key its members.
    pub(crate) users: u64,
    /// Keys by status.
    pub(crate) api_keys: Keys,
    /// Verifications of the last 24 hours, counted from a full hour on.
    pub(crate) last_24h: Totals,
    /// The organizations with the most verifications in that time, at most ten.
    pub(crate) busiest_organizations: Vec<Group>,
    /// The keys with the most verifications in that time, at most ten.
    pub(crate) busiest_keys: Vec<Group>,
}
