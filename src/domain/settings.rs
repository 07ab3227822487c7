//! The platform's settings, which can be changed while the server runs. Their initial values come from
//! the process's configuration; afterwards the database holds them.

mod patch;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, Object, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema};

pub(crate) use patch::{PlanPatch, SettingsPatch};

use super::audit::Change;
use super::time::Timestamp;

/// The id of the settings in an [`Invalidation`](super::invalidation::Invalidation).
pub(crate) const SETTINGS_ID: &str = "settings";

/// The default plan of an organization. It always exists.
pub(crate) const STANDARD: &str = "standard";

/// The maximum of every limit: calls per minute, keys, members.
pub(crate) const MAX_LIMIT_VALUE: u32 = 1_000_000_000;

/// The longest duration: a hundred years.
pub(crate) const MAX_DURATION_DAYS: u32 = 36_500;

/// The shortest retention of the audit log, unless it is kept indefinitely.
pub(crate) const MIN_AUDIT_RETENTION_DAYS: u32 = 30;

/// The maximum number of plans.
pub(crate) const MAX_PLANS: usize = 100;

/// The platform's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Configuration)]
pub(crate) struct Settings {
    /// Policy for new and changed API keys.
    pub(crate) keys: Keys,
    /// Rate limits of the Admin API.
    pub(crate) rate_limits: RateLimits,
    /// Plans by name. `standard`, the default plan, always exists.
    #[schema(schema_with = plans_schema)]
    pub(crate) plans: BTreeMap<String, Plan>,
    /// How long recorded data is kept.
    pub(crate) retention: Retention,
    /// Maintenance mode.
    pub(crate) maintenance: Maintenance,
}

/// Policy for new and changed API keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = KeySettings)]
pub(crate) struct Keys {
    /// Prefix of the secrets of new keys. Keys created with another prefix stay valid.
    #[schema(pattern = "^[a-z][a-z0-9]{0,15}$", example = "toll")]
    pub(crate) prefix: String,
    /// Days until a new key expires if no expiry is given; 0 = never, or the latest that
    /// `max_expiry_days` allows.
    #[schema(maximum = 36_500, example = 0)]
    pub(crate) default_expiry_days: u32,
    /// Maximum days until a new key, or a key with a changed expiry, expires; 0 = no maximum. Existing
    /// keys are not affected.
    #[schema(maximum = 36_500, example = 0)]
    pub(crate) max_expiry_days: u32,
    /// Whether keys with administrative scopes (`admin:*`, `keys:verify`, `*`) must have an allowlist.
    pub(crate) require_allowed_ips_for_admin: bool,
}

/// Rate limits per minute; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RateLimitSettings)]
pub(crate) struct RateLimits {
    /// Admin API calls per key.
    #[schema(maximum = 1_000_000_000, example = 500)]
    pub(crate) admin_per_minute: u32,
    /// Batches per key.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub(crate) batch_per_minute: u32,
    /// Failed authentications per client address.
    #[schema(maximum = 1_000_000_000, example = 30)]
    pub(crate) failed_auth_per_minute: u32,
}

/// Limits of a plan; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Plan {
    /// Verifications per minute of each key without its own rate limit.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub(crate) requests_per_minute: u32,
    /// Keys per organization that aren't revoked. Lowering the limit doesn't remove existing keys.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub(crate) max_keys: u32,
    /// Members per organization. Lowering the limit doesn't remove existing members.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub(crate) max_members: u32,
}

/// Retention in days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RetentionSettings)]
pub(crate) struct Retention {
    /// Audit log; 0 = indefinitely, otherwise at least 30.
    #[schema(schema_with = audit_days_schema)]
    pub(crate) audit_days: u32,
    /// Hourly usage.
    #[schema(minimum = 1, maximum = 36_500, example = 90)]
    pub(crate) usage_hourly_days: u32,
    /// Daily usage.
    #[schema(minimum = 1, maximum = 36_500, example = 730)]
    pub(crate) usage_daily_days: u32,
    /// Verification log.
    #[schema(minimum = 1, maximum = 36_500, example = 30)]
    pub(crate) verification_log_days: u32,
}

/// Maintenance mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MaintenanceSettings)]
pub(crate) struct Maintenance {
    /// Refuse changes with 503. Verification, reads and changes that only withdraw access continue to
    /// work.
    pub(crate) read_only: bool,
    /// Message for refused requests; `null` = a default message.
    #[schema(required, example = "Back at 14:00 UTC.")]
    pub(crate) message: Option<String>,
}

/// The settings as stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Current {
    pub(crate) settings: Settings,
    /// Prefixes under which no secret with a wrong checksum was ever stored, so that such a secret is
    /// refused without a lookup.
    pub(crate) checked_prefixes: Vec<String>,
    /// Number of stored changes; determines the ETag.
    pub(crate) revision: i64,
    pub(crate) updated_at: Timestamp,
}

impl Settings {
    /// The limits of a plan. A removed plan has no organizations; a stale reference to it gets the
    /// standard plan.
    pub(crate) fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name).or_else(|| self.plans.get(STANDARD))
    }

    /// The names of all plans, for messages.
    pub(crate) fn plan_names(&self) -> String {
        self.plans.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Every setting by its full name, such as `plans.standard.max_keys`.
    pub(crate) fn by_name(&self) -> BTreeMap<String, Value> {
        let mut settings = BTreeMap::new();
        collect_settings(String::new(), serde_json::to_value(self).unwrap_or_default(), &mut settings);
        settings
    }
}

fn collect_settings(name: String, value: Value, settings: &mut BTreeMap<String, Value>) {
    let Value::Object(children) = value else {
        settings.insert(name, value);
        return;
    };
    for (child, value) in children {
        collect_settings(if name.is_empty() { child } else { format!("{name}.{child}") }, value, settings);
    }
}

/// The changed settings. The settings of an added or removed plan are `null` on the side without the
/// plan.
pub(crate) fn changes(before: &Settings, after: &Settings) -> Vec<Change> {
    let before = before.by_name();
    let after = after.by_name();
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| {
        let value_in = |settings: &BTreeMap<String, Value>| settings.get(name).cloned().unwrap_or_default();
        Change { field: name.clone(), from: value_in(&before), to: value_in(&after) }
    };
    names.into_iter().map(change).filter(|change| change.from != change.to).collect()
}

/// True if the text is a valid plan name: `^[a-z][a-z0-9-]{0,31}$`.
pub(crate) fn is_plan_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// True if the text is a valid prefix for secrets: `^[a-z][a-z0-9]{0,15}$`.
pub(crate) fn is_prefix(text: &str) -> bool {
    text.len() <= 16
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// The schema of plans by name, for the OpenAPI document.
fn plans_schema() -> Object {
    plan_map_schema(Ref::from_schema_name("Plan").into()).max_properties(Some(MAX_PLANS)).build()
}

fn plan_map_schema(plan: RefOr<Schema>) -> ObjectBuilder {
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z][a-z0-9-]{0,31}$"));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(Schema::from(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(plan)))
}

fn audit_days_schema() -> Schema {
    let range = |min: u32, max: u32| {
        let range = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max));
        Schema::from(range)
    };
    let either = utoipa::openapi::schema::AnyOfBuilder::new()
        .item(range(0, 0))
        .item(range(MIN_AUDIT_RETENTION_DAYS, MAX_DURATION_DAYS))
        .description(Some("Audit log; 0 = indefinitely, otherwise at least 30."));
    Schema::AnyOf(either.build())
}
