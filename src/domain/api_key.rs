//! API keys: scopes, expiry and allowlist.

mod filter;
mod lifecycle;

use std::sync::OnceLock;
use std::sync::atomic::AtomicI64;

use ipnet::IpNet;
use serde::Serialize;

pub(crate) use filter::{ApiKeyFilter, TimeFilter, buckets_of_expiry, buckets_of_last_use};
pub(crate) use lifecycle::{Revocation, Rotation};

use super::cidr;
use super::fields::{Faults, Fields, Json};
use super::id::Kind;
use super::limits::{self, Limit};
use super::organization;
use super::patch::{Metadata, MetadataPatch, Patch};
use super::rules;
use super::schemas;
use super::scope::{self, Catalogue};
use super::secret_prefix;
use super::time::Timestamp;
use super::user;
use crate::error::Result;

/// The SHA-256 hash of an API key's complete secret.
pub type SecretHash = [u8; 32];

/// The status of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ApiKeyStatus)]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Status {
    /// The key can be used.
    Active,
    /// The key is disabled and can be enabled again.
    Disabled,
    /// The key has expired. This status is derived from `expires_at` and never stored.
    Expired,
    /// The key was revoked and can't be enabled again.
    Revoked,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// The statuses of a key that a caller may set.
#[derive(Clone, Copy, Debug, utoipa::ToSchema)]
#[schema(as = SettableApiKeyStatus, rename_all = "lowercase")]
#[derive(strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum SettableStatus {
    Active,
    Disabled,
}

impl From<SettableStatus> for Status {
    fn from(status: SettableStatus) -> Self {
        match status {
            SettableStatus::Active => Status::Active,
            SettableStatus::Disabled => Status::Disabled,
        }
    }
}

/// An API key as stored. [`ApiKey::effective_at`] turns it into the key that the API returns. It contains
/// neither the secret nor its hash.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(description = "A key, without its secret.")]
pub struct ApiKey {
    /// Unique identifier, `key_…`.
    #[schema(example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub id: String,
    /// The organization that owns the key; `null` for a platform key, which can access every
    /// organization.
    #[schema(required, example = "org_123")]
    pub organization_id: Option<String>,
    /// The member who owns the key. The key is revoked when the membership ends.
    #[schema(required, example = "user_123")]
    pub user_id: Option<String>,
    /// Display name of the key, 1 to 200 characters.
    #[schema(example = "Production API Key")]
    pub name: String,
    /// The first characters of the secret, which help people identify the key.
    #[schema(example = "toll_a1B2")]
    pub start: String,
    /// Scopes granted to the key.
    #[schema(example = json!(["workflows:read", "transactions:write"]))]
    pub scopes: Vec<String>,
    /// The key's current status.
    pub status: Status,
    /// When the key expires; `null` means never.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// IP addresses from which the key may be used, as CIDRs; `null` means any address.
    #[schema(required, value_type = Option<Vec<String>>, example = json!(["203.0.113.0/24"]))]
    pub allowed_ips: Option<Vec<IpNet>>,
    /// The key's own limits; `null` means that the limits for keys of the organization's plan apply, an empty
    /// list that none do.
    #[schema(required, max_items = 8, example = json!(null))]
    pub limits: Option<Vec<Limit>>,
    /// True if the key can rotate itself with `POST /v1/keys/self/rotate`.
    pub self_rotation: bool,
    /// Custom key-value pairs.
    #[schema(value_type = schemas::Metadata)]
    pub metadata: Metadata,
    /// Id of the key that created this key; `null` if the server or the command line created it.
    #[schema(required, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub created_by: Option<String>,
    /// When the key was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the key was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When the key was last used. The time may be up to a minute out of date.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// When the secret was last rotated.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub rotated_at: Option<Timestamp>,
    /// When the previous secret stops working.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub previous_secret_expires_at: Option<Timestamp>,
    /// When the key was revoked.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// Why the key was revoked.
    #[schema(required, example = "Leaked in a log")]
    pub revoked_reason: Option<String>,
    /// Number of stored changes to this key, from which its ETag is computed.
    #[serde(skip)]
    pub revision: i64,
}

impl ApiKey {
    /// Returns the key as clients see it at `now`. The status of an expired key becomes `expired`, and the
    /// end of a grace period that is over is removed.
    pub(crate) fn effective_at(mut self, now: Timestamp) -> Self {
        if self.status == Status::Active && self.is_expired(now) {
            self.status = Status::Expired;
        }
        self.previous_secret_expires_at = self.previous_secret_expires_at.filter(|end| *end > now);
        self
    }

    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// True for an active platform key that can manage keys from any address at any time: it has no owner,
    /// expiry or allowlist. At least one such key must remain, so the last recovery key can't be revoked,
    /// disabled, set to expire, restricted to addresses or deprived of the scope `admin:keys`.
    pub(crate) fn is_recovery_key(&self) -> bool {
        self.organization_id.is_none()
            && self.user_id.is_none()
            && self.status == Status::Active
            && self.expires_at.is_none()
            && self.allowed_ips.is_none()
            && scope::any_covers(&self.scopes, "admin:keys")
    }
}

/// A key with all other data that decides whether a secret is valid. It is read in one query and cached as
/// one record.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The key's `seq` (row number) in the database. It identifies the key in memory and is never reused.
    pub seq: i64,
    /// The API key to which the secret belongs.
    pub key: ApiKey,
    /// When this secret stops working. For the previous secret of a rotated key, this is the end of the grace
    /// period; for the current secret, it is `None`.
    pub secret_ends_at: Option<Timestamp>,
    /// The key's organization; `None` for a platform key.
    pub organization: Option<Tenant>,
    /// The status of the user who owns the key; `None` if no user owns it. A user who is deleted or no longer
    /// a member counts as suspended.
    pub owner: Option<user::Status>,
    /// The external id of the user who owns the key.
    pub owner_external_id: Option<String>,
    /// Values that are computed from this credential and cached with it.
    pub memo: Memo,
}

impl Credential {
    /// True if the secret is the previous one of a rotated key, which works until its grace period ends.
    pub(crate) fn is_superseded(&self) -> bool {
        self.secret_ends_at.is_some()
    }
}

/// Values that are computed from a cached [`Credential`] and stored with it for later requests. A reloaded or
/// cloned credential starts without them.
#[derive(Debug, Default)]
pub struct Memo {
    /// The part of the verification response's JSON that depends only on this credential, not on the outcome.
    pub(crate) shared_response_json: OnceLock<Box<str>>,
    /// When the key's use was last recorded, in milliseconds since the epoch.
    pub(crate) last_use_recorded_millis: AtomicI64,
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The properties of an organization that are needed to verify its keys.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub(crate) seq: i64,
    pub(crate) name: String,
    pub(crate) plan: String,
    /// The status of the organization. A deleted organization counts as suspended.
    pub(crate) status: organization::Status,
    /// The organization's own limits; `None` means those of its plan.
    pub(crate) limits: Option<Vec<Limit>>,
}

/// Parameters for creating a key.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = ApiKeyCreate)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    /// The organization that owns the key. If omitted, a platform key creates a platform key, and an
    /// organization's key creates a key of its own organization.
    #[schema(min_length = 1, max_length = 69, example = "org_123")]
    pub(crate) organization_id: Option<String>,
    /// A member of the organization who owns the key. The key is revoked when the membership ends.
    #[schema(min_length = 1, max_length = 69, example = "user_123")]
    pub(crate) user_id: Option<String>,
    /// Display name of the key, without control characters.
    #[schema(min_length = 1, max_length = 200, example = "Production API Key")]
    pub(crate) name: String,
    /// Scopes to grant: scopes of the catalogue, `resource:*` or `*`. Repetitions are dropped.
    #[schema(max_items = 100, example = json!(["workflows:read", "transactions:write"]))]
    pub(crate) scopes: Vec<String>,
    /// When the key expires; must be in the future and not later than the expiry of the calling key. If
    /// omitted, the configured default applies; `null` means never.
    #[schema(value_type = Option<String>, format = DateTime, example = "2030-01-01T00:00:00.000Z")]
    pub(crate) expires_at: Patch<Timestamp>,
    /// IP addresses from which the key may be used: CIDRs without host bits, or single addresses. If `null`
    /// or omitted, the key may be used from any address. Must not be wider than the calling key's list.
    #[schema(
        value_type = Option<Vec<String>>, min_items = 1, max_items = 100,
        example = json!(["203.0.113.0/24", "2001:db8::1"]),
    )]
    pub(crate) allowed_ips: Option<Vec<IpNet>>,
    /// The key's own limits, at most one for each meter and window or period. If `null` or omitted, the limits for
    /// keys of the organization's plan apply; an empty list means none. Only platform keys can set them.
    #[schema(max_items = 8, example = json!(null))]
    pub(crate) limits: Option<Vec<Limit>>,
    /// True if the key can rotate itself with `POST /v1/keys/self/rotate`; `false` if omitted.
    #[schema(required = false, example = false)]
    pub(crate) self_rotation: bool,
    /// Custom key-value pairs.
    #[schema(value_type = Option<schemas::Metadata>, nullable = false)]
    pub(crate) metadata: Option<Metadata>,
    /// The prefix of the secret, one of those in the configuration (`keys.prefixes`); the first one if omitted.
    #[schema(nullable = false, example = "toll")]
    pub(crate) prefix: Option<String>,
    /// Custom id of the key, to keep ids when importing; generated if omitted. Only platform keys can set it.
    #[schema(nullable = false, pattern = "^key_[0-9A-Za-z-]{1,64}$", example = "key_production")]
    pub(crate) id: Option<String>,
}

const READ_ONLY_FIELDS: &[&str] = &[
    "start",
    "created_by",
    "created_at",
    "updated_at",
    "last_used_at",
    "rotated_at",
    "previous_secret_expires_at",
    "revoked_at",
    "revoked_reason",
];

impl NewApiKey {
    /// Parses a request body. An expiry in the past is a fault, and so are scopes that the catalogue lacks, and a prefix
    /// that isn't configured, if `known` has the catalogue and the configured prefixes.
    pub(crate) fn read(body: &Json, known: Option<(&Catalogue, &[String])>, now: Timestamp) -> Result<Self> {
        let (catalogue, prefixes) = known.unzip();
        let mut fields = Fields::of(body);
        fields.refuse_read_only(READ_ONLY_FIELDS);
        fields.refuse_read_only(&["key", "status"]);
        let value = Self {
            organization_id: fields.nullable("organization_id", parse_referenced_id).into_option(),
            user_id: fields.nullable("user_id", parse_referenced_id).into_option(),
            name: fields.required("name", rules::parse_name),
            scopes: fields.required("scopes", |json, faults| scope::parse_scopes(catalogue, json, faults)),
            expires_at: fields.nullable("expires_at", |json, faults| parse_future_time(json, faults, now)),
            allowed_ips: fields.nullable("allowed_ips", cidr::parse_allowlist).into_option(),
            limits: fields.nullable("limits", limits::parse_limits).into_option(),
            self_rotation: fields.optional("self_rotation", rules::parse_bool).unwrap_or_default(),
            metadata: fields.optional("metadata", rules::parse_metadata),
            prefix: fields.optional("prefix", secret_prefix::prefix_parser(prefixes)),
            id: fields.optional("id", rules::custom_id_parser(Kind::ApiKey)),
        };
        fields.finish(value)
    }
}

/// A JSON merge patch of a key.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyPatch {
    /// Display name of the key, without control characters.
    #[schema(nullable = false, min_length = 1, max_length = 200, example = "Staging API Key")]
    pub(crate) name: Option<String>,
    /// Scopes to grant to the key, in place of its current scopes.
    #[schema(nullable = false, max_items = 100, example = json!(["workflows:read"]))]
    pub(crate) scopes: Option<Vec<String>>,
    /// Enables or disables the key.
    #[schema(value_type = Option<SettableStatus>, nullable = false)]
    pub(crate) status: Option<Status>,
    /// When the key expires; must be in the future. `null` means never.
    #[schema(value_type = Option<String>, format = DateTime, example = "2030-01-01T00:00:00.000Z")]
    pub(crate) expires_at: Patch<Timestamp>,
    /// IP addresses from which the key may be used, in place of the current list. `null` means any address.
    #[schema(
        value_type = Option<Vec<String>>, min_items = 1, max_items = 100,
        example = json!(["203.0.113.0/24", "2001:db8::1"]),
    )]
    pub(crate) allowed_ips: Patch<Vec<IpNet>>,
    /// The key's own limits, in place of its current list. `null` means that the limits for keys of the
    /// organization's plan apply. Units already spent stay spent where the meter and the window or period stay the
    /// same. Only platform keys can set them.
    #[schema(value_type = Option<Vec<Limit>>, max_items = 8, example = json!(null))]
    pub(crate) limits: Patch<Vec<Limit>>,
    /// True if the key can rotate itself with `POST /v1/keys/self/rotate`.
    #[schema(nullable = false, example = false)]
    pub(crate) self_rotation: Option<bool>,
    /// Changes to the metadata, merged pair by pair; `null` as a value removes the pair, `null` in place of
    /// the object removes all pairs.
    #[schema(value_type = Option<schemas::MetadataPatch>)]
    pub(crate) metadata: MetadataPatch,
}

impl ApiKeyPatch {
    /// Parses a request body. An expiry in the past is a fault, and so are scopes that the catalogue lacks, if it is given.
    pub(crate) fn read(body: &Json, catalogue: Option<&Catalogue>, now: Timestamp) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.refuse_read_only(READ_ONLY_FIELDS);
        fields.refuse_read_only(&["id", "key", "organization_id", "user_id"]);
        let value = Self {
            name: fields.optional("name", rules::parse_name),
            scopes: fields.optional("scopes", |json, faults| scope::parse_scopes(catalogue, json, faults)),
            status: fields.optional("status", rules::parse_one_of::<SettableStatus>).map(Status::from),
            expires_at: fields.nullable("expires_at", |json, faults| parse_future_time(json, faults, now)),
            allowed_ips: fields.nullable("allowed_ips", cidr::parse_allowlist),
            limits: fields.nullable("limits", limits::parse_limits),
            self_rotation: fields.optional("self_rotation", rules::parse_bool),
            metadata: fields.nullable("metadata", rules::parse_metadata_patch),
        };
        fields.finish(value)
    }

    /// True if the patch sets a field that only platform keys may set.
    pub(crate) fn requires_platform_key(&self) -> bool {
        self.limits.is_given()
    }

    /// Returns the key after the patch, or `INVALID_REQUEST` if the merged metadata has too many pairs.
    pub(crate) fn apply(&self, before: &ApiKey) -> Result<ApiKey> {
        let metadata = self.metadata.merge(&before.metadata);
        let mut faults = Faults::default();
        faults.at_child("metadata", |faults| rules::check_metadata_size(&metadata, faults));
        let expires_at = self.expires_at.apply(&before.expires_at);
        // The previous secret's grace period never outlasts the key.
        let grace_end = before.previous_secret_expires_at;
        let grace_end = grace_end.map(|grace| expires_at.map_or(grace, |end| end.min(grace)));
        faults.finish(ApiKey {
            name: self.name.clone().unwrap_or_else(|| before.name.clone()),
            scopes: self.scopes.as_deref().map_or_else(|| before.scopes.clone(), scope::without_repetitions),
            status: self.status.unwrap_or(before.status),
            expires_at,
            allowed_ips: self.allowed_ips.apply(&before.allowed_ips),
            limits: self.limits.apply(&before.limits),
            self_rotation: self.self_rotation.unwrap_or(before.self_rotation),
            metadata,
            previous_secret_expires_at: grace_end,
            ..before.clone()
        })
    }
}

/// Parses the id of another resource. Only the id's length and characters are checked here; an id that
/// doesn't exist is reported as not found later.
fn parse_referenced_id(json: &Json, faults: &mut Faults) -> Option<String> {
    rules::parse_text(json, faults, 69)
}

/// Parses a timestamp that must be later than `now`.
fn parse_future_time(json: &Json, faults: &mut Faults, now: Timestamp) -> Option<Timestamp> {
    let time = rules::parse_time(json, faults)?;
    if time <= now {
        faults.add("NOT_AHEAD", "Must be in the future.");
    }
    Some(time)
}

#[cfg(test)]
#[path = "api_key_tests.rs"]
mod tests;
