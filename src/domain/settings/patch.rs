//! Parses a merge patch of the settings and applies it.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{AdditionalProperties, Object, Type};
use utoipa::openapi::{OneOfBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::rules::{METERS, PLANS, Rule, SECTIONS, Section};
use super::{KeySettings, MAX_PLANS, Settings, is_plan_name, plan_map_schema};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::limits;
use crate::error::{Code, Error, Result};

/// A JSON merge patch of the settings, in which every value is valid by itself.
#[derive(Clone, Debug)]
pub(crate) struct SettingsPatch(Map<String, Value>);

impl SettingsPatch {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let mut sections = Map::new();
        let meters = fields.optional(METERS, |json, faults| Rule::Meters.parse(json, faults));
        sections.extend(meters.map(|meters| (METERS.to_owned(), meters)));
        for section in SECTIONS.iter() {
            let values = fields.optional(section.name, |json, faults| match section.name {
                PLANS => parse_plans(section, json, faults),
                _ => section.parse(json, faults),
            });
            sections.extend(values.map(|values| (section.name.to_owned(), values)));
        }
        fields.finish(Self(sections))
    }

    /// Returns the settings after the patch.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with all faults if the settings are inconsistent or a new plan is incomplete, `UNKNOWN_METER`
    /// if a limit in the patch is on a meter that the settings don't have then, and `CONFLICT` if the limit of a plan
    /// that isn't in the patch is.
    pub(crate) fn apply(&self, before: &Settings) -> Result<Settings> {
        let mut after = serde_json::to_value(before).map_err(Error::internal)?;
        for (section, values) in &self.0 {
            merge(&mut after[section], values);
        }
        let mut faults = Faults::default();
        if let Some(given) = self.0.get("keys") {
            let keys: KeySettings = serde_json::from_value(after["keys"].clone()).map_err(Error::internal)?;
            check_consistency(&keys, given, &mut faults);
        }
        if let (Some(given), Some(plans)) = (self.0.get(PLANS), after[PLANS].as_object_mut()) {
            plans.retain(|_, plan| !plan.is_null());
            faults.at_child(PLANS, |faults| check_plans(given, plans, faults));
        }
        faults.finish(())?;
        let after: Settings = serde_json::from_value(after).map_err(Error::internal)?;
        self.check_meters(&after)?;
        Ok(after)
    }

    /// Checks that the limits of plans are on meters of the settings.
    fn check_meters(&self, after: &Settings) -> Result<()> {
        let mut faults = Faults::default();
        let mut conflict = None;
        for (name, plan) in &after.plans {
            let lists =
                [("key_limits", &plan.key_limits), ("organization_limits", &plan.organization_limits)];
            for (list, limits) in lists {
                if self.0.get(PLANS).and_then(|plans| plans.get(name)?.get(list)).is_some() {
                    let fault = |faults: &mut Faults| limits::check_meters(limits, &after.meters, faults);
                    let at_list = |faults: &mut Faults| faults.at_child(list, fault);
                    faults.at_child(PLANS, |faults| faults.at_child(name, at_list));
                } else if let Some(limit) = limits.iter().find(|limit| !after.meters.contains(&limit.meter)) {
                    conflict = conflict.or(Some((name, limit.meter)));
                }
            }
        }
        faults.finish(()).map_err(Error::with_code_of_details)?;
        match conflict {
            None => Ok(()),
            Some((name, meter)) => {
                let message = format!(
                    "The plan {name} has a limit on the meter {meter}. Remove the limits on {meter} first."
                );
                Err(Error::new(Code::Conflict, message))
            }
        }
    }
}

/// Replaces the values that the patch gives. A `null` in the patch becomes the value.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
        (target, patch) => target.clone_from(patch),
    }
}

fn parse_plans(section: &'static Section, json: &Json, faults: &mut Faults) -> Option<Value> {
    let mut plans = Map::new();
    for (name, plan) in faults.expect_object(json)? {
        faults.at_child(name, |faults| {
            if !is_plan_name(name) {
                let message = "A plan's name must start with a lowercase letter, followed by up to 31 \
                               lowercase letters, digits and hyphens.";
                faults.add("INVALID_NAME", message);
            }
            let plan = if *plan == Json::Null { None } else { section.parse(plan, faults) };
            plans.insert(name.clone(), plan.unwrap_or_default());
        });
    }
    Some(plans.into())
}

fn check_consistency(keys: &KeySettings, given: &Value, faults: &mut Faults) {
    if let Err(message) = keys.ensure_consistent() {
        let is_default_given = given.get("default_expiry_days").is_some();
        let field = if is_default_given { "default_expiry_days" } else { "max_expiry_days" };
        faults.at_child("keys", |faults| {
            faults.at_child(field, |faults| faults.add("INVALID_VALUE", message));
        });
    }
}

/// Checks the given plans after the patch. A new plan must have all settings, because a missing limit could mean
/// either no limit or a limit of zero.
fn check_plans(given: &Value, plans: &Map<String, Value>, faults: &mut Faults) {
    let settings = SECTIONS.iter().filter(|section| section.name == PLANS).flat_map(|section| &section.rules);
    let settings: Vec<_> = settings.map(|(name, _)| name).collect();
    for name in given.as_object().into_iter().flat_map(Map::keys) {
        let Some(plan) = plans.get(name) else { continue };
        for setting in settings.iter().filter(|setting| plan.get(setting).is_none()) {
            let message = "Required for a new plan; 0 or an empty list means no limit.";
            faults.at_child(name, |faults| {
                faults.at_child(setting, |faults| faults.add("REQUIRED", message));
            });
        }
    }
    if plans.len() > MAX_PLANS {
        let message = format!("At most {MAX_PLANS} plans are allowed; this would be {}.", plans.len());
        faults.add("TOO_MANY", message);
    }
}

impl KeySettings {
    /// Checks that the settings for keys are consistent. Returns the reason if they aren't.
    pub(crate) fn ensure_consistent(&self) -> Result<(), &'static str> {
        let is_consistent = self.max_expiry_days == 0 || self.default_expiry_days <= self.max_expiry_days;
        if is_consistent { Ok(()) } else { Err("default_expiry_days must not exceed max_expiry_days.") }
    }
}

impl ToSchema for SettingsPatch {
    fn name() -> Cow<'static, str> {
        "SettingsPatch".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for section in SECTIONS.iter() {
            let mut patch = to_patch(section.schema.clone());
            patch.example = (section.name != PLANS).then(|| example_of(section));
            schemas.push((patch_name(section), patch.into()));
        }
    }
}

impl PartialSchema for SettingsPatch {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(settings)) = Settings::schema() else { return Object::new().into() };
        let mut patch = to_patch(settings);
        patch.description = Some("A JSON merge patch of the configuration.".to_owned());
        for section in SECTIONS.iter() {
            let reference = Ref::from_schema_name(patch_name(section));
            match patch.properties.get_mut(section.name) {
                Some(RefOr::Ref(property)) => property.ref_location = reference.ref_location,
                Some(plans) => *plans = plans_patch_schema(reference, example_of(section)).into(),
                None => {}
            }
        }
        patch.into()
    }
}

fn patch_name(section: &Section) -> String {
    format!("{}Patch", section.schema_name)
}

/// Returns the schema of a merge patch of an object.
fn to_patch(mut object: Object) -> Object {
    object.required.clear();
    object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    object
}

/// An example of a section in a patch.
fn example_of(section: &Section) -> Value {
    json!({
        "keys": { "prefixes": ["acme_live", "acme_test"], "default_expiry_days": 0 },
        "rate_limits": { "batch_per_minute": 100 },
        PLANS: {
            "gold": {
                "key_limits": [{ "meter": "requests", "limit": 500, "window_seconds": 60 }],
                "organization_limits": [{ "meter": "requests", "limit": 1_000_000, "period": "month" }],
                "max_keys": 50,
                "max_members": 20
            },
            "silver": null
        },
        "retention": { "audit_days": 365 },
        "maintenance": { "read_only": false, "message": "Back at 14:00 UTC." },
    })[section.name]
        .take()
}

fn plans_patch_schema(plan: Ref, example: Value) -> Object {
    let plan = OneOfBuilder::new().item(plan).item(Object::with_type(Type::Null));
    plan_map_schema(Schema::OneOf(plan.build()).into())
        .examples([example])
        .description(Some(
            "Changes to the plans, merged plan by plan: an object changes a plan or, if it has all fields, \
             adds a plan; `null` removes a plan that no organization is on. `standard` can't be removed.",
        ))
        .build()
}
