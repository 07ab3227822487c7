//! Invariant 6 and redaction: events contain no secrets, their strings have a bounded length, and an
//! organization doesn't see details of the platform's staff.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::verify::secret;

use super::events;
use crate::support::{ADMIN_KEY, Server};

/// A secret, and its hash in every encoding.
fn encodings(secret_text: &str) -> Vec<String> {
    let hash = secret::hash_secret(secret_text);
    let hex = hex::encode(hash);
    let base64 =
        [STANDARD.encode(hash), URL_SAFE.encode(hash)].map(|text| text.trim_end_matches('=').to_owned());
    [vec![secret_text.to_owned(), hex.to_uppercase(), hex], base64.to_vec()].concat()
}

/// Name and content of every file in the data directory.
fn data_files(server: &Server) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(server.dir.path().join("data")).unwrap().map(Result::unwrap);
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

#[tokio::test]
async fn i6_no_secret_is_in_any_file() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let mut secrets = vec![ADMIN_KEY.to_owned()];
    for organization in [None, Some("org_1")] {
        let (client, key) = server.key(organization, &["*"]).await;
        let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
        secrets.push(key["key"].as_str().unwrap().to_owned());
        for grace in [0, 60, 60] {
            let body = json!({"grace_period_seconds": grace});
            let rotated = server.admin().post(&format!("{path}/rotate"), body).await;
            secrets.push(rotated.data()["key"].as_str().unwrap().to_owned());
        }
        // The server sees valid secrets, retired ones and one that never existed.
        let unknown = format!("an-unknown-secret-for-{organization:?}");
        secrets.push(unknown.clone());
        client.get("/whoami").await;
        for secret in &secrets {
            let client = server.client(Some(secret));
            client.get("/users").await;
            client.post("/users", json!({"name": ""})).await;
        }
        assert_eq!(server.admin().delete(&path).await.status, 200);
    }
    assert_eq!(server.admin().get("/audit-logs?limit=100").await.status, 200);
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, true).await.unwrap();

    let files = data_files(&server);
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(
        files.iter().any(|(name, _)| name == "tollhouse.db") && total > 100_000,
        "the database is among the files"
    );
    let contains =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(
        files.iter().any(|(_, bytes)| contains(bytes, "api_key.rotate")),
        "events are stored uncompressed, so a search finds them"
    );
    for secret in &secrets {
        for encoding in encodings(secret) {
            for (name, bytes) in &files {
                assert!(!contains(bytes, &encoding), "{name} contains {encoding} of {secret}");
            }
        }
    }
}

#[tokio::test]
async fn strings_that_a_client_supplies_are_truncated() {
    let server = Server::start().await;
    let long = "x".repeat(5000);
    let max_chars = 257;
    let admin = server.admin();
    let request = admin.request(Method::GET, &format!("/organizations/{long}")).header("user-agent", &long);
    assert_eq!(admin.send(request).await.status, 404);
    let event = events(&server).await.pop().unwrap();
    for text in [&event["context"]["path"], &event["context"]["user_agent"], &event["target"]["id"]] {
        let text = text.as_str().unwrap();
        assert!(text.chars().count() == max_chars && text.ends_with('…'), "{text}");
    }
    let metadata: serde_json::Map<String, Value> =
        (0..50).map(|index| (format!("name{index}"), "ü".repeat(500).into())).collect();
    let body = json!({"name": "n".repeat(200), "email": "a@example.com", "metadata": metadata});
    assert_eq!(admin.post("/organizations", body).await.status, 201);
    let event = events(&server).await.pop().unwrap();
    let changed =
        event["changes"].as_array().unwrap().iter().find(|change| change["field"] == "metadata").unwrap();
    assert_eq!(changed["to"].as_str().unwrap().chars().count(), max_chars);
    assert!(event.to_string().len() < 4096, "{event}");
    let anonymous = server.anonymous();
    let request = anonymous.request(Method::GET, &format!("/{long}")).header("user-agent", &long);
    assert_eq!(anonymous.send(request).await.status, 404);
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, true).await.unwrap();
    assert!(events(&server).await.pop().unwrap().to_string().len() < 4096);
}

/// An organization sees the caller's name, address and user agent only in events of its own keys, and in no
/// event the position in the hash chain.
#[tokio::test]
async fn an_organization_sees_its_events_redacted() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let (org_client, key) =
        server.key_with(json!({"organization_id": "org_1", "name": "Own", "scopes": ["*"]})).await;
    let update = |client: &crate::support::Client, agent| {
        client.request(Method::PATCH, "/organizations/org_1").header("user-agent", agent)
    };
    let admin = server.admin();
    let body = json!({"name": "by the platform"});
    assert_eq!(admin.send(update(&admin, "platform agent").json(&body)).await.status, 200);
    let body = json!({"name": "by itself"});
    assert_eq!(org_client.send(update(&org_client, "own agent").json(&body)).await.status, 200);

    let listed = org_client.get("/audit-logs?action=organization.update").await;
    let [by_organization, by_platform] = listed.data().as_array().unwrap().as_slice() else {
        panic!("{listed:?}")
    };
    let caller_details = |event: &Value| {
        [&event["actor"]["name"], &event["context"]["ip"], &event["context"]["user_agent"]].map(Value::clone)
    };
    assert_eq!(caller_details(by_organization), [json!("Own"), json!("127.0.0.1"), json!("own agent")]);
    assert_eq!(caller_details(by_platform), [Value::Null, Value::Null, Value::Null]);
    assert_eq!(by_platform["changes"][0]["to"], "by the platform", "the change itself is visible");
    assert_eq!(by_organization["actor"]["id"], key["id"]);
    let mut answers = vec![listed.text.clone()];
    for event in [by_organization, by_platform] {
        let read = org_client.get(&format!("/audit-logs/{}", event["id"].as_str().unwrap())).await;
        assert_eq!(read.data(), event, "reading one event redacts it like the list");
    }
    let exported = org_client.get("/audit-logs/export?action=organization.update").await.text;
    for (line, event) in exported.lines().zip([by_platform, by_organization]) {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap(), *event);
    }
    answers.push(exported);
    answers.push(org_client.get("/audit-logs").await.text);
    for answer in answers {
        for word in ["\"seq\"", "\"hash\"", "\"prev_hash\"", "platform agent", "First admin key"] {
            assert!(!answer.contains(word), "{word}: {answer}");
        }
    }
    let csv = org_client.get("/audit-logs/export?format=csv").await.text;
    for row in
        csv::Reader::from_reader(csv.as_bytes()).deserialize::<std::collections::HashMap<String, String>>()
    {
        let row = row.unwrap();
        assert!(["seq", "prev_hash", "hash"].iter().all(|name| row[*name].is_empty()), "{row:?}");
    }
    assert!(!csv.contains("platform agent") && !csv.contains("First admin key"), "{csv}");
    assert_eq!(org_client.get("/audit-logs/verify").await.code(), "PLATFORM_KEY_REQUIRED");
    // The platform sees every field.
    let listed = admin.get("/audit-logs?action=organization.update").await;
    assert_eq!(listed.data()[1]["actor"]["name"], "First admin key");
    assert!(listed.data()[1]["seq"].is_i64() && listed.data()[1]["hash"].is_string());
}
