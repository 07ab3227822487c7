//! Filters of the list of API keys by time, compared with the keys of the list without them.

use std::time::Duration;

use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;
use tollhouse::service::housekeeping;

use super::{column, expect_invalid, expect_ok};
use crate::support::{Client, NOW, Server};

const DAY: Duration = Duration::from_secs(86_400);

/// All keys of a list, page by page.
async fn all_keys(client: &Client, query: &str, limit: usize) -> Vec<Value> {
    let mut keys = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/api-keys?limit={limit}&{query}&cursor={cursor}")).await;
        let next = page.json["metadata"]["nextCursor"].as_str().map(str::to_owned);
        keys.extend(expect_ok(page, 200).as_array().unwrap().clone());
        match next {
            Some(next) => cursor = next,
            None => return keys,
        }
    }
}

/// A time this many milliseconds after [`NOW`].
fn time(millis: i64) -> String {
    Timestamp::from_millis(NOW + millis).to_string()
}

/// Asserts that a list has the keys of the unfiltered list for which `matches` is true, in its order.
async fn assert_lists(client: &Client, query: &str, matches: impl Fn(&Value) -> bool) {
    for order in ["desc", "asc"] {
        let all = all_keys(client, &format!("order={order}"), 100).await;
        let expected: Vec<_> = all.iter().filter(|key| matches(key)).map(|key| key["id"].clone()).collect();
        for limit in [3, 100] {
            let found = all_keys(client, &format!("order={order}&{query}"), limit).await;
            let found: Vec<_> = found.iter().map(|key| key["id"].clone()).collect();
            assert_eq!(found, expected, "{query} {order} {limit}");
        }
    }
}

#[tokio::test]
async fn keys_are_listed_by_their_expiry() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let minutes = 60_000;
    let days = 24 * 60 * minutes;
    // Within a day, at its ends, in neighboring days, months and years, and far away.
    let ends = [
        5 * minutes,
        6 * minutes,
        300 * minutes,
        days,
        2 * days,
        31 * days,
        33 * days,
        1000 * days,
        1025 * days,
    ];
    for (number, end) in ends.iter().chain(&[i64::MAX; 1]).enumerate() {
        for organization in [Some("org_1"), None] {
            let expires_at = match *end {
                i64::MAX => json!("9999-12-31T23:59:59.999Z"),
                end => json!(time(end)),
            };
            let name = format!("key n{number}");
            server.key_with(json!({"organization_id": organization, "name": name, "scopes": [], "expires_at": expires_at})).await;
        }
    }
    let (own, _) = server.key(Some("org_1"), &["admin:keys"]).await;
    let moved = column(&json!(all_keys(&admin, "q=key", 100).await), "id");
    expect_ok(admin.patch(&format!("/api-keys/{}", moved[3]), json!({"expires_at": null})).await, 200);
    expect_ok(
        admin.patch(&format!("/api-keys/{}", moved[4]), json!({"expires_at": time(40 * days)})).await,
        200,
    );
    server.advance(Duration::from_secs(330));
    for client in [&admin, &own] {
        for bound in ends.iter().flat_map(|end| [end - 1, *end, end + 1]).chain([-500 * days, 40 * days]) {
            let bound = time(bound);
            let end_of = |key: &Value| key["expires_at"].as_str().map(str::to_owned);
            let before = |key: &Value| end_of(key).is_some_and(|end| end < bound);
            let after = |key: &Value| end_of(key).is_some_and(|end| end > bound);
            assert_lists(client, &format!("expires_before={bound}"), before).await;
            assert_lists(client, &format!("expires_after={bound}"), after).await;
            let until = time(31 * days);
            let between = |key: &Value| after(key) && end_of(key).is_some_and(|end| end < until);
            assert_lists(client, &format!("expires_after={bound}&expires_before={until}"), between).await;
        }
        assert_lists(client, "status=expired", |key| key["status"] == "expired").await;
        let unexpired = |key: &Value| key["status"] == "active" && !key["expires_at"].is_null();
        assert_lists(client, &format!("status=active&expires_after={}", time(0)), unexpired).await;
        let found = |key: &Value| key["name"] == "key n3" && !key["expires_at"].is_null();
        assert_lists(client, &format!("q=key%20n3&expires_after={}", time(0)), found).await;
    }
    server.organization("org_2").await;
    let (org_2, _) = server.key(Some("org_2"), &["admin:keys"]).await;
    assert_lists(&org_2, "expires_after=1970-01-01T00:00:00Z", |_| false).await;
}

#[tokio::test]
async fn keys_are_listed_by_the_day_of_their_last_use() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let (own, _) = server.key(Some("org_1"), &["admin:keys", "keys:verify"]).await;
    let mut secrets = Vec::new();
    for number in 0..6 {
        let key =
            json!({"organization_id": "org_1", "name": format!("key n{number}"), "scopes": [], "limits": []});
        secrets.push(server.key_with(key).await.1["key"].as_str().unwrap().to_owned());
    }
    // The first key is never used, each of the others a few days later than the one before it, and the last one daily.
    for day in 0..50 {
        let used = if day % 10 == 0 { 1 + day / 10 } else { 5 };
        let verify = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        for secret in [&secrets[used], &secrets[5]] {
            let verified = admin.send(verify.try_clone().unwrap().json(&json!({"key": secret}))).await;
            assert_eq!(verified.data()["valid"], true, "{verified:?}");
        }
        tollhouse::service::usage::flush(&server.app).await.unwrap();
        housekeeping::write_last_used(&server.app).await.unwrap();
        server.advance(DAY);
    }
    for client in [&admin, &own] {
        for day in [-1, 0, 1, 10, 11, 39, 41, 49, 50, 51, 2000] {
            let day = time(day * 86_400_000);
            let date = &day[..10];
            let before = |key: &Value| key["last_used_at"].as_str().is_some_and(|used| &used[..10] < date);
            assert_lists(client, &format!("last_used_before={date}"), before).await;
            assert_lists(client, &format!("last_used_before={day}"), before).await;
        }
        assert_lists(client, "never_used=true", |key| key["last_used_at"].is_null()).await;
        assert_lists(client, "never_used=false", |key| !key["last_used_at"].is_null()).await;
        assert_lists(client, "never_used=true&last_used_before=2999-01-01", |_| false).await;
        assert_lists(client, "never_used=true&q=key%20n0", |key| key["name"] == "key n0").await;
    }
    for (query, parameter, code) in [
        ("last_used_before=yesterday", "last_used_before", "INVALID_TIME"),
        ("last_used_before=2026-13-01", "last_used_before", "INVALID_TIME"),
        ("expires_before=2026-11-01", "expires_before", "INVALID_TIME"),
        ("never_used=yes", "never_used", "INVALID_VALUE"),
    ] {
        expect_invalid(&admin.get(&format!("/api-keys?{query}")).await, &[(parameter, code)]);
    }
}
