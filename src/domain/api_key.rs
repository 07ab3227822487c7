//! API keys: scopes, expiry and allowlist.

use std::sync::OnceLock;
use std::sync::atomic::AtomicI64;

use ipnet::IpNet;
use serde::Serialize;

use super::cidr;
use super::fields::{Faults, Fields, Json};
use super::id::Kind;
use super::limits::{Quota, RateLimit};
use super::organization;
use super::patch::{Metadata, MetadataPatch, Patch};
use super::rules;
use super::schemas;
use super::scope::{self, Catalogue};
use super::time::Timestamp;
use super::user;
use crate::error::Result;

/// The SHA-256 of a complete secret.
pub type SecretHash = [u8; 32];

/// The status of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ApiKeyStatus)]
pub enum Status {
    /// The key can be used.
    Active,
    /// The key is disabled and can be enabled again.
    Disabled,
    /// The key has expired. Derived from `expires_at`, never stored.
    Expired,
    /// The key has ended permanently.
    Revoked,
}

impl Status {
    /// The names on the wire and in the database.
    pub(crate) const NAMES: &'static [(&'static str, Status)] = &[
        ("active", Status::Active),
        ("disabled", Status::Disabled),
        ("expired", Status::Expired),
        ("revoked", Status::Revoked),
    ];

    /// The statuses that a caller may set.
    pub(crate) const SETTABLE: &'static [(&'static str, Status)] =
        &[("active", Status::Active), ("disabled", Status::Disabled)];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Disabled => "disabled",
            Status::Expired => "expired",
            Status::Revoked => "revoked",
        }
    }
}

/// A key as stored and, after [`ApiKey::effective_at`], as returned. It holds neither the secret nor a
/// hash.
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
    /// Display name, 1 to 200 characters.
    #[schema(example = "Production API Key")]
    pub name: String,
    /// The first characters of the secret, to identify the key.
    #[schema(example = "toll_a1B2")]
    pub start: String,
    /// Scopes granted to the key.
    #[schema(example = json!(["workflows:read", "transactions:write"]))]
    pub scopes: Vec<String>,
    /// Current status.
    pub status: Status,
    /// When the key expires; `null` = never.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Addresses from which the key may be used, as CIDRs; `null` = anywhere.
    #[schema(required, value_type = Option<Vec<String>>, example = json!(["203.0.113.0/24"]))]
    pub allowed_ips: Option<Vec<IpNet>>,
    /// Rate limit; `null` = the limit of the organization's plan.
    #[schema(required)]
    pub rate_limit: Option<RateLimit>,
    /// Quota per calendar period; `null` = no quota.
    #[schema(required)]
    pub quota: Option<Quota>,
    /// Custom key-value pairs.
    #[schema(value_type = schemas::Metadata)]
    pub metadata: Metadata,
    /// The key that created this one; `null` if the server or the command line did.
    #[schema(required, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub created_by: Option<String>,
    /// When the key was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the key was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When the key was last used, up to a minute behind.
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
    /// Number of stored changes; determines the ETag.
    #[serde(skip)]
    pub revision: i64,
}

impl ApiKey {
    /// The key as clients see it at `now`: `expired` once it has expired, and without a previous secret
    /// whose grace period has ended.
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

    /// True for a platform key that can manage keys from anywhere at any time: it is active and has no owner,
    /// expiry or allowlist. The last such key must stay one: it can't be revoked, disabled, narrowed below
    /// that, set to expire or bound to addresses.
    pub(crate) fn is_recovery_key(&self) -> bool {
        self.organization_id.is_none()
            && self.user_id.is_none()
            && self.status == Status::Active
            && self.expires_at.is_none()
            && self.allowed_ips.is_none()
            && scope::any_covers(&self.scopes, "admin:keys")
    }
}

/// Everything that decides whether a secret is valid, read in one query and cached as one record.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The key's `seq` in the database. Identifies the key in memory and is never reused.
    pub seq: i64,
    /// The key.
    pub key: ApiKey,
    /// When this secret stops working: `None` for the current secret, the end of the grace period for the
    /// previous one.
    pub secret_ends_at: Option<Timestamp>,
    /// The key's organization; `None` for a platform key.
    pub organization: Option<Tenant>,
    /// The status of the key's owner, if it has one. An owner who is deleted or no longer a member
    /// counts as suspended.
    pub owner: Option<user::Status>,
    /// Values derived from this record, cached with it.
    pub memo: Memo,
}

impl Credential {
    /// True if the secret was rotated and works only until its grace period ends.
    pub(crate) fn is_superseded(&self) -> bool {
        self.secret_ends_at.is_some()
    }
}

/// Values that users of a cached record store on it for later requests. A reloaded or cloned record
/// starts with none.
#[derive(Debug, Default)]
pub struct Memo {
    /// The part of the verification response's JSON that is the same for every outcome.
    pub(crate) answer_json: OnceLock<Box<str>>,
    /// When the key's use was last recorded, in milliseconds since the epoch.
    pub(crate) last_use_recorded: AtomicI64,
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The properties of an organization that verifications of its keys need.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub(crate) seq: i64,
    pub(crate) name: String,
    pub(crate) plan: String,
    /// A deleted organization counts as suspended.
    pub(crate) status: organization::Status,
}

/// Parameters for creating a key.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    /// The organization that owns the key. If omitted, a platform key creates a platform key, and an
    /// organization's key creates a key of its own organization.
    #[schema(min_length = 1, max_length = 69, example = "org_123")]
    pub(crate) organization_id: Option<String>,
    /// A member of that organization who owns the key. The key is revoked when the membership ends.
    #[schema(min_length = 1, max_length = 69, example = "user_123")]
    pub(crate) user_id: Option<String>,
    /// Display name, without control characters.
    #[schema(min_length = 1, max_length = 200, example = "Production API Key")]
    pub(crate) name: String,
    /// Scopes to grant: scopes of the catalogue, `resource:*` or `*`.
    #[schema(max_items = 100, example = json!(["workflows:read", "transactions:write"]))]
    pub(crate) scopes: Vec<String>,
    /// When the key expires; must be in the future. If omitted, the configured default applies; `null`
    /// = never. Must not be later than the expiry of the calling key.
    #[schema(value_type = Option<String>, format = DateTime, example = "2030-01-01T00:00:00.000Z")]
    pub(crate) expires_at: Patch<Timestamp>,
    /// Addresses from which the key may be used: CIDRs without host bits, or single addresses. If
    /// `null` or omitted, it may be used from anywhere. Must not be wider than the calling key's list.
    #[schema(
        value_type = Option<Vec<String>>, min_items = 1, max_items = 100,
        example = json!(["203.0.113.0/24", "2001:db8::1"]),
    )]
    pub(crate) allowed_ips: Option<Vec<IpNet>>,
    /// Rate limit; if `null` or omitted, the limit of the organization's plan applies. Platform keys
    /// only.
    pub(crate) rate_limit: Option<RateLimit>,
    /// Quota per calendar period; if `null` or omitted, there is no quota. Platform keys only.
    pub(crate) quota: Option<Quota>,
    /// Custom key-value pairs.
    #[schema(value_type = Option<schemas::Metadata>, nullable = false)]
    pub(crate) metadata: Option<Metadata>,
    /// Custom id, to keep ids when importing; generated if omitted. Platform keys only.
    #[schema(nullable = false, pattern = "^key_[0-9A-Za-z-]{1,64}$", example = "key_production")]
    pub(crate) id: Option<String>,
}

const READ_ONLY: &[&str] = &[
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
    /// Reads a body. An expiry that isn't after `now` is a fault.
    pub(crate) fn read(body: &Json, catalogue: &Catalogue, now: Timestamp) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.read_only(READ_ONLY);
        fields.read_only(&["key", "status"]);
        let value = Self {
            organization_id: fields.nullable("organization_id", referenced_id).into_option(),
            user_id: fields.nullable("user_id", referenced_id).into_option(),
            name: fields.required("name", rules::name),
            scopes: fields.required("scopes", |json, faults| scope::list(catalogue, json, faults)),
            expires_at: fields.nullable("expires_at", |json, faults| future_time(json, faults, now)),
            allowed_ips: fields.nullable("allowed_ips", cidr::allowlist).into_option(),
            rate_limit: fields.nullable("rate_limit", RateLimit::read).into_option(),
            quota: fields.nullable("quota", Quota::read).into_option(),
            metadata: fields.optional("metadata", rules::metadata),
            id: fields.optional("id", rules::custom_id(Kind::ApiKey)),
        };
        fields.finish(value)
    }
}

/// A JSON merge patch of a key.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyPatch {
    /// Display name, without control characters.
    #[schema(nullable = false, min_length = 1, max_length = 200, example = "Staging API Key")]
    pub(crate) name: Option<String>,
    /// Scopes to grant; replaces the whole list.
    #[schema(nullable = false, max_items = 100, example = json!(["workflows:read"]))]
    pub(crate) scopes: Option<Vec<String>>,
    /// Enables or disables the key.
    #[schema(value_type = Option<schemas::SettableStatus>, nullable = false)]
    pub(crate) status: Option<Status>,
    /// When the key expires; must be in the future. `null` = never.
    #[schema(value_type = Option<String>, format = DateTime, example = "2030-01-01T00:00:00.000Z")]
    pub(crate) expires_at: Patch<Timestamp>,
    /// Addresses from which the key may be used; replaces the whole list. `null` = anywhere.
    #[schema(
        value_type = Option<Vec<String>>, min_items = 1, max_items = 100,
        example = json!(["203.0.113.0/24", "2001:db8::1"]),
    )]
    pub(crate) allowed_ips: Patch<Vec<IpNet>>,
    /// Rate limit; replaces the whole limit. `null` = the limit of the organization's plan. Tokens
    /// already spent stay spent. Platform keys only.
    #[schema(value_type = Option<RateLimit>)]
    pub(crate) rate_limit: Patch<RateLimit>,
    /// Quota per calendar period; replaces the whole quota. `null` = no quota. Units already used stay
    /// used, unless the period changes. Platform keys only.
    #[schema(value_type = Option<Quota>)]
    pub(crate) quota: Patch<Quota>,
    /// Merged pair by pair; `null` removes a pair, or all of them.
    #[schema(value_type = Option<schemas::MetadataPatch>)]
    pub(crate) metadata: MetadataPatch,
}

impl ApiKeyPatch {
    /// Reads a body. An expiry that isn't after `now` is a fault.
    pub(crate) fn read(body: &Json, catalogue: &Catalogue, now: Timestamp) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.read_only(READ_ONLY);
        fields.read_only(&["id", "key", "organization_id", "user_id"]);
        let value = Self {
            name: fields.optional("name", rules::name),
            scopes: fields.optional("scopes", |json, faults| scope::list(catalogue, json, faults)),
            status: fields.optional("status", rules::one_of(Status::SETTABLE)),
            expires_at: fields.nullable("expires_at", |json, faults| future_time(json, faults, now)),
            allowed_ips: fields.nullable("allowed_ips", cidr::allowlist),
            rate_limit: fields.nullable("rate_limit", RateLimit::read),
            quota: fields.nullable("quota", Quota::read),
            metadata: fields.nullable("metadata", rules::metadata_patch),
        };
        fields.finish(value)
    }

    /// True if the patch sets a field that only platform keys may set.
    pub(crate) fn needs_platform(&self) -> bool {
        self.rate_limit.is_given() || self.quota.is_given()
    }

    /// The key after the patch. `INVALID_REQUEST` when the merged metadata is too large.
    pub(crate) fn apply(&self, before: &ApiKey) -> Result<ApiKey> {
        let metadata = self.metadata.merge(&before.metadata);
        let mut faults = Faults::default();
        faults.nested("metadata", |faults| rules::metadata_size(&metadata, faults));
        let expires_at = self.expires_at.apply(&before.expires_at);
        // The previous secret's grace period never outlasts the key.
        let grace_end = before.previous_secret_expires_at;
        let grace_end = grace_end.map(|grace| expires_at.map_or(grace, |end| end.min(grace)));
        faults.finish(ApiKey {
            name: self.name.clone().unwrap_or_else(|| before.name.clone()),
            scopes: self.scopes.clone().unwrap_or_else(|| before.scopes.clone()),
            status: self.status.unwrap_or(before.status),
            expires_at,
            allowed_ips: self.allowed_ips.apply(&before.allowed_ips),
            rate_limit: self.rate_limit.apply(&before.rate_limit),
            quota: self.quota.apply(&before.quota),
            metadata,
            previous_secret_expires_at: grace_end,
            ..before.clone()
        })
    }
}

/// Parameters for revoking a key.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// The reason, stored with the key.
    #[schema(min_length = 1, max_length = 200, example = "Leaked in a log")]
    pub(crate) reason: Option<String>,
}

impl Revocation {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let value = Self { reason: fields.nullable("reason", rules::name).into_option() };
        fields.finish(value)
    }
}

/// Parameters for rotating a key's secret.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the old secret keeps working, in seconds. The grace period never outlasts the key.
    #[schema(required = false, minimum = 0, maximum = 604_800, default = 86_400)]
    pub(crate) grace_period_seconds: u32,
}

/// One day.
const DEFAULT_GRACE_SECONDS: u32 = 86_400;
/// One week.
const MAX_GRACE_SECONDS: u32 = 604_800;

impl Default for Rotation {
    fn default() -> Self {
        Self { grace_period_seconds: DEFAULT_GRACE_SECONDS }
    }
}

impl Rotation {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let grace = fields.optional("grace_period_seconds", rules::integer(0, MAX_GRACE_SECONDS.into()));
        let grace = grace.and_then(|seconds| u32::try_from(seconds).ok());
        fields.finish(Self { grace_period_seconds: grace.unwrap_or(DEFAULT_GRACE_SECONDS) })
    }
}

/// The id of another resource. Only its length and characters are checked here; an unknown id is
/// reported as not found.
fn referenced_id(json: &Json, faults: &mut Faults) -> Option<String> {
    rules::text(json, faults, 69)
}

fn future_time(json: &Json, faults: &mut Faults, now: Timestamp) -> Option<Timestamp> {
    let time = rules::time(json, faults)?;
    if time <= now {
        faults.add("NOT_AHEAD", "Must be in the future.");
    }
    Some(time)
}

#[cfg(test)]
#[path = "api_key_tests.rs"]
mod tests;
