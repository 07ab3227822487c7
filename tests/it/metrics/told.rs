//! What is told is documented, and it is what happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Told, Watched, note_backup};
use crate::support::ADMIN_KEY;

/// Name → type and labels, as the table of `docs/reference/metrics.md` has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/reference/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, what, ""] = cells.as_slice() else { panic!("{row}") };
        assert!(what.ends_with('.'), "{row}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.trim_end_matches('`').to_owned(), ((*kind).to_owned(), labels))
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_table_of_the_documentation_is_what_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::start(dir.path(), &[]);
    watched.ask_everything().await;
    note_backup(dir.path(), 1_795_417_689_000);
    let told = watched.scrape().await;
    let types = told.types.iter();
    let found: BTreeMap<_, _> =
        types.map(|(name, kind)| (name.clone(), (kind.clone(), told.labels(name)))).collect();
    assert_eq!(found, documented());
    for name in told.types.keys() {
        assert!(told.text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[tokio::test]
async fn counts_are_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::start(dir.path(), &[]);
    let before = watched.scrape().await;
    assert_eq!(before.get("tollhouse_verifications_total{code=\"VALID\"}"), Some(0.0));
    watched.ask_everything().await;
    let admin = watched.server.admin();
    for _ in 0..3 {
        assert_eq!(admin.get("/users/user_none").await.status, 404);
    }
    let body = json!({"id": "org_1", "name": "n", "email": "n@example.com"});
    assert_eq!(admin.post("/organizations", body.clone()).await.status, 201);
    assert_eq!(admin.post("/organizations", body).await.status, 409);
    assert_eq!(watched.server.client("nobody").get("/users").await.status, 401);
    assert_eq!(admin.get_at_root("/nowhere/at/all").await.status, 404);
    assert_eq!(admin.call(reqwest::Method::PUT, "/users", None).await.status, 405);
    let head = admin.request_at_root(reqwest::Method::HEAD, "/healthz");
    assert_eq!(admin.send(head).await.status, 200);
    for _ in 0..7 {
        let asked = admin.request_at_root(reqwest::Method::GET, "/v1/forward-auth/scope=workflows:read/x/y");
        assert_eq!(admin.send(asked).await.status, 200);
    }

    let told = watched.scrape().await;
    let requests = |route: &str, method: &str, status: u16| {
        told.get(&format!(
            "tollhouse_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}"
        ))
    };
    for (route, method, status, count) in [
        ("/v1/keys/verify", "POST", 200, 5.0),
        ("/v1/keys/verify", "POST", 400, 1.0),
        ("/v1/introspect", "POST", 200, 1.0),
        ("/v1/forward-auth", "ANY", 200, 7.0),
        ("/v1/forward-auth", "ANY", 401, 1.0),
        ("/admin/v1/users/{id}", "GET", 404, 3.0),
        ("/admin/v1/users", "GET", 401, 1.0),
        ("/admin/v1/organizations", "POST", 201, 1.0),
        ("/admin/v1/organizations", "POST", 409, 1.0),
        ("/admin/v1/api-keys", "POST", 201, 1.0),
        ("/healthz", "GET", 200, 1.0),
        ("", "", 404, 1.0),
        ("", "", 405, 1.0),
    ] {
        assert_eq!(requests(route, method, status), Some(count), "{route} {method} {status}: {}", told.text);
    }
    for (code, count) in [
        ("VALID", 10.0), // Two by verify, one by introspect, seven by forward-auth.
        ("RATE_LIMITED", 1.0),
        ("INSUFFICIENT_SCOPE", 1.0),
        ("NOT_FOUND", 1.0),
        ("MALFORMED", 0.0),
        ("QUOTA_EXCEEDED", 0.0),
    ] {
        let sample = format!("tollhouse_verifications_total{{code=\"{code}\"}}");
        assert_eq!(told.get(&sample), Some(count), "{code}: {}", told.text);
    }
    for (endpoint, count) in [("verify", 6.0), ("introspect", 1.0), ("forward_auth", 8.0)] {
        let name = "tollhouse_verification_duration_seconds";
        let sample = |part: &str| told.get(&format!("{name}_{part}{{endpoint=\"{endpoint}\"}}"));
        assert_eq!(sample("count"), Some(count), "{endpoint}: {}", told.text);
        assert!(sample("sum").is_some_and(|sum| sum > 0.0 && sum < 60.0), "{}", told.text);
        let last = told.get(&format!("{name}_bucket{{endpoint=\"{endpoint}\",le=\"+Inf\"}}"));
        assert_eq!(last, Some(count));
    }
    plausible(&before, &told);
}

/// What no test can know exactly.
fn plausible(before: &Told, told: &Told) {
    let get = |sample: &str| told.get(sample).unwrap_or_else(|| panic!("no {sample}: {}", told.text));
    let grew = |sample: &str| get(sample) - before.get(sample).unwrap();
    // The key of the test and the one that is nobody's are looked up once and found after that.
    assert!(grew("tollhouse_key_cache_misses_total") >= 2.0);
    assert!(grew("tollhouse_key_cache_hits_total") >= 8.0);
    assert!(get("tollhouse_key_cache_entries{kind=\"known\"}") >= 2.0);
    assert!(get("tollhouse_key_cache_entries{kind=\"unknown\"}") >= 1.0);
    assert!(grew("tollhouse_writer_mutations_total") >= 2.0);
    assert_eq!(get("tollhouse_writer_refused_total"), 0.0);
    assert_eq!(get("tollhouse_writer_queue_limit"), 1024.0);
    assert!((0.0..=1024.0).contains(&get("tollhouse_writer_queue_length")));
    let groups = get("tollhouse_writer_group_size_count");
    assert!(groups >= 3.0 && get("tollhouse_writer_group_size_sum") >= groups);
    assert_eq!(get("tollhouse_writer_commit_duration_seconds_count"), groups);
    assert!(get("tollhouse_writer_commit_duration_seconds_sum") > 0.0);
    assert!(get("tollhouse_database_bytes") > 0.0 && get("tollhouse_wal_bytes") > 0.0);
    assert!(get("tollhouse_disk_free_bytes") > 0.0);
    assert_eq!(told.get("tollhouse_last_backup_timestamp_seconds"), None, "there was none");
    let resident = get("process_resident_memory_bytes");
    assert!((1e6..1e10).contains(&resident), "{resident}");
    assert!(get("process_open_fds") > 5.0 && get("process_max_fds") > get("process_open_fds"));
    let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - get("process_start_time_seconds");
    assert!((-5.0..600.0).contains(&age), "{age}");
    assert!(get("process_cpu_seconds_total") > 0.0);
}

/// Whatever comes in, no label says it: neither a secret, nor an id, nor a path that somebody made up.
#[tokio::test]
async fn i6_nothing_of_anybody_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::start(dir.path(), &[]);
    let secret = watched.ask_everything().await;
    let admin = watched.server.admin();
    let made = admin.get("/api-keys").await;
    let id = made.data()[0]["id"].as_str().unwrap().to_owned();
    let count = async || watched.scrape().await.samples.len();
    admin.get(&format!("/api-keys/{id}")).await;
    admin.get_at_root("/warm/up").await;
    let before = count().await;
    for number in 0..50 {
        admin.get_at_root(&format!("/made/up/{number}/{secret}")).await;
        let method = reqwest::Method::from_bytes(format!("MADE{number}").as_bytes()).unwrap();
        admin.send(admin.request_at_root(method, "/made/up")).await;
        admin.get(&format!("/api-keys/{id}?made=up{number}")).await;
    }
    let told = watched.scrape().await;
    // A bad query on a known route is the one new status.
    assert!(told.samples.len() <= before + 1, "{} samples became {}", before, told.samples.len());
    for word in [secret.as_str(), ADMIN_KEY, &id, "made", "MADE"] {
        assert!(!told.text.contains(word), "{word} in {}", told.text);
    }
}
