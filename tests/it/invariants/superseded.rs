//! A rotated secret in its grace period verifies, reads and works, but changes nothing about who has access:
//! whoever stole a secret must not outlive its rotation.

use std::future::{Future as _, poll_fn};
use std::task::Poll;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::access::Caller;
use tollhouse::domain::action::Action;
use tollhouse::http::routes::{ROUTES, Route};
use tollhouse::service::{RequestContext, api_keys};

use super::revocation::block_the_writer;
use crate::support::{Answer, Client, Server, until};

/// The changes that a superseded secret may make. Every other one must be refused, so a new route fails the
/// tests until it is in this list or requires the current secret.
const ALLOWED: &[&str] = &[
    "POST /admin/v1/organizations",
    "PATCH /admin/v1/organizations/{id}",
    "POST /admin/v1/organizations/{id}/members",
    "PATCH /admin/v1/organizations/{id}/members/{user_id}",
    "POST /admin/v1/users",
    "PATCH /admin/v1/users/{id}",
    "POST /admin/v1/batch",
];

/// Clients with the old and the new secret of a key that has just been rotated, and the key's id.
struct Rotated {
    old: Client,
    new: Client,
    id: String,
}

async fn rotated(server: &Server, organization: Option<&str>, scopes: &[&str]) -> Rotated {
    let (old, key) = server.key(organization, scopes).await;
    let id = key["id"].as_str().unwrap().to_owned();
    let new = rotate(server, &old, &id).await;
    Rotated { old, new, id }
}

/// Rotates a key with an hour of grace; returns a client with its new secret.
async fn rotate(server: &Server, old: &Client, id: &str) -> Client {
    let body = json!({"grace_period_seconds": 3600});
    let answer = server.admin().post(&format!("/api-keys/{id}/rotate"), body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    old.with_key(answer.data()["key"].as_str().unwrap())
}

fn admin_routes() -> impl Iterator<Item = (&'static Route, Method, String)> {
    let admin = ROUTES.iter().filter(|route| route.path.starts_with("/admin/v1/"));
    admin.map(|route| {
        let path = route.path.strip_prefix("/admin/v1").unwrap();
        let path = path.replace("{id}", "key_none").replace("{user_id}", "user_none");
        let path = path.replace("{scope}", "nothing:read");
        (route, route.method.parse().unwrap(), path)
    })
}

fn is_allowed(route: &Route) -> bool {
    ALLOWED.contains(&format!("{} {}", route.method, route.path).as_str())
}

/// Runs one operation in a batch; returns its status and code.
async fn in_batch(client: &Client, atomic: bool, operation: Value) -> (u64, String) {
    let answer = client.post("/batch", json!({"atomic": atomic, "operations": [operation]})).await;
    let pointer = if answer.status == 200 { "/data/results/0" } else { "/error/results/0" };
    let result = answer.json.pointer(pointer).unwrap_or_else(|| panic!("{answer:?}"));
    let code = result["body"]["error"]["code"].as_str().unwrap_or_default();
    (result["status"].as_u64().unwrap(), code.to_owned())
}

#[tokio::test]
async fn i4_a_superseded_secret_changes_nothing_about_access() {
    let server = Server::start().await;
    let Rotated { old, new, id } = rotated(&server, None, &["*"]).await;
    let mut refused = 0;
    for (route, method, path) in admin_routes().filter(|(route, ..)| route.method != "GET") {
        // Refused before the body is read and before the resource is looked up.
        let answer = old.call(method.clone(), &path, Some(json!({"unknown": true}))).await;
        let is_refused = (answer.status, answer.code()) == (403, "SECRET_SUPERSEDED");
        assert_eq!(is_refused, !is_allowed(route), "{method} {path}: {answer:?}");
        refused += usize::from(is_refused);
        let current = new.call(method.clone(), &path, Some(json!({"unknown": true}))).await;
        assert_ne!(current.code(), "SECRET_SUPERSEDED", "{method} {path}");
        if !route.is_in_batch() {
            continue;
        }
        for atomic in [true, false] {
            let operation = json!({"method": route.method, "path": path, "body": {"unknown": true}});
            let (_, code) = in_batch(&old, atomic, operation).await;
            assert_eq!(code == "SECRET_SUPERSEDED", !is_allowed(route), "{method} {path}: {code}");
        }
    }
    assert!(refused > 0 && ALLOWED.len() > 1);
    // The same with bodies that would otherwise succeed, on the key itself.
    let key = format!("/api-keys/{id}");
    for (method, path, body) in [
        (Method::POST, "/api-keys".to_owned(), json!({"name": "mine", "scopes": ["*"]})),
        (Method::PATCH, key.clone(), json!({"status": "disabled"})),
        (Method::POST, format!("{key}/rotate"), json!({"grace_period_seconds": 0})),
        (Method::POST, format!("{key}/revoke"), json!({})),
        (Method::POST, format!("{key}/expire-previous"), json!({})),
        (Method::DELETE, key, json!({})),
    ] {
        let answer = old.call(method.clone(), &path, Some(body)).await;
        assert_eq!((answer.status, answer.code()), (403, "SECRET_SUPERSEDED"), "{method} {path}: {answer:?}");
    }
    assert_eq!(new.get("/whoami").await.status, 200);
}

#[tokio::test]
async fn i4_a_superseded_secret_suspends_and_reactivates_nobody() {
    let server = Server::start().await;
    server.organization("org_a").await;
    server.user("user_a").await;
    let Rotated { old, new, .. } = rotated(&server, None, &["admin:orgs", "admin:users"]).await;
    for path in ["/organizations/org_a", "/users/user_a"] {
        for (status, opposite) in [("suspended", "active"), ("active", "suspended")] {
            let body = json!({"status": status, "name": "x"});
            let answer = old.patch(path, body.clone()).await;
            assert_eq!((answer.status, answer.code()), (403, "SECRET_SUPERSEDED"), "{answer:?}");
            for atomic in [true, false] {
                let operation = json!({"method": "PATCH", "path": path, "body": body});
                let (_, code) = in_batch(&old, atomic, operation).await;
                assert_eq!(code, "SECRET_SUPERSEDED", "{path} {status}");
            }
            assert_eq!(new.get(path).await.data()["status"], opposite);
            // Ordinary work, which leaves the status as it is, is allowed.
            let renamed = old.patch(path, json!({"name": "renamed", "status": opposite})).await;
            assert_eq!(renamed.status, 200, "{renamed:?}");
            assert_eq!(new.patch(path, body).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_superseded_secret_reads_verifies_and_does_ordinary_work() {
    let server = Server::start().await;
    let Rotated { old, .. } = rotated(&server, None, &["*"]).await;
    for (_, method, path) in admin_routes().filter(|(route, ..)| route.method == "GET") {
        let answer = old.call(method, &path, None).await;
        assert!(matches!(answer.status, 200 | 400 | 404), "{path}: {answer:?}");
    }
    let work = [
        ("/organizations", json!({"id": "org_b", "name": "b", "email": "b@example.com"})),
        ("/users", json!({"id": "user_b", "name": "b", "email": "b@example.org"})),
        ("/organizations/org_b/members", json!({"user_id": "user_b", "role": "admin"})),
    ];
    for (path, body) in work {
        assert_eq!(old.post(path, body).await.status, 201, "{path}");
    }
    let verify = |client: &Client| {
        let body = json!({"key": client.key});
        old.send(old.request_at_root(Method::POST, "/v1/keys/verify").json(&body))
    };
    assert_eq!(verify(&old).await.data()["code"], "VALID");
    server.advance(Duration::from_secs(3600));
    assert_eq!(old.get("/whoami").await.status, 401);
}

#[tokio::test]
async fn the_scope_is_checked_before_the_secret() {
    let server = Server::start().await;
    server.organization("org_a").await;
    let Rotated { old, .. } = rotated(&server, Some("org_a"), &["admin:users"]).await;
    let answer = old.post("/api-keys", json!({"name": "x", "scopes": []})).await;
    assert_eq!(answer.code(), "INSUFFICIENT_SCOPE", "{answer:?}");
    let operation = json!({"method": "POST", "path": "/api-keys", "body": {"name": "x", "scopes": []}});
    assert_eq!(in_batch(&old, false, operation).await, (403, "INSUFFICIENT_SCOPE".to_owned()));
}

/// A batch that rotates the key that runs it has superseded its own secret.
#[tokio::test]
async fn i4_a_batch_that_rotates_its_own_key_goes_on_with_a_superseded_secret() {
    let server = Server::start().await;
    let (client, key) = server.key(None, &["*"]).await;
    let id = key["id"].as_str().unwrap();
    let rotation = json!({"method": "POST", "path": format!("/api-keys/{id}/rotate"), "body": {}});
    let creation = json!({"method": "POST", "path": "/api-keys", "body": {"name": "x", "scopes": ["*"]}});
    let batch = json!({"atomic": false, "operations": [creation, rotation, creation]});
    let answer = client.post("/batch", batch).await;
    let results = answer.data()["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 200, 403], "{answer:?}");
    assert_eq!(results[2]["body"]["error"]["code"], "SECRET_SUPERSEDED");
}

/// The response of an earlier request holds a secret that gives access, so a superseded secret can't read it
/// again.
#[tokio::test]
async fn i4_a_superseded_secret_replays_no_response_that_gives_access() {
    let server = Server::start().await;
    let creation = json!({"name": "x", "scopes": ["*"]});
    let operation = json!({"method": "POST", "path": "/api-keys", "body": creation});
    for (path, body) in [("/api-keys", creation), ("/batch", json!({"operations": [operation]}))] {
        let (client, key) = server.key(None, &["*"]).await;
        let send =
            || client.send(client.request(Method::POST, path).header("idempotency-key", "1").json(&body));
        let first: Answer = send().await;
        assert!(first.status < 300 && first.text.contains("toll_"), "{first:?}");
        assert_eq!(send().await.header("idempotent-replayed"), Some("true"));
        rotate(&server, &client, key["id"].as_str().unwrap()).await;
        let replayed = send().await;
        assert_eq!((replayed.status, replayed.code()), (403, "SECRET_SUPERSEDED"), "{replayed:?}");
        assert!(!replayed.text.contains("toll_"), "{replayed:?}");
    }
}

/// A change that was authorized with the current secret and is queued behind the rotation is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_change_queued_behind_its_secrets_rotation_is_refused() {
    let server = Server::start().await;
    let (client, key) = server.key(None, &["*"]).await;
    let id = key["id"].as_str().unwrap().to_owned();
    let seq = server.credential(client.key.as_deref().unwrap()).await.seq;
    let release = block_the_writer(&server).await;
    let app = server.app.clone();
    let ctx = RequestContext::internal(&app, Caller::Operator, Action::RotateApiKey).unwrap();
    let rotation = api_keys::rotate(&app, &ctx, id, None).await.unwrap();
    // The first poll enqueues the change.
    let mut rotating = Box::pin(async move { rotation.run(&app, &ctx).await });
    let is_pending = poll_fn(|cx| Poll::Ready(rotating.as_mut().poll(cx).is_pending())).await;
    assert!(is_pending, "the writer must be blocked");
    let creating =
        tokio::spawn(async move { client.post("/api-keys", json!({"name": "late", "scopes": ["*"]})).await });
    until("the change is authorized", || server.app.unstored.last_uses.contains_key(&seq)).await;
    drop(release);
    rotating.await.unwrap();
    let answer = creating.await.unwrap();
    assert_eq!((answer.status, answer.code()), (403, "SECRET_SUPERSEDED"), "{answer:?}");
    assert_eq!(server.admin().get("/api-keys?q=late").await.data(), &json!([]));
}
