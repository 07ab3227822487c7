//! The invariants of the design: each test tries to break one.

mod audit;
mod bounded_cost;
mod cache;
mod connection_auth;
mod connections;
mod cross_tenant;
mod damaged_keys;
mod damaged_pages;
mod escalation;
mod exports;
mod failed_auth;
mod foreign_locks;
mod full_disk;
mod invalidation;
mod limit_model;
mod limits;
mod long_reads;
mod moved_files;
mod no_room;
mod organization_limits;
mod own_key;
mod own_key_limits;
mod owned_keys;
mod plan_moves;
mod pruning;
mod quota;
mod records;
mod replays;
mod report_queue;
mod request_memory;
mod revocation;
mod search;
mod secrets;
mod shared_limits;
mod stored_responses;
mod stored_windows;
mod superseded;
mod tampering;
mod tenancy;
mod unused_headers;
mod usage_reports;
mod verify_batches;
pub(crate) mod wrong_clock;

use std::net::IpAddr;

use reqwest::Method;
use serde_json::Value;
use tollhouse::config::Config;
use tollhouse::domain::action::Access;
use tollhouse::domain::audit::{Actor, Event, EventContext, Outcome};
use tollhouse::domain::id::Kind;
use tollhouse::domain::stored_name::StoredName;
use tollhouse::domain::time::Timestamp;

use crate::support::{Answer, Client, DEADLINE, Server, number_from_env, until};

/// A server that trusts the test's `X-Forwarded-For` and has no rate limits.
async fn behind_a_proxy() -> Server {
    Server::with(|config| {
        trust_localhost(config);
        config.rate_limits.admin_per_minute = 0;
        config.rate_limits.batch_per_minute = 0;
        config.rate_limits.failed_auth_per_minute = 0;
    })
    .await
}

fn trust_localhost(config: &mut Config) {
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
}

/// Sends a request with `from` as the client address (`X-Forwarded-For`).
async fn call_from(
    from: IpAddr,
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let request = client.request(method, path).header("x-forwarded-for", from.to_string());
    client
        .send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
}

/// The seeds of a test of random limits: always the same ones, or as many others as `LIMIT_ROUNDS` says, which begin at
/// `LIMIT_SEED` or at a random one.
fn limit_seeds(count: u64) -> Vec<u64> {
    let Some(rounds) = number_from_env("LIMIT_ROUNDS") else { return (0..count).collect() };
    let first = number_from_env("LIMIT_SEED").unwrap_or_else(|| fastrand::u64(..));
    (0..rounds).map(|number| first.wrapping_add(number)).collect()
}

/// An audit event that is stored without a request, for tests that need many of them. `index` makes its id unique.
fn anonymous_event(now: Timestamp, index: u128, action: String) -> Event {
    Event {
        id: Kind::Event.new_id(now, index),
        seq: None,
        occurred_at: now.to_string(),
        organization_id: None,
        actor: Actor::anonymous(),
        action: StoredName::Unknown(action),
        access: Access::Read.into(),
        target: None,
        outcome: Outcome::Success.into(),
        code: None,
        count: 1,
        changes: Vec::new(),
        context: EventContext::default(),
        prev_hash: None,
        hash: None,
    }
}
