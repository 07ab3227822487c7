//! Invariants 7, 8, 9 and 17 as a property: random limits of a plan, an organization and its keys, random meters and
//! costs, and 64 concurrent callers over the one organization. A model says what is left of every limit.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tollhouse::app::App;
use tollhouse::domain::limits::{Limit, LimitSpan, Period};
use tollhouse::domain::meter::{Cost, Meter};
use tollhouse::domain::verification::Outcome;
use tollhouse::service::usage;
use tollhouse::verify::verifier::{KeyToVerify, Verdict, VerifyRequest};

use crate::support::{NOW, Server};

const CALLERS: usize = 64;
const CALLS_PER_CALLER: usize = 8;
const KEYS: usize = 4;
const METERS: [&str; 3] = ["requests", "tokens", "bytes"];
const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 86_400_000;

/// A random list of limits, in most cases so low that some of them refuse.
fn random_limits(rng: &mut Rng) -> Value {
    let mut limits: Vec<Value> = Vec::new();
    for _ in 0..rng.usize(..4) {
        let meter = METERS[rng.usize(..METERS.len())];
        let units = [rng.u64(1..=30), rng.u64(1..=400), rng.u64(1..=5000)][rng.usize(..3)];
        let limit = match rng.bool() {
            true => {
                let seconds = [1, 60, 3600, 86_400][rng.usize(..4)];
                json!({"meter": meter, "limit": units, "window_seconds": seconds})
            }
            false => {
                let period = ["hour", "day", "week", "month", "total"][rng.usize(..5)];
                json!({"meter": meter, "limit": units, "period": period})
            }
        };
        let span = |limit: &Value| {
            (limit["meter"].clone(), limit["window_seconds"].clone(), limit["period"].clone())
        };
        if limits.iter().all(|other| span(other) != span(&limit)) {
            limits.push(limit);
        }
    }
    json!(limits)
}

/// A list of limits, or `null` for the plan's.
fn random_own_limits(rng: &mut Rng) -> Value {
    if rng.u8(..3) == 0 { Value::Null } else { random_limits(rng) }
}

/// What the model knows of a limit.
struct Balance {
    owner: &'static str,
    limit: Limit,
    /// What is spent, as a multiple of `1 / scale`.
    spent: u128,
    /// The number of the current period of a quota.
    period: i64,
}

impl Balance {
    /// The balances of a list of limits: the own one, or that of the plan.
    fn of_list(owner: &'static str, own: &Value, plan: &Value, now: i64) -> Vec<Self> {
        let list = if own.is_null() { plan } else { own };
        let limits: Vec<Limit> = serde_json::from_value(list.clone()).unwrap();
        let full = |limit: Limit| Self { owner, limit, spent: 0, period: period_number(limit.span, now) };
        limits.into_iter().map(full).collect()
    }

    /// A bucket that holds `limit * scale` refills by `limit` in each nanosecond.
    fn scale(&self) -> u128 {
        match self.limit.span {
            LimitSpan::Window(seconds) => u128::from(seconds) * 1_000_000_000,
            LimitSpan::Period(_) => 1,
        }
    }

    fn advance(&mut self, by: Duration, now: i64) {
        let period = period_number(self.limit.span, now);
        match self.limit.span {
            LimitSpan::Window(_) => {
                self.spent = self.spent.saturating_sub(by.as_nanos() * u128::from(self.limit.limit));
            }
            LimitSpan::Period(_) if self.period != period => self.spent = 0,
            LimitSpan::Period(_) => {}
        }
        self.period = period;
    }

    /// Charges the costs on the meter of the limit.
    fn spend(&mut self, costs: &[Cost]) {
        self.spent += u128::from(self.cost(costs).unwrap_or(0)) * self.scale();
    }

    /// The units that these costs name on the meter of the limit.
    fn cost(&self, costs: &[Cost]) -> Option<u32> {
        costs.iter().find(|cost| cost.meter == self.limit.meter).map(|cost| cost.units)
    }

    fn remaining(&self) -> u64 {
        let capacity = u128::from(self.limit.limit) * self.scale();
        assert!(self.spent <= capacity, "exceeded: {:?} of the {}", self.limit, self.owner);
        u64::try_from((capacity - self.spent) / self.scale()).unwrap()
    }

    /// True if the limit refuses these costs.
    fn refuses(&self, costs: &[Cost]) -> bool {
        self.cost(costs).is_some_and(|cost| u64::from(cost) > self.remaining())
    }
}

/// The number of the period that contains this time. All times of the test are in one month.
fn period_number(span: LimitSpan, now: i64) -> i64 {
    match span {
        LimitSpan::Period(Period::Hour) => now / HOUR_MILLIS,
        LimitSpan::Period(Period::Day) => now / DAY_MILLIS,
        // The week of the epoch began three days before it.
        LimitSpan::Period(Period::Week) => (now + 3 * DAY_MILLIS) / (7 * DAY_MILLIS),
        LimitSpan::Period(Period::Month | Period::Total) | LimitSpan::Window(_) => 0,
    }
}

fn meter(name: &str) -> Meter {
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

async fn verify(app: &App, secret: &str, costs: &[Cost], dry_run: bool) -> Verdict {
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
struct Call {
    key: usize,
    costs: Vec<Cost>,
    outcome: Outcome,
    /// The owner, the limit and the number of units left of the limit that refused it.
    limited_by: Option<(&'static str, Limit, u64)>,
}

/// Makes the calls of one caller, each with a random key and random costs.
async fn run_caller(app: Arc<App>, secrets: Arc<Vec<String>>, mut rng: Rng) -> Vec<Call> {
    let mut calls = Vec::new();
    for _ in 0..CALLS_PER_CALLER {
        let key = rng.usize(..KEYS);
        let costs = random_costs(&mut rng);
        let verdict = verify(&app, &secrets[key], &costs, false).await;
        let limited_by = verdict.limited_by.map(|limited| {
            let status = &verdict.limits[limited.index];
            (status.owner.name(), status.limit, status.remaining())
        });
        calls.push(Call { key, costs, outcome: verdict.outcome, limited_by });
        tokio::task::yield_now().await;
    }
    calls
}

/// The organization `org_1` with its keys, and the model of their limits.
struct Case {
    server: Server,
    secrets: Arc<Vec<String>>,
    of_keys: Vec<Vec<Balance>>,
    of_organization: Vec<Balance>,
    /// Admitted units by key and meter.
    admitted: [[u64; METERS.len()]; KEYS],
    now: i64,
}

impl Case {
    async fn create(rng: &mut Rng) -> Self {
        let server = Server::start().await;
        let plan_of_keys = random_limits(rng);
        let plan_of_organization = random_limits(rng);
        let own = random_own_limits(rng);
        let plan = json!({"key_limits": plan_of_keys, "organization_limits": plan_of_organization,
            "max_keys": 0, "max_members": 0});
        let configured = server.configure(json!({"meters": METERS, "plans": {"gold": plan}})).await;
        assert_eq!(configured.status, 200, "{configured:?}");
        let organization =
            json!({"id": "org_1", "name": "n", "email": "n@example.com", "plan": "gold", "limits": own});
        let created = server.admin().post("/organizations", organization).await;
        assert_eq!(created.status, 201, "{created:?}");
        let mut secrets = Vec::new();
        let mut of_keys = Vec::new();
        for number in 0..KEYS {
            let own = random_own_limits(rng);
            let body = json!({"id": format!("key_{number}"), "organization_id": "org_1", "name": "n", "scopes": [],
                "limits": own});
            secrets.push(server.key_with(body).await.0.key.unwrap());
            of_keys.push(Balance::of_list("key", &own, &plan_of_keys, NOW));
        }
        let of_organization = Balance::of_list("organization", &own, &plan_of_organization, NOW);
        let admitted = [[0; METERS.len()]; KEYS];
        Self { server, secrets: Arc::new(secrets), of_keys, of_organization, admitted, now: NOW }
    }

    fn advance(&mut self, by: Duration) {
        self.server.advance(by);
        self.now += i64::try_from(by.as_millis()).unwrap();
        let balances = self.of_keys.iter_mut().flatten().chain(&mut self.of_organization);
        balances.for_each(|balance| balance.advance(by, self.now));
    }

    /// The balances that apply to a key, in the order in which a verification answers them.
    fn balances(&self, key: usize) -> impl Iterator<Item = &Balance> {
        self.of_keys[key].iter().chain(&self.of_organization)
    }

    /// All callers at once; the time stands still. Returns the number of admitted and of refused calls.
    async fn run_callers(&mut self, rng: &mut Rng) -> [usize; 2] {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| tokio::spawn(run_caller(self.server.app.clone(), self.secrets.clone(), rng.fork())))
            .collect();
        let mut refused = Vec::new();
        for caller in callers {
            for call in caller.await.unwrap() {
                match call.outcome {
                    Outcome::Valid => self.charge(&call),
                    _ => refused.push(call),
                }
            }
        }
        // Fails if a limit was exceeded.
        self.assert_remaining().await;
        refused.iter().for_each(|call| self.assert_justified(call));
        [CALLERS * CALLS_PER_CALLER - refused.len(), refused.len()]
    }

    fn charge(&mut self, call: &Call) {
        let balances = self.of_keys[call.key].iter_mut().chain(&mut self.of_organization);
        balances.for_each(|balance| balance.spend(&call.costs));
        for (sum, name) in self.admitted[call.key].iter_mut().zip(METERS) {
            let cost = call.costs.iter().find(|cost| cost.meter == meter(name));
            *sum += cost.map_or(0, |cost| u64::from(cost.units));
        }
    }

    /// What is left of each limit is what the admitted calls left: refused calls were charged nowhere.
    async fn assert_remaining(&self) {
        for (key, secret) in self.secrets.iter().enumerate() {
            let nothing = [Cost { meter: Meter::REQUESTS, units: 0 }];
            let verdict = verify(&self.server.app, secret, &nothing, true).await;
            assert_eq!(verdict.outcome, Outcome::Valid);
            let actual =
                verdict.limits.iter().map(|status| (status.owner.name(), status.limit, status.remaining()));
            let expected =
                self.balances(key).map(|balance| (balance.owner, balance.limit, balance.remaining()));
            assert_eq!(actual.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "key {key}");
        }
    }

    /// While the time stands still, balances only fall: what a limit refused, it refuses afterwards, too.
    fn assert_justified(&self, call: &Call) {
        let refuses = |is_kind: fn(LimitSpan) -> bool| {
            self.balances(call.key).any(|balance| is_kind(balance.limit.span) && balance.refuses(&call.costs))
        };
        let is_justified = match call.outcome {
            Outcome::QuotaExceeded => refuses(|span| matches!(span, LimitSpan::Period(_))),
            Outcome::RateLimited => refuses(|span| matches!(span, LimitSpan::Window(_))),
            other => panic!("{other:?}"),
        };
        assert!(is_justified, "{:?} without a reason: {:?}", call.outcome, call.costs);
        let (owner, limit, left) = call.limited_by.expect("a refusal names a limit");
        let named =
            self.balances(call.key).find(|balance| (balance.owner, balance.limit) == (owner, limit)).unwrap();
        assert!(
            u64::from(named.cost(&call.costs).unwrap()) > left,
            "{limit:?} of the {owner} had {left} left"
        );
    }

    /// The usage of each key and meter is what was admitted.
    async fn assert_usage(&self) {
        usage::flush(&self.server.app).await.unwrap();
        let admin = self.server.admin();
        let cost = async |query: String| {
            let report = admin.get(&format!("/analytics/usage?period=7d&{query}")).await;
            assert_eq!(report.status, 200, "{report:?}");
            report.data()["totals"]["cost"].as_u64().unwrap()
        };
        for (index, name) in METERS.into_iter().enumerate() {
            for key in 0..KEYS {
                let units = cost(format!("meter={name}&key_id=key_{key}")).await;
                assert_eq!(units, self.admitted[key][index], "{name} of key {key}");
            }
            let total: u64 = self.admitted.iter().map(|of_key| of_key[index]).sum();
            assert_eq!(cost(format!("meter={name}&org_id=org_1")).await, total, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i17_all_limits_of_keys_and_their_organization_decide_together() {
    let mut calls = [0, 0];
    for seed in 0..10 {
        let mut rng = Rng::with_seed(seed);
        println!("seed {seed}");
        let mut case = Case::create(&mut rng).await;
        for pause in [Duration::from_millis(700), Duration::from_secs(25 * 3600), Duration::from_secs(90)] {
            let [admitted, refused] = case.run_callers(&mut rng).await;
            calls = [calls[0] + admitted, calls[1] + refused];
            case.advance(pause);
            case.assert_remaining().await;
        }
        case.assert_usage().await;
    }
    // The run is meaningful only with many admitted and many refused calls.
    assert!(calls.iter().all(|count| *count > 2000), "{calls:?}");
}
