//! The data plane in the document: its own response forms, and no rate-limit headers for the caller.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use strum::VariantArray;
use tollhouse::domain::verification::Outcome;
use tollhouse::http::routes::Endpoint;

use super::examples::{self, Refusal};
use super::{Document, Operation, assert_valid, refusals, seed, seeded_server};
use crate::support::{ADMIN_KEY, Answer, Client, Server, assert_same_items};

/// Headers that every forward-auth response passes to the upstream.
const IDENTITY: &[&str] = &[
    "X-Auth-Key-Id",
    "X-Auth-Organization-Id",
    "X-Auth-User-Id",
    "X-Auth-Plan",
    "X-Auth-Scopes",
    "X-Auth-Status",
];

fn operations(document: &Document) -> impl Iterator<Item = (Operation<'_>, Endpoint)> {
    document.operations().filter_map(|operation| operation.endpoint().map(|endpoint| (operation, endpoint)))
}

#[test]
fn security_matches_the_credentials_that_each_endpoint_accepts() {
    let document = Document::load();
    let by = |scheme: &str| ["keys:verify", "admin:keys"].map(|scope| json!({ scheme: [scope] }));
    for (operation, endpoint) in operations(&document) {
        let expected = match endpoint {
            Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage | Endpoint::Introspect => {
                json!(by("bearer"))
            }
            Endpoint::ForwardAuth => json!([{"bearer": []}, {"xApiKey": []}]),
        };
        assert_eq!(operation.spec["security"], expected, "{}", operation.name());
    }
    let schemes = &document.0["components"]["securitySchemes"];
    let x_api_key = &schemes["xApiKey"];
    assert_eq!(
        (&x_api_key["type"], &x_api_key["in"], &x_api_key["name"]),
        (&json!("apiKey"), &json!("header"), &json!("X-Api-Key"))
    );
}

#[test]
fn only_forward_auth_has_identity_and_rate_limit_headers() {
    let document = Document::load();
    for (operation, endpoint) in operations(&document) {
        for (status, answer) in operation.spec["responses"].as_object().unwrap() {
            let headers = &answer["headers"];
            let case = format!("{} {status}", operation.name());
            let forward = endpoint == Endpoint::ForwardAuth;
            for name in IDENTITY {
                assert_eq!(headers[name].is_object(), forward, "{case} {name}");
            }
            let limited = forward && !status.starts_with('5');
            for name in ["X-RateLimit-Limit", "RateLimit"] {
                assert_eq!(headers[name].is_object(), limited, "{case} {name}");
            }
        }
    }
}

/// A key for each verification code.
async fn keys(server: &Server) -> Vec<(&'static str, String)> {
    let admin = server.admin();
    let mut keys = vec![("MALFORMED", "toll_00000000000000000000000000000000000000".to_owned())];
    keys.push(("NOT_FOUND", "nobody-has-made-this".to_owned()));
    keys.push(("VALID", ADMIN_KEY.to_owned()));
    for (code, fields) in [
        ("VALID", json!({"organization_id": "org_123", "user_id": "user_123", "metadata": {"a": "b"}})),
        ("VALID", json!({"organization_id": "org_123", "limits": [{"limit": 10, "period": "day"}]})),
        ("VALID", json!({"organization_id": "org_123", "limits": [{"limit": 10, "period": "total"}]})),
        ("REVOKED", json!({})),
        ("DISABLED", json!({})),
        ("EXPIRED", json!({"expires_at": "2026-11-23T07:08:10Z"})),
        ("ORGANIZATION_SUSPENDED", json!({"organization_id": "org_suspended"})),
        ("OWNER_INACTIVE", json!({"organization_id": "org_123", "user_id": "user_suspended"})),
        ("IP_NOT_ALLOWED", json!({"allowed_ips": ["192.0.2.0/24"]})),
        ("RATE_LIMITED", json!({"limits": [{"limit": 1, "window_seconds": 60}]})),
        ("QUOTA_EXCEEDED", json!({"limits": [{"limit": 1, "period": "total"}]})),
    ] {
        let mut body = json!({"name": "n", "scopes": ["workflows:read"]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (client, key) = server.key_with(body).await;
        let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
        let prepared = match code {
            "REVOKED" => admin.delete(&path).await,
            "DISABLED" => admin.patch(&path, json!({"status": "disabled"})).await,
            _ => admin.get(&path).await,
        };
        assert_eq!(prepared.status, 200, "{prepared:?}");
        keys.push((code, client.key.unwrap()));
    }
    for path in ["/organizations/org_suspended", "/users/user_suspended"] {
        assert_eq!(admin.patch(path, json!({"status": "suspended"})).await.status, 200);
    }
    server.advance(Duration::from_secs(60));
    keys
}

/// Seeds the server and adds an organization and a member that can be suspended.
async fn seed_suspendable(server: Server) -> Server {
    let server = seed(server).await;
    server.organization("org_suspended").await;
    server.user("user_suspended").await;
    let member = json!({"user_id": "user_suspended", "role": "member"});
    let added = server.admin().post("/organizations/org_123/members", member).await;
    assert_eq!(added.status, 201, "{added:?}");
    server
}

#[tokio::test]
async fn responses_for_keys_of_every_code_are_as_documented() {
    let document = Document::load().strict();
    let server = seed_suspendable(Server::start().await).await;
    let admin = server.admin();
    let keys = keys(&server).await;
    let [verify, introspect, forward] =
        ["verifyKey", "introspectToken", "forwardAuth"].map(|id| document.operation(id));
    for (code, key) in &keys {
        // The second call exceeds the limit of 1.
        for index in 0..2 {
            let is_limited = ["RATE_LIMITED", "QUOTA_EXCEEDED"].contains(code);
            let code = if is_limited && index == 0 { "VALID" } else { *code };
            let answer =
                admin.send(verify.request(&admin, "/v1/keys/verify").json(&json!({"key": key}))).await;
            assert_eq!(
                (verify.assert_documented(&answer), answer.data()["code"].as_str()),
                (200, Some(code))
            );
        }
        let answer = admin.send(introspect.request(&admin, "/v1/introspect").form(&[("token", key)])).await;
        assert_eq!(introspect.assert_documented(&answer), 200);
        // Introspection spends nothing and checks no limit.
        let active = ["VALID", "RATE_LIMITED", "QUOTA_EXCEEDED"].contains(code);
        assert_eq!(answer.json["active"], active, "{code}: {answer:?}");

        let client = server.client(Some(key));
        let answer = client.send(forward.request(&client, "/v1/forward-auth")).await;
        let status = forward.assert_documented(&answer);
        assert_eq!(status == 200, *code == "VALID", "{code}: {answer:?}");
        let auth_status = answer.header("x-auth-status").unwrap();
        let expected = if ["MALFORMED", "NOT_FOUND"].contains(code) { "INVALID_API_KEY" } else { code };
        assert_eq!(auth_status, expected, "{answer:?}");
        assert!(status == 200 || answer.code() == auth_status, "{answer:?}");
    }
}

/// Clients of any language can rely on every field.
#[test]
fn every_field_of_a_verification_is_required() {
    let document = Document::load().strict();
    let validator = document.validator(&json!({"$ref": "#/components/schemas/Verification"}));
    let unknown = json!({
        "valid": false, "code": "NOT_FOUND", "message": "Key not found.", "key_id": null, "organization_id": null,
        "user_id": null, "user_external_id": null, "name": null, "plan": null, "scopes": [], "expires_at": null,
        "metadata": {}, "limits": [], "limited_by": null, "retry_after_seconds": null,
    });
    assert_valid(&validator, &unknown, "an unknown key");
    for field in unknown.as_object().unwrap().keys() {
        let mut incomplete = unknown.clone();
        incomplete.as_object_mut().unwrap().remove(field);
        assert!(!validator.is_valid(&incomplete), "without {field}");
    }
    // The last one is only in the results of several verifications.
    for code in Outcome::VARIANTS.iter().map(|outcome| outcome.name()).chain(["UNAVAILABLE"]) {
        let mut with_code = unknown.clone();
        with_code["code"] = json!(code);
        assert_valid(&validator, &with_code, code);
    }
    let mut other = unknown.clone();
    other["code"] = json!("INVALID_API_KEY");
    assert!(!validator.is_valid(&other), "a code of other responses");
    let mut other = unknown.clone();
    other["quota"] = json!(null);
    assert!(!validator.is_valid(&other), "a field that doesn't exist");
}

/// The document has one flat schema for active and inactive tokens, so the responses themselves are compared.
#[tokio::test]
async fn only_an_active_token_has_other_fields() {
    let document = Document::load().strict();
    let server = seeded_server().await;
    let admin = server.admin();
    let operation = document.operation("introspectToken");
    let introspect = async |token: &str| {
        let answer =
            admin.send(operation.request(&admin, operation.route.path).form(&[("token", token)])).await;
        assert_eq!(operation.assert_documented(&answer), 200);
        answer.json
    };
    assert_eq!(introspect("nobody-has-made-this").await, json!({"active": false}));
    let active = introspect(ADMIN_KEY).await;
    let fields: Vec<_> = active.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["active", "client_id", "iat", "scope", "token_type"]);
}

#[tokio::test]
async fn every_documented_refusal_of_the_data_plane_is_as_documented() {
    let document = Document::load().strict();
    let server = seeded_server().await;
    let admin = server.admin();
    let anonymous = server.anonymous();
    let elsewhere = json!({"name": "n", "scopes": ["*"], "allowed_ips": ["203.0.113.0/24"],
        "expires_at": "2030-01-01T00:00:00Z"});
    let (elsewhere, _) = server.key_with(elsewhere).await;
    let mut tested = BTreeSet::new();
    let mut refusals = Vec::new();
    let mut record = |operation: &Operation<'_>, answer: &Answer| {
        let status = operation.assert_documented(answer);
        assert!(status >= 400, "{}: {answer:?}", operation.name());
        tested.insert((operation.name(), status));
        refusals.push(Refusal::of(operation, answer));
    };
    let limited = Server::with(|config| config.rate_limits.failed_auth_per_minute = 1).await;
    assert_eq!(limited.anonymous().get("/whoami").await.status, 401);
    for (operation, endpoint) in operations(&document) {
        let path = operation.path();
        for client in [&anonymous, &elsewhere] {
            record(&operation, &client.send(operation.sample_request(client, &path)).await);
        }
        let client = limited.anonymous();
        record(&operation, &client.send(operation.sample_request(&client, &path)).await);
        for call in wrong_bodies(&operation, endpoint, &admin) {
            record(&operation, &admin.send(call).await);
        }
        if endpoint == Endpoint::ReportUsage {
            let send = |report: &Value| admin.send(operation.request(&admin, &path).json(report));
            let mut report = operation.sample().unwrap();
            assert_eq!(send(&report).await.status, 200);
            report["costs"] = json!({"requests": 2});
            record(&operation, &send(&report).await);
            report["key_id"] = json!("key_unknown");
            record(&operation, &send(&report).await);
        }
    }
    let documented =
        operations(&document).flat_map(|(operation, _)| operation.documented_refusals().collect::<Vec<_>>());
    assert_same_items("refusals", tested, documented);

    refusals.extend(refusals::of_data_plane(&document).await);
    let server = seed_suspendable(Server::start().await).await;
    let keys = keys(&server).await;
    refusals.extend(refusals::of_forward_auth(&document, &server, &keys).await);
    examples::check_errors(operations(&document).map(|(operation, _)| operation), &refusals, false);
}

fn wrong_bodies(operation: &Operation<'_>, endpoint: Endpoint, client: &Client) -> Vec<RequestBuilder> {
    let (media_type, wrong) = match endpoint {
        Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage => ("application/json", "{}"),
        Endpoint::Introspect => ("application/x-www-form-urlencoded", "key=a"),
        Endpoint::ForwardAuth => return Vec::new(),
    };
    let with_type =
        |media_type: &str| operation.request(client, operation.route.path).header(CONTENT_TYPE, media_type);
    vec![
        with_type(media_type).body(wrong),
        with_type("text/plain").body(wrong),
        with_type(media_type).body(vec![b' '; 2 << 20]),
    ]
}

/// The form has one required parameter, in its schema and for the server.
#[tokio::test]
async fn introspection_accepts_the_documented_form() {
    let document = Document::load();
    let server = seeded_server().await;
    let admin = server.admin();
    let operation = document.operation("introspectToken");
    let schema = operation.body_as("application/x-www-form-urlencoded").unwrap();
    assert_eq!(schema["required"], json!(["token"]));
    let names: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["client_id", "client_secret", "token", "token_type_hint"]);
    for (form, expected) in [
        (json!({"token": "a"}), 200),
        (json!({"token": "a", "token_type_hint": "anything", "unknown": "b"}), 200),
        (json!({"token_type_hint": "access_token"}), 400),
    ] {
        let answer = admin.send(operation.request(&admin, operation.route.path).form(&form)).await;
        assert_eq!(operation.assert_documented(&answer), expected, "{form}");
    }
}

#[tokio::test]
async fn forward_auth_accepts_the_documented_parameters() {
    let document = Document::load();
    let server = seeded_server().await;
    let admin = server.admin();
    let operation = document.operation("forwardAuth");
    let documented: Vec<_> =
        operation.parameters("query").iter().map(|parameter| parameter["name"].clone()).collect();
    assert_eq!(Value::from(documented), json!(["scope", "cost", "limit_status"]));
    let statuses = operation.parameters("query")[2]["schema"]["enum"].as_array().unwrap();
    for (name, value) in [
        ("scope", "workflows:read"),
        ("cost", "2"),
        ("cost", "requests:0"),
        ("limit_status", "403"),
        ("limit_status", "429"),
    ] {
        let is_documented = || statuses.contains(&value.parse::<u16>().unwrap().into());
        assert!(name != "limit_status" || is_documented(), "{value}");
        let answer =
            admin.send(operation.request(&admin, operation.route.path).query(&[(name, value)])).await;
        assert_eq!(operation.assert_documented(&answer), 200, "{name}={value}");
    }
}
