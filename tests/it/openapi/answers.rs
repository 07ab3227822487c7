//! The server's responses match the document: the status, the content type, the headers and every field.

use std::collections::BTreeSet;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tollhouse::http::routes::{AuthRequirement, Dispatch, Route};

use super::examples::{self, Refusal};
use super::{Document, Operation, assert_valid, refusals, seed, seeded_server};
use crate::example_calls::example_calls;
use crate::support::{ADMIN_KEY, Answer, Client, Server};

impl Document {
    /// Returns the document with schemas that allow no undocumented field.
    pub(super) fn strict(mut self) -> Self {
        let original = self.0["components"]["schemas"].clone();
        for schema in self.0["components"]["schemas"].as_object_mut().unwrap().values_mut() {
            if let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) {
                for part in parts {
                    let name = part["$ref"].as_str().and_then(|name| name.rsplit('/').next());
                    *part = name.map_or_else(|| part.clone(), |name| original[name].clone());
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
        all.find(|operation| operation.spec["operationId"] == id).unwrap_or_else(|| panic!("no {id}"))
    }

    fn operation_of(&self, route: &Route) -> Operation<'_> {
        let found = self.operations().find(|operation| std::ptr::eq(operation.route, route));
        found.unwrap_or_else(|| panic!("{} {} is not documented", route.method, route.path))
    }
}

impl Operation<'_> {
    /// Asserts that the document describes the response. Returns its status.
    pub(super) fn assert_documented(&self, answer: &Answer) -> u16 {
        let name = format!("{} {}", self.name(), answer.status);
        self.assert_has_example_of(answer);
        let response = &self.spec["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{name} is not documented: {answer:?}");
        let response = self.document.resolve(response);
        match answer.header("content-type") {
            Some(media_type) => {
                let content = &response["content"][media_type];
                assert!(content.is_object(), "{name} as {media_type}");
                let body = if answer.json.is_null() { &json!(answer.text) } else { &answer.json };
                assert_valid(&self.document.validator(&content["schema"]), body, &name);
            }
            None => {
                assert_eq!((&response["content"], answer.text.as_str()), (&Value::Null, ""), "{name}");
            }
        }

        let documented: BTreeSet<_> =
            response["headers"].as_object().unwrap().keys().map(|name| name.to_lowercase()).collect();
        let limited = answer.header("ratelimit").is_some();
        for header in &documented {
            // Absent if limits are off, or if the request fails before its limit is known.
            let is_optional = header.contains("ratelimit") && !limited
                // Absent if the limit never resets.
                || header == "x-ratelimit-reset"
                // Present only with `limit_status=403`.
                || header == "retry-after" && answer.status == 403
                // Absent if the exceeded limit never resets.
                || header == "retry-after" && answer.header("x-auth-status") == Some("QUOTA_EXCEEDED")
                // Present only if a scope is missing.
                || header == "www-authenticate" && answer.status == 403 && !is_insufficient_scope(answer)
                // Present only on replayed responses.
                || header == "idempotent-replayed";
            assert!(is_optional || answer.header(header).is_some(), "{name} without {header}");
        }
        for header in
            ["etag", "retry-after", "ratelimit", "www-authenticate", "x-request-id", "x-auth-status"]
        {
            assert!(documented.contains(header) || answer.header(header).is_none(), "{name} with {header}");
        }
        answer.status
    }

    /// A request built from the document's examples.
    pub(super) fn sample_request(&self, client: &Client, path: &str) -> RequestBuilder {
        let request = self.request(client, path);
        match self.sample() {
            Some(body) => request.json(&body),
            None if self.spec["requestBody"].is_object() => request.form(&[("token", "a")]),
            None => request,
        }
    }

    /// The name of the operation with each documented 4xx status.
    pub(super) fn documented_refusals(&self) -> impl Iterator<Item = (String, u16)> {
        let statuses = self.spec["responses"].as_object().unwrap().keys();
        let statuses = statuses.map(|status| status.parse().unwrap());
        statuses.filter(|status| (400..500).contains(status)).map(|status| (self.name(), status))
    }
}

fn is_insufficient_scope(answer: &Answer) -> bool {
    let oauth_error = answer.json["error"].as_str();
    answer.code() == "INSUFFICIENT_SCOPE" || oauth_error == Some("insufficient_scope")
}

#[tokio::test]
async fn every_success_is_as_documented() {
    let document = Document::load().strict();
    // Uses the shipped limits, so that responses have rate-limit headers.
    let server = seed(Server::with(|_| ()).await).await;
    let admin = server.admin();
    // The document's example of `createMember` adds this user.
    assert_eq!(admin.delete("/organizations/org_123/members/user_123").await.status, 200);
    // In the order of the example calls, each operation finds the resources that it needs.
    let calls = example_calls().into_iter().map(|call| call.route);
    for route in calls.filter(|route| !matches!(route.dispatch, Dispatch::Page)) {
        let operation = document.operation_of(route);
        let name = operation.name();
        let mut path = operation.path();
        if route.path == "/admin/v1/audit-logs/{id}" {
            let events = admin.get("/audit-logs").await;
            path = route.path.replace("{id}", events.data()[0]["id"].as_str().unwrap());
        }
        let client = operation.own_client(&server).await.unwrap_or_else(|| admin.clone());
        let answer = client.send(operation.sample_request(&client, &path)).await;
        let status = operation.assert_documented(&answer);
        assert!((200..300).contains(&status), "{name}: {answer:?}");
        assert_eq!(answer.header("ratelimit").is_some(), operation.requires_admin_key(), "{name}");
    }
}

#[tokio::test]
async fn responses_to_an_organizations_key_are_as_documented() {
    let document = Document::load().strict();
    let server = seeded_server().await;
    let (client, _) = server.key(Some("org_123"), &["admin:*"]).await;
    for operation in document.operations().filter(|operation| operation.route.method == "GET") {
        if matches!(operation.route.auth, AuthRequirement::Platform(_)) {
            continue;
        }
        let mut path = operation.path();
        if operation.spec["operationId"] == "getAuditEvent" {
            let events = client.get("/audit-logs").await;
            path = operation.route.path.replace("{id}", events.data()[0]["id"].as_str().unwrap());
        }
        let answer = client.send(operation.request(&client, &path)).await;
        assert_eq!(operation.assert_documented(&answer), 200, "{answer:?}");
    }
}

#[tokio::test]
async fn every_exported_event_is_as_documented() {
    let document = Document::load().strict();
    let server = seeded_server().await;
    let (client, _) = server.key(Some("org_123"), &["admin:audit"]).await;
    server.anonymous().get("/users").await;
    let event = document.validator(&json!({"$ref": "#/components/schemas/AuditEvent"}));
    let export = document.operation("exportAuditLog");
    for client in [server.admin(), client] {
        let answer = client.get("/audit-logs/export").await;
        assert!(answer.text.lines().count() > 3, "{}", answer.text);
        for line in answer.text.lines() {
            assert_valid(&event, &serde_json::from_str(line).unwrap(), "a line of the export");
        }
        let csv = client.get("/audit-logs/export?format=csv").await;
        assert_eq!(export.assert_documented(&csv), 200);
    }
}

/// An `Idempotency-Key` that was used for another request.
const USED_IDEMPOTENCY_KEY: &str = "used";

/// Every documented error of the control plane can occur, and has the documented form.
#[tokio::test]
async fn every_documented_refusal_is_as_documented() {
    let document = Document::load().strict();
    let server = seeded_server().await;
    let admin = server.admin();
    let anonymous = server.anonymous();
    // The key expires, so that the admin key stays the last recovery key.
    let (elsewhere, _) = server
        .key_with(json!({"name": "n", "scopes": ["*"], "allowed_ips": ["203.0.113.0/24"],
            "expires_at": "2030-01-01T00:00:00Z"}))
        .await;
    let spent = admin.request(Method::POST, "/users").header("idempotency-key", USED_IDEMPOTENCY_KEY);
    let user = json!({"name": "n", "email": "a@b.example"});
    assert_eq!(admin.send(spent.json(&user)).await.status, 201);
    let mut tested = BTreeSet::new();
    let mut refusals = Vec::new();
    for operation in document.operations().filter(Operation::requires_admin_key) {
        let path = operation.path();
        let route = operation.route;
        let client = operation.own_client(&server).await.unwrap_or_else(|| admin.clone());
        let mut calls = vec![
            operation.sample_request(&anonymous, &path),
            operation.sample_request(&elsewhere, &path),
            operation.sample_request(&client, &path).query(&[("surplus", "1")]),
        ];
        if route.path.contains('{') {
            calls.push(operation.sample_request(&admin, &path.replace("_123", "_9").replace("read", "no")));
        }
        let has_header =
            |name| operation.parameters("header").iter().any(|parameter| parameter["name"] == name);
        if has_header("If-Match") {
            // Replaces the header that the sample request may have.
            let stale = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static("\"0-0\""))]);
            calls.push(operation.sample_request(&client, &path).headers(stale));
        }
        if has_header("Idempotency-Key") {
            calls.push(
                operation.sample_request(&admin, &path).header("idempotency-key", USED_IDEMPOTENCY_KEY),
            );
        }
        if operation.body().is_some() {
            let with_type = |media_type| operation.request(&client, &path).header(CONTENT_TYPE, media_type);
            calls.push(with_type("text/plain").body("{}"));
            calls.push(with_type("application/json").body(vec![b' '; 2 << 20]));
        }
        for call in calls {
            let answer = admin.send(call).await;
            let status = operation.assert_documented(&answer);
            assert!(status >= 400, "{}: {answer:?}", operation.name());
            tested.insert((operation.name(), status));
            refusals.push(Refusal::of(&operation, &answer));
        }
    }
    let addresses = document.operation("getAddresses");
    let unreadable = HeaderValue::from_bytes(b"text/html\xff").unwrap();
    let answer = admin.send(admin.request_at_root(Method::GET, "/").header(ACCEPT, unreadable)).await;
    tested.insert((addresses.name(), addresses.assert_documented(&answer)));
    refusals.push(Refusal::of(&addresses, &answer));
    let readiness = document.operation("getReadiness");
    let answer = admin.get_at_root("/readyz?write=true&write=true").await;
    tested.insert((readiness.name(), readiness.assert_documented(&answer)));
    refusals.push(Refusal::of(&readiness, &answer));
    let conflicts = not_found_and_conflicts(&server).await;
    let others = rate_limited_calls(&document).await.into_iter().chain(concurrent_calls(&document).await);
    for (id, answer) in others.chain(conflicts) {
        let operation = document.operation(&id);
        tested.insert((operation.name(), operation.assert_documented(&answer)));
        refusals.push(Refusal::of(&operation, &answer));
    }
    refusals.extend(refusals::of_control_plane(&document).await);
    let of_control_plane = || document.operations().filter(|operation| operation.endpoint().is_none());
    examples::check_errors(of_control_plane(), &refusals, true);
    let documented: BTreeSet<_> = of_control_plane()
        .flat_map(|operation| operation.documented_refusals().collect::<Vec<_>>())
        .collect();
    let missing: Vec<_> = documented.difference(&tested).collect();
    assert!(missing.is_empty(), "documented, but never returned: {missing:?}");
}

/// Calls each operation with a key that has exhausted its limit.
async fn rate_limited_calls(document: &Document) -> Vec<(String, Answer)> {
    let server = Server::with(|config| {
        config.rate_limits.admin_per_minute = 1;
        config.rate_limits.batch_per_minute = 1;
    })
    .await;
    let admin = server.admin();
    assert_eq!(admin.get("/whoami").await.status, 200);
    assert_eq!(admin.post("/batch", json!({})).await.status, 400);
    for _ in 0..60 {
        let own = admin.send(admin.request_at_root(Method::GET, "/v1/keys/self")).await;
        assert_eq!(own.status, 200, "{own:?}");
    }
    let mut answers = Vec::new();
    for operation in document.operations().filter(Operation::requires_admin_key) {
        let answer = admin.send(operation.sample_request(&admin, &operation.path())).await;
        assert_eq!(answer.status, 429, "{answer:?}");
        answers.push((operation.spec["operationId"].as_str().unwrap().to_owned(), answer));
    }
    answers
}

async fn if_match_any(client: &Client, path: &str, patch: Value) -> Answer {
    client.send(client.request(Method::PATCH, path).header(IF_MATCH, "*").json(&patch)).await
}

/// Calls each POST while another request with the same `Idempotency-Key` is running.
async fn concurrent_calls(document: &Document) -> Vec<(String, Answer)> {
    let server = seeded_server().await;
    let admin = server.admin();
    let mut answers = Vec::new();
    for operation in document.operations().filter(|operation| operation.route.is_idempotent_by_key()) {
        let _running = server.running(ADMIN_KEY, "twice").await;
        let request = operation.sample_request(&admin, &operation.path());
        let second = admin.send(request.header("idempotency-key", "twice")).await;
        assert_eq!(second.status, 409, "{second:?}");
        answers.push((operation.spec["operationId"].as_str().unwrap().to_owned(), second));
    }
    answers
}

/// Refusals that depend on the state of the database.
async fn not_found_and_conflicts(server: &Server) -> Vec<(String, Answer)> {
    let admin = server.admin();
    let (org_client, _) = server.key(Some("org_123"), &["admin:*"]).await;
    server.organization("org_2").await;
    server.user("user_2").await;
    let owner = json!({"user_id": "user_2", "role": "owner"});
    assert_eq!(admin.post("/organizations/org_2/members", owner.clone()).await.status, 201);
    let admin_key_id = admin.get("/whoami").await.data()["api_key"]["id"].as_str().unwrap().to_owned();
    let organization = json!({"id": "org_2", "name": "n", "email": "a@b"});
    let user = json!({"name": "n", "email": "user_2@example.com"});
    let key = json!({"id": "key_123", "name": "n", "scopes": []});
    let foreign_key = json!({"organization_id": "org_9", "name": "n", "scopes": []});
    let mut answers = vec![
        ("listApiKeys", 404, org_client.get("/api-keys?organization_id=org_2").await),
        ("getUsage", 404, org_client.get("/analytics/usage?org_id=org_2").await),
        ("listDenials", 404, org_client.get("/analytics/logs?org_id=org_2").await),
        ("listAuditEvents", 404, org_client.get("/audit-logs?org_id=org_2").await),
        ("exportAuditLog", 404, org_client.get("/audit-logs/export?org_id=org_2").await),
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
        (
            "updateApiKey",
            409,
            admin.patch(&format!("/api-keys/{admin_key_id}"), json!({"status": "disabled"})).await,
        ),
        ("deleteApiKey", 409, admin.delete(&format!("/api-keys/{admin_key_id}")).await),
        ("revokeApiKey", 409, admin.post(&format!("/api-keys/{admin_key_id}/revoke"), json!({})).await),
        ("revokeOwnKey", 409, admin.send(admin.request_at_root(Method::POST, "/v1/keys/self/revoke")).await),
        ("updateConfiguration", 428, admin.patch("/config", json!({})).await),
        (
            "updateConfiguration",
            409,
            if_match_any(&admin, "/config", json!({"plans": {"standard": null}})).await,
        ),
        (
            "runBatch",
            409,
            admin
                .post("/batch", json!({"operations": [{"method": "GET", "path": "/organizations/org_9"}]}))
                .await,
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
