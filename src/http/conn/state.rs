//! Decides when a connection is closed, as a state machine without I/O, clock and locks.
//!
//! The [`driver`](super::driver) reports events with their times, and carries out the actions. All times count from
//! the start of the connection. Three limits are applied within these states by others: hyper limits the time for a
//! request's head on HTTP/1.1 and for the answer to a ping on HTTP/2, `TimeoutWriter` the time for which the socket
//! may accept no byte, and [`server`](super::server) the time of the drain.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::ConnectionLimits;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The TLS handshake runs.
    Handshake { deadline: Duration },
    /// HTTP/1.1 is served.
    Http1,
    /// HTTP/2 is served, and no stream is open.
    Idle { deadline: Duration, had_streams: bool },
    /// HTTP/2 is served, and at least one stream is open. The streams have limits of their own.
    Busy,
    /// The client was told to send no further request. The deadline is that for reading the end of the last
    /// response; `None` while a stream is open, and with HTTP/1.1, where hyper closes the connection.
    Finishing { deadline: Option<Duration> },
    /// The connection is closed.
    Closed,
}

/// What happens on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The TLS handshake has ended, and HTTP/1.1 was negotiated.
    Http1Negotiated,
    /// The TLS handshake has ended, and HTTP/2 was negotiated.
    Http2Negotiated,
    /// A stream was opened.
    StreamOpened,
    /// The last open stream has ended.
    LastStreamEnded,
    /// The server began to shut down.
    DrainBegan,
    /// The [deadline](State::deadline) has passed.
    DeadlineReached,
}

/// What must be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Serve it further.
    Continue,
    /// Tell the client to send no further request, and serve those that were sent.
    ShutDown,
    /// Close it at once.
    Close,
}

impl State {
    /// The state at the start of a connection with TLS.
    pub(super) fn handshake(limits: &ConnectionLimits) -> Self {
        Self::Handshake { deadline: limits.header_timeout }
    }

    /// The time at which the connection needs a decision even if nothing happens.
    pub(super) fn deadline(self) -> Option<Duration> {
        match self {
            Self::Handshake { deadline } | Self::Idle { deadline, .. } => Some(deadline),
            Self::Finishing { deadline } => deadline,
            Self::Http1 | Self::Busy | Self::Closed => None,
        }
    }

    /// True if [`Event::LastStreamEnded`] may come.
    pub(super) fn has_open_streams(self) -> bool {
        matches!(self, Self::Busy | Self::Finishing { deadline: None })
    }

    /// Changes the state after an event. Events that don't apply to the state have no effect.
    pub(super) fn step(&mut self, limits: &ConnectionLimits, now: Duration, event: Event) -> Action {
        let idle_deadline = || now.saturating_add(limits.header_timeout);
        let read_deadline = || Some(now.saturating_add(limits.write_timeout));
        let (state, action) = match (event, *self) {
            (_, Self::Closed) => (Self::Closed, Action::Close),

            (Event::Http1Negotiated, Self::Handshake { .. }) => (Self::Http1, Action::Continue),
            (Event::Http2Negotiated, Self::Handshake { .. }) => {
                (Self::Idle { deadline: idle_deadline(), had_streams: false }, Action::Continue)
            }

            (Event::StreamOpened, Self::Idle { .. }) => (Self::Busy, Action::Continue),
            // The client sent the request before it knew of the shutdown.
            (Event::StreamOpened, Self::Finishing { .. }) => {
                (Self::Finishing { deadline: None }, Action::Continue)
            }
            (Event::LastStreamEnded, Self::Busy) => {
                (Self::Idle { deadline: idle_deadline(), had_streams: true }, Action::Continue)
            }
            (Event::LastStreamEnded, Self::Finishing { deadline: None }) => {
                (Self::Finishing { deadline: read_deadline() }, Action::Continue)
            }

            (Event::DrainBegan, Self::Handshake { .. }) => (Self::Closed, Action::Close),
            (Event::DrainBegan, Self::Http1 | Self::Busy) => {
                (Self::Finishing { deadline: None }, Action::ShutDown)
            }
            (Event::DrainBegan, Self::Idle { .. }) => {
                (Self::Finishing { deadline: read_deadline() }, Action::ShutDown)
            }

            (Event::DeadlineReached, state) if state.deadline().is_none_or(|deadline| now < deadline) => {
                (state, Action::Continue)
            }
            (Event::DeadlineReached, Self::Idle { had_streams: true, .. }) => {
                (Self::Finishing { deadline: read_deadline() }, Action::ShutDown)
            }
            // After a response, its end may still be in flight; otherwise there is nothing to wait for.
            (Event::DeadlineReached, _) => (Self::Closed, Action::Close),

            (_, state) => (state, Action::Continue),
        };
        *self = state;
        action
    }
}

/// The limit on the time for which a client may leave a chunk of a response unread, on an HTTP/2 stream.
#[derive(Debug, Default)]
pub(super) struct ChunkTimeout {
    waiting: u64,
    deadline: Option<Instant>,
}

impl ChunkTimeout {
    /// The time at which the stream must be reset if `waiting` still is the number of the chunk that waits for the
    /// client; `None` if it is 0, while the server prepares a chunk. `now` is read only when another chunk waits.
    pub(super) fn deadline(
        &mut self,
        write_timeout: Duration,
        waiting: u64,
        now: impl FnOnce() -> Instant,
    ) -> Option<Instant> {
        if waiting != self.waiting {
            self.waiting = waiting;
            self.deadline = (waiting != 0).then(|| now() + write_timeout);
        }
        self.deadline
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
