//! Carries out the decisions of the [state machine](super::state) of a connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::drain::DrainSignal;
use super::limits::ConnectionLimits;
use super::state::{Action, Event, State};
use super::stream_counter::StreamCounter;
use super::timer::DeadlineTimer;

/// Drives the futures of one connection: the TLS handshake, then hyper's connection.
pub(super) struct Driver<'a> {
    pub(super) limits: &'a ConnectionLimits,
    pub(super) draining: &'a DrainSignal,
    state: State,
    started_at: Instant,
    timer: DeadlineTimer,
}

impl<'a> Driver<'a> {
    pub(super) fn new(state: State, limits: &'a ConnectionLimits, draining: &'a DrainSignal) -> Self {
        Self { limits, draining, state, started_at: Instant::now(), timer: DeadlineTimer::default() }
    }

    /// Reports an event. Returns what must be done.
    pub(super) fn step(&mut self, event: Event) -> Action {
        self.state.step(self.limits, self.started_at.elapsed(), event)
    }

    /// Runs a future of the connection to its end. Returns `None` if the connection must be closed before.
    /// `shut_down` tells hyper's connection to accept no further request; `streams` are those of HTTP/2.
    pub(super) async fn run<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
        shut_down: impl Fn(Pin<&mut F>),
        streams: Option<&StreamCounter>,
    ) -> Option<F::Output> {
        let mut drain = pin!(self.draining.wait());
        let mut drain = Some(drain.as_mut());
        poll_fn(|context| {
            loop {
                // First, so that a request that has already arrived is answered before the connection is closed.
                if let Poll::Ready(output) = future.as_mut().poll(context) {
                    return Poll::Ready(Some(output));
                }
                loop {
                    let Some(event) = self.next_event(context, &mut drain, streams) else {
                        return Poll::Pending;
                    };
                    match self.step(event) {
                        Action::Continue => {}
                        Action::ShutDown => break shut_down(future.as_mut()),
                        Action::Close => return Poll::Ready(None),
                    }
                }
            }
        })
        .await
    }

    /// The next event besides the end of the future; `None` if the task will be woken for it.
    fn next_event(
        &mut self,
        context: &mut Context<'_>,
        drain: &mut Option<Pin<&mut impl Future<Output = ()>>>,
        streams: Option<&StreamCounter>,
    ) -> Option<Event> {
        if let Some(event) = streams.and_then(|streams| streams.next_event(self.state, context)) {
            return Some(event);
        }
        if drain.as_mut().is_some_and(|drain| drain.as_mut().poll(context).is_ready()) {
            *drain = None;
            return Some(Event::DrainBegan);
        }
        let deadline = self.started_at + self.state.deadline()?;
        self.timer.poll(context, deadline).is_ready().then_some(Event::DeadlineReached)
    }
}
