//! Reports of usage (`POST /v1/keys/usage`) from many callers: they share writes, delay no changes, and lose nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::subject::Subject;
use tollhouse::domain::usage::{Interval, Span, UsageCounts};
use tollhouse::store;

use crate::support::{ADMIN_KEY, Answer, Binary, Client, Server, until};

const METERS: [&str; 8] = ["requests", "a", "b", "c", "d", "e", "f", "g"];

/// Starts a server with `key_1` of `org_1`, which has these limits.
async fn start(dir: &Path, limits: Value) -> Binary {
    let server = Binary::serve_with(dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    });
    let admin = server.admin();
    let meters = admin.request(Method::PATCH, "/config").header("if-match", "*");
    let answer = admin.send(meters.json(&json!({ "meters": METERS }))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = json!({"id": "org_1", "name": "n", "email": "n@example.com"});
    assert_eq!(admin.post("/organizations", body).await.status, 201);
    assert_eq!(admin.patch("/organizations/org_1", json!({"limits": []})).await.status, 200);
    let body =
        json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": [], "limits": limits});
    assert_eq!(admin.post("/api-keys", body).await.status, 201);
    server
}

async fn send(client: &Client, path: &str, body: &Value) -> Answer {
    client.send(client.request_at_root(Method::POST, path).json(body)).await
}

/// A report of `key_1` on every meter.
fn report() -> (&'static str, Value) {
    let costs: serde_json::Map<_, _> = METERS.iter().map(|meter| ((*meter).to_owned(), json!(1))).collect();
    ("/v1/keys/usage", json!({"key_id": "key_1", "costs": costs}))
}

/// Callers that repeat a request until they are stopped.
struct Flood {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Flood {
    /// Starts the callers, and waits until each had time for a few requests.
    async fn start(server: &Binary, callers: usize, (path, body): (&'static str, Value)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let caller = |_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            let (client, body) = (server.admin(), body.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = send(&client, path, &body).await;
                    assert!(answer.status == 200 || answer.status == 503, "{answer:?}");
                    answered.fetch_add(u64::from(answer.status == 200), Ordering::Relaxed);
                }
            })
        };
        let flood = Self { tasks: (0..callers).map(caller).collect(), stop, answered };
        flood.wait_for(3 * callers).await;
        flood
    }

    /// Waits for this number of answers; returns the number of answers per second.
    #[allow(clippy::disallowed_methods)] // The rate is that of this machine.
    async fn wait_for(&self, answers: usize) -> f64 {
        let answers = answers as u64;
        let (began, before) = (Instant::now(), self.answered.load(Ordering::Relaxed));
        until("the callers are answered", || self.answered.load(Ordering::Relaxed) >= before + answers).await;
        (self.answered.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64()
    }

    /// Stops the callers; returns the number of answers.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// A change waits for the reports of one write at most, however many reports of an organization wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_a_change_waits_for_few_reports() {
    const REPORTS: u64 = 300;
    let server = Server::start().await;
    server.organization("org_1").await;
    let key = json!({"id": "key_1", "organization_id": "org_1", "name": "n", "scopes": [], "limits": []});
    let (key, _) = server.key_with(key).await;
    let subject = Subject::Key(server.credential(key.key.as_deref().unwrap()).await.seq);
    let today = Span::until(server.clock.now(), 1, Interval::Day);
    let stored =
        move |usage: Vec<(_, UsageCounts)>| usage.iter().map(|(_, counts)| counts.cost()).sum::<u64>();
    let body = json!({"key_id": "key_1", "costs": {"requests": 1}});

    let (release, released) = mpsc::channel::<()>();
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let db = server.app.db.clone();
    let blocked = tokio::spawn(async move {
        db.write(move |_| {
            began.send(()).unwrap();
            // Fails when the sender is dropped.
            let _ = released.recv();
            Ok(())
        })
        .await
    });
    begun.recv().await.unwrap();
    let accepted = server.app.traffic.http_connections.accepted_count();
    let reports: Vec<_> = (0..REPORTS)
        .map(|_| {
            let (client, body) = (server.admin(), body.clone());
            tokio::spawn(async move { send(&client, "/v1/keys/usage", &body).await })
        })
        .collect();
    until("the reports arrive", || {
        server.app.traffic.http_connections.accepted_count() >= accepted + REPORTS
    })
    .await;
    for _ in 0..20 {
        // Answered by the same threads, after what has arrived.
        assert_eq!(server.anonymous().get_at_root("/healthz").await.status, 200);
    }
    // The change is in the queue of the writer before the writer goes on.
    let change = server.app.db.write(move |tx| store::usage::usage_by_bucket(tx, subject, &today));
    let (seen, ()) = tokio::join!(change, async { drop(release) });
    let seen = stored(seen.unwrap());
    assert!(seen <= 64, "the change waited for {seen} reports");
    blocked.await.unwrap().unwrap();
    for report in reports {
        let answer = report.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let usage = server.app.db.read(move |tx| store::usage::usage_by_bucket(tx, subject, &today)).await;
    assert_eq!(stored(usage.unwrap()), REPORTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_wait_share_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), json!([{"meter": "a", "limit": 1000, "period": "day"}])).await;
    let mut rates = Vec::new();
    let mut reports = Vec::new();
    for callers in [1, 64] {
        let flood = Flood::start(&server, callers, report()).await;
        rates.push(flood.wait_for(100 * callers.min(10)).await);
        reports.push(flood.stop().await);
    }
    assert!(rates[1] > rates[0], "reports per second of one and of 64 callers: {rates:?}");
    assert_eq!(server.terminate(), Some(0));
    let stopped: Value = serde_json::from_str(&server.line_with("\"stopped\"")).unwrap();
    let writes = stopped["mutations"].as_u64().unwrap();
    // A report of the only caller is a write of its own. Creating the resources, and the background jobs, take some.
    assert!(writes < reports[0] + reports[1] / 4 + 50, "{writes} writes of {reports:?} reports");
}

/// What limits have charged is what usage records, although reports are stored until the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_stop_during_reports_forfeits_nothing() {
    const LIMIT: u64 = 1_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let limits = json!([{"meter": "a", "limit": LIMIT, "period": "total"}]);
    let mut server = start(dir.path(), limits).await;
    let answered = Arc::new(AtomicU64::new(0));
    let verify = json!({"key_id": "key_1", "costs": {"a": 3}});
    let tasks: Vec<_> = [report(), ("/v1/keys/verify", verify)]
        .into_iter()
        .cycle()
        .take(64)
        .map(|(path, body)| {
            let (client, answered) = (server.admin(), answered.clone());
            tokio::spawn(async move {
                let request = || client.request_at_root(Method::POST, path).json(&body);
                // Until the server is gone.
                while let Ok(answer) = Client::try_send(request()).await {
                    if answer.status == 200 {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    until("requests are answered", || answered.load(Ordering::Relaxed) > 500).await;
    assert_eq!(server.terminate(), Some(0));
    for task in tasks {
        task.await.unwrap();
    }
    let server = Binary::serve(dir.path());
    let admin = server.admin();
    let ask = json!({"key_id": "key_1", "costs": {"a": 0}});
    let left = send(&admin, "/v1/keys/verify", &ask).await.data()["limits"][0]["remaining"].as_u64().unwrap();
    let usage = admin.get("/analytics/usage?key_id=key_1&meter=a&period=2d").await;
    assert_eq!(usage.data()["totals"]["cost"], LIMIT - left, "{usage:?}");
}
