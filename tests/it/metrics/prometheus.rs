//! Tests with the real Prometheus, from Debian's package.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Client, MonitoredServer, record_backup};
use crate::support::{free_address, guide};

/// A program of Debian's package.
pub(super) fn program(name: &str) -> Command {
    Command::new(format!("{}/target/debian/usr/bin/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// A Prometheus with the guide's configuration and a shorter scrape interval.
pub(super) struct Prometheus {
    child: Child,
    client: Client,
    dir: tempfile::TempDir,
}

impl Prometheus {
    pub(super) fn start(server: &MonitoredServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = server.url.strip_prefix("http://").unwrap();
        let config = guide::block("reference/metrics.md", "prometheus.yml").replace("127.0.0.1:9464", target);
        assert!(config.contains(target), "docs/reference/metrics.md names another target");
        let config = format!("global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\n{config}");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = free_address();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = program("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}; scripts/test fetches it"));
        Self { child, client: Client::new(&format!("http://{address}"), None), dir }
    }

    /// The current value of a query; `None` while it has no result. Fails if Prometheus doesn't accept the query.
    pub(super) async fn query(&mut self, query: &str) -> Option<f64> {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!(
                "Prometheus ended, {status}: {}",
                fs::read_to_string(self.dir.path().join("log")).unwrap()
            );
        }
        let request = self.client.request_at_root(reqwest::Method::GET, "/api/v1/query");
        let answer = Client::try_send(request.query(&[("query", query)])).await.ok()?;
        assert_ne!(answer.status, 400, "{query}: {}", answer.text);
        let value: &Value = &answer.json["data"]["result"][0]["value"][1];
        value.as_str().map(|value| value.parse().unwrap())
    }

    /// Waits until a query has this value.
    pub(super) async fn wait_for(&mut self, query: &str, expected: f64) {
        let waiting = async {
            loop {
                if self.query(query).await == Some(expected) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "{query} is not {expected} but {:?}", self.query(query).await);
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn prometheus_reads_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let server = MonitoredServer::start(dir.path(), &[]);
    let mut prometheus = Prometheus::start(&server);
    prometheus.wait_for("up{job=\"tollhouse\"}", 1.0).await;
    prometheus.wait_for("tollhouse_verifications_total{code=\"VALID\"}", 0.0).await;
    prometheus.wait_for("absent(tollhouse_last_backup_timestamp_seconds)", 1.0).await;
    server.send_sample_requests().await;
    let backup_time = std::time::UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(3600);
    record_backup(dir.path(), i64::try_from(backup_time.as_millis()).unwrap());
    for (query, value) in [
        ("tollhouse_verifications_total{code=\"VALID\"}", 3.0),
        ("sum(tollhouse_verifications_total)", 6.0),
        ("sum(tollhouse_http_requests_total{route=\"/v1/keys/verify\"})", 6.0),
        ("tollhouse_verification_duration_seconds_count{endpoint=\"verify\"}", 6.0),
        ("sum(tollhouse_verification_duration_seconds_bucket{le=\"+Inf\"})", 8.0),
        ("tollhouse_http_requests_total{route=\"/admin/v1/api-keys\",method=\"POST\",status=\"201\"}", 1.0),
        // The age of the backup in minutes.
        ("floor((time() - tollhouse_last_backup_timestamp_seconds) / 60)", 60.0),
        ("count(tollhouse_build_info)", 1.0),
    ] {
        prometheus.wait_for(query, value).await;
    }
    let quantile = "histogram_quantile(0.5, sum by (le) (tollhouse_verification_duration_seconds_bucket))";
    let median = prometheus.query(quantile).await.unwrap();
    assert!((1e-6..1.0).contains(&median), "{median}");
}

#[tokio::test]
async fn promtool_reports_no_problems() {
    let dir = tempfile::tempdir().unwrap();
    let server = MonitoredServer::start(dir.path(), &[]);
    server.send_sample_requests().await;
    record_backup(dir.path(), 1_795_417_689_000);
    let metrics = server.scrape().await;
    let mut promtool = program("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool =
        promtool.spawn().unwrap_or_else(|error| panic!("promtool: {error}; scripts/test fetches it"));
    promtool.stdin.take().unwrap().write_all(metrics.text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let messages =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && messages.trim().is_empty(), "{messages}\n{}", metrics.text);
}

#[test]
fn the_guides_prometheus_files_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in guide::blocks("reference/metrics.md") {
        if name.is_empty() {
            continue; // Tollhouse's own setting, covered by other tests.
        }
        fs::write(dir.path().join(&name), text).unwrap();
        let output =
            program("promtool").args(["check", "config", &name]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
    }
    assert!(dir.path().join("prometheus.yml").exists());
}
