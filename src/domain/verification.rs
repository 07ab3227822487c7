//! Verification of a key: the possible outcomes, and the checks that need only the key's record.

use std::net::IpAddr;

use serde::Serialize;

use super::api_key::{Credential, Status};
use super::cidr;
use super::scope;
use super::time::Timestamp;
use super::{organization, user};

/// The outcomes of verifying a key, in the order in which they are checked. The first outcome that applies is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = VerificationOutcome)]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // `message` describes each outcome.
pub enum Outcome {
    Malformed,
    NotFound,
    Revoked,
    Disabled,
    Expired,
    OrganizationSuspended,
    OwnerInactive,
    IpNotAllowed,
    InsufficientScope,
    QuotaExceeded,
    RateLimited,
    Valid,
}

impl Outcome {
    /// The name of the outcome in JSON and in the database.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the human-readable message of the outcome. It must not contain characters that need escaping
    /// in JSON, because verification responses are written without a JSON serializer.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Outcome::Malformed => "Not a valid key: it is empty, too long, or has a wrong checksum.",
            Outcome::NotFound => "Key not found.",
            Outcome::Revoked => "The key has been revoked.",
            Outcome::Disabled => "The key is disabled.",
            Outcome::Expired => "The key, or this secret's grace period after a rotation, has expired.",
            Outcome::OrganizationSuspended => "The key's organization is suspended or deleted.",
            Outcome::OwnerInactive => "The key's owner is suspended, deleted, or no longer a member.",
            Outcome::IpNotAllowed => "The key can't be used from this address, or no address was given.",
            Outcome::InsufficientScope => "The key lacks a required scope.",
            Outcome::QuotaExceeded => "Quota exceeded.",
            Outcome::RateLimited => "Rate limit exceeded.",
            Outcome::Valid => "The key is valid.",
        }
    }

    /// True for [`Outcome::Valid`].
    pub fn is_valid(self) -> bool {
        self == Outcome::Valid
    }
}

/// Returns the outcome that follows from the stored key, regardless of the request: one of `REVOKED` to
/// `OWNER_INACTIVE`, or `VALID` if none of these applies.
pub(crate) fn check_credential(credential: &Credential, now: Timestamp) -> Outcome {
    let key = &credential.key;
    match key.status {
        Status::Revoked => return Outcome::Revoked,
        Status::Disabled => return Outcome::Disabled,
        Status::Expired => return Outcome::Expired,
        Status::Active => {}
    }
    if key.is_expired(now) || credential.secret_ends_at.is_some_and(|end| end <= now) {
        return Outcome::Expired;
    }
    if credential.organization.as_ref().is_some_and(|tenant| tenant.status != organization::Status::Active) {
        return Outcome::OrganizationSuspended;
    }
    if credential.owner.is_some_and(|status| status != user::Status::Active) {
        return Outcome::OwnerInactive;
    }
    Outcome::Valid
}

/// Runs all checks that come before the rate limit and the quota: the stored key, the client's address, and
/// the required scopes.
pub(crate) fn check_before_limits<S: AsRef<str>>(
    credential: &Credential,
    now: Timestamp,
    ip: Option<IpAddr>,
    scopes: &[S],
) -> Outcome {
    let outcome = check_credential(credential, now);
    if !outcome.is_valid() {
        return outcome;
    }
    if !cidr::is_allowed(credential.key.allowed_ips.as_deref(), ip) {
        return Outcome::IpNotAllowed;
    }
    if !scopes.iter().all(|wanted| scope::any_covers(&credential.key.scopes, wanted.as_ref())) {
        return Outcome::InsufficientScope;
    }
    Outcome::Valid
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn no_message_needs_escapes() {
        for outcome in Outcome::VARIANTS {
            // Verification responses are written without a JSON serializer.
            let json = serde_json::to_string(outcome.message()).unwrap();
            assert_eq!(json, format!("\"{}\"", outcome.message()));
        }
    }
}
