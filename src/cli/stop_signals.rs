//! The signals that stop the server: the first one drains it, the second one ends the drain.

use std::io::IsTerminal as _;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::telemetry::notice::Notice;

/// Whether the server is to stop, and whether at once.
#[derive(Clone, Default)]
pub(super) struct StopRequest {
    requested: CancellationToken,
    forced: CancellationToken,
}

impl StopRequest {
    /// Starts to wait for SIGTERM and SIGINT, and for SIGHUP on a terminal: closing the terminal ends a server
    /// that was started in it.
    pub(super) fn on_signals() -> Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(Error::internal)?;
        let stop = Self::default();
        let watched = stop.clone();
        tokio::spawn(async move {
            for token in [&watched.requested, &watched.forced] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hangup.recv(), if is_on_terminal() => "SIGHUP",
                };
                if watched.requested.is_cancelled() {
                    tracing::warn!(signal = name, "stopping at once");
                } else {
                    tracing::info!(signal = name, "stopping");
                    if name == "SIGINT" && std::io::stderr().is_terminal() {
                        Notice::info("finishing running requests; press Ctrl-C again to stop at once")
                            .print();
                    }
                }
                token.cancel();
            }
        });
        Ok(stop)
    }

    /// Waits for the first signal.
    pub(super) async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits for the second signal.
    pub(super) async fn forced(&self) {
        self.forced.cancelled().await;
    }
}

/// The signal that reloads certificate and configuration: SIGHUP, or none on a terminal, where SIGHUP says that the terminal
/// was closed. (`nohup` leaves none of the three on a terminal.)
pub(super) fn reload_signal() -> Result<Option<Signal>> {
    if is_on_terminal() {
        return Ok(None);
    }
    signal(SignalKind::hangup()).map(Some).map_err(Error::internal)
}

fn is_on_terminal() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}
