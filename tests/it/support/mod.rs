//! A server of one's own for each test, and clients by role.
//!
//! [`Server::start`] serves the real routes on a real port over a real file from within the test's
//! process, with a clock that the test sets. [`Binary`] is the real program.

#![allow(dead_code, unused_imports)] // Shared: not every test file uses all of it.

mod binary;
mod client;
pub(crate) mod guide;
mod raw;

use std::net::SocketAddr;
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
use tollhouse::domain::api_key::Credential;
use tollhouse::domain::time::Timestamp;
use tollhouse::http::workers::Workers;
use tollhouse::http::{routes, server};
use tollhouse::service::idempotency::IdempotentRequest;
use tollhouse::service::{RequestContext, api_keys};
use tollhouse::store;
use tollhouse::verify::secret::Secret;

pub(crate) use binary::Binary;
pub(crate) use client::{Answer, Client, http_from};
pub(crate) use raw::{Raw, RawAnswer, head};

/// The platform key with `*` that every test server begins with.
pub(crate) const ADMIN_KEY: &str = "the-first-admin-key-of-a-test-server-0123456789";

/// 2026-11-23T07:08:09Z.
pub(crate) const NOW: i64 = 1_795_417_689_000;

/// Nothing that tests wait for takes longer than this, unless it never comes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "it never came to be: {what}");
}

/// An address of the loopback network, with a port, that nobody else will take: programs that can't choose
/// a port by themselves listen there.
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
    /// With the shipped configuration, but no limits on calls: a test that is about them sets them.
    pub(crate) async fn start() -> Self {
        Self::with(|config| {
            config.rate_limits.admin_per_minute = 0;
            config.rate_limits.batch_per_minute = 0;
            config.rate_limits.failed_auth_per_minute = 0;
        })
        .await
    }

    /// With the shipped configuration, changed.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(tempfile::tempdir().unwrap(), change).await
    }

    /// Over what an earlier one left in the directory.
    pub(crate) async fn over(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::shipped().unwrap();
        config.database.dir = dir.path().join("data");
        change(&mut config);
        let limits = server::Limits {
            max_connections: config.http.max_connections,
            header_timeout: config.http.header_timeout,
            write_timeout: config.http.write_timeout,
            drain_timeout: config.http.drain_timeout,
        };
        let clock = Clock::manual(Timestamp::from_millis(NOW));
        let app = App::open(config, clock.clone()).await.unwrap();
        api_keys::bootstrap(&app, Secret::from_outside(ADMIN_KEY.to_owned())).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = routes::filter(app.clone(), TaskTracker::new()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            server::serve(listener, None, routes, &limits, &Workers::start().unwrap(), async {
                let _ = stopped.await;
            })
            .await
        });
        Self { app, clock, url, dir, stop: Some(stop), serving: Some(serving) }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The platform key with `*`.
    pub(crate) fn admin(&self) -> Client {
        self.client(Some(ADMIN_KEY))
    }

    /// Without a key.
    pub(crate) fn anonymous(&self) -> Client {
        self.client(None)
    }

    pub(crate) fn client(&self, key: Option<&str>) -> Client {
        Client::new(&self.url, key)
    }

    /// A connection of its own.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(&self.url).await
    }

    /// Fails when a slot for connections is held by nobody that is still there.
    pub(crate) async fn assert_all_slots_are_free(&self) {
        let mut all = Vec::new();
        for _ in 0..self.app.config.http.max_connections {
            let mut one = self.raw().await;
            one.send(&head("GET /healthz", &[])).await;
            assert_eq!(one.answer().await.map(|answer| answer.status), Some(200));
            all.push(one);
        }
    }

    /// An organization with this id.
    pub(crate) async fn organization(&self, id: &str) {
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.com")});
        let answer = self.admin().post("/organizations", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// A user with this id.
    pub(crate) async fn user(&self, id: &str) {
        let answer = self
            .admin()
            .post("/users", json!({"id": id, "name": id, "email": format!("{id}@example.com")}))
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// A new key of an organization (`None`: of the platform): a client that has it, and its resource.
    pub(crate) async fn key(&self, organization: Option<&str>, scopes: &[&str]) -> (Client, Value) {
        self.key_with(json!({"organization_id": organization, "name": "test", "scopes": scopes})).await
    }

    /// A new key as the body says.
    pub(crate) async fn key_with(&self, body: Value) -> (Client, Value) {
        let answer = self.admin().post("/api-keys", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        (self.client(answer.data()["key"].as_str()), answer.data().clone())
    }

    /// Changes the configuration, whatever it is.
    pub(crate) async fn configure(&self, patch: Value) -> Answer {
        let admin = self.admin();
        admin.send(admin.request(Method::PATCH, "/config").header("if-match", "*").json(&patch)).await
    }

    /// As if a request of this key with this Idempotency-Key were running, until what this gives is dropped.
    pub(crate) async fn running(&self, secret: &str, key: &str) -> IdempotentRequest {
        let caller = Caller::Key(self.credential(secret).await);
        let ctx = RequestContext::internal(&self.app, caller, "user.create", "write").unwrap();
        IdempotentRequest::claim(&self.app, &ctx, secret, key, ["POST", "/"], b"").unwrap()
    }

    /// What the database knows of a secret.
    pub(crate) async fn credential(&self, secret: &str) -> Arc<Credential> {
        let hash = Secret::from_outside(secret.to_owned()).hash();
        let found = self.app.db.read(move |tx| store::api_keys::by_hash(tx, &hash)).await.unwrap();
        Arc::new(found.expect("a key with this secret"))
    }

    /// Stops as the real server does, and gives the directory back.
    pub(crate) async fn stop(self) -> TempDir {
        let (dir, closed) = self.try_stop().await;
        closed.unwrap();
        dir
    }

    /// Stops also when what waits in memory can't be written.
    pub(crate) async fn try_stop(mut self) -> (TempDir, tollhouse::error::Result<()>) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap();
        let closed = self.app.close().await;
        (self.dir, closed)
    }
}
