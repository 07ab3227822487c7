//! Users: the people behind memberships and keys.

use serde::Serialize;
use utoipa::IntoParams;

use super::fields::{Faults, Fields, Json};
use super::id::Kind;
pub(crate) use super::organization::Status;
use super::page::Query;
use super::patch::{Metadata, MetadataPatch, Patch};
use super::rules;
use super::schemas;
use super::search::{SearchQuery, SearchWords, Searchable};
use super::time::Timestamp;
use crate::error::Result;

/// A user: a person who can be a member of organizations and own keys.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct User {
    /// Unique identifier, `user_…`.
    #[schema(example = "user_123")]
    pub(crate) id: String,
    /// Email address of the user. It is unique, ignoring case.
    #[schema(example = "ada@example.com")]
    pub(crate) email: String,
    /// Display name of the user, 1 to 200 characters.
    #[schema(example = "Ada Lovelace")]
    pub(crate) name: String,
    /// The user's id in another system, such as an identity provider.
    #[schema(required)]
    pub(crate) external_id: Option<String>,
    /// Status of the user. Keys of a suspended user are refused.
    pub(crate) status: Status,
    /// Custom key-value pairs.
    #[schema(value_type = schemas::Metadata)]
    pub(crate) metadata: Metadata,
    /// When the user was created.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// When the user was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) updated_at: Timestamp,
    /// Number of stored changes to this user, from which its ETag is computed.
    #[serde(skip)]
    pub(crate) revision: i64,
}

/// Parameters for creating a user.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = UserCreate)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    /// Email address of the user. It is unique, ignoring case.
    #[schema(format = Email, max_length = 254, pattern = "^[^\\s@]+@[^\\s@]+$", example = "ada@example.com")]
    pub(crate) email: String,
    /// Display name of the user, without control characters.
    #[schema(min_length = 1, max_length = 200, example = "Ada Lovelace")]
    pub(crate) name: String,
    /// The user's id in another system, such as an identity provider.
    #[schema(min_length = 1, max_length = 200, example = "auth0|5f7c8ec7c33c6c004bbafe82")]
    pub(crate) external_id: Option<String>,
    /// Custom key-value pairs.
    #[schema(value_type = Option<schemas::Metadata>, nullable = false)]
    pub(crate) metadata: Option<Metadata>,
    /// Custom id of the user, to keep ids when importing; generated if omitted. Only platform keys can set
    /// it.
    #[schema(nullable = false, pattern = "^user_[0-9A-Za-z-]{1,64}$", example = "user_ada")]
    pub(crate) id: Option<String>,
}

const READ_ONLY_FIELDS: &[&str] = &["created_at", "updated_at"];

impl NewUser {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(READ_ONLY_FIELDS);
        fields.refuse_read_only(&["status"]);
        let value = Self {
            email: fields.required("email", rules::parse_email),
            name: fields.required("name", rules::parse_name),
            external_id: fields.nullable("external_id", rules::parse_name).into_option(),
            metadata: fields.optional("metadata", rules::parse_metadata),
            id: fields.optional("id", rules::custom_id_parser(Kind::User)),
        };
        fields.finish(value)
    }

    /// Creates the user. Its id is the custom id or, if none was given, `id`.
    pub(crate) fn into_user(self, id: String, now: Timestamp) -> User {
        User {
            id: self.id.unwrap_or(id),
            email: self.email,
            name: self.name,
            external_id: self.external_id,
            status: Status::Active,
            metadata: self.metadata.unwrap_or_default(),
            created_at: now,
            updated_at: now,
            revision: 1,
        }
    }
}

/// A JSON merge patch of a user. Only platform keys can change users.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserPatch {
    /// Email address of the user. It is unique, ignoring case.
    #[schema(nullable = false, format = Email, max_length = 254, pattern = "^[^\\s@]+@[^\\s@]+$", example = "ada@example.org")]
    pub(crate) email: Option<String>,
    /// Display name of the user, without control characters.
    #[schema(nullable = false, min_length = 1, max_length = 200, example = "Ada King")]
    pub(crate) name: Option<String>,
    /// The user's id in another system; `null` removes it.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, example = "auth0|5f7c8ec7")]
    pub(crate) external_id: Patch<String>,
    /// Status of the user. Keys of a suspended user are refused immediately.
    #[schema(nullable = false)]
    pub(crate) status: Option<Status>,
    /// Changes to the metadata, merged pair by pair; `null` as a value removes the pair, `null` in place of
    /// the object removes all pairs.
    #[schema(value_type = Option<schemas::MetadataPatch>)]
    pub(crate) metadata: MetadataPatch,
}

impl UserPatch {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(READ_ONLY_FIELDS);
        fields.refuse_read_only(&["id"]);
        let value = Self {
            email: fields.optional("email", rules::parse_email),
            name: fields.optional("name", rules::parse_name),
            external_id: fields.nullable("external_id", rules::parse_name),
            status: fields.optional("status", rules::parse_one_of),
            metadata: fields.nullable("metadata", rules::parse_metadata_patch),
        };
        fields.finish(value)
    }

    /// Returns the user after the patch, or `INVALID_REQUEST` if the merged metadata has too many pairs.
    pub(crate) fn apply(&self, before: &User) -> Result<User> {
        let metadata = self.metadata.merge(&before.metadata);
        let mut faults = Faults::default();
        faults.at_child("metadata", |faults| rules::check_metadata_size(&metadata, faults));
        faults.finish(User {
            email: self.email.clone().unwrap_or_else(|| before.email.clone()),
            name: self.name.clone().unwrap_or_else(|| before.name.clone()),
            external_id: self.external_id.apply(&before.external_id),
            status: self.status.unwrap_or(before.status),
            metadata,
            ..before.clone()
        })
    }
}

impl Searchable for User {
    const KIND: Kind = Kind::User;

    fn words(&self) -> SearchWords {
        let external_id = self.external_id.as_deref().unwrap_or_default();
        SearchWords::default()
            .with_text(&self.name)
            .with_email(&self.email)
            .with_text(external_id)
            .with_id(&self.id)
    }
}

/// The filters of the list of users.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserFilter {
    /// Restricts the list to members of this organization. Set for an organization's key, which sees no other
    /// users.
    #[param(ignore)]
    pub(crate) organization_id: Option<String>,
    /// Only users with this status.
    pub(crate) status: Option<Status>,
    /// Only the user with this email address, ignoring case.
    #[param(max_length = 200)]
    pub(crate) email: Option<String>,
    /// Only the user with this id in an external system.
    #[param(max_length = 200)]
    pub(crate) external_id: Option<String>,
    /// Only users that these words describe: 1 to 3 words, each of which begins a word of the name, the email address,
    /// the external id or the id. Words are runs of at least 2 letters or digits, and case is ignored. If few of many
    /// users match, a page may have fewer results than `limit`, even none, and a cursor that continues the search.
    #[param(value_type = Option<String>, max_length = 200, pattern = "[^ -/:-@\\[-`{-~]{2}", example = "ada lovelace")]
    pub(crate) q: Option<SearchQuery>,
}

impl UserFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            organization_id: None,
            status: query.one_of("status"),
            email: query.text("email"),
            external_id: query.text("external_id"),
            q: SearchQuery::read(query, Kind::User),
        }
    }
}
