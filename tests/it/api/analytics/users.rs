//! `GET /analytics/usage?group_by=user`

use std::collections::BTreeMap;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tollhouse::domain::verification::Outcome::{Disabled, RateLimited, Valid};

use super::super::{expect_error, expect_invalid, expect_ok};
use super::{DAY, HOUR, Key, expected_groups, flush, groups, usage};
use crate::support::{Client, Server};

async fn key_of_user(server: &Server, organization: Option<&str>, user: Option<&str>, id: &str) -> Key {
    let body = json!({"id": id, "organization_id": organization, "user_id": user, "name": id, "scopes": [], "limits": []});
    let (_, key) = server.key_with(body).await;
    Key { credential: server.credential(key["key"].as_str().unwrap()).await }
}

/// Two organizations, of which Ada is a member of both and Bob of one.
async fn create_members(server: &Server) {
    for (organization, users) in [("org_1", &["user_ada", "user_bob"][..]), ("org_2", &["user_ada"])] {
        server.organization(organization).await;
        for user in users {
            if organization == "org_1" {
                server.user(user).await;
            }
            let path = format!("/organizations/{organization}/members");
            expect_ok(server.admin().post(&path, json!({"user_id": user, "role": "member"})).await, 201);
        }
        let limits = json!({"limits": []});
        expect_ok(server.admin().patch(&format!("/organizations/{organization}"), limits).await, 200);
    }
}

/// A report by user, whose groups add up to its totals.
async fn by_user(client: &Client, query: &str) -> Value {
    let data = usage(client, &format!("{query}&group_by=user")).await;
    for (field, total) in data["totals"].as_object().unwrap() {
        let groups = data["groups"].as_array().unwrap().iter();
        let sum: u64 = groups.map(|group| group["totals"][field].as_u64().unwrap()).sum();
        assert_eq!(*total, sum, "{query}: {field} of {data:#}");
    }
    data
}

#[tokio::test]
async fn the_keys_of_a_user_are_added_up() {
    let server = Server::start().await;
    create_members(&server).await;
    let keys = [
        (key_of_user(&server, Some("org_1"), Some("user_ada"), "key_1").await, 3),
        (key_of_user(&server, Some("org_1"), Some("user_ada"), "key_2").await, 5),
        (key_of_user(&server, Some("org_2"), Some("user_ada"), "key_3").await, 7),
        (key_of_user(&server, Some("org_1"), Some("user_bob"), "key_4").await, 11),
        (key_of_user(&server, Some("org_1"), None, "key_5").await, 13),
        (key_of_user(&server, None, None, "key_6").await, 1),
    ];
    for step in [HOUR * 2, DAY, DAY + HOUR] {
        for (key, times) in &keys {
            key.count(&server, Valid, *times);
            key.count(&server, RateLimited, 1);
        }
        flush(&server).await;
        server.advance(step);
    }
    keys[3].0.count(&server, Disabled, 40);
    flush(&server).await;
    let admin = server.admin();
    // The time is 2026-11-25T10:08:09Z. The hours of the first day count as hours, those of whole days as days.
    for period in ["period=9d", "start=2026-11-23T07:00:00Z&interval=hour", "period=60h&interval=hour"] {
        let all = by_user(&admin, period).await;
        let expected = [("user_bob", 36 + 40), ("user_ada", 45 + 9), ("-", 42 + 6)];
        assert_eq!(groups(&all, "groups"), expected_groups(&expected), "{period}");
        let names: Vec<_> = all["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
        assert_eq!(names, [&json!("user_bob"), &json!("user_ada"), &Value::Null]);
        let organization = by_user(&admin, &format!("{period}&org_id=org_1")).await;
        let expected = [("user_bob", 76), ("-", 39 + 3), ("user_ada", 24 + 6)];
        assert_eq!(groups(&organization, "groups"), expected_groups(&expected), "{period}");
        let key = by_user(&admin, &format!("{period}&key_id=key_3")).await;
        assert_eq!(groups(&key, "groups"), expected_groups(&[("user_ada", 21 + 3)]));
        let platform_key = by_user(&admin, &format!("{period}&key_id=key_6")).await;
        assert_eq!(groups(&platform_key, "groups"), expected_groups(&[("-", 6)]));
    }
    let hours = "start=2026-11-23T10:00:00Z&end=2026-11-24T09:00:00Z&interval=hour&org_id=org_1";
    assert_eq!(groups(&by_user(&admin, hours).await, "groups"), []);
    let hours = "start=2026-11-23T08:00:00Z&end=2026-11-23T10:00:00Z&interval=hour&org_id=org_2";
    assert_eq!(groups(&by_user(&admin, hours).await, "groups"), expected_groups(&[("user_ada", 8)]));

    // A key of an organization sees what the user's keys did there.
    let (client, _) = server.key(Some("org_2"), &["admin:analytics"]).await;
    let own = by_user(&client, "period=9d").await;
    assert_eq!(groups(&own, "groups"), expected_groups(&[("user_ada", 24)]));
    expect_error(&client.get("/analytics/usage?group_by=user&org_id=org_1").await, 404, "NOT_FOUND");

    // The usage of a deleted user is kept.
    expect_ok(admin.delete("/users/user_bob").await, 200);
    let after = by_user(&admin, "period=9d").await;
    assert_eq!(groups(&after, "groups")[0], ("user_bob".to_owned(), 76));
}

/// A report names only users that the caller can read.
#[tokio::test]
async fn i5_names_of_users_are_shown_to_those_who_can_read_them() {
    let server = Server::start().await;
    create_members(&server).await;
    for (user, id) in [("user_ada", "key_1"), ("user_bob", "key_2")] {
        key_of_user(&server, Some("org_1"), Some(user), id).await.count(&server, Valid, 1);
    }
    flush(&server).await;
    let mut callers = Vec::new();
    for organization in [None, Some("org_1")] {
        for scopes in [&["admin:analytics"][..], &["admin:analytics", "admin:users"], &["admin:*"]] {
            let reads_users = scopes != ["admin:analytics"];
            callers.push((organization, server.key(organization, scopes).await.0, reads_users));
        }
    }
    let admin = server.admin();
    let everyone: &[&str] = &["user_ada", "user_bob"];
    for (step, of_platform, of_organization) in [
        ("", everyone, everyone),
        ("/organizations/org_1/members/user_ada", everyone, &["user_bob"]),
        ("/users/user_bob", &["user_ada"], &[]),
    ] {
        if !step.is_empty() {
            expect_ok(admin.delete(step).await, 200);
        }
        for (organization, caller, reads_users) in &callers {
            let readable = match (reads_users, organization) {
                (false, _) => &[],
                (true, None) => of_platform,
                (true, Some(_)) => of_organization,
            };
            let data = by_user(caller, "period=9d").await;
            let mut users: Vec<_> =
                data["groups"].as_array().unwrap().iter().map(|user| (&user["id"], &user["name"])).collect();
            users.sort_unstable_by_key(|(id, _)| id.as_str());
            let expected = everyone
                .iter()
                .map(|id| (json!(id), if readable.contains(id) { json!(id) } else { Value::Null }));
            let expected: Vec<_> = expected.collect();
            assert_eq!(
                users,
                expected.iter().map(|(id, name)| (id, name)).collect::<Vec<_>>(),
                "{step} {organization:?}"
            );
            for id in everyone.iter().filter(|_| *reads_users) {
                let status = if readable.contains(id) { 200 } else { 404 };
                assert_eq!(
                    caller.get(&format!("/users/{id}")).await.status,
                    status,
                    "{step} {organization:?} {id}"
                );
            }
        }
    }
}

/// Hours are grouped for as long as they are kept, even if days are to be kept for a shorter time.
#[tokio::test]
async fn i9_hourly_usage_is_grouped_while_it_is_kept() {
    let server = Server::with(|config| {
        config.retention.usage_hourly_days = 4;
        config.retention.usage_daily_days = 1;
    })
    .await;
    create_members(&server).await;
    let key = key_of_user(&server, Some("org_1"), Some("user_ada"), "key_1").await;
    for _ in 0..6 {
        key.count(&server, Valid, 1);
        server.advance(DAY);
    }
    flush(&server).await;
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    for query in ["period=96h&interval=hour", "period=96h&interval=hour&org_id=org_1"] {
        let data = by_user(&server.admin(), query).await;
        assert_eq!(groups(&data, "groups"), expected_groups(&[("user_ada", 4)]), "{query}");
    }
}

/// The costs of verifications and of reports, also of a key that is not verified on the day of its report.
#[tokio::test]
async fn i9_the_units_of_a_meter_are_added_up_by_user() {
    let server = Server::start().await;
    create_members(&server).await;
    expect_ok(server.configure(json!({"meters": ["requests", "tokens"]})).await, 200);
    let admin = server.admin();
    let mut keys = Vec::new();
    for (organization, user) in [("org_1", Some("user_ada")), ("org_1", None), ("org_2", Some("user_ada"))] {
        let body = json!({"organization_id": organization, "user_id": user, "name": "n", "scopes": [], "limits": []});
        keys.push((server.key_with(body).await.0.key.unwrap(), user, organization));
    }
    let mut sent: BTreeMap<(&str, Option<&str>, &str), u64> = BTreeMap::new();
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..40 {
        let (key, user, organization) = &keys[rng.usize(..3)];
        let (tokens, requests) = (rng.u64(..1000), rng.u64(..3));
        let is_report = rng.bool();
        let costs = match rng.bool() {
            true => json!({"tokens": tokens, "requests": requests}),
            false => json!({"tokens": tokens}),
        };
        let path = if is_report { "/v1/keys/usage" } else { "/v1/keys/verify" };
        let request = admin.request_at_root(Method::POST, path).json(&json!({"key": key, "costs": costs}));
        expect_ok(admin.send(request).await, 200);
        let requests = costs["requests"].as_u64().unwrap_or(u64::from(!is_report));
        *sent.entry(("tokens", *user, *organization)).or_default() += tokens;
        *sent.entry(("requests", *user, *organization)).or_default() += requests;
        server.advance(HOUR * rng.u32(..8));
    }
    flush(&server).await;
    for meter in ["tokens", "requests"] {
        for (filter, organizations) in
            [("", &["org_1", "org_2"][..]), ("&org_id=org_1", &["org_1"]), ("&org_id=org_2", &["org_2"])]
        {
            for interval in ["hour", "day"] {
                let query = format!("period=20d&interval={interval}&meter={meter}{filter}");
                let data = by_user(&admin, &query).await;
                let costs = data["groups"].as_array().unwrap().iter();
                let costs: Vec<_> = costs.map(|group| group["totals"]["cost"].as_u64()).collect();
                assert!(meter == "requests" || costs.is_sorted_by(|a, b| a >= b), "{query}: {costs:?}");
                for user in [Some("user_ada"), None] {
                    let of_organization = |id: &&str| sent.get(&(meter, user, *id)).copied().unwrap_or(0);
                    let expected: u64 = organizations.iter().map(of_organization).sum();
                    let groups = data["groups"].as_array().unwrap();
                    let cost = groups.iter().find(|group| group["id"].as_str() == user);
                    let cost = cost.map_or(0, |group| group["totals"]["cost"].as_u64().unwrap());
                    assert_eq!(cost, expected, "{query}: {user:?}");
                }
            }
        }
    }
}

/// Adds usage of keys of the platform, with these numbers, on as many days.
fn add_usage(server: &Server, first_key: u32, keys: u32, days: u32) {
    let conn = Connection::open(server.dir.path().join("data/tollhouse.db")).unwrap();
    let sql = format!(
        "WITH RECURSIVE n (i) AS (VALUES ({first_key}) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {first_key} + {keys}), \
         days (day) AS (VALUES (0) UNION ALL SELECT day + 1 FROM days WHERE day + 1 < {days}) \
         INSERT INTO usage_daily SELECT start - day * 86400000, i, cost, revoked, disabled, expired, \
         organization_suspended, owner_inactive, ip_not_allowed, insufficient_scope, quota_exceeded, rate_limited, \
         valid, -1, magnitude FROM n, days, (SELECT * FROM usage_daily WHERE subject > 0 LIMIT 1)"
    );
    conn.execute_batch(&sql).unwrap();
}

#[tokio::test]
async fn i12_too_many_keys_are_not_added_up() {
    let server = Server::start().await;
    create_members(&server).await;
    let key = key_of_user(&server, Some("org_1"), Some("user_ada"), "key_1").await;
    key.count(&server, Valid, 3);
    flush(&server).await;
    let admin = server.admin();
    let today = "/analytics/usage?group_by=user&period=1d&interval=day";
    // With 24,999 keys more it is the maximum.
    add_usage(&server, 1000, 24_999, 1);
    let all = expect_ok(admin.get(today).await, 200);
    assert_eq!(all["groups"][0]["totals"]["requests"], 24_999 * 3);
    assert_eq!(all["groups"][1]["totals"]["requests"], 3);
    add_usage(&server, 1000 + 24_999, 1, 1);
    expect_invalid(&admin.get(today).await, &[("group_by", "TOO_MANY")]);
    let own = by_user(&admin, "period=1d&org_id=org_1").await;
    assert_eq!(groups(&own, "groups"), expected_groups(&[("user_ada", 3)]));
}

#[tokio::test]
async fn i12_too_many_days_of_keys_are_not_added_up() {
    let server = Server::start().await;
    create_members(&server).await;
    let key = key_of_user(&server, Some("org_1"), Some("user_ada"), "key_1").await;
    key.count(&server, Valid, 3);
    flush(&server).await;
    add_usage(&server, 1000, 10_000, 10);
    let admin = server.admin();
    // A period of 9 days touches 10 of them, with one row more than the maximum.
    for (days, status) in [(8, 200), (9, 400)] {
        let answer = admin.get(&format!("/analytics/usage?group_by=user&period={days}d&interval=day")).await;
        assert_eq!(answer.status, status, "{days}: {answer:?}");
    }
}
