//! The platform's settings, which can be changed while the server runs. The initial values come from the
//! configuration of the process (file, environment, flags); afterwards the database stores the settings.
//!
//! The fields of the sections declare the settings: name, type, bounds and documentation. `config.toml` has their
//! initial values. The rules of values ([`Rule`]), the merge patch and its schema are derived from the schemas of
//! these fields.

mod patch;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, Array, Object, Type};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, Ref, RefOr, Schema};

pub(crate) use patch::SettingsPatch;
pub(crate) use rules::{Rule, find_rule};

use super::audit::Change;
use super::limits::Limit;
use super::meter::Meter;
use super::secret_prefix::{KnownPrefixes, MAX_PREFIXES, SECRET_PREFIX_PATTERN};
use super::time::Timestamp;

/// The id of the settings in an [`Invalidation`](super::invalidation::Invalidation).
pub(crate) const SETTINGS_ID: &str = "settings";

/// The name of an organization's default plan. This plan always exists.
pub(crate) const STANDARD_PLAN: &str = "standard";

/// The maximum number of plans in the settings.
pub(crate) const MAX_PLANS: usize = 100;

/// The pattern of the name of a meter.
const METER_PATTERN: &str = "^[a-z][a-z0-9_]{0,31}$";

/// The maximum number of meters in the settings.
pub(crate) const MAX_METERS: usize = 32;

/// The platform's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Settings)]
pub(crate) struct Settings {
    /// Policy for new and changed API keys.
    pub(crate) keys: KeySettings,
    /// Rate limits of the Admin API.
    pub(crate) rate_limits: RateLimits,
    /// The meters on which limits can be set and costs counted. `requests` always exists.
    #[schema(schema_with = meters_schema)]
    pub(crate) meters: Vec<Meter>,
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
pub struct KeySettings {
    /// Prefixes of the secrets of new keys. A key gets the first one unless another is chosen when it is created.
    #[schema(schema_with = prefixes_schema)]
    pub(crate) prefixes: Vec<String>,
    /// Default number of days until a new key expires, used if no expiry is given. 0 means that such a key
    /// never expires or, if `max_expiry_days` is set, expires as late as allowed.
    #[schema(maximum = 36_500, example = 0)]
    pub default_expiry_days: u32,
    /// Maximum number of days until a new key expires; 0 means no maximum. Also applies when the expiry of a
    /// key is changed. Existing keys are not affected.
    #[schema(maximum = 36_500, example = 0)]
    pub(crate) max_expiry_days: u32,
    /// Whether keys with administrative scopes (`admin:*`, `keys:verify`, `*`) must have an allowlist.
    pub(crate) require_allowed_ips_for_admin: bool,
}

/// Rate limits of the Admin API, per minute; 0 means no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RateLimitSettings)]
pub struct RateLimits {
    /// Maximum number of Admin API calls of a key per minute; 0 means no limit.
    #[schema(maximum = 1_000_000_000, example = 500)]
    pub admin_per_minute: u32,
    /// Maximum number of batch requests of a key per minute; 0 means no limit.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub batch_per_minute: u32,
    /// All keys of an organization together may make this many times the calls, batches and calls of `/v1/keys/self` of
    /// one key; 0 means no limit for organizations.
    #[schema(maximum = 1_000, example = 5)]
    pub organization_factor: u32,
    /// Maximum number of failed authentications of a client address per minute; 0 means no limit.
    #[schema(maximum = 1_000_000_000, example = 30)]
    pub failed_auth_per_minute: u32,
}

/// The limits of a plan; by default none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// Limits of each key that has no limits of its own.
    #[schema(max_items = 8, example = json!([{"meter": "requests", "limit": 100, "window_seconds": 60}]))]
    pub key_limits: Vec<Limit>,
    /// Limits of an organization that has none of its own, shared by all of its keys.
    #[schema(max_items = 8, example = json!([{"meter": "requests", "limit": 100, "window_seconds": 60}]))]
    pub organization_limits: Vec<Limit>,
    /// Maximum number of keys of an organization, not counting revoked keys; 0 means no limit. Lowering the
    /// limit doesn't remove existing keys.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub(crate) max_keys: u32,
    /// Maximum number of members of an organization; 0 means no limit. Lowering the limit doesn't remove
    /// existing members.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub(crate) max_members: u32,
}

/// Number of days for which recorded data is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RetentionSettings)]
pub struct Retention {
    /// Days for which audit events are kept; 0 keeps them indefinitely, otherwise at least 30.
    #[schema(schema_with = audit_days_schema)]
    pub(crate) audit_days: u32,
    /// Days for which hourly usage is kept.
    #[schema(minimum = 1, maximum = 36_500, example = 90)]
    pub usage_hourly_days: u32,
    /// Days for which daily usage is kept, at least as long as hourly usage.
    #[schema(minimum = 1, maximum = 36_500, example = 730)]
    pub usage_daily_days: u32,
    /// Days for which entries of the verification log are kept.
    #[schema(minimum = 1, maximum = 36_500, example = 30)]
    pub verification_log_days: u32,
}

/// Settings of the maintenance mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MaintenanceSettings)]
pub(crate) struct Maintenance {
    /// Whether changes are refused with 503. Verification, reads and changes that only withdraw access
    /// continue to work.
    pub(crate) read_only: bool,
    /// Message in the responses to refused requests; `null` means a default message.
    #[schema(required, min_length = 1, max_length = 200, example = "Back at 14:00 UTC.")]
    #[serde(deserialize_with = "deserialize_message")]
    pub(crate) message: Option<String>,
}

/// The settings as stored in the database.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredSettings {
    pub(crate) settings: Settings,
    /// The prefixes in `settings`, and those that were there.
    pub(crate) known_prefixes: KnownPrefixes,
    /// Number of stored changes to the settings, from which their ETag is computed.
    pub(crate) revision: i64,
    pub(crate) updated_at: Timestamp,
}

impl Settings {
    /// Returns the limits of a plan. If the plan doesn't exist, returns those of the standard plan: only an
    /// outdated cached record can refer to a removed plan, because a plan with organizations can't be
    /// removed.
    pub(crate) fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name).or_else(|| self.plans.get(STANDARD_PLAN))
    }

    /// Returns the names of all plans, separated by commas, for error messages.
    pub(crate) fn plan_names(&self) -> String {
        self.plans.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Returns every setting by its full name, such as `plans.standard.max_keys`.
    pub(crate) fn by_name(&self) -> BTreeMap<String, Value> {
        let mut settings = BTreeMap::new();
        collect_settings(String::new(), serde_json::to_value(self).unwrap_or_default(), &mut settings);
        settings
    }
}

impl KeySettings {
    /// The prefix of new keys for which no prefix is chosen.
    pub(crate) fn default_prefix(&self) -> &str {
        // The list is never empty, unless it was changed in the database by hand.
        self.prefixes.first().map_or("toll", String::as_str)
    }

    /// The chosen prefix if it is configured, otherwise the default one.
    pub(crate) fn prefix_or_default(&self, chosen: Option<&str>) -> &str {
        let configured = self.prefixes.iter().find(|prefix| chosen == Some(prefix));
        configured.map_or_else(|| self.default_prefix(), String::as_str)
    }
}

impl StoredSettings {
    /// The prefix of the secret that replaces a secret with this visible start: the same one, even if it isn't
    /// configured anymore. A secret in another format is replaced by one with the default prefix.
    pub(crate) fn prefix_after_rotation<'a>(&'a self, start: &'a str) -> &'a str {
        self.known_prefixes.prefix_of_start(start).unwrap_or_else(|| self.settings.keys.default_prefix())
    }
}

impl RateLimits {
    /// The limit of all keys of an organization together, if that of one key is `per_key`; `None` means no
    /// limit.
    pub(crate) fn organization_limit(&self, per_key: u32) -> Option<u32> {
        (self.organization_factor > 0).then(|| per_key.saturating_mul(self.organization_factor))
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

/// Returns the settings that differ between `before` and `after`. The settings of an added plan have the old
/// value `null`, those of a removed plan the new value `null`.
pub(crate) fn changed_settings(before: &Settings, after: &Settings) -> Vec<Change> {
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

/// Returns the OpenAPI schema of the list of prefixes.
fn prefixes_schema() -> Array {
    let prefix = ObjectBuilder::new().schema_type(Type::String).pattern(Some(SECRET_PREFIX_PATTERN));
    ArrayBuilder::new()
        .items(prefix)
        .min_items(Some(1))
        .max_items(Some(MAX_PREFIXES))
        .unique_items(true)
        .description(Some(
            "Prefixes of the secrets of new keys. A key gets the first one unless another is chosen when it is \
             created. Keys whose prefix is removed from the list stay valid and keep it. The prefixes of ids, \
             such as `key`, are reserved.",
        ))
        .examples([serde_json::json!(["toll"])])
        .build()
}

/// Returns the OpenAPI schema of the list of meters.
fn meters_schema() -> Array {
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some(METER_PATTERN));
    ArrayBuilder::new()
        .items(name)
        .min_items(Some(1))
        .max_items(Some(MAX_METERS))
        .unique_items(true)
        .description(Some(
            "The meters on which limits can be set and costs counted. `requests` always exists.",
        ))
        .examples([serde_json::json!(["requests", "tokens"])])
        .build()
}

/// Returns the OpenAPI schema of an object that contains plans by name.
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

/// Deserializes a message. An empty text is no message, because the configuration file has no `null`.
fn deserialize_message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|message| !message.is_empty()))
}

fn audit_days_schema() -> Schema {
    let range = |min: u32, max: u32| {
        let range = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max));
        Schema::from(range)
    };
    let either =
        utoipa::openapi::schema::AnyOfBuilder::new().item(range(0, 0)).item(range(30, 36_500)).description(
            Some("Days for which audit events are kept; 0 keeps them indefinitely, otherwise at least 30."),
        );
    Schema::AnyOf(either.build())
}
