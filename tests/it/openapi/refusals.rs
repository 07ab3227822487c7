//! Provokes the errors of each operation, for their examples.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tollhouse::http::routes::{AuthRequirement, Endpoint};

use super::examples::{EXAMPLE_SECRET, Refusal};
use super::{Document, Operation, seeded_server};
use crate::support::{Client, Server};

/// Operations that require a platform key for some fields, or because of what they do.
const PLATFORM_OPERATIONS: &[&str] =
    &["createApiKey", "deleteOrganization", "deleteUser", "updateOrganization", "updateUser"];

/// Fields whose text is stored.
const TEXT_FIELDS: &[&str] = &["name", "reason", "description", "external_id"];

/// Sends requests to one operation and keeps the refusals.
struct Prober<'o, 'd> {
    operation: &'o Operation<'d>,
    path: String,
    refusals: &'o mut Vec<Refusal>,
}

impl Prober<'_, '_> {
    async fn send(&mut self, client: &Client, request: reqwest::RequestBuilder) {
        let answer = client.send(request).await;
        let status = self.operation.assert_documented(&answer);
        assert!(status >= 400, "{}: {answer:?}", self.operation.name());
        self.refusals.push(Refusal::of(self.operation, &answer));
    }

    /// Sends the sample request with another key.
    async fn send_with_key(&mut self, client: &Client) {
        let request = self.operation.sample_request(client, &self.path);
        self.send(client, request).await;
    }

    async fn send_body(&mut self, client: &Client, body: &Value) {
        let request = self.operation.request(client, &self.path).json(body);
        self.send(client, request).await;
    }
}

/// Refusals of the control plane that need other keys, or other requests than the samples.
pub(super) async fn of_control_plane(document: &Document) -> Vec<Refusal> {
    let server = seeded_server().await;
    let admin = server.admin();
    let unknown = server.client(Some("nobody-has-made-this-key"));
    let (without_scopes, _) = server.key(None, &[]).await;
    let (of_organization, _) = server.key(Some("org_123"), &["admin:*"]).await;
    let superseded = superseded_client(&server).await;
    let mut refusals = Vec::new();
    for operation in document.operations().filter(Operation::requires_admin_key) {
        let path = operation.path();
        let prober = &mut Prober { operation: &operation, path, refusals: &mut refusals };
        let id = operation.spec["operationId"].as_str().unwrap();
        prober.send_with_key(&unknown).await;
        match operation.route.auth {
            AuthRequirement::Scope(_) => prober.send_with_key(&without_scopes).await,
            AuthRequirement::Platform(_) => {
                prober.send_with_key(&without_scopes).await;
                prober.send_with_key(&of_organization).await;
            }
            _ => {}
        }
        if PLATFORM_OPERATIONS.contains(&id) {
            prober.send_with_key(&of_organization).await;
        }
        if operation.spec["description"].as_str().unwrap().contains("SECRET_SUPERSEDED") {
            // A change of the status is refused; other changes may not be.
            let takes_status = ["updateOrganization", "updateUser"].contains(&id);
            match takes_status {
                true => prober.send_body(&superseded, &json!({"status": "suspended"})).await,
                false => prober.send_with_key(&superseded).await,
            }
        }
        let client = operation.own_client(&server).await.unwrap_or_else(|| admin.clone());
        if id == "rotateOwnKey" {
            prober.send_with_key(&admin).await;
        }
        let has_parameter =
            |name: &str| operation.parameters("query").iter().any(|parameter| parameter["name"] == name);
        if has_parameter("cursor") {
            let request = operation.request(&client, &prober.path).query(&[("cursor", "abc")]);
            prober.send(&client, request).await;
        }
        if operation.body().is_some() {
            send_wrong_bodies(prober, &client).await;
        }
    }
    refusals
}

/// Sends bodies that are refused.
async fn send_wrong_bodies(prober: &mut Prober<'_, '_>, client: &Client) {
    let operation = prober.operation;
    let schema = operation.body().unwrap();
    let request = operation.request(client, &prober.path).header(CONTENT_TYPE, "application/json");
    prober.send(client, request.body("{")).await;
    let fields = schema["properties"].as_object().unwrap();
    if let Some(field) = TEXT_FIELDS.iter().find(|field| fields.contains_key(**field)) {
        let mut body = operation.sample().unwrap();
        body[*field] = json!(EXAMPLE_SECRET);
        prober.send_body(client, &body).await;
    }
    let unknown_meter = json!([{"meter": "tokens", "limit": 1, "window_seconds": 60}]);
    if fields.contains_key("limits") {
        let mut body = operation.sample().unwrap();
        body["limits"] = unknown_meter.clone();
        prober.send_body(client, &body).await;
    }
    if fields.contains_key("plans") {
        prober.send_body(client, &json!({"plans": {"standard": {"key_limits": unknown_meter}}})).await;
    }
    // Last, because the last refusal with a code becomes its example.
    let has_required_fields = schema["required"].is_array();
    let invalid = if has_required_fields { json!({}) } else { json!({"color": "blue"}) };
    prober.send_body(client, &invalid).await;
}

/// A client with the previous secret of a rotated platform key.
async fn superseded_client(server: &Server) -> Client {
    let body = json!({"name": "rotated", "scopes": ["*"], "self_rotation": true, "expires_at": "2030-01-01T00:00:00Z"});
    let (client, key) = server.key_with(body).await;
    let path = format!("/api-keys/{}/rotate", key["id"].as_str().unwrap());
    let rotated = server.admin().post(&path, json!({})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    client
}

/// Refusals of the data plane's JSON endpoints and of introspection that need other keys or bodies.
pub(super) async fn of_data_plane(document: &Document) -> Vec<Refusal> {
    let server = seeded_server().await;
    let admin = server.admin();
    let unknown = server.client(Some("nobody-has-made-this-key"));
    let (without_scopes, _) = server.key(None, &[]).await;
    let mut refusals = Vec::new();
    for operation in document.operations() {
        let Some(endpoint) = operation.endpoint() else { continue };
        if endpoint == Endpoint::ForwardAuth {
            continue;
        }
        let path = operation.path();
        let prober = &mut Prober { operation: &operation, path, refusals: &mut refusals };
        prober.send_with_key(&unknown).await;
        prober.send_with_key(&without_scopes).await;
        if endpoint == Endpoint::Introspect {
            continue;
        }
        let costs = json!({"tokens": 1});
        let body = match endpoint {
            Endpoint::VerifyBatch => json!({"verifications": [{"key": EXAMPLE_SECRET, "costs": costs}]}),
            Endpoint::ReportUsage => json!({"key_id": "key_123", "costs": costs}),
            _ => json!({"key": EXAMPLE_SECRET, "costs": costs}),
        };
        prober.send_body(&admin, &body).await;
        let request = operation.request(&admin, &prober.path).header(CONTENT_TYPE, "application/json");
        prober.send(&admin, request.body("{")).await;
        prober.send_body(&admin, &json!({})).await;
    }
    refusals
}

/// The requests of a client through a proxy that forward-auth denies because of the client's key, with each key.
pub(super) async fn of_forward_auth(
    document: &Document,
    server: &Server,
    keys: &[(&str, String)],
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for id in ["forwardAuth", "forwardAuthPath"] {
        let operation = document.operation(id);
        let path = if id == "forwardAuth" { "/v1/forward-auth" } else { "/v1/forward-auth/-/orders" };
        for (code, key) in keys.iter().filter(|(code, _)| *code != "VALID") {
            let client = server.client(Some(key));
            // The second request exceeds the limit of 1.
            let exceeded = ["RATE_LIMITED", "QUOTA_EXCEEDED"].contains(code);
            for _ in 0..=usize::from(exceeded) {
                let answer = client.send(client.request_at_root(Method::GET, path)).await;
                if operation.assert_documented(&answer) >= 400 {
                    refusals.push(Refusal::of(&operation, &answer));
                }
            }
        }
        let client = server.key(Some("org_123"), &["transactions:read"]).await.0;
        let needs_scope = match id {
            "forwardAuth" => "/v1/forward-auth?scope=workflows:read",
            _ => "/v1/forward-auth/scope=workflows:read/orders",
        };
        let answer = client.send(client.request_at_root(Method::GET, needs_scope)).await;
        assert_eq!(operation.assert_documented(&answer), 403, "{answer:?}");
        refusals.push(Refusal::of(&operation, &answer));
    }
    refusals
}
