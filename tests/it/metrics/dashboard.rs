//! The dashboard for Grafana in `deploy/grafana`: a real Prometheus answers each of its queries.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::prometheus::Prometheus;
use super::rules::{assert_are_exposed, named_metrics};
use super::{MonitoredServer, record_backup};
use crate::support::guide;

fn dashboard() -> Value {
    let text = fs::read_to_string(guide::root().join("deploy/grafana/tollhouse.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The panels with queries: the title of each, and its queries.
fn panels(dashboard: &Value) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let queries = |panel: &Value| {
        panel["targets"].as_array().unwrap().iter().map(|target| text(&target["expr"])).collect::<Vec<_>>()
    };
    panels.map(|panel| (text(&panel["title"]), queries(panel))).collect()
}

#[test]
fn the_panels_of_the_dashboard_are_described_and_do_not_overlap() {
    let dashboard = dashboard();
    let mut taken = std::collections::BTreeMap::new();
    let mut ids = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: the ID is used twice");
        let position = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(position("x") + position("w") <= 24, "{title} is too wide");
        for x in position("x")..position("x") + position("w") {
            for y in position("y")..position("y") + position("h") {
                let other = taken.insert((x, y), title);
                assert!(other.is_none(), "{title} overlaps {other:?}");
            }
        }
        assert!(
            panel["type"] == "row" || panel["description"].as_str().is_some_and(|text| text.ends_with('.'))
        );
    }
}

#[tokio::test]
async fn each_metric_that_the_dashboard_names_is_exposed() {
    let queries: Vec<_> = panels(&dashboard()).into_iter().flat_map(|(_, queries)| queries).collect();
    let names = named_metrics(&queries.join("\n"));
    assert!(names.len() > 25, "{names:?}");
    assert_are_exposed(names).await;
}

/// A misspelled label or a mistake in the syntax has no result.
#[tokio::test]
async fn each_query_of_the_dashboard_has_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let server = MonitoredServer::start(dir.path(), &[]);
    let mut prometheus = Prometheus::start(&server);
    // The first values, so that the later ones are an increase.
    prometheus.wait_for("tollhouse_verifications_total{code=\"VALID\"}", 0.0).await;
    server.send_sample_requests().await;
    record_backup(dir.path(), 1_795_417_689_000);
    prometheus.wait_for("tollhouse_verifications_total{code=\"VALID\"}", 3.0).await;
    // Counters of requests appear with the first one; a second one is an increase.
    server.send_sample_requests().await;
    prometheus.wait_for("tollhouse_verifications_total{code=\"VALID\"}", 6.0).await;
    let panels = panels(&dashboard());
    assert!(panels.len() > 25, "{}", panels.len());
    for (title, queries) in panels {
        assert!(!queries.is_empty(), "{title} has no query");
        for query in queries {
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$job", "tollhouse")
                .replace("$instance", ".+")
                // The test causes no server errors.
                .replace("status=~\"5..\"", "status=~\"2..\"");
            assert!(!query.replace("${1}", "").contains('$'), "{title}: an unknown variable: {query}");
            let waiting = async {
                while prometheus.query(&query).await.is_none() {
                    tokio::task::yield_now().await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
            assert!(waited.is_ok(), "{title}: no result: {query}");
        }
    }
}
