//! Organizations: the owners of keys, members and usage.

use serde::Serialize;
use utoipa::IntoParams;

use super::fields::{Faults, Fields, Json};
use super::id::Kind;
use super::limits::{self, Limit};
use super::page::Query;
use super::patch::{Metadata, MetadataPatch, Patch};
use super::rules;
use super::schemas;
use super::search::{SearchQuery, SearchWords, Searchable};
use super::settings::{STANDARD_PLAN, Settings};
use super::time::Timestamp;
use crate::error::Result;

/// The status of an organization or a user. Keys of a suspended organization or user are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AccountStatus)]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub enum Status {
    #[default]
    Active,
    Suspended,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// An organization.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Organization {
    /// Unique identifier, `org_…`.
    #[schema(example = "org_123")]
    pub(crate) id: String,
    /// Display name of the organization, 1 to 200 characters.
    #[schema(example = "Acme Corporation")]
    pub(crate) name: String,
    /// Contact email address of the organization.
    #[schema(example = "admin@acme.com")]
    pub(crate) email: String,
    /// Name of the organization's plan, which is one of the configured plans. Only platform keys can change
    /// it.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}$", example = "enterprise")]
    pub(crate) plan: String,
    /// The organization's own limits, which all of its keys share; `null` means that the limits for organizations
    /// of its plan apply, an empty list that none do. Only platform keys can change them.
    #[schema(required, max_items = 8, example = json!(null))]
    pub(crate) limits: Option<Vec<Limit>>,
    /// Status of the organization. Keys of a suspended organization are refused. Only platform keys can
    /// change it.
    pub(crate) status: Status,
    /// Custom key-value pairs.
    #[schema(value_type = schemas::Metadata)]
    pub(crate) metadata: Metadata,
    /// When the organization was created.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// When the organization was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) updated_at: Timestamp,
    /// Number of stored changes to this organization, from which its ETag is computed.
    #[serde(skip)]
    pub(crate) revision: i64,
}

/// Parameters for creating an organization.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = OrganizationCreate)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOrganization {
    /// Display name of the organization, without control characters.
    #[schema(min_length = 1, max_length = 200, example = "Acme Corporation")]
    pub(crate) name: String,
    /// Contact email address of the organization.
    #[schema(format = Email, max_length = 254, pattern = "^[^\\s@]+@[^\\s@]+$", example = "admin@acme.com")]
    pub(crate) email: String,
    /// Name of the organization's plan, which is one of the configured plans; `standard` if omitted.
    #[schema(nullable = false, example = "enterprise")]
    pub(crate) plan: Option<String>,
    /// The organization's own limits, which all of its keys share, at most one for each meter and window or
    /// period. If `null` or omitted, the limits for organizations of its plan apply; an empty list means none.
    #[schema(max_items = 8, example = json!(null))]
    pub(crate) limits: Option<Vec<Limit>>,
    /// Custom key-value pairs.
    #[schema(value_type = Option<schemas::Metadata>, nullable = false)]
    pub(crate) metadata: Option<Metadata>,
    /// Custom id of the organization, to keep ids when importing; generated if omitted.
    #[schema(nullable = false, pattern = "^org_[0-9A-Za-z-]{1,64}$", example = "org_acme")]
    pub(crate) id: Option<String>,
}

const READ_ONLY_FIELDS: &[&str] = &["created_at", "updated_at"];

impl NewOrganization {
    /// Parses a request body. A plan that the settings lack is a fault, if they are given.
    pub(crate) fn read(body: &Json, settings: Option<&Settings>) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(READ_ONLY_FIELDS);
        fields.refuse_read_only(&["status"]);
        let value = Self {
            name: fields.required("name", rules::parse_name),
            email: fields.required("email", rules::parse_email),
            plan: fields.optional("plan", |json, faults| parse_plan_name(json, faults, settings)),
            limits: fields.nullable("limits", limits::parse_limits).into_option(),
            metadata: fields.optional("metadata", rules::parse_metadata),
            id: fields.optional("id", rules::custom_id_parser(Kind::Organization)),
        };
        fields.finish(value)
    }

    /// Creates the organization. Its id is the custom id or, if none was given, `id`.
    pub(crate) fn into_organization(self, id: String, now: Timestamp) -> Organization {
        Organization {
            id: self.id.unwrap_or(id),
            name: self.name,
            email: self.email,
            plan: self.plan.unwrap_or_else(|| STANDARD_PLAN.to_owned()),
            limits: self.limits,
            status: Status::Active,
            metadata: self.metadata.unwrap_or_default(),
            created_at: now,
            updated_at: now,
            revision: 1,
        }
    }
}

/// A JSON merge patch of an organization.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrganizationPatch {
    /// Display name of the organization, without control characters.
    #[schema(nullable = false, min_length = 1, max_length = 200, example = "Acme Corporation")]
    pub(crate) name: Option<String>,
    /// Contact email address of the organization.
    #[schema(nullable = false, format = Email, max_length = 254, pattern = "^[^\\s@]+@[^\\s@]+$", example = "billing@acme.com")]
    pub(crate) email: Option<String>,
    /// Name of the organization's plan, which is one of the configured plans. Only platform keys can change
    /// it.
    #[schema(nullable = false, example = "enterprise")]
    pub(crate) plan: Option<String>,
    /// The organization's own limits, in place of its current list. `null` means that the limits for organizations
    /// of its plan apply. Units already spent stay spent where the meter and the window or period stay the same.
    /// Only platform keys can change them.
    #[schema(value_type = Option<Vec<Limit>>, max_items = 8, example = json!(null))]
    pub(crate) limits: Patch<Vec<Limit>>,
    /// Status of the organization. Keys of a suspended organization are refused immediately. Only platform
    /// keys can change it.
    #[schema(nullable = false)]
    pub(crate) status: Option<Status>,
    /// Changes to the metadata, merged pair by pair; `null` as a value removes the pair, `null` in place of
    /// the object removes all pairs.
    #[schema(value_type = Option<schemas::MetadataPatch>)]
    pub(crate) metadata: MetadataPatch,
}

impl OrganizationPatch {
    /// Parses a request body. A plan that the settings lack is a fault, if they are given.
    pub(crate) fn read(body: &Json, settings: Option<&Settings>) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(READ_ONLY_FIELDS);
        fields.refuse_read_only(&["id"]);
        let value = Self {
            name: fields.optional("name", rules::parse_name),
            email: fields.optional("email", rules::parse_email),
            plan: fields.optional("plan", |json, faults| parse_plan_name(json, faults, settings)),
            limits: fields.nullable("limits", limits::parse_limits),
            status: fields.optional("status", rules::parse_one_of),
            metadata: fields.nullable("metadata", rules::parse_metadata_patch),
        };
        fields.finish(value)
    }

    /// True if the patch sets a field that only platform keys may set.
    pub(crate) fn needs_platform(&self) -> bool {
        self.plan.is_some() || self.status.is_some() || self.limits.is_given()
    }

    /// Returns the organization after the patch, or `INVALID_REQUEST` if the merged metadata has too many
    /// pairs.
    pub(crate) fn apply(&self, before: &Organization) -> Result<Organization> {
        let metadata = self.metadata.merge(&before.metadata);
        let mut faults = Faults::default();
        faults.at_child("metadata", |faults| rules::check_metadata_size(&metadata, faults));
        faults.finish(Organization {
            name: self.name.clone().unwrap_or_else(|| before.name.clone()),
            email: self.email.clone().unwrap_or_else(|| before.email.clone()),
            plan: self.plan.clone().unwrap_or_else(|| before.plan.clone()),
            limits: self.limits.apply(&before.limits),
            status: self.status.unwrap_or(before.status),
            metadata,
            ..before.clone()
        })
    }
}

/// Parses the name of a plan. A plan that isn't in the settings is a fault; without settings, none is.
fn parse_plan_name(json: &Json, faults: &mut Faults, settings: Option<&Settings>) -> Option<String> {
    let name = faults.expect_string(json)?;
    match settings.and_then(|settings| unknown_plan_message(settings, name)) {
        None => Some(name.to_owned()),
        Some(message) => {
            faults.add(UNKNOWN_PLAN, message);
            None
        }
    }
}

/// The code of a fault: a plan that isn't in the settings.
pub(crate) const UNKNOWN_PLAN: &str = "UNKNOWN_PLAN";

/// What is wrong with the name of a plan; `None` if the settings have the plan.
pub(crate) fn unknown_plan_message(settings: &Settings, plan: &str) -> Option<String> {
    let is_known = settings.plans.contains_key(plan);
    (!is_known).then(|| format!("Must be one of the plans: {}.", settings.plan_names()))
}

impl Searchable for Organization {
    const KIND: Kind = Kind::Organization;

    fn words(&self) -> SearchWords {
        SearchWords::default().with_text(&self.name).with_email(&self.email).with_id(&self.id)
    }
}

/// The filters of the list of organizations.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OrganizationFilter {
    /// Restricts the list to this organization. Set for an organization's key, which sees no other
    /// organization.
    #[param(ignore)]
    pub(crate) id: Option<String>,
    /// Only organizations with this status.
    pub(crate) status: Option<Status>,
    /// Only organizations on this plan.
    #[param(max_length = 200)]
    pub(crate) plan: Option<String>,
    /// Only organizations that these words describe: 1 to 3 words, each of which begins a word of the name, the email
    /// address or the id. Words are runs of at least 2 letters or digits, and case is ignored. If few of many
    /// organizations match, a page may have fewer results than `limit`, even none, and a cursor that continues the
    /// search.
    #[param(value_type = Option<String>, max_length = 200, pattern = "[^ -/:-@\\[-`{-~]{2}", example = "acme corp")]
    pub(crate) q: Option<SearchQuery>,
}

impl OrganizationFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            id: None,
            status: query.one_of("status"),
            plan: query.text("plan"),
            q: SearchQuery::read(query, Kind::Organization),
        }
    }
}
