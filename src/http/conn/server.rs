//! Accepts connections until the shutdown, then drains them.
//!
//! warp's own accept loop has no timeouts and no deadline for its graceful shutdown.

use std::pin::pin;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use super::accept::Acceptor;
use super::connection::serve_connection;
use super::drain::DrainSignal;
use super::handler::Handler;
use super::limits::ConnectionLimits;
use super::listeners::Listeners;
use super::tls::Tls;
use super::workers::Workers;
use crate::telemetry::connections::ListenerConnections;

/// Serves connections on the workers, with or without TLS, until `shutdown` resolves, then drains: new
/// connections are refused, idle ones are closed, and running requests finish with `Connection: close`
/// (HTTP/2: GOAWAY). Connections that are still open after `drain_timeout` are aborted; returns their number.
///
/// A handler that panics only loses its own connection; the process's panic hook logs where it panicked.
pub async fn serve(
    listener: impl Into<Listeners>,
    tls: Option<Arc<Tls>>,
    handler: impl Handler,
    limits: ConnectionLimits,
    counts: &Arc<ListenerConnections>,
    workers: &Workers,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let limits = Arc::new(limits);
    let mut acceptor = Acceptor::new(listener.into(), limits.clone(), counts.clone());
    let draining = Arc::new(DrainSignal::default());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(result) = connections.join_next() => log_connection_panic(&result),
            accepted = acceptor.accept() => {
                let connection =
                    serve_connection(accepted, tls.clone(), handler.clone(), limits.clone(), draining.clone());
                workers.spawn(&mut connections, connection);
            }
        }
    }
    drop(acceptor);
    draining.begin();
    let all_ended = async {
        while let Some(result) = connections.join_next().await {
            log_connection_panic(&result);
        }
    };
    if tokio::time::timeout(limits.drain_timeout, all_ended).await.is_ok() {
        return 0;
    }
    connections.abort_all();
    let mut aborted = 0;
    while let Some(result) = connections.join_next().await {
        log_connection_panic(&result);
        aborted += usize::from(result.is_err_and(|error| error.is_cancelled()));
    }
    aborted
}

fn log_connection_panic(result: &Result<(), JoinError>) {
    if result.as_ref().is_err_and(JoinError::is_panic) {
        tracing::error!("handler panicked; connection closed");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
