//! Invariant 4: nobody gives away what they don't have, whatever the order of the calls.

mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::option;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::json;

use self::model::{Grant, Key, Patch, administrative, no_later, no_wider};
use super::{behind_a_proxy, call_from};
use crate::support::{Answer, Server};

const SCOPES: &[&str] = &[
    "*",
    "admin:*",
    "admin:keys",
    "admin:users",
    "admin:audit",
    "keys:*",
    "keys:verify",
    "workflows:*",
    "workflows:read",
];
const RANGES: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
];
/// Of the platform, and of two tenants.
const HOMES: [Option<&str>; 3] = [None, Some("org_a"), Some("org_b")];
/// In no range.
const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

/// A call. Who calls and what it is about are places in what there is by then, around the corner.
#[derive(Clone, Debug)]
enum Op {
    Create {
        organization: Option<&'static str>,
        grant: Grant,
    },
    Change {
        target: usize,
        patch: Patch,
    },
    Rotate {
        target: usize,
        grace: u32,
    },
    Revoke {
        target: usize,
    },
    /// No call: so many minutes go by.
    Wait {
        minutes: u64,
    },
}

#[derive(Clone, Debug)]
struct Step {
    by: usize,
    outside: bool,
    /// As an operation of a batch.
    batched: bool,
    op: Op,
}

fn scopes() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(SCOPES, 0..4)
}

fn expires() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![2 => Just(None), 3 => (1..48_u32).prop_map(Some)]
}

fn cidrs() -> impl Strategy<Value = Option<Vec<&'static str>>> {
    prop_oneof![2 => Just(None), 3 => subsequence(RANGES, 1..4).prop_map(Some)]
}

fn grant() -> impl Strategy<Value = Grant> {
    (scopes(), expires(), cidrs()).prop_map(|(scopes, expires, cidrs)| Grant { scopes, expires, cidrs })
}

/// A grant that can manage keys, so that the sequence gets somewhere.
fn root() -> impl Strategy<Value = (usize, Grant)> {
    let manages = prop_oneof![4 => Just("admin:keys"), 2 => Just("admin:*"), 1 => Just("*")];
    (0..HOMES.len(), grant(), manages).prop_map(|(home, mut grant, manages)| {
        grant.scopes.retain(|scope| !scope.starts_with("admin:") && *scope != "*");
        grant.scopes.push(manages);
        (home, grant)
    })
}

fn op() -> impl Strategy<Value = Op> {
    let patch = (option::of(scopes()), option::of(expires()), option::of(cidrs()), option::of(any::<bool>()))
        .prop_map(|(scopes, expires, cidrs, disabled)| Patch { scopes, expires, cidrs, disabled });
    // By itself, since the other fields would mostly be refused with it.
    let switch = any::<bool>().prop_map(|disabled| Patch {
        scopes: None,
        expires: None,
        cidrs: None,
        disabled: Some(disabled),
    });
    let patch = prop_oneof![2 => patch, 1 => switch];
    let organization = proptest::sample::select(HOMES.to_vec());
    prop_oneof![
        8 => (organization, grant()).prop_map(|(organization, grant)| Op::Create { organization, grant }),
        8 => (any::<usize>(), patch).prop_map(|(target, patch)| Op::Change { target, patch }),
        4 => (any::<usize>(), prop_oneof![Just(0), Just(3600)])
            .prop_map(|(target, grace)| Op::Rotate { target, grace }),
        1 => any::<usize>().prop_map(|target| Op::Revoke { target }),
        1 => (1..300_u64).prop_map(|minutes| Op::Wait { minutes }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<usize>(), proptest::bool::weighted(0.05), any::<bool>(), op());
    let step = step.prop_map(|(by, outside, batched, op)| Step { by, outside, batched, op });
    proptest::collection::vec(step, 30)
}

/// What the sequence has so far: keys, and the secrets of those that it may use.
struct World<'a> {
    server: &'a Server,
    keys: Vec<Key>,
    secrets: Vec<Option<String>>,
    /// The known keys as they were at first.
    roots: Vec<Key>,
    /// How often each call was answered how.
    seen: BTreeMap<(&'static str, u16), usize>,
}

impl World<'_> {
    fn now(&self) -> i64 {
        self.server.clock.now().as_millis()
    }

    /// A key that was there before, made by the first admin.
    async fn begin_with(&mut self, organization: Option<&str>, grant: &Grant, known: bool) {
        let now = self.now();
        let answer = self.server.admin().post("/api-keys", grant.body(now, organization)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let key = grant.key(now, answer.data()["id"].as_str().unwrap(), organization);
        if known {
            self.roots.push(key.clone());
        }
        self.keys.push(key);
        self.secrets.push(known.then(|| answer.data()["key"].as_str().unwrap().to_owned()));
    }

    async fn call(
        &self,
        by: usize,
        step: &Step,
        method: Method,
        path: &str,
        body: serde_json::Value,
    ) -> Answer {
        let from = if step.outside { OUTSIDE } else { self.keys[by].home() };
        let client = self.server.client(self.secrets[by].as_deref());
        if !step.batched {
            return call_from(from, &client, method, path, Some(&body)).await;
        }
        let operation = json!({"method": method.as_str(), "path": path, "body": body});
        let batch = json!({"atomic": step.by.is_multiple_of(2), "operations": [operation]});
        let answer = call_from(from, &client, Method::POST, "/batch", Some(&batch)).await;
        let results = if answer.status == 200 { "/data/results/0" } else { "/error/results/0" };
        let Some(result) = answer.json.pointer(results) else { return answer };
        let (status, json) = (result["status"].as_u64().unwrap(), result["body"].clone());
        Answer { status: u16::try_from(status).unwrap(), json, ..answer }
    }

    async fn play(&mut self, step: &Step) {
        let known: Vec<_> = (0..self.keys.len()).filter(|place| self.secrets[*place].is_some()).collect();
        let by = known[step.by % known.len()];
        let (now, caller) = (self.now(), self.keys[by].clone());
        let gate = caller.refusal_at_the_gate(now, if step.outside { OUTSIDE } else { caller.home() });
        let (name, answer, expected, becomes) = match &step.op {
            Op::Wait { minutes } => return self.server.advance(Duration::from_secs(minutes * 60)),
            Op::Create { organization, grant } => {
                let body = grant.body(now, *organization);
                let answer = self.call(by, step, Method::POST, "/api-keys", body).await;
                let home = organization.or(caller.organization.as_deref());
                let id = answer.data()["id"].as_str().unwrap_or_default();
                let made = grant.key(now, id, home);
                ("create", answer, caller.creates(&made), (self.keys.len(), made))
            }
            Op::Change { target, patch } => {
                let target = target % self.keys.len();
                let (before, path) = (&self.keys[target], format!("/api-keys/{}", self.keys[target].id));
                let after = patch.apply(now, before);
                let answer = self.call(by, step, Method::PATCH, &path, patch.body(now)).await;
                ("change", answer, caller.changes(before, &after), (target, after))
            }
            Op::Rotate { target, grace } => {
                let target = target % self.keys.len();
                let (key, path) = (&self.keys[target], format!("/api-keys/{}/rotate", self.keys[target].id));
                let body = json!({"grace_period_seconds": grace});
                let answer = self.call(by, step, Method::POST, &path, body).await;
                ("rotate", answer, caller.rotates(now, key), (target, key.clone()))
            }
            Op::Revoke { target } => {
                let target = target % self.keys.len();
                let (key, path) = (&self.keys[target], format!("/api-keys/{}/revoke", self.keys[target].id));
                let answer = self.call(by, step, Method::POST, &path, json!({})).await;
                ("revoke", answer, caller.revokes(key), (target, Key { revoked: true, ..key.clone() }))
            }
        };
        let expected = gate.as_ref().map_or(expected, std::slice::from_ref);
        assert!(expected.contains(&answer.status), "{expected:?} by {caller:?}: {step:?}: {answer:?}");
        *self.seen.entry((name, answer.status)).or_default() += 1;
        let secret = answer.data()["key"].as_str().map(str::to_owned);
        if answer.status >= 300 {
            return assert_eq!(secret, None, "{answer:?}");
        }
        let (place, key) = becomes;
        assert!(key.is_shown_as(now, answer.data()), "{key:?} by {step:?}: {answer:?}");
        if place == self.keys.len() {
            self.secrets.push(None);
            self.keys.push(key);
        } else {
            self.keys[place] = key;
        }
        let Some(secret) = secret else { return };
        if let (Some(old), Op::Rotate { grace, .. }) = (self.secrets[place].replace(secret), &step.op) {
            let old = self.server.client(Some(&old));
            let whoami = call_from(self.keys[place].home(), &old, Method::GET, "/whoami", None).await;
            let works = *grace > 0 && self.keys[place].good(now);
            assert_eq!(whoami.status, if works { 200 } else { 401 }, "{whoami:?}");
        }
    }

    /// Nothing changed behind the model's back, and no key that the sequence came to reaches beyond
    /// all that it began with.
    async fn judge(&self) {
        let (now, roots) = (self.now(), &self.roots);
        for (key, secret) in self.keys.iter().zip(&self.secrets) {
            let shown = self.server.admin().get(&format!("/api-keys/{}", key.id)).await;
            assert!(key.is_shown_as(now, shown.data()), "{key:?}: {shown:?}");
            let Some(secret) = secret else { continue };
            let client = self.server.client(Some(secret));
            let whoami = call_from(key.home(), &client, Method::GET, "/whoami", None).await;
            assert_eq!(whoami.status, if key.good(now) { 200 } else { 401 }, "{key:?}: {whoami:?}");
            for scope in key.scopes.iter().filter(|scope| administrative(scope)) {
                let covers = |root: &&Key| {
                    let wildcard = format!("{}:*", scope.split(':').next().unwrap());
                    root.scopes.iter().any(|own| own == "*" || own == scope || *own == wildcard)
                };
                assert!(roots.iter().any(|root| covers(&root)), "{scope} came from nowhere: {key:?}");
            }
            let reached = |root: &Key| root.organization.is_none() || root.organization == key.organization;
            assert!(roots.iter().any(reached), "{key:?}");
            assert!(roots.iter().any(|root| no_later(key.expires_at, root.expires_at)), "{key:?}");
            let within_one = |range: &ipnet::IpNet| {
                roots.iter().any(|root| no_wider(Some(&[*range]), root.cidrs.as_deref()))
            };
            match &key.cidrs {
                Some(cidrs) => assert!(cidrs.iter().all(within_one), "{key:?}"),
                None => assert!(roots.iter().any(|root| root.cidrs.is_none()), "{key:?}"),
            }
        }
    }
}

async fn play(
    server: &Server,
    roots: &[(usize, Grant)],
    steps: &[Step],
) -> BTreeMap<(&'static str, u16), usize> {
    let mut world =
        World { server, keys: Vec::new(), secrets: Vec::new(), roots: Vec::new(), seen: BTreeMap::new() };
    for (home, grant) in roots {
        world.begin_with(HOMES[*home], grant, true).await;
    }
    // Bystanders, whose secrets the sequence would like to have.
    for (home, scope) in [(None, "*"), (Some("org_a"), "admin:keys"), (Some("org_b"), "workflows:read")] {
        world.begin_with(home, &Grant { scopes: vec![scope], expires: None, cidrs: None }, false).await;
    }
    for step in steps {
        world.play(step).await;
    }
    world.judge().await;
    world.seen
}

#[test]
fn i4_no_sequence_of_calls_yields_more_than_its_makers_had() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(async {
        let server = behind_a_proxy().await;
        server.organization("org_a").await;
        server.organization("org_b").await;
        server
    });
    // The same sequences each time: who breaks this sees it at once, and so does everybody else.
    let config = Config { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let seen = RefCell::new(BTreeMap::new());
    TestRunner::new_with_rng(config, random)
        .run(&(proptest::collection::vec(root(), 3..5), steps()), |(roots, steps)| {
            for (what, count) in runtime.block_on(play(&server, &roots, &steps)) {
                *seen.borrow_mut().entry(what).or_insert(0) += count;
            }
            Ok(())
        })
        .unwrap();
    // The sequences must have got somewhere, and have been held back.
    let seen = seen.into_inner();
    for what in
        [("create", 201), ("create", 403), ("create", 404), ("change", 200), ("change", 403), ("rotate", 200)]
    {
        assert!(seen.get(&what).is_some_and(|count| *count >= 20), "{what:?} in {seen:?}");
    }
}
