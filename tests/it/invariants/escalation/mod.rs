//! Invariant 4, no privilege escalation: no sequence of calls yields a key with more access than its creators had.

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

use self::model::{Grant, Key, Patch, expires_no_later, is_administrative, is_no_wider};
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
const CIDRS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
];
/// The platform (`None`) and two tenants.
const ORGANIZATIONS: [Option<&str>; 3] = [None, Some("org_a"), Some("org_b")];
/// An address in none of [`CIDRS`].
const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

/// An operation. A target is an index into the keys that exist by then, modulo their number.
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
    /// Makes no call; advances the clock.
    Wait {
        minutes: u64,
    },
}

#[derive(Clone, Debug)]
struct Step {
    /// Index into the keys with a known secret, modulo their number.
    caller: usize,
    /// The call comes from an address that no allowlist contains.
    outside: bool,
    /// The call is sent as an operation of a batch.
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
    prop_oneof![2 => Just(None), 3 => subsequence(CIDRS, 1..4).prop_map(Some)]
}

fn grant() -> impl Strategy<Value = Grant> {
    (scopes(), expires(), cidrs(), any::<bool>()).prop_map(|(scopes, expires, cidrs, self_rotation)| Grant {
        scopes,
        expires,
        cidrs,
        self_rotation,
    })
}

/// An initial key that can manage keys; without one, every call would be refused. An index into
/// [`ORGANIZATIONS`] and the grant.
fn root() -> impl Strategy<Value = (usize, Grant)> {
    let manages = prop_oneof![4 => Just("admin:keys"), 2 => Just("admin:*"), 1 => Just("*")];
    (0..ORGANIZATIONS.len(), grant(), manages).prop_map(|(organization, mut grant, manages)| {
        grant.scopes.retain(|scope| !scope.starts_with("admin:") && *scope != "*");
        grant.scopes.push(manages);
        (organization, grant)
    })
}

fn op() -> impl Strategy<Value = Op> {
    let access = (option::of(scopes()), option::of(expires()), option::of(cidrs()));
    let flags = (option::of(any::<bool>()), option::of(any::<bool>()));
    let patch = (access, flags).prop_map(|((scopes, expires, cidrs), (self_rotation, disabled))| Patch {
        scopes,
        expires,
        cidrs,
        self_rotation,
        disabled,
    });
    // A patch of `disabled` only: with other fields beside it, most patches would be refused.
    let switch = any::<bool>().prop_map(|disabled| Patch {
        scopes: None,
        expires: None,
        cidrs: None,
        self_rotation: None,
        disabled: Some(disabled),
    });
    let patch = prop_oneof![2 => patch, 1 => switch];
    let organization = proptest::sample::select(ORGANIZATIONS.to_vec());
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
    let step = step.prop_map(|(caller, outside, batched, op)| Step { caller, outside, batched, op });
    proptest::collection::vec(step, 30)
}

/// The state of a sequence: the model's keys, and the secrets of those that the sequence may use.
struct Simulation<'a> {
    server: &'a Server,
    keys: Vec<Key>,
    secrets: Vec<Option<String>>,
    /// The keys with a known secret, as they were at the start.
    roots: Vec<Key>,
    /// Number of answers by operation and status.
    answer_counts: BTreeMap<(&'static str, u16), usize>,
}

impl Simulation<'_> {
    fn now(&self) -> i64 {
        self.server.clock.now().as_millis()
    }

    /// Creates a key with the admin key before the sequence begins; `known`: the sequence may use its secret.
    async fn add_initial_key(&mut self, organization: Option<&str>, grant: &Grant, known: bool) {
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
        caller: usize,
        step: &Step,
        method: Method,
        path: &str,
        body: serde_json::Value,
    ) -> Answer {
        let from = if step.outside { OUTSIDE } else { self.keys[caller].allowed_ip() };
        let client = self.server.client(self.secrets[caller].as_deref());
        if !step.batched {
            return call_from(from, &client, method, path, Some(&body)).await;
        }
        let operation = json!({"method": method.as_str(), "path": path, "body": body});
        let batch = json!({"atomic": step.caller.is_multiple_of(2), "operations": [operation]});
        let answer = call_from(from, &client, Method::POST, "/batch", Some(&batch)).await;
        let result_pointer = if answer.status == 200 { "/data/results/0" } else { "/error/results/0" };
        let Some(result) = answer.json.pointer(result_pointer) else { return answer };
        let status = result["status"].as_u64().unwrap();
        let json = result["body"].clone();
        Answer { status: u16::try_from(status).unwrap(), json, ..answer }
    }

    /// Makes the step's call, compares its answer with the model's, and updates the model.
    async fn run(&mut self, step: &Step) {
        let known: Vec<_> = (0..self.keys.len()).filter(|index| self.secrets[*index].is_some()).collect();
        let by = known[step.caller % known.len()];
        let now = self.now();
        let caller = self.keys[by].clone();
        let early_refusal =
            caller.early_refusal(now, if step.outside { OUTSIDE } else { caller.allowed_ip() });
        let (name, answer, expected, (key_index, key)) = match &step.op {
            Op::Wait { minutes } => return self.server.advance(Duration::from_secs(minutes * 60)),
            Op::Create { organization, grant } => {
                let body = grant.body(now, *organization);
                let answer = self.call(by, step, Method::POST, "/api-keys", body).await;
                let organization = organization.or(caller.organization.as_deref());
                let id = answer.data()["id"].as_str().unwrap_or_default();
                let created = grant.key(now, id, organization);
                ("create", answer, caller.create_statuses(&created), (self.keys.len(), created))
            }
            Op::Change { target, patch } => {
                let target = target % self.keys.len();
                let before = &self.keys[target];
                let path = format!("/api-keys/{}", before.id);
                let after = patch.apply(now, before);
                let answer = self.call(by, step, Method::PATCH, &path, patch.body(now)).await;
                ("change", answer, caller.change_statuses(before, &after), (target, after))
            }
            Op::Rotate { target, grace } => {
                let target = target % self.keys.len();
                let key = &self.keys[target];
                let path = format!("/api-keys/{}/rotate", key.id);
                let body = json!({"grace_period_seconds": grace});
                let answer = self.call(by, step, Method::POST, &path, body).await;
                ("rotate", answer, caller.rotate_statuses(now, key), (target, key.clone()))
            }
            Op::Revoke { target } => {
                let target = target % self.keys.len();
                let key = &self.keys[target];
                let path = format!("/api-keys/{}/revoke", key.id);
                let answer = self.call(by, step, Method::POST, &path, json!({})).await;
                (
                    "revoke",
                    answer,
                    caller.revoke_statuses(key),
                    (target, Key { revoked: true, ..key.clone() }),
                )
            }
        };
        let expected = early_refusal.as_ref().map_or(expected, std::slice::from_ref);
        assert!(expected.contains(&answer.status), "{expected:?} by {caller:?}: {step:?}: {answer:?}");
        *self.answer_counts.entry((name, answer.status)).or_default() += 1;
        let secret = answer.data()["key"].as_str().map(str::to_owned);
        if answer.status >= 300 {
            return assert_eq!(secret, None, "{answer:?}");
        }
        assert!(key.is_shown_as(now, answer.data()), "{key:?} by {step:?}: {answer:?}");
        if key_index == self.keys.len() {
            self.secrets.push(None);
            self.keys.push(key);
        } else {
            self.keys[key_index] = key;
        }
        let Some(secret) = secret else { return };
        if let (Some(old), Op::Rotate { grace, .. }) = (self.secrets[key_index].replace(secret), &step.op) {
            let old = self.server.client(Some(&old));
            let whoami =
                call_from(self.keys[key_index].allowed_ip(), &old, Method::GET, "/whoami", None).await;
            let works = *grace > 0 && self.keys[key_index].is_valid(now);
            assert_eq!(whoami.status, if works { 200 } else { 401 }, "{whoami:?}");
        }
    }

    /// Asserts that the server's keys equal the model's, and that no key with a known secret has more access
    /// than the initial keys.
    async fn assert_no_escalation(&self) {
        let now = self.now();
        let roots = &self.roots;
        for (key, secret) in self.keys.iter().zip(&self.secrets) {
            let shown = self.server.admin().get(&format!("/api-keys/{}", key.id)).await;
            assert!(key.is_shown_as(now, shown.data()), "{key:?}: {shown:?}");
            let Some(secret) = secret else { continue };
            let client = self.server.client(Some(secret));
            let whoami = call_from(key.allowed_ip(), &client, Method::GET, "/whoami", None).await;
            assert_eq!(whoami.status, if key.is_valid(now) { 200 } else { 401 }, "{key:?}: {whoami:?}");
            for scope in key.scopes.iter().filter(|scope| is_administrative(scope)) {
                let covers = |root: &&Key| {
                    let wildcard = format!("{}:*", scope.split(':').next().unwrap());
                    root.scopes.iter().any(|held| held == "*" || held == scope || *held == wildcard)
                };
                assert!(roots.iter().any(|root| covers(&root)), "no initial key has {scope}: {key:?}");
            }
            let reaches = |root: &Key| root.organization.is_none() || root.organization == key.organization;
            assert!(roots.iter().any(reaches), "{key:?}");
            assert!(roots.iter().any(|root| expires_no_later(key.expires_at, root.expires_at)), "{key:?}");
            let is_allowed_by_root = |cidr: &ipnet::IpNet| {
                roots.iter().any(|root| is_no_wider(Some(&[*cidr]), root.cidrs.as_deref()))
            };
            match &key.cidrs {
                Some(cidrs) => assert!(cidrs.iter().all(is_allowed_by_root), "{key:?}"),
                None => assert!(roots.iter().any(|root| root.cidrs.is_none()), "{key:?}"),
            }
        }
    }
}

/// Runs a sequence and returns the number of answers by operation and status.
async fn run(
    server: &Server,
    roots: &[(usize, Grant)],
    steps: &[Step],
) -> BTreeMap<(&'static str, u16), usize> {
    let mut simulation = Simulation {
        server,
        keys: Vec::new(),
        secrets: Vec::new(),
        roots: Vec::new(),
        answer_counts: BTreeMap::new(),
    };
    for (organization, grant) in roots {
        simulation.add_initial_key(ORGANIZATIONS[*organization], grant, true).await;
    }
    // Keys whose secrets the sequence doesn't know, as targets.
    for (organization, scope) in
        [(None, "*"), (Some("org_a"), "admin:keys"), (Some("org_b"), "workflows:read")]
    {
        let grant = Grant { scopes: vec![scope], expires: None, cidrs: None, self_rotation: false };
        simulation.add_initial_key(organization, &grant, false).await;
    }
    for step in steps {
        simulation.run(step).await;
    }
    simulation.assert_no_escalation().await;
    simulation.answer_counts
}

#[test]
fn i4_no_sequence_of_calls_escalates_privileges() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(async {
        let server = behind_a_proxy().await;
        server.organization("org_a").await;
        server.organization("org_b").await;
        server
    });
    // A fixed seed gives the same sequences in every run, so a failure is reproducible everywhere.
    let config = Config { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let answer_counts = RefCell::new(BTreeMap::new());
    TestRunner::new_with_rng(config, rng)
        .run(&(proptest::collection::vec(root(), 3..5), steps()), |(roots, steps)| {
            for (answer, count) in runtime.block_on(run(&server, &roots, &steps)) {
                *answer_counts.borrow_mut().entry(answer).or_insert(0) += count;
            }
            Ok(())
        })
        .unwrap();
    // The sequences must have had both successes and refusals; otherwise they prove nothing.
    let answer_counts = answer_counts.into_inner();
    for answer in
        [("create", 201), ("create", 403), ("create", 404), ("change", 200), ("change", 403), ("rotate", 200)]
    {
        assert!(
            answer_counts.get(&answer).is_some_and(|count| *count >= 20),
            "{answer:?} in {answer_counts:?}"
        );
    }
}
