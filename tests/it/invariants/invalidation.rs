//! Invariant 3 on the data plane, under load: a million verifications at full speed while keys are revoked,
//! disabled, narrowed, bound to other addresses and rotated, and their organizations and owners suspended. No
//! verification that begins after such a change is answered, and ends before the next change, sees the old state.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::app::App;
use tollhouse::domain::meter::DEFAULT_COSTS;
use tollhouse::domain::verification::Outcome;
use tollhouse::verify::verifier::{KeyToVerify, VerifyRequest};

use crate::support::{Client, Server};

/// Total number of verifications.
const VERIFICATIONS: usize = 1_000_000;
/// Number of threads that verify.
const VERIFIERS: usize = 4;
/// Number of slots. Each has one key, changed by one task.
const SLOTS: usize = 16;

/// A secret and its expected state.
struct TrackedSecret {
    secret: String,
    /// True from the answer to a withdrawal until the request that restores access is sent: verifications in
    /// this time must be denied.
    is_denied: AtomicBool,
    /// Number of restoring requests sent.
    restorations: AtomicU64,
}

impl TrackedSecret {
    fn new(secret: &Value) -> Arc<Self> {
        let secret = secret.as_str().unwrap().to_owned();
        Arc::new(Self { secret, is_denied: AtomicBool::new(false), restorations: AtomicU64::new(0) })
    }
}

/// A key, its organization and its owner; their ids end with the slot's number.
struct Slot {
    current: Mutex<Arc<TrackedSecret>>,
    /// The previous secret, which is denied from now on.
    previous: Mutex<Option<Arc<TrackedSecret>>>,
}

impl Slot {
    async fn call(admin: &Client, method: Method, path: &str, body: Value) -> Value {
        let answer = admin.call(method, path, Some(body)).await;
        assert!(answer.status < 300, "{path}: {answer:?}");
        answer.data().clone()
    }

    /// Withdraws access and restores it; successive rounds use every kind of withdrawal.
    async fn change(&self, admin: &Client, number: usize, round: usize) {
        let key = format!("/api-keys/key_{number}-{}", round / 8);
        let organization = format!("/organizations/org_{number}");
        let user = format!("/users/user_{number}");
        let patches = [
            (&key, json!({"status": "disabled"}), json!({"status": "active"})),
            (&key, json!({"scopes": ["workflows:write"]}), json!({"scopes": ["workflows:*"]})),
            (&key, json!({"allowed_ips": ["192.0.2.1"]}), json!({"allowed_ips": null})),
            (&organization, json!({"status": "suspended"}), json!({"status": "active"})),
            (&user, json!({"status": "suspended"}), json!({"status": "active"})),
        ];
        let secret = self.current.lock().unwrap().clone();
        match patches.get(round % 8) {
            Some((path, withdrawal, restoration)) => {
                Self::call(admin, Method::PATCH, path, withdrawal.clone()).await;
                secret.is_denied.store(true, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                secret.restorations.fetch_add(1, Ordering::SeqCst);
                secret.is_denied.store(false, Ordering::SeqCst);
                Self::call(admin, Method::PATCH, path, restoration.clone()).await;
            }
            None if round % 8 == 7 => {
                Self::call(admin, Method::POST, &format!("{key}/revoke"), json!({})).await;
                secret.is_denied.store(true, Ordering::SeqCst);
                self.create_key(admin, number, round / 8 + 1).await;
            }
            None => {
                let body = json!({"grace_period_seconds": 0});
                let rotated = Self::call(admin, Method::POST, &format!("{key}/rotate"), body).await;
                secret.is_denied.store(true, Ordering::SeqCst);
                self.replace(TrackedSecret::new(&rotated["key"]));
            }
        }
    }

    async fn create_key(&self, admin: &Client, number: usize, generation: usize) {
        let body = json!({
            "id": format!("key_{number}-{generation}"), "name": "k", "scopes": ["workflows:*"],
            "organization_id": format!("org_{number}"), "user_id": format!("user_{number}"),
        });
        let created = Self::call(admin, Method::POST, "/api-keys", body).await;
        self.replace(TrackedSecret::new(&created["key"]));
    }

    fn replace(&self, next: Arc<TrackedSecret>) {
        let previous = std::mem::replace(&mut *self.current.lock().unwrap(), next);
        *self.previous.lock().unwrap() = Some(previous);
    }
}

async fn verify(app: &App, secret: &TrackedSecret) -> Outcome {
    let request = VerifyRequest {
        key: KeyToVerify::Secret(&secret.secret),
        scopes: &["workflows:read"],
        ip: Some([198, 51, 100, 7].into()),
        costs: &DEFAULT_COSTS,
        dry_run: false,
        caller_organization_id: None,
    };
    app.verifier.verify(&request, app.clock.now(), app.clock.monotonic()).await.unwrap().outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_no_stale_acceptance_in_a_million_verifications() {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 0;
        let plan = config.plans.get_mut("standard").unwrap();
        plan.key_limits.clear();
        plan.organization_limits.clear();
    })
    .await;
    let admin = server.admin();
    let unknown = TrackedSecret::new(&json!("nobody"));
    let slots: Arc<Vec<Slot>> = Arc::new(
        (0..SLOTS)
            .map(|_| Slot { current: Mutex::new(unknown.clone()), previous: Mutex::new(None) })
            .collect(),
    );
    for (number, slot) in slots.iter().enumerate() {
        server.organization(&format!("org_{number}")).await;
        server.user(&format!("user_{number}")).await;
        let member = json!({"user_id": format!("user_{number}"), "role": "member"});
        Slot::call(&admin, Method::POST, &format!("/organizations/org_{number}/members"), member).await;
        slot.create_key(&admin, number, 0).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let changes = Arc::new(AtomicUsize::new(0));
    let changers: Vec<_> = (0..SLOTS)
        .map(|number| {
            let (slots, admin, done, changes) = (slots.clone(), admin.clone(), done.clone(), changes.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    slots[number].change(&admin, number, round).await;
                    changes.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    // Each returns its numbers of accepted verifications and of those where denial was certain.
    let verifiers: Vec<_> = (0..VERIFIERS)
        .map(|verifier| {
            let app = server.app.clone();
            let slots = slots.clone();
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                runtime.block_on(async move {
                    let mut accepted = 0;
                    let mut denied = 0;
                    for turn in 0..VERIFICATIONS / VERIFIERS {
                        let slot = &slots[(turn + verifier) % SLOTS];
                        let previous =
                            (turn % 5 == 4).then(|| slot.previous.lock().unwrap().clone()).flatten();
                        let secret = previous.unwrap_or_else(|| slot.current.lock().unwrap().clone());
                        let restorations = secret.restorations.load(Ordering::SeqCst);
                        let is_denied = secret.is_denied.load(Ordering::SeqCst);
                        let outcome = verify(&app, &secret).await;
                        let is_certain =
                            is_denied && secret.restorations.load(Ordering::SeqCst) == restorations;
                        assert!(!(is_certain && outcome.is_valid()), "turn {turn}: a stale acceptance");
                        accepted += usize::from(outcome.is_valid());
                        denied += usize::from(is_certain);
                    }
                    (accepted, denied)
                })
            })
        })
        .collect();
    let mut accepted = 0;
    let mut denied = 0;
    for verifier in verifiers {
        let counts = tokio::task::spawn_blocking(|| verifier.join().unwrap()).await.unwrap();
        accepted += counts.0;
        denied += counts.1;
    }
    done.store(true, Ordering::SeqCst);
    for changer in changers {
        changer.await.unwrap();
    }
    // The run is meaningful only with many acceptances, many certain denials and many changes.
    let changes = changes.load(Ordering::SeqCst);
    assert!(accepted > 50_000 && denied > 50_000 && changes > 8 * SLOTS, "{accepted} {denied} {changes}");
}
