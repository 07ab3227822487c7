use super::*;
use crate::domain::subject::Subject;

const HOUR: i64 = 3_600_000;

fn parse_time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn parse_span(query: &str) -> Result<Span, Vec<(String, String)>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut query = Query::of(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    let filter = UsageFilter::read(&mut query);
    let span = Span::read(&filter, &mut query, parse_time("2026-11-23T07:08:09.123Z"), 90);
    query.finish(span).map_err(|error| {
        let parameter_and_code =
            |detail: crate::error::ErrorDetail| (detail.parameter.unwrap(), detail.code.into_owned());
        error.details.into_iter().map(parameter_and_code).collect()
    })
}

#[test]
fn a_usage_span_starts_at_a_full_bucket_and_ends_now_or_at_a_bucket_end() {
    let now = "2026-11-23T07:08:09.123Z";
    for (query, start, end, interval, buckets) in [
        ("", "2026-10-24T00:00:00Z", now, Interval::Day, 31),
        ("period=48h", "2026-11-21T07:00:00Z", now, Interval::Hour, 49),
        ("period=49h", "2026-11-21T00:00:00Z", now, Interval::Day, 3),
        ("period=2d", "2026-11-21T07:00:00Z", now, Interval::Hour, 49),
        ("period=2d&interval=day", "2026-11-21T00:00:00Z", now, Interval::Day, 3),
        ("period=0h", "2026-11-23T07:00:00Z", now, Interval::Hour, 1),
        ("period=90d&interval=hour", "2026-08-25T07:00:00Z", now, Interval::Hour, 2161),
        ("period=9999d", "1999-07-09T00:00:00Z", now, Interval::Day, 10_000),
        ("start=2026-11-22T10:20:30Z", "2026-11-22T10:00:00Z", now, Interval::Hour, 22),
        (
            "start=2026-11-22T10:20:30Z&end=2026-11-22T11:00:00.001Z",
            "2026-11-22T10:00:00Z",
            "2026-11-22T12:00:00Z",
            Interval::Hour,
            2,
        ),
        (
            "start=2026-11-23T00:00:00Z&end=2026-11-24T00:00:00Z",
            "2026-11-23T00:00:00Z",
            "2026-11-24T00:00:00Z",
            Interval::Hour,
            24,
        ),
    ] {
        let span = parse_span(query).unwrap();
        assert_eq!(span, Span { start: parse_time(start), end: parse_time(end), interval }, "{query}");
        assert_eq!(span.bucket_starts().count(), buckets, "{query}");
        assert_eq!(span.bucket_starts().next(), Some(parse_time(start)), "{query}");
        assert!(span.bucket_starts().last().unwrap() < parse_time(end), "{query}");
    }
}

#[test]
fn invalid_usage_spans_report_the_faulty_parameter() {
    for (query, faults) in [
        ("period=30", vec![("period", "INVALID_PERIOD")]),
        ("period=d", vec![("period", "INVALID_PERIOD")]),
        ("period=12345h", vec![("period", "INVALID_PERIOD")]),
        ("period=+1h", vec![("period", "INVALID_PERIOD")]),
        ("period=1w&interval=week", vec![("interval", "INVALID_VALUE"), ("period", "INVALID_PERIOD")]),
        ("period=1d&start=2026-11-22T00:00:00Z", vec![("period", "CONFLICT")]),
        ("end=2026-11-22T00:00:00Z", vec![("start", "REQUIRED")]),
        ("start=2026-11-22T00:00:00Z&end=2026-11-22T00:00:00Z", vec![("end", "INVALID_TIME")]),
        ("start=2026-11-24T00:00:00Z&end=2026-11-25T00:00:00Z", vec![("start", "INVALID_TIME")]),
        ("start=1990-01-01T00:00:00Z", vec![("interval", "TOO_MANY")]),
        ("start=2026-11-22T00:00:00Z&end=9999-01-01T00:00:00Z", vec![("interval", "TOO_MANY")]),
        ("period=91d&interval=hour", vec![("interval", "NOT_KEPT")]),
        ("start=2026-01-01T00:00:00Z&end=2026-01-01T05:00:00Z", vec![("interval", "NOT_KEPT")]),
    ] {
        let faults: Vec<_> =
            faults.iter().map(|(parameter, code)| (parameter.to_string(), code.to_string())).collect();
        assert_eq!(parse_span(query).unwrap_err(), faults, "{query}");
    }
}

/// The parts of any usage span cover each of its hours exactly once. At most 46 hours are covered by hourly
/// buckets, the others by whole days.
#[test]
fn parts_cover_a_usage_span_exactly() {
    let midnight = parse_time("2026-11-20T00:00:00Z").as_millis();
    for first in 0..50 {
        for length in 0..80 {
            let start = Timestamp::from_millis(midnight + first * HOUR);
            let end = Timestamp::from_millis(midnight + (first + length) * HOUR);
            let span = Span { start, end, interval: Interval::Hour };
            let mut reached = start;
            let mut hours = 0;
            for part in span.split_by_interval() {
                assert_eq!(part.start, reached, "{span:?}");
                assert!(part.interval == Interval::Hour || part.start == Interval::Day.floor(part.start));
                hours += if part.interval == Interval::Hour { part.bucket_starts().count() } else { 0 };
                reached = part.buckets_end();
            }
            assert_eq!(reached, end, "{span:?}");
            assert!(hours <= 46, "{span:?}");
        }
    }
    let open = parse_span("period=5d").unwrap();
    assert_eq!(open.split_by_interval().iter().map(|part| part.bucket_starts().count()).sum::<usize>(), 6);
}

#[test]
fn usage_totals_are_sums_of_outcomes() {
    let mut counts = UsageCounts::default();
    for (outcome, cost) in [
        (Outcome::Valid, 3),
        (Outcome::Valid, 0),
        (Outcome::Revoked, 0),
        (Outcome::RateLimited, 0),
        (Outcome::RateLimited, 0),
        (Outcome::QuotaExceeded, 0),
        // Outcomes of unknown keys are not counted.
        (Outcome::NotFound, 7),
        (Outcome::Malformed, 7),
    ] {
        counts.add(outcome, cost);
    }
    let mut twice = counts;
    twice.merge(&counts);
    let expected =
        Totals { requests: 12, allowed: 4, denied: 8, rate_limited: 4, quota_exceeded: 2, cost: 6 };
    assert_eq!(twice.totals(), expected);
    let by_code = twice.by_code();
    let requests_by_code: Vec<_> =
        by_code.iter().map(|group| (group.id.as_deref().unwrap(), group.totals.requests)).collect();
    assert_eq!(requests_by_code, [("RATE_LIMITED", 4), ("VALID", 4), ("REVOKED", 2), ("QUOTA_EXCEEDED", 2)]);
    let sum = |part: fn(&Totals) -> u64| by_code.iter().map(|group| part(&group.totals)).sum::<u64>();
    assert_eq!(
        (sum(|t| t.allowed), sum(|t| t.denied), sum(|t| t.rate_limited), sum(|t| t.cost)),
        (expected.allowed, expected.denied, expected.rate_limited, expected.cost)
    );
    assert_eq!(UsageCounts::names().count(), OUTCOME_COUNT);
}

#[test]
fn every_usage_subject_has_a_distinct_number() {
    let subjects =
        [Subject::All, Subject::Organization(0), Subject::Organization(1), Subject::Key(1), Subject::Key(2)];
    assert_eq!(subjects.map(Subject::number), [0, -1, -2, 1, 2]);
    assert_eq!(subjects.map(|subject| Subject::from_number(subject.number())), subjects);
}

#[test]
fn a_magnitude_grows_with_its_figure_and_changes_rarely() {
    let mut changes = 0;
    for figure in 0..100_000_u64 {
        let this = magnitude(figure);
        let next = magnitude(figure + 1);
        assert!(next == this || next == this + 1, "{figure}");
        assert!(figure >= 16 || next == this + 1, "{figure}: exact below 16");
        assert!(magnitude_floor(this) <= figure && figure < magnitude_floor(this + 1), "{figure}");
        assert!(figure - magnitude_floor(this) <= figure / 8, "{figure}");
        changes += u32::from(next != this);
    }
    assert!(changes < 130, "{changes}");
    assert_eq!(magnitude(u64::MAX), 60 * 8 + 15);
}
