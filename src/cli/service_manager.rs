//! Notifications to the service manager (systemd, or another that implements `sd_notify`): ready, reloading, stopping,
//! the status, and the watchdog. Without a service manager, they have no effect.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::pin::pin;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::app::App;
use crate::http::conn::workers::Workers;

/// The environment variable with the address of the service manager's socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// The time for which a notification may wait for the service manager.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval at which the status is compared with what was last reported.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// The time that closing the database may take after the last request.
const CLOSE_TIME: Duration = Duration::from_secs(30);

/// The service manager that started this process, if any.
#[derive(Clone)]
pub(super) struct ServiceManager {
    /// The address of its socket: a path, or an abstract name after `@`.
    socket: Option<OsString>,
    /// The time without a report after which the service manager kills the process.
    watchdog_timeout: Option<Duration>,
}

impl ServiceManager {
    pub(super) fn from_environment() -> Self {
        Self {
            socket: env::var_os(SOCKET_VARIABLE).filter(|address| !address.is_empty()),
            watchdog_timeout: sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()),
        }
    }

    /// Reports that the server is ready.
    pub(super) async fn report_ready(&self, status: &str) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(status)]).await;
    }

    /// Reports that a reload has begun. [`report_reloaded`](Self::report_reloaded) must follow.
    pub(super) async fn report_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify(&[NotifyState::Reloading, now]).await;
        }
    }

    pub(super) async fn report_reloaded(&self) {
        self.notify(&[NotifyState::Ready]).await;
    }

    /// Reports that the server stops, and how long that may take: connections and then calls may each take the
    /// drain timeout.
    pub(super) async fn report_stopping(&self, drain_timeout: Duration) {
        let max_time = drain_timeout.saturating_mul(2).saturating_add(CLOSE_TIME);
        let max_micros = u32::try_from(max_time.as_micros()).unwrap_or(u32::MAX);
        self.notify(&[
            NotifyState::Stopping,
            NotifyState::Status("Stopping: finishing running requests"),
            NotifyState::ExtendTimeoutUsec(max_micros),
        ])
        .await;
    }

    /// Reports changes of the status until the returned future is dropped. `listening` says where the server
    /// listens.
    pub(super) async fn report_status(&self, app: &App, listening: &str) {
        if self.socket.is_none() {
            return std::future::pending().await;
        }
        let mut ticks = interval(STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = listening.to_owned();
        loop {
            ticks.tick().await;
            let status = describe_state(app, listening);
            if status != reported && !app.is_draining() {
                self.notify(&[NotifyState::Status(&status)]).await;
                reported = status;
            }
        }
    }

    /// Reports to the watchdog at half of its timeout until the returned future is dropped, but only while the
    /// writer and every worker respond.
    pub(super) async fn run_watchdog(&self, app: &App, workers: &Workers) {
        let Some(watchdog_timeout) = self.watchdog_timeout else { return std::future::pending().await };
        let patience = watchdog_timeout / 2;
        let mut ticks = interval(patience);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            tokio::join!(
                wait_for_response("writer", app.db.wait_for_writer(), patience),
                wait_for_response("workers", workers.wait_for_all(), patience),
            );
            self.notify(&[NotifyState::Watchdog]).await;
        }
    }

    async fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        let sent = timeout(SEND_TIMEOUT, send(socket, &message)).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::warn!(%error, "could not notify the service manager");
        }
    }
}

/// Waits for the response of a part of the server. Logs an error if it doesn't come in time.
async fn wait_for_response(part: &'static str, response: impl Future<Output = ()>, patience: Duration) {
    let mut response = pin!(response);
    if timeout(patience, response.as_mut()).await.is_err() {
        tracing::error!(part, "not responding; the watchdog is not notified");
        response.await;
        tracing::warn!(part, "responding again");
    }
}

/// The status: where the server listens, and what needs attention.
fn describe_state(app: &App, listening: &str) -> String {
    let faults = app.db.faults();
    let checkpoints = app.db.file().checkpoints();
    let problems = [
        app.db.file().problem().map(|problem| format!("the database isn't available: {problem}")),
        app.db.has_no_room().then(|| "storage is full".to_owned()),
        faults.is_damaged().then(|| "the database is damaged".to_owned()),
        faults.has_io_errors().then(|| "the database's disk failed".to_owned()),
        (app.access_blocks.len() > 0).then(|| "revocations are not stored".to_owned()),
        checkpoints.is_failing.then(|| "checkpoints fail".to_owned()),
        checkpoints.is_wal_too_large.then(|| "the write-ahead log is too large".to_owned()),
        (!app.clock.is_settled()).then(|| "the clock jumped".to_owned()),
    ];
    let parts = [listening.to_owned()].into_iter().chain(problems.into_iter().flatten());
    parts.collect::<Vec<_>>().join("; ")
}

/// Sends a message over a new socket, because the service manager may have replaced its own since the last one.
async fn send(address: &OsStr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&parse_address(address)?)?;
    socket.set_nonblocking(true)?;
    tokio::net::UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(drop)
}

#[cfg(target_os = "linux")]
fn parse_address(address: &OsStr) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(address),
    }
}

#[cfg(not(target_os = "linux"))]
fn parse_address(address: &OsStr) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(address)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use tokio::sync::oneshot;
    use tokio::task::JoinSet;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::domain::time::Timestamp;
    use crate::service::lifecycle;

    /// A long time, which the paused clock skips.
    const LONG: Duration = Duration::from_secs(60);

    struct Watched {
        _dir: tempfile::TempDir,
        socket: tokio::net::UnixDatagram,
        app: Arc<App>,
        workers: Arc<Workers>,
    }

    impl Watched {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
            let mut config = Config::load_defaults().unwrap();
            config.database.dir = dir.path().join("data");
            let app = lifecycle::open(config, Clock::system()).await.unwrap();
            let workers = Arc::new(Workers::start().unwrap());
            let manager =
                ServiceManager { socket: Some(path.into()), watchdog_timeout: Some(Duration::from_secs(2)) };
            let watched = Self { _dir: dir, socket, app: app.clone(), workers: workers.clone() };
            tokio::time::pause();
            tokio::spawn(async move { manager.run_watchdog(&app, &workers).await });
            watched
        }

        async fn expect_notifications(&self) {
            for _ in 0..3 {
                let mut buffer = [0; 64];
                let length = self.socket.recv(&mut buffer).await.unwrap();
                assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
            }
        }

        /// Fails if the watchdog is notified within many of its intervals. The last response before the block may
        /// still have to be reported, once.
        async fn expect_silence(&self) {
            let mut received = 0;
            for _ in 0..100 {
                tokio::time::sleep(LONG).await;
                std::thread::yield_now(); // To the threads that respond, for which no time passes.
                while self.socket.try_recv(&mut [0; 64]).is_ok() {
                    received += 1;
                }
            }
            assert!(received <= 1, "notified {received} times");
        }
    }

    #[tokio::test]
    async fn a_blocked_writer_silences_the_watchdog() {
        let watched = Watched::start().await;
        watched.expect_notifications().await;
        let (began, has_begun) = oneshot::channel();
        let mut began = Some(began);
        let (release, released) = mpsc::channel::<()>();
        let app = watched.app.clone();
        let blocking = tokio::spawn(async move {
            app.db
                .write(move |_| {
                    began.take().map(|began| began.send(()));
                    let _ = released.recv();
                    Ok(())
                })
                .await
        });
        has_begun.await.unwrap();
        watched.expect_silence().await;
        drop(release);
        blocking.await.unwrap().unwrap();
        watched.expect_notifications().await;
    }

    #[tokio::test]
    async fn a_blocked_worker_silences_the_watchdog() {
        let watched = Watched::start().await;
        watched.expect_notifications().await;
        let (began, has_begun) = oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let mut connections = JoinSet::new();
        watched.workers.spawn(&mut connections, async move {
            let _ = began.send(());
            let _ = released.recv(); // Blocks the worker's thread.
        });
        has_begun.await.unwrap();
        watched.expect_silence().await;
        drop(release);
        connections.join_next().await;
        watched.expect_notifications().await;
    }

    #[tokio::test]
    async fn the_status_says_what_needs_attention() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let mut config = Config::load_defaults().unwrap();
        config.database.dir = dir.path().join("data");
        let now = Timestamp::from_millis(1_795_417_689_000);
        let clock = Clock::manual(now);
        let app = lifecycle::open(config, clock.clone()).await.unwrap();
        let manager = ServiceManager { socket: Some(path.into()), watchdog_timeout: None };
        let reporting = app.clone();
        tokio::time::pause();
        tokio::spawn(async move { manager.report_status(&reporting, "Listening").await });
        let status = async || {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).await.unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        clock.set(now + Duration::from_secs(1_000_000_000));
        assert_eq!(status().await, "STATUS=Listening; the clock jumped\n");
        clock.set(now);
        assert_eq!(status().await, "STATUS=Listening\n");
    }

    /// A full queue hides no writer that works.
    #[tokio::test]
    async fn a_full_queue_is_no_blocked_writer() {
        let watched = Watched::start().await;
        let mut writes = JoinSet::new();
        for _ in 0..4 * watched.app.config.database.writer_queue {
            let app = watched.app.clone();
            writes.spawn(async move { app.db.write(|_| Ok(())).await });
        }
        watched.expect_notifications().await;
        while writes.join_next().await.is_some() {}
    }
}
