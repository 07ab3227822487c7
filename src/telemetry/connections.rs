//! Counts the connections of a listener: the open ones, and those that were refused.

use std::array;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use strum::VariantArray;

/// Why a listener closed a connection instead of serving it. The name of a reason is in the log and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum RefusalReason {
    /// The maximum number of connections was open.
    MaxConnections,
    /// The client's address had the maximum number of connections on which no key has authenticated.
    MaxUnauthenticatedPerAddress,
    /// The process had no file descriptor left for the connection.
    OpenFiles,
}

impl RefusalReason {
    fn name(self) -> &'static str {
        self.into()
    }
}

/// The connections of one listener.
#[derive(Debug)]
pub struct ListenerConnections {
    /// The listener's section in the configuration.
    listener: &'static str,
    open: AtomicUsize,
    /// The number of accepted connections, including refused ones.
    accepted: AtomicU64,
    /// The number of refused connections, by reason.
    refused: [AtomicU64; RefusalReason::VARIANTS.len()],
    /// The number of refused connections since the last call of [`log_refusals`](Self::log_refusals).
    refused_since_report: [AtomicU64; RefusalReason::VARIANTS.len()],
}

impl Default for ListenerConnections {
    fn default() -> Self {
        Self::new("http")
    }
}

impl ListenerConnections {
    pub(crate) fn new(listener: &'static str) -> Self {
        let zeros = || array::from_fn(|_| AtomicU64::new(0));
        Self {
            listener,
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: zeros(),
            refused_since_report: zeros(),
        }
    }

    /// The number of open connections.
    pub fn open_count(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The number of connections that were accepted so far, including those that were then refused.
    pub fn accepted_count(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The name of each reason and the number of connections that were refused for it.
    pub(crate) fn refused_counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RefusalReason::VARIANTS
            .iter()
            .zip(&self.refused)
            .map(|(reason, count)| (reason.name(), count.load(Ordering::Relaxed)))
    }

    pub(crate) fn listener(&self) -> &'static str {
        self.listener
    }

    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a connection as open, unless `max` connections are open. Only the listener's accept loop may call
    /// this method, so that no other thread can open a connection in between.
    pub(crate) fn open(self: &Arc<Self>, max: usize) -> Option<OpenConnection> {
        if self.open_count() >= max {
            return None;
        }
        self.open.fetch_add(1, Ordering::SeqCst);
        Some(OpenConnection(Arc::clone(self)))
    }

    /// Counts a refused connection, and logs the first one of each reason since the last report. Anyone can
    /// cause refusals, so they must not fill the log.
    pub(crate) fn record_refusal(&self, reason: RefusalReason, peer: SocketAddr) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        if self.refused_since_report[reason as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            let listener = self.listener;
            let reason = reason.name();
            tracing::warn!(listener, reason, %peer, "connection refused");
        }
    }

    /// Logs the number of refused connections since the last call that were not logged individually.
    pub(crate) fn log_refusals(&self) {
        for (reason, count) in RefusalReason::VARIANTS.iter().zip(&self.refused_since_report) {
            let count = count.swap(0, Ordering::Relaxed);
            if count > 1 {
                let listener = self.listener;
                let reason = reason.name();
                tracing::warn!(
                    listener,
                    reason,
                    count = count - 1,
                    "refused connections not logged individually"
                );
            }
        }
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<ListenerConnections>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
