//! "Is this key good, now?": the possible answers, and what of them the record alone decides.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::access;
use super::api_key::{Credential, Status};
use super::scope;
use super::time::Timestamp;
use super::{organization, user};

/// The answers, in the order in which they are checked; the first that holds is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // `message` says what each means.
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
    /// The names on the wire and in the database, in the order of the checks.
    pub const NAMES: &'static [(&'static str, Outcome)] = &[
        ("MALFORMED", Outcome::Malformed),
        ("NOT_FOUND", Outcome::NotFound),
        ("REVOKED", Outcome::Revoked),
        ("DISABLED", Outcome::Disabled),
        ("EXPIRED", Outcome::Expired),
        ("ORGANIZATION_SUSPENDED", Outcome::OrganizationSuspended),
        ("OWNER_INACTIVE", Outcome::OwnerInactive),
        ("IP_NOT_ALLOWED", Outcome::IpNotAllowed),
        ("INSUFFICIENT_SCOPE", Outcome::InsufficientScope),
        ("QUOTA_EXCEEDED", Outcome::QuotaExceeded),
        ("RATE_LIMITED", Outcome::RateLimited),
        ("VALID", Outcome::Valid),
    ];

    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        // The table is in the order of the variants; a test holds it to that.
        Self::NAMES[self as usize].0
    }

    /// For people.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Outcome::Malformed => "This is no key: it is empty, too long, or its checksum is wrong.",
            Outcome::NotFound => "There is no such key.",
            Outcome::Revoked => "The key was revoked.",
            Outcome::Disabled => "The key is disabled.",
            Outcome::Expired => "The key, or the grace of this secret after a rotation, has ended.",
            Outcome::OrganizationSuspended => "The key's organization is suspended or deleted.",
            Outcome::OwnerInactive => "The key's owner is suspended, deleted, or no longer a member.",
            Outcome::IpNotAllowed => "The key may not be used from this address, or no address was given.",
            Outcome::InsufficientScope => "The key lacks a scope that is needed.",
            Outcome::QuotaExceeded => "The key's quota for this period does not suffice.",
            Outcome::RateLimited => "The key's rate limit does not suffice right now.",
            Outcome::Valid => "The key is valid.",
        }
    }

    /// Is the key good?
    pub fn is_valid(self) -> bool {
        self == Outcome::Valid
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl ToSchema for Outcome {
    fn name() -> Cow<'static, str> {
        "VerificationCode".into()
    }
}

impl PartialSchema for Outcome {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The answers in the order in which they are checked; the first that holds."))
            .enum_values(Some(Self::NAMES.iter().map(|(name, _)| *name)))
            .into()
    }
}

/// How the key itself stands, whatever it is used for: `REVOKED` to `OWNER_INACTIVE`, else `VALID`.
pub(crate) fn standing(credential: &Credential, now: Timestamp) -> Outcome {
    let key = &credential.key;
    match key.status {
        Status::Revoked => return Outcome::Revoked,
        Status::Disabled => return Outcome::Disabled,
        Status::Expired => return Outcome::Expired,
        Status::Active => {}
    }
    if key.is_past(now) || credential.secret_ends_at.is_some_and(|end| end <= now) {
        return Outcome::Expired;
    }
    if credential.organization.as_ref().is_some_and(|one| one.status != organization::Status::Active) {
        return Outcome::OrganizationSuspended;
    }
    if credential.owner.is_some_and(|status| status != user::Status::Active) {
        return Outcome::OwnerInactive;
    }
    Outcome::Valid
}

/// All that comes before the limits: how the key stands, from where it is used, and what for.
pub(crate) fn before_limits<S: AsRef<str>>(
    credential: &Credential,
    now: Timestamp,
    ip: Option<IpAddr>,
    scopes: &[S],
) -> Outcome {
    let standing = standing(credential, now);
    if !standing.is_valid() {
        return standing;
    }
    if access::from_address(&credential.key, ip).is_err() {
        return Outcome::IpNotAllowed;
    }
    if !scopes.iter().all(|wanted| scope::any_covers(&credential.key.scopes, wanted.as_ref())) {
        return Outcome::InsufficientScope;
    }
    Outcome::Valid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_name() {
        for (index, (name, outcome)) in Outcome::NAMES.iter().enumerate() {
            assert_eq!((*outcome as usize, outcome.name()), (index, *name));
            // Answers are written by hand: nothing in them may need an escape.
            let json = serde_json::to_string(outcome.message()).unwrap();
            assert_eq!(json, format!("\"{}\"", outcome.message()));
        }
        assert_eq!(Outcome::NAMES.len(), Outcome::Valid as usize + 1);
    }
}
