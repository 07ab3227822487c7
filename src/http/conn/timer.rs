//! Timers that stay registered when their deadline moves to a later time.
//!
//! hyper creates a sleep for each request's head, and drops it when the head has arrived; the idle deadline of HTTP/2
//! moves with each request. With tokio's own timer, each deadline would be registered in the runtime's timer wheel
//! and removed again. The sleep here fires too early instead, at most once per timeout, and is then extended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// A timer for one deadline at a time. Its sleep fires no later than the deadline that is polled.
#[derive(Default)]
pub(super) struct DeadlineTimer(Option<Pin<Box<tokio::time::Sleep>>>);

impl DeadlineTimer {
    /// Ready once the deadline has passed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, deadline: tokio::time::Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// hyper's timer of one connection. Only one of its sleeps is polled at a time.
#[derive(Default)]
pub(super) struct ConnectionTimer(Arc<Mutex<DeadlineTimer>>);

impl Timer for ConnectionTimer {
    #[allow(clippy::disallowed_methods)] // hyper's deadlines are instants; tests set short timeouts.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(ConnectionSleep { deadline: deadline.into(), timer: self.0.clone() })
    }
}

/// A sleep until a deadline, based on the connection's timer.
struct ConnectionSleep {
    deadline: tokio::time::Instant,
    timer: Arc<Mutex<DeadlineTimer>>,
}

impl Sleep for ConnectionSleep {}

impl Future for ConnectionSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.timer.lock().poll(context, self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_elapsed(sleep: &mut Pin<Box<dyn Sleep>>) -> bool {
        sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn each_sleep_of_a_connection_ends_at_its_own_deadline() {
        let timer = ConnectionTimer::default();
        let start = tokio::time::Instant::now();
        let until = |seconds: u32| timer.sleep_until((start + SECOND * seconds).into_std());
        // Dropped before its deadline, as hyper does when the head has arrived.
        assert!(!is_elapsed(&mut until(10)));
        tokio::time::advance(SECOND * 9).await;
        // A later sleep outlasts the shared one and is woken at its own deadline.
        let mut later = until(19);
        assert!(!is_elapsed(&mut later));
        tokio::time::advance(SECOND).await;
        assert!(!is_elapsed(&mut later));
        later.await;
        assert_eq!(start.elapsed(), SECOND * 19);
        // An earlier sleep doesn't wait for the deadline of a later one.
        assert!(!is_elapsed(&mut until(100)));
        until(20).await;
        assert_eq!(start.elapsed(), SECOND * 20);
        assert!(is_elapsed(&mut until(20)));
    }
}
