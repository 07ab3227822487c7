//! Invariant 12: the memory for requests is bounded, and no organization takes that of the others.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tollhouse::config::Config;

use crate::support::{ADMIN_KEY, Binary, Raw, RawAnswer, Server, peak_memory, until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The largest body of the Admin API and of the data plane, as shipped.
const LARGEST_BODY: usize = MIB;
const LARGEST_DATA_PLANE_BODY: usize = 32 * KIB;

/// The least memory that can be configured with bodies of [`LARGEST_BODY`], and the share of one organization.
const MEMORY: usize = 4 * SHARE;
const SHARE: usize = 3 * MIB + 50_000 * 96;

fn without_rate_limits(config: &mut Config) {
    config.http.request_memory_bytes = MEMORY;
    config.rate_limits.admin_per_minute = 0;
    config.rate_limits.batch_per_minute = 0;
    config.rate_limits.failed_auth_per_minute = 0;
}

async fn server_with_two_organizations() -> Server {
    let server = Server::with(without_rate_limits).await;
    server.organization("org_a").await;
    server.organization("org_b").await;
    server
}

/// The head of a POST with this key, up to and including the empty line.
fn post_head(path: &str, key: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

fn assert_unavailable(answer: &RawAnswer) {
    assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"), "{answer:?}");
    assert!(answer.head.contains("retry-after: 1\r\n"), "{}", answer.head);
}

/// A valid JSON body of this length that every route refuses with 400.
fn refused_body(length: usize) -> String {
    format!("{{\"nonsense\":\"{}\"}}", "x".repeat(length - 15))
}

/// Sends the head and the first half of each body. Waits until the server has reserved the memory for all.
async fn send_halves(server: &Server, path: &str, key: &str, body: &str, count: usize) -> Vec<Raw> {
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut connection = server.raw().await;
        connection.send(post_head(path, key, body.len()).as_bytes()).await;
        connection.send(&body.as_bytes()[..body.len() / 2]).await;
        connections.push(connection);
    }
    let memory = if path.starts_with("/v1/") {
        &server.app.memory.data_plane
    } else {
        &server.app.memory.control_plane
    };
    until("all bodies are being read", || memory.reserved_bytes() == count * body.len()).await;
    connections
}

async fn send_whole(server: &Server, path: &str, key: &str, body: &str) -> RawAnswer {
    let mut connection = server.raw().await;
    connection.send(post_head(path, key, body.len()).as_bytes()).await;
    connection.send(body.as_bytes()).await;
    connection.answer().await.unwrap()
}

fn secret(key: &Value) -> String {
    key["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn i12_half_sent_bodies_of_an_organization_leave_memory_for_the_others() {
    let server = server_with_two_organizations().await;
    let (_, greedy) = server.key(Some("org_a"), &["workflows:read"]).await;
    let (other, _) = server.key(Some("org_b"), &["admin:orgs"]).await;
    let body = refused_body(LARGEST_BODY);
    let held = send_halves(&server, "/admin/v1/batch", &secret(&greedy), &body, SHARE / LARGEST_BODY).await;

    let refused = send_whole(&server, "/admin/v1/batch", &secret(&greedy), &body).await;
    assert_unavailable(&refused);
    assert!(refused.body.contains("of this organization"), "{}", refused.body);
    let answer = other.patch("/organizations/org_b", json!({"name": "Not disturbed"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");

    // Whoever has no key gets no memory at all, and is refused before the body has arrived.
    let before = server.app.memory.control_plane.reserved_bytes();
    let mut anonymous = server.raw().await;
    anonymous.send(post_head("/admin/v1/batch", "unknown", LARGEST_BODY).as_bytes()).await;
    assert_eq!(anonymous.answer().await.unwrap().status, 401);
    assert_eq!(server.app.memory.control_plane.reserved_bytes(), before);

    // All memory is released, whether the rest of a body arrives or its client leaves.
    let mut held = held.into_iter();
    drop(held.next());
    for mut connection in held {
        connection.send(&body.as_bytes()[body.len() / 2..]).await;
        let answer = connection.answer().await.unwrap();
        assert!(matches!(answer.status, 400 | 503), "{answer:?}");
    }
    until("all memory is released", || server.app.memory.control_plane.reserved_bytes() == 0).await;
    assert_eq!(send_whole(&server, "/admin/v1/batch", &secret(&greedy), &body).await.status, 400);
}

#[tokio::test]
async fn i12_half_sent_verifications_leave_memory_for_the_others() {
    let server = server_with_two_organizations().await;
    let (_, greedy) = server.key(Some("org_a"), &["keys:verify"]).await;
    let (_, other) = server.key(Some("org_b"), &["keys:verify"]).await;
    let body = refused_body(LARGEST_DATA_PLANE_BODY);
    let count = SHARE / 4 / LARGEST_DATA_PLANE_BODY;
    let held = send_halves(&server, "/v1/keys/verify", &secret(&greedy), &body, count).await;

    let mut refused = server.raw().await;
    refused.send(post_head("/v1/keys/verify", &secret(&greedy), body.len()).as_bytes()).await;
    refused.send(&body.as_bytes()[..1]).await;
    let others = send_halves_of_another(&server, &secret(&other), &body, count).await;
    refused.send(&body.as_bytes()[1..]).await;
    assert_unavailable(&refused.answer().await.unwrap());
    let whole = json!({"key": secret(&other)}).to_string();
    for key in [&greedy, &other] {
        let answer = send_whole(&server, "/v1/keys/verify", &secret(key), &whole).await;
        assert_eq!(answer.status, 200, "a body that has arrived needs no memory: {answer:?}");
    }
    drop((held, others));
    until("all memory is released", || server.app.memory.data_plane.reserved_bytes() == 0).await;
}

/// Sends half a body of another organization while `count` are held already.
async fn send_halves_of_another(server: &Server, key: &str, body: &str, count: usize) -> Raw {
    let mut connection = server.raw().await;
    connection.send(post_head("/v1/keys/verify", key, body.len()).as_bytes()).await;
    connection.send(&body.as_bytes()[..body.len() / 2]).await;
    let expected = (count + 1) * body.len();
    until("the other body is being read", || server.app.memory.data_plane.reserved_bytes() == expected).await;
    connection
}

/// A body of unknown length takes memory as it grows, so that many short ones of one organization are read at the
/// same time.
#[tokio::test]
async fn i12_short_bodies_of_unknown_length_take_little_memory() {
    let server = server_with_two_organizations().await;
    let (_, key) = server.key(Some("org_a"), &["admin:users"]).await;
    let count = 2 * SHARE / LARGEST_BODY;
    let head = post_head("/admin/v1/users", &secret(&key), 0)
        .replace("content-length: 0", "transfer-encoding: chunked");
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut connection = server.raw().await;
        connection.send(format!("{head}1\r\n{{\r\n").as_bytes()).await;
        connections.push(connection);
    }
    let reserved = |bytes: usize| server.app.memory.control_plane.reserved_bytes() == bytes;
    until("all bodies are being read", || reserved(count * 16 * KIB)).await;
    let mut longer = connections.pop().unwrap();
    longer.send(format!("{:x}\r\n{}\r\n", 20 * KIB, " ".repeat(20 * KIB)).as_bytes()).await;
    until("more memory is reserved for a longer body", || reserved((count + 1) * 16 * KIB)).await;
    for mut connection in connections.into_iter().chain([longer]) {
        connection.send(b"1\r\n}\r\n0\r\n\r\n").await;
        assert_eq!(connection.answer().await.unwrap().status, 400);
    }
    until("all memory is released", || reserved(0)).await;
}

/// A body that is announced as too large is refused in the documented order, before any of it has arrived.
#[tokio::test]
async fn i12_a_too_large_body_is_refused_before_it_is_read() {
    let server = server_with_two_organizations().await;
    let (_, weak) = server.key(Some("org_a"), &["workflows:read"]).await;
    let (_, able) = server.key(None, &["*"]).await;
    let json = "application/json";
    for (path, key, media_type, length, status, code) in [
        ("/admin/v1/users", "unknown".to_owned(), json, LARGEST_BODY + 1, 401, "INVALID_API_KEY"),
        ("/admin/v1/users", secret(&weak), json, LARGEST_BODY + 1, 403, "INSUFFICIENT_SCOPE"),
        ("/admin/v1/users", secret(&able), "text/plain", LARGEST_BODY + 1, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("/admin/v1/users", secret(&able), json, LARGEST_BODY + 1, 413, "PAYLOAD_TOO_LARGE"),
        ("/admin/v1/users", secret(&able), json, usize::MAX / 2, 413, "PAYLOAD_TOO_LARGE"),
        ("/admin/v1/nowhere", secret(&able), json, LARGEST_BODY + 1, 404, "NOT_FOUND"),
        ("/v1/keys/verify", secret(&weak), json, LARGEST_DATA_PLANE_BODY + 1, 403, "INSUFFICIENT_SCOPE"),
        ("/v1/keys/verify", secret(&able), json, LARGEST_DATA_PLANE_BODY + 1, 413, "PAYLOAD_TOO_LARGE"),
    ] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let mut connection = server.raw().await;
            let head = post_head(path, &key, length).replace(json, media_type);
            connection.send(head.replace("host: a\r\n", &format!("host: a\r\n{expect}")).as_bytes()).await;
            let answer = connection.answer().await.unwrap();
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path} {expect}{answer:?}");
        }
    }
    assert_eq!(server.app.memory.control_plane.reserved_bytes(), 0);
}

/// Creates keys of an organization whose metadata is as large as allowed.
async fn create_fat_keys(server: &Server, organization_id: &str, count: usize) -> Vec<String> {
    let metadata: serde_json::Map<_, _> =
        (0..50).map(|index| (format!("name-{index}"), json!("\u{10400}".repeat(500)))).collect();
    let mut ids = Vec::new();
    for _ in 0..count {
        let body =
            json!({"organization_id": organization_id, "name": "fat", "scopes": [], "metadata": metadata});
        let (_, key) = server.key_with(body).await;
        ids.push(key["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// A batch that reads more than its organization's share of the memory changes nothing.
#[tokio::test]
async fn i12_a_batch_whose_results_take_too_much_memory_changes_nothing() {
    let server = server_with_two_organizations().await;
    let fat = &create_fat_keys(&server, "org_a", 1).await[0];
    let (client, _) = server.key(Some("org_a"), &["admin:keys"]).await;
    let create = json!({"method": "POST", "path": "/api-keys", "body": {"name": "new", "scopes": []}});
    let read = json!({"method": "GET", "path": format!("/api-keys/{fat}")});
    for atomic in [true, false] {
        let operations = [vec![create.clone()], vec![read.clone(); 99]].concat();
        let answer = client.post("/batch", json!({"atomic": atomic, "operations": operations})).await;
        assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let keys = client.get("/api-keys?limit=100").await;
    assert_eq!(keys.data().as_array().unwrap().len(), 2, "no key was created");
    assert_eq!(server.app.memory.control_plane.reserved_bytes(), 0);

    let operations = [vec![create], vec![read; 20]].concat();
    let answer = client.post("/batch", json!({"operations": operations})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A response counts until its client has read it.
#[tokio::test]
async fn i12_responses_that_nobody_reads_take_bounded_memory() {
    let server = server_with_two_organizations().await;
    create_fat_keys(&server, "org_a", 60).await;
    let (client, key) = server.key(None, &["admin:keys"]).await;
    let memory = &server.app.memory.control_plane;
    let mut unread = Vec::new();
    // Two such responses leave too little memory for a third.
    for count in 1..=2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut connection = socket.connect(server.url["http://".len()..].parse().unwrap()).await.unwrap();
        let request = format!(
            "GET /admin/v1/api-keys?limit=100 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
            secret(&key)
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        until("the response is being sent", || memory.reserved_bytes() > count * MEMORY / 3).await;
        unread.push(connection);
    }
    let answer = client.get("/api-keys?limit=100").await;
    assert_eq!((answer.status, answer.code(), answer.header("retry-after")), (503, "UNAVAILABLE", Some("1")));
    assert_eq!(client.get("/api-keys?limit=1").await.status, 200, "a small response has room");
    drop(unread);
    until("all memory is released", || memory.reserved_bytes() == 0).await;
    assert_eq!(client.get("/api-keys?limit=100").await.status, 200);
}

/// The operations of a batch are authorized before their bodies are looked at.
#[tokio::test]
async fn i12_operations_are_authorized_before_their_bodies_are_read() {
    let server = server_with_two_organizations().await;
    let (client, _) = server.key(Some("org_a"), &["workflows:read"]).await;
    let operation = |path: &str| json!({"method": "POST", "path": path, "body": [1, {"not": "a resource"}]});
    let operations =
        [operation("/users"), operation("/organizations"), operation("/api-keys"), operation("/scopes")];
    let answer = client.post("/batch", json!({"atomic": false, "operations": operations})).await;
    let results = answer.data()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 4);
    for result in results {
        assert_eq!(
            (&result["status"], &result["body"]["error"]["code"]),
            (&json!(403), &json!("INSUFFICIENT_SCOPE"))
        );
    }
}

/// Batches full of tiny values, from a key that may do nothing but call the batch endpoint.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn i12_parallel_batches_of_tiny_values_take_no_more_memory_than_configured() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        command.env("TOLLHOUSE_HTTP__REQUEST_MEMORY_BYTES", MEMORY.to_string());
    });
    let admin = server.admin();
    let body = json!({"id": "org_a", "name": "A", "email": "a@example.com"});
    assert_eq!(admin.post("/organizations", body).await.status, 201);
    let body = json!({"organization_id": "org_a", "name": "k", "scopes": ["workflows:read"]});
    let key = admin.post("/api-keys", body).await.data()["key"].as_str().unwrap().to_owned();
    let attacker = server.client(&key);
    let batch = |objects: usize| {
        let objects = vec!["{\"a\":0}"; objects].join(",");
        format!(r#"{{"operations":[{{"method":"POST","path":"/users","body":[{objects}]}}]}}"#)
    };
    let send = async |body: String| {
        let request =
            attacker.request(reqwest::Method::POST, "/batch").header("content-type", "application/json");
        attacker.send(request.body(body)).await
    };
    let before = peak_memory(server.id());
    let answers =
        join_all((0..60).map(|index| send(batch(if index % 2 == 0 { 120_000 } else { 16_000 })))).await;
    let grown = peak_memory(server.id()) - before;
    assert!(grown < MEMORY, "{} MiB more", grown / MIB);
    for answer in &answers {
        match answer.code() {
            "UNAVAILABLE" => assert_eq!(answer.header("retry-after"), Some("1")),
            "INVALID_JSON" => assert!(answer.text.contains("more than 50000 values"), "{}", answer.text),
            // The operation is refused.
            "BATCH_FAILED" => assert!(answer.text.contains("INSUFFICIENT_SCOPE"), "{}", answer.text),
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!(send(batch(120_000)).await.code(), "INVALID_JSON");
    assert_eq!(send(batch(16_000)).await.code(), "BATCH_FAILED");
}
