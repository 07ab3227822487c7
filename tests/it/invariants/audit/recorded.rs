//! Every call is recorded before it is answered, and no event exists without a call.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::{AuthRequirement, ROUTES};

use super::events;
use crate::support::{Answer, Client, Server};

/// A call and the event it must record.
struct Case {
    method: Method,
    path: &'static str,
    body: Option<Value>,
    status: u16,
    organization: Option<&'static str>,
    /// Type, id and name.
    target: Option<[&'static str; 3]>,
    /// `(field, from, to)`; `None` = at least one, whatever it is.
    changes: Option<Vec<(&'static str, Value, Value)>>,
}

/// Makes the call; returns the answer and the call's event, which must be the only new one.
async fn only_event(server: &Server, client: &Client, case: &Case) -> (Answer, Value) {
    let before = events(server).await.len();
    let request = client.request(case.method.clone(), case.path);
    // Only the configuration requires `If-Match`; `*` matches any revision.
    let request = if case.path == "/config" { request.header("if-match", "*") } else { request };
    let answer = client.send(case.body.iter().fold(request, |request, body| request.json(body))).await;
    let mut new = events(server).await.split_off(before);
    assert_eq!(new.len(), 1, "{} {}: {answer:?} {new:?}", case.method, case.path);
    (answer, new.remove(0))
}

/// The path template of the route that serves a call.
fn route(method: &Method, path: &str) -> &'static str {
    let path = format!("/admin/v1{}", path.split('?').next().unwrap());
    let matches = |template: &str| {
        let segments = path.split('/');
        let template_segments = template.split('/');
        segments.clone().count() == template_segments.clone().count()
            && segments
                .zip(template_segments)
                .all(|(segment, expected)| expected.starts_with('{') || segment == expected)
    };
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    // A literal path takes precedence over one with parameters.
    let candidates = ROUTES.iter().filter(|route| route.method == method && matches(route.path));
    candidates.min_by_key(|route| route.path.matches('{').count()).unwrap().path
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let get = |path, organization, target| Case {
        method: Method::GET, path, body: None, status: 200, organization, target, changes: Some(Vec::new()),
    };
    let write = |method, path, body: Value, status, organization, target, changes| Case {
        method, path, body: (!body.is_null()).then_some(body), status, organization, target: Some(target), changes,
    };
    let post = Method::POST;
    let patch = Method::PATCH;
    let delete = Method::DELETE;
    let none = Value::Null;
    let organization = ["organization", "org_1", "One"];
    let membership = ["membership", "user_1", "User"];
    let user = ["user", "user_1", "User"];
    let key = ["api_key", "key_1", "Key"];
    let scope = ["scope", "invoices:read", "invoices:read"];
    let config = ["config", "config", "configuration"];
    vec![
        write(post.clone(), "/organizations", json!({"id": "org_1", "name": "One", "email": "one@example.com"}), 201, Some("org_1"), organization,
            Some(vec![("email", none.clone(), json!("one@example.com")), ("name", none.clone(), json!("One")), ("plan", none.clone(), json!("standard")), ("status", none.clone(), json!("active"))])),
        get("/organizations", None, None),
        get("/organizations/org_1", Some("org_1"), Some(organization)),
        write(patch.clone(), "/organizations/org_1", json!({"plan": "enterprise", "metadata": {"a": "b"}}), 200, Some("org_1"), organization,
            Some(vec![("metadata", json!({}), json!({"a": "b"})), ("plan", json!("standard"), json!("enterprise"))])),
        // Changes nothing; the call is still recorded.
        write(patch.clone(), "/organizations/org_1", json!({"plan": "enterprise"}), 200, Some("org_1"), organization, Some(Vec::new())),

        write(post.clone(), "/users", json!({"id": "user_1", "name": "User", "email": "u@example.com"}), 201, None, user, None),
        get("/users", None, None),
        get("/users/user_1", None, Some(user)),
        write(patch.clone(), "/users/user_1", json!({"external_id": "x"}), 200, None, user, Some(vec![("external_id", none.clone(), json!("x"))])),

        write(post.clone(), "/organizations/org_1/members", json!({"user_id": "user_1", "role": "member"}), 201, Some("org_1"), membership, None),
        get("/organizations/org_1/members", Some("org_1"), Some(organization)),
        get("/organizations/org_1/members/user_1", Some("org_1"), Some(membership)),
        write(patch.clone(), "/organizations/org_1/members/user_1", json!({"role": "viewer"}), 200, Some("org_1"), membership, Some(vec![("role", json!("member"), json!("viewer"))])),
        get("/users/user_1/memberships", None, Some(user)),

        write(post.clone(), "/api-keys", json!({"id": "key_1", "organization_id": "org_1", "user_id": "user_1", "name": "Key", "scopes": ["workflows:read"]}), 201, Some("org_1"), key, None),
        get("/api-keys", None, None),
        get("/api-keys?organization_id=org_1", Some("org_1"), None),
        get("/api-keys/key_1", Some("org_1"), Some(key)),
        write(patch.clone(), "/api-keys/key_1", json!({"status": "disabled"}), 200, Some("org_1"), key, Some(vec![("status", json!("active"), json!("disabled"))])),
        write(post.clone(), "/api-keys/key_1/rotate", json!({}), 200, Some("org_1"), key, None),
        write(post.clone(), "/api-keys/key_1/expire-previous", none.clone(), 200, Some("org_1"), key, None),
        write(post.clone(), "/api-keys/key_1/revoke", json!({"reason": "lost"}), 200, Some("org_1"), key, None),
        write(delete.clone(), "/api-keys/key_1", none.clone(), 200, Some("org_1"), key, Some(Vec::new())),

        get("/scopes", None, None),
        write(post, "/scopes", json!({"scope": "invoices:read"}), 201, None, scope, None),
        write(delete.clone(), "/scopes/invoices:read", none.clone(), 200, None, scope, Some(Vec::new())),

        get("/config", None, Some(config)),
        write(patch, "/config", json!({"plans": {"gold": {"requests_per_minute": 1, "max_keys": 2, "max_members": 3}}, "keys": {"prefix": "acme"}}), 200, None, config,
            Some(vec![("keys.prefix", json!("toll"), json!("acme")), ("plans.gold.max_keys", none.clone(), json!(2)), ("plans.gold.max_members", none.clone(), json!(3)), ("plans.gold.requests_per_minute", none.clone(), json!(1))])),

        get("/analytics/usage", None, None),
        get("/analytics/usage?org_id=org_1&group_by=key", Some("org_1"), None),
        get("/analytics/usage?key_id=key_1", Some("org_1"), Some(key)),
        get("/analytics/overview", None, None),
        get("/analytics/logs", None, None),
        get("/analytics/logs?org_id=org_1", Some("org_1"), None),

        get("/audit-logs", None, None),
        get("/audit-logs?org_id=org_1", Some("org_1"), None),
        get("/audit-logs/export", None, None),
        get("/audit-logs/verify", None, None),

        write(delete.clone(), "/organizations/org_1/members/user_1", none.clone(), 200, Some("org_1"), membership, Some(vec![("revoked_keys", json!(0), json!(0))])),
        write(delete.clone(), "/users/user_1", none.clone(), 200, None, user, Some(Vec::new())),
        write(delete, "/organizations/org_1", none, 200, Some("org_1"), organization, Some(vec![("revoked_keys", json!(0), json!(0))])),
    ]
}

#[tokio::test]
async fn i2_every_call_records_exactly_one_event_before_its_answer() {
    let server = Server::start().await;
    let admin = server.admin();
    let actor = events(&server).await.remove(0);
    let actor =
        json!({"type": "api_key", "id": actor["target"]["id"], "name": "First admin key", "user_id": null});
    let mut called = BTreeSet::new();
    for case in cases() {
        let (answer, event) = only_event(&server, &admin, &case).await;
        assert_eq!(answer.status, case.status, "{} {}: {answer:?}", case.method, case.path);
        let template = route(&case.method, case.path);
        let served = ROUTES.iter().find(|r| r.method == case.method.as_str() && r.path == template).unwrap();
        called.insert((served.method, served.path));
        assert_eq!(event["action"], served.action.name());
        assert_eq!(event["access"], if case.method == Method::GET { "read" } else { "write" });
        assert_eq!(
            (&event["outcome"], &event["code"], &event["count"]),
            (&json!("success"), &Value::Null, &json!(1))
        );
        assert_eq!(event["actor"], actor);
        assert_eq!(event["organization_id"], json!(case.organization), "{} {}", case.method, case.path);
        let target = case.target.map(|[kind, id, name]| json!({"type": kind, "id": id, "name": name}));
        assert_eq!(event["target"], json!(target), "{} {}", case.method, case.path);
        assert_eq!(event["occurred_at"], "2026-11-23T07:08:09.000Z");
        let path = format!("/admin/v1{}", case.path.split('?').next().unwrap());
        let expected = json!({"request_id": answer.header("x-request-id"), "method": case.method.as_str(), "path": path,
            "status": case.status, "ip": "127.0.0.1", "user_agent": null, "batch_id": null});
        assert_eq!(event["context"], expected);
        match case.changes {
            Some(changes) => {
                let changes: Vec<_> = changes
                    .into_iter()
                    .map(|(field, from, to)| json!({"field": field, "from": from, "to": to}))
                    .collect();
                assert_eq!(event["changes"], json!(changes), "{} {}", case.method, case.path);
            }
            None => assert_ne!(event["changes"], json!([]), "{} {}", case.method, case.path),
        }
    }
    let id = events(&server).await[0]["id"].as_str().unwrap().to_owned();
    let before = events(&server).await.len();
    assert_eq!(admin.get(&format!("/audit-logs/{id}")).await.status, 200);
    let event = events(&server).await.split_off(before).remove(0);
    assert_eq!((&event["action"], &event["target"]["id"]), (&json!("audit_log.read"), &json!(id)));
    called.insert(("GET", "/admin/v1/audit-logs/{id}"));
    called.insert(("GET", "/admin/v1/whoami")); // Aggregated.
    called.insert(("POST", "/admin/v1/batch")); // Each operation records its own event: see `api::batch`.
    let missing: Vec<_> = ROUTES
        .iter()
        .filter(|route| route.auth != AuthRequirement::Open && route.path.starts_with("/admin/"))
        .filter(|route| !called.contains(&(route.method, route.path)))
        .map(|route| (route.method, route.path))
        .collect();
    assert!(missing.is_empty(), "no case covers these routes; add one for each: {missing:?}");
}

#[tokio::test]
async fn i2_a_failure_is_recorded_with_its_code_and_no_changes() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let admin = server.admin();
    let long = "x".repeat(2 << 20);
    for (status, code, method, path, body) in [
        (400, "INVALID_REQUEST", Method::PATCH, "/organizations/org_1", Some(json!({"name": ""}))),
        (400, "INVALID_CURSOR", Method::GET, "/users?cursor=x", None),
        (404, "NOT_FOUND", Method::GET, "/organizations/org_2", None),
        (404, "NOT_FOUND", Method::HEAD, "/organizations/org_2", None),
        (404, "NOT_FOUND", Method::DELETE, "/users/user_2", None),
        (
            409,
            "ALREADY_EXISTS",
            Method::POST,
            "/organizations",
            Some(json!({"id": "org_1", "name": "n", "email": "a@b"})),
        ),
        (413, "PAYLOAD_TOO_LARGE", Method::POST, "/organizations", Some(json!({"name": long}))),
        (415, "UNSUPPORTED_MEDIA_TYPE", Method::POST, "/organizations", None),
    ] {
        let target = path.rsplit('/').next().filter(|id| id.contains('_'));
        let case = Case { method, path, body, status, organization: None, target: None, changes: None };
        let (answer, event) = only_event(&server, &admin, &case).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!((&event["outcome"], &event["code"]), (&json!("failed"), &json!(code)), "{path}");
        assert_eq!((&event["changes"], &event["context"]["status"]), (&json!([]), &json!(status)));
        assert_eq!(event["context"]["method"], case.method.as_str());
        assert_eq!(event["target"]["id"], json!(target), "{path}");
    }
    let outdated = admin.request(Method::PATCH, "/organizations/org_1").header("if-match", "\"0-0\"");
    assert_eq!(admin.send(outdated.json(&json!({"name": "new"}))).await.status, 412);
    assert_eq!(events(&server).await.last().unwrap()["code"], "PRECONDITION_FAILED");
    assert_eq!(admin.get("/organizations/org_1").await.data()["name"], "org_1");
}

/// Concurrent changes succeed, fail and conflict: there is one event per call, and one successful event per
/// change made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_under_load_there_is_an_event_for_each_call_and_a_change_for_each_success() {
    let server = Server::start().await;
    let before = events(&server).await.len();
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let admin = server.admin();
            tokio::spawn(async move {
                let mut created = 0;
                for index in 0..25 {
                    // Two callers send each id, and every fifth body is invalid.
                    let id = format!("org_{}", (caller / 2) * 25 + index);
                    let mut body = json!({"id": id, "name": "n", "email": "a@example.com"});
                    if index % 5 == 0 {
                        body["unknown"] = json!(true);
                    }
                    created += usize::from(admin.post("/organizations", body).await.status == 201);
                }
                created
            })
        })
        .collect();
    let mut created = 0;
    for caller in callers {
        created += caller.await.unwrap();
    }
    assert_eq!(created, 4 * 20);
    let new = events(&server).await.split_off(before);
    let count = |outcome: &str, code: Value| {
        new.iter().filter(|event| event["outcome"] == outcome && event["code"] == code).count()
    };
    assert_eq!(new.len(), 8 * 25);
    assert_eq!(count("success", Value::Null), created);
    assert_eq!(count("failed", json!("ALREADY_EXISTS")), created);
    assert_eq!(count("failed", json!("INVALID_REQUEST")), 8 * 5);
    let ids: BTreeSet<_> = new.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), new.len());
    assert_eq!(server.admin().get("/audit-logs/verify").await.data()["valid"], true);
}

#[tokio::test]
async fn a_change_of_a_user_is_recorded_for_each_of_its_organizations() {
    let server = Server::start().await;
    let admin = server.admin();
    server.user("user_1").await;
    for organization in ["org_1", "org_2", "org_3"] {
        server.organization(organization).await;
    }
    for organization in ["org_1", "org_2"] {
        let member = json!({"user_id": "user_1", "role": "owner"});
        assert_eq!(admin.post(&format!("/organizations/{organization}/members"), member).await.status, 201);
    }
    let before = events(&server).await.len();
    assert_eq!(admin.patch("/users/user_1", json!({"name": "Renamed"})).await.status, 200);
    let new = events(&server).await.split_off(before);
    let organizations: Vec<_> = new.iter().map(|event| event["organization_id"].as_str().unwrap()).collect();
    assert_eq!(organizations, ["org_1", "org_2"]);
    for event in &new {
        assert_eq!(event["action"], "user.update");
        assert_eq!(event["changes"], json!([{"field": "name", "from": "user_1", "to": "Renamed"}]));
        assert_eq!(event["context"]["request_id"], new[0]["context"]["request_id"]);
    }
}
