//! A separate server for each test, and clients by role.
//!
//! [`Server::start`] serves the real routes on a real port with a real database file, inside the test's
//! process and with a clock that the test sets. [`Binary`] runs the real program.

#![allow(dead_code, unused_imports)] // Shared code; no test file uses all of it.

mod binary;
mod client;
pub(crate) mod guide;
mod raw;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tollhouse::app::App;
use tollhouse::clock::Clock;
use tollhouse::config::Config;
use tollhouse::domain::access::Caller;
use tollhouse::domain::action::Action;
use tollhouse::domain::api_key::Credential;
use tollhouse::domain::time::Timestamp;
use tollhouse::http::conn::limits::ConnectionLimits;
use tollhouse::http::conn::server;
use tollhouse::http::conn::workers::Workers;
use tollhouse::http::dispatch::Dispatcher;
use tollhouse::service::idempotency::IdempotentRequest;
use tollhouse::service::{RequestContext, lifecycle, operator_keys, windows};
use tollhouse::store;
use tollhouse::verify::secret::Secret;

pub(crate) use binary::{Binary, peak_memory};
pub(crate) use client::{Answer, Client, http_from};
pub(crate) use raw::{Raw, RawAnswer, head};

/// The platform key with the scope `*` that every test server starts with.
pub(crate) const ADMIN_KEY: &str = "the-first-admin-key-of-a-test-server-0123456789";

/// 2026-11-23T07:08:09Z.
pub(crate) const NOW: i64 = 1_795_417_689_000;

/// The longest time that a test waits for a condition before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until the condition holds; fails after [`DEADLINE`].
pub(crate) async fn until(description: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "timed out: {description}");
}

/// The number in an environment variable.
pub(crate) fn number_from_env(name: &str) -> Option<u64> {
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"));
    std::env::var(name).ok().map(parse)
}

/// Asserts that two sets are equal; otherwise reports how they differ.
#[track_caller]
pub(crate) fn assert_same_items<T: Ord + Debug>(
    subject: &str,
    actual: impl IntoIterator<Item = T>,
    expected: impl IntoIterator<Item = T>,
) {
    let actual: BTreeSet<T> = actual.into_iter().collect();
    let expected: BTreeSet<T> = expected.into_iter().collect();
    let missing: Vec<_> = expected.difference(&actual).collect();
    let unexpected: Vec<_> = actual.difference(&expected).collect();
    assert!(actual == expected, "{subject}: missing: {missing:#?}, unexpected: {unexpected:#?}");
}

/// Returns a loopback address and port that no other test uses, for programs that can't choose a free
/// port themselves. The IP address is random, so that the released port is not taken by another process.
pub(crate) fn free_address() -> SocketAddr {
    let ip = [127, fastrand::u8(1..255), fastrand::u8(..), fastrand::u8(1..255)];
    std::net::TcpListener::bind(SocketAddr::from((ip, 0))).unwrap().local_addr().unwrap()
}

pub(crate) struct Server {
    pub app: Arc<App>,
    pub clock: Clock,
    pub url: String,
    pub dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<usize>>,
}

impl Server {
    /// Starts with the shipped configuration, but without limits on calls. Tests of those limits set them.
    pub(crate) async fn start() -> Self {
        Self::with(|config| {
            config.rate_limits.admin_per_minute = 0;
            config.rate_limits.batch_per_minute = 0;
            config.rate_limits.failed_auth_per_minute = 0;
        })
        .await
    }

    /// Starts with the shipped configuration after `change`.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    /// Starts on a directory that may hold the data of an earlier server.
    pub(crate) async fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(dir, NOW, change).await
    }

    /// Like [`Server::start_in`], at this wall-clock time in milliseconds since the epoch.
    pub(crate) async fn start_at(dir: TempDir, now: i64, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::load_defaults().unwrap();
        config.database.dir = dir.path().join("data");
        change(&mut config);
        let limits = ConnectionLimits::from(&config.http);
        let clock = Clock::manual(Timestamp::from_millis(now));
        let app = lifecycle::open(config, clock.clone()).await.unwrap();
        operator_keys::create_first_key(&app, Secret::from_plain_text(ADMIN_KEY.to_owned())).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let dispatcher = Dispatcher::new(app.clone(), TaskTracker::new()).unwrap();
        windows::resume(&app).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let connections = app.traffic.http_connections.clone();
        let serving = tokio::spawn(async move {
            server::serve(
                listener,
                None,
                dispatcher,
                limits,
                &connections,
                &Workers::start().unwrap(),
                shutdown,
            )
            .await
        });
        Self { app, clock, url, dir, stop: Some(stop), serving: Some(serving) }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// A client with the platform key [`ADMIN_KEY`].
    pub(crate) fn admin(&self) -> Client {
        self.client(Some(ADMIN_KEY))
    }

    /// A client without a key.
    pub(crate) fn anonymous(&self) -> Client {
        self.client(None)
    }

    pub(crate) fn client(&self, key: Option<&str>) -> Client {
        Client::new(&self.url, key)
    }

    /// Opens a new raw connection, which the server accepts within `max_connections`.
    pub(crate) async fn raw(&self) -> Raw {
        self.wait_for_slot().await;
        let accepted = self.app.traffic.http_connections.accepted_count();
        let raw = Raw::connect(&self.url).await;
        until("the connection is accepted", || self.app.traffic.http_connections.accepted_count() > accepted)
            .await;
        raw
    }

    /// Waits until `max_connections` permits another connection: the server may notice late that one is closed.
    pub(crate) async fn wait_for_slot(&self) {
        let max_connections = self.app.config.http.max_connections;
        until("a connection slot is free", || {
            self.app.traffic.http_connections.open_count() < max_connections
        })
        .await;
    }

    /// Waits until the server has noticed that all connections are closed.
    pub(crate) async fn wait_until_disconnected(&self) {
        until("no connection is open", || self.app.traffic.http_connections.open_count() == 0).await;
    }

    /// Fails if a closed connection still occupies a connection slot.
    pub(crate) async fn assert_all_slots_are_free(&self) {
        let mut connections = Vec::new();
        for _ in 0..self.app.config.http.max_connections {
            let mut connection = self.raw().await;
            connection.send(&head("GET /healthz", &[])).await;
            assert_eq!(connection.answer().await.map(|answer| answer.status), Some(200));
            connections.push(connection);
        }
        drop(connections);
        self.wait_until_disconnected().await;
    }

    /// Creates an organization with this ID.
    pub(crate) async fn organization(&self, id: &str) {
        self.wait_for_slot().await;
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.com")});
        let answer = self.admin().post("/organizations", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// Creates a user with this ID.
    pub(crate) async fn user(&self, id: &str) {
        self.wait_for_slot().await;
        let answer = self
            .admin()
            .post("/users", json!({"id": id, "name": id, "email": format!("{id}@example.com")}))
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// Creates a key of an organization, or a platform key if `None`. Returns a client that uses it, and
    /// the resource.
    pub(crate) async fn key(&self, organization: Option<&str>, scopes: &[&str]) -> (Client, Value) {
        self.key_with(json!({"organization_id": organization, "name": "test", "scopes": scopes})).await
    }

    /// Creates a platform key without scopes that can rotate itself. Returns a client that uses it.
    pub(crate) async fn own_key(&self) -> Client {
        self.key_with(json!({"name": "own", "scopes": [], "self_rotation": true})).await.0
    }

    /// Creates a key from this request body.
    pub(crate) async fn key_with(&self, body: Value) -> (Client, Value) {
        self.wait_for_slot().await;
        let answer = self.admin().post("/api-keys", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        (self.client(answer.data()["key"].as_str()), answer.data().clone())
    }

    /// Patches the configuration regardless of its current version.
    pub(crate) async fn configure(&self, patch: Value) -> Answer {
        let admin = self.admin();
        admin.send(admin.request(Method::PATCH, "/config").header("if-match", "*").json(&patch)).await
    }

    /// Simulates a running request of this API key with this `Idempotency-Key`. The request ends when the
    /// returned guard is dropped.
    pub(crate) async fn running(&self, secret: &str, key: &str) -> IdempotentRequest {
        let caller = Caller::Key(self.credential(secret).await);
        let ctx = RequestContext::internal(&self.app, caller, Action::CreateUser).unwrap();
        IdempotentRequest::claim(&self.app, &ctx, secret, key, ["POST", "/"], b"").unwrap()
    }

    /// Reads the credential of a secret from the database.
    pub(crate) async fn credential(&self, secret: &str) -> Arc<Credential> {
        let hash = Secret::from_plain_text(secret.to_owned()).hash();
        let credential =
            self.app.db.read(move |tx| store::api_keys::find_credential_by_hash(tx, &hash)).await.unwrap();
        Arc::new(credential.expect("a key with this secret"))
    }

    /// Stops as the real server does, and returns the data directory.
    pub(crate) async fn stop(self) -> TempDir {
        let (dir, closed) = self.try_stop().await;
        closed.unwrap();
        dir
    }

    /// Like [`Server::stop`], but also returns the error if pending data could not be written.
    pub(crate) async fn try_stop(mut self) -> (TempDir, tollhouse::error::Result<()>) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap();
        let closed = lifecycle::close(&self.app).await;
        (self.dir, closed)
    }
}

/// All files below a directory, without those of other projects.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with("vendor") || path.ends_with("node_modules") => {}
                true => directories.push(path),
                false => files.push(path),
            }
        }
    }
    files
}
