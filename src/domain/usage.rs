//! Usage: how often keys were verified and with what outcome, by the hour and by the day.

use serde::Serialize;

use super::page::Query;
use super::time::Timestamp;
use super::verification::Outcome;

/// Buckets that a series may have.
const MAX_BUCKETS: i64 = 10_000;
/// Up to this many milliseconds a series is by the hour, unless the caller says otherwise.
const MAX_HOURLY_MILLIS: i64 = 48 * Interval::Hour.millis();
/// What is told when no time is named.
const DEFAULT_PERIOD_MILLIS: i64 = 30 * Interval::Day.millis();

/// The outcomes that a known key can have: `REVOKED` to `VALID`.
pub(crate) const OUTCOMES: usize = Outcome::Valid as usize - FIRST + 1;
const FIRST: usize = Outcome::Revoked as usize;

/// What was counted of one key, one organization or all of them, in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    outcomes: [u64; OUTCOMES],
    cost: u64,
}

impl Counts {
    /// From what was stored, in the order of [`Counts::names`].
    pub(crate) fn new(outcomes: [u64; OUTCOMES], cost: u64) -> Self {
        Self { outcomes, cost }
    }

    /// The names of the outcomes, in the order of the checks.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Outcome::NAMES.iter().skip(FIRST).map(|(name, _)| *name)
    }

    /// Counts one verification. Of a key that isn't known there is nothing to count.
    pub(crate) fn add(&mut self, outcome: Outcome, cost: u32) {
        let index = (outcome as usize).checked_sub(FIRST);
        if let Some(count) = index.and_then(|index| self.outcomes.get_mut(index)) {
            *count += 1;
            self.cost += u64::from(cost);
        }
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.outcomes.iter_mut().zip(other.outcomes) {
            *count += more;
        }
        self.cost += other.cost;
    }

    /// Verifications with each outcome, in the order of [`Counts::names`].
    pub(crate) fn outcomes(&self) -> &[u64; OUTCOMES] {
        &self.outcomes
    }

    /// What the verifications cost.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// All verifications.
    pub(crate) fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn of(&self, outcome: Outcome) -> u64 {
        let index = (outcome as usize).checked_sub(FIRST);
        index.and_then(|index| self.outcomes.get(index)).copied().unwrap_or(0)
    }

    /// As answered.
    pub(crate) fn totals(&self) -> Totals {
        let (requests, allowed) = (self.requests(), self.of(Outcome::Valid));
        Totals {
            requests,
            allowed,
            denied: requests - allowed,
            rate_limited: self.of(Outcome::RateLimited),
            quota_exceeded: self.of(Outcome::QuotaExceeded),
            cost: self.cost,
        }
    }

    /// One group for each outcome that there was, the most frequent first. Only what is valid costs.
    pub(crate) fn by_code(&self) -> Vec<Group> {
        let outcomes = Outcome::NAMES.iter().map(|(name, outcome)| (*name, *outcome, self.of(*outcome)));
        let mut groups: Vec<_> = outcomes
            .filter(|(.., count)| *count > 0)
            .map(|(name, outcome, count)| {
                let mut alone =
                    Self { cost: if outcome.is_valid() { self.cost } else { 0 }, ..Self::default() };
                if let Some(slot) = alone.outcomes.get_mut((outcome as usize).saturating_sub(FIRST)) {
                    *slot = count;
                }
                Group { id: Some(name.to_owned()), name: Some(name.to_owned()), totals: alone.totals() }
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.totals.requests));
        groups
    }
}

/// Whose counts a row holds. A number each, so that all of them fit one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Everything.
    All,
    /// All keys of the organization with this `seq`; 0 = the platform's own keys.
    Organization(i64),
    /// The key with this `seq`.
    Key(i64),
}

impl Subject {
    /// The number: 0, below 0, above 0.
    pub(crate) fn number(self) -> i64 {
        match self {
            Subject::All => 0,
            Subject::Organization(seq) => -1 - seq,
            Subject::Key(seq) => seq,
        }
    }

    /// Whose the number is.
    pub(crate) fn of(number: i64) -> Self {
        match number {
            0 => Subject::All,
            1.. => Subject::Key(number),
            _ => Subject::Organization(-1 - number),
        }
    }
}

/// How large a figure is, to within an eighth: its highest four bits and how many follow. Exact below 16.
/// An index over it changes seldom, however often the figure does.
pub(crate) fn magnitude(figure: u64) -> u32 {
    let shift = (u64::BITS - figure.leading_zeros()).saturating_sub(4);
    // At most 60 shifts and 15: the mantissa's highest bit carries on where the last shift ended.
    shift * 8 + u32::try_from(figure >> shift).unwrap_or(0)
}

/// The smallest figure of a magnitude.
pub(crate) fn at_least(magnitude: u32) -> u64 {
    let shift = (magnitude / 8).saturating_sub(1);
    u64::from(magnitude - shift * 8) << shift
}

/// The length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = UsageInterval)]
#[allow(missing_docs)]
pub enum Interval {
    Hour,
    Day,
}

impl Interval {
    /// The names on the wire.
    pub(crate) const NAMES: &'static [(&'static str, Interval)] =
        &[("hour", Interval::Hour), ("day", Interval::Day)];

    /// Its length in milliseconds.
    pub const fn millis(self) -> i64 {
        match self {
            Interval::Hour => 3_600_000,
            Interval::Day => 86_400_000,
        }
    }

    /// The start of the bucket that this point lies in.
    pub(crate) fn floor(self, time: Timestamp) -> Timestamp {
        time.bucket(self.millis()).0
    }

    /// The first start of a bucket that is not before this point.
    pub(crate) fn ceil(self, time: Timestamp) -> Timestamp {
        let (start, next) = time.bucket(self.millis());
        if start == time { start } else { next }
    }

    /// The start of the bucket in which this many days ago lies: what begins before it is not kept.
    pub(crate) fn days_before(self, now: Timestamp, days: u32) -> Timestamp {
        let length = i64::from(days) * Interval::Day.millis();
        self.floor(Timestamp::from_millis(now.as_millis() - length))
    }
}

/// A stretch of time in buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where the first bucket begins.
    pub(crate) start: Timestamp,
    /// Where it ends; within the last bucket, or at its end.
    pub(crate) end: Timestamp,
    /// The length of a bucket.
    pub(crate) interval: Interval,
}

impl Span {
    /// The time until now, by the hour: not before so many milliseconds ago, from a full hour on.
    pub fn until(now: Timestamp, millis: i64, interval: Interval) -> Self {
        let start = Timestamp::from_millis((now.as_millis() - millis).max(0));
        Self { start: interval.floor(start), end: now, interval }
    }

    /// Reads `period`, or `start` and `end`, and `interval`. `hourly_days`: for how long usage is kept by
    /// the hour.
    pub(crate) fn read(query: &mut Query, now: Timestamp, hourly_days: u32) -> Self {
        let period = query.text("period");
        let length = period.as_deref().map(read_period);
        let (start, end) = (query.time("start"), query.time("end"));
        let interval = query.one_of("interval", Interval::NAMES);
        if length == Some(None) {
            query.fault("period", "INVALID_PERIOD", "Must be a number of hours or days, such as 24h or 30d.");
        }
        if query.has_faults() {
            return Self { start: now, end: now, interval: Interval::Day };
        }
        if period.is_some() && (start.is_some() || end.is_some()) {
            query.fault("period", "CONFLICT", "Give either period, or start and end.");
        }
        if start.is_none() && end.is_some() {
            query.fault("start", "REQUIRED", "Must be given with end.");
        }
        if start.is_some_and(|start| start > now) {
            query.fault("start", "INVALID_TIME", "Must not lie in the future.");
        } else if start.zip(end).is_some_and(|(start, end)| end <= start) {
            query.fault("end", "INVALID_TIME", "Must be later than start.");
        }
        let length = length.flatten().unwrap_or(DEFAULT_PERIOD_MILLIS);
        let first = start.unwrap_or(Timestamp::from_millis((now.as_millis() - length).max(0)));
        let last = end.unwrap_or(now);
        let short = last.as_millis() - first.as_millis() <= MAX_HOURLY_MILLIS;
        let interval = interval.unwrap_or(if short { Interval::Hour } else { Interval::Day });
        let end = if end.is_some() { interval.ceil(last) } else { last };
        let span = Self { start: interval.floor(first), end, interval };
        if span.buckets() > MAX_BUCKETS {
            let message =
                format!("More than {MAX_BUCKETS} buckets; ask for less time or for longer buckets.");
            query.fault("interval", "TOO_MANY", message);
        } else if interval == Interval::Hour && span.start < interval.days_before(now, hourly_days) {
            let message = format!("Usage is kept by the hour for {hourly_days} days; ask with interval=day.");
            query.fault("interval", "NOT_KEPT", message);
        }
        span
    }

    /// Where the last bucket ends.
    pub(crate) fn close(&self) -> Timestamp {
        self.interval.ceil(self.end)
    }

    fn buckets(&self) -> i64 {
        (self.close().as_millis() - self.start.as_millis()) / self.interval.millis()
    }

    /// Where each bucket begins.
    pub(crate) fn starts(&self) -> impl Iterator<Item = Timestamp> {
        let (start, interval) = (self.start.as_millis(), self.interval.millis());
        (0..self.buckets()).map(move |index| Timestamp::from_millis(start + index * interval))
    }

    /// The days that it touches, and the end of the last.
    pub(crate) fn days(&self) -> Self {
        let day = Interval::Day;
        Self { start: day.floor(self.start), end: day.ceil(self.close()), interval: day }
    }

    /// The same time in as few buckets as can be: whole days, and hours before and after them.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let day = Interval::Day;
        let close = self.close();
        let first = day.ceil(self.start).min(close);
        let last = day.floor(close).max(first);
        let parts = [(self.interval, self.start, first), (day, first, last), (self.interval, last, close)];
        let parts = parts.map(|(interval, start, end)| Self { start, end, interval });
        parts.into_iter().filter(|part| part.start < part.end).collect()
    }
}

/// Reads `30d` or `24h` as milliseconds.
fn read_period(text: &str) -> Option<i64> {
    let (digits, interval) = match text.strip_suffix('h') {
        Some(digits) => (digits, Interval::Hour),
        None => (text.strip_suffix('d')?, Interval::Day),
    };
    let fits = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse::<i64>().ok().map(|count| count * interval.millis())).flatten()
}

/// What the totals are split by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = UsageGroupBy, rename_all = "lowercase")]
#[allow(missing_docs)]
pub(crate) enum GroupBy {
    Key,
    Organization,
    Code,
}

impl GroupBy {
    /// The names on the wire.
    pub(crate) const NAMES: &'static [(&'static str, GroupBy)] =
        &[("key", GroupBy::Key), ("organization", GroupBy::Organization), ("code", GroupBy::Code)];
}

/// What was counted in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsageTotals)]
pub(crate) struct Totals {
    /// Verifications.
    pub(crate) requests: u64,
    /// Those whose key was good.
    pub(crate) allowed: u64,
    /// Those that were refused, the two below among them.
    pub(crate) denied: u64,
    /// Refused because of the key's rate limit.
    pub(crate) rate_limited: u64,
    /// Refused because of the key's quota.
    pub(crate) quota_exceeded: u64,
    /// What the allowed ones cost together.
    pub(crate) cost: u64,
}

/// What was counted in one hour or one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsageBucket)]
pub(crate) struct Bucket {
    /// Where it begins.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) start: Timestamp,
    /// What was counted in it.
    #[serde(flatten)]
    pub(crate) totals: Totals,
}

/// What was counted of one key, one organization or one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsageGroup)]
pub(crate) struct Group {
    /// The key's or the organization's id, or the code; `null` for the platform's own keys.
    #[schema(required, example = "key_123")]
    pub(crate) id: Option<String>,
    /// Its name; of a code the code.
    #[schema(required, example = "Production API Key")]
    pub(crate) name: Option<String>,
    /// What was counted of it.
    pub(crate) totals: Totals,
}

/// The time that was asked for, as far as it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = UsagePeriod)]
pub(crate) struct Period {
    /// Where the first bucket begins.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) start: Timestamp,
    /// Where it ends: now, or at the end of the last bucket.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) end: Timestamp,
}

/// Verifications of a key, of an organization's keys or of all.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Usage {
    /// Whose keys; `null` = those of all organizations and the platform's own.
    #[schema(required, example = "org_123")]
    pub(crate) org_id: Option<String>,
    /// Which key; `null` = all of them.
    #[schema(required, example = "key_123")]
    pub(crate) key_id: Option<String>,
    /// When.
    pub(crate) period: Period,
    /// The length of the series' buckets.
    pub(crate) interval: Interval,
    /// The whole period.
    pub(crate) totals: Totals,
    /// Bucket by bucket, oldest first; their sum is the totals.
    pub(crate) series: Vec<Bucket>,
    /// The same by key, organization or code, the busiest first. Empty unless asked for.
    pub(crate) groups: Vec<Group>,
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
