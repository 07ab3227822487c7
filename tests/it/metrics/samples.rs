//! The metrics match the documentation and count what happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Exposition, MonitoredServer, record_backup};
use crate::support::{ADMIN_KEY, assert_same_items};

/// Name → type and labels, from the table in `docs/reference/metrics.md`.
fn documented_metrics() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/reference/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, description, ""] = cells.as_slice() else { panic!("{row}") };
        assert!(description.ends_with('.'), "{row}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.trim_end_matches('`').to_owned(), ((*kind).to_owned(), labels))
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_metrics_match_the_documented_table() {
    let dir = tempfile::tempdir().unwrap();
    let monitored = MonitoredServer::start(dir.path(), &[]);
    monitored.send_sample_requests().await;
    record_backup(dir.path(), 1_795_417_689_000);
    let metrics = monitored.scrape().await;
    let types = metrics.types.iter();
    let actual = types.map(|(name, kind)| (name.clone(), (kind.clone(), metrics.labels(name))));
    assert_same_items("metrics", actual, documented_metrics());
    for name in metrics.types.keys() {
        assert!(metrics.text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[tokio::test]
async fn counters_match_the_requests() {
    let dir = tempfile::tempdir().unwrap();
    let monitored = MonitoredServer::start(dir.path(), &[]);
    let before = monitored.scrape().await;
    assert_eq!(before.get("tollhouse_verifications_total{code=\"VALID\"}"), Some(0.0));
    monitored.send_sample_requests().await;
    let admin = monitored.server.admin();
    for _ in 0..3 {
        assert_eq!(admin.get("/users/user_none").await.status, 404);
    }
    let body = json!({"id": "org_1", "name": "n", "email": "n@example.com"});
    assert_eq!(admin.post("/organizations", body.clone()).await.status, 201);
    assert_eq!(admin.post("/organizations", body).await.status, 409);
    assert_eq!(monitored.server.client("nobody").get("/users").await.status, 401);
    assert_eq!(admin.get_at_root("/nowhere/at/all").await.status, 404);
    assert_eq!(admin.call(reqwest::Method::PUT, "/users", None).await.status, 405);
    let head = admin.request_at_root(reqwest::Method::HEAD, "/healthz");
    assert_eq!(admin.send(head).await.status, 200);
    for _ in 0..7 {
        let request =
            admin.request_at_root(reqwest::Method::GET, "/v1/forward-auth/scope=workflows:read/x/y");
        assert_eq!(admin.send(request).await.status, 200);
    }

    let metrics = monitored.scrape().await;
    let requests = |route: &str, method: &str, status: u16| {
        metrics.get(&format!(
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
        assert_eq!(
            requests(route, method, status),
            Some(count),
            "{route} {method} {status}: {}",
            metrics.text
        );
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
        assert_eq!(metrics.get(&sample), Some(count), "{code}: {}", metrics.text);
    }
    for (endpoint, count) in [("verify", 6.0), ("introspect", 1.0), ("forward_auth", 8.0)] {
        let name = "tollhouse_verification_duration_seconds";
        let sample = |part: &str| metrics.get(&format!("{name}_{part}{{endpoint=\"{endpoint}\"}}"));
        assert_eq!(sample("count"), Some(count), "{endpoint}: {}", metrics.text);
        assert!(sample("sum").is_some_and(|sum| sum > 0.0 && sum < 60.0), "{}", metrics.text);
        let last = metrics.get(&format!("{name}_bucket{{endpoint=\"{endpoint}\",le=\"+Inf\"}}"));
        assert_eq!(last, Some(count));
    }
    assert_plausible(&before, &metrics);
}

/// Checks the metrics whose exact values depend on timing.
fn assert_plausible(before: &Exposition, metrics: &Exposition) {
    let get = |sample: &str| metrics.get(sample).unwrap_or_else(|| panic!("no {sample}: {}", metrics.text));
    let increase = |sample: &str| get(sample) - before.get(sample).unwrap();
    // The test's key and the unknown one are loaded once and then served from the cache.
    assert!(increase("tollhouse_key_cache_misses_total") >= 2.0);
    assert!(increase("tollhouse_key_cache_hits_total") >= 8.0);
    assert!(get("tollhouse_key_cache_entries{kind=\"known\"}") >= 2.0);
    assert!(get("tollhouse_key_cache_entries{kind=\"unknown\"}") >= 1.0);
    assert!(increase("tollhouse_writer_mutations_total") >= 2.0);
    assert_eq!(get("tollhouse_writer_refused_total"), 0.0);
    assert_eq!(get("tollhouse_writer_queue_limit"), 1024.0);
    assert!((0.0..=1024.0).contains(&get("tollhouse_writer_queue_length")));
    let groups = get("tollhouse_writer_group_size_count");
    assert!(groups >= 3.0 && get("tollhouse_writer_group_size_sum") >= groups);
    assert_eq!(get("tollhouse_writer_commit_duration_seconds_count"), groups);
    assert!(get("tollhouse_writer_commit_duration_seconds_sum") > 0.0);
    assert!(get("tollhouse_database_bytes") > 0.0 && get("tollhouse_wal_bytes") > 0.0);
    assert!(get("tollhouse_disk_free_bytes") > 0.0);
    assert_eq!(metrics.get("tollhouse_last_backup_timestamp_seconds"), None, "no backup was made");
    let resident = get("process_resident_memory_bytes");
    assert!((1e6..1e10).contains(&resident), "{resident}");
    assert!(get("process_open_fds") > 5.0 && get("process_max_fds") > get("process_open_fds"));
    let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - get("process_start_time_seconds");
    assert!((-5.0..600.0).contains(&age), "{age}");
    assert!(get("process_cpu_seconds_total") > 0.0);
}

/// No label contains request data: no secret, no id and no unknown path.
#[tokio::test]
async fn i6_metrics_contain_no_secrets_ids_or_request_paths() {
    let dir = tempfile::tempdir().unwrap();
    let monitored = MonitoredServer::start(dir.path(), &[]);
    let secret = monitored.send_sample_requests().await;
    let admin = monitored.server.admin();
    let listed = admin.get("/api-keys").await;
    let id = listed.data()[0]["id"].as_str().unwrap().to_owned();
    let count = async || monitored.scrape().await.samples.len();
    admin.get(&format!("/api-keys/{id}")).await;
    admin.get_at_root("/warm/up").await;
    let before = count().await;
    for number in 0..50 {
        admin.get_at_root(&format!("/made/up/{number}/{secret}")).await;
        let method = reqwest::Method::from_bytes(format!("MADE{number}").as_bytes()).unwrap();
        admin.send(admin.request_at_root(method, "/made/up")).await;
        admin.get(&format!("/api-keys/{id}?made=up{number}")).await;
    }
    let metrics = monitored.scrape().await;
    // An invalid query on a known route is the only new status.
    assert!(metrics.samples.len() <= before + 1, "{} samples became {}", before, metrics.samples.len());
    for word in [secret.as_str(), ADMIN_KEY, &id, "made", "MADE"] {
        assert!(!metrics.text.contains(word), "{word} in {}", metrics.text);
    }
}
