//! The signal that the server is shutting down.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

/// Signals to all connections that the server is shutting down. Each connection polls the signal whenever the
/// connection is woken, so polling takes no shared lock.
#[derive(Default)]
pub(super) struct DrainSignal {
    begun: AtomicBool,
    notify: Notify,
}

impl DrainSignal {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Resolves when the drain begins.
    pub(super) async fn wait(&self) {
        let mut notified = pin!(self.notify.notified());
        let mut is_registered = false;
        poll_fn(|context| {
            // The waker is registered only once, because every waker of this future wakes the same task.
            if !is_registered && notified.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            is_registered = true;
            // The flag is checked after registering, so that a drain that begins in between isn't missed.
            if self.has_begun() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
