//! `tollhouse serve --dev`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Binary, Client};

/// A server with sample data and the tests' admin key. Rate limits of the Admin API are off.
pub(crate) fn serve() -> Binary {
    let mut command = Binary::command(&["serve", "--dev", "--listen", "127.0.0.1:0"]);
    command
        .env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY)
        .env("TOLLHOUSE_LOG__FORMAT", "human")
        .env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0")
        .env("TOLLHOUSE_RATE_LIMITS__BATCH_PER_MINUTE", "0");
    Binary::start(command)
}

/// The rest of the line of the startup output that contains a label.
fn value_after(server: &Binary, label: &str) -> String {
    let line = server.start.iter().find_map(|line| line.split_once(label));
    line.unwrap_or_else(|| panic!("{label}: {:#?}", server.start)).1.trim().to_owned()
}

#[tokio::test]
async fn sample_data_covers_a_month() {
    let server = serve();
    let admin = server.admin();
    // The resources that the examples of the documentation use.
    for path in [
        "/organizations/org_123",
        "/users/user_123",
        "/api-keys/key_123",
        "/organizations/org_123/members/user_123",
    ] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    let usage = admin.get("/analytics/usage?org_id=org_123&period=30d&group_by=code").await;
    let series = usage.data()["series"].as_array().unwrap();
    let busy = series.iter().filter(|day| day["requests"].as_u64().unwrap() > 1000).count();
    assert!((29..=31).contains(&busy), "{busy} of {} days", series.len());
    let codes: Vec<_> = usage.data()["groups"].as_array().unwrap().iter().map(|group| &group["id"]).collect();
    assert!(
        codes.contains(&&json!("RATE_LIMITED")) && codes.contains(&&json!("QUOTA_EXCEEDED")),
        "{codes:?}"
    );
    // There are fewer requests at night than during the day.
    let hours = admin.get("/analytics/usage?key_id=key_123&period=7d&interval=hour").await;
    let requests_at = |times: [&str; 3]| -> u64 {
        let series = hours.data()["series"].as_array().unwrap().iter();
        let matching =
            series.filter(|hour| times.iter().any(|time| hour["start"].as_str().unwrap().contains(time)));
        matching.map(|hour| hour["requests"].as_u64().unwrap()).sum()
    };
    assert!(requests_at(["T12:", "T13:", "T14:"]) > 2 * requests_at(["T00:", "T01:", "T02:"]));
    let overview = admin.get("/analytics/overview").await;
    assert_eq!(overview.data()["organizations"], 6);
    let keys = &overview.data()["api_keys"];
    assert!(
        ["active", "disabled", "revoked"].iter().all(|state| keys[*state].as_u64().unwrap() > 0),
        "{keys}"
    );
    assert!(!overview.data()["busiest_keys"].as_array().unwrap().is_empty());
    let denials = admin.get("/analytics/logs?limit=100&code=NOT_FOUND").await;
    assert!(!denials.data().as_array().unwrap().is_empty());

    // The audit log covers the month in order, and its hash chain is valid.
    let events = admin.get("/audit-logs?limit=100&order=asc&access=write").await;
    let times: Vec<_> = events
        .data()
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["occurred_at"].as_str().unwrap())
        .collect();
    assert!(times.len() > 40 && times.is_sorted(), "{times:?}");
    let chain = admin.get("/audit-logs/verify").await;
    assert_eq!(chain.data()["valid"], true, "{chain:?}");

    // The printed key can be verified.
    let client_key = value_after(&server, "a key of org_123 to verify: ");
    let answer = admin
        .send(
            admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify").json(&json!({"key": client_key})),
        )
        .await;
    assert_eq!((&answer.data()["code"], &answer.data()["key_id"]), (&json!("VALID"), &json!("key_123")));
}

/// Keys are used after they are created, and before they are revoked.
#[tokio::test]
async fn times_of_sample_keys_are_in_order() {
    let server = serve();
    let keys = server.admin().get("/api-keys?limit=100").await;
    let keys = keys.data().as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for key in keys {
        let created = text(&key["created_at"]);
        let used = text(&key["last_used_at"]);
        let revoked = text(&key["revoked_at"]);
        assert!(used.is_empty() || used > created, "{key}");
        assert!(revoked.is_empty() || used < revoked, "{key}");
    }
    assert!(keys.iter().filter(|key| key["last_used_at"].is_string()).count() > 8);
}

fn data_directory(server: &Binary) -> PathBuf {
    value_after(server, "sample data in ").trim_end_matches(" …").into()
}

#[tokio::test]
async fn the_admin_key_is_printed_and_the_data_is_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = Binary::command(&["serve", "--dev", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", temp.path()).env("TOLLHOUSE_DATABASE__DIR", temp.path().join("own"));
    command.env("TOLLHOUSE_LOG__FORMAT", "human");
    let mut server = Binary::start(command);
    let dir = data_directory(&server);
    assert!(dir.starts_with(temp.path()) && dir.join("tollhouse.db").exists(), "{}", dir.display());
    assert!(value_after(&server, "console    ").starts_with(&server.url));
    let key = value_after(&server, "admin key  ");
    assert_eq!(Client::new(&server.url, Some(&key)).get("/whoami").await.status, 200);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn other_addresses_and_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let expect_refusal = |args: &[&str], code: i32, message: &str| {
        let output = Binary::run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(message), "{args:?}: {stderr}");
    };
    expect_refusal(&["serve", "--dev", "--data", data], 2, "remove --data");
    expect_refusal(&["--data", data, "serve", "--dev"], 2, "remove --data");
    expect_refusal(&["serve", "--dev", "--listen", "0.0.0.0:0"], 2, "only on loopback");
    expect_refusal(&["serve", "--dev", "--admin-key-file", "k"], 2, "remove --admin-key-file");
    let config = dir.path().join("open.toml");
    fs::write(&config, "[http]\nlisten = \"0.0.0.0:0\"\n").unwrap();
    expect_refusal(&["serve", "--dev", "--config", config.to_str().unwrap()], 1, "only on loopback");
    assert!(!Path::new(data).join("tollhouse.db").exists());
}
