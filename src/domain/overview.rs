//! The front page: how much there is, and who was busy.

use serde::Serialize;

use super::usage::{Group, Totals};

/// Keys by what they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = OverviewKeys)]
#[allow(missing_docs)]
pub struct Keys {
    pub active: u64,
    pub disabled: u64,
    pub expired: u64,
    pub revoked: u64,
}

/// How much there is of what the caller sees, and what the last 24 hours were like.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Overview {
    /// Organizations; 1 for an organization's key.
    pub organizations: u64,
    /// Users; for an organization's key its members.
    pub users: u64,
    /// Keys by status.
    pub api_keys: Keys,
    /// Verifications of the last 24 hours, counted from a full hour on.
    pub last_24h: Totals,
    /// The organizations with the most verifications in that time, at most ten.
    pub busiest_organizations: Vec<Group>,
    /// The keys with the most verifications in that time, at most ten.
    pub busiest_keys: Vec<Group>,
}
