//! API keys: what they may do, for how long, and from where.

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

/// The SHA-256 of a whole secret.
pub type SecretHash = [u8; 32];

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ApiKeyStatus)]
pub enum Status {
    /// Good.
    Active,
    /// Switched off for now.
    Disabled,
    /// Its time is over. Seen from `expires_at`, never stored.
    Expired,
    /// Ended for good.
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

    /// The ones that a caller may set.
    pub(crate) const SETTABLE: &'static [(&'static str, Status)] =
        &[("active", Status::Active), ("disabled", Status::Disabled)];

    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Disabled => "disabled",
            Status::Expired => "expired",
            Status::Revoked => "revoked",
        }
    }
}

/// A key as stored and, after [`ApiKey::shown`], as answered. It holds neither the secret nor a hash.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(description = "A key, without its secret.")]
pub struct ApiKey {
    /// `key_…`
    #[schema(example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub id: String,
    /// Whose key it is; `null` for a platform key, which reaches every organization.
    #[schema(required, example = "org_123")]
    pub organization_id: Option<String>,
    /// The member with whose membership it lives and dies.
    #[schema(required, example = "user_123")]
    pub user_id: Option<String>,
    /// For people, 1 to 200 characters.
    #[schema(example = "Production API Key")]
    pub name: String,
    /// The first characters of the secret, to recognise it by.
    #[schema(example = "toll_a1B2")]
    pub start: String,
    /// What it may do.
    #[schema(example = json!(["workflows:read", "transactions:write"]))]
    pub scopes: Vec<String>,
    /// Whether it is good now.
    pub status: Status,
    /// When it ends; `null` = never.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Where it may be used from, as CIDRs; `null` = anywhere.
    #[schema(required, value_type = Option<Vec<String>>, example = json!(["203.0.113.0/24"]))]
    pub allowed_ips: Option<Vec<IpNet>>,
    /// How fast it may be used; `null` = as its organization's plan says.
    #[schema(required)]
    pub rate_limit: Option<RateLimit>,
    /// How much it may be used in a calendar period; `null` = without bound.
    #[schema(required)]
    pub quota: Option<Quota>,
    /// The caller's own pairs.
    #[schema(value_type = schemas::Metadata)]
    pub metadata: Metadata,
    /// The key that made it; `null` when the server or the command line did.
    #[schema(required, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub created_by: Option<String>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When something stored of it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When it was last used, at most a minute behind.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// When its secret was last replaced.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub rotated_at: Option<Timestamp>,
    /// Until when the secret before works too.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub previous_secret_expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked.
    #[schema(required, example = "Leaked in a log")]
    pub revoked_reason: Option<String>,
    /// Counts stored changes; makes the ETag.
    #[serde(skip)]
    pub revision: i64,
}

impl ApiKey {
    /// The key as a client sees it at `now`: `expired` when its time is over, and no word of a
    /// previous secret whose grace has ended.
    pub(crate) fn shown(mut self, now: Timestamp) -> Self {
        if self.status == Status::Active && self.is_past(now) {
            self.status = Status::Expired;
        }
        self.previous_secret_expires_at = self.previous_secret_expires_at.filter(|end| *end > now);
        self
    }

    /// Is its time over?
    pub(crate) fn is_past(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Is it one of the keys of which the last must stay: of the platform, active, able to manage
    /// keys, bound to nobody and to no date?
    pub(crate) fn is_recovery_key(&self) -> bool {
        self.organization_id.is_none()
            && self.user_id.is_none()
            && self.status == Status::Active
            && self.expires_at.is_none()
            && scope::any_covers(&self.scopes, "admin:keys")
    }
}

/// All that decides whether a secret is good, read in one go: what the caches keep.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The key's place in the file: its short name in memory, never another's.
    pub seq: i64,
    /// The key.
    pub key: ApiKey,
    /// Until when this secret works: `None` for the current one, the end of its grace for the previous.
    pub secret_ends_at: Option<Timestamp>,
    /// Its organization, unless it is a platform key.
    pub organization: Option<Tenant>,
    /// The state of its owner, if it has one. Deleted, or no longer a member, counts as suspended.
    pub owner: Option<user::Status>,
    /// What is remembered with it.
    pub memo: Memo,
}

/// What whoever uses a record notes on it, for the next one to find. A record that is read anew has none.
#[derive(Debug, Default)]
pub struct Memo {
    /// What answers say of it whatever they are.
    pub(crate) written: OnceLock<Box<str>>,
    /// When its use was last noted elsewhere, in milliseconds since the epoch.
    pub(crate) noted: AtomicI64,
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What a key needs to know of its organization.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The organization's place in the file.
    pub(crate) seq: i64,
    /// For people.
    pub(crate) name: String,
    /// What it has booked.
    pub(crate) plan: String,
    /// A deleted one counts as suspended.
    pub(crate) status: organization::Status,
}

/// What creates a key.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    /// Whose key; left out, a platform key makes a platform key, an organization's key one of its own.
    #[schema(min_length = 1, max_length = 69, example = "org_123")]
    pub(crate) organization_id: Option<String>,
    /// A member of that organization, with whose membership the key lives and dies.
    #[schema(min_length = 1, max_length = 69, example = "user_123")]
    pub(crate) user_id: Option<String>,
    /// For people, without control characters.
    #[schema(min_length = 1, max_length = 200, example = "Production API Key")]
    pub(crate) name: String,
    /// What it may do: scopes of the catalogue, `resource:*` or `*`.
    #[schema(max_items = 100, example = json!(["workflows:read", "transactions:write"]))]
    pub(crate) scopes: Vec<String>,
    /// When it ends, which must lie ahead. Left out: after the configured default; `null`: never. No later
    /// than the end of the key that makes it.
    #[schema(value_type = Option<String>, format = DateTime, example = "2030-01-01T00:00:00.000Z")]
    pub(crate) expires_at: Patch<Timestamp>,
    /// Where it may be used from: CIDRs without host bits, or single addresses. `null` or left out:
    /// anywhere. No wider than the list of the key that makes it.
    #[schema(
        value_type = Option<Vec<String>>, min_items = 1, max_items = 100,
        example = json!(["203.0.113.0/24", "2001:db8::1"]),
    )]
    pub(crate) allowed_ips: Option<Vec<IpNet>>,
    /// How fast it may be used; left out or `null`: as its organization's plan says. Platform keys only.
    pub(crate) rate_limit: Option<RateLimit>,
    /// How much it may be used in a calendar period; left out or `null`: without bound. Platform keys only.
    pub(crate) quota: Option<Quota>,
    /// The caller's own pairs.
    #[schema(value_type = Option<schemas::Metadata>, nullable = false)]
    pub(crate) metadata: Option<Metadata>,
    /// The caller's own id, so that an import can keep it; left out, one is made. Platform keys only.
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
    /// Reads a body. An expiry that doesn't lie ahead of `now` is a fault.
    pub(crate) fn read(body: &Json, catalogue: &Catalogue, now: Timestamp) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.read_only(READ_ONLY);
        fields.read_only(&["key", "status"]);
        let value = Self {
            organization_id: fields.nullable("organization_id", id_text).into_option(),
            user_id: fields.nullable("user_id", id_text).into_option(),
            name: fields.required("name", rules::name),
            scopes: fields.required("scopes", |json, faults| scope::list(catalogue, json, faults)),
            expires_at: fields.nullable("expires_at", |json, faults| time_ahead(json, faults, now)),
            allowed_ips: fields.nullable("allowed_ips", cidr::allowlist).into_option(),
            rate_limit: fields.nullable("rate_limit", RateLimit::read).into_option(),
            quota: fields.nullable("quota", Quota::read).into_option(),
            metadata: fields.optional("metadata", rules::metadata),
            id: fields.optional("id", rules::own_id(Kind::ApiKey)),
        };
        fields.finish(value)
    }
}

/// A merge patch of a key.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyPatch {
    /// For people, without control characters.
    #[schema(nullable = false, min_length = 1, max_length = 200, example = "Staging API Key")]
    pub(crate) name: Option<String>,
    /// What it may do; replaces all of them.
    #[schema(nullable = false, max_items = 100, example = json!(["workflows:read"]))]
    pub(crate) scopes: Option<Vec<String>>,
    /// Switches it off and on again.
    #[schema(value_type = Option<schemas::SettableStatus>, nullable = false)]
    pub(crate) status: Option<Status>,
    /// When it ends, which must lie ahead; `null`: never.
    #[schema(value_type = Option<String>, format = DateTime, example = "2030-01-01T00:00:00.000Z")]
    pub(crate) expires_at: Patch<Timestamp>,
    /// Where it may be used from; replaces all of them, `null`: anywhere.
    #[schema(
        value_type = Option<Vec<String>>, min_items = 1, max_items = 100,
        example = json!(["203.0.113.0/24", "2001:db8::1"]),
    )]
    pub(crate) allowed_ips: Patch<Vec<IpNet>>,
    /// How fast it may be used; replaces all of it, `null`: as its organization's plan says. What was
    /// spent stays spent. Platform keys only.
    #[schema(value_type = Option<RateLimit>)]
    pub(crate) rate_limit: Patch<RateLimit>,
    /// How much it may be used in a calendar period; replaces all of it, `null`: without bound. What was
    /// used stays used, unless the period is another. Platform keys only.
    #[schema(value_type = Option<Quota>)]
    pub(crate) quota: Patch<Quota>,
    /// Merged pair by pair; `null` takes a pair, or all of them, away.
    #[schema(value_type = Option<schemas::MetadataPatch>)]
    pub(crate) metadata: MetadataPatch,
}

impl ApiKeyPatch {
    /// Reads a body. An expiry that doesn't lie ahead of `now` is a fault.
    pub(crate) fn read(body: &Json, catalogue: &Catalogue, now: Timestamp) -> Result<Self> {
        let mut fields = Fields::of(body);
        fields.read_only(READ_ONLY);
        fields.read_only(&["id", "key", "organization_id", "user_id"]);
        let value = Self {
            name: fields.optional("name", rules::name),
            scopes: fields.optional("scopes", |json, faults| scope::list(catalogue, json, faults)),
            status: fields.optional("status", rules::one_of(Status::SETTABLE)),
            expires_at: fields.nullable("expires_at", |json, faults| time_ahead(json, faults, now)),
            allowed_ips: fields.nullable("allowed_ips", cidr::allowlist),
            rate_limit: fields.nullable("rate_limit", RateLimit::read),
            quota: fields.nullable("quota", Quota::read),
            metadata: fields.nullable("metadata", rules::metadata_patch),
        };
        fields.finish(value)
    }

    /// Does it set what platform keys alone may set?
    pub(crate) fn needs_platform(&self) -> bool {
        self.rate_limit.is_given() || self.quota.is_given()
    }

    /// The key after the patch. `INVALID_REQUEST` when the merged metadata is too large.
    pub(crate) fn apply(&self, before: &ApiKey) -> Result<ApiKey> {
        let metadata = self.metadata.merge(&before.metadata);
        let mut faults = Faults::default();
        faults.within("metadata", |faults| rules::metadata_size(&metadata, faults));
        let expires_at = self.expires_at.apply(&before.expires_at);
        // The grace of the previous secret never outlasts the key.
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

/// Why a key is revoked.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// For people, and kept with the key.
    #[schema(min_length = 1, max_length = 200, example = "Leaked in a log")]
    pub(crate) reason: Option<String>,
}

impl Revocation {
    /// Reads a body.
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let value = Self { reason: fields.nullable("reason", rules::name).into_option() };
        fields.finish(value)
    }
}

/// How a secret is replaced.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the old secret still works, in seconds; never past the key's own end.
    #[schema(required = false, minimum = 0, maximum = 604_800, default = 86_400)]
    pub(crate) grace_period_seconds: u32,
}

/// A day.
const DEFAULT_GRACE: u32 = 86_400;
/// A week.
const LONGEST_GRACE: u32 = 604_800;

impl Default for Rotation {
    fn default() -> Self {
        Self { grace_period_seconds: DEFAULT_GRACE }
    }
}

impl Rotation {
    /// Reads a body.
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let grace = fields.optional("grace_period_seconds", rules::whole(0, LONGEST_GRACE.into()));
        let grace = grace.and_then(|seconds| u32::try_from(seconds).ok());
        fields.finish(Self { grace_period_seconds: grace.unwrap_or(DEFAULT_GRACE) })
    }
}

/// An id in a body: its form decides nothing, an unknown one is not found.
fn id_text(json: &Json, faults: &mut Faults) -> Option<String> {
    rules::text(json, faults, 69)
}

fn time_ahead(json: &Json, faults: &mut Faults, now: Timestamp) -> Option<Timestamp> {
    let time = rules::time(json, faults)?;
    if time <= now {
        faults.add("NOT_AHEAD", "Must lie in the future.");
    }
    Some(time)
}

#[cfg(test)]
#[path = "api_key_tests.rs"]
mod tests;
