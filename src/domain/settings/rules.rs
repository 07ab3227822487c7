//! The rules of single settings, taken from their schemas, so that each setting is declared only once: by its
//! field in [`Settings`](super::Settings).

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::{Number, ToSchema};

use super::{KeySettings, MAX_METERS, Maintenance, Plan, RateLimits, Retention};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::limits::{self, MAX_LIMITS};
use crate::domain::meter::Meter;
use crate::domain::patch::Patch;
use crate::domain::rules;
use crate::domain::secret_prefix::{self, MAX_PREFIXES, SECRET_PREFIX_FORM};

/// What the value of a setting must be.
#[derive(Debug, PartialEq)]
pub(crate) enum Rule {
    Boolean,
    /// A whole number from `min` to `max`, or 0 if `or_zero` is true.
    Integer {
        min: u64,
        max: u64,
        or_zero: bool,
    },
    /// A list of prefixes of the secrets of keys.
    SecretPrefixes,
    /// A text, or no value.
    OptionalText,
    /// A list of limits.
    Limits,
    /// A list of meters.
    Meters,
}

/// A section of the settings: a group of fields of [`Settings`](super::Settings), or the fields of each plan.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) schema_name: String,
    pub(super) schema: Object,
    pub(super) rules: Vec<(String, Rule)>,
}

/// The name of the section that has an object for each plan.
pub(super) const PLANS: &str = "plans";

/// All sections, in the order of the fields of [`Settings`](super::Settings).
pub(super) static SECTIONS: LazyLock<[Section; 5]> = LazyLock::new(|| {
    [
        Section::new::<KeySettings>("keys"),
        Section::new::<RateLimits>("rate_limits"),
        Section::new::<Plan>(PLANS),
        Section::new::<Retention>("retention"),
        Section::new::<Maintenance>("maintenance"),
    ]
});

/// The name of the list of meters, which is a setting without a section.
pub(super) const METERS: &str = "meters";

/// Finds the rule of a setting by its path, such as `["keys", "prefixes"]` or `["plans", "standard", "max_keys"]`.
pub(crate) fn find_rule(path: &[String]) -> Option<&'static Rule> {
    if path == [METERS] {
        return Some(&Rule::Meters);
    }
    let section = SECTIONS.iter().find(|section| Some(section.name) == path.first().map(String::as_str))?;
    let rule = section.rules.iter().find(|(name, _)| Some(name) == path.last());
    rule.map(|(_, rule)| rule)
}

impl Section {
    fn new<T: ToSchema>(name: &'static str) -> Self {
        let schema = match T::schema() {
            RefOr::T(Schema::Object(schema)) => schema,
            _ => Object::new(),
        };
        let rules =
            schema.properties.iter().filter_map(|(name, schema)| Some((name.clone(), Rule::of(schema)?)));
        Self { name, schema_name: T::name().into_owned(), rules: rules.collect(), schema }
    }

    /// Parses the given settings of the section. Unknown settings are faults.
    pub(super) fn parse(&'static self, json: &Json, faults: &mut Faults) -> Option<Value> {
        let mut fields = Fields::of_nested_object(json, faults);
        let mut values = Map::new();
        for (name, rule) in &self.rules {
            let parse = |json: &Json, faults: &mut Faults| rule.parse(json, faults);
            let value = match rule {
                Rule::OptionalText => match fields.nullable(name, parse) {
                    Patch::Keep => None,
                    Patch::Clear => Some(Value::Null),
                    Patch::Set(value) => Some(value),
                },
                _ => fields.optional(name, parse),
            };
            values.extend(value.map(|value| (name.clone(), value)));
        }
        fields.finish_nested(faults);
        Some(values.into())
    }
}

impl Rule {
    /// The rule that a setting's schema describes.
    fn of(schema: &RefOr<Schema>) -> Option<Self> {
        let object = match schema {
            RefOr::T(Schema::Object(object)) => object,
            // A list of texts is the list of prefixes; the others are lists of limits.
            RefOr::T(Schema::Array(list)) => {
                let is_of_texts = matches!(
                    &list.items,
                    ArrayItems::RefOrSchema(item) if matches!(&**item, RefOr::T(Schema::Object(_)))
                );
                return Some(if is_of_texts { Self::SecretPrefixes } else { Self::Limits });
            }
            // The number 0, or a range.
            RefOr::T(Schema::AnyOf(any_of)) => {
                return match any_of.items.last().map(Self::of)?? {
                    Self::Integer { min, max, .. } => Some(Self::Integer { min, max, or_zero: true }),
                    _ => None,
                };
            }
            _ => return None,
        };
        match &object.schema_type {
            SchemaType::Type(Type::Boolean) => Some(Self::Boolean),
            SchemaType::Type(Type::Integer) => {
                let min = bound(object.minimum.as_ref())?;
                Some(Self::Integer { min, max: bound(object.maximum.as_ref())?, or_zero: false })
            }
            SchemaType::Array(types) if types.contains(&Type::String) => Some(Self::OptionalText),
            _ => None,
        }
    }

    /// Parses a value. The code and the message of a fault depend on the rule.
    pub(crate) fn parse(&self, json: &Json, faults: &mut Faults) -> Option<Value> {
        match *self {
            Self::Boolean => rules::parse_bool(json, faults).map(Value::from),
            Self::Integer { or_zero: true, .. } if *json == Json::Number(0.into()) => Some(0.into()),
            Self::Integer { min, max, .. } => {
                // The faults of the number parser are discarded, because its message doesn't mention 0.
                let number = rules::integer_parser(min, max)(json, &mut Faults::default());
                if number.is_none() {
                    faults.add("INVALID_VALUE", format!("Must be {}.", self.expected()));
                }
                number.map(Value::from)
            }
            Self::SecretPrefixes => to_value(secret_prefix::parse_prefixes(json, faults)?),
            Self::OptionalText => rules::parse_name(json, faults).map(Value::from),
            Self::Limits => to_value(limits::parse_limits(json, faults)?),
            Self::Meters => to_value(parse_meters(json, faults)?),
        }
    }

    /// Describes a valid value, for error messages.
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max, or_zero } => {
                format!("a whole number from {min} to {max}{}", if *or_zero { ", or 0" } else { "" })
            }
            Self::SecretPrefixes => format!(
                "a list of 1 to {MAX_PREFIXES} different prefixes: each {SECRET_PREFIX_FORM}, and no prefix of ids"
            ),
            Self::OptionalText => {
                "a text of at most 200 characters, without control characters and secrets".to_owned()
            }
            Self::Limits => format!(
                "a list of at most {MAX_LIMITS} limits, such as [{{ meter = \"requests\", limit = 100, window_seconds = \
                 60 }}, {{ limit = 10000, period = \"month\" }}], each for another meter, window or period"
            ),
            Self::Meters => format!(
                "a list of at most {MAX_METERS} meters with requests among them: each a lowercase letter, followed by \
                 up to 31 lowercase letters, digits and underscores"
            ),
        }
    }
}

fn to_value(value: impl Serialize) -> Option<Value> {
    serde_json::to_value(value).ok()
}

/// Parses the list of meters, which contains `requests`.
fn parse_meters(json: &Json, faults: &mut Faults) -> Option<Vec<Meter>> {
    let items = faults.expect_array(json)?;
    if items.len() > MAX_METERS {
        faults.add("TOO_MANY", format!("At most {MAX_METERS} meters are allowed; this is {}.", items.len()));
        return None;
    }
    let mut meters = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(meter) = limits::parse_meter(item, faults) else { return };
            if meters.contains(&meter) {
                faults.add("DUPLICATE", "This meter is already in the list.");
            }
            meters.push(meter);
        });
    }
    if !meters.contains(&Meter::REQUESTS) {
        faults.add("REQUIRED", "The meter requests is always there; add it to the list.");
        return None;
    }
    Some(meters)
}

/// Converts a bound of a schema, which is a whole number of any type.
fn bound(number: Option<&Number>) -> Option<u64> {
    match *number? {
        Number::Int(number) => u64::try_from(number).ok(),
        Number::UInt(number) => u64::try_from(number).ok(),
        Number::Float(number) => Some(number as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::Settings;
    use utoipa::PartialSchema;

    #[test]
    fn every_setting_has_a_rule() {
        let RefOr::T(Schema::Object(settings)) = Settings::schema() else { panic!() };
        let names: Vec<_> = settings.properties.keys().collect();
        let sections: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
        assert_eq!(sections, names.into_iter().filter(|name| *name != METERS).collect::<Vec<_>>());
        for section in SECTIONS.iter() {
            let ruled: Vec<_> = section.rules.iter().map(|(name, _)| name).collect();
            assert_eq!(ruled, section.schema.properties.keys().collect::<Vec<_>>(), "{}", section.name);
        }
        let names = |path: &[&str]| path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let number = |min, max, or_zero| Rule::Integer { min, max, or_zero };
        for (path, rule) in [
            (&["keys", "prefixes"][..], Rule::SecretPrefixes),
            (&["keys", "require_allowed_ips_for_admin"], Rule::Boolean),
            (&["rate_limits", "organization_factor"], number(0, 1_000, false)),
            (&["meters"], Rule::Meters),
            (&["plans", "standard", "max_keys"], number(0, 1_000_000_000, false)),
            (&["plans", "gold", "organization_limits"], Rule::Limits),
            (&["retention", "audit_days"], number(30, 36_500, true)),
            (&["retention", "usage_daily_days"], number(1, 36_500, false)),
            (&["maintenance", "message"], Rule::OptionalText),
        ] {
            assert_eq!(find_rule(&names(path)), Some(&rule), "{path:?}");
        }
        assert_eq!(find_rule(&names(&["http", "listen"])), None);
    }
}
