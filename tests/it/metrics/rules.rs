//! The rules for Prometheus in `deploy/prometheus`: `promtool` accepts and tests them, what they name exists, and each
//! alert has a runbook.

use std::collections::BTreeSet;
use std::fs;

use super::prometheus::program;
use super::{MonitoredServer, record_backup};
use crate::support::{assert_same_items, guide};

const RULES: [&str; 2] = ["deploy/prometheus/alerts.yml", "deploy/prometheus/recording.yml"];
const RUNBOOKS: &str = "docs/operate/monitor.md";

fn read(file: &str) -> String {
    fs::read_to_string(guide::root().join(file)).unwrap()
}

/// The values of a field, wherever it stands in a YAML file on one line.
fn values<'a>(text: &'a str, field: &str) -> Vec<&'a str> {
    let start = format!("{field}: ");
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(&start)).collect()
}

/// Runs `promtool` at the root of the repository, and fails with its output if it fails.
fn promtool(args: &[&str]) -> String {
    let mut command = program("promtool");
    let output = command.args(args).current_dir(guide::root()).output();
    let output = output.unwrap_or_else(|error| panic!("promtool: {error}; scripts/test fetches it"));
    let printed =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {printed}");
    printed
}

#[test]
fn promtool_accepts_the_rules() {
    for file in RULES {
        let printed = promtool(&["check", "rules", file]);
        assert!(printed.contains("SUCCESS"), "{printed}");
    }
}

#[test]
fn the_unit_tests_of_the_rules_pass() {
    promtool(&["test", "rules", "tests/prometheus/rules.yml"]);
    let tests = read("tests/prometheus/rules.yml");
    for alert in values(&read(RULES[0]), "alert") {
        assert!(tests.contains(alert), "no unit test names {alert}");
    }
}

#[test]
fn each_alert_has_a_runbook() {
    let alerts = read(RULES[0]);
    let names = values(&alerts, "alert");
    assert!(names.len() > 10, "{names:?}");
    let page = read(RUNBOOKS);
    let sections = page.lines().filter_map(|line| line.strip_prefix("### Tollhouse"));
    let sections = sections.map(|rest| format!("Tollhouse{rest}"));
    assert_same_items("runbooks", sections, names.iter().map(|name| (*name).to_owned()));
    let links = values(&alerts, "runbook").into_iter().map(str::to_owned);
    let anchors = names.iter().map(|name| format!("{RUNBOOKS}#{}", name.to_lowercase()));
    assert!(links.eq(anchors), "an annotation `runbook` names another alert");
    assert_eq!(values(&alerts, "severity").len(), names.len());
}

/// The metrics that a text names: not the recorded ones, whose names begin with their labels and a colon.
pub(super) fn named_metrics(text: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let words = text.split(|letter: char| !is_name(letter));
    let words = words.filter(|word| word.starts_with("tollhouse_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

/// Fails unless the server exposes each of these metrics.
pub(super) async fn assert_are_exposed(names: BTreeSet<String>) {
    let dir = tempfile::tempdir().unwrap();
    let server = MonitoredServer::start(dir.path(), &[]);
    server.send_sample_requests().await;
    record_backup(dir.path(), 1_795_417_689_000);
    let metrics = server.scrape().await;
    for name in names {
        let is_exposed = metrics.samples.keys().any(|sample| sample.split('{').next() == Some(&name));
        assert!(is_exposed, "{name} isn't in /metrics:\n{}", metrics.text);
    }
}

#[tokio::test]
async fn each_metric_that_the_rules_name_is_exposed() {
    let text = RULES.map(read).concat();
    let names = named_metrics(&text);
    assert!(names.len() > 10, "{names:?}");
    assert_are_exposed(names).await;
    let recorded = values(&text, "record");
    let used = text.split(|letter: char| letter.is_whitespace()).filter(|word| word.starts_with("job:"));
    let missing: Vec<_> = used.filter(|word| !recorded.contains(word)).collect();
    assert!(missing.is_empty(), "no rule records {missing:?}");
}
