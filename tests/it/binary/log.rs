//! The server's log on standard error.

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Binary, Raw, head};

/// Stops the server; returns its whole standard error, and the lines of it that are JSON.
fn stop_and_read_log(mut server: Binary) -> (String, Vec<Value>) {
    assert_eq!(server.terminate(), Some(0));
    let lines: Vec<String> = server.start.drain(..).chain(server.log.iter()).collect();
    let json = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (lines.join("\n"), json)
}

#[tokio::test]
async fn each_request_is_one_line_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    let admin = server.admin();
    let unknown_key = server.client("nobody-ever-had-this-key");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let key_id = admin.get("/whoami").await.data()["api_key"]["id"].clone();
    let calls = [
        (&admin, "one", "/organizations/org_none", 404, "/admin/v1/organizations/{id}", "NOT_FOUND", &key_id),
        (&admin, "two", "/users", 200, "/admin/v1/users", "-", &key_id),
        (&unknown_key, "three", "/users", 401, "/admin/v1/users", "INVALID_API_KEY", &json!("-")),
    ];
    for (client, id, path, status, ..) in &calls {
        let request = client.request(reqwest::Method::GET, path).header("x-request-id", *id);
        assert_eq!(client.send(request.header("traceparent", trace)).await.status, *status);
    }
    let (log_text, lines) = stop_and_read_log(server);
    for (_, id, _, status, route, code, key) in calls {
        let request_lines: Vec<_> = lines.iter().filter(|line| line["request_id"] == id).collect();
        let [line] = request_lines.as_slice() else { panic!("{id}: {log_text}") };
        assert_eq!((&line["message"], &line["method"]), (&json!("request"), &json!("GET")), "{line}");
        assert_eq!((&line["status"], &line["route"]), (&json!(status), &json!(route)), "{line}");
        assert_eq!((&line["code"], &line["key"]), (&json!(code), key), "{line}");
        assert_eq!(line["traceparent"], trace, "{line}");
        assert!(line["latency_us"].as_u64().is_some_and(|latency| latency > 0), "{line}");
        assert!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
    }
}

/// Clients put every secret into every part of a request, and the log level is `trace`: no secret is logged.
#[tokio::test]
async fn i6_no_secret_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_LOG__LEVEL", "trace");
    });
    let admin = server.admin();
    let created = admin.post("/api-keys", json!({"name": "n", "scopes": ["admin:keys"]})).await;
    let id = created.data()["id"].as_str().unwrap();
    let first = created.data()["key"].as_str().unwrap();
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
    let (log_text, lines) = stop_and_read_log(server);
    assert!(lines.len() > 50, "{log_text}");
    for secret in &secrets {
        let leaks: Vec<_> = log_text.lines().filter(|line| line.contains(secret.as_str())).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
}
