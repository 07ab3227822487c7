//! Usage: the number of verifications of keys by outcome, per hour and per day.

use serde::Serialize;
use strum::VariantArray;
use utoipa::IntoParams;

use super::meter::Meter;
use super::page::Query;
use super::time::Timestamp;
use super::verification::Outcome;

/// The maximum number of buckets (hours or days) in a usage report.
const MAX_BUCKETS: i64 = 10_000;
/// The longest reported period for which the default interval is an hour. The default for longer periods is a
/// day.
const MAX_HOURLY_MILLIS: i64 = 48 * Interval::Hour.millis();
/// The reported period if the query contains no period: 30 days.
const DEFAULT_PERIOD_MILLIS: i64 = 30 * Interval::Day.millis();

/// The number of outcomes that a known key can have: `REVOKED` to `VALID`.
pub(crate) const OUTCOME_COUNT: usize = Outcome::Valid as usize - FIRST_COUNTED_OUTCOME + 1;
/// The discriminant of the first outcome that a known key can have.
const FIRST_COUNTED_OUTCOME: usize = Outcome::Revoked as usize;

/// Counts of verifications of one key, one organization's keys or all keys, over a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCounts {
    outcomes: [u64; OUTCOME_COUNT],
    cost: u64,
}

impl UsageCounts {
    /// Creates counts from stored numbers. `outcomes` is in the order of [`UsageCounts::names`].
    pub(crate) fn new(outcomes: [u64; OUTCOME_COUNT], cost: u64) -> Self {
        Self { outcomes, cost }
    }

    /// Returns the names of the counted outcomes, in the order in which a verification checks for them.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Outcome::VARIANTS.iter().skip(FIRST_COUNTED_OUTCOME).map(|outcome| outcome.name())
    }

    /// Counts one verification. Outcomes of unknown keys are ignored.
    pub(crate) fn add(&mut self, outcome: Outcome, cost: u32) {
        let index = (outcome as usize).checked_sub(FIRST_COUNTED_OUTCOME);
        if let Some(count) = index.and_then(|index| self.outcomes.get_mut(index)) {
            *count += 1;
            self.cost += u64::from(cost);
        }
    }

    /// Adds the counts of `other` to these counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.outcomes.iter_mut().zip(other.outcomes) {
            *count += more;
        }
        self.cost += other.cost;
    }

    /// Returns the number of verifications with each outcome, in the order of [`UsageCounts::names`].
    pub(crate) fn outcomes(&self) -> &[u64; OUTCOME_COUNT] {
        &self.outcomes
    }

    /// These counts with another cost, such as that on another meter.
    pub(crate) fn with_cost(self, cost: u64) -> Self {
        Self { cost, ..self }
    }

    /// Adds to the cost, without counting a verification.
    pub(crate) fn add_cost(&mut self, cost: u64) {
        self.cost += cost;
    }

    /// Returns the total cost of the verifications, and of what was reported afterwards.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns the number of verifications.
    pub(crate) fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn count_of(&self, outcome: Outcome) -> u64 {
        let index = (outcome as usize).checked_sub(FIRST_COUNTED_OUTCOME);
        index.and_then(|index| self.outcomes.get(index)).copied().unwrap_or(0)
    }

    /// Computes the totals that the API returns.
    pub(crate) fn totals(&self) -> Totals {
        let requests = self.requests();
        let allowed = self.count_of(Outcome::Valid);
        Totals {
            requests,
            allowed,
            denied: requests - allowed,
            rate_limited: self.count_of(Outcome::RateLimited),
            quota_exceeded: self.count_of(Outcome::QuotaExceeded),
            cost: self.cost,
        }
    }

    /// Returns one group for each outcome that occurred, the most frequent outcome first. The cost belongs to
    /// the outcome `VALID`, because only valid verifications have a cost; also that which was reported afterwards.
    pub(crate) fn by_code(&self) -> Vec<Group> {
        let outcomes =
            Outcome::VARIANTS.iter().map(|outcome| (outcome.name(), *outcome, self.count_of(*outcome)));
        let mut groups: Vec<_> = outcomes
            .filter(|(_, outcome, count)| *count > 0 || outcome.is_valid() && self.cost > 0)
            .map(|(name, outcome, count)| {
                let mut counts =
                    Self { cost: if outcome.is_valid() { self.cost } else { 0 }, ..Self::default() };
                if let Some(slot) =
                    counts.outcomes.get_mut((outcome as usize).saturating_sub(FIRST_COUNTED_OUTCOME))
                {
                    *slot = count;
                }
                Group { id: Some(name.to_owned()), name: Some(name.to_owned()), totals: counts.totals() }
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.totals.requests));
        groups
    }
}

/// Encodes the approximate size of `figure`: its highest four bits and the number of bits after them. The
/// error is at most one eighth; figures below 16 are exact. Because the magnitude rarely changes when the
/// figure grows, a database index over it needs few updates.
pub(crate) fn magnitude(figure: u64) -> u32 {
    let shift = (u64::BITS - figure.leading_zeros()).saturating_sub(4);
    // The shift is at most 60 and the mantissa at most 15. The mantissa includes its highest bit, which makes
    // the scale continuous where the shift changes.
    shift * 8 + u32::try_from(figure >> shift).unwrap_or(0)
}

/// Returns the smallest figure with this [`magnitude`].
pub(crate) fn magnitude_floor(magnitude: u32) -> u64 {
    let shift = (magnitude / 8).saturating_sub(1);
    u64::from(magnitude - shift * 8) << shift
}

/// The length of a bucket in a usage report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = UsageInterval)]
#[derive(strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub enum Interval {
    Hour,
    Day,
}

impl Interval {
    /// Returns the length of the interval in milliseconds.
    pub const fn millis(self) -> i64 {
        match self {
            Interval::Hour => 3_600_000,
            Interval::Day => 86_400_000,
        }
    }

    /// Returns the start of the bucket that contains `time`.
    pub(crate) fn floor(self, time: Timestamp) -> Timestamp {
        time.bucket_bounds(self.millis()).0
    }

    /// Returns `time` if a bucket starts then, otherwise the start of the next bucket.
    pub(crate) fn ceil(self, time: Timestamp) -> Timestamp {
        let (start, next) = time.bucket_bounds(self.millis());
        if start == time { start } else { next }
    }

    /// Returns the start of the oldest bucket to keep if data is kept for `days` days: the bucket that
    /// contains the time `days` days before `now`.
    pub(crate) fn oldest_retained_start(self, now: Timestamp, days: u32) -> Timestamp {
        let length = i64::from(days) * Interval::Day.millis();
        self.floor(Timestamp::from_millis(now.as_millis() - length))
    }
}

/// The query parameters of a usage report.
#[derive(Clone, Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageFilter {
    /// Only keys of this organization.
    #[param(max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only this key.
    #[param(max_length = 200)]
    pub(crate) key_id: Option<String>,
    /// A number of hours (`24h`) or days (`30d`) up to now, rounded down to the start of an interval;
    /// `30d` if `start` is omitted too. Can't be combined with `start` and `end`.
    #[param(pattern = "^[0-9]{1,4}[hd]$")]
    period: Option<String>,
    /// Start of the period, rounded down to the start of an interval. Must not be in the future.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Timestamp>,
    /// End of the period, rounded up to the end of an interval. Defaults to now. Requires `start`.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Timestamp>,
    /// Defaults to `hour` for periods of up to 48 hours, otherwise to `day`.
    interval: Option<Interval>,
    /// Adds `groups` to the response.
    pub(crate) group_by: Option<GroupBy>,
    /// The meter whose units are the `cost` of the report.
    #[param(value_type = Option<String>, pattern = "^[a-z][a-z0-9_]{0,31}$")]
    pub(crate) meter: Meter,
}

impl UsageFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            org_id: query.text("org_id"),
            key_id: query.text("key_id"),
            period: query.text("period"),
            start: query.time("start"),
            end: query.time("end"),
            interval: query.one_of("interval"),
            group_by: query.one_of("group_by"),
            meter: read_meter(query),
        }
    }
}

/// Reads the parameter `meter`. Whether the settings declare the meter is not checked, because usage of a removed meter
/// is kept.
fn read_meter(query: &mut Query) -> Meter {
    let Some(name) = query.text("meter") else { return Meter::REQUESTS };
    Meter::parse(&name).unwrap_or_else(|| {
        query.add_fault("meter", "INVALID_NAME", "Must be the name of a meter, such as requests.");
        Meter::REQUESTS
    })
}

/// A span of time, divided into buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The start of the span, which is the start of its first bucket.
    pub(crate) start: Timestamp,
    /// The end of the span; inside the last bucket or at its end.
    pub(crate) end: Timestamp,
    /// The length of each bucket in the span.
    pub(crate) interval: Interval,
}

impl Span {
    /// Creates the span of the last `millis` milliseconds before `now`. The start is rounded down to the
    /// start of a bucket.
    pub fn until(now: Timestamp, millis: i64, interval: Interval) -> Self {
        let start = Timestamp::from_millis((now.as_millis() - millis).max(0));
        Self { start: interval.floor(start), end: now, interval }
    }

    /// The span of a usage report. `hourly_days` is the number of days for which hourly usage is kept.
    pub(crate) fn read(filter: &UsageFilter, query: &mut Query, now: Timestamp, hourly_days: u32) -> Self {
        let UsageFilter { start, end, interval, .. } = *filter;
        let period = filter.period.as_deref();
        let length = period.map(parse_period_millis);
        if length == Some(None) {
            query.add_fault(
                "period",
                "INVALID_PERIOD",
                "Must be a number of hours or days, such as 24h or 30d.",
            );
        }
        if query.has_faults() {
            return Self { start: now, end: now, interval: Interval::Day };
        }
        if period.is_some() && (start.is_some() || end.is_some()) {
            query.add_fault("period", "CONFLICT", "Use either period, or start and end.");
        }
        if start.is_none() && end.is_some() {
            query.add_fault("start", "REQUIRED", "Required if end is given.");
        }
        if start.is_some_and(|start| start > now) {
            query.add_fault("start", "INVALID_TIME", "Must not be in the future.");
        } else if start.zip(end).is_some_and(|(start, end)| end <= start) {
            query.add_fault("end", "INVALID_TIME", "Must be later than start.");
        }
        let length = length.flatten().unwrap_or(DEFAULT_PERIOD_MILLIS);
        let first = start.unwrap_or(Timestamp::from_millis((now.as_millis() - length).max(0)));
        let last = end.unwrap_or(now);
        let is_short = last.as_millis() - first.as_millis() <= MAX_HOURLY_MILLIS;
        let interval = interval.unwrap_or(if is_short { Interval::Hour } else { Interval::Day });
        let end = if end.is_some() { interval.ceil(last) } else { last };
        let span = Self { start: interval.floor(first), end, interval };
        if span.bucket_count() > MAX_BUCKETS {
            let message =
                format!("More than {MAX_BUCKETS} buckets; use a shorter period or a longer interval.");
            query.add_fault("interval", "TOO_MANY", message);
        } else if interval == Interval::Hour && span.start < interval.oldest_retained_start(now, hourly_days)
        {
            let message = format!("Hourly usage is kept for {hourly_days} days; use interval=day.");
            query.add_fault("interval", "NOT_KEPT", message);
        }
        span
    }

    /// Returns the end of the last bucket, which may be later than the end of the span.
    pub(crate) fn buckets_end(&self) -> Timestamp {
        self.interval.ceil(self.end)
    }

    fn bucket_count(&self) -> i64 {
        (self.buckets_end().as_millis() - self.start.as_millis()) / self.interval.millis()
    }

    /// Returns the start of each bucket in the span.
    pub(crate) fn bucket_starts(&self) -> impl Iterator<Item = Timestamp> {
        let start = self.start.as_millis();
        let interval = self.interval.millis();
        (0..self.bucket_count()).map(move |index| Timestamp::from_millis(start + index * interval))
    }

    /// Returns the smallest span of whole days that contains this span.
    pub(crate) fn widen_to_days(&self) -> Self {
        let day = Interval::Day;
        Self { start: day.floor(self.start), end: day.ceil(self.buckets_end()), interval: day }
    }

    /// Splits the span into parts with as few buckets as possible: whole days, and hours before and after the
    /// days.
    pub(crate) fn split_by_interval(&self) -> Vec<Self> {
        let day = Interval::Day;
        let close = self.buckets_end();
        let first = day.ceil(self.start).min(close);
        let last = day.floor(close).max(first);
        let parts = [(self.interval, self.start, first), (day, first, last), (self.interval, last, close)];
        let parts = parts.map(|(interval, start, end)| Self { start, end, interval });
        parts.into_iter().filter(|part| part.start < part.end).collect()
    }
}

/// Parses a period such as `30d` or `24h` into milliseconds.
fn parse_period_millis(text: &str) -> Option<i64> {
    let (digits, interval) = match text.strip_suffix('h') {
        Some(digits) => (digits, Interval::Hour),
        None => (text.strip_suffix('d')?, Interval::Day),
    };
    let fits = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse::<i64>().ok().map(|count| count * interval.millis())).flatten()
}

/// The property by which a usage report groups its totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = UsageGroupBy, rename_all = "lowercase")]
#[derive(strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub(crate) enum GroupBy {
    Key,
    Organization,
    User,
    Code,
}

/// Totals of verifications over a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsageTotals)]
pub(crate) struct Totals {
    /// Number of verifications.
    pub(crate) requests: u64,
    /// Number of verifications with the outcome `VALID`.
    pub(crate) allowed: u64,
    /// Number of denied verifications, including `rate_limited` and `quota_exceeded`.
    pub(crate) denied: u64,
    /// Number of verifications denied by a rate limit.
    pub(crate) rate_limited: u64,
    /// Number of verifications denied by a quota.
    pub(crate) quota_exceeded: u64,
    /// Total cost of the allowed verifications on the report's meter, and of what was reported afterwards.
    pub(crate) cost: u64,
}

/// Usage in one hour or one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsageBucket)]
pub(crate) struct Bucket {
    /// When the hour or day starts.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) start: Timestamp,
    /// Totals of the hour or day.
    #[serde(flatten)]
    pub(crate) totals: Totals,
}

/// Usage of one key, one organization, the keys of one user or one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsageGroup)]
pub(crate) struct Group {
    /// Id of the key, organization or user, or the code of the outcome. `null` for platform keys, and for keys without a
    /// user.
    #[schema(required, example = "key_123")]
    pub(crate) id: Option<String>,
    /// Name of the key, organization or user, or the code of the outcome. `null` without an `id`, and for a user that the
    /// calling key can't read: without `admin:users`, a deleted user, or one who isn't a member of its organization.
    #[schema(required, example = "Production API Key")]
    pub(crate) name: Option<String>,
    /// Totals of the group.
    pub(crate) totals: Totals,
}

/// The period that a usage report covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsagePeriod)]
pub(crate) struct Period {
    /// Start of the period, which is the start of the first bucket.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) start: Timestamp,
    /// End of the period: the time of the request, or the end of the last bucket.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) end: Timestamp,
}

/// Usage of a key, of an organization's keys or of all keys.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Usage {
    /// Id of the organization to which the usage is limited; `null` means all keys, including platform keys.
    #[schema(required, example = "org_123")]
    pub(crate) org_id: Option<String>,
    /// Id of the key to which the usage is limited; `null` means all keys.
    #[schema(required, example = "key_123")]
    pub(crate) key_id: Option<String>,
    /// The period that the report covers.
    pub(crate) period: Period,
    /// The length of each bucket in `series`.
    pub(crate) interval: Interval,
    /// Totals of the whole period.
    pub(crate) totals: Totals,
    /// Totals of each bucket, oldest first; their sum is `totals`.
    pub(crate) series: Vec<Bucket>,
    /// Totals by key, organization, user or code, the busiest first. Empty without `group_by`.
    pub(crate) groups: Vec<Group>,
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
