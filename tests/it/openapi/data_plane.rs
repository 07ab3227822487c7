//! The data plane's part of the document: forms of its own, and no limits on who asks.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tollhouse::http::routes::Endpoint;

use super::{Document, Operation, assert_fits, furnish, world};
use crate::support::{ADMIN_KEY, Answer, Client, Server};

/// What every answer of forward-auth tells the upstream.
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
fn security_is_what_each_endpoint_takes() {
    let document = Document::load();
    let by = |scheme: &str| ["keys:verify", "admin:keys"].map(|scope| json!({ scheme: [scope] }));
    for (operation, endpoint) in operations(&document) {
        let expected = match endpoint {
            Endpoint::Verify => json!(by("bearer")),
            Endpoint::Introspect => json!([by("bearer"), by("basic")].concat()),
            Endpoint::ForwardAuth => json!([{"bearer": []}, {"xApiKey": []}]),
        };
        assert_eq!(operation.says["security"], expected, "{}", operation.name());
    }
    let schemes = &document.0["components"]["securitySchemes"];
    assert_eq!(schemes["basic"]["scheme"], "basic");
    let own = &schemes["xApiKey"];
    assert_eq!(
        (&own["type"], &own["in"], &own["name"]),
        (&json!("apiKey"), &json!("header"), &json!("X-Api-Key"))
    );
}

#[test]
fn headers_are_those_of_the_key_that_is_asked_about() {
    let document = Document::load();
    for (operation, endpoint) in operations(&document) {
        for (status, answer) in operation.says["responses"].as_object().unwrap() {
            let (headers, what) = (&answer["headers"], format!("{} {status}", operation.name()));
            let forward = endpoint == Endpoint::ForwardAuth;
            for name in IDENTITY {
                assert_eq!(headers[name].is_object(), forward, "{what} {name}");
            }
            let limited = forward && !status.starts_with('5');
            for name in ["X-RateLimit-Limit", "RateLimit"] {
                assert_eq!(headers[name].is_object(), limited, "{what} {name}");
            }
        }
    }
}

/// A key for each answer that a verification can have, and the limits of one that is used up.
async fn keys(server: &Server) -> Vec<(&'static str, String)> {
    let admin = server.admin();
    let mut keys = vec![("MALFORMED", "toll_00000000000000000000000000000000000000".to_owned())];
    keys.push(("NOT_FOUND", "nobody-has-made-this".to_owned()));
    keys.push(("VALID", ADMIN_KEY.to_owned()));
    for (code, more) in [
        ("VALID", json!({"organization_id": "org_123", "user_id": "user_123", "metadata": {"a": "b"}})),
        ("VALID", json!({"organization_id": "org_123", "quota": {"limit": 10, "period": "day"}})),
        ("REVOKED", json!({})),
        ("DISABLED", json!({})),
        ("EXPIRED", json!({"expires_at": "2026-11-23T07:08:10Z"})),
        ("ORGANIZATION_SUSPENDED", json!({"organization_id": "org_suspended"})),
        ("OWNER_INACTIVE", json!({"organization_id": "org_123", "user_id": "user_suspended"})),
        ("IP_NOT_ALLOWED", json!({"allowed_ips": ["192.0.2.0/24"]})),
        ("RATE_LIMITED", json!({"rate_limit": {"limit": 1, "window_seconds": 60}})),
    ] {
        let mut body = json!({"name": "n", "scopes": ["workflows:read"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (client, key) = server.key_with(body).await;
        let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
        let spoiled = match code {
            "REVOKED" => admin.delete(&path).await,
            "DISABLED" => admin.patch(&path, json!({"status": "disabled"})).await,
            _ => admin.get(&path).await,
        };
        assert_eq!(spoiled.status, 200, "{spoiled:?}");
        keys.push((code, client.key.unwrap()));
    }
    for path in ["/organizations/org_suspended", "/users/user_suspended"] {
        assert_eq!(admin.patch(path, json!({"status": "suspended"})).await.status, 200);
    }
    server.advance(Duration::from_secs(60));
    keys
}

/// The document's world, with an organization and a member to suspend.
async fn larger_world(server: Server) -> Server {
    let server = furnish(server).await;
    server.organization("org_suspended").await;
    server.user("user_suspended").await;
    let member = json!({"user_id": "user_suspended", "role": "member"});
    let added = server.admin().post("/organizations/org_123/members", member).await;
    assert_eq!(added.status, 201, "{added:?}");
    server
}

#[tokio::test]
async fn whatever_a_key_is_the_answers_are_as_documented() {
    let (document, server) = (Document::load().strict(), larger_world(Server::start().await).await);
    let (admin, keys) = (server.admin(), keys(&server).await);
    let [verify, introspect, forward] =
        ["verifyKey", "introspectToken", "forwardAuth"].map(|id| document.operation(id));
    for (code, key) in &keys {
        // The second of these finds a rate limit of 1 used up.
        for nth in 0..2 {
            let code = if *code == "RATE_LIMITED" && nth == 0 { "VALID" } else { *code };
            let answer =
                admin.send(verify.request(&admin, "/v1/keys/verify").json(&json!({"key": key}))).await;
            assert_eq!((verify.promises(&answer), answer.data()["code"].as_str()), (200, Some(code)));
        }
        let answer = admin.send(introspect.request(&admin, "/v1/introspect").form(&[("token", key)])).await;
        assert_eq!(introspect.promises(&answer), 200);
        // It spends no limit, so it doesn't meet one.
        let active = ["VALID", "RATE_LIMITED"].contains(code);
        assert_eq!(answer.json["active"], active, "{code}: {answer:?}");

        let client = server.client(Some(key));
        let answer = client.send(forward.request(&client, "/v1/forward-auth")).await;
        let status = forward.promises(&answer);
        assert_eq!(status == 200, *code == "VALID", "{code}: {answer:?}");
        let told = answer.header("x-auth-status").unwrap();
        let expected = if ["MALFORMED", "NOT_FOUND"].contains(code) { "INVALID_API_KEY" } else { code };
        assert_eq!((told, status == 200 || answer.code() == told), (expected, true), "{answer:?}");
    }
}

/// What is no schema of one answer must not be one of the other, or programs can't tell them apart.
#[test]
fn a_key_that_is_not_there_is_told_nothing_of() {
    let document = Document::load().strict();
    let validator = document.validator(&json!({"$ref": "#/components/schemas/Verification"}));
    let unknown = json!({"valid": false, "code": "NOT_FOUND", "message": "m"});
    assert_fits(&validator, &unknown, "all that is told");
    for (field, value) in [("name", json!("n")), ("valid", json!(true)), ("code", json!("REVOKED"))] {
        let mut more = unknown.clone();
        more[field] = value;
        assert!(!validator.is_valid(&more), "{more}");
    }
    let introspection = &document.operation("introspectToken").says["responses"]["200"];
    let validator = document.validator(&introspection["content"]["application/json"]["schema"]);
    assert_fits(&validator, &json!({"active": false}), "all that is told");
    for more in [json!({"active": false, "client_id": "key_1"}), json!({"active": true})] {
        assert!(!validator.is_valid(&more), "{more}");
    }
}

#[tokio::test]
async fn every_documented_refusal_of_the_data_plane_is_as_documented() {
    let document = Document::load().strict();
    let server = world().await;
    let (admin, anonymous) = (server.admin(), server.anonymous());
    let elsewhere = json!({"name": "n", "scopes": ["*"], "allowed_ips": ["203.0.113.0/24"],
        "expires_at": "2030-01-01T00:00:00Z"});
    let (elsewhere, _) = server.key_with(elsewhere).await;
    let mut seen = BTreeSet::new();
    let mut see = |operation: &Operation<'_>, answer: &Answer| {
        let status = operation.promises(answer);
        assert!(status >= 400, "{}: {answer:?}", operation.name());
        seen.insert((operation.name(), status));
    };
    let limited = Server::with(|config| config.rate_limits.failed_auth_per_minute = 1).await;
    assert_eq!(limited.anonymous().get("/whoami").await.status, 401);
    for (operation, endpoint) in operations(&document) {
        let path = operation.path();
        for client in [&anonymous, &elsewhere] {
            see(&operation, &client.send(operation.sample_request(client, &path)).await);
        }
        let stranger = limited.anonymous();
        see(&operation, &stranger.send(operation.sample_request(&stranger, &path)).await);
        for call in wrong_bodies(&operation, endpoint, &admin) {
            see(&operation, &admin.send(call).await);
        }
    }
    let documented: BTreeSet<_> = operations(&document)
        .flat_map(|(operation, _)| operation.promised_refusals().collect::<Vec<_>>())
        .collect();
    assert_eq!(seen, documented);
}

fn wrong_bodies(operation: &Operation<'_>, endpoint: Endpoint, client: &Client) -> Vec<RequestBuilder> {
    let (kind, wrong) = match endpoint {
        Endpoint::Verify => ("application/json", "{}"),
        Endpoint::Introspect => ("application/x-www-form-urlencoded", "key=a"),
        Endpoint::ForwardAuth => return Vec::new(),
    };
    let typed = |kind: &str| operation.request(client, operation.route.path).header(CONTENT_TYPE, kind);
    vec![typed(kind).body(wrong), typed("text/plain").body(wrong), typed(kind).body(vec![b' '; 2 << 20])]
}

/// The form's one required parameter, by its schema and by the server.
#[tokio::test]
async fn introspection_takes_the_form_that_is_documented() {
    let (document, server) = (Document::load(), world().await);
    let (admin, operation) = (server.admin(), document.operation("introspectToken"));
    let schema = operation.body_as("application/x-www-form-urlencoded").unwrap();
    assert_eq!(schema["required"], json!(["token"]));
    let names: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["token", "token_type_hint"]);
    for (form, expected) in [
        (json!({"token": "a"}), 200),
        (json!({"token": "a", "token_type_hint": "anything", "unknown": "b"}), 200),
        (json!({"token_type_hint": "access_token"}), 400),
    ] {
        let answer = admin.send(operation.request(&admin, operation.route.path).form(&form)).await;
        assert_eq!(operation.promises(&answer), expected, "{form}");
    }
}

/// What the document says of the query, forward-auth takes; what it doesn't say lets nobody pass.
#[tokio::test]
async fn forward_auth_takes_the_parameters_that_are_documented() {
    let (document, server) = (Document::load(), world().await);
    let (admin, operation) = (server.admin(), document.operation("forwardAuth"));
    let documented: Vec<_> = operation.parameters("query").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(Value::from(documented), json!(["scope", "limit_status"]));
    let limits = &operation.parameters("query")[1]["schema"]["enum"];
    for (name, value) in [("scope", "workflows:read"), ("limit_status", "403"), ("limit_status", "429")] {
        assert!(
            name == "scope" || limits.as_array().unwrap().contains(&value.parse::<u16>().unwrap().into())
        );
        let answer =
            admin.send(operation.request(&admin, operation.route.path).query(&[(name, value)])).await;
        assert_eq!(operation.promises(&answer), 200, "{name}={value}");
    }
}
