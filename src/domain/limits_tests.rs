use super::*;

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn parse(json: &str) -> Result<Vec<Limit>, Vec<(String, String)>> {
    let mut faults = Faults::default();
    let limits = parse_limits(&Json::parse(json.as_bytes()).unwrap(), &mut faults);
    match faults.finish(()) {
        Ok(()) => Ok(limits.unwrap()),
        Err(error) => {
            let details = error.details.into_iter();
            Err(details.map(|detail| (detail.pointer.unwrap(), detail.code.into_owned())).collect())
        }
    }
}

#[test]
fn a_list_of_limits_is_parsed_and_written_alike() {
    for json in [
        "[]",
        r#"[{"meter":"requests","limit":100,"window_seconds":60}]"#,
        r#"[{"meter":"tokens","limit":9007199254740991,"period":"total"},{"meter":"tokens","limit":1,"period":"week"}]"#,
        r#"[{"meter":"requests","limit":1000000000,"window_seconds":86400},{"meter":"requests","limit":1,"window_seconds":1}]"#,
    ] {
        let limits = parse(json).unwrap();
        assert_eq!(serde_json::to_string(&limits).unwrap(), json);
        assert_eq!(serde_json::from_str::<Vec<Limit>>(json).unwrap(), limits);
    }
    let without_meter = parse(r#"[{"limit":1,"period":"hour"}]"#).unwrap();
    assert_eq!(without_meter[0].meter, Meter::REQUESTS);
}

#[test]
fn faults_of_limits_are_reported_where_they_are() {
    let limit = r#"{"limit":1,"window_seconds":1}"#;
    let nine = format!("[{}]", [limit; 9].join(","));
    for (json, faults) in [
        ("{}", vec![("", "INVALID_TYPE")]),
        (nine.as_str(), vec![("", "TOO_MANY")]),
        ("[1]", vec![("/0", "INVALID_TYPE")]),
        (r#"[{"limit":1}]"#, vec![("/0", "INVALID_VALUE")]),
        (r#"[{"limit":1,"window_seconds":1,"period":"day"}]"#, vec![("/0", "INVALID_VALUE")]),
        (r#"[{"limit":0,"period":"day"}]"#, vec![("/0/limit", "INVALID_VALUE")]),
        (r#"[{"limit":9007199254740992,"period":"day"}]"#, vec![("/0/limit", "INVALID_VALUE")]),
        (r#"[{"limit":1000000001,"window_seconds":1}]"#, vec![("/0/limit", "INVALID_VALUE")]),
        (r#"[{"limit":1,"window_seconds":86401}]"#, vec![("/0/window_seconds", "INVALID_VALUE")]),
        (r#"[{"limit":1,"period":"year"}]"#, vec![("/0/period", "INVALID_VALUE")]),
        (
            r#"[{"meter":"To","limit":1,"period":"day","x":1}]"#,
            vec![("/0/meter", "INVALID_NAME"), ("/0/x", "UNKNOWN_FIELD")],
        ),
        (
            r#"[{"limit":1,"period":"day"},{"meter":"requests","limit":2,"period":"day"}]"#,
            vec![("/1", "DUPLICATE")],
        ),
    ] {
        let found = parse(json).unwrap_err();
        let found: Vec<_> = found.iter().map(|(pointer, code)| (pointer.as_str(), code.as_str())).collect();
        assert_eq!(found, faults, "{json}");
    }
}

#[test]
fn stored_limits_have_one_window_or_period() {
    for json in [
        r#"{"limit":1}"#,
        r#"{"limit":1,"window_seconds":1,"period":"day"}"#,
        r#"{"limit":1,"period":"day","x":1}"#,
    ] {
        assert!(serde_json::from_str::<Limit>(json).is_err(), "{json}");
    }
}

#[test]
fn limits_on_unknown_meters_are_reported() {
    let limits =
        parse(r#"[{"limit":1,"period":"day"},{"meter":"tokens","limit":1,"period":"day"}]"#).unwrap();
    let mut faults = Faults::default();
    check_meters(&limits, &[Meter::REQUESTS], &mut faults);
    let error = faults.finish(()).unwrap_err().with_code_of_details();
    assert_eq!(error.code, Code::UnknownMeter);
    assert_eq!(error.details[0].pointer.as_deref(), Some("/1/meter"));
    assert_eq!(error.details[0].message, "Must be one of the meters: requests.");
}

#[test]
fn periods_begin_and_end_in_utc() {
    for (period, now, start, end) in [
        (Period::Hour, "2026-11-23T07:08:09.123Z", "2026-11-23T07:00:00Z", "2026-11-23T08:00:00Z"),
        (Period::Day, "2026-11-23T07:08:09.123Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
        (Period::Week, "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
        (Period::Week, "2026-11-22T23:59:59.999Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
        (Period::Week, "2027-01-01T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
        (Period::Month, "2026-12-31T23:59:59.999Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (Period::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Period::Month, "2028-02-01T00:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
    ] {
        assert_eq!(period.bounds_at(time(now)), (time(start), time(end)), "{period:?} around {now}");
    }
}

#[test]
fn the_epoch_is_in_a_week_that_began_before_it() {
    let day = |days: i64| Timestamp::from_millis(days * 86_400_000);
    assert_eq!(Period::Week.bounds_at(day(0)), (day(-3), day(4)));
    assert_eq!(Period::Week.bounds_at(day(4)), (day(4), day(11)));
}

#[test]
fn a_lease_is_one_percent_and_at_least_one_unit() {
    assert_eq!([1, 99, 100, 250, 1_000_000].map(Limit::lease_units), [1, 1, 1, 2, 10_000]);
}
