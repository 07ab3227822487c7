//! Invariant 4, no privilege escalation: what happens to a user happens to the user's keys, and is no way around
//! the rules for keys.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Client, Server};

/// How a request is sent.
#[derive(Clone, Copy, Debug)]
enum Form {
    Alone,
    AtomicBatch,
    Batch,
}

const FORMS: [Form; 3] = [Form::Alone, Form::AtomicBatch, Form::Batch];

/// Sends a request in this form; returns its own status, and the whole answer.
async fn send(client: &Client, form: Form, method: Method, path: &str, body: Option<Value>) -> (u16, Answer) {
    let atomic = match form {
        Form::Alone => {
            let answer = client.call(method, path, body).await;
            return (answer.status, answer);
        }
        Form::AtomicBatch => true,
        Form::Batch => false,
    };
    let mut operation = json!({"method": method.as_str(), "path": path});
    if let Some(body) = body {
        operation["body"] = body;
    }
    let answer = client.post("/batch", json!({"atomic": atomic, "operations": [operation]})).await;
    let pointer = if answer.status == 200 { "/data/results/0/status" } else { "/error/results/0/status" };
    let status = answer.json.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    (u16::try_from(status).unwrap(), answer)
}

struct Fixture {
    server: Server,
    /// Ids of the owner's keys, by scope.
    keys: Vec<(&'static str, String, Client)>,
}

/// An organization with two owners. `user_a` owns one key for each of these scopes.
async fn fixture(scopes: &[&'static str]) -> Fixture {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_a").await;
    for user in ["user_a", "user_b"] {
        server.user(user).await;
        let member = json!({"user_id": user, "role": "owner"});
        assert_eq!(admin.post("/organizations/org_a/members", member).await.status, 201);
    }
    let mut keys = Vec::new();
    for scope in scopes {
        let body = json!({"organization_id": "org_a", "user_id": "user_a", "name": scope, "scopes": [scope]});
        let (client, key) = server.key_with(body).await;
        keys.push((*scope, key["id"].as_str().unwrap().to_owned(), client));
    }
    Fixture { server, keys }
}

impl Fixture {
    /// Asserts that the request is refused because of a key of the user, and that the keys still work.
    async fn assert_refused(&self, client: &Client, method: Method, path: &str, body: Option<Value>) {
        for form in FORMS {
            let (status, answer) = send(client, form, method.clone(), path, body.clone()).await;
            assert_eq!(status, 403, "{form:?} {method} {path}: {answer:?}");
            assert!(answer.text.contains("INSUFFICIENT_SCOPE"), "{answer:?}");
            assert!(self.keys.iter().any(|(_, id, _)| answer.text.contains(id)), "names no key: {answer:?}");
        }
        for (scope, _, key) in &self.keys {
            assert_eq!(key.get("/whoami").await.status, 200, "{scope}");
        }
    }
}

#[tokio::test]
async fn i4_no_change_of_a_user_ends_a_key_beyond_the_callers() {
    for scope in ["*", "admin:*", "admin:keys", "keys:verify", "keys:*", "admin:config"] {
        let fixture = fixture(&["workflows:read", scope]).await;
        let (organization, _) = fixture.server.key(Some("org_a"), &["admin:users"]).await;
        let (platform, _) = fixture.server.key(None, &["admin:users", "admin:orgs", "workflows:*"]).await;
        for client in [&organization, &platform] {
            let member = "/organizations/org_a/members/user_a";
            fixture.assert_refused(client, Method::DELETE, member, None).await;
        }
        let suspended = Some(json!({"status": "suspended"}));
        fixture.assert_refused(&platform, Method::PATCH, "/users/user_a", suspended).await;
        fixture.assert_refused(&platform, Method::DELETE, "/users/user_a", None).await;
        // What doesn't concern the keys is allowed.
        let renamed = platform.patch("/users/user_a", json!({"name": "Ada", "status": "active"})).await;
        assert_eq!(renamed.status, 200, "{renamed:?}");
        let demoted =
            organization.patch("/organizations/org_a/members/user_a", json!({"role": "viewer"})).await;
        assert_eq!(demoted.status, 200, "{demoted:?}");
    }
}

#[tokio::test]
async fn i4_a_disabled_or_expired_key_still_protects_its_owner_and_a_revoked_one_does_not() {
    let fixture = fixture(&["admin:keys"]).await;
    let admin = fixture.server.admin();
    let (caller, _) = fixture.server.key(Some("org_a"), &["admin:users"]).await;
    let (_, id, _) = &fixture.keys[0];
    let key = format!("/api-keys/{id}");
    let member = "/organizations/org_a/members/user_a";
    // Both can be enabled again; a removal would revoke them permanently.
    assert_eq!(admin.patch(&key, json!({"status": "disabled"})).await.status, 200);
    assert_eq!(caller.delete(member).await.code(), "INSUFFICIENT_SCOPE");
    let end = "2026-11-23T07:08:10.000Z";
    assert_eq!(admin.patch(&key, json!({"status": "active", "expires_at": end})).await.status, 200);
    fixture.server.advance(std::time::Duration::from_secs(60));
    assert_eq!(caller.delete(member).await.code(), "INSUFFICIENT_SCOPE");
    assert_eq!(admin.delete(&key).await.status, 200);
    assert_eq!(caller.delete(member).await.status, 200);
}

#[tokio::test]
async fn i4_reactivating_a_user_enables_no_key_beyond_the_callers() {
    let fixture = fixture(&["admin:keys"]).await;
    let admin = fixture.server.admin();
    let (caller, _) = fixture.server.key(None, &["admin:users"]).await;
    assert_eq!(admin.patch("/users/user_a", json!({"status": "suspended"})).await.status, 200);
    for form in FORMS {
        let body = Some(json!({"status": "active"}));
        let (status, answer) = send(&caller, form, Method::PATCH, "/users/user_a", body).await;
        assert_eq!(status, 403, "{answer:?}");
    }
    assert_eq!(fixture.keys[0].2.get("/whoami").await.status, 401);
}

#[tokio::test]
async fn i4_who_has_the_scopes_of_a_users_keys_can_end_them_without_admin_keys() {
    for form in FORMS {
        let fixture = fixture(&["workflows:read", "admin:audit"]).await;
        let (caller, _) = fixture.server.key(Some("org_a"), &["admin:users", "admin:audit"]).await;
        let member = "/organizations/org_a/members/user_a";
        let (status, answer) = send(&caller, form, Method::DELETE, member, None).await;
        assert_eq!(status, 200, "{answer:?}");
        for (scope, _, key) in &fixture.keys {
            assert_eq!(key.get("/whoami").await.status, 401, "{scope}");
        }
    }
}

#[tokio::test]
async fn a_platform_key_with_admin_orgs_suspends_and_deletes_any_organization() {
    for form in FORMS {
        let fixture = fixture(&["*", "admin:keys"]).await;
        let (caller, _) = fixture.server.key(None, &["admin:orgs"]).await;
        let suspended = Some(json!({"status": "suspended"}));
        let (status, answer) = send(&caller, form, Method::PATCH, "/organizations/org_a", suspended).await;
        assert_eq!(status, 200, "{answer:?}");
        let (status, answer) = send(&caller, form, Method::DELETE, "/organizations/org_a", None).await;
        assert_eq!(status, 200, "{answer:?}");
        for (scope, _, key) in &fixture.keys {
            assert_eq!(key.get("/whoami").await.status, 401, "{scope}");
        }
    }
}
