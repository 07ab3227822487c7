//! What the server answers is what the document says: the status, the type, the headers, every field.

use std::collections::BTreeSet;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tollhouse::http::routes::AuthRequirement;

use super::{Document, Operation, assert_fits, furnish, world};
use crate::support::{ADMIN_KEY, Answer, Client, Server};

impl Document {
    /// The same document, in which no object may have a field that isn't documented.
    pub(super) fn strict(mut self) -> Self {
        let lax = self.0["components"]["schemas"].clone();
        for schema in self.0["components"]["schemas"].as_object_mut().unwrap().values_mut() {
            if let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) {
                for part in parts {
                    let name = part["$ref"].as_str().and_then(|name| name.rsplit('/').next());
                    *part = name.map_or_else(|| part.clone(), |name| lax[name].clone());
                }
                schema["unevaluatedProperties"] = json!(false);
            } else if schema["properties"].is_object() {
                schema["additionalProperties"] = json!(false);
            }
        }
        self
    }

    pub(super) fn operation(&self, id: &str) -> Operation<'_> {
        let mut all = self.operations();
        all.find(|operation| operation.says["operationId"] == id).unwrap_or_else(|| panic!("no {id}"))
    }
}

impl Operation<'_> {
    /// Fails unless the answer is one that the document promises. Returns its status.
    pub(super) fn promises(&self, answer: &Answer) -> u16 {
        let name = format!("{} {}", self.name(), answer.status);
        let promised = &self.says["responses"][answer.status.to_string()];
        assert!(promised.is_object(), "{name} is not documented: {answer:?}");
        let promised = self.document.resolve(promised);
        match answer.header("content-type") {
            Some(kind) => {
                let content = &promised["content"][kind];
                assert!(content.is_object(), "{name} as {kind}");
                let body = if answer.json.is_null() { &json!(answer.text) } else { &answer.json };
                assert_fits(&self.document.validator(&content["schema"]), body, &name);
            }
            None => {
                assert_eq!((&promised["content"], answer.text.as_str()), (&Value::Null, ""), "{name}");
            }
        }

        let documented: BTreeSet<_> =
            promised["headers"].as_object().unwrap().keys().map(|name| name.to_lowercase()).collect();
        let limited = answer.header("ratelimit").is_some();
        for header in &documented {
            // Missing when limits are off, or before it is known whose they would be.
            let may_miss = header.contains("ratelimit") && !limited
                // There with `limit_status=403`.
                || header == "retry-after" && answer.status == 403
                // There when the request is repeated.
                || header == "idempotent-replayed";
            assert!(may_miss || answer.header(header).is_some(), "{name} without {header}");
        }
        for header in
            ["etag", "retry-after", "ratelimit", "www-authenticate", "x-request-id", "x-auth-status"]
        {
            assert!(documented.contains(header) || answer.header(header).is_none(), "{name} with {header}");
        }
        answer.status
    }

    /// A request as the document's examples have it.
    pub(super) fn sample_request(&self, client: &Client, path: &str) -> RequestBuilder {
        let request = self.request(client, path);
        match self.sample() {
            Some(body) => request.json(&body),
            None if self.says["requestBody"].is_object() => request.form(&[("token", "a")]),
            None => request,
        }
    }

    /// The refusals that the document promises of it: its name, and the status.
    pub(super) fn promised_refusals(&self) -> impl Iterator<Item = (String, u16)> {
        let statuses = self.says["responses"].as_object().unwrap().keys();
        let statuses = statuses.map(|status| status.parse().unwrap());
        statuses.filter(|status| (400..500).contains(status)).map(|status| (self.name(), status))
    }
}

#[tokio::test]
async fn every_success_is_as_documented() {
    let document = Document::load().strict();
    // With the shipped limits, so that their headers come.
    let server = furnish(Server::with(|_| ()).await).await;
    let admin = server.admin();
    let mut seen = BTreeSet::new();
    // In an order in which each finds what it needs.
    for id in [
        "getAddresses getHealth getReadiness getOpenapi getCaller",
        "verifyKey introspectToken forwardAuth forwardAuthPath",
        "createOrganization listOrganizations getOrganization updateOrganization",
        "createUser listUsers getUser updateUser listUserMemberships",
        "listMembers getMember updateMember",
        "createApiKey listApiKeys getApiKey updateApiKey rotateApiKey expirePreviousSecret revokeApiKey",
        "createScope listScopes deleteScope",
        "getConfiguration updateConfiguration",
        "runBatch",
        "getUsage getOverview listDenials",
        "listAuditEvents exportAuditLog verifyAuditLog getAuditEvent",
        "deleteApiKey deleteMember createMember deleteUser deleteOrganization",
    ]
    .iter()
    .flat_map(|ids| ids.split(' '))
    {
        let operation = document.operation(id);
        let mut path = operation.path();
        if id == "getAuditEvent" {
            let events = admin.get("/audit-logs").await;
            path = operation.route.path.replace("{id}", events.data()[0]["id"].as_str().unwrap());
        }
        let answer = admin.send(operation.sample_request(&admin, &path)).await;
        let status = operation.promises(&answer);
        assert!((200..300).contains(&status), "{id}: {answer:?}");
        assert_eq!(answer.header("ratelimit").is_some(), operation.is_gated(), "{id}");
        seen.insert((operation.route.method, operation.route.path));
    }
    let served: BTreeSet<_> = super::routes().map(|route| (route.method, route.path)).collect();
    assert_eq!(seen, served);
}

/// What an organization's key sees is documented, too.
#[tokio::test]
async fn what_an_organizations_key_is_answered_is_as_documented() {
    let (document, server) = (Document::load().strict(), world().await);
    let (client, _) = server.key(Some("org_123"), &["admin:*"]).await;
    for operation in document.operations().filter(|operation| operation.route.method == "GET") {
        if matches!(operation.route.auth, AuthRequirement::Platform(_)) {
            continue;
        }
        let mut path = operation.path();
        if operation.says["operationId"] == "getAuditEvent" {
            let events = client.get("/audit-logs").await;
            path = operation.route.path.replace("{id}", events.data()[0]["id"].as_str().unwrap());
        }
        let answer = client.send(operation.request(&client, &path)).await;
        assert_eq!(operation.promises(&answer), 200, "{answer:?}");
    }
}

#[tokio::test]
async fn every_exported_event_is_as_documented() {
    let (document, server) = (Document::load().strict(), world().await);
    let (client, _) = server.key(Some("org_123"), &["admin:audit"]).await;
    server.anonymous().get("/users").await;
    let event = document.validator(&json!({"$ref": "#/components/schemas/AuditEvent"}));
    let export = document.operation("exportAuditLog");
    for client in [server.admin(), client] {
        let answer = client.get("/audit-logs/export").await;
        assert!(answer.text.lines().count() > 3, "{}", answer.text);
        for line in answer.text.lines() {
            assert_fits(&event, &serde_json::from_str(line).unwrap(), "a line of the export");
        }
        let csv = client.get("/audit-logs/export?format=csv").await;
        assert_eq!(export.promises(&csv), 200);
    }
}

/// An Idempotency-Key that was used for something else.
const USED: &str = "used";

/// Every refusal that the document names can be had, and is as documented.
#[tokio::test]
async fn every_documented_refusal_is_as_documented() {
    let document = Document::load().strict();
    let server = world().await;
    let (admin, anonymous) = (server.admin(), server.anonymous());
    // With an end, so that the first key stays the last of its kind.
    let (elsewhere, _) = server
        .key_with(json!({"name": "n", "scopes": ["*"], "allowed_ips": ["203.0.113.0/24"],
            "expires_at": "2030-01-01T00:00:00Z"}))
        .await;
    let spent = admin.request(Method::POST, "/users").header("idempotency-key", USED);
    let user = json!({"name": "n", "email": "a@b.example"});
    assert_eq!(admin.send(spent.json(&user)).await.status, 201);
    let mut seen = BTreeSet::new();
    for operation in document.operations().filter(Operation::is_gated) {
        let (path, route) = (operation.path(), operation.route);
        let mut calls = vec![
            operation.sample_request(&anonymous, &path),
            operation.sample_request(&elsewhere, &path),
            operation.sample_request(&admin, &path).query(&[("surplus", "1")]),
        ];
        if route.path.contains('{') {
            calls.push(operation.sample_request(&admin, &path.replace("_123", "_9").replace("read", "no")));
        }
        let takes = |name| operation.parameters("header").iter().any(|one| one["name"] == name);
        if takes("If-Match") {
            // In the place of the one that the sample may have.
            let stale = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static("\"0-0\""))]);
            calls.push(operation.sample_request(&admin, &path).headers(stale));
        }
        if takes("Idempotency-Key") {
            calls.push(operation.sample_request(&admin, &path).header("idempotency-key", USED));
        }
        if operation.body().is_some() {
            let typed = |kind| operation.request(&admin, &path).header(CONTENT_TYPE, kind);
            calls.push(typed("text/plain").body("{}"));
            calls.push(typed("application/json").body(vec![b' '; 2 << 20]));
        }
        for call in calls {
            let answer = admin.send(call).await;
            let status = operation.promises(&answer);
            assert!(status >= 400, "{}: {answer:?}", operation.name());
            seen.insert((operation.name(), status));
        }
    }
    let in_conflict = not_found_and_in_conflict(&server).await;
    let others = too_often(&document).await.into_iter().chain(still_running(&document).await);
    for (id, answer) in others.chain(in_conflict) {
        let operation = document.operation(&id);
        seen.insert((operation.name(), operation.promises(&answer)));
    }
    let of_control_plane = document.operations().filter(|operation| operation.endpoint().is_none());
    let documented: BTreeSet<_> =
        of_control_plane.flat_map(|operation| operation.promised_refusals().collect::<Vec<_>>()).collect();
    let missing: Vec<_> = documented.difference(&seen).collect();
    assert!(missing.is_empty(), "documented, but not to be had: {missing:?}");
}

/// Each operation by a key that has no call left.
async fn too_often(document: &Document) -> Vec<(String, Answer)> {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 1;
        config.rate_limits.batch_per_minute = 1;
    })
    .await;
    let admin = server.admin();
    assert_eq!(admin.get("/whoami").await.status, 200);
    assert_eq!(admin.post("/batch", json!({})).await.status, 400);
    let mut answers = Vec::new();
    for operation in document.operations().filter(Operation::is_gated) {
        let answer = admin.send(operation.sample_request(&admin, &operation.path())).await;
        assert_eq!(answer.status, 429, "{answer:?}");
        answers.push((operation.says["operationId"].as_str().unwrap().to_owned(), answer));
    }
    answers
}

async fn if_match_any(client: &Client, path: &str, patch: Value) -> Answer {
    client.send(client.request(Method::PATCH, path).header(IF_MATCH, "*").json(&patch)).await
}

/// Each POST while another one with its Idempotency-Key is under way.
async fn still_running(document: &Document) -> Vec<(String, Answer)> {
    let server = world().await;
    let admin = server.admin();
    let mut answers = Vec::new();
    for operation in document.operations().filter(|one| one.route.is_idempotent_by_key()) {
        let _running = server.running(ADMIN_KEY, "twice").await;
        let request = operation.sample_request(&admin, &operation.path());
        let second = admin.send(request.header("idempotency-key", "twice")).await;
        assert_eq!(second.status, 409, "{second:?}");
        answers.push((operation.says["operationId"].as_str().unwrap().to_owned(), second));
    }
    answers
}

/// What depends on what there is.
async fn not_found_and_in_conflict(server: &Server) -> Vec<(String, Answer)> {
    let admin = server.admin();
    let (own, _) = server.key(Some("org_123"), &["admin:*"]).await;
    server.organization("org_2").await;
    server.user("user_2").await;
    let owner = json!({"user_id": "user_2", "role": "owner"});
    assert_eq!(admin.post("/organizations/org_2/members", owner.clone()).await.status, 201);
    let me = admin.get("/whoami").await.data()["api_key"]["id"].as_str().unwrap().to_owned();
    let organization = json!({"id": "org_2", "name": "n", "email": "a@b"});
    let user = json!({"name": "n", "email": "user_2@example.com"});
    let key = json!({"id": "key_123", "name": "n", "scopes": []});
    let foreign_key = json!({"organization_id": "org_9", "name": "n", "scopes": []});
    let mut answers = vec![
        ("listApiKeys", 404, own.get("/api-keys?organization_id=org_2").await),
        ("getUsage", 404, own.get("/analytics/usage?org_id=org_2").await),
        ("listDenials", 404, own.get("/analytics/logs?org_id=org_2").await),
        ("listAuditEvents", 404, own.get("/audit-logs?org_id=org_2").await),
        ("exportAuditLog", 404, own.get("/audit-logs/export?org_id=org_2").await),
        ("createApiKey", 404, admin.post("/api-keys", foreign_key).await),
        ("createOrganization", 409, admin.post("/organizations", organization).await),
        ("createUser", 409, admin.post("/users", user.clone()).await),
        ("updateUser", 409, admin.patch("/users/user_123", user).await),
        ("deleteUser", 409, admin.delete("/users/user_2").await),
        ("createMember", 409, admin.post("/organizations/org_2/members", owner).await),
        (
            "updateMember",
            409,
            admin.patch("/organizations/org_2/members/user_2", json!({"role": "viewer"})).await,
        ),
        ("deleteMember", 409, admin.delete("/organizations/org_2/members/user_2").await),
        ("createApiKey", 409, admin.post("/api-keys", key).await),
        ("updateApiKey", 409, admin.patch(&format!("/api-keys/{me}"), json!({"status": "disabled"})).await),
        ("deleteApiKey", 409, admin.delete(&format!("/api-keys/{me}")).await),
        ("revokeApiKey", 409, admin.post(&format!("/api-keys/{me}/revoke"), json!({})).await),
        ("updateConfiguration", 428, admin.patch("/config", json!({})).await),
        (
            "updateConfiguration",
            409,
            if_match_any(&admin, "/config", json!({"plans": {"standard": null}})).await,
        ),
        ("createScope", 409, admin.post("/scopes", json!({"scope": "workflows:read"})).await),
        ("deleteScope", 409, admin.delete("/scopes/admin:keys").await),
    ];
    assert_eq!(admin.delete("/api-keys/key_123").await.status, 200);
    answers.push(("rotateApiKey", 409, admin.post("/api-keys/key_123/rotate", json!({})).await));
    let checked = answers.into_iter().map(|(id, status, answer)| {
        assert_eq!(answer.status, status, "{id}: {answer:?}");
        (id.to_owned(), answer)
    });
    checked.collect()
}
