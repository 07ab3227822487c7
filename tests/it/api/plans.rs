//! Plans as data: their limits, and who is on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::verify::verifier::VerifyRequest;

use super::{at_fault, column, done, refused};
use crate::support::Server;

fn plan(requests: u32, keys: u32, members: u32) -> Value {
    json!({"requests_per_minute": requests, "max_keys": keys, "max_members": members})
}

fn key_of(organization: &str) -> Value {
    json!({"organization_id": organization, "name": "n", "scopes": ["workflows:read"]})
}

#[tokio::test]
async fn a_plan_is_added_booked_and_can_go_when_nobody_is_on_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let gold = json!({"id": "org_1", "name": "n", "email": "a@b", "plan": "gold"});
    at_fault(&admin.post("/organizations", gold.clone()).await, &[("/plan", "UNKNOWN_PLAN")]);
    done(server.configure(json!({"plans": {"gold": plan(7, 0, 0)}})).await, 200);
    assert_eq!(done(admin.post("/organizations", gold).await, 201)["plan"], "gold");
    assert_eq!(column(&done(admin.get("/organizations?plan=gold").await, 200), "id"), ["org_1"]);

    let gone = json!({"plans": {"gold": null}});
    refused(&server.configure(gone.clone()).await, 409, "CONFLICT");
    refused(&server.configure(json!({"plans": {"standard": null}})).await, 409, "CONFLICT");
    done(admin.patch("/organizations/org_1", json!({"plan": "enterprise"})).await, 200);
    let left = done(server.configure(gone).await, 200);
    assert_eq!(left["plans"].as_object().unwrap().keys().collect::<Vec<_>>(), ["enterprise", "standard"]);
    let back = admin.patch("/organizations/org_1", json!({"plan": "gold"})).await;
    at_fault(&back, &[("/plan", "UNKNOWN_PLAN")]);
    // One whose organization was deleted is nobody's.
    done(admin.delete("/organizations/org_1").await, 200);
    done(server.configure(json!({"plans": {"enterprise": null}})).await, 200);
}

/// No verification that begins after the answer to a change of the plan's limit is measured by the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plans_limit_is_in_force_on_the_next_verification() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let secret = server.key_with(key_of("org_1")).await.0.key.unwrap();
    let (answered, done_with) = (Arc::new(AtomicU32::new(100)), Arc::new(AtomicBool::new(false)));
    let verifiers: Vec<_> = (0..3)
        .map(|_| {
            let (app, secret, answered, done_with) =
                (server.app.clone(), secret.clone(), answered.clone(), done_with.clone());
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                runtime.block_on(async move {
                    let mut count = 0;
                    while !done_with.load(Ordering::SeqCst) {
                        let least = answered.load(Ordering::SeqCst);
                        let question = VerifyRequest::<&str> {
                            secret: &secret,
                            scopes: &[],
                            ip: None,
                            cost: 1,
                            dry_run: true,
                            caller_organization_id: None,
                        };
                        let (now, monotonic) = (app.clock.now(), app.clock.monotonic());
                        let verdict = app.verifier.verify(&question, now, monotonic).await.unwrap();
                        let limit = verdict.rate.unwrap().limit;
                        assert!(limit >= least, "{limit} after {least} was answered");
                        count += 1;
                    }
                    count
                })
            })
        })
        .collect();
    for limit in 101..=300 {
        done(server.configure(json!({"plans": {"standard": {"requests_per_minute": limit}}})).await, 200);
        answered.store(limit, Ordering::SeqCst);
    }
    done_with.store(true, Ordering::SeqCst);
    for verifier in verifiers {
        let count: u32 = tokio::task::spawn_blocking(|| verifier.join().unwrap()).await.unwrap();
        assert!(count > 1000, "{count}");
    }
    // As a client sees it; and another plan, and none.
    let verify = async |body: &Value| {
        let admin = server.admin();
        done(admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(body)).await, 200)
    };
    let body = json!({"key": secret});
    assert_eq!(verify(&body).await["rate_limit"]["limit"], 300);
    done(server.configure(json!({"plans": {"standard": {"requests_per_minute": 1}}})).await, 200);
    verify(&body).await;
    assert_eq!(verify(&body).await["code"], "RATE_LIMITED");
    done(server.configure(json!({"plans": {"standard": {"requests_per_minute": 0}}})).await, 200);
    assert_eq!(verify(&body).await["rate_limit"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_has_at_most_the_keys_of_its_plan() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    server.organization("org_2").await;
    done(
        server.configure(json!({"plans": {"standard": plan(100, 3, 0), "gold": plan(100, 5, 0)}})).await,
        200,
    );
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let admin = server.admin();
            tokio::spawn(async move { admin.post("/api-keys", key_of("org_1")).await })
        })
        .collect();
    let mut made = Vec::new();
    for caller in callers {
        let answer = caller.await.unwrap();
        match answer.status {
            201 => made.push(answer.data()["id"].as_str().unwrap().to_owned()),
            _ => {
                refused(&answer, 409, "CONFLICT");
                assert!(answer.text.contains("standard") && answer.text.contains('3'), "{}", answer.text);
            }
        }
    }
    assert_eq!(made.len(), 3);
    // Another organization has its own; disabled ones count; a revoked one leaves its place.
    done(admin.post("/api-keys", key_of("org_2")).await, 201);
    done(admin.patch(&format!("/api-keys/{}", made[0]), json!({"status": "disabled"})).await, 200);
    refused(&admin.post("/api-keys", key_of("org_1")).await, 409, "CONFLICT");
    done(admin.delete(&format!("/api-keys/{}", made[0])).await, 200);
    done(admin.post("/api-keys", key_of("org_1")).await, 201);
    // A larger plan has more room; a lower limit takes nothing away.
    done(admin.patch("/organizations/org_1", json!({"plan": "gold"})).await, 200);
    done(admin.post("/api-keys", key_of("org_1")).await, 201);
    done(server.configure(json!({"plans": {"gold": {"max_keys": 1}}})).await, 200);
    refused(&admin.post("/api-keys", key_of("org_1")).await, 409, "CONFLICT");
    let active = done(admin.get("/api-keys?organization_id=org_1&status=active").await, 200);
    assert_eq!(active.as_array().unwrap().len(), 4);
    done(admin.post(&format!("/api-keys/{}/rotate", made[1]), json!({})).await, 200);
}

#[tokio::test]
async fn an_organization_has_at_most_the_members_of_its_plan() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    for user in ["user_1", "user_2", "user_3"] {
        server.user(user).await;
    }
    let (own, _) = server.key(Some("org_1"), &["admin:users"]).await;
    done(server.configure(json!({"plans": {"standard": {"max_members": 2}}})).await, 200);
    let add = async |user: &str| {
        let member = json!({"user_id": user, "role": "member"});
        admin.post("/organizations/org_1/members", member).await
    };
    done(add("user_1").await, 201);
    done(add("user_2").await, 201);
    refused(&add("user_3").await, 409, "CONFLICT");
    refused(&add("user_1").await, 409, "ALREADY_EXISTS");
    // A user that its own key makes would be a member, too: then there is no such user either.
    let new = json!({"name": "n", "email": "new@example.com"});
    refused(&own.post("/users", new.clone()).await, 409, "CONFLICT");
    done(admin.post("/users", new).await, 201);
    done(admin.delete("/organizations/org_1/members/user_2").await, 200);
    done(add("user_3").await, 201);
}
