//! Invariants 3, 7, 8 and 17 while limits change under load: an organization moves between plans, and one of its keys
//! between lists of limits, while 64 callers verify its keys. What the admitted calls have spent of each limit must be
//! one unbroken sequence, and each call must be decided by limits that were in force during the call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fastrand::Rng;
use serde_json::{Value, json};
use tollhouse::app::App;
use tollhouse::domain::limits::Limit;
use tollhouse::domain::meter::{Cost, Meter};
use tollhouse::domain::verification::Outcome;
use tollhouse::service::usage;
use tollhouse::verify::verifier::{KeyToVerify, Verdict, VerifyRequest};

use super::limit_seeds;
use crate::support::{Client, Server, until};

const CALLERS: usize = 64;
const KEYS: usize = 4;
/// The key that also gets limits of its own.
const CHANGED_KEY: usize = 0;
const PLANS: [&str; 3] = ["free", "pro", "large"];
const MOVES: usize = 24;
/// The number of calls between two changes.
const CALLS_PER_MOVE: usize = 400;
const METERS: [&str; 2] = ["requests", "tokens"];

fn tokens() -> Meter {
    serde_json::from_value(json!("tokens")).unwrap()
}

/// Random limits of a plan, which differ from those of all others. All plans have the same windows and periods.
struct Plan {
    key_limits: Value,
    organization_limits: Value,
}

impl Plan {
    fn random(number: usize, rng: &mut Rng) -> Self {
        // Small plans are used up early, and refuse until the organization moves to a larger one.
        let scale = [1, 10, 40][number];
        let mut units = || scale * rng.u64(200..=800);
        Self {
            key_limits: key_limits([units(), units()]),
            organization_limits: json!([
                {"limit": 2 * units(), "period": "month"},
                {"limit": 3 * units(), "window_seconds": 3600},
                {"meter": "tokens", "limit": 20 * units(), "window_seconds": 86_400},
            ]),
        }
    }
}

/// Limits of a key, in the windows and periods that all lists have.
fn key_limits([requests, tokens]: [u64; 2]) -> Value {
    json!([{"limit": requests, "window_seconds": 60}, {"meter": "tokens", "limit": 10 * tokens, "period": "day"}])
}

/// A setting that is changed step by step while calls are made.
struct Changes {
    /// The values, the first of which is set before the calls.
    values: Vec<Value>,
    /// Index of the last value whose change was sent.
    sent: AtomicUsize,
    /// Index of the last value whose change was acknowledged.
    acknowledged: AtomicUsize,
}

impl Changes {
    fn new(values: Vec<Value>) -> Self {
        Self { values, sent: AtomicUsize::new(0), acknowledged: AtomicUsize::new(0) }
    }

    /// Makes all changes, with some calls between each two.
    async fn make(&self, admin: &Client, path: &str, field: &str, calls: &AtomicUsize) {
        for (index, value) in self.values.iter().enumerate().skip(1) {
            let due = calls.load(Ordering::SeqCst) + CALLS_PER_MOVE;
            until("calls are made", || calls.load(Ordering::SeqCst) >= due).await;
            self.sent.store(index, Ordering::SeqCst);
            let changed = admin.patch(path, json!({ field: value })).await;
            assert_eq!(changed.status, 200, "{changed:?}");
            self.acknowledged.store(index, Ordering::SeqCst);
        }
    }

    /// The values that may be in force from now until the returned function is called.
    fn in_force_from_now<'a>(&'a self) -> impl Fn() -> &'a [Value] {
        let first = self.acknowledged.load(Ordering::SeqCst);
        move || &self.values[first..=self.sent.load(Ordering::SeqCst)]
    }
}

/// What the callers use.
struct Run {
    app: Arc<App>,
    secrets: Vec<String>,
    plans: BTreeMap<&'static str, Plan>,
    /// The plan of the organization.
    moves: Changes,
    /// The limits of [`CHANGED_KEY`].
    own_limits: Changes,
    calls: AtomicUsize,
    is_over: AtomicBool,
}

/// A verification that was admitted.
struct Admitted {
    key: usize,
    costs: [Cost; 2],
    /// Each limit of the key and the organization, with what is spent of it afterwards.
    spent: Vec<(&'static str, Limit, u64)>,
}

impl Run {
    async fn verify(&self, key: usize, costs: &[Cost], dry_run: bool) -> Verdict {
        let request = VerifyRequest::<&str> {
            key: KeyToVerify::Secret(&self.secrets[key]),
            scopes: &[],
            ip: None,
            costs,
            dry_run,
            caller_organization_id: None,
        };
        self.app.verifier.verify(&request, self.app.clock.now(), self.app.clock.monotonic()).await.unwrap()
    }

    /// Calls until the changes are made. Returns the admitted calls, and the number of refused ones.
    async fn call(&self, mut rng: Rng) -> (Vec<Admitted>, usize) {
        let mut admitted = Vec::new();
        let mut refused = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            let key = rng.usize(..KEYS);
            let costs = [
                Cost { meter: Meter::REQUESTS, units: rng.u32(1..4) },
                Cost { meter: tokens(), units: rng.u32(..30) },
            ];
            let plans = self.moves.in_force_from_now();
            let own_limits = self.own_limits.in_force_from_now();
            let verdict = self.verify(key, &costs, false).await;
            self.assert_in_force(key, &verdict, plans(), own_limits());
            match verdict.outcome {
                Outcome::Valid => admitted.push(Admitted { key, costs, spent: spent(&verdict) }),
                Outcome::RateLimited | Outcome::QuotaExceeded => refused += 1,
                other => panic!("{other:?}"),
            }
            self.calls.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
        (admitted, refused)
    }

    /// The call was decided by the limits of one of these plans, and not by some of one and some of another.
    fn assert_in_force(&self, key: usize, verdict: &Verdict, plans: &[Value], own_limits: &[Value]) {
        let actual: Vec<_> =
            verdict.limits.iter().map(|status| (status.owner.name(), status.limit)).collect();
        let own_limits = if key == CHANGED_KEY { own_limits } else { &[Value::Null] };
        let is_in_force = plans.iter().any(|plan| {
            let plan = &self.plans[plan.as_str().unwrap()];
            own_limits.iter().any(|own| {
                let of_key = if own.is_null() { &plan.key_limits } else { own };
                limits("key", of_key)
                    .chain(limits("organization", &plan.organization_limits))
                    .eq(actual.clone())
            })
        });
        assert!(is_in_force, "{actual:?} with {plans:?} and {own_limits:?}");
    }

    /// Makes all changes while all callers call. Returns the admitted calls, and the number of refused ones.
    async fn run(self: &Arc<Self>, admin: &Client, rng: &mut Rng) -> (Vec<Admitted>, usize) {
        let start = |rng: Rng| {
            let run = self.clone();
            tokio::spawn(async move { run.call(rng).await })
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| start(rng.fork())).collect();
        let key_path = format!("/api-keys/key_{CHANGED_KEY}");
        tokio::join!(
            self.moves.make(admin, "/organizations/org_1", "plan", &self.calls),
            self.own_limits.make(admin, &key_path, "limits", &self.calls),
        );
        self.is_over.store(true, Ordering::SeqCst);
        let mut admitted = Vec::new();
        let mut refused = 0;
        for caller in callers {
            let (of_caller, refused_of_caller) = caller.await.unwrap();
            admitted.extend(of_caller);
            refused += refused_of_caller;
        }
        (admitted, refused)
    }
}

fn limits(owner: &'static str, list: &Value) -> impl Iterator<Item = (&'static str, Limit)> {
    let limits: Vec<Limit> = serde_json::from_value(list.clone()).unwrap();
    limits.into_iter().map(move |limit| (owner, limit))
}

/// What is spent of each limit after a call that was admitted.
fn spent(verdict: &Verdict) -> Vec<(&'static str, Limit, u64)> {
    let spent = |limit: Limit, remaining: u64| limit.limit - remaining;
    let limits = verdict.limits.iter();
    limits
        .map(|status| (status.owner.name(), status.limit, spent(status.limit, status.remaining())))
        .collect()
}

/// Fails unless the admitted calls spent the units of each limit one after the other: no unit twice, and none by a call
/// that was refused. A unit above the limit would have no place, because `remaining` isn't negative. Returns what is
/// spent, by owner, meter, and window or period.
fn assert_unbroken(admitted: &[Admitted]) -> BTreeMap<String, u64> {
    let mut calls: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for call in admitted {
        for (owner, limit, spent) in &call.spent {
            let cost = call.costs.iter().find(|cost| cost.meter == limit.meter).unwrap();
            // A cost of 0 is admitted also where more is spent than a lower limit allows, which `remaining` doesn't tell.
            if cost.units > 0 {
                let name = name_of(owner, call.key, limit);
                calls.entry(name).or_default().push((*spent, cost.units.into()));
            }
        }
    }
    let mut sums = BTreeMap::new();
    for (name, mut calls) in calls {
        calls.sort_unstable();
        let mut sum = 0;
        for (spent, cost) in calls {
            sum += cost;
            assert_eq!(spent, sum, "after a cost of {cost} on {name}");
        }
        sums.insert(name, sum);
    }
    sums
}

/// Names what is counted separately, whatever the number of units that the limit allows.
fn name_of(owner: &str, key: usize, limit: &Limit) -> String {
    let owner = if owner == "key" { format!("key_{key}") } else { owner.to_owned() };
    format!("{owner} {:?} {:?}", limit.meter, limit.span)
}

async fn prepare(server: &Server, rng: &mut Rng) -> Arc<Run> {
    let plans: BTreeMap<_, _> =
        PLANS.into_iter().enumerate().map(|(number, name)| (name, Plan::random(number, rng))).collect();
    let settings: serde_json::Map<_, _> = plans
        .iter()
        .map(|(name, plan)| {
            let plan = json!({"key_limits": plan.key_limits, "organization_limits": plan.organization_limits,
                "max_keys": 0, "max_members": 0});
            ((*name).to_owned(), plan)
        })
        .collect();
    let configured = server.configure(json!({"meters": METERS, "plans": settings})).await;
    assert_eq!(configured.status, 200, "{configured:?}");
    let mut moves = vec![json!(PLANS[0])];
    while moves.len() <= MOVES {
        let other = PLANS[rng.usize(..PLANS.len())];
        if moves.last() != Some(&json!(other)) {
            moves.push(json!(other));
        }
    }
    let own_limits = (0..=MOVES / 2).map(|number| match number % 2 {
        0 => Value::Null,
        _ => key_limits([rng.u64(100..30_000), rng.u64(100..30_000)]),
    });
    let own_limits = own_limits.collect();
    let organization = json!({"id": "org_1", "name": "n", "email": "n@example.com", "plan": PLANS[0]});
    assert_eq!(server.admin().post("/organizations", organization).await.status, 201);
    let mut secrets = Vec::new();
    for number in 0..KEYS {
        let body =
            json!({"id": format!("key_{number}"), "organization_id": "org_1", "name": "n", "scopes": []});
        secrets.push(server.key_with(body).await.0.key.unwrap());
    }
    Arc::new(Run {
        app: server.app.clone(),
        secrets,
        plans,
        moves: Changes::new(moves),
        own_limits: Changes::new(own_limits),
        calls: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i17_limits_that_change_under_load_admit_no_unit_twice() {
    for seed in limit_seeds(4) {
        println!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        let server = Server::start().await;
        let run = prepare(&server, &mut rng).await;
        let (admitted, refused) = run.run(&server.admin(), &mut rng).await;
        println!("{} admitted, {refused} refused", admitted.len());
        assert!(admitted.len() > 500 && refused > 500, "{} admitted, {refused} refused", admitted.len());
        let sums = assert_unbroken(&admitted);

        // What is left is what the admitted calls left, whichever limits applied when they were made.
        for key in 0..KEYS {
            let nothing = [Cost { meter: Meter::REQUESTS, units: 0 }];
            for status in run.verify(key, &nothing, true).await.limits {
                let spent = sums.get(&name_of(status.owner.name(), key, &status.limit)).copied().unwrap_or(0);
                assert_eq!(
                    status.remaining(),
                    status.limit.limit.saturating_sub(spent),
                    "{:?}",
                    status.limit
                );
            }
        }
        usage::flush(&server.app).await.unwrap();
        for (index, meter) in METERS.into_iter().enumerate() {
            let report = server.admin().get(&format!("/analytics/usage?org_id=org_1&meter={meter}")).await;
            let total: u64 = admitted.iter().map(|call| u64::from(call.costs[index].units)).sum();
            assert_eq!(report.data()["totals"]["cost"], total, "{report:?}");
        }
    }
}
