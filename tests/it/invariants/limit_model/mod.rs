//! Invariants 7, 8, 9 and 17 as a property: random limits of a plan, an organization and its keys, random meters and
//! costs, and 64 concurrent callers over the one organization, which verify keys and report usage afterwards. A model
//! says what is left of every limit.

mod balance;
mod caller;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tollhouse::domain::meter::{Cost, Meter};
use tollhouse::domain::verification::Outcome;
use tollhouse::service::usage;

use super::limit_seeds;
use crate::support::{NOW, Server};
use balance::Balance;
use caller::{Call, Report, Target, meter, verify};

const CALLERS: usize = 64;
const CALLS_PER_CALLER: usize = 8;
const KEYS: usize = 4;
const METERS: [&str; 3] = ["requests", "tokens", "bytes"];

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

/// The organization `org_1` with its keys, and the model of their limits.
struct Case {
    server: Server,
    target: Arc<Target>,
    of_keys: Vec<Vec<Balance>>,
    of_organization: Vec<Balance>,
    /// Units that were admitted or reported, by key and meter.
    used: [[u64; METERS.len()]; KEYS],
    /// The reports with an id that were counted.
    reports: Vec<Report>,
    now: i64,
}

/// The numbers of admitted and of refused verifications, and of reports.
#[derive(Default, Debug)]
struct Counts([usize; 3]);

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
        let target = Arc::new(Target { app: server.app.clone(), admin: server.admin(), secrets });
        let used = [[0; METERS.len()]; KEYS];
        Self { server, target, of_keys, of_organization, used, reports: Vec::new(), now: NOW }
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

    fn balances_mut(&mut self, key: usize) -> impl Iterator<Item = &mut Balance> {
        self.of_keys[key].iter_mut().chain(&mut self.of_organization)
    }

    /// All callers at once; the time stands still.
    async fn run_callers(&mut self, round: usize, rng: &mut Rng) -> Counts {
        let start = |caller: usize| {
            let name = format!("{round}-{caller}");
            tokio::spawn(caller::run(self.target.clone(), name, CALLS_PER_CALLER, rng.fork()))
        };
        let callers: Vec<_> = (0..CALLERS).map(start).collect();
        let mut refused = Vec::new();
        let mut reports = Vec::new();
        let mut admitted = 0;
        for caller in callers {
            let done = caller.await.unwrap();
            for call in done.calls {
                if call.outcome == Outcome::Valid {
                    admitted += 1;
                    // Fails if a limit was exceeded, whatever the reports added to it before or afterwards.
                    self.balances_mut(call.key).for_each(|balance| balance.admit(&call.costs));
                    self.count(call.key, &call.costs);
                } else {
                    refused.push(call);
                }
            }
            reports.extend(done.reports);
        }
        for report in &reports {
            self.balances_mut(report.key).for_each(|balance| balance.report(&report.costs));
            self.count(report.key, &report.costs);
        }
        self.assert_remaining().await;
        refused.iter().for_each(|call| self.assert_justified(call));
        let counts = Counts([admitted, refused.len(), reports.len()]);
        self.reports.extend(reports.into_iter().filter(|report| report.id.is_some()));
        counts
    }

    fn count(&mut self, key: usize, costs: &[Cost]) {
        for (sum, name) in self.used[key].iter_mut().zip(METERS) {
            let cost = costs.iter().find(|cost| cost.meter == meter(name));
            *sum += cost.map_or(0, |cost| u64::from(cost.units));
        }
    }

    /// What is left of each limit is what the admitted calls and the reports left: refused calls were charged nowhere,
    /// and no report twice.
    async fn assert_remaining(&self) {
        for (key, secret) in self.target.secrets.iter().enumerate() {
            let nothing = [Cost { meter: Meter::REQUESTS, units: 0 }];
            let verdict = verify(&self.server.app, secret, &nothing, true).await;
            let refusing = || self.balances(key).filter(|balance| balance.refuses(&nothing));
            let outcome = match (refusing().next(), refusing().any(Balance::is_quota)) {
                (None, _) => Outcome::Valid,
                (Some(_), true) => Outcome::QuotaExceeded,
                (Some(_), false) => Outcome::RateLimited,
            };
            assert_eq!(verdict.outcome, outcome, "key {key}");
            let actual =
                verdict.limits.iter().map(|status| (status.owner.name(), status.limit, status.remaining()));
            let expected =
                self.balances(key).map(|balance| (balance.owner, balance.limit, balance.remaining()));
            assert_eq!(actual.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "key {key}");
        }
    }

    /// While the time stands still, balances only fall: what a limit refused, it refuses afterwards, too.
    fn assert_justified(&self, call: &Call) {
        let is_quota = match call.outcome {
            Outcome::QuotaExceeded => true,
            Outcome::RateLimited => false,
            other => panic!("{other:?}"),
        };
        let is_justified = self
            .balances(call.key)
            .any(|balance| balance.is_quota() == is_quota && balance.refuses(&call.costs));
        assert!(is_justified, "{:?} without a reason: {:?}", call.outcome, call.costs);
        let (owner, limit, left) = call.limited_by.expect("a refusal names a limit");
        let named =
            self.balances(call.key).find(|balance| (balance.owner, balance.limit) == (owner, limit)).unwrap();
        assert!(
            u64::from(named.cost(&call.costs).unwrap()) > left || named.is_in_debt(),
            "{limit:?} of the {owner} had {left} left"
        );
    }

    /// The usage of each key and meter is what was admitted and reported.
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
                assert_eq!(units, self.used[key][index], "{name} of key {key}");
            }
            let total: u64 = self.used.iter().map(|of_key| of_key[index]).sum();
            assert_eq!(cost(format!("meter={name}&org_id=org_1")).await, total, "{name}");
        }
    }

    /// Repeats some of the reports of all rounds, which changes nothing.
    async fn repeat_reports(&self, rng: &mut Rng) {
        for report in self.reports.iter().filter(|_| rng.u8(..4) == 0) {
            report.expect(&self.target.admin, false).await;
        }
        self.assert_remaining().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i17_all_limits_of_keys_and_their_organization_decide_together() {
    let mut sums = Counts::default();
    let seeds = limit_seeds(10);
    for seed in &seeds {
        let mut rng = Rng::with_seed(*seed);
        println!("seed {seed}");
        let mut case = Case::create(&mut rng).await;
        let pauses = [Duration::from_millis(700), Duration::from_secs(25 * 3600), Duration::from_secs(90)];
        for (round, pause) in pauses.into_iter().enumerate() {
            let counts = case.run_callers(round, &mut rng).await;
            sums.0.iter_mut().zip(counts.0).for_each(|(sum, count)| *sum += count);
            case.advance(pause);
            case.assert_remaining().await;
        }
        case.repeat_reports(&mut rng).await;
        case.assert_usage().await;
    }
    // The run is meaningful only with many calls of each kind.
    println!("{sums:?}");
    assert!(sums.0.iter().all(|count| *count > 100 * seeds.len()), "{sums:?}");
}
