//! The verification log: what was denied, folded by key or address, code and minute.

use std::net::IpAddr;

use serde::Serialize;

use super::page::Query;
use super::time::Timestamp;
use super::verification::Outcome;

/// Denials that are told as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = VerificationLogEntry)]
pub struct Entry {
    /// Why; `null` when the minute had too many keys, addresses and codes to tell them apart.
    #[schema(required)]
    pub(crate) code: Option<Outcome>,
    /// Which key; `null` when it isn't known.
    #[schema(required, example = "key_123")]
    pub(crate) key_id: Option<String>,
    /// Whose key it is or, when it isn't known, which organization's key asked about it; `null` for the
    /// platform's.
    #[schema(required, example = "org_123")]
    pub(crate) organization_id: Option<String>,
    /// The client's address in the first of them. Of unknown keys all have this address, or for IPv6 one
    /// in the same /64.
    #[schema(required, value_type = Option<String>, example = "203.0.113.9")]
    pub(crate) ip: Option<IpAddr>,
    /// How many denials it stands for.
    pub count: u64,
    /// When the first was.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) first_at: Timestamp,
    /// When the last was, within the same minute.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) last_at: Timestamp,
}

/// What the list is narrowed to.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // They are named as the query's parameters.
pub struct VerificationLogFilter {
    pub(crate) org_id: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) code: Option<Outcome>,
    pub(crate) ip: Option<IpAddr>,
    /// Not before.
    pub(crate) from: Option<Timestamp>,
    /// Before.
    pub(crate) to: Option<Timestamp>,
}

impl VerificationLogFilter {
    /// Reads the filters of a query.
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            org_id: query.text("org_id"),
            key_id: query.text("key_id"),
            code: query.one_of("code", Outcome::NAMES),
            ip: query.address("ip"),
            from: query.time("from"),
            to: query.time("to"),
        }
    }
}
