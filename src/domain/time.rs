//! Points in time: milliseconds since the Unix epoch inside, RFC 3339 outside.

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

/// The years that a client may name: later ones would not fit RFC 3339.
const LATEST: i64 = 253_402_300_799_999;

const MILLIS_OF_A_DAY: i64 = 86_400_000;

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
    pub(crate) fn as_seconds_ceil(self) -> i64 {
        self.0.div_euclid(1000) + i64::from(self.0.rem_euclid(1000) != 0)
    }

    /// The start of the minute that this point lies in.
    pub(crate) fn minute(self) -> Self {
        Self(self.0 - self.0.rem_euclid(60_000))
    }

    /// The stretch of so many milliseconds, counted from the epoch, that this point lies in: its start,
    /// and the start of the next.
    pub(crate) fn bucket(self, millis: i64) -> (Self, Self) {
        let start = self.0 - self.0.rem_euclid(millis);
        (Self(start), Self(start + millis))
    }

    /// The calendar month in UTC that this point lies in: its start, and the start of the next.
    pub(crate) fn month(self) -> (Self, Self) {
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

    /// Writes it as [`Display`](fmt::Display) does, without the way through a formatter.
    pub(crate) fn push_to(self, text: &mut String) {
        // Writing to a string does not fail.
        let _ = self.write_to(text);
    }

    fn write_to(self, out: &mut impl fmt::Write) -> fmt::Result {
        match written(self.0).as_ref().map(|text| std::str::from_utf8(text)) {
            Some(Ok(text)) => out.write_str(text),
            _ => write!(out, "{}ms", self.0),
        }
    }

    /// Reads RFC 3339 with any offset; what is finer than a millisecond is cut off.
    /// `None` when it isn't RFC 3339 or lies outside of the years 1970 to 9999.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The library reads more forms than this one, and as a moment nothing of the last day of 9999.
        let (seconds, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
        let digits = |c: char| c.is_ascii_digit();
        let offset = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches(digits));
        let has_offset = matches!(offset, "Z" | "z") || has_form(offset, "+00:00");
        if !has_form(seconds, "0000-00-00T00:00:00") || !has_offset {
            return None;
        }
        let read = Pieces::parse(text).ok()?;
        let offset = i64::from(read.to_numeric_offset()?.seconds()) * 1000;
        let local = read.date().to_datetime(read.time()?).duration_since(EPOCH).as_millis();
        let millis = i64::try_from(local).ok()? - offset;
        (offset.abs() < MILLIS_OF_A_DAY && (0..=LATEST).contains(&millis)).then_some(Self(millis))
    }
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Has it digits where the form has zeros, and else what stands there? RFC 3339 lets a `t` or a space
/// stand for the `T`; an offset has either sign.
fn has_form(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(given, wanted)| match wanted {
            b'0' => given.is_ascii_digit(),
            b'T' => matches!(given, b'T' | b't' | b' '),
            b'+' => matches!(given, b'+' | b'-'),
            wanted => given == wanted,
        })
}

/// Bytes of a time in RFC 3339 with milliseconds, from the year 0 to 9999.
const LENGTH: usize = 24;

thread_local! {
    /// The last day that was written, in days since the epoch: on the hot path it is always today.
    static DAY: Cell<(i64, [u8; 10])> = const { Cell::new((0, *b"1970-01-01")) };
}

/// RFC 3339 in UTC with milliseconds, in ASCII. `None` for what has no four-digit year.
fn written(millis: i64) -> Option<[u8; LENGTH]> {
    let (day, rest) = (millis.div_euclid(MILLIS_OF_A_DAY), millis.rem_euclid(MILLIS_OF_A_DAY));
    let (mut known, mut date) = DAY.get();
    if known != day {
        let text = EPOCH.date().checked_add(Span::new().try_days(day).ok()?).ok()?.to_string();
        // A year before the first one has more places.
        (known, date) = (day, text.as_bytes().try_into().ok()?);
        DAY.set((known, date));
    }
    let mut text = *b"0000-00-00T00:00:00.000Z";
    text[..10].copy_from_slice(&date);
    let mut digits = |places: std::ops::Range<usize>, mut number: i64| {
        for place in places.rev() {
            text[place] = b'0' + u8::try_from(number % 10).unwrap_or(0);
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
    fn reads_each_form_up_to_the_last_moment() {
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
    fn prints_as_the_library_does() {
        // In no order of days, so that the remembered one is another each time.
        let steps = [0, 1, 86_399_999, 86_400_000, 951_782_400_000, 4_107_542_399_999, -1, -86_400_001];
        for millis in steps.iter().flat_map(|at| [*at, at + 1234, at - 98_765_432]) {
            let expected = format!("{:.3}", jiff::Timestamp::from_millisecond(millis).unwrap());
            assert_eq!(Timestamp::from_millis(millis).to_string(), expected);
        }
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), format!("{}ms", i64::MAX));
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
            // ISO 8601 and RFC 9557, which are wider.
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
