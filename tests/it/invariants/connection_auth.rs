//! Each connection caches its last authenticated caller. The cache must not change any answer.

use serde_json::{Value, json};

use crate::support::{Client, Raw, Server};

/// Verifies a key over this connection, with `caller` as the `Authorization` header; returns the status and the
/// `code` of the answer.
async fn verify(connection: &mut Raw, caller: &str, key: &str) -> (u16, String) {
    let body = json!({"key": key}).to_string();
    let head = format!(
        "POST /v1/keys/verify HTTP/1.1\r\nhost: a\r\nauthorization: {caller}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.send(head.as_bytes()).await;
    let answer = connection.answer().await.expect("the connection stays open");
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    let code = if answer.status == 200 { &json["data"]["code"] } else { &json["error"]["code"] };
    (answer.status, code.as_str().unwrap().to_owned())
}

fn bearer(client: &Client) -> String {
    format!("Bearer {}", client.key.as_ref().unwrap())
}

#[tokio::test]
async fn i3_a_caller_that_loses_access_is_refused_at_its_next_request() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let admin = server.admin();
    let caller =
        json!({"id": "key_caller", "organization_id": "org_1", "name": "n", "scopes": ["keys:verify"]});
    let (caller, _) = server.key_with(caller).await;
    let (key, _) = server.key(Some("org_1"), &["workflows:read"]).await;
    let caller = bearer(&caller);
    let key = key.key.unwrap();
    let mut connection = server.raw().await;
    let valid = (200, "VALID".to_owned());
    for (path, withdrawal, restoration, refusal) in [
        (
            "/api-keys/key_caller",
            json!({"status": "disabled"}),
            json!({"status": "active"}),
            "INVALID_API_KEY",
        ),
        (
            "/api-keys/key_caller",
            json!({"scopes": []}),
            json!({"scopes": ["keys:verify"]}),
            "INSUFFICIENT_SCOPE",
        ),
        (
            "/api-keys/key_caller",
            json!({"allowed_ips": ["192.0.2.1"]}),
            json!({"allowed_ips": null}),
            "IP_NOT_ALLOWED",
        ),
        (
            "/organizations/org_1",
            json!({"status": "suspended"}),
            json!({"status": "active"}),
            "INVALID_API_KEY",
        ),
    ] {
        assert_eq!(verify(&mut connection, &caller, &key).await, valid);
        assert_eq!(verify(&mut connection, &caller, &key).await, valid, "from the connection's cache");
        assert_eq!(admin.patch(path, withdrawal).await.status, 200);
        assert_eq!(verify(&mut connection, &caller, &key).await.1, refusal, "{path}");
        assert_eq!(admin.patch(path, restoration).await.status, 200);
    }
    assert_eq!(verify(&mut connection, &caller, &key).await, valid);
    let rotated = admin.post("/api-keys/key_caller/rotate", json!({"grace_period_seconds": 0})).await;
    assert_eq!(verify(&mut connection, &caller, &key).await.1, "INVALID_API_KEY", "its secret is retired");
    let caller = format!("Bearer {}", rotated.data()["key"].as_str().unwrap());
    assert_eq!(verify(&mut connection, &caller, &key).await, valid);
    assert_eq!(admin.delete("/api-keys/key_caller").await.status, 200);
    assert_eq!(verify(&mut connection, &caller, &key).await.1, "INVALID_API_KEY");
}

#[tokio::test]
async fn i5_callers_that_share_a_connection_are_distinguished() {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.organization("org_2").await;
    let (caller_1, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let (caller_2, _) = server.key(Some("org_2"), &["keys:verify"]).await;
    let (client, _) = server.key(Some("org_1"), &["workflows:read"]).await;
    let bearer_1 = bearer(&caller_1);
    let bearer_2 = bearer(&caller_2);
    let key = client.key.unwrap();
    let mut connection = server.raw().await;
    for _ in 0..3 {
        assert_eq!(verify(&mut connection, &bearer_1, &key).await.1, "VALID");
        assert_eq!(verify(&mut connection, &bearer_2, &key).await.1, "NOT_FOUND");
        // Neither a truncated header nor a repeated one matches the cached header.
        let truncated = &bearer_1[..bearer_1.len() - 1];
        assert_eq!(verify(&mut connection, truncated, &key).await, (401, "INVALID_API_KEY".to_owned()));
        let repeated = format!("{bearer_1}\r\nauthorization: {bearer_1}");
        assert_eq!(verify(&mut connection, &repeated, &key).await, (401, "UNAUTHENTICATED".to_owned()));
        assert_eq!(verify(&mut connection, &bearer_1, &key).await.1, "VALID");
    }
}
