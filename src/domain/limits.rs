//! Limits of keys and organizations. A limit is on a meter, and either a rate limit with a window or a quota
//! for a period. All limits that apply to a request decide together.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{AdditionalProperties, RefBuilder, Type};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use super::fields::{Faults, Fields, Json};
use super::meter::Meter;
use super::rules;
use super::time::Timestamp;
use crate::error::Code;

/// The maximum number of limits of one key, organization or plan.
pub(crate) const MAX_LIMITS: usize = 8;

/// The longest window of a rate limit, in seconds: one day. Limits over longer times are quotas.
pub(crate) const MAX_WINDOW_SECONDS: u32 = 86_400;

/// The highest `limit` of a rate limit, in units.
pub(crate) const MAX_WINDOW_UNITS: u64 = 1_000_000_000;

/// The highest `limit` of a quota, in units: the largest whole number that every JSON parser represents
/// exactly (RFC 8259 §6).
pub(crate) const MAX_QUOTA_UNITS: u64 = (1 << 53) - 1;

/// A limit on a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "LimitFields", try_from = "LimitFields")]
pub struct Limit {
    /// What is counted.
    pub meter: Meter,
    /// Units per window or period.
    pub limit: u64,
    /// The time in which that many units may be spent.
    pub span: LimitSpan,
}

/// The time that a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitSpan {
    /// A rate limit: a token bucket that holds `limit` units and refills continuously in this many seconds.
    Window(u32),
    /// A quota: `limit` units per period.
    Period(Period),
}

/// The JSON fields of a [`Limit`], which has either a window or a period.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitFields {
    #[serde(default)]
    meter: Meter,
    limit: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period: Option<Period>,
}

impl From<Limit> for LimitFields {
    fn from(Limit { meter, limit, span }: Limit) -> Self {
        Self { meter, limit, window_seconds: span.window_seconds(), period: span.period() }
    }
}

impl TryFrom<LimitFields> for Limit {
    type Error = &'static str;

    fn try_from(fields: LimitFields) -> Result<Self, Self::Error> {
        let LimitFields { meter, limit, window_seconds, period } = fields;
        let span = match (window_seconds, period) {
            (Some(seconds), None) => LimitSpan::Window(seconds),
            (None, Some(period)) => LimitSpan::Period(period),
            _ => return Err("a limit has either window_seconds or period"),
        };
        Ok(Self { meter, limit, span })
    }
}

impl Limit {
    /// Number of units to lease at once: 1 % of the limit, at least 1. The unused units of a lease are lost in a
    /// crash, so a smaller lease loses less and a larger one needs fewer writes.
    pub(crate) fn lease_units(limit: u64) -> u64 {
        (limit / 100).max(1)
    }

    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let Json::Object(given) = json else {
            faults.expect_object(json);
            return None;
        };
        let mut fields = Fields::of_nested_object(json, faults);
        let given_meter = fields.optional("meter", parse_meter);
        let is_meter_invalid = given_meter.is_none() && fields.is_given("meter");
        let window = fields.optional("window_seconds", rules::integer_parser(1, MAX_WINDOW_SECONDS.into()));
        let period = fields.optional("period", rules::parse_one_of);
        let max = if window.is_some() { MAX_WINDOW_UNITS } else { MAX_QUOTA_UNITS };
        let limit = fields.required("limit", rules::integer_parser(1, max));
        fields.finish_nested(faults);
        let span = match (window, period) {
            (Some(seconds), None) => LimitSpan::Window(u32::try_from(seconds).ok()?),
            (None, Some(period)) => LimitSpan::Period(period),
            _ => {
                // One that is given but invalid is already a fault.
                let is_span = |(name, _): &&(String, Json)| name == "window_seconds" || name == "period";
                if given.iter().filter(is_span).count() != 1 {
                    faults.add("INVALID_VALUE", "Give either window_seconds or period.");
                }
                return None;
            }
        };
        let meter = given_meter.unwrap_or_default();
        (!is_meter_invalid).then_some(Self { meter, limit, span })
    }
}

/// Parses a list of limits, with at most one for each meter and window or period.
pub(crate) fn parse_limits(json: &Json, faults: &mut Faults) -> Option<Vec<Limit>> {
    let items = faults.expect_array(json)?;
    if items.len() > MAX_LIMITS {
        faults.add("TOO_MANY", format!("At most {MAX_LIMITS} limits are allowed; this is {}.", items.len()));
        return None;
    }
    let mut limits: Vec<Limit> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(limit) = Limit::read(item, faults) else { return };
            if limits.iter().any(|other| (other.meter, other.span) == (limit.meter, limit.span)) {
                let message = "An earlier limit in this list has the same meter and the same window or period. \
                               Remove one of them.";
                faults.add("DUPLICATE", message);
            }
            limits.push(limit);
        });
    }
    Some(limits)
}

/// Reports the limits that are not on one of these meters.
pub(crate) fn check_meters(limits: &[Limit], meters: &[Meter], faults: &mut Faults) {
    for (index, _) in limits.iter().enumerate().filter(|(_, limit)| !meters.contains(&limit.meter)) {
        let message = unknown_meter_message(meters);
        faults.at_child(&index.to_string(), |faults| {
            faults.at_child("meter", |faults| faults.add(Code::UnknownMeter.name(), message));
        });
    }
}

/// What is wrong with the name of a meter that is none of these.
pub(crate) fn unknown_meter_message(meters: &[Meter]) -> String {
    let names: Vec<_> = meters.iter().map(Meter::name).collect();
    format!("Must be one of the meters: {}.", names.join(", "))
}

/// Parses the name of a meter. Whether the settings declare it is checked when it is stored.
pub(crate) fn parse_meter(json: &Json, faults: &mut Faults) -> Option<Meter> {
    let meter = Meter::parse(faults.expect_string(json)?);
    if meter.is_none() {
        let message = "The name of a meter is a lowercase letter, followed by up to 31 lowercase letters, digits and \
                       underscores.";
        faults.add("INVALID_NAME", message);
    }
    meter
}

impl LimitSpan {
    /// The window of a rate limit, in seconds; `None` for a quota.
    pub(crate) fn window_seconds(self) -> Option<u32> {
        if let LimitSpan::Window(seconds) = self { Some(seconds) } else { None }
    }

    /// The period of a quota; `None` for a rate limit.
    pub(crate) fn period(self) -> Option<Period> {
        if let LimitSpan::Period(period) = self { Some(period) } else { None }
    }
}

/// The period of a quota, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LimitPeriod)]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub enum Period {
    Hour,
    #[default]
    Day,
    /// A week of ISO 8601, which begins on Monday.
    Week,
    Month,
    /// All time: the units are never refilled.
    Total,
}

impl Period {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the start of the period that contains `now`, and the start of the next period.
    pub(crate) fn bounds_at(self, now: Timestamp) -> (Timestamp, Timestamp) {
        match self {
            Period::Hour => now.bucket_bounds(3_600_000),
            Period::Day => now.bucket_bounds(86_400_000),
            Period::Week => now.week_bounds(),
            Period::Month => now.month_bounds(),
            Period::Total => (Timestamp::from_millis(0), Timestamp::from_millis(i64::MAX)),
        }
    }
}

impl ToSchema for Limit {
    fn name() -> Cow<'static, str> {
        "Limit".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((period_schema_name(), Period::schema()));
    }
}

fn period_schema_name() -> String {
    <Period as ToSchema>::name().into_owned()
}

// One flat object: alternatives without a discriminator lose fields in generated clients.
impl PartialSchema for Limit {
    fn schema() -> RefOr<Schema> {
        let meter = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[a-z][a-z0-9_]{0,31}$"))
            .description(Some("What is counted: one of the configured meters; `requests` if omitted."));
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(1))
            .maximum(Some(MAX_QUOTA_UNITS))
            .description(Some("Units per window or period; at most 1,000,000,000 for a rate limit."));
        let window = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .minimum(Some(1))
            .maximum(Some(MAX_WINDOW_SECONDS))
            .description(Some("For a rate limit: seconds in which an empty bucket is refilled."));
        let period = RefBuilder::new()
            .ref_location_from_schema_name(period_schema_name())
            .description(Some("For a quota: the period of its units, in UTC."));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("meter", meter)
            .property("limit", limit)
            .property("window_seconds", window)
            .property("period", period)
            .required("limit")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .description(Some(
                "A limit on a meter. It has either `window_seconds`: a rate limit, whose token bucket holds `limit` units \
                 and is refilled continuously. Or it has `period`: a quota of `limit` units per period.",
            ))
            .examples([serde_json::json!({"meter": "requests", "limit": 100, "window_seconds": 60})])
            .into()
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
