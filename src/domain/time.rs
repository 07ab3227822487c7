//! Points in time: milliseconds since the Unix epoch inside, RFC 3339 outside.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

/// A point in time, in whole milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The years that a client may name: later ones would not fit RFC 3339.
const LATEST: i64 = 253_402_300_799_999;

impl Timestamp {
    /// From milliseconds since the epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded up: what a `…-Reset` header names is never too early.
    pub fn as_seconds_ceil(self) -> i64 {
        self.0.div_euclid(1000) + i64::from(self.0.rem_euclid(1000) != 0)
    }

    /// The start of the minute that this point lies in.
    pub fn minute(self) -> Self {
        Self(self.0 - self.0.rem_euclid(60_000))
    }

    /// The stretch of so many milliseconds, counted from the epoch, that this point lies in: its start,
    /// and the start of the next.
    pub fn within(self, millis: i64) -> (Self, Self) {
        let start = self.0 - self.0.rem_euclid(millis);
        (Self(start), Self(start + millis))
    }

    /// The calendar month in UTC that this point lies in: its start, and the start of the next.
    pub fn month(self) -> (Self, Self) {
        let first = || {
            let date = jiff::Timestamp::from_millisecond(self.0).ok()?.to_zoned(TimeZone::UTC).date();
            let first = date.first_of_month();
            let next = first.checked_add(1.month()).ok()?;
            let start =
                |date: Date| Some(Self(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond()));
            Some((start(first)?, start(next)?))
        };
        // Beyond the calendar (the year 9999) there is only one more month.
        first().unwrap_or((self, Self(i64::MAX)))
    }

    /// Reads RFC 3339 with any offset; what is finer than a millisecond is cut off.
    /// `None` when it isn't RFC 3339 or lies outside of the years 1970 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let millis = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
        (0..=LATEST).contains(&millis).then_some(Self(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
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

    /// The time since `earlier`; zero when that lies ahead.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_three_digits_and_reads_any_offset() {
        let time = Timestamp::parse("2026-11-23T08:08:09.123456+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-23T07:08:09.123Z");
        assert_eq!(Timestamp::parse("2026-11-23T07:08:09Z").unwrap().to_string(), "2026-11-23T07:08:09.000Z");
        assert_eq!(time.minute().to_string(), "2026-11-23T07:08:00.000Z");
        assert_eq!(time.as_seconds_ceil() * 1000, time.as_millis() - 123 + 1000);
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "tomorrow",
            "2026-11-23",
            "2026-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "+012026-11-23T07:08:09Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
