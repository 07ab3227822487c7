//! Invariant 3 of the data plane, under load: a million verifications at full speed while keys are
//! revoked, disabled, narrowed, moved and rotated and their organizations and owners suspended. None that
//! begins after the answer to such a change, and ends before the next change, gets the old state.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::app::App;
use tollhouse::domain::verification::Outcome;
use tollhouse::verify::verifier::VerifyRequest;

use crate::support::{Client, Server};

/// As many in all.
const VERIFICATIONS: usize = 1_000_000;
/// Threads that verify.
const VERIFIERS: usize = 4;
/// Places with a key each, and a task that changes it.
const PLACES: usize = 16;

/// A secret, and what is known of it.
struct Known {
    secret: String,
    /// Certainly denied: the change was answered, and nothing that gives anything back has been asked.
    denied: AtomicBool,
    /// Counts what gave something back, from when it was asked.
    given: AtomicU64,
}

impl Known {
    fn new(secret: &Value) -> Arc<Self> {
        let secret = secret.as_str().unwrap().to_owned();
        Arc::new(Self { secret, denied: AtomicBool::new(false), given: AtomicU64::new(0) })
    }
}

/// A key and what it depends on; the ids end with its number.
struct Place {
    now: Mutex<Arc<Known>>,
    /// The secret before: denied for ever.
    before: Mutex<Option<Arc<Known>>>,
}

impl Place {
    async fn call(admin: &Client, method: Method, path: &str, body: Value) -> Value {
        let answer = admin.call(method, path, Some(body)).await;
        assert!(answer.status < 300, "{path}: {answer:?}");
        answer.data().clone()
    }

    /// Takes something away and gives it back, in turn all that can be taken.
    async fn change(&self, admin: &Client, number: usize, round: usize) {
        let key = format!("/api-keys/key_{number}-{}", round / 8);
        let (organization, user) = (format!("/organizations/org_{number}"), format!("/users/user_{number}"));
        let patches = [
            (&key, json!({"status": "disabled"}), json!({"status": "active"})),
            (&key, json!({"scopes": ["workflows:write"]}), json!({"scopes": ["workflows:*"]})),
            (&key, json!({"allowed_ips": ["192.0.2.1"]}), json!({"allowed_ips": null})),
            (&organization, json!({"status": "suspended"}), json!({"status": "active"})),
            (&user, json!({"status": "suspended"}), json!({"status": "active"})),
        ];
        let known = self.now.lock().unwrap().clone();
        match patches.get(round % 8) {
            Some((path, take, give)) => {
                Self::call(admin, Method::PATCH, path, take.clone()).await;
                known.denied.store(true, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                known.given.fetch_add(1, Ordering::SeqCst);
                known.denied.store(false, Ordering::SeqCst);
                Self::call(admin, Method::PATCH, path, give.clone()).await;
            }
            None if round % 8 == 7 => {
                Self::call(admin, Method::POST, &format!("{key}/revoke"), json!({})).await;
                known.denied.store(true, Ordering::SeqCst);
                self.make(admin, number, round / 8 + 1).await;
            }
            None => {
                let body = json!({"grace_period_seconds": 0});
                let rotated = Self::call(admin, Method::POST, &format!("{key}/rotate"), body).await;
                known.denied.store(true, Ordering::SeqCst);
                self.replace(Known::new(&rotated["key"]));
            }
        }
    }

    async fn make(&self, admin: &Client, number: usize, nth: usize) {
        let body = json!({
            "id": format!("key_{number}-{nth}"), "name": "k", "scopes": ["workflows:*"],
            "organization_id": format!("org_{number}"), "user_id": format!("user_{number}"),
        });
        let made = Self::call(admin, Method::POST, "/api-keys", body).await;
        self.replace(Known::new(&made["key"]));
    }

    fn replace(&self, next: Arc<Known>) {
        let before = std::mem::replace(&mut *self.now.lock().unwrap(), next);
        *self.before.lock().unwrap() = Some(before);
    }
}

async fn verify(app: &App, known: &Known) -> Outcome {
    let question = VerifyRequest {
        secret: &known.secret,
        scopes: &["workflows:read"],
        ip: Some([198, 51, 100, 7].into()),
        cost: 1,
        dry_run: false,
        caller_organization_id: None,
    };
    app.verifier.verify(&question, app.clock.now(), app.clock.monotonic()).await.unwrap().outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_not_one_stale_acceptance_in_a_million_verifications() {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 0;
        config.plans.standard.requests_per_minute = 0;
    })
    .await;
    let admin = server.admin();
    let nobody = Known::new(&json!("nobody"));
    let places: Arc<Vec<Place>> = Arc::new(
        (0..PLACES).map(|_| Place { now: Mutex::new(nobody.clone()), before: Mutex::new(None) }).collect(),
    );
    for (number, place) in places.iter().enumerate() {
        server.organization(&format!("org_{number}")).await;
        server.user(&format!("user_{number}")).await;
        let member = json!({"user_id": format!("user_{number}"), "role": "member"});
        Place::call(&admin, Method::POST, &format!("/organizations/org_{number}/members"), member).await;
        place.make(&admin, number, 0).await;
    }
    let (done, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let changers: Vec<_> = (0..PLACES)
        .map(|number| {
            let (places, admin, done, changes) =
                (places.clone(), admin.clone(), done.clone(), changes.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    places[number].change(&admin, number, round).await;
                    changes.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    // (accepted, denied while denial was certain) of each verifier.
    let verifiers: Vec<_> = (0..VERIFIERS)
        .map(|nth| {
            let (app, places, runtime) =
                (server.app.clone(), places.clone(), tokio::runtime::Handle::current());
            std::thread::spawn(move || {
                runtime.block_on(async move {
                    let (mut accepted, mut denied) = (0, 0);
                    for turn in 0..VERIFICATIONS / VERIFIERS {
                        let place = &places[(turn + nth) % PLACES];
                        let before = (turn % 5 == 4).then(|| place.before.lock().unwrap().clone()).flatten();
                        let known = before.unwrap_or_else(|| place.now.lock().unwrap().clone());
                        let given = known.given.load(Ordering::SeqCst);
                        let is_denied = known.denied.load(Ordering::SeqCst);
                        let outcome = verify(&app, &known).await;
                        let is_certain = is_denied && known.given.load(Ordering::SeqCst) == given;
                        assert!(!(is_certain && outcome.is_valid()), "turn {turn}: a stale acceptance");
                        accepted += usize::from(outcome.is_valid());
                        denied += usize::from(is_certain);
                    }
                    (accepted, denied)
                })
            })
        })
        .collect();
    let (mut accepted, mut denied) = (0, 0);
    for verifier in verifiers {
        let counted = tokio::task::spawn_blocking(|| verifier.join().unwrap()).await.unwrap();
        accepted += counted.0;
        denied += counted.1;
    }
    done.store(true, Ordering::SeqCst);
    for changer in changers {
        changer.await.unwrap();
    }
    // It was worth something: much was accepted, much was denied for certain, and all the while it changed.
    let changes = changes.load(Ordering::SeqCst);
    assert!(accepted > 50_000 && denied > 50_000 && changes > 8 * PLACES, "{accepted} {denied} {changes}");
}
