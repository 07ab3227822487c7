//! The platform's settings: what can be changed while the server runs. Their first values come from the
//! configuration of the process; from then on they live in the database.

mod patch;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, Object, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema};

pub use patch::{KeysPatch, MaintenancePatch, PlanPatch, RateLimitsPatch, RetentionPatch, SettingsPatch};

use super::audit::Change;
use super::time::Timestamp;

/// What [`Stale`](super::stale::Stale) calls them.
pub const STALE: &str = "settings";

/// The plan of an organization that booked none. It is always there.
pub const STANDARD: &str = "standard";

/// The most of anything that is counted: calls a minute, keys, members.
pub const MOST: u32 = 1_000_000_000;

/// The longest time: a hundred years.
pub const MOST_DAYS: u32 = 36_500;

/// The audit log is kept at least this long, unless it is kept for ever.
pub const LEAST_AUDIT_DAYS: u32 = 30;

/// Plans that there may be.
pub const MOST_PLANS: usize = 100;

/// All settings of the platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Configuration)]
pub struct Settings {
    /// New and changed API keys.
    pub keys: Keys,
    /// Calls in a minute.
    pub rate_limits: RateLimits,
    /// What organizations can book, by name. `standard`, for those that booked none, is always there.
    #[schema(schema_with = plans_schema)]
    pub plans: BTreeMap<String, Plan>,
    /// How long what is recorded and counted is kept.
    pub retention: Retention,
    /// While the platform is being worked on.
    pub maintenance: Maintenance,
}

/// What new and changed API keys must be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = KeySettings)]
pub struct Keys {
    /// What the secrets of new keys begin with. Keys made with another prefix stay good.
    #[schema(pattern = "^[a-z][a-z0-9]{0,15}$", example = "toll")]
    pub prefix: String,
    /// Days until a new key expires whose maker names no expiry; 0 = never, or as late as allowed.
    #[schema(maximum = 36_500, example = 0)]
    pub default_expiry_days: u32,
    /// Days until a new key, or one that gets another expiry, must expire; 0 = it need not. Keys that
    /// are there already stay as they are.
    #[schema(maximum = 36_500, example = 0)]
    pub max_expiry_days: u32,
    /// Must keys with administrative scopes (`admin:*`, `keys:verify`, `*`) have an allowlist?
    pub require_allowed_ips_for_admin: bool,
}

/// Calls in a minute; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RateLimitSettings)]
pub struct RateLimits {
    /// Calls of the control plane by one key.
    #[schema(maximum = 1_000_000_000, example = 500)]
    pub admin_per_minute: u32,
    /// Batches by one key.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub batch_per_minute: u32,
    /// Failed authentications from one address.
    #[schema(maximum = 1_000_000_000, example = 30)]
    pub failed_auth_per_minute: u32,
}

/// What a plan allows; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// Verifications of each key that has no rate limit of its own.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub requests_per_minute: u32,
    /// Keys of an organization that aren't revoked. Lowering it takes none away.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub max_keys: u32,
    /// Members of an organization. Lowering it takes none away.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub max_members: u32,
}

/// Days for which things are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RetentionSettings)]
pub struct Retention {
    /// The audit log; 0 = for ever, else at least 30.
    #[schema(schema_with = audit_days_schema)]
    pub audit_days: u32,
    /// Usage by the hour.
    #[schema(minimum = 1, maximum = 36_500, example = 90)]
    pub usage_hourly_days: u32,
    /// Usage by the day.
    #[schema(minimum = 1, maximum = 36_500, example = 730)]
    pub usage_daily_days: u32,
    /// The verification log.
    #[schema(minimum = 1, maximum = 36_500, example = 30)]
    pub verification_log_days: u32,
}

/// What is refused while the platform is being worked on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MaintenanceSettings)]
pub struct Maintenance {
    /// Refuse changes with 503. Verification, reads, and what takes access away go on.
    pub read_only: bool,
    /// What is said to those who are refused; `null` = that it is being worked on.
    #[schema(required, example = "Back at 14:00 UTC.")]
    pub message: Option<String>,
}

/// The settings as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Current {
    /// The settings.
    pub settings: Settings,
    /// Prefixes under which no secret was ever taken whose checksum is wrong, so that one which is can be
    /// refused unlooked.
    pub checked_prefixes: Vec<String>,
    /// Counts changes.
    pub revision: i64,
    /// When they last changed.
    pub updated_at: Timestamp,
}

impl Settings {
    /// What a plan allows. One that is gone no organization is on; who still thinks so gets the standard's.
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name).or_else(|| self.plans.get(STANDARD))
    }

    /// The names of all plans, for people.
    pub fn plan_names(&self) -> String {
        self.plans.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Every single setting by its whole name, such as `plans.standard.max_keys`.
    pub fn by_name(&self) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        collect(String::new(), serde_json::to_value(self).unwrap_or_default(), &mut all);
        all
    }
}

fn collect(name: String, value: Value, all: &mut BTreeMap<String, Value>) {
    let Value::Object(below) = value else {
        all.insert(name, value);
        return;
    };
    for (step, value) in below {
        collect(if name.is_empty() { step } else { format!("{name}.{step}") }, value, all);
    }
}

/// What differs, setting by setting. What a plan has that comes or goes is `null` on the other side.
pub fn changes(before: &Settings, after: &Settings) -> Vec<Change> {
    let (before, after) = (before.by_name(), after.by_name());
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| {
        let side = |side: &BTreeMap<String, Value>| side.get(name).cloned().unwrap_or_default();
        Change { field: name.clone(), from: side(&before), to: side(&after) }
    };
    names.into_iter().map(change).filter(|change| change.from != change.to).collect()
}

/// Is this a name for a plan: `^[a-z][a-z0-9-]{0,31}$`?
pub fn is_plan_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Is this something for secrets to begin with: `^[a-z][a-z0-9]{0,15}$`?
pub fn is_prefix(text: &str) -> bool {
    text.len() <= 16
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Plans by name in the OpenAPI document.
fn plans_schema() -> Object {
    plans_of(Ref::from_schema_name("Plan").into()).max_properties(Some(MOST_PLANS)).build()
}

fn plans_of(plan: RefOr<Schema>) -> ObjectBuilder {
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z][a-z0-9-]{0,31}$"));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(Schema::from(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(plan)))
}

fn audit_days_schema() -> Schema {
    let range = |least: u32, most: u32| {
        let range = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most));
        Schema::from(range)
    };
    let either = utoipa::openapi::schema::AnyOfBuilder::new()
        .item(range(0, 0))
        .item(range(LEAST_AUDIT_DAYS, MOST_DAYS))
        .description(Some("The audit log; 0 = for ever, else at least 30."));
    Schema::AnyOf(either.build())
}
