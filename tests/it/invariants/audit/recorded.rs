//! Every call is recorded before it is answered, and no event exists without a call.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::events;
use crate::example_calls::{CREATED, EVENT, ExampleCall, Fixture, example_calls, get, patch};
use crate::support::{Answer, Client, Server};

/// Sends the request; returns the answer and the call's event, which must be the only new one.
async fn only_event(server: &Server, client: &Client, request: RequestBuilder) -> (Answer, Value) {
    let before = events(server).await.len();
    let answer = client.send(request).await;
    let mut new = events(server).await.split_off(before);
    assert_eq!(new.len(), 1, "{answer:?} {new:?}");
    (answer, new.remove(0))
}

/// Calls whose events differ from those of the example calls of their routes.
fn variants() -> Vec<ExampleCall> {
    let alpha = Some("org_alpha");
    vec![
        // Changes nothing; the call is still recorded.
        patch("/organizations/org_alpha", json!({"plan": "standard"}))
            .event(alpha, Some(["organization", "org_alpha", "org_alpha"])),
        get("/api-keys?organization_id=org_alpha").event(alpha, None),
        get("/analytics/usage"),
        get("/analytics/usage?org_id=org_alpha&group_by=key").event(alpha, None),
        get("/analytics/logs?org_id=org_alpha").event(alpha, None),
        get("/audit-logs?org_id=org_alpha").event(alpha, None),
    ]
}

/// Routes whose calls don't record exactly one event.
const OTHERWISE_RECORDED: &[&str] = &[
    "GET /admin/v1/whoami", // Aggregated.
    "GET /admin/v1/search", // Aggregated.
    "POST /admin/v1/batch", // Each operation records its own event: see `api::batch`.
];

#[tokio::test]
async fn i2_every_call_records_exactly_one_event_before_its_answer() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let admin = server.admin();
    let actor = events(server).await.remove(0);
    let actor =
        json!({"type": "api_key", "id": actor["target"]["id"], "name": "First admin key", "user_id": null});
    for call in variants().into_iter().chain(example_calls()).filter(ExampleCall::is_admin) {
        let name = call.name();
        let Some(expected) = &call.event else {
            assert!(OTHERWISE_RECORDED.contains(&name.as_str()), "{name}: the example call states no event");
            continue;
        };
        let (answer, event) = only_event(server, &admin, fixture.request(&call, &admin)).await;
        let resolve = |id: &str| match id {
            CREATED => answer.data()["id"].clone(),
            EVENT => json!(fixture.event),
            _ => json!(id),
        };
        assert_eq!(answer.status, call.status, "{name}: {answer:?}");
        assert_eq!(event["action"], call.route.action.name());
        assert_eq!(event["access"], if call.route.method == "GET" { "read" } else { "write" });
        assert_eq!(
            (&event["outcome"], &event["code"], &event["count"]),
            (&json!("success"), &Value::Null, &json!(1))
        );
        assert_eq!(event["actor"], actor);
        assert_eq!(event["organization_id"], json!(expected.organization.map(resolve)), "{name}");
        let target =
            expected.target.map(|[kind, id, name]| json!({"type": kind, "id": resolve(id), "name": name}));
        assert_eq!(event["target"], json!(target), "{name}");
        assert_eq!(event["occurred_at"], "2026-11-23T07:08:09.000Z");
        let path = fixture.path(&call);
        let path = path.split('?').next().unwrap();
        let context = json!({"request_id": answer.header("x-request-id"), "method": call.route.method, "path": path,
            "status": call.status, "ip": "127.0.0.1", "user_agent": null, "batch_id": null});
        assert_eq!(event["context"], context);
        match &expected.changes {
            Some(changes) => {
                let changes: Vec<_> = changes
                    .iter()
                    .map(|(field, from, to)| json!({"field": field, "from": from, "to": to}))
                    .collect();
                assert_eq!(event["changes"], json!(changes), "{name}");
            }
            None => assert_ne!(event["changes"], json!([]), "{name}"),
        }
    }
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
        let request = admin.request(method.clone(), path);
        let request = body.iter().fold(request, |request, body| request.json(body));
        let (answer, event) = only_event(&server, &admin, request).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!((&event["outcome"], &event["code"]), (&json!("failed"), &json!(code)), "{path}");
        assert_eq!((&event["changes"], &event["context"]["status"]), (&json!([]), &json!(status)));
        assert_eq!(event["context"]["method"], method.as_str());
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
