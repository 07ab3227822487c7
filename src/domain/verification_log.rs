//! The verification log: denied verifications, aggregated by key or address, by code, and by minute.

use std::net::IpAddr;

use serde::Serialize;
use utoipa::IntoParams;

use super::page::Query;
use super::time::Timestamp;
use super::verification::Outcome;

/// An entry of the verification log, which aggregates denied verifications of one minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = VerificationLogEntry)]
pub struct Entry {
    /// Why the verifications were denied; `null` if the minute had too many keys, addresses and codes to list
    /// separately.
    #[schema(required)]
    pub(crate) code: Option<Outcome>,
    /// Id of the denied key; `null` if no such key exists.
    #[schema(required, example = "key_123")]
    pub(crate) key_id: Option<String>,
    /// Id of the organization that owns the denied key; if the key is unknown, of the organization whose key
    /// requested the verification. `null` stands for the platform.
    #[schema(required, example = "org_123")]
    pub(crate) organization_id: Option<String>,
    /// IP address of the client in the first denied verification. If the key is unknown, all verifications in
    /// this entry came from this address or, for IPv6, its /64 network.
    #[schema(required, value_type = Option<String>, example = "203.0.113.9")]
    pub(crate) ip: Option<IpAddr>,
    /// Number of denied verifications in this entry.
    pub count: u64,
    /// When the first verification in this entry was denied.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) first_at: Timestamp,
    /// When the last verification in this entry was denied, within the same minute.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) last_at: Timestamp,
}

/// The filters of the list of verification log entries.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct VerificationLogFilter {
    /// Only denials that concern this organization.
    #[param(max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only denials of this key.
    #[param(max_length = 200)]
    pub(crate) key_id: Option<String>,
    /// Only denials with this code.
    pub(crate) code: Option<Outcome>,
    /// Only denials from this IPv4 or IPv6 address.
    #[param(value_type = Option<String>, max_length = 200)]
    pub(crate) ip: Option<IpAddr>,
    /// Only entries with a last denial at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub(crate) from: Option<Timestamp>,
    /// Only entries with a first denial before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub(crate) to: Option<Timestamp>,
}

impl VerificationLogFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            org_id: query.text("org_id"),
            key_id: query.text("key_id"),
            code: query.one_of("code"),
            ip: query.address("ip"),
            from: query.time("from"),
            to: query.time("to"),
        }
    }
}
