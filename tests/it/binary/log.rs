//! What the server writes to standard error.

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Binary, Raw, head};

/// Ends a session and gives all that was said in it, and the same as JSON where it is.
fn all_of(mut server: Binary) -> (String, Vec<Value>) {
    assert_eq!(server.terminate(), Some(0));
    let lines: Vec<String> = server.start.drain(..).chain(server.log.iter()).collect();
    let json = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (lines.join("\n"), json)
}

#[tokio::test]
async fn each_request_is_one_line_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    let (admin, nobody) = (server.admin(), server.client("nobody-ever-had-this-key"));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let key_id = admin.get("/whoami").await.data()["api_key"]["id"].clone();
    let calls = [
        (&admin, "one", "/organizations/org_none", 404, "/admin/v1/organizations/{id}", "NOT_FOUND", &key_id),
        (&admin, "two", "/users", 200, "/admin/v1/users", "-", &key_id),
        (&nobody, "three", "/users", 401, "/admin/v1/users", "INVALID_API_KEY", &json!("-")),
    ];
    for (client, id, path, status, ..) in &calls {
        let request = client.request(reqwest::Method::GET, path).header("x-request-id", *id);
        assert_eq!(client.send(request.header("traceparent", trace)).await.status, *status);
    }
    let (said, lines) = all_of(server);
    for (_, id, _, status, route, code, key) in calls {
        let found: Vec<_> = lines.iter().filter(|line| line["request_id"] == id).collect();
        let [line] = found.as_slice() else { panic!("{id}: {said}") };
        assert_eq!((&line["message"], &line["method"]), (&json!("request"), &json!("GET")), "{line}");
        assert_eq!((&line["status"], &line["route"]), (&json!(status), &json!(route)), "{line}");
        assert_eq!((&line["code"], &line["key"]), (&json!(code), key), "{line}");
        assert_eq!(line["traceparent"], trace, "{line}");
        assert!(line["latency_us"].as_u64().is_some_and(|latency| latency > 0), "{line}");
        assert!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
    }
}

/// Every secret of a session, in every place where a client may have put it, at the most talkative level.
#[tokio::test]
async fn i6_no_secret_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_LOG__LEVEL", "trace");
    });
    let admin = server.admin();
    let made = admin.post("/api-keys", json!({"name": "n", "scopes": ["admin:keys"]})).await;
    let (id, first) = (made.data()["id"].as_str().unwrap(), made.data()["key"].as_str().unwrap());
    let rotated = admin.post(&format!("/api-keys/{id}/rotate"), json!({})).await;
    let second = rotated.data()["key"].as_str().unwrap();
    let mistyped = format!("{}x", &second[..second.len() - 1]);
    let secrets = [ADMIN_KEY, first, second, &mistyped];
    for secret in secrets {
        let key = server.client(secret);
        for path in [
            "/whoami",
            "/users",
            "/api-keys",
            &format!("/api-keys/{secret}"),
            &format!("/whoami?key={secret}"),
        ] {
            key.get(path).await;
        }
        key.post("/api-keys", json!({"name": secret, "key": secret, secret: secret, "scopes": [secret]}))
            .await;
        let headers = [
            format!("user-agent: {secret}"),
            format!("traceparent: {secret}"),
            format!("x-api-key: {secret}"),
            format!("cookie: {secret}"),
        ];
        for header in &headers {
            let mut raw = Raw::connect(&server.url).await;
            raw.send(&head(&format!("GET /{secret}?{secret}"), &[header])).await;
            assert_eq!(raw.answer().await.unwrap().status, 404);
            raw.send(&head("GET /admin/v1/whoami", &[header])).await;
            assert_eq!(raw.answer().await.unwrap().status, 200);
            raw.send(format!("{secret}\r\n\r\n").as_bytes()).await;
            raw.answers().await;
        }
    }
    let secrets = secrets.map(str::to_owned);
    let (said, lines) = all_of(server);
    assert!(lines.len() > 50, "{said}");
    for secret in &secrets {
        let told: Vec<_> = said.lines().filter(|line| line.contains(secret.as_str())).collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}
