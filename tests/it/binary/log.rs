//! The server's log on standard error.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStderr, Command};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Binary, Client, Raw, head};

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

/// A log line names the client as the audit log does: without secrets, and with bounded strings.
#[tokio::test]
async fn a_request_line_names_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_HTTP__TRUSTED_PROXIES", "127.0.0.0/8");
    });
    let admin = server.admin();
    let get = async |path: &str, id: &str, agent: &str| {
        let request = admin.request(reqwest::Method::GET, path).header("x-request-id", id);
        admin.send(request.header("user-agent", agent).header("x-forwarded-for", "203.0.113.7")).await.status
    };
    let long = "a".repeat(1000);
    let anonymous = Client::new(&server.url, None);
    let refused =
        anonymous.request(reqwest::Method::GET, "/users/user_1").header("x-request-id", "anonymous");
    assert_eq!(anonymous.send(refused).await.status, 401);
    assert_eq!(get("/organizations/org_none", "plain", "agent/1.0").await, 404);
    assert_eq!(get(&format!("/organizations/{ADMIN_KEY}"), "secret", ADMIN_KEY).await, 404);
    assert_eq!(get(&format!("/organizations/{long}"), "long", &long).await, 404);
    let (log_text, lines) = stop_and_read_log(server);
    let line = |id: &str| {
        let line = lines.iter().find(|line| line["request_id"] == id);
        line.unwrap_or_else(|| panic!("{id}: {log_text}"))
    };
    let plain = line("plain");
    assert_eq!((&plain["ip"], &plain["user_agent"]), (&json!("203.0.113.7"), &json!("agent/1.0")), "{plain}");
    assert_eq!(plain["path"], "/admin/v1/organizations/org_none", "{plain}");
    // Nothing is known about what the path of a caller without a key holds.
    assert_eq!(line("anonymous")["path"], "/admin/v1/users/{id}");
    let secret = line("secret");
    assert!(!secret.to_string().contains(ADMIN_KEY), "{secret}");
    assert!(secret["path"].as_str().unwrap().ends_with('…'), "{secret}");
    for field in ["path", "user_agent"] {
        assert_eq!(line("long")[field].as_str().unwrap().chars().count(), 257, "{field}");
    }
}

/// What is requested all the time is logged only at lower levels.
#[tokio::test]
async fn probes_are_logged_at_debug_and_verifications_at_trace() {
    for (level, probes, verifications) in [("info", 0, 0), ("debug", 2, 0), ("trace", 2, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let server = Binary::serve_with(dir.path(), |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_LOG__LEVEL", level);
        });
        let admin = server.admin();
        assert_eq!(admin.get_at_root("/healthz").await.status, 200);
        assert_eq!(admin.get_at_root("/readyz").await.status, 200);
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        assert_eq!(admin.send(request.json(&json!({"key": ADMIN_KEY}))).await.status, 200);
        let request = admin.request_at_root(reqwest::Method::GET, "/v1/forward-auth");
        assert_eq!(admin.send(request).await.status, 200);
        let (log_text, lines) = stop_and_read_log(server);
        let requests = |start: &str| {
            let is_of = |line: &&Value| {
                line["message"] == "request"
                    && line["route"].as_str().is_some_and(|path| path.starts_with(start))
            };
            lines.iter().filter(is_of).count()
        };
        assert_eq!(requests("/healthz") + requests("/readyz"), probes, "{level}: {log_text}");
        assert_eq!(requests("/v1/"), verifications, "{level}: {log_text}");
        let results: Vec<_> = lines.iter().filter(|line| line["message"] == "key verified").collect();
        assert_eq!(results.len(), verifications, "{level}: {log_text}");
        assert!(results.iter().all(|line| line["code"] == "VALID"), "{results:?}");
    }
}

#[tokio::test]
async fn rust_log_overrides_the_configured_level() {
    let requests_logged = async |rust_log: &str| {
        let dir = tempfile::tempdir().unwrap();
        let server = Binary::serve_with(dir.path(), |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_LOG__LEVEL", "warn");
            command.env("RUST_LOG", rust_log);
        });
        assert_eq!(server.admin().get("/whoami").await.status, 200);
        let (log_text, lines) = stop_and_read_log(server);
        let is_ignored = log_text.contains("RUST_LOG has no effect");
        (lines.iter().filter(|line| line["message"] == "request").count(), is_ignored)
    };
    assert_eq!(requests_logged("").await, (0, false));
    assert_eq!(requests_logged("tollhouse=info").await, (1, false));
    // Meant for another program; the rest is at info.
    assert_eq!(requests_logged("sqlx=debug").await, (1, false));
    assert_eq!(requests_logged("inf").await, (0, true));
}

#[test]
fn i6_names_of_files_neither_control_the_terminal_nor_forge_lines() {
    let dir = tempfile::tempdir().unwrap();
    let secret = format!("toll_4sZg{}", "x".repeat(34));
    let data = dir.path().join(format!("a\x1b[2J\nERROR {secret}'"));
    let mut server = Binary::serve_with(&data, |command| {
        command.env("TOLLHOUSE_LOG__FORMAT", "human");
    });
    assert_eq!(server.terminate(), Some(0));
    let lines: Vec<_> = server.start.iter().cloned().chain(server.log.iter()).collect();
    let created = lines.iter().find(|line| line.contains("database created")).unwrap();
    assert!(created.contains("a\\u{1b}[2J\\nERROR"), "{created}");
    assert!(!lines.iter().any(|line| line.contains('\x1b') || line.starts_with("ERROR")), "{lines:#?}");
    // The command is a line that works.
    assert!(
        lines.iter().any(|line| line.contains(r"\x1b[2J\x0aERROR") && line.contains(r"\'/admin.key'")),
        "{lines:#?}"
    );
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
            raw.send(&head(&format!("GET /v1/forward-auth/-/{secret}?scope={secret}"), &[header])).await;
            raw.answer().await.unwrap();
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

/// Calls that anyone can repeat: the first of each error code and minute has a line, the others are counted.
#[tokio::test]
async fn i10_calls_without_a_key_are_counted_in_the_log() {
    const CALLS: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    let unknown_key = server.client("nobody-ever-had-this-key");
    let no_key = Client::new(&server.url, None);
    for _ in 0..CALLS {
        assert!(matches!(unknown_key.get("/users").await.status, 401 | 429));
        assert!(matches!(no_key.get("/organizations/org_none").await.status, 401 | 429));
        assert_eq!(no_key.get_at_root("/healthz").await.status, 200);
    }
    assert_eq!(server.admin().get("/users").await.status, 200);
    assert_eq!(server.admin().get("/users").await.status, 200);
    let (log_text, lines) = stop_and_read_log(server);
    let requests: Vec<_> = lines.iter().filter(|line| line["message"] == "request").collect();
    let anonymous = requests.iter().filter(|line| line["key"] == "-").count() as u64;
    let counted = lines.iter().filter(|line| line["message"] == "repeated requests not logged individually");
    let counts: Vec<_> = counted.map(|line| line["count"].as_u64().unwrap()).collect();
    assert_eq!(anonymous + counts.iter().sum::<u64>(), 2 * CALLS, "{log_text}");
    assert!(!log_text.contains("/healthz"), "{log_text}");
    // Two codes and no error, in the one or two minutes of the test.
    assert!(anonymous <= 6 && counts.len() <= 6, "{log_text}");
    assert_eq!(requests.len() as u64, anonymous + 2, "calls with a key have lines: {log_text}");
}

/// A server whose log overflows because nobody reads it.
struct UnreadServer {
    server: Binary,
    metrics: Client,
    reader: BufReader<ChildStderr>,
}

impl UnreadServer {
    async fn start(dir: &Path) -> Self {
        let mut command: Command =
            Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_METRICS__LISTEN", "127.0.0.1:0");
        // Many lines a request.
        command.env("TOLLHOUSE_LOG__LEVEL", "trace").env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
        let (server, reader) = Binary::start_unread(command);
        let url = server.metrics_url();
        let metrics = Client::new(url.strip_suffix("/metrics").unwrap(), None);
        let unread = Self { server, metrics, reader };
        let admin = unread.server.admin();
        while unread.dropped_lines().await == 0.0 {
            assert_eq!(admin.get("/whoami").await.status, 200);
        }
        unread
    }

    async fn dropped_lines(&self) -> f64 {
        let answer = self.metrics.get_at_root("/metrics").await;
        let lines = &mut answer.text.lines();
        let value = lines.find_map(|line| line.strip_prefix("tollhouse_log_lines_dropped_total "));
        value.unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
    }
}

#[tokio::test]
async fn i10_a_log_that_nobody_reads_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let unread = UnreadServer::start(dir.path()).await;
    let admin = unread.server.admin();
    assert_eq!(admin.get_at_root("/healthz").await.status, 200);
    let created = admin.post("/api-keys", json!({"name": "n", "scopes": ["workflows:read"]})).await;
    let id = created.data()["id"].as_str().unwrap();
    let key = created.data()["key"].as_str().unwrap();
    let verify = async || {
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        admin.send(request.json(&json!({"key": key}))).await.data()["code"].clone()
    };
    assert_eq!(verify().await, "VALID");
    assert_eq!(admin.post(&format!("/api-keys/{id}/revoke"), json!({})).await.status, 200);
    assert_eq!(verify().await, "REVOKED");

    let UnreadServer { mut server, reader, .. } = unread;
    let id = server.id().to_string();
    let (stopped, status) = mpsc::channel();
    std::thread::spawn(move || stopped.send(server.terminate()));
    let status = status.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| {
        Command::new("kill").args(["-KILL", &id]).status().unwrap();
        panic!("the log keeps the server from stopping");
    });
    assert_eq!(status, Some(0));
    drop(reader);
}

#[tokio::test]
async fn dropped_log_lines_are_reported_once_the_log_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut unread = UnreadServer::start(dir.path()).await;
    let mut line = String::new();
    while !line.contains("log lines dropped") {
        line.clear();
        assert!(unread.reader.read_line(&mut line).unwrap() > 0, "the number of dropped lines is not logged");
    }
    let report: Value = serde_json::from_str(&line).unwrap();
    assert!(report["level"] == "WARN" && report["total"].as_u64() > Some(0), "{line}");
}
