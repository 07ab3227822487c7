//! Memberships: which user is what in which organization. Tollhouse gates nothing on roles but the
//! last owner.

use serde::Serialize;

use super::fields::{Fields, Json};
use super::rules;
use super::time::Timestamp;
use super::user::User;
use crate::error::Result;

/// What a member is, for the platform to act on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "member")]
#[allow(missing_docs)]
pub(crate) enum Role {
    Owner,
    Admin,
    #[default]
    Member,
    Viewer,
}

impl Role {
    /// The names on the wire and in the database.
    pub(crate) const NAMES: &'static [(&'static str, Role)] =
        &[("owner", Role::Owner), ("admin", Role::Admin), ("member", Role::Member), ("viewer", Role::Viewer)];

    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
            Role::Viewer => "viewer",
        }
    }
}

/// A membership as answered, with its user inlined.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Membership {
    /// Where.
    #[schema(example = "org_123")]
    pub(crate) organization_id: String,
    /// Who.
    #[schema(example = "user_123")]
    pub(crate) user_id: String,
    /// As what.
    pub(crate) role: Role,
    /// The user itself.
    pub(crate) user: User,
    /// When the membership began.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// When the role last changed.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) updated_at: Timestamp,
    /// Counts stored changes; makes the ETag.
    #[serde(skip)]
    pub(crate) revision: i64,
}

/// What adds a member.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMember {
    /// Who.
    #[schema(min_length = 1, max_length = 69, example = "user_123")]
    pub(crate) user_id: String,
    /// As what.
    pub(crate) role: Role,
}

impl NewMember {
    /// Reads a body.
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.read_only(&["organization_id", "user", "created_at", "updated_at"]);
        let value = Self {
            user_id: fields.required("user_id", |json, faults| rules::text(json, faults, 69)),
            role: fields.required("role", rules::one_of(Role::NAMES)),
        };
        fields.finish(value)
    }
}

/// A merge patch of a membership.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MembershipPatch {
    /// As what.
    #[schema(nullable = false)]
    pub(crate) role: Option<Role>,
}

impl MembershipPatch {
    /// Reads a body.
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.read_only(&["organization_id", "user_id", "user", "created_at", "updated_at"]);
        let value = Self { role: fields.optional("role", rules::one_of(Role::NAMES)) };
        fields.finish(value)
    }
}
