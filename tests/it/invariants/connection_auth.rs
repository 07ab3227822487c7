//! Who asked last is remembered for each connection: what that spares must not be seen.

use serde_json::{Value, json};

use crate::support::{Client, Raw, Server};

/// A question over this connection by whoever has the key: status and what is answered for `code`.
async fn ask(connection: &mut Raw, caller: &str, key: &str) -> (u16, String) {
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
async fn i3_a_caller_that_ends_is_refused_at_its_next_question() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let admin = server.admin();
    let caller =
        json!({"id": "key_caller", "organization_id": "org_1", "name": "n", "scopes": ["keys:verify"]});
    let (caller, _) = server.key_with(caller).await;
    let (key, _) = server.key(Some("org_1"), &["workflows:read"]).await;
    let (caller, key) = (bearer(&caller), key.key.unwrap());
    let mut connection = server.raw().await;
    let good = (200, "VALID".to_owned());
    for (path, take, give, refusal) in [
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
        assert_eq!(ask(&mut connection, &caller, &key).await, good);
        assert_eq!(ask(&mut connection, &caller, &key).await, good, "and now it is remembered");
        assert_eq!(admin.patch(path, take).await.status, 200);
        assert_eq!(ask(&mut connection, &caller, &key).await.1, refusal, "{path}");
        assert_eq!(admin.patch(path, give).await.status, 200);
    }
    assert_eq!(ask(&mut connection, &caller, &key).await, good);
    let rotated = admin.post("/api-keys/key_caller/rotate", json!({"grace_period_seconds": 0})).await;
    assert_eq!(ask(&mut connection, &caller, &key).await.1, "INVALID_API_KEY", "its secret is retired");
    let caller = format!("Bearer {}", rotated.data()["key"].as_str().unwrap());
    assert_eq!(ask(&mut connection, &caller, &key).await, good);
    assert_eq!(admin.delete("/api-keys/key_caller").await.status, 200);
    assert_eq!(ask(&mut connection, &caller, &key).await.1, "INVALID_API_KEY");
}

#[tokio::test]
async fn i5_callers_that_share_a_connection_are_told_apart() {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.organization("org_2").await;
    let (one, _) = server.key(Some("org_1"), &["keys:verify"]).await;
    let (two, _) = server.key(Some("org_2"), &["keys:verify"]).await;
    let (of_one, _) = server.key(Some("org_1"), &["workflows:read"]).await;
    let (one, two, key) = (bearer(&one), bearer(&two), of_one.key.unwrap());
    let mut connection = server.raw().await;
    for _ in 0..3 {
        assert_eq!(ask(&mut connection, &one, &key).await.1, "VALID");
        assert_eq!(ask(&mut connection, &two, &key).await.1, "NOT_FOUND");
        // Nearly the same header is not the same, nor is the same one twice.
        let cut = &one[..one.len() - 1];
        assert_eq!(ask(&mut connection, cut, &key).await, (401, "INVALID_API_KEY".to_owned()));
        let twice = format!("{one}\r\nauthorization: {one}");
        assert_eq!(ask(&mut connection, &twice, &key).await, (401, "UNAUTHENTICATED".to_owned()));
        assert_eq!(ask(&mut connection, &one, &key).await.1, "VALID");
    }
}
