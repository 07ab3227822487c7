//! `/analytics`: usage, overview and the verification log. Most tests count verifications directly, without deciding
//! on them, at the time of the tests' clock.

mod denials;
mod meters;
mod overview;
mod recording;
mod usage;
mod users;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollhouse::domain::api_key::Credential;
use tollhouse::domain::meter::{Cost, DEFAULT_COSTS};
use tollhouse::domain::verification::Outcome;
use tollhouse::verify::key_record::KeyRecord;

use crate::support::{Client, Server};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A key whose verifications are counted.
struct Key {
    credential: Arc<Credential>,
}

/// Creates a key of an organization, or a platform key if `None`.
async fn key(server: &Server, organization: Option<&str>, id: &str) -> Key {
    let body =
        json!({"id": id, "organization_id": organization, "name": format!("named {id}"), "scopes": []});
    let (_, key) = server.key_with(body).await;
    let credential = server.credential(key["key"].as_str().unwrap()).await;
    Key { credential }
}

impl Key {
    /// Counts this number of verifications at the current time.
    fn count(&self, server: &Server, outcome: Outcome, times: u32) {
        self.count_from(server, outcome, times, None);
    }

    fn count_from(&self, server: &Server, outcome: Outcome, times: u32, ip: Option<&str>) {
        let ip: Option<IpAddr> = ip.map(|ip| ip.parse().unwrap());
        let costs: &[Cost] = if outcome.is_valid() { &DEFAULT_COSTS } else { &[] };
        let record = KeyRecord::uncached((*self.credential).clone());
        for _ in 0..times {
            server.app.verifier.count(&record, outcome, costs, ip, server.clock.now()).unwrap();
        }
    }
}

async fn flush(server: &Server) {
    tollhouse::service::usage::flush(&server.app).await.unwrap();
}

/// Returns `data` of a usage query after checking that its totals are consistent.
async fn usage(client: &Client, query: &str) -> Value {
    let data = super::expect_ok(client.get(&format!("/analytics/usage?{query}")).await, 200);
    let fields = ["requests", "allowed", "denied", "rate_limited", "quota_exceeded", "cost"];
    for field in fields {
        let series = data["series"].as_array().unwrap().iter();
        let sum: u64 = series.map(|bucket| bucket[field].as_u64().unwrap()).sum();
        assert_eq!(data["totals"][field], sum, "{query}: {field} of {data:#}");
    }
    assert_eq!(
        data["totals"]["requests"].as_u64().unwrap(),
        data["totals"]["allowed"].as_u64().unwrap() + data["totals"]["denied"].as_u64().unwrap()
    );
    data
}

/// Returns `(id, requests)` of each group.
fn groups(data: &Value, field: &str) -> Vec<(String, u64)> {
    let rows = data[field].as_array().unwrap().iter();
    rows.map(|group| {
        let id = group["id"].as_str().unwrap_or("-").to_owned();
        (id, group["totals"]["requests"].as_u64().unwrap())
    })
    .collect()
}

fn expected_groups(groups: &[(&str, u64)]) -> Vec<(String, u64)> {
    groups.iter().map(|(id, requests)| (id.to_string(), *requests)).collect()
}
