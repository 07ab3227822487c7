//! Plans: their limits and the organizations that use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::meter::DEFAULT_COSTS;
use tollhouse::verify::verifier::{KeyToVerify, VerifyRequest};

use super::{column, expect_error, expect_invalid, expect_ok};
use crate::support::Server;

/// A plan with this limit per minute for each key.
fn plan(requests: u32, keys: u32, members: u32) -> Value {
    json!({"key_limits": per_minute(requests), "organization_limits": [], "max_keys": keys, "max_members": members})
}

/// A list with a limit of this number of requests per minute.
fn per_minute(requests: u32) -> Value {
    json!([{"limit": requests, "window_seconds": 60}])
}

/// A patch of the configuration with these limits for the keys of organizations on `standard`.
fn standard_key_limits(limits: Value) -> Value {
    json!({"plans": {"standard": {"key_limits": limits}}})
}

fn key_of(organization: &str) -> Value {
    json!({"organization_id": organization, "name": "n", "scopes": ["workflows:read"]})
}

#[tokio::test]
async fn a_plan_is_added_used_and_removed_when_no_organization_uses_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let gold = json!({"id": "org_1", "name": "n", "email": "a@b", "plan": "gold"});
    expect_invalid(&admin.post("/organizations", gold.clone()).await, &[("/plan", "UNKNOWN_PLAN")]);
    expect_ok(server.configure(json!({"plans": {"gold": plan(7, 0, 0)}})).await, 200);
    assert_eq!(expect_ok(admin.post("/organizations", gold).await, 201)["plan"], "gold");
    assert_eq!(column(&expect_ok(admin.get("/organizations?plan=gold").await, 200), "id"), ["org_1"]);

    let removal = json!({"plans": {"gold": null}});
    expect_error(&server.configure(removal.clone()).await, 409, "CONFLICT");
    expect_error(&server.configure(json!({"plans": {"standard": null}})).await, 409, "CONFLICT");
    expect_ok(admin.patch("/organizations/org_1", json!({"plan": "enterprise"})).await, 200);
    let config = expect_ok(server.configure(removal).await, 200);
    assert_eq!(config["plans"].as_object().unwrap().keys().collect::<Vec<_>>(), ["enterprise", "standard"]);
    let back = admin.patch("/organizations/org_1", json!({"plan": "gold"})).await;
    expect_invalid(&back, &[("/plan", "UNKNOWN_PLAN")]);
    // A deleted organization does not use its plan.
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    expect_ok(server.configure(json!({"plans": {"enterprise": null}})).await, 200);
}

/// A verification that starts after the response to a change of the plan's limit uses the new limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plans_limit_applies_to_the_next_verification() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let secret = server.key_with(key_of("org_1")).await.0.key.unwrap();
    let acknowledged = Arc::new(AtomicU64::new(100));
    let finished = Arc::new(AtomicBool::new(false));
    let verifiers: Vec<_> = (0..3)
        .map(|_| {
            let app = server.app.clone();
            let secret = secret.clone();
            let acknowledged = acknowledged.clone();
            let finished = finished.clone();
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                runtime.block_on(async move {
                    let mut count = 0;
                    while !finished.load(Ordering::SeqCst) {
                        let min_limit = acknowledged.load(Ordering::SeqCst);
                        let request = VerifyRequest::<&str> {
                            key: KeyToVerify::Secret(&secret),
                            scopes: &[],
                            ip: None,
                            costs: &DEFAULT_COSTS,
                            dry_run: true,
                            caller_organization_id: None,
                        };
                        let now = app.clock.now();
                        let monotonic = app.clock.monotonic();
                        let verdict = app.verifier.verify(&request, now, monotonic).await.unwrap();
                        let limit = verdict.limits[0].limit.limit;
                        assert!(limit >= min_limit, "{limit} after {min_limit} was acknowledged");
                        count += 1;
                    }
                    count
                })
            })
        })
        .collect();
    for limit in 101..=300 {
        expect_ok(server.configure(standard_key_limits(per_minute(limit))).await, 200);
        acknowledged.store(limit.into(), Ordering::SeqCst);
    }
    finished.store(true, Ordering::SeqCst);
    for verifier in verifiers {
        let count: u32 = tokio::task::spawn_blocking(|| verifier.join().unwrap()).await.unwrap();
        assert!(count > 1000, "{count}");
    }
    // The same through the API, also for a limit that is exceeded and for no limit.
    let verify = async |body: &Value| {
        let admin = server.admin();
        expect_ok(admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(body)).await, 200)
    };
    let body = json!({"key": secret});
    assert_eq!(verify(&body).await["limits"][0]["limit"], 300);
    expect_ok(server.configure(standard_key_limits(per_minute(1))).await, 200);
    verify(&body).await;
    assert_eq!(verify(&body).await["code"], "RATE_LIMITED");
    expect_ok(server.configure(standard_key_limits(json!([]))).await, 200);
    let limits = verify(&body).await["limits"].clone();
    assert_eq!((limits.as_array().unwrap().len(), &limits[0]["on"]), (1, &json!("organization")));
    let none = json!({"plans": {"standard": {"organization_limits": []}}});
    expect_ok(server.configure(none).await, 200);
    assert_eq!(verify(&body).await["limits"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_cannot_exceed_the_max_keys_of_its_plan() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    expect_ok(
        server.configure(json!({"plans": {"standard": plan(100, 3, 0), "gold": plan(100, 5, 0)}})).await,
        200,
    );
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let admin = server.admin();
            tokio::spawn(async move { admin.post("/api-keys", key_of("org_1")).await })
        })
        .collect();
    let mut created = Vec::new();
    for caller in callers {
        let answer = caller.await.unwrap();
        match answer.status {
            201 => created.push(answer.data()["id"].as_str().unwrap().to_owned()),
            _ => {
                expect_error(&answer, 409, "CONFLICT");
                assert!(answer.text.contains("standard") && answer.text.contains('3'), "{}", answer.text);
            }
        }
    }
    assert_eq!(created.len(), 3);
    // Keys are counted per organization. Disabled keys count, revoked keys don't.
    expect_ok(admin.post("/api-keys", key_of("org_2")).await, 201);
    expect_ok(admin.patch(&format!("/api-keys/{}", created[0]), json!({"status": "disabled"})).await, 200);
    expect_error(&admin.post("/api-keys", key_of("org_1")).await, 409, "CONFLICT");
    expect_ok(admin.delete(&format!("/api-keys/{}", created[0])).await, 200);
    expect_ok(admin.post("/api-keys", key_of("org_1")).await, 201);
    // A higher limit allows more keys; a lower limit keeps the existing ones.
    expect_ok(admin.patch("/organizations/org_1", json!({"plan": "gold"})).await, 200);
    expect_ok(admin.post("/api-keys", key_of("org_1")).await, 201);
    expect_ok(server.configure(json!({"plans": {"gold": {"max_keys": 1}}})).await, 200);
    expect_error(&admin.post("/api-keys", key_of("org_1")).await, 409, "CONFLICT");
    let active = expect_ok(admin.get("/api-keys?organization_id=org_1&status=active").await, 200);
    assert_eq!(active.as_array().unwrap().len(), 4);
    expect_ok(admin.post(&format!("/api-keys/{}/rotate", created[1]), json!({})).await, 200);
}

#[tokio::test]
async fn an_organization_cannot_exceed_the_max_members_of_its_plan() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    for user in ["user_1", "user_2", "user_3"] {
        server.user(user).await;
    }
    let (org_client, _) = server.key(Some("org_1"), &["admin:users"]).await;
    expect_ok(server.configure(json!({"plans": {"standard": {"max_members": 2}}})).await, 200);
    let add = async |user: &str| {
        let member = json!({"user_id": user, "role": "member"});
        admin.post("/organizations/org_1/members", member).await
    };
    expect_ok(add("user_1").await, 201);
    expect_ok(add("user_2").await, 201);
    expect_error(&add("user_3").await, 409, "CONFLICT");
    expect_error(&add("user_1").await, 409, "ALREADY_EXISTS");
    // A user created by the organization's key would become a member, so the user is not created either.
    let new = json!({"name": "n", "email": "new@example.com"});
    expect_error(&org_client.post("/users", new.clone()).await, 409, "CONFLICT");
    expect_ok(admin.post("/users", new).await, 201);
    expect_ok(admin.delete("/organizations/org_1/members/user_2").await, 200);
    expect_ok(add("user_3").await, 201);
}
