//! A caller that verifies keys and reports their usage, and tracks what it was told.

use std::sync::Arc;

use fastrand::Rng;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tollhouse::app::App;
use tollhouse::domain::limits::Limit;
use tollhouse::domain::meter::{Cost, Meter};
use tollhouse::domain::verification::Outcome;
use tollhouse::verify::verifier::{KeyToVerify, Verdict, VerifyRequest};

use super::METERS;
use crate::support::{Answer, Client};

/// What all callers use.
pub(super) struct Target {
    pub app: Arc<App>,
    pub admin: Client,
    pub secrets: Vec<String>,
}

pub(super) fn meter(name: &str) -> Meter {
    serde_json::from_value(json!(name)).unwrap()
}

/// Costs as a request gives them: always on requests, and on some other meters.
fn random_costs(rng: &mut Rng) -> Vec<Cost> {
    let mut costs = vec![Cost { meter: Meter::REQUESTS, units: rng.u32(..4) }];
    for name in &METERS[1..] {
        if rng.bool() {
            costs.push(Cost { meter: meter(name), units: rng.u32(..25) });
        }
    }
    costs
}

pub(super) async fn verify(app: &App, secret: &str, costs: &[Cost], dry_run: bool) -> Verdict {
    let request = VerifyRequest::<&str> {
        key: KeyToVerify::Secret(secret),
        scopes: &[],
        ip: None,
        costs,
        dry_run,
        caller_organization_id: None,
    };
    app.verifier.verify(&request, app.clock.now(), app.clock.monotonic()).await.unwrap()
}

/// A verification that a caller made.
pub(super) struct Call {
    pub key: usize,
    pub costs: Vec<Cost>,
    pub outcome: Outcome,
    /// The owner, the limit and the number of units left of the limit that refused it.
    pub limited_by: Option<(&'static str, Limit, u64)>,
}

/// A report that a caller made.
#[derive(Clone)]
pub(super) struct Report {
    pub key: usize,
    pub costs: Vec<Cost>,
    pub id: Option<String>,
}

impl Report {
    pub(super) async fn send(&self, admin: &Client) -> Answer {
        let name = |cost: &Cost| METERS.into_iter().find(|name| meter(name) == cost.meter).unwrap();
        let costs: Map<String, Value> =
            self.costs.iter().map(|cost| (name(cost).to_owned(), json!(cost.units))).collect();
        let mut body = json!({"key_id": format!("key_{}", self.key), "costs": costs});
        if let Some(id) = &self.id {
            body["id"] = json!(id);
        }
        admin.send(admin.request_at_root(Method::POST, "/v1/keys/usage").json(&body)).await
    }

    /// Sends the report; fails unless it is counted, or was counted before.
    pub(super) async fn expect(&self, admin: &Client, counted: bool) {
        let answer = self.send(admin).await;
        assert_eq!((answer.status, answer.data()), (200, &json!({ "counted": counted })), "{answer:?}");
    }

    /// Repeats a report that was counted, unchanged and with other costs.
    async fn repeat(&self, admin: &Client) {
        self.expect(admin, false).await;
        let mut other = self.clone();
        other.costs[0].units += 1;
        let refused = other.send(admin).await;
        assert_eq!((refused.status, refused.code()), (422, "IDEMPOTENCY_MISMATCH"), "{refused:?}");
    }
}

/// What a caller did.
#[derive(Default)]
pub(super) struct Done {
    pub calls: Vec<Call>,
    pub reports: Vec<Report>,
}

/// Makes `count` calls, each with a random key and random costs. `name` makes the ids of the reports unique.
pub(super) async fn run(target: Arc<Target>, name: String, count: usize, mut rng: Rng) -> Done {
    let mut done = Done::default();
    for number in 0..count {
        let key = rng.usize(..target.secrets.len());
        let costs = random_costs(&mut rng);
        if rng.u8(..8) > 0 {
            let verdict = verify(&target.app, &target.secrets[key], &costs, false).await;
            let limited_by = verdict.limited_by.map(|limited| {
                let status = &verdict.limits[limited.index];
                (status.owner.name(), status.limit, status.remaining())
            });
            done.calls.push(Call { key, costs, outcome: verdict.outcome, limited_by });
        } else {
            let id = rng.bool().then(|| format!("{name}-{number}"));
            let report = Report { key, costs, id };
            report.expect(&target.admin, true).await;
            if report.id.is_some() {
                report.repeat(&target.admin).await;
            }
            done.reports.push(report);
        }
        tokio::task::yield_now().await;
    }
    done
}
