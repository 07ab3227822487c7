//! Counts the open HTTP/2 streams of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;

use super::state::{Event, State};

/// Shared by the task of the connection, which opens the streams, and the tasks of the streams.
#[derive(Default)]
pub(super) struct StreamCounter {
    open: AtomicUsize,
    /// True if a stream was opened since the last event. Only used by the connection's task.
    has_new: AtomicBool,
    /// Wakes the connection's task when the last open stream ends.
    connection: AtomicWaker,
}

impl StreamCounter {
    /// Counts a stream as open until the guard is dropped. Must be called by the connection's task.
    pub(super) fn open(self: &Arc<Self>) -> StreamGuard {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.has_new.store(true, Ordering::Relaxed);
        StreamGuard(Arc::clone(self))
    }

    /// What has happened to the streams of a connection in this state. The connection's task is woken when that
    /// changes.
    pub(super) fn next_event(&self, state: State, context: &Context<'_>) -> Option<Event> {
        if self.has_new.load(Ordering::Relaxed) {
            self.has_new.store(false, Ordering::Relaxed);
            // Registered before the count is read, so that no end of a stream is missed.
            self.connection.register(context.waker());
            return Some(Event::StreamOpened);
        }
        let has_ended = state.has_open_streams() && self.open.load(Ordering::Acquire) == 0;
        has_ended.then_some(Event::LastStreamEnded)
    }
}

pub(super) struct StreamGuard(Arc<StreamCounter>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.connection.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct WakeCounter(AtomicUsize);

    impl Wake for WakeCounter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_the_end_of_the_last_stream_is_an_event_and_wakes_the_connection() {
        const IDLE: State = State::Idle { deadline: std::time::Duration::ZERO, had_streams: true };
        let counter = Arc::new(StreamCounter::default());
        let wakes = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let next_event = |state| counter.next_event(state, &Context::from_waker(&waker));
        assert_eq!(next_event(IDLE), None);
        for round in 0..2 {
            let mut streams = vec![counter.open(), counter.open()];
            assert_eq!(next_event(IDLE), Some(Event::StreamOpened));
            assert_eq!(next_event(State::Busy), None);
            streams.pop();
            assert_eq!(next_event(State::Busy), None);
            assert_eq!(wakes.0.load(Ordering::Relaxed), round);
            streams.pop();
            assert_eq!(wakes.0.load(Ordering::Relaxed), round + 1);
            assert_eq!(next_event(State::Busy), Some(Event::LastStreamEnded));
            assert_eq!(next_event(IDLE), None);
        }
        // A stream that was opened and has ended since the last event is not missed.
        drop(counter.open());
        assert_eq!(next_event(IDLE), Some(Event::StreamOpened));
        assert_eq!(next_event(State::Busy), Some(Event::LastStreamEnded));
    }
}
