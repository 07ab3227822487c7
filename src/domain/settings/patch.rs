//! A merge patch of the settings: read, and laid over what there is.

use std::collections::BTreeMap;

use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, OneOfBuilder, Ref, Schema};

use super::{
    Keys, MIN_AUDIT_DAYS, MAX, MAX_DAYS, MAX_PLANS, Maintenance, Plan, RateLimits, Retention, Settings,
    is_plan_name, is_prefix, plans_of,
};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::patch::Patch;
use crate::domain::rules;
use crate::error::Result;

/// A merge patch of the configuration.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = ConfigurationPatch)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsPatch {
    /// New and changed API keys.
    #[schema(nullable = false)]
    pub(crate) keys: Option<KeysPatch>,
    /// Calls in a minute.
    #[schema(nullable = false)]
    pub(crate) rate_limits: Option<RateLimitsPatch>,
    /// Merged plan by plan: an object changes a plan or, if it is whole, adds one; `null` takes one away
    /// that no organization is on. `standard` stays.
    #[schema(schema_with = plans_patch_schema, required = false)]
    pub(crate) plans: BTreeMap<String, Option<PlanPatch>>,
    /// How long what is recorded and counted is kept.
    #[schema(nullable = false)]
    pub(crate) retention: Option<RetentionPatch>,
    /// While the platform is being worked on.
    #[schema(nullable = false)]
    pub(crate) maintenance: Option<MaintenancePatch>,
}

/// A merge patch of what is set for keys.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = KeySettingsPatch, example = json!({
    "prefix": "toll", "default_expiry_days": 0, "max_expiry_days": 0, "require_allowed_ips_for_admin": false,
}))]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysPatch {
    /// What the secrets of new keys begin with. Keys made with another prefix stay good.
    #[schema(nullable = false, pattern = "^[a-z][a-z0-9]{0,15}$", example = "toll")]
    pub(crate) prefix: Option<String>,
    /// Days until a new key expires whose maker names no expiry; 0 = never, or as late as allowed.
    #[schema(nullable = false, minimum = 0, maximum = 36_500, example = 90)]
    pub(crate) default_expiry_days: Option<u32>,
    /// Days until a new key, or one that gets another expiry, must expire; 0 = it need not.
    #[schema(nullable = false, minimum = 0, maximum = 36_500, example = 365)]
    pub(crate) max_expiry_days: Option<u32>,
    /// Must keys with administrative scopes have an allowlist?
    #[schema(nullable = false)]
    pub(crate) require_allowed_ips_for_admin: Option<bool>,
}

/// A merge patch of the limits of calls.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = RateLimitSettingsPatch, example = json!({"batch_per_minute": 100}))]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimitsPatch {
    /// Calls of the control plane by one key; 0 = no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 500)]
    pub(crate) admin_per_minute: Option<u32>,
    /// Batches by one key; 0 = no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 100)]
    pub(crate) batch_per_minute: Option<u32>,
    /// Failed authentications from one address; 0 = no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 30)]
    pub(crate) failed_auth_per_minute: Option<u32>,
}

/// A merge patch of a plan. One that is new must have all of it.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanPatch {
    /// Verifications of each key that has no rate limit of its own; 0 = no limit.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 5_000)]
    pub(crate) requests_per_minute: Option<u32>,
    /// Keys of an organization that aren't revoked; 0 = no limit. Lowering it takes none away.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 50)]
    pub(crate) max_keys: Option<u32>,
    /// Members of an organization; 0 = no limit. Lowering it takes none away.
    #[schema(nullable = false, minimum = 0, maximum = 1_000_000_000, example = 20)]
    pub(crate) max_members: Option<u32>,
}

/// A merge patch of how long things are kept.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = RetentionSettingsPatch, example = json!({"audit_days": 365}))]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionPatch {
    /// Days of the audit log; 0 = for ever, else at least 30.
    #[schema(schema_with = super::audit_days_schema, required = false)]
    pub(crate) audit_days: Option<u32>,
    /// Days of usage by the hour.
    #[schema(nullable = false, minimum = 1, maximum = 36_500, example = 90)]
    pub(crate) usage_hourly_days: Option<u32>,
    /// Days of usage by the day.
    #[schema(nullable = false, minimum = 1, maximum = 36_500, example = 730)]
    pub(crate) usage_daily_days: Option<u32>,
    /// Days of the verification log.
    #[schema(nullable = false, minimum = 1, maximum = 36_500, example = 30)]
    pub(crate) verification_log_days: Option<u32>,
}

/// A merge patch of what goes for the time of maintenance.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[schema(as = MaintenanceSettingsPatch, example = json!({"read_only": false, "message": "Back at 14:00 UTC."}))]
#[serde(deny_unknown_fields)]
pub(crate) struct MaintenancePatch {
    /// Refuse changes with 503. Verification, reads, and what takes access away go on.
    #[schema(nullable = false)]
    pub(crate) read_only: Option<bool>,
    /// What is said to those who are refused; `null`: that it is being worked on.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, example = "Back at 14:00 UTC.")]
    pub(crate) message: Patch<String>,
}

impl SettingsPatch {
    /// Reads a body.
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let value = Self {
            keys: fields.optional("keys", KeysPatch::read),
            rate_limits: fields.optional("rate_limits", RateLimitsPatch::read),
            plans: fields.optional("plans", plans).unwrap_or_default(),
            retention: fields.optional("retention", RetentionPatch::read),
            maintenance: fields.optional("maintenance", MaintenancePatch::read),
        };
        fields.finish(value)
    }

    /// The settings after the patch.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when they don't fit together: all that doesn't.
    pub(crate) fn apply(&self, before: &Settings) -> Result<Settings> {
        let mut faults = Faults::default();
        let mut after = before.clone();
        if let Some(patch) = &self.keys {
            patch.apply(&mut after.keys, &mut faults);
        }
        if let Some(patch) = &self.rate_limits {
            patch.apply(&mut after.rate_limits);
        }
        faults.nested("plans", |faults| self.apply_plans(&mut after.plans, faults));
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
            let after = faults.nested(name, |faults| patch.apply(plans.get(name), faults));
            plans.extend(after.map(|after| (name.clone(), after)));
        }
        if plans.len() > MAX_PLANS {
            faults.add("TOO_MANY", format!("At most {MAX_PLANS} plans; these would be {}.", plans.len()));
        }
    }
}

fn plans(json: &Json, faults: &mut Faults) -> Option<BTreeMap<String, Option<PlanPatch>>> {
    let mut plans = BTreeMap::new();
    for (name, plan) in faults.object(json)? {
        faults.nested(name, |faults| {
            if !is_plan_name(name) {
                let message = "A plan's name begins with a lower-case letter and has up to 31 more lower-case \
                               letters, digits and hyphens.";
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
        let mut fields = Fields::nested(json, faults);
        let value = Self {
            prefix: fields.optional("prefix", prefix),
            default_expiry_days: fields.optional("default_expiry_days", number(0, MAX_DAYS)),
            max_expiry_days: fields.optional("max_expiry_days", number(0, MAX_DAYS)),
            require_allowed_ips_for_admin: fields.optional("require_allowed_ips_for_admin", rules::flag),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, keys: &mut Keys, faults: &mut Faults) {
        set(&mut keys.prefix, &self.prefix);
        set(&mut keys.default_expiry_days, &self.default_expiry_days);
        set(&mut keys.max_expiry_days, &self.max_expiry_days);
        set(&mut keys.require_allowed_ips_for_admin, &self.require_allowed_ips_for_admin);
        if let Err(message) = keys.fit() {
            let at =
                if self.default_expiry_days.is_some() { "default_expiry_days" } else { "max_expiry_days" };
            faults.nested("keys", |faults| faults.nested(at, |faults| faults.add("INVALID_VALUE", message)));
        }
    }
}

impl Keys {
    /// Does what is set for keys go together? If not, why.
    pub(crate) fn fit(&self) -> Result<(), &'static str> {
        let fits = self.max_expiry_days == 0 || self.default_expiry_days <= self.max_expiry_days;
        if fits { Ok(()) } else { Err("default_expiry_days must not be more than max_expiry_days.") }
    }
}

impl RateLimitsPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::nested(json, faults);
        let value = Self {
            admin_per_minute: fields.optional("admin_per_minute", number(0, MAX)),
            batch_per_minute: fields.optional("batch_per_minute", number(0, MAX)),
            failed_auth_per_minute: fields.optional("failed_auth_per_minute", number(0, MAX)),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, limits: &mut RateLimits) {
        set(&mut limits.admin_per_minute, &self.admin_per_minute);
        set(&mut limits.batch_per_minute, &self.batch_per_minute);
        set(&mut limits.failed_auth_per_minute, &self.failed_auth_per_minute);
    }
}

impl PlanPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::nested(json, faults);
        let value = Self {
            requests_per_minute: fields.optional("requests_per_minute", number(0, MAX)),
            max_keys: fields.optional("max_keys", number(0, MAX)),
            max_members: fields.optional("max_members", number(0, MAX)),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    /// The plan after the patch. A new one that isn't whole could mean a limit of nothing or none at all.
    fn apply(&self, before: Option<&Plan>, faults: &mut Faults) -> Option<Plan> {
        let mut one = |name: &str, patch: Option<u32>, before: Option<u32>| {
            let after = patch.or(before);
            if after.is_none() {
                let message = "Must be given for a new plan; 0 is no limit.";
                faults.nested(name, |faults| faults.add("REQUIRED", message));
            }
            after
        };
        let requests =
            one("requests_per_minute", self.requests_per_minute, before.map(|plan| plan.requests_per_minute));
        let keys = one("max_keys", self.max_keys, before.map(|plan| plan.max_keys));
        let members = one("max_members", self.max_members, before.map(|plan| plan.max_members));
        Some(Plan { requests_per_minute: requests?, max_keys: keys?, max_members: members? })
    }
}

impl RetentionPatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::nested(json, faults);
        let value = Self {
            audit_days: fields.optional("audit_days", audit_days),
            usage_hourly_days: fields.optional("usage_hourly_days", number(1, MAX_DAYS)),
            usage_daily_days: fields.optional("usage_daily_days", number(1, MAX_DAYS)),
            verification_log_days: fields.optional("verification_log_days", number(1, MAX_DAYS)),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, retention: &mut Retention) {
        set(&mut retention.audit_days, &self.audit_days);
        set(&mut retention.usage_hourly_days, &self.usage_hourly_days);
        set(&mut retention.usage_daily_days, &self.usage_daily_days);
        set(&mut retention.verification_log_days, &self.verification_log_days);
    }
}

impl MaintenancePatch {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::nested(json, faults);
        let value = Self {
            read_only: fields.optional("read_only", rules::flag),
            message: fields.nullable("message", rules::name),
        };
        fields.finish_nested(faults);
        Some(value)
    }

    fn apply(&self, maintenance: &mut Maintenance) {
        set(&mut maintenance.read_only, &self.read_only);
        maintenance.message = self.message.apply(&maintenance.message);
    }
}

fn set<T: Clone>(setting: &mut T, patch: &Option<T>) {
    if let Some(value) = patch {
        setting.clone_from(value);
    }
}

fn number(min: u32, max: u32) -> impl FnOnce(&Json, &mut Faults) -> Option<u32> {
    move |json, faults| u32::try_from(rules::whole(min.into(), max.into())(json, faults)?).ok()
}

fn audit_days(json: &Json, faults: &mut Faults) -> Option<u32> {
    if *json == Json::Number(0.into()) {
        return Some(0);
    }
    let mut own = Faults::default();
    let days = number(MIN_AUDIT_DAYS, MAX_DAYS)(json, &mut own);
    if days.is_none() {
        let message = format!(
            "Must be 0, to keep the audit log for ever, or a whole number from {MIN_AUDIT_DAYS} to {MAX_DAYS}."
        );
        faults.add("INVALID_VALUE", message);
    }
    days
}

fn prefix(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.text(json)?;
    if is_prefix(text) {
        return Some(text.to_owned());
    }
    let message = "Must be a lower-case letter, then up to 15 lower-case letters or digits.";
    faults.add("INVALID_VALUE", message);
    None
}

fn plans_patch_schema() -> Object {
    let plan =
        OneOfBuilder::new().item(Ref::from_schema_name("PlanPatch")).item(Object::with_type(Type::Null));
    let gold = serde_json::json!({ "requests_per_minute": 5000, "max_keys": 50, "max_members": 20 });
    plans_of(Schema::OneOf(plan.build()).into())
        .examples([serde_json::json!({ "gold": gold, "silver": null })])
        .description(Some(
            "Merged plan by plan: an object changes a plan or, if it is whole, adds one; `null` takes one \
             away that no organization is on. `standard` stays.",
        ))
        .build()
}
