//! Times in imported records, in the notations of SQL databases.

use super::fields::{Faults, Json};
use super::rules;
use super::time::Timestamp;

/// Parses an RFC 3339 timestamp, or a time as SQL databases write it, in UTC if it has no offset.
pub(crate) fn parse_time(json: &Json, faults: &mut Faults) -> Option<Timestamp> {
    match json {
        Json::String(text) if Timestamp::parse(text).is_none() => match parse_sql_time(text) {
            Some(time) => Some(time),
            None => rules::parse_time(json, faults),
        },
        _ => rules::parse_time(json, faults),
    }
}

/// Parses `2026-11-23`, `2026-11-23 07:08:09.123456`, and these with `UTC` or a shortened offset (`+01`, `+0100`).
fn parse_sql_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.len() == "2026-11-23".len() {
        return Timestamp::parse(&format!("{text}T00:00:00Z"));
    }
    let (seconds, rest) = text.split_at_checked("2026-11-23 07:08:09".len())?;
    let offset =
        rest.strip_prefix('.').map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let fraction = rest.strip_suffix(offset)?;
    let offset = match offset.trim_start() {
        "" | "UTC" => "Z".to_owned(),
        hours if hours.len() == "+01".len() => format!("{hours}:00"),
        short if short.len() == "+0100".len() => {
            let (hours, minutes) = short.split_at_checked("+01".len())?;
            format!("{hours}:{minutes}")
        }
        offset => offset.to_owned(),
    };
    Timestamp::parse(&format!("{seconds}{fraction}{offset}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_as_sql_databases_write_them() {
        for (text, expected) in [
            ("2026-11-23", "2026-11-23T00:00:00.000Z"),
            ("2026-11-23 07:08:09", "2026-11-23T07:08:09.000Z"),
            ("2026-11-23T07:08:09", "2026-11-23T07:08:09.000Z"),
            ("2026-11-23 07:08:09.123456", "2026-11-23T07:08:09.123Z"),
            ("2026-11-23 07:08:09 UTC", "2026-11-23T07:08:09.000Z"),
            ("2026-11-23 08:08:09+01", "2026-11-23T07:08:09.000Z"),
            ("2026-11-23 08:08:09.123+01", "2026-11-23T07:08:09.123Z"),
            ("2026-11-23 08:08:09 +0100", "2026-11-23T07:08:09.000Z"),
            ("2026-11-23 01:38:09-0530", "2026-11-23T07:08:09.000Z"),
            ("2026-11-23 08:08:09+01:00", "2026-11-23T07:08:09.000Z"),
        ] {
            assert_eq!(
                parse_sql_time(text).map(|time| time.to_string()).as_deref(),
                Some(expected),
                "{text}"
            );
        }
        for text in [
            "",
            "now",
            "23.11.2026",
            "2026-13-01",
            "2026-11-23 07:08",
            "2026-11-23 24:00:00",
            "2026-11-23 07:08:09.",
            "2026-11-23 07:08:09 CET",
            "2026-11-23 07:08:09+1",
            "2026-11-23 07:08:09+ä1",
            "2026-11-23 07:08:0ä",
            "1795417689",
        ] {
            assert_eq!(parse_sql_time(text), None, "{text}");
        }
    }
}
