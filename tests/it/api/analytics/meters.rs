//! `GET /analytics/usage?meter=…`: the units of each meter that verifications cost.

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::verification::Outcome;

use super::super::verify::verify_data;
use super::super::{expect_invalid, expect_ok};
use super::{DAY, HOUR, flush, key, usage};
use crate::support::{Client, NOW, Server};

/// The keys of the test: two of an organization, one of another, and a platform key.
const KEYS: [(&str, Option<&str>); 4] =
    [("key_1", Some("org_1")), ("key_2", Some("org_1")), ("key_3", Some("org_2")), ("key_4", None)];

/// Creates [`KEYS`], which admit everything; returns their secrets.
async fn create_keys(server: &Server) -> Vec<String> {
    expect_ok(server.configure(json!({"meters": ["requests", "tokens", "bytes"]})).await, 200);
    for id in ["org_1", "org_2"] {
        server.organization(id).await;
        expect_ok(server.admin().patch(&format!("/organizations/{id}"), json!({"limits": []})).await, 200);
    }
    let mut secrets = Vec::new();
    for (id, organization) in KEYS {
        let body = json!({"id": id, "organization_id": organization, "name": id, "scopes": [], "limits": []});
        secrets.push(server.key_with(body).await.0.key.unwrap());
    }
    secrets
}

/// The cost on a meter in a report, and that of each group, busiest first.
async fn costs(client: &Client, query: &str) -> (u64, Vec<(String, u64)>) {
    let data = usage(client, query).await;
    let cost = |value: &Value| value["totals"]["cost"].as_u64().unwrap();
    let groups = data["groups"].as_array().into_iter().flatten();
    let by_id = groups.map(|group| (group["id"].as_str().unwrap_or("-").to_owned(), cost(group)));
    (cost(&data), by_id.collect())
}

#[tokio::test]
async fn i9_the_units_of_each_meter_are_those_that_were_sent() {
    let mut server = Server::start().await;
    let secrets = create_keys(&server).await;
    // Units by key and meter.
    let mut sent = [[0_u64; 3]; 4];
    let mut rng = fastrand::Rng::with_seed(14);
    for round in 0..6 {
        for _ in 0..20 {
            let index = rng.usize(..4);
            let units = [rng.u64(..3), rng.u64(..1000), rng.u64(..1_000_000_001)];
            let mut given = json!({"requests": units[0]});
            for (meter, units) in ["tokens", "bytes"].iter().zip(&units[1..]) {
                if rng.bool() {
                    given[meter] = json!(units);
                }
            }
            let unknown_scope = rng.u8(..5) == 0;
            let scopes = if unknown_scope { json!(["workflows:read"]) } else { json!([]) };
            let body = json!({"key": secrets[index], "costs": given, "scopes": scopes});
            let data = verify_data(&server.admin(), body).await;
            assert_eq!(data["valid"], !unknown_scope, "{data}");
            if !unknown_scope {
                for (sum, meter) in sent[index].iter_mut().zip(["requests", "tokens", "bytes"]) {
                    *sum += given[meter].as_u64().unwrap_or(0);
                }
            }
        }
        match round {
            1 => flush(&server).await,
            // These counts are only in memory when the server stops.
            2 => server = Server::start_at(server.stop().await, NOW + 3_600_000, |_| ()).await,
            _ => server.advance(HOUR),
        }
    }
    flush(&server).await;
    let admin = server.admin();
    for (meter, name) in ["requests", "tokens", "bytes"].into_iter().enumerate() {
        for interval in ["hour", "day"] {
            let query = format!("meter={name}&period=2d&interval={interval}");
            let mut by_organization = [("org_1", 0), ("org_2", 0), ("-", 0)];
            for (index, (key, organization)) in KEYS.into_iter().enumerate() {
                let units = sent[index][meter];
                let reported = costs(&admin, &format!("{query}&key_id={key}&group_by=key")).await;
                assert_eq!(reported, (units, vec![(key.to_owned(), units)]), "{query}");
                let row = by_organization.iter_mut().find(|row| row.0 == organization.unwrap_or("-"));
                row.unwrap().1 += units;
            }
            let total: u64 = by_organization.iter().map(|row| row.1).sum();
            let (reported, mut groups) = costs(&admin, &format!("{query}&group_by=organization")).await;
            let mut expected = by_organization.map(|(id, units)| (id.to_owned(), units)).to_vec();
            groups.sort();
            expected.sort();
            assert_eq!((reported, groups), (total, expected), "{query}");
            for (id, units) in &by_organization[..2] {
                assert_eq!(costs(&admin, &format!("{query}&org_id={id}")).await.0, *units, "{query}");
            }
        }
    }
    assert_eq!(costs(&admin, "period=2d").await, costs(&admin, "period=2d&meter=requests").await);
    // The other figures count verifications, whatever the meter.
    let [requests, tokens] =
        [usage(&admin, "period=2d").await, usage(&admin, "period=2d&meter=tokens").await];
    assert_eq!(requests["totals"]["requests"], 120);
    for field in ["requests", "allowed", "denied"] {
        assert_eq!(tokens["totals"][field], requests["totals"][field], "{field}");
    }
}

/// Reports usage of a key afterwards.
async fn report(server: &Server, key_id: &str, costs: Value) {
    let client = server.admin();
    let request = client.request_at_root(Method::POST, "/v1/keys/usage");
    expect_ok(client.send(request.json(&json!({"key_id": key_id, "costs": costs}))).await, 200);
}

#[tokio::test]
async fn groups_include_what_was_only_reported() {
    let server = Server::start().await;
    create_keys(&server).await;
    report(&server, "key_1", json!({"tokens": 500, "requests": 3})).await;
    report(&server, "key_3", json!({"tokens": 700})).await;
    report(&server, "key_4", json!({"tokens": 0})).await;
    let admin = server.admin();
    for (query, total, groups) in [
        ("meter=tokens&group_by=key", 1200, &[("key_3", 700), ("key_1", 500)][..]),
        ("meter=tokens&group_by=key&org_id=org_1", 500, &[("key_1", 500)]),
        ("meter=tokens&group_by=organization", 1200, &[("org_2", 700), ("org_1", 500)]),
        ("meter=tokens&group_by=code", 1200, &[("VALID", 1200)]),
        ("meter=tokens&group_by=code&key_id=key_4", 0, &[]),
        ("meter=requests&group_by=key", 3, &[("key_1", 3)]),
        ("meter=requests&group_by=organization", 3, &[("org_1", 3)]),
        ("meter=requests&group_by=code", 3, &[("VALID", 3)]),
    ] {
        let expected = groups.iter().map(|(id, units)| ((*id).to_owned(), *units)).collect();
        assert_eq!(costs(&admin, query).await, (total, expected), "{query}");
    }
    let data = usage(&admin, "meter=tokens&group_by=key").await;
    assert_eq!(data["groups"][0]["totals"]["requests"], 0, "reports are no requests: {data}");
}

/// The keys with the most tokens are found, although others have more requests.
#[tokio::test]
async fn the_busiest_groups_are_those_with_the_most_units_of_the_meter() {
    let server = Server::start().await;
    create_keys(&server).await;
    for index in 0..100 {
        let busy = key(&server, Some("org_1"), &format!("key_busy{index}")).await;
        busy.count(&server, Outcome::Valid, 2);
    }
    flush(&server).await;
    for (id, tokens) in [("key_1", 20), ("key_2", 900)] {
        report(&server, id, json!({"tokens": tokens})).await;
    }
    let admin = server.admin();
    for query in ["group_by=key", "group_by=key&org_id=org_1"] {
        let (total, groups) = costs(&admin, &format!("meter=tokens&{query}")).await;
        assert_eq!((total, groups.len()), (920, 100));
        assert_eq!(groups[..2], [("key_2".to_owned(), 900), ("key_1".to_owned(), 20)], "{query}");
        let (_, groups) = costs(&admin, query).await;
        assert!(groups.iter().all(|(id, cost)| id.starts_with("key_busy") && *cost == 2), "{groups:?}");
    }
}

#[tokio::test]
async fn usage_of_a_removed_meter_is_kept_and_expires_like_that_of_others() {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 0;
        config.retention.usage_hourly_days = 2;
        config.retention.usage_daily_days = 4;
    })
    .await;
    let secrets = create_keys(&server).await;
    let admin = server.admin();
    for _ in 0..5 {
        let body = json!({"key": secrets[0], "costs": {"tokens": 7}});
        assert_eq!(verify_data(&admin, body).await["code"], "VALID");
        server.advance(DAY);
    }
    expect_ok(server.configure(json!({"meters": ["requests"]})).await, 200);
    flush(&server).await;
    assert_eq!(costs(&admin, "period=9d&meter=tokens").await.0, 35);
    tollhouse::service::retention::prune(&server.app).await.unwrap();
    // Kept are the days since four days ago, and the hours since two days ago.
    assert_eq!(costs(&admin, "period=9d&meter=tokens").await.0, 28);
    assert_eq!(costs(&admin, "period=48h&interval=hour&meter=tokens").await.0, 14);
    // A meter without usage has none, whether it is declared or not.
    assert_eq!(costs(&admin, "period=9d&meter=nothing").await.0, 0);
    for meter in ["Tokens", "", "to-kens"] {
        let answer = admin.get(&format!("/analytics/usage?meter={meter}")).await;
        if meter.is_empty() {
            assert_eq!(answer.status, 200, "an empty parameter is none: {answer:?}");
        } else {
            expect_invalid(&answer, &[("meter", "INVALID_NAME")]);
        }
    }
}
