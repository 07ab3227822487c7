//! The platform's settings: what can be changed while the server runs. Their first values come from the
//! configuration of the process; from then on they live in the database.

mod patch;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, Object, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema};

pub(crate) use patch::{PlanPatch, SettingsPatch};

use super::audit::Change;
use super::time::Timestamp;

/// What [`Invalidation`](super::invalidation::Invalidation) calls them.
pub(crate) const SETTINGS_ID: &str = "settings";

/// The plan of an organization that booked none. It is always there.
pub(crate) const STANDARD: &str = "standard";

/// The most of anything that is counted: calls a minute, keys, members.
pub(crate) const MAX: u32 = 1_000_000_000;

/// The longest time: a hundred years.
pub(crate) const MAX_DAYS: u32 = 36_500;

/// The audit log is kept at least this long, unless it is kept for ever.
pub(crate) const MIN_AUDIT_DAYS: u32 = 30;

/// Plans that there may be.
pub(crate) const MAX_PLANS: usize = 100;

/// All settings of the platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Configuration)]
pub(crate) struct Settings {
    /// New and changed API keys.
    pub(crate) keys: Keys,
    /// Calls in a minute.
    pub(crate) rate_limits: RateLimits,
    /// What organizations can book, by name. `standard`, for those that booked none, is always there.
    #[schema(schema_with = plans_schema)]
    pub(crate) plans: BTreeMap<String, Plan>,
    /// How long what is recorded and counted is kept.
    pub(crate) retention: Retention,
    /// While the platform is being worked on.
    pub(crate) maintenance: Maintenance,
}

/// What new and changed API keys must be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = KeySettings)]
pub(crate) struct Keys {
    /// What the secrets of new keys begin with. Keys made with another prefix stay good.
    #[schema(pattern = "^[a-z][a-z0-9]{0,15}$", example = "toll")]
    pub(crate) prefix: String,
    /// Days until a new key expires whose maker names no expiry; 0 = never, or as late as allowed.
    #[schema(maximum = 36_500, example = 0)]
    pub(crate) default_expiry_days: u32,
    /// Days until a new key, or one that gets another expiry, must expire; 0 = it need not. Keys that
    /// are there already stay as they are.
    #[schema(maximum = 36_500, example = 0)]
    pub(crate) max_expiry_days: u32,
    /// Must keys with administrative scopes (`admin:*`, `keys:verify`, `*`) have an allowlist?
    pub(crate) require_allowed_ips_for_admin: bool,
}

/// Calls in a minute; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RateLimitSettings)]
pub(crate) struct RateLimits {
    /// Calls of the control plane by one key.
    #[schema(maximum = 1_000_000_000, example = 500)]
    pub(crate) admin_per_minute: u32,
    /// Batches by one key.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub(crate) batch_per_minute: u32,
    /// Failed authentications from one address.
    #[schema(maximum = 1_000_000_000, example = 30)]
    pub(crate) failed_auth_per_minute: u32,
}

/// What a plan allows; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Plan {
    /// Verifications of each key that has no rate limit of its own.
    #[schema(maximum = 1_000_000_000, example = 100)]
    pub(crate) requests_per_minute: u32,
    /// Keys of an organization that aren't revoked. Lowering it takes none away.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub(crate) max_keys: u32,
    /// Members of an organization. Lowering it takes none away.
    #[schema(maximum = 1_000_000_000, example = 0)]
    pub(crate) max_members: u32,
}

/// Days for which things are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RetentionSettings)]
pub(crate) struct Retention {
    /// The audit log; 0 = for ever, else at least 30.
    #[schema(schema_with = audit_days_schema)]
    pub(crate) audit_days: u32,
    /// Usage by the hour.
    #[schema(minimum = 1, maximum = 36_500, example = 90)]
    pub(crate) usage_hourly_days: u32,
    /// Usage by the day.
    #[schema(minimum = 1, maximum = 36_500, example = 730)]
    pub(crate) usage_daily_days: u32,
    /// The verification log.
    #[schema(minimum = 1, maximum = 36_500, example = 30)]
    pub(crate) verification_log_days: u32,
}

/// What is refused while the platform is being worked on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MaintenanceSettings)]
pub(crate) struct Maintenance {
    /// Refuse changes with 503. Verification, reads, and what takes access away go on.
    pub(crate) read_only: bool,
    /// What is said to those who are refused; `null` = that it is being worked on.
    #[schema(required, example = "Back at 14:00 UTC.")]
    pub(crate) message: Option<String>,
}

/// The settings as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Current {
    /// The settings.
    pub(crate) settings: Settings,
    /// Prefixes under which no secret was ever taken whose checksum is wrong, so that one which is can be
    /// refused unlooked.
    pub(crate) checked_prefixes: Vec<String>,
    /// Counts changes.
    pub(crate) revision: i64,
    /// When they last changed.
    pub(crate) updated_at: Timestamp,
}

impl Settings {
    /// What a plan allows. One that is gone no organization is on; who still thinks so gets the standard's.
    pub(crate) fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name).or_else(|| self.plans.get(STANDARD))
    }

    /// The names of all plans, for people.
    pub(crate) fn plan_names(&self) -> String {
        self.plans.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Every single setting by its whole name, such as `plans.standard.max_keys`.
    pub(crate) fn by_name(&self) -> BTreeMap<String, Value> {
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
pub(crate) fn changes(before: &Settings, after: &Settings) -> Vec<Change> {
    let (before, after) = (before.by_name(), after.by_name());
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| {
        let side = |side: &BTreeMap<String, Value>| side.get(name).cloned().unwrap_or_default();
        Change { field: name.clone(), from: side(&before), to: side(&after) }
    };
    names.into_iter().map(change).filter(|change| change.from != change.to).collect()
}

/// Is this a name for a plan: `^[a-z][a-z0-9-]{0,31}$`?
pub(crate) fn is_plan_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Is this something for secrets to begin with: `^[a-z][a-z0-9]{0,15}$`?
pub(crate) fn is_prefix(text: &str) -> bool {
    text.len() <= 16
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Plans by name in the OpenAPI document.
fn plans_schema() -> Object {
    plans_of(Ref::from_schema_name("Plan").into()).max_properties(Some(MAX_PLANS)).build()
}

fn plans_of(plan: RefOr<Schema>) -> ObjectBuilder {
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
        .item(range(MIN_AUDIT_DAYS, MAX_DAYS))
        .description(Some("The audit log; 0 = for ever, else at least 30."));
    Schema::AnyOf(either.build())
}
