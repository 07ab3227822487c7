//! The verification log: denials, aggregated by key or address, code and minute.

use std::net::IpAddr;

use serde::Serialize;

use super::page::Query;
use super::time::Timestamp;
use super::verification::Outcome;

/// Denials aggregated into one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = VerificationLogEntry)]
pub struct Entry {
    /// The reason; `null` if the minute had too many keys, addresses and codes to list separately.
    #[schema(required)]
    pub(crate) code: Option<Outcome>,
    /// The denied key; `null` if it is unknown.
    #[schema(required, example = "key_123")]
    pub(crate) key_id: Option<String>,
    /// The organization that owns the key or, if the key is unknown, the organization whose key
    /// requested the verification; `null` for the platform.
    #[schema(required, example = "org_123")]
    pub(crate) organization_id: Option<String>,
    /// The client's address in the first denial. For unknown keys all denials share this address or,
    /// for IPv6, its /64.
    #[schema(required, value_type = Option<String>, example = "203.0.113.9")]
    pub(crate) ip: Option<IpAddr>,
    /// Number of denials in this entry.
    pub count: u64,
    /// When the first denial happened.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) first_at: Timestamp,
    /// When the last denial happened, within the same minute.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) last_at: Timestamp,
}

/// The filters of the list.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // The fields have the names of the query parameters.
pub struct VerificationLogFilter {
    pub(crate) org_id: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) code: Option<Outcome>,
    pub(crate) ip: Option<IpAddr>,
    /// Inclusive.
    pub(crate) from: Option<Timestamp>,
    /// Exclusive.
    pub(crate) to: Option<Timestamp>,
}

impl VerificationLogFilter {
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
