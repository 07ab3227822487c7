//! Memberships: the roles of users in organizations. Tollhouse itself uses roles only to ensure that an
//! organization keeps an owner.

use serde::Serialize;
use utoipa::IntoParams;

use super::fields::{Fields, Json};
use super::page::Query;
use super::rules;
use super::time::Timestamp;
use super::user::User;
use crate::error::Result;

/// The role of a member in an organization. The application behind the API decides what a role may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "member")]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub(crate) enum Role {
    Owner,
    Admin,
    #[default]
    Member,
    Viewer,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// A membership of a user in an organization, with the user embedded.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Membership {
    /// Id of the organization.
    #[schema(example = "org_123")]
    pub(crate) organization_id: String,
    /// Id of the user who is the member.
    #[schema(example = "user_123")]
    pub(crate) user_id: String,
    /// The user's role in the organization.
    pub(crate) role: Role,
    /// The user who is the member.
    pub(crate) user: User,
    /// When the membership was created.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// When the member's role was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) updated_at: Timestamp,
    /// Number of stored changes to this membership, from which its ETag is computed.
    #[serde(skip)]
    pub(crate) revision: i64,
}

/// Parameters for adding a member to an organization.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = MemberCreate)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMember {
    /// Id of the user to add as a member.
    #[schema(min_length = 1, max_length = 69, example = "user_123")]
    pub(crate) user_id: String,
    /// The user's role in the organization.
    pub(crate) role: Role,
}

impl NewMember {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(&["organization_id", "user", "created_at", "updated_at"]);
        let value = Self {
            user_id: fields.required("user_id", |json, faults| rules::parse_text(json, faults, 69)),
            role: fields.required("role", rules::parse_one_of),
        };
        fields.finish(value)
    }
}

/// A JSON merge patch of a membership.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MembershipPatch {
    /// The user's role in the organization.
    #[schema(nullable = false)]
    pub(crate) role: Option<Role>,
}

impl MembershipPatch {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(&["organization_id", "user_id", "user", "created_at", "updated_at"]);
        let value = Self { role: fields.optional("role", rules::parse_one_of) };
        fields.finish(value)
    }
}

/// The filters of the lists of memberships. The path of the list names the organization or the user.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MembershipFilter {
    #[param(ignore)]
    pub(crate) organization_id: Option<String>,
    #[param(ignore)]
    pub(crate) user_id: Option<String>,
    /// Only members with this role.
    pub(crate) role: Option<Role>,
}

impl MembershipFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self { organization_id: None, user_id: None, role: query.one_of("role") }
    }
}
