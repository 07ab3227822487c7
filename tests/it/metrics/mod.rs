//! `/metrics`: the metrics match the documentation and what happened, the real Prometheus can read
//! them, and rules and dashboard use them.

mod dashboard;
mod listener;
mod prometheus;
mod rules;
mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Answer, Binary, Client};

/// A server with metrics enabled.
struct MonitoredServer {
    server: Binary,
    /// The metrics listener's base URL.
    url: String,
}

impl MonitoredServer {
    fn start(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let server = Binary::serve_with(dir, |command: &mut Command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_METRICS__LISTEN", "127.0.0.1:0");
            command.envs(variables.iter().copied());
        });
        let url = server.metrics_url();
        Self { url: url.strip_suffix("/metrics").unwrap().to_owned(), server }
    }

    async fn get(&self, path: &str) -> Answer {
        Client::new(&self.url, None).get_at_root(path).await
    }

    async fn scrape(&self) -> Exposition {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Exposition::parse(&answer.text)
    }

    /// Verifies a key; returns the `code` of the answer.
    async fn verify(&self, body: Value) -> String {
        let admin = self.server.admin();
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify").json(&body);
        let answer = admin.send(request).await;
        answer.data()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Creates a platform key; returns its secret.
    async fn key(&self, body: Value) -> String {
        let created = self.server.admin().post("/api-keys", body).await;
        assert_eq!(created.status, 201, "{created:?}");
        created.data()["key"].as_str().unwrap().to_owned()
    }

    /// Sends requests of every kind that the metrics count; returns the secret of the key used.
    async fn send_sample_requests(&self) -> String {
        let limit = json!({"limit": 2, "window_seconds": 3600});
        let key = self.key(json!({"name": "n", "scopes": ["workflows:read"], "limits": [limit]})).await;
        for code in ["VALID", "VALID", "RATE_LIMITED"] {
            assert_eq!(self.verify(json!({"key": key})).await, code);
        }
        let scopes = json!({"key": key, "scopes": ["workflows:write"], "dry_run": true});
        assert_eq!(self.verify(scopes).await, "INSUFFICIENT_SCOPE");
        assert_eq!(self.verify(json!({"key": "toll_"})).await, "NOT_FOUND");
        assert_eq!(self.verify(json!({})).await, "", "an invalid request is no verification");
        let key = Client::new(&self.server.url, Some(&key));
        assert_eq!(key.get_at_root("/v1/forward-auth").await.status, 401, "the request has no key");
        let form = [("token", key.key.as_deref().unwrap())];
        let admin = self.server.admin();
        let introspect = admin.request_at_root(reqwest::Method::POST, "/v1/introspect").form(&form);
        assert_eq!(admin.send(introspect).await.json["active"], true);
        key.key.unwrap()
    }
}

/// A parsed text exposition of the metrics.
#[derive(Debug)]
struct Exposition {
    text: String,
    /// Name → type.
    types: BTreeMap<String, String>,
    /// Name with labels → value.
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    fn parse(text: &str) -> Self {
        let mut types = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(declaration) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declaration.split_once(' ').unwrap();
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(
                    samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(),
                    "duplicate sample {sample}"
                );
            }
        }
        Self { text: text.to_owned(), types, samples }
    }

    /// The value of a sample; `None` if it is missing.
    fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// The names of a metric's labels, without `le`, which histograms add.
    fn labels(&self, name: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for sample in self.samples.keys() {
            let Some(rest) = sample.strip_prefix(name) else { continue };
            let suffix = rest.split('{').next().unwrap();
            if !matches!(suffix, "" | "_bucket" | "_count" | "_sum") {
                continue;
            }
            let Some((_, labels)) = rest.split_once('{') else { continue };
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            names.extend(labels.map(|label| label.split('=').next().unwrap().to_owned()));
        }
        names.remove("le");
        names
    }
}

/// Records the time of a verified backup, as `tollhouse backup` does.
fn record_backup(dir: &Path, at_millis: i64) {
    let conn = rusqlite::Connection::open(dir.join("tollhouse.db")).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    let sql = "INSERT INTO meta (name, value) VALUES ('last_backup_at', ?1) \
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    conn.execute(sql, [at_millis.to_string()]).unwrap();
}
