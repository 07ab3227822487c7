//! Parses a merge patch of the settings and applies it.

use std::collections::BTreeMap;

use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, OneOfBuilder, Ref, Schema};

use super::{
    KeySettings, MAX_DURATION_DAYS, MAX_LIMIT_VALUE, MAX_ORGANIZATION_FACTOR, MAX_PLANS,
    MIN_AUDIT_RETENTION_DAYS, Maintenance, Plan, RateLimits, Retention, Settings, is_plan_name,
    is_secret_prefix, plan_map_schema,
};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::patch::Patch;
use crate::domain::rules;
use crate::domain::secret_format::is_reserved_prefix;
use crate::error::Result;

/// A JSON merge patch of the configuration.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = ConfigurationPatch)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsPatch {
    /// Policy for new and changed API keys.
    #[schema(nullable = false)]
    pub(crate) keys: Option<KeysPatch>,
    /// Rate limits of the Admin API.
    #[schema(nullable = false)]
    pub(crate) rate_limits: Option<RateLimitsPatch>,
    /// Changes to the plans, merged plan by plan: an object changes a plan or, if it has all fields, adds a
    /// plan; `null` removes a plan that no organization is on. `standard` can't be removed.
    #[schema(schema_with = plans_patch_schema, required = false)]
    pub(crate) plans: BTreeMap<String, Option<PlanPatch>>,
    /// How long recorded data is kept.
    #[schema(nullable = false)]
    pub(crate) retention: Option<RetentionPatch>,
    /// Maintenance mode.
    #[schema(nullable = false)]
    pub(crate) maintenance: Option<MaintenancePatch>,
}

/// A JSON merge patch of the policy for keys.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = KeySettingsPatch, example = json!({
    "prefix": "toll", "default_expiry_days": 0, "max_expiry_days": 0, "require_allowed_ips_for_admin": false,
}))]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysPatch {
    /// Prefix of the secrets of new keys. Keys created with another prefix stay valid. The prefixes of ids, such
    /// as `key`, are reserved.
    #[schema(nullable = false, pattern = "^[a-z][a-z0-9]{0,15}$", example = "toll")]
    pub(crate) prefix: Option<String>,
    /// Default number of days until a new key expires, used if no expiry is given. 0 means that such a key
    /// never expires or, if `max_expiry_days` is set, expires as late as allowed.
    #[schema(nullable = false, minimum = 0, maximum = 36_500, example = 90)]
    pub(crate) default_expiry_days: Option<u32>,
    /// Maximum number of days until a new key expires; 0 means no maximum. Also applies when the expiry of a
    /// key is changed.
    #[schema(nullable = false, minimum = 0, maximum = 36_500, example = 365)]
    pub(crate) max_expiry_days: Option<u32>,
    /// Whether keys with administrative scopes must have an allowlist.
    #[schema(nullable = false)]
    pub(crate) require_allowed_ips_for_admin: Option<bool>,
}

/// A JSON merge patch of the rate limits.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = RateLimitSettingsPatch, example = json!({"batch_per_minute": 100}))]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimitsPatch {
    /// Maximum number of Admin API calls of a key per minute; 0 means no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 500)]
    pub(crate) admin_per_minute: Option<u32>,
    /// Maximum number of batch requests of a key per minute; 0 means no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 100)]
    pub(crate) batch_per_minute: Option<u32>,
    /// All keys of an organization together may make this many times the calls and batches of one key; 0
    /// means no limit for organizations.
    #[schema(nullable = false, minimum = 0, maximum = 1_000, example = 5)]
    pub(crate) organization_factor: Option<u32>,
    /// Maximum number of failed authentications of a client address per minute; 0 means no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 30)]
    pub(crate) failed_auth_per_minute: Option<u32>,
}

/// A JSON merge patch of a plan. A new plan needs all fields.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanPatch {
    /// Default rate limit: verifications per minute of each key that has no rate limit of its own; 0 means no
    /// limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 5_000)]
    pub(crate) requests_per_minute: Option<u32>,
    /// Maximum number of keys of an organization, not counting revoked keys; 0 means no limit. Lowering the
    /// limit doesn't remove existing keys.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 50)]
    pub(crate) max_keys: Option<u32>,
    /// Maximum number of members of an organization; 0 means no limit. Lowering the limit doesn't remove
    /// existing members.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 20)]
    pub(crate) max_members: Option<u32>,
}

/// A JSON merge patch of the retention.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = RetentionSettingsPatch, example = json!({"audit_days": 365}))]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionPatch {
    /// Days for which audit events are kept; 0 keeps them indefinitely, otherwise at least 30.
    #[schema(schema_with = super::audit_days_schema, required = false)]
    pub(crate) audit_days: Option<u32>,
    /// Days for which hourly usage is kept.
    #[schema(nullable = false, minimum = 1, maximum = 36_500, example = 90)]
    pub(crate) usage_hourly_days: Option<u32>,
    /// Days for which daily usage is kept.
    #[schema(nullable = false, minimum = 1, maximum = 36_500, example = 730)]
    pub(crate) usage_daily_days: Option<u32>,
    /// Days for which entries of the verification log are kept.
    #[schema(nullable = false, minimum = 1, maximum = 36_500, example = 30)]
    pub(crate) verification_log_days: Option<u32>,
}

/// A JSON merge patch of the maintenance mode.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = MaintenanceSettingsPatch, example = json!({"read_only": false, "message": "Back at 14:00 UTC."}))]
#[serde(deny_unknown_fields)]
pub(crate) struct MaintenancePatch {
    /// Whether changes are refused with 503. Verification, reads and changes that only withdraw access
    /// continue to work.
    #[schema(nullable = false)]
    pub(crate) read_only: Option<bool>,
    /// Message in the responses to refused requests; `null` means a default message.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, example = "Back at 14:00 UTC.")]
    pub(crate) message: Patch<String>,
}

impl SettingsPatch {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let value = Self {
            keys: fields.optional("keys", KeysPatch::read),
            rate_limits: fields.optional("rate_limits", RateLimitsPatch::read),
            plans: fields.optional("plans", parse_plans).unwrap_or_default(),
            retention: fields.optional("retention", RetentionPatch::read),
            maintenance: fields.optional("maintenance", MaintenancePatch::read),
        };
        fields.finish(value)
    }

    /// Returns the settings after the patch.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with all faults if the settings are inconsistent or a new plan is incomplete.
    pub(crate) fn apply(&self, before: &Settings) -> Result<Settings> {
        let mut faults = Faults::default();
        let mut after = before.clone();
        if let Some(patch) = &self.keys {
            patch.apply(&mut after.keys, &mut faults);
        }
        if let Some(patch) = &self.rate_limits {
            patch.apply(&mut after.rate_limits);
        }
        faults.at_child("plans", |faults| self.apply_plans(&mut after.plans, faults));
        if let Some(patch) = &self.retention {
            patch.apply(&mut after.retention);
        }
        if let Some(patch) = &self.maintenance {
            patch.apply(&mut after.maintenance);
        }
        faults.finish(after)
    }

    fn apply_plans(&self, plans: &mut BTreeMap<String, Plan>, faults: &mut Faults) {
        for (name, patch) in &self.plans {
            let Some(patch) = patch else {
                plans.remove(name);
                continue;
            };
            let after = faults.at_child(name, |faults| patch.apply(plans.get(name), faults));
            plans.extend(after.map(|after| (name.clone(), after)));
        }
        if plans.len() > MAX_PLANS {
            faults.add(
                "TOO_MANY",
                format!("At most {MAX_PLANS} plans are allowed; this would be {}.", plans.len()),
            );
        }
    }
}

fn parse_plans(json: &Json, faults: &mut Faults) -> Option<BTreeMap<String, Option<PlanPatch>>> {
    let mut plans = BTreeMap::new();
    for (name, plan) in faults.expect_object(json)? {
        faults.at_child(name, |faults| {
            if !is_plan_name(name) {
                let message = "A plan's name must start with a lowercase letter, followed by up to 31 \
                               lowercase letters, digits and hyphens.";
                faults.add("INVALID_NAME", message);
            }
            let plan = if *plan == Json::Null { None } else { PlanPatch::read(plan, faults) };
            plans.insert(name.clone(), plan);
        });
    }
    Some(plans)
}

impl KeysPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let value = Self {
            prefix: fields.optional("prefix", parse_prefix),
            default_expiry_days: fields.optional("default_expiry_days", u32_parser(0, MAX_DURATION_DAYS)),
            max_expiry_days: fields.optional("max_expiry_days", u32_parser(0, MAX_DURATION_DAYS)),
            require_allowed_ips_for_admin: fields
                .optional("require_allowed_ips_for_admin", rules::parse_bool),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, keys: &mut KeySettings, faults: &mut Faults) {
        set_if_given(&mut keys.prefix, &self.prefix);
        set_if_given(&mut keys.default_expiry_days, &self.default_expiry_days);
        set_if_given(&mut keys.max_expiry_days, &self.max_expiry_days);
        set_if_given(&mut keys.require_allowed_ips_for_admin, &self.require_allowed_ips_for_admin);
        if let Err(message) = keys.ensure_consistent() {
            let field =
                if self.default_expiry_days.is_some() { "default_expiry_days" } else { "max_expiry_days" };
            faults.at_child("keys", |faults| {
                faults.at_child(field, |faults| faults.add("INVALID_VALUE", message))
            });
        }
    }
}

impl KeySettings {
    /// Checks that the settings for keys are consistent. Returns the reason if they aren't.
    pub(crate) fn ensure_consistent(&self) -> Result<(), &'static str> {
        let is_consistent = self.max_expiry_days == 0 || self.default_expiry_days <= self.max_expiry_days;
        if is_consistent { Ok(()) } else { Err("default_expiry_days must not exceed max_expiry_days.") }
    }
}

impl RateLimitsPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let value = Self {
            admin_per_minute: fields.optional("admin_per_minute", u32_parser(0, MAX_LIMIT_VALUE)),
            batch_per_minute: fields.optional("batch_per_minute", u32_parser(0, MAX_LIMIT_VALUE)),
            organization_factor: fields
                .optional("organization_factor", u32_parser(0, MAX_ORGANIZATION_FACTOR)),
            failed_auth_per_minute: fields.optional("failed_auth_per_minute", u32_parser(0, MAX_LIMIT_VALUE)),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, limits: &mut RateLimits) {
        set_if_given(&mut limits.admin_per_minute, &self.admin_per_minute);
        set_if_given(&mut limits.batch_per_minute, &self.batch_per_minute);
        set_if_given(&mut limits.organization_factor, &self.organization_factor);
        set_if_given(&mut limits.failed_auth_per_minute, &self.failed_auth_per_minute);
    }
}

impl PlanPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let value = Self {
            requests_per_minute: fields.optional("requests_per_minute", u32_parser(0, MAX_LIMIT_VALUE)),
            max_keys: fields.optional("max_keys", u32_parser(0, MAX_LIMIT_VALUE)),
            max_members: fields.optional("max_members", u32_parser(0, MAX_LIMIT_VALUE)),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    /// Returns the plan after the patch. A new plan must have all fields, because a missing limit could mean
    /// either no limit or a limit of zero.
    fn apply(&self, before: Option<&Plan>, faults: &mut Faults) -> Option<Plan> {
        let mut merged = |name: &str, patch: Option<u32>, before: Option<u32>| {
            let after = patch.or(before);
            if after.is_none() {
                let message = "Required for a new plan; 0 means no limit.";
                faults.at_child(name, |faults| faults.add("REQUIRED", message));
            }
            after
        };
        let requests = merged(
            "requests_per_minute",
            self.requests_per_minute,
            before.map(|plan| plan.requests_per_minute),
        );
        let keys = merged("max_keys", self.max_keys, before.map(|plan| plan.max_keys));
        let members = merged("max_members", self.max_members, before.map(|plan| plan.max_members));
        Some(Plan { requests_per_minute: requests?, max_keys: keys?, max_members: members? })
    }
}

impl RetentionPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let value = Self {
            audit_days: fields.optional("audit_days", parse_audit_days),
            usage_hourly_days: fields.optional("usage_hourly_days", u32_parser(1, MAX_DURATION_DAYS)),
            usage_daily_days: fields.optional("usage_daily_days", u32_parser(1, MAX_DURATION_DAYS)),
            verification_log_days: fields.optional("verification_log_days", u32_parser(1, MAX_DURATION_DAYS)),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, retention: &mut Retention) {
        set_if_given(&mut retention.audit_days, &self.audit_days);
        set_if_given(&mut retention.usage_hourly_days, &self.usage_hourly_days);
        set_if_given(&mut retention.usage_daily_days, &self.usage_daily_days);
        set_if_given(&mut retention.verification_log_days, &self.verification_log_days);
    }
}

impl MaintenancePatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let value = Self {
            read_only: fields.optional("read_only", rules::parse_bool),
            message: fields.nullable("message", rules::parse_name),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, maintenance: &mut Maintenance) {
        set_if_given(&mut maintenance.read_only, &self.read_only);
        maintenance.message = self.message.apply(&maintenance.message);
    }
}

fn set_if_given<T: Clone>(setting: &mut T, patch: &Option<T>) {
    if let Some(value) = patch {
        setting.clone_from(value);
    }
}

fn u32_parser(min: u32, max: u32) -> impl FnOnce(&Json, &mut Faults) -> Option<u32> {
    move |json, faults| u32::try_from(rules::integer_parser(min.into(), max.into())(json, faults)?).ok()
}

fn parse_audit_days(json: &Json, faults: &mut Faults) -> Option<u32> {
    if *json == Json::Number(0.into()) {
        return Some(0);
    }
    // The faults of the number parser are discarded. The message below also mentions the valid value 0.
    let mut range_faults = Faults::default();
    let days = u32_parser(MIN_AUDIT_RETENTION_DAYS, MAX_DURATION_DAYS)(json, &mut range_faults);
    if days.is_none() {
        let message = format!(
            "Must be 0 (keep indefinitely) or a whole number from {MIN_AUDIT_RETENTION_DAYS} to {MAX_DURATION_DAYS}."
        );
        faults.add("INVALID_VALUE", message);
    }
    days
}

fn parse_prefix(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.expect_string(json)?;
    if is_secret_prefix(text) {
        return Some(text.to_owned());
    }
    if is_reserved_prefix(text) {
        faults.add("RESERVED", "Ids have this prefix, so secrets can't. Choose another.");
        return None;
    }
    let message = "Must be a lowercase letter, followed by up to 15 lowercase letters or digits.";
    faults.add("INVALID_VALUE", message);
    None
}

fn plans_patch_schema() -> Object {
    let plan =
        OneOfBuilder::new().item(Ref::from_schema_name("PlanPatch")).item(Object::with_type(Type::Null));
    let gold = serde_json::json!({ "requests_per_minute": 5000, "max_keys": 50, "max_members": 20 });
    plan_map_schema(Schema::OneOf(plan.build()).into())
        .examples([serde_json::json!({ "gold": gold, "silver": null })])
        .description(Some(
            "Changes to the plans, merged plan by plan: an object changes a plan or, if it has all fields, \
             adds a plan; `null` removes a plan that no organization is on. `standard` can't be removed.",
        ))
        .build()
}
