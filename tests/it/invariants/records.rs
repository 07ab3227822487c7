//! Invariant 5 for the records: nobody pushes another organization's denials or refused calls out of the logs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::page::Page;
use tollhouse::domain::verification::Outcome;
use tollhouse::service::{housekeeping, usage};
use tollhouse::store;

use super::{behind_a_proxy, call_from};
use crate::support::{Client, Server};

/// More addresses than there are shared rows.
const FLOOD: u32 = 1500;

fn address(index: u32) -> IpAddr {
    Ipv4Addr::from(0xCB00_0000 + index).into()
}

/// Verifications of made-up keys, from many addresses.
async fn flood(server: &Server, organization: Option<&str>) {
    for index in 0..FLOOD {
        let now = server.clock.now();
        let recorder = server.app.verifier.recorder();
        recorder.count_unknown_key_denial(Outcome::NotFound, organization, Some(address(index)), now);
        if index % 500 == 0 {
            usage::flush(&server.app).await.unwrap();
        }
    }
}

/// Creates disabled keys; returns their ids and secrets.
async fn disabled_keys(server: &Server, organization: Option<&str>, count: usize) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let (_, key) = server.key(organization, &["workflows:read"]).await;
        let id = key["id"].as_str().unwrap().to_owned();
        let disabled = server.admin().patch(&format!("/api-keys/{id}"), json!({"status": "disabled"})).await;
        assert_eq!(disabled.status, 200, "{disabled:?}");
        keys.push((id, key["key"].as_str().unwrap().to_owned()));
    }
    keys
}

async fn verify(client: &Client, secret: &str) {
    let request = client.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": secret}));
    assert_eq!(client.send(request).await.data()["code"], "DISABLED");
}

/// The counts of the denials that this client sees, by key.
async fn counts_by_key(client: &Client) -> BTreeMap<String, u64> {
    let answer = client.get("/analytics/logs?code=DISABLED&limit=100").await;
    let rows = answer.data().as_array().unwrap();
    rows.iter()
        .map(|row| (row["key_id"].as_str().unwrap().to_owned(), row["count"].as_u64().unwrap()))
        .collect()
}

#[tokio::test]
async fn i5_made_up_keys_push_no_denials_of_an_organizations_keys_out_of_the_log() {
    let server = Server::start().await;
    for organization in ["org_a", "org_b"] {
        server.organization(organization).await;
    }
    let (verifier, _) = server.key(Some("org_a"), &["keys:verify", "admin:analytics"]).await;
    let own = disabled_keys(&server, Some("org_a"), 10).await;
    let platform = disabled_keys(&server, None, 1).await;
    // Without a caller, by another organization, and by the organization's own service.
    for organization in [None, Some("org_b"), Some("org_a")] {
        flood(&server, organization).await;
    }
    for (_, secret) in &own {
        verify(&verifier, secret).await;
        verify(&verifier, secret).await;
    }
    verify(&server.admin(), &platform[0].1).await;
    usage::flush(&server.app).await.unwrap();

    let expected: BTreeMap<_, _> = own.iter().map(|(id, _)| (id.clone(), 2)).collect();
    assert_eq!(counts_by_key(&verifier).await, expected);
    assert_eq!(counts_by_key(&server.admin()).await.get(&platform[0].0), Some(&1));
    // Everything is counted, in a bounded number of rows.
    let rows = server.app.db.read(|tx| {
        let page = Page { limit: 5000, order: Default::default(), after: None };
        store::verification_log::list(tx, &Default::default(), &page)
    });
    let rows = rows.await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), u64::from(3 * FLOOD) + 21);
    assert!(rows.len() <= 1100, "{}", rows.len());
}

#[tokio::test]
async fn i5_callers_without_a_key_push_no_refused_calls_out_of_the_audit_log() {
    let server = behind_a_proxy().await;
    server.organization("org_a").await;
    let (narrow, own) = server.key(Some("org_a"), &["workflows:read"]).await;
    let (platform, other) = server.key(None, &["workflows:read"]).await;
    let (reader, _) = server.key(Some("org_a"), &["admin:audit"]).await;
    let anonymous = server.anonymous();
    server.advance(Duration::from_secs(60));
    housekeeping::write_aggregated_events(&server.app, false).await.unwrap();
    for index in 0..FLOOD {
        let answer = call_from(address(index), &anonymous, Method::GET, "/users", None).await;
        assert_eq!(answer.status, 401);
    }
    for _ in 0..3 {
        assert_eq!(narrow.get("/users").await.status, 403);
        assert_eq!(platform.get("/users").await.status, 403);
    }
    server.advance(Duration::from_secs(60));
    housekeeping::write_aggregated_events(&server.app, false).await.unwrap();

    let refused = |client: Client, id: Value| async move {
        let id = id.as_str().unwrap().to_owned();
        let answer = client.get(&format!("/audit-logs?outcome=denied&actor_id={id}")).await;
        answer.data().as_array().unwrap().iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(refused(reader, own["id"].clone()).await, 3);
    assert_eq!(refused(server.admin(), other["id"].clone()).await, 3);
    let mut total = 0;
    let mut cursor = String::new();
    loop {
        let page = server.admin().get(&format!("/audit-logs?outcome=denied&limit=100{cursor}")).await;
        total +=
            page.data().as_array().unwrap().iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>();
        let Some(next) = page.json["metadata"]["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(total, u64::from(FLOOD) + 6, "every call is counted");
}
