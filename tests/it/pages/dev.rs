//! `tollhouse serve --dev`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Binary, Client};

/// A server with sample data and the tests' admin key. Nobody limits how often the tests call.
pub(crate) fn serve() -> Binary {
    let mut command = Binary::command(&["serve", "--dev", "--listen", "127.0.0.1:0"]);
    command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    Binary::start(command)
}

/// What stands behind this in what it says at the start.
fn told(server: &Binary, before: &str) -> String {
    let line = server.start.iter().find_map(|line| line.split_once(before));
    line.unwrap_or_else(|| panic!("{before}: {:#?}", server.start)).1.trim().to_owned()
}

#[tokio::test]
async fn there_is_something_to_see_at_once() {
    let server = serve();
    let admin = server.admin();
    // What the documentation's examples name.
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
    // By night there is less than by day.
    let hours = admin.get("/analytics/usage?key_id=key_123&period=7d&interval=hour").await;
    let sum = |of: [&str; 3]| -> u64 {
        let hours = hours.data()["series"].as_array().unwrap().iter();
        let wanted = hours.filter(|hour| of.iter().any(|at| hour["start"].as_str().unwrap().contains(at)));
        wanted.map(|hour| hour["requests"].as_u64().unwrap()).sum()
    };
    assert!(sum(["T12:", "T13:", "T14:"]) > 2 * sum(["T00:", "T01:", "T02:"]));
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

    // The trail leads through the month, in order, and its chain is whole.
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

    // There is a key to verify.
    let clients = told(&server, "a key of org_123 to verify: ");
    let answer = admin
        .send(admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify").json(&json!({"key": clients})))
        .await;
    assert_eq!((&answer.data()["code"], &answer.data()["key_id"]), (&json!("VALID"), &json!("key_123")));
}

/// Every key of the sample says when it was last used, and never before it was made.
#[tokio::test]
async fn the_sample_is_plausible() {
    let server = serve();
    let keys = server.admin().get("/api-keys?limit=100").await;
    let keys = keys.data().as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for key in keys {
        let (made, used) = (text(&key["created_at"]), text(&key["last_used_at"]));
        assert!(used.is_empty() || used > made, "{key}");
        let ended = text(&key["revoked_at"]);
        assert!(ended.is_empty() || used < ended, "{key}");
    }
    assert!(keys.iter().filter(|key| key["last_used_at"].is_string()).count() > 8);
}

fn directory_of(server: &Binary) -> PathBuf {
    told(server, "sample data in ").trim_end_matches(" …").into()
}

#[tokio::test]
async fn it_is_thrown_away_and_the_key_is_printed() {
    let place = tempfile::tempdir().unwrap();
    let mut command = Binary::command(&["serve", "--dev", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", place.path()).env("TOLLHOUSE_DATABASE__DIR", place.path().join("mine"));
    let mut server = Binary::start(command);
    let dir = directory_of(&server);
    assert!(dir.starts_with(place.path()) && dir.join("tollhouse.db").exists(), "{}", dir.display());
    assert!(told(&server, "console    ").starts_with(&server.url));
    let key = told(&server, "admin key  ");
    assert_eq!(Client::new(&server.url, Some(&key)).get("/whoami").await.status, 200);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "something is left");
}

#[test]
fn it_is_no_way_to_serve_others_or_to_open_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let wrong = |args: &[&str], code: i32, says: &str| {
        let output = Binary::run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && said.contains(says), "{args:?}: {said}");
    };
    wrong(&["serve", "--dev", "--data", data], 2, "remove --data");
    wrong(&["--data", data, "serve", "--dev"], 2, "remove --data");
    wrong(&["serve", "--dev", "--listen", "0.0.0.0:0"], 2, "only on loopback");
    wrong(&["serve", "--dev", "--admin-key-file", "k"], 2, "remove --admin-key-file");
    let config = dir.path().join("open.toml");
    fs::write(&config, "[http]\nlisten = \"0.0.0.0:0\"\n").unwrap();
    wrong(&["serve", "--dev", "--config", config.to_str().unwrap()], 1, "only on loopback");
    assert!(!Path::new(data).join("tollhouse.db").exists());
}
