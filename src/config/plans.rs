//! Plans that the user adds to those of `config.toml`, as further initial values.

use std::collections::BTreeSet;

use figment::value::{Dict, Value};

use super::Config;
use crate::domain::limits::{self, Limit};
use crate::domain::settings::{MAX_PLANS, Plan, is_plan_name};

/// The section that has a section for each plan.
const PLANS: &str = "plans";

/// What a path says about plans.
pub(super) enum PlanPath {
    /// It belongs to no plan, or to a known one.
    Other,
    /// It belongs to a plan that isn't known yet. These are the plan's settings, with their defaults.
    New(Vec<(Vec<String>, Value)>),
    /// No plan can have this path. The message says why.
    Invalid(String),
}

/// Classifies the path of a value. `known` are the paths of all known settings.
pub(super) fn classify<'a>(
    names: &[String],
    value: &Value,
    known: impl Iterator<Item = &'a Vec<String>>,
) -> PlanPath {
    let [section, plan, below @ ..] = names else { return PlanPath::Other };
    let is_plan = below.is_empty() && value.as_dict().is_some_and(Dict::is_empty);
    let is_setting = below.len() == 1 && plan_defaults().contains_key(&below[0]);
    if section != PLANS || !is_plan && !is_setting {
        return PlanPath::Other;
    }
    let known: BTreeSet<_> = known.filter(|path| path[0] == PLANS).map(|path| &path[1]).collect();
    if known.contains(plan) {
        return PlanPath::Other;
    }
    if !is_plan_name(plan) {
        let message = "the name of a plan must start with a lowercase letter, followed by up to 31 lowercase letters, \
                       digits and hyphens";
        return PlanPath::Invalid(message.to_owned());
    }
    if known.len() >= MAX_PLANS {
        return PlanPath::Invalid(format!("at most {MAX_PLANS} plans are allowed"));
    }
    let path = |setting| vec![PLANS.to_owned(), plan.clone(), setting];
    PlanPath::New(plan_defaults().into_iter().map(|(setting, default)| (path(setting), default)).collect())
}

/// The limits of plans on meters that the configuration doesn't list: their paths, with a message for each.
pub(super) fn find_unknown_meters(config: &Config) -> Vec<([String; 3], String)> {
    let mut found = Vec::new();
    for (plan, Plan { key_limits, organization_limits, .. }) in &config.plans {
        for (list, limits) in [("key_limits", key_limits), ("organization_limits", organization_limits)] {
            let is_unknown = |limit: &&Limit| !config.meters.contains(&limit.meter);
            let Some(unknown) = limits.iter().find(is_unknown) else { continue };
            let message = format!(
                "unknown meter {}: add it to the setting meters. {}",
                unknown.meter,
                limits::unknown_meter_message(&config.meters)
            );
            found.push(([PLANS, plan, list].map(str::to_owned), message));
        }
    }
    found
}

/// True if this is the path of a plan as a whole.
pub(super) fn is_plan(names: &[String]) -> bool {
    matches!(names, [section, plan] if section == PLANS && is_plan_name(plan))
}

/// The paths of the settings of the plan to which this path belongs, for suggestions.
pub(super) fn settings_of_plan(names: &[String]) -> Vec<Vec<String>> {
    match names {
        [section, plan, ..] if section == PLANS && is_plan_name(plan) => {
            plan_defaults().into_keys().map(|setting| vec![section.clone(), plan.clone(), setting]).collect()
        }
        _ => Vec::new(),
    }
}

/// The settings of a plan that sets nothing: no limits.
fn plan_defaults() -> Dict {
    Value::serialize(Plan::default()).ok().and_then(Value::into_dict).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{env_pairs, fault_messages, load_with_env, load_with_file};
    use super::super::{ConfigFlags, EffectiveConfig};
    use super::*;

    #[test]
    fn plans_are_added_by_file_and_environment() {
        let file = "meters = ['requests', 'tokens']\n[plans.gold]\nmax_keys = 5\norganization_limits = [{ meter = \
                    'tokens', limit = 100, period = 'month' }]\n[plans.free]\n[plans.standard]\nmax_keys = 7\n";
        let config = load_with_file(file).unwrap();
        let names: Vec<_> = config.plans.keys().map(String::as_str).collect();
        assert_eq!(names, ["enterprise", "free", "gold", "standard"]);
        assert_eq!(config.plans["free"], Plan::default());
        assert_eq!((config.plans["gold"].max_keys, config.plans["standard"].max_keys), (5, 7));
        let gold = &config.plans["gold"];
        assert_eq!((gold.key_limits.len(), gold.organization_limits[0].limit), (0, 100));
        assert_eq!(config.plans["standard"].key_limits.len(), 1, "the other settings are the shipped ones");

        let variable = "TOLLHOUSE_PLANS__GOLD__KEY_LIMITS";
        for list in [
            r#"[{"limit":5,"window_seconds":60}]"#,
            r#" [ {"meter": "requests", "limit": 5, "window_seconds": 60} ] "#,
            "[{ limit = 5, window_seconds = 60 }]",
        ] {
            let gold = &load_with_env(&[(variable, list)]).unwrap().plans["gold"];
            assert_eq!((gold.key_limits[0].limit, gold.key_limits.len(), gold.max_keys), (5, 1, 0), "{list}");
        }
        assert_eq!(
            load_with_env(&[("TOLLHOUSE_PLANS__GOLD__MAX_KEYS", "3")]).unwrap().plans["gold"].max_keys,
            3
        );
        assert_eq!(load_with_env(&[(variable, "[]")]).unwrap().plans["gold"], Plan::default());
    }

    #[test]
    fn a_variable_overrides_the_file_setting_by_setting() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tollhouse.toml");
        std::fs::write(&file, "[plans.gold]\nmax_keys = 5\nmax_members = 6\n").unwrap();
        let environment = env_pairs(&[("TOLLHOUSE_PLANS__GOLD__MAX_KEYS", "8")]);
        let loaded = EffectiveConfig::load(Some(&file), environment, ConfigFlags::default()).unwrap();
        let gold = &loaded.config.plans["gold"];
        assert_eq!((gold.max_keys, gold.max_members), (8, 6));
        let sources: Vec<_> = loaded.setting_sources.into_iter().collect();
        let source = |setting: &str, source: &str| (setting.to_owned(), source.to_owned());
        let expected = [
            source("plans.gold.max_keys", "TOLLHOUSE_PLANS__GOLD__MAX_KEYS"),
            source("plans.gold.max_members", &format!("{}:3", file.display())),
        ];
        assert_eq!(sources, expected);
    }

    #[test]
    fn faults_of_plans_have_their_place_and_a_remedy() {
        for (file, expected) in [
            (
                "[plans.gold]\nkey_limit = []\n",
                "FILE:2: plans.gold.key_limit: unknown setting; the nearest known one is plans.gold.key_limits",
            ),
            (
                "[plans.Gold]\nmax_keys = 5\n",
                "FILE:2: plans.Gold.max_keys: the name of a plan must start with a lowercase letter, followed by up to \
                 31 lowercase letters, digits and hyphens",
            ),
            ("[plans]\ngold = 5\n", "FILE:2: plans.gold: unknown setting"),
            (
                "[plans.gold]\nmax_keys = -1\n",
                "FILE:2: plans.gold.max_keys: found signed int `-1`, expected a whole number from 0 to 1000000000",
            ),
            (
                "[plans.gold]\nkey_limits = [\n  { limit = 1, window_seconds = 60 },\n  { limit = 0, period = 'day' }\n]\n",
                "FILE:2: plans.gold.key_limits.1.limit: must be a whole number from 1 to 9007199254740991",
            ),
            (
                "[plans.gold]\nkey_limits = [{ limit = 1, seconds = 60 }]\n",
                "FILE:2: plans.gold.key_limits.0.seconds: ",
            ),
            (
                "[plans.gold]\n\norganization_limits = [{ meter = 'tokens', limit = 1, period = 'day' }]\n",
                "FILE:3: plans.gold.organization_limits: unknown meter tokens: add it to the setting meters. Must be \
                 one of the meters: requests.",
            ),
            (
                "meters = ['tokens']\n",
                "FILE:1: meters: the meter requests is always there; add it to the list",
            ),
            ("meters = ['requests', 'Tokens']\n", "FILE:1: meters.1: "),
        ] {
            let faults = fault_messages(load_with_file(file));
            assert!(faults[0].starts_with(expected), "{file}: {faults:?}");
        }
        for (name, value, expected) in [
            ("TOLLHOUSE_PLANS__GOLD__KEY_LIMITS", "5", "plans.gold.key_limits: found "),
            ("TOLLHOUSE_PLANS__GOLD__KEY_LIMITS", r#"[{"limit":5}]"#, "plans.gold.key_limits.0: "),
            ("TOLLHOUSE_PLANS__GOLD__KEY_LIMITS", r#"[{"limit":5"#, "plans.gold.key_limits: found "),
            (
                "TOLLHOUSE_PLANS__GOLD__KEY_LIMITS",
                " ",
                "plans.gold.key_limits: is empty; write [] for no limits",
            ),
            (
                "TOLLHOUSE_PLANS__STANDARD__ORGANIZATION_LIMITS",
                "",
                "plans.standard.organization_limits: is empty; write [] for no limits",
            ),
            ("TOLLHOUSE_PLANS__GOLD__MAX_KEYS", "many", "plans.gold.max_keys: found "),
            ("TOLLHOUSE_PLANS__BIG_GOLD__MAX_KEYS", "5", "plans.big_gold.max_keys: the name of a plan must "),
            (
                "TOLLHOUSE_PLANS__GOLD__MAX_KEY",
                "5",
                "unknown setting; the nearest known one is TOLLHOUSE_PLANS__GOLD__MAX_KEYS",
            ),
            (
                "TOLLHOUSE_PLANS__GOLD",
                r#"{"max_keys":5}"#,
                "a plan has a variable for each of its settings: TOLLHOUSE_PLANS__GOLD__KEY_LIMITS, \
                 TOLLHOUSE_PLANS__GOLD__MAX_KEYS, TOLLHOUSE_PLANS__GOLD__MAX_MEMBERS, \
                 TOLLHOUSE_PLANS__GOLD__ORGANIZATION_LIMITS",
            ),
        ] {
            let faults = fault_messages(load_with_env(&[(name, value)]));
            assert!(faults[0].starts_with(&format!("{name}: {expected}")), "{value}: {faults:?}");
        }
    }

    #[test]
    fn the_number_of_plans_is_limited() {
        let plans = |count: usize| (0..count).map(|n| format!("[plans.p{n}]\n")).collect::<String>();
        assert_eq!(load_with_file(&plans(MAX_PLANS - 2)).unwrap().plans.len(), MAX_PLANS);
        let faults = fault_messages(load_with_file(&plans(MAX_PLANS - 1)));
        assert_eq!(faults.len(), 1);
        assert!(faults[0].ends_with(": at most 100 plans are allowed"), "{faults:?}");
    }
}
