//! `GET /analytics/usage`

use serde_json::{Value, json};
use strum::VariantArray;
use tollhouse::domain::verification::Outcome::{self, *};

use super::super::{expect_error, expect_invalid, expect_ok};
use super::{DAY, HOUR, expected_groups, flush, groups, key, usage};
use crate::support::Server;

/// Returns `(start, requests)` of the buckets that aren't empty.
fn non_empty_buckets(data: &Value) -> Vec<(String, u64)> {
    let rows = data["series"].as_array().unwrap().iter();
    let rows = rows.map(|bucket| (bucket["start"].as_str().unwrap(), bucket["requests"].as_u64().unwrap()));
    rows.filter(|(_, requests)| *requests > 0).map(|(start, requests)| (start.to_owned(), requests)).collect()
}

#[tokio::test]
async fn every_outcome_is_counted_in_its_totals() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    let outcomes = &Outcome::VARIANTS[2..];
    assert_eq!(outcomes[0], Revoked);
    for (times, outcome) in (1..).zip(outcomes) {
        key_1.count(&server, *outcome, times);
    }
    flush(&server).await;
    let data = usage(&server.admin(), "key_id=key_1&group_by=code").await;
    let expected = json!({"requests": 55, "allowed": 10, "denied": 45, "rate_limited": 9, "quota_exceeded": 8, "cost": 10});
    assert_eq!(data["totals"], expected);
    assert_eq!(
        (&data["org_id"], &data["key_id"], &data["interval"]),
        (&Value::Null, &json!("key_1"), &json!("day"))
    );
    let period = json!({"start": "2026-10-24T00:00:00.000Z", "end": "2026-11-23T07:08:09.000Z"});
    assert_eq!(data["period"], period);
    assert_eq!(data["series"].as_array().unwrap().len(), 31);
    let by_code: Vec<_> = outcomes.iter().rev().map(|outcome| outcome.name()).zip((1..=10).rev()).collect();
    assert_eq!(groups(&data, "groups"), expected_groups(&by_code));
    let of_valid = json!({"requests": 10, "allowed": 10, "denied": 0, "rate_limited": 0, "quota_exceeded": 0, "cost": 10});
    assert_eq!(data["groups"][0], json!({"id": "VALID", "name": "VALID", "totals": of_valid}));
}

#[tokio::test]
async fn buckets_are_hours_or_days_and_include_empty_ones() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let admin = server.admin();
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    key_1.count(&server, Valid, 1);
    for step in [HOUR, HOUR * 2, DAY * 2] {
        server.advance(step);
        key_1.count(&server, Valid, 2);
    }
    flush(&server).await;
    // The time is 2026-11-25T10:08:09Z.
    let hours = usage(&admin, "key_id=key_1&period=52h&interval=hour").await;
    assert_eq!(hours["series"].as_array().unwrap().len(), 53);
    // The sums of all keys come from other rows than the hours of one key.
    for filter in ["", "org_id=org_1&"] {
        let sums = usage(&admin, &format!("{filter}period=52h&interval=hour")).await;
        assert_eq!(sums["series"], hours["series"], "{filter}");
    }
    assert_eq!(
        non_empty_buckets(&hours),
        expected_groups(&[
            ("2026-11-23T07:00:00.000Z", 1),
            ("2026-11-23T08:00:00.000Z", 2),
            ("2026-11-23T10:00:00.000Z", 2),
            ("2026-11-25T10:00:00.000Z", 2)
        ])
    );
    assert_eq!(hours["series"][0]["start"], "2026-11-23T06:00:00.000Z");
    let days = usage(&admin, "key_id=key_1&period=52h").await;
    assert_eq!(
        non_empty_buckets(&days),
        expected_groups(&[("2026-11-23T00:00:00.000Z", 5), ("2026-11-25T00:00:00.000Z", 2)])
    );
    assert_eq!(days["series"][1]["requests"], 0);
    // Start and end are extended to whole buckets, and the response contains the extended period.
    let with_end = "key_id=key_1&start=2026-11-23T07:59:59Z&end=2026-11-23T10:00:00.001Z";
    let part = usage(&admin, with_end).await;
    let period = json!({"start": "2026-11-23T07:00:00.000Z", "end": "2026-11-23T11:00:00.000Z"});
    assert_eq!((&part["period"], &part["totals"]["requests"]), (&period, &json!(5)));
}

#[tokio::test]
async fn groups_are_the_busiest_with_exact_figures() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2", "org_3"] {
        server.organization(organization).await;
    }
    let platform_key = key(&server, None, "key_p").await;
    let keys = [
        (&platform_key, 5),
        (&key(&server, Some("org_1"), "key_1a").await, 30),
        (&key(&server, Some("org_1"), "key_1b").await, 1),
        (&key(&server, Some("org_2"), "key_2").await, 7),
    ];
    key(&server, Some("org_3"), "key_3").await;
    for _ in 0..3 {
        keys.iter().for_each(|(key, times)| key.count(&server, Valid, *times));
        keys[3].0.count(&server, Disabled, 10);
        flush(&server).await;
        server.advance(DAY);
    }
    let by_key = [("key_1a", 90), ("key_2", 51), ("key_p", 15), ("key_1b", 3)];
    let by_organization = [("org_1", 93), ("org_2", 51), ("-", 15)];
    // Whole days, and hours with a partial day at both ends.
    for period in ["period=9d", "start=2026-11-23T05:00:00Z&end=2026-11-25T09:00:00Z&interval=hour"] {
        let all = usage(&admin, &format!("{period}&group_by=key")).await;
        assert_eq!(groups(&all, "groups"), expected_groups(&by_key), "{period}");
        assert_eq!(all["groups"][0]["name"], "named key_1a");
        assert_eq!(all["totals"]["requests"], 159);
        let all = usage(&admin, &format!("{period}&group_by=organization")).await;
        assert_eq!(groups(&all, "groups"), expected_groups(&by_organization), "{period}");
        assert_eq!((&all["groups"][0]["name"], &all["groups"][2]["name"]), (&json!("org_1"), &Value::Null));
    }
    for (query, expected) in [
        ("org_id=org_1&group_by=key", &[("key_1a", 90), ("key_1b", 3)][..]),
        ("org_id=org_1&group_by=organization", &[("org_1", 93)]),
        ("key_id=key_2&group_by=key", &[("key_2", 51)]),
        ("key_id=key_2&group_by=organization", &[("org_2", 51)]),
        ("key_id=key_p&group_by=organization", &[("-", 15)]),
        ("org_id=org_2&key_id=key_2&group_by=code", &[("DISABLED", 30), ("VALID", 21)]),
        ("org_id=org_3&group_by=key", &[]),
        // Only part of the usage is within the period.
        (
            "start=2026-11-24T08:00:00Z&end=2026-11-25T08:00:00Z&group_by=key",
            &[("key_1a", 30), ("key_2", 17), ("key_p", 5), ("key_1b", 1)],
        ),
        ("start=2026-11-24T08:00:00Z&end=2026-11-25T07:00:00Z&group_by=key", &[]),
    ] {
        assert_eq!(groups(&usage(&admin, query).await, "groups"), expected_groups(expected), "{query}");
    }
}

/// If there are more groups than the response contains, it contains the busiest ones, including a key that
/// became busy only on the last day.
#[tokio::test]
async fn the_hundred_busiest_groups_are_returned() {
    let server = Server::start().await;
    let mut keys = Vec::new();
    for index in 0..105 {
        keys.push(key(&server, None, &format!("key_{index:03}")).await);
    }
    for _ in 0..2 {
        for (index, key) in (0..).zip(&keys) {
            key.count(&server, Valid, if index < 100 { 16 + index } else { 1 });
        }
        flush(&server).await;
        server.advance(DAY);
    }
    keys[104].count(&server, Valid, 300);
    flush(&server).await;
    let actual = groups(&usage(&server.admin(), "group_by=key").await, "groups");
    let mut expected: Vec<_> = (1..100).map(|index| (format!("key_{index:03}"), 2 * (16 + index))).collect();
    expected.push(("key_104".to_owned(), 302));
    expected.sort_by_key(|(_, requests)| std::cmp::Reverse(*requests));
    assert_eq!(actual, expected);
}

#[tokio::test]
async fn i5_an_organization_sees_only_its_own_usage() {
    let server = Server::start().await;
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    let key_2 = key(&server, Some("org_2"), "key_2").await;
    let platform_key = key(&server, None, "key_p").await;
    key_1.count(&server, Valid, 3);
    key_2.count(&server, Valid, 5);
    platform_key.count(&server, Valid, 7);
    flush(&server).await;
    let (client, _) = server.key(Some("org_1"), &["admin:analytics"]).await;
    for query in ["", "org_id=org_1", "key_id=key_1", "org_id=org_1&key_id=key_1"] {
        for group_by in ["key", "organization", "user", "code"] {
            let data = usage(&client, &format!("{query}&group_by={group_by}")).await;
            assert_eq!(
                (&data["totals"]["requests"], &data["org_id"]),
                (&json!(3), &json!("org_1")),
                "{query}"
            );
            let groups = groups(&data, "groups");
            assert_eq!(groups.iter().map(|(_, requests)| requests).sum::<u64>(), 3, "{groups:?}");
        }
    }
    for query in [
        "org_id=org_2",
        "key_id=key_2",
        "key_id=key_p",
        "org_id=org_1&key_id=key_2",
        "org_id=org_9",
        "key_id=key_9",
    ] {
        expect_error(&client.get(&format!("/analytics/usage?{query}")).await, 404, "NOT_FOUND");
    }
    for query in ["org_id=org_1&key_id=key_2", "org_id=org_9", "key_id=key_9", "org_id=org_1&key_id=key_p"] {
        expect_error(&server.admin().get(&format!("/analytics/usage?{query}")).await, 404, "NOT_FOUND");
    }
}

/// The usage of a deleted organization and of a revoked key can still be queried.
#[tokio::test]
async fn usage_is_kept_after_its_organization_is_deleted() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    key_1.count(&server, Valid, 3);
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    // The usage is written after the deletion.
    flush(&server).await;
    for query in ["org_id=org_1", "key_id=key_1", "org_id=org_1&key_id=key_1", ""] {
        assert_eq!(usage(&admin, query).await["totals"]["requests"], 3, "{query}");
    }
    assert_eq!(
        groups(&usage(&admin, "group_by=organization").await, "groups"),
        expected_groups(&[("org_1", 3)])
    );
}

#[tokio::test]
async fn invalid_queries_are_refused_with_the_reason() {
    let server = Server::start().await;
    let admin = server.admin();
    for (query, details) in [
        (
            "period=1w&interval=week&group_by=team",
            &[("period", "INVALID_PERIOD"), ("interval", "INVALID_VALUE"), ("group_by", "INVALID_VALUE")][..],
        ),
        ("period=1d&end=2026-11-23T00:00:00Z", &[("period", "CONFLICT"), ("start", "REQUIRED")]),
        ("period=10000d", &[("period", "INVALID_PERIOD")]),
        ("start=1970-01-01T00:00:00Z", &[("interval", "TOO_MANY")]),
        ("period=91d&interval=hour", &[("interval", "NOT_KEPT")]),
    ] {
        expect_invalid(&admin.get(&format!("/analytics/usage?{query}")).await, details);
    }
    let not_kept = admin.get("/analytics/usage?period=91d&interval=hour").await;
    assert_eq!(not_kept.json["error"]["message"], "Hourly usage is kept for 90 days; use interval=day.");
}
