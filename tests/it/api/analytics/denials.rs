//! `GET /analytics/logs`

use std::time::Duration;

use serde_json::{Value, json};
use tollhouse::domain::verification::Outcome::{self, *};

use super::super::{expect_invalid, expect_ok};
use super::{flush, key};
use crate::support::{Client, Server};

async fn logs(client: &Client, query: &str) -> Vec<Value> {
    expect_ok(client.get(&format!("/analytics/logs?{query}")).await, 200).as_array().unwrap().clone()
}

/// Formats each row as `code key organization ip count`.
async fn summaries(client: &Client, query: &str) -> Vec<String> {
    let rows = logs(client, query).await;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or("-").to_owned();
    let line = |row: &Value| {
        let parts = ["code", "key_id", "organization_id", "ip"].map(|field| text(row, field));
        format!("{} {}", parts.join(" "), row["count"])
    };
    rows.iter().map(line).collect()
}

fn unknown(server: &Server, outcome: Outcome, organization: Option<&str>, ip: &str) {
    server.app.verifier.recorder().count_unknown_key_denial(
        outcome,
        organization,
        ip.parse().ok(),
        server.clock.now(),
    );
}

#[tokio::test]
async fn denials_are_aggregated_by_minute_across_flushes() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    for (times, ip) in [(2, "192.0.2.1"), (3, "192.0.2.2")] {
        key_1.count_from(&server, RateLimited, times, Some(ip));
        key_1.count_from(&server, Valid, times, Some(ip));
        flush(&server).await;
        server.advance(Duration::from_secs(1));
    }
    server.advance(Duration::from_secs(60));
    key_1.count_from(&server, RateLimited, 1, None);
    flush(&server).await;
    let rows = logs(&server.admin(), "").await;
    let row = |ip, count, first, last| {
        json!({"code": "RATE_LIMITED", "key_id": "key_1", "organization_id": "org_1", "ip": ip, "count": count,
            "first_at": format!("2026-11-23T07:{first}.000Z"), "last_at": format!("2026-11-23T07:{last}.000Z")})
    };
    assert_eq!(rows, [row(None, 1, "09:11", "09:11"), row(Some("192.0.2.1"), 5, "08:09", "08:10")]);
}

#[tokio::test]
async fn i5_filters_find_what_the_caller_may_see() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    let key_1 = key(&server, Some("org_1"), "key_1").await;
    let key_2 = key(&server, Some("org_2"), "key_2").await;
    key_1.count_from(&server, Expired, 1, Some("192.0.2.1"));
    key_2.count_from(&server, IpNotAllowed, 2, Some("2001:db8::1"));
    unknown(&server, Malformed, None, "192.0.2.1");
    unknown(&server, NotFound, Some("org_1"), "192.0.2.9");
    flush(&server).await;
    server.advance(Duration::from_secs(600));
    key_1.count_from(&server, Revoked, 1, Some("192.0.2.3"));
    flush(&server).await;

    let [expired, ip_denied, malformed, not_found, revoked] = [
        "EXPIRED key_1 org_1 192.0.2.1 1",
        "IP_NOT_ALLOWED key_2 org_2 2001:db8::1 2",
        "MALFORMED - - 192.0.2.1 1",
        "NOT_FOUND - org_1 192.0.2.9 1",
        "REVOKED key_1 org_1 192.0.2.3 1",
    ];
    for (query, expected) in [
        ("order=asc", &[expired, ip_denied, malformed, not_found, revoked][..]),
        ("", &[revoked, not_found, malformed, ip_denied, expired]),
        ("org_id=org_1", &[revoked, not_found, expired]),
        ("org_id=org_9", &[]),
        ("key_id=key_2", &[ip_denied]),
        ("key_id=key_9", &[]),
        ("code=MALFORMED", &[malformed]),
        ("code=VALID", &[]),
        ("ip=192.0.2.1", &[malformed, expired]),
        ("ip=::ffff:192.0.2.1", &[malformed, expired]),
        ("ip=2001:db8:0::1", &[ip_denied]),
        ("ip=192.0.2.1:4711", &[malformed, expired]),
        (
            "org_id=&key_id=&code=&ip=&from=&to=&cursor=&limit=&order=",
            &[revoked, not_found, malformed, ip_denied, expired],
        ),
        ("from=2026-11-23T07:10:00Z", &[revoked]),
        ("from=2026-11-23T08:10:00%2B01:00", &[revoked]),
        // Unencoded, `+` is a space.
        ("from=2026-11-23T08:10:00+01:00", &[revoked]),
        ("from=2026-11-23T08:10:00.000+01:00&to=2026-11-24+08:10:00+01:00", &[revoked]),
        ("to=2026-11-23T07:10:00Z&ip=192.0.2.1&code=EXPIRED", &[expired]),
    ] {
        assert_eq!(summaries(&admin, query).await, expected, "{query}");
    }
    let (client, _) = server.key(Some("org_1"), &["admin:analytics"]).await;
    for (query, expected) in [
        ("", &[revoked, not_found, expired][..]),
        ("org_id=org_1", &[revoked, not_found, expired]),
        ("key_id=key_2", &[]),
        ("ip=2001:db8::1", &[]),
        ("ip=192.0.2.1", &[expired]),
    ] {
        assert_eq!(summaries(&client, query).await, expected, "{query}");
    }
    let answer = admin.get("/analytics/logs?ip=192.0.2.0/24&code=expired&from=now").await;
    expect_invalid(
        &answer,
        &[("ip", "INVALID_ADDRESS"), ("code", "INVALID_VALUE"), ("from", "INVALID_TIME")],
    );
}

#[tokio::test]
async fn a_cursor_leads_to_the_next_page() {
    let server = Server::start().await;
    for index in 0..7 {
        unknown(&server, NotFound, None, &format!("192.0.2.{index}"));
    }
    flush(&server).await;
    let mut ips = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = server.admin().get(&format!("/analytics/logs?limit=3{cursor}")).await;
        ips.extend(super::super::column(answer.data(), "ip"));
        match answer.json["metadata"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ips, (0..7).rev().map(|index| format!("192.0.2.{index}")).collect::<Vec<_>>());
}

/// A flood of guesses adds a bounded number of rows. One row counts the rest.
#[tokio::test]
async fn i10_a_flood_is_counted_in_one_row() {
    let server = Server::start().await;
    for index in 0..1300_u32 {
        unknown(&server, NotFound, None, &std::net::Ipv4Addr::from(index).to_string());
        if index % 100 == 0 {
            flush(&server).await;
        }
    }
    flush(&server).await;
    let rows = server.app.db.read(|tx| {
        let page = tollhouse::domain::page::Page { limit: 5000, order: Default::default(), after: None };
        tollhouse::store::verification_log::list(tx, &Default::default(), &page)
    });
    let rows = rows.await.unwrap().rows;
    assert_eq!(rows.len(), 1001);
    assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 1300);
    let rest = summaries(&server.admin(), "limit=100&order=desc").await;
    assert_eq!(rest.iter().filter(|row| *row == "- - - - 300").count(), 1, "{rest:?}");
}
