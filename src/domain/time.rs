//! Timestamps: milliseconds since the Unix epoch internally, RFC 3339 in the API.

use std::cell::Cell;
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};
use serde::{Serialize, Serializer};

/// A point in time, in whole milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The last millisecond of the year 9999. RFC 3339 can't represent later years.
const MAX_MILLIS: i64 = 253_402_300_799_999;

const MILLIS_PER_DAY: i64 = 86_400_000;

impl Timestamp {
    /// Creates a timestamp from milliseconds since the Unix epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since the Unix epoch, rounded up so that the time in a `…-Reset` header is
    /// never too early.
    pub(crate) fn as_seconds_ceil(self) -> i64 {
        self.0.div_euclid(1000) + i64::from(self.0.rem_euclid(1000) != 0)
    }

    /// Returns the start of the minute that contains this time.
    pub(crate) fn start_of_minute(self) -> Self {
        Self(self.0 - self.0.rem_euclid(60_000))
    }

    /// Divides time into buckets of `millis` milliseconds, aligned to the Unix epoch. Returns the start of
    /// the bucket that contains this time, and the start of the next bucket.
    pub(crate) fn bucket_bounds(self, millis: i64) -> (Self, Self) {
        let start = self.0 - self.0.rem_euclid(millis);
        (Self(start), Self(start + millis))
    }

    /// Returns the start of the ISO 8601 week (Monday, UTC) that contains this time, and the start of the next week.
    pub(crate) fn week_bounds(self) -> (Self, Self) {
        // The epoch was a Thursday.
        let monday_before_epoch = Self(-3 * MILLIS_PER_DAY);
        let since = Self(self.0 - monday_before_epoch.0);
        let (start, next) = since.bucket_bounds(7 * MILLIS_PER_DAY);
        (Self(start.0 + monday_before_epoch.0), Self(next.0 + monday_before_epoch.0))
    }

    /// Returns the start of the UTC calendar month that contains this time, and the start of the next month.
    pub(crate) fn month_bounds(self) -> (Self, Self) {
        let bounds = || {
            let date =
                jiff::Timestamp::from_millisecond(self.0).ok()?.to_zoned_datetime(TimeZone::UTC).date();
            let first = date.first_of_month();
            let next = first.checked_add(1.month()).ok()?;
            let start = |date: Date| {
                Some(Self(date.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp().as_millisecond()))
            };
            Some((start(first)?, start(next)?))
        };
        // Times from December 9999 on count as one endless month.
        bounds().unwrap_or((Self(MAX_MILLIS + 1 - 31 * MILLIS_PER_DAY), Self(i64::MAX)))
    }

    /// Appends this time to `text` in the format of [`Display`](fmt::Display), without the cost of a
    /// formatter.
    pub(crate) fn push_to(self, text: &mut String) {
        // Writing to a string can't fail.
        let _ = self.write_to(text);
    }

    fn write_to(self, out: &mut impl fmt::Write) -> fmt::Result {
        match format_millis(self.0).as_ref().map(|text| std::str::from_utf8(text)) {
            Some(Ok(text)) => out.write_str(text),
            _ => write!(out, "{}ms", self.0),
        }
    }

    /// Parses an RFC 3339 timestamp with any offset; fractions of a millisecond are truncated. Returns `None`
    /// if the text isn't RFC 3339 or the time is outside the years 1970 to 9999.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The format is checked here because jiff accepts more formats than RFC 3339. `jiff::Timestamp` is
        // not used because it can't represent the last day of 9999.
        let (seconds, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
        let digits = |c: char| c.is_ascii_digit();
        let offset = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches(digits));
        let has_offset = matches!(offset, "Z" | "z") || matches_pattern(offset, "+00:00");
        if !matches_pattern(seconds, "0000-00-00T00:00:00") || !has_offset {
            return None;
        }
        let pieces = Pieces::parse(text).ok()?;
        let offset = i64::from(pieces.to_numeric_offset()?.seconds()) * 1000;
        let local = pieces.date().to_datetime(pieces.time()?).duration_since(EPOCH).as_millis();
        let millis = i64::try_from(local).ok()? - offset;
        (offset.abs() < MILLIS_PER_DAY && (0..=MAX_MILLIS).contains(&millis)).then_some(Self(millis))
    }
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// True if the text matches the pattern: `0` stands for any digit, `T` also for `t` or a space (RFC
/// 3339 allows both), `+` also for `-`, every other character for itself.
fn matches_pattern(text: &str, pattern: &str) -> bool {
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(given, expected)| match expected {
            b'0' => given.is_ascii_digit(),
            b'T' => matches!(given, b'T' | b't' | b' '),
            b'+' => matches!(given, b'+' | b'-'),
            expected => given == expected,
        })
}

/// The length in bytes of an RFC 3339 timestamp with milliseconds, for the years 0 to 9999.
const RFC3339_BYTES: usize = 24;

thread_local! {
    /// The day (in days since the Unix epoch) that was formatted last on this thread, and its text. While
    /// requests are served, that day is nearly always today.
    static LAST_FORMATTED_DAY: Cell<(i64, [u8; 10])> = const { Cell::new((0, *b"1970-01-01")) };
}

/// Formats milliseconds since the Unix epoch as RFC 3339 in UTC, in ASCII. Returns `None` if the year doesn't
/// have four digits.
fn format_millis(millis: i64) -> Option<[u8; RFC3339_BYTES]> {
    let day = millis.div_euclid(MILLIS_PER_DAY);
    let rest = millis.rem_euclid(MILLIS_PER_DAY);
    let (cached_day, mut date) = LAST_FORMATTED_DAY.get();
    if cached_day != day {
        let text = EPOCH.date().checked_add(Span::new().try_days(day).ok()?).ok()?.to_string();
        // The conversion fails for a negative year, because its text is longer.
        date = text.as_bytes().try_into().ok()?;
        LAST_FORMATTED_DAY.set((day, date));
    }
    let mut text = *b"0000-00-00T00:00:00.000Z";
    text[..10].copy_from_slice(&date);
    let mut digits = |range: std::ops::Range<usize>, mut number: i64| {
        for index in range.rev() {
            text[index] = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    };
    digits(11..13, rest / 3_600_000);
    digits(14..16, rest / 60_000 % 60);
    digits(17..19, rest / 1000 % 60);
    digits(20..23, rest % 1000);
    Some(text)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later than `self`.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_with_milliseconds_and_parsed_with_any_offset() {
        let time = Timestamp::parse("2026-11-23T08:08:09.123456+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-23T07:08:09.123Z");
        assert_eq!(Timestamp::parse("2026-11-23T07:08:09Z").unwrap().to_string(), "2026-11-23T07:08:09.000Z");
        assert_eq!(time.start_of_minute().to_string(), "2026-11-23T07:08:00.000Z");
        assert_eq!(time.as_seconds_ceil() * 1000, time.as_millis() - 123 + 1000);
    }

    #[test]
    fn timestamps_in_every_rfc_3339_form_are_parsed_up_to_the_end_of_9999() {
        for (text, expected) in [
            ("1970-01-01t00:00:00z", "1970-01-01T00:00:00.000Z"),
            ("2026-11-23 07:08:09.5-03:30", "2026-11-23T10:38:09.500Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T00:00:00+23:59", "9999-12-30T00:01:00.000Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn timestamps_are_formatted_as_by_jiff() {
        // The days are unordered, so that each day differs from the cached day.
        let steps = [0, 1, 86_399_999, 86_400_000, 951_782_400_000, 4_107_542_399_999, -1, -86_400_001];
        for millis in steps.iter().flat_map(|at| [*at, at + 1234, at - 98_765_432]) {
            let expected = format!("{:.3}", jiff::Timestamp::from_millisecond(millis).unwrap());
            assert_eq!(Timestamp::from_millis(millis).to_string(), expected);
        }
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), format!("{}ms", i64::MAX));
    }

    #[test]
    fn timestamps_in_other_formats_and_years_are_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-11-23",
            "2026-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "+012026-11-23T07:08:09Z",
            // Valid in ISO 8601 or RFC 9557, but not in RFC 3339.
            "20261123T070809Z",
            "+002026-11-23T07:08:09Z",
            "2026-11-23T07:08Z",
            "2026-11-23T07:08:09,5Z",
            "2026-11-23T07:08:09.Z",
            "2026-11-23T07:08:09",
            "2026-11-23T07:08:09+01",
            "2026-11-23T07:08:09+0100",
            "2026-11-23T07:08:09+24:00",
            "2026-11-23T07:08:09+01:00:30",
            "2026-11-23T07:08:09Z[America/New_York]",
            "2026-11-23T07:08:09\u{e9}01:00",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
