//! The limits of an API key: a rate limit, and a quota per calendar period.

use serde::Serialize;

use super::fields::{Faults, Fields, Json};
use super::rules;
use super::time::Timestamp;

/// The longest window of a rate limit: one day. Limits over longer times are quotas.
pub(crate) const MAX_WINDOW_SECONDS: u32 = 86_400;

/// The highest `limit` of a rate limit, in tokens.
pub(crate) const MAX_RATE_LIMIT_TOKENS: u32 = 1_000_000_000;

/// The highest `limit` of a quota, in units: the largest whole number that every JSON parser represents
/// exactly (RFC 8259 §6).
pub(crate) const MAX_QUOTA_UNITS: u64 = (1 << 53) - 1;

/// A rate limit: a token bucket with a capacity of `limit` tokens, refilled continuously over
/// `window_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"limit": 100, "window_seconds": 60}))]
pub struct RateLimit {
    /// Capacity of the bucket in tokens. A verification spends as many tokens as its `cost`.
    #[schema(minimum = 1, maximum = 1_000_000_000, example = 100)]
    pub(crate) limit: u32,
    /// Seconds in which an empty bucket refills completely.
    #[schema(minimum = 1, maximum = 86_400, example = 60)]
    pub(crate) window_seconds: u32,
}

impl RateLimit {
    pub(crate) fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let limit = fields.required("limit", rules::integer_parser(1, MAX_RATE_LIMIT_TOKENS.into()));
        let window = fields.required("window_seconds", rules::integer_parser(1, MAX_WINDOW_SECONDS.into()));
        fields.finish_nested(faults);
        Some(Self { limit: u32::try_from(limit).ok()?, window_seconds: u32::try_from(window).ok()? })
    }
}

/// A quota: a number of units per calendar period in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"limit": 10_000, "period": "month"}))]
pub struct Quota {
    /// Units per period. A verification spends as many units as its `cost`.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_u64, example = 10_000)]
    pub(crate) limit: u64,
    /// The calendar period of the quota, in UTC.
    pub period: Period,
}

impl Quota {
    pub(crate) fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of_nested_object(json, faults);
        let limit = fields.required("limit", rules::integer_parser(1, MAX_QUOTA_UNITS));
        let period = fields.required("period", rules::parse_one_of);
        fields.finish_nested(faults);
        Some(Self { limit, period })
    }

    /// Returns the number of units to lease at once: 1 % of the limit, at least 1. The unused units of a
    /// lease are lost in a crash, so a smaller lease loses less and a larger one needs fewer writes.
    pub(crate) fn lease_units(&self) -> u64 {
        (self.limit / 100).max(1)
    }
}

/// The calendar period of a quota, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = QuotaPeriod)]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub enum Period {
    Hour,
    #[default]
    Day,
    Month,
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
            Period::Month => now.month_bounds(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_periods_follow_the_utc_calendar() {
        let time = |text| Timestamp::parse(text).unwrap();
        for (period, now, start, end) in [
            (Period::Hour, "2026-11-23T07:08:09.123Z", "2026-11-23T07:00:00Z", "2026-11-23T08:00:00Z"),
            (Period::Day, "2026-11-23T07:08:09.123Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Period::Month, "2026-12-31T23:59:59.999Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Period::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Period::Month, "2028-02-01T00:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ] {
            assert_eq!(period.bounds_at(time(now)), (time(start), time(end)), "{period:?} around {now}");
        }
    }

    #[test]
    fn a_quota_lease_is_one_percent_and_at_least_one() {
        let lease = |limit| Quota { limit, period: Period::Day }.lease_units();
        assert_eq!([1, 99, 100, 250, 1_000_000].map(lease), [1, 1, 1, 2, 10_000]);
    }
}
