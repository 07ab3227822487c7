//! The query parameter `expand`: adds the names of the organization and the user that a resource belongs to.

use serde::Serialize;

use super::access::Caller;
use super::api_key::ApiKey;
use super::membership::Membership;
use super::page::Query;
use crate::error::Result;

/// What `expand` adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expand {
    pub(crate) organization: bool,
    pub(crate) user: bool,
}

impl Expand {
    /// Reads a list of names, each of which is one of `supported`: `organization` and `user`.
    pub(crate) fn read(query: &mut Query, supported: &[&str]) -> Self {
        let Some(text) = query.text("expand") else { return Self::default() };
        let names: Vec<&str> = text.split(',').collect();
        if !names.iter().all(|name| supported.contains(name)) {
            let supported = supported.join(", ");
            query.add_fault(
                "expand",
                "INVALID_VALUE",
                format!("Must be a comma-separated list of: {supported}."),
            );
        }
        Self { organization: names.contains(&"organization"), user: names.contains(&"user") }
    }

    /// Returns the error `INSUFFICIENT_SCOPE` unless the caller may read what is added.
    pub(crate) fn authorize(self, caller: &Caller) -> Result<()> {
        if self.organization {
            caller.require_scope(&["admin:orgs"])?;
        }
        if self.user {
            caller.require_scope(&["admin:users"])?;
        }
        Ok(())
    }
}

/// An organization's id and name.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct OrganizationName {
    /// The organization's id, `org_…`.
    #[schema(example = "org_123")]
    pub(crate) id: String,
    #[schema(example = "Acme Corporation")]
    pub(crate) name: String,
}

/// A user's id, name and email address.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct UserName {
    /// The user's id, `user_…`.
    #[schema(example = "user_123")]
    pub(crate) id: String,
    #[schema(example = "Ada Lovelace")]
    pub(crate) name: String,
    #[schema(example = "ada@example.com")]
    pub(crate) email: String,
}

/// An API key, with the names that `expand` adds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ExpandedApiKey {
    /// The API key.
    #[serde(flatten)]
    pub(crate) api_key: ApiKey,
    /// With `expand=organization`: the organization that owns the key; `null` if there is none, or none that the calling
    /// key can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OrganizationName>, required = false)]
    pub(crate) organization: Option<Option<OrganizationName>>,
    /// With `expand=user`: the member who owns the key; `null` if there is none, or none that the calling key can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UserName>, required = false)]
    pub(crate) user: Option<Option<UserName>>,
}

/// A membership, with the name that `expand` adds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ExpandedMembership {
    /// The membership.
    #[serde(flatten)]
    pub(crate) membership: Membership,
    /// With `expand=organization`: the organization; `null` if the calling key can't see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OrganizationName>, required = false)]
    pub(crate) organization: Option<Option<OrganizationName>>,
}
