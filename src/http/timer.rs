//! The timer of one connection, for hyper's time to read a request's head.
//!
//! hyper makes a sleep for each request and drops it when the head is there. With tokio's own each of them is
//! entered into the runtime's wheel and taken out again. Here all sleeps of a connection share one alarm, which
//! is left where it is: it rings too early, at most once in the time that a head may take, and is set on then.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// Rings no later than the sleep that waits.
type Alarm = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// For one connection: of its sleeps one is waited for at a time.
#[derive(Default)]
pub(crate) struct ConnectionTimer(Alarm);

impl Timer for ConnectionTimer {
    #[allow(clippy::disallowed_methods)] // hyper's deadlines are instants; tests of limits set the limits.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until { deadline: deadline.into(), alarm: self.0.clone() })
    }
}

/// Sleeps until its deadline.
struct Until {
    deadline: tokio::time::Instant,
    alarm: Alarm,
}

impl Sleep for Until {}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.deadline)));
        if alarm.deadline() > self.deadline {
            alarm.as_mut().reset(self.deadline);
        }
        loop {
            ready!(alarm.as_mut().poll(context));
            if alarm.deadline() >= self.deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(self.deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_over(sleep: &mut Pin<Box<dyn Sleep>>) -> bool {
        sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn each_sleep_ends_at_its_own_deadline() {
        let (timer, start) = (ConnectionTimer::default(), tokio::time::Instant::now());
        let until = |seconds: u32| timer.sleep_until((start + SECOND * seconds).into_std());
        // Dropped before its time, as hyper does when the head has come.
        assert!(!is_over(&mut until(10)));
        tokio::time::advance(SECOND * 9).await;
        // A later one outlives the alarm of the one before, and is woken when its own time has come.
        let mut later = until(19);
        assert!(!is_over(&mut later));
        tokio::time::advance(SECOND).await;
        assert!(!is_over(&mut later));
        later.await;
        assert_eq!(start.elapsed(), SECOND * 19);
        // An earlier one doesn't wait for the alarm of a later one.
        assert!(!is_over(&mut until(100)));
        until(20).await;
        assert_eq!(start.elapsed(), SECOND * 20);
        assert!(is_over(&mut until(20)));
    }
}
