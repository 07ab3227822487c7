//! Tests of [`super`]: each transition with exact times, then all of them with random events.

use proptest::prelude::*;

use super::*;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const INSTANT: Duration = Duration::from_nanos(1);

const LIMITS: ConnectionLimits = limits(HEADER_TIMEOUT, WRITE_TIMEOUT);

const fn limits(header_timeout: Duration, write_timeout: Duration) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: 1,
        max_unauthenticated_per_address: 0,
        trusted_proxies: Vec::new(),
        header_timeout,
        write_timeout,
        drain_timeout: Duration::ZERO,
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn idle(deadline: u64, had_streams: bool) -> State {
    State::Idle { deadline: seconds(deadline), had_streams }
}

const fn finishing(deadline: u64) -> State {
    State::Finishing { deadline: Some(seconds(deadline)) }
}

const HANDSHAKE: State = State::Handshake { deadline: HEADER_TIMEOUT };
const FINISHING_REQUESTS: State = State::Finishing { deadline: None };

/// Asserts what an event 100 seconds after the start of the connection does in a state.
#[track_caller]
fn assert_step(before: State, event: Event, action: Action, after: State) {
    let mut state = before;
    assert_eq!((state.step(&LIMITS, seconds(100), event), state), (action, after));
}

#[track_caller]
fn assert_no_effect(event: Event, states: &[State]) {
    for &state in states {
        assert_step(state, event, Action::Continue, state);
    }
}

/// Asserts that a deadline that is reached has an effect, and none a moment earlier.
#[track_caller]
fn assert_deadline(before: State, action: Action, after: State) {
    let deadline = before.deadline().unwrap();
    let mut state = before;
    assert_eq!(state.step(&LIMITS, deadline - INSTANT, Event::DeadlineReached), Action::Continue);
    assert_eq!(state, before);
    assert_eq!((state.step(&LIMITS, deadline, Event::DeadlineReached), state), (action, after));
}

#[test]
fn a_handshake_ends_with_http1_or_idle_http2() {
    assert_eq!(State::handshake(&LIMITS), HANDSHAKE);
    assert_step(HANDSHAKE, Event::Http1Negotiated, Action::Continue, State::Http1);
    assert_step(HANDSHAKE, Event::Http2Negotiated, Action::Continue, idle(110, false));
    let others =
        [State::Http1, idle(110, false), idle(110, true), State::Busy, FINISHING_REQUESTS, finishing(110)];
    assert_no_effect(Event::Http1Negotiated, &others);
    assert_no_effect(Event::Http2Negotiated, &others);
}

#[test]
fn an_open_stream_suspends_each_deadline_of_http2() {
    assert_step(idle(110, false), Event::StreamOpened, Action::Continue, State::Busy);
    assert_step(idle(110, true), Event::StreamOpened, Action::Continue, State::Busy);
    assert_step(finishing(110), Event::StreamOpened, Action::Continue, FINISHING_REQUESTS);
    assert_no_effect(Event::StreamOpened, &[HANDSHAKE, State::Http1, State::Busy, FINISHING_REQUESTS]);
    assert_eq!(State::Busy.deadline(), None);
    assert_eq!(FINISHING_REQUESTS.deadline(), None);
    assert_eq!(State::Http1.deadline(), None);
}

#[test]
fn the_end_of_the_last_stream_sets_a_deadline() {
    assert_step(State::Busy, Event::LastStreamEnded, Action::Continue, idle(110, true));
    assert_step(FINISHING_REQUESTS, Event::LastStreamEnded, Action::Continue, finishing(130));
    let others = [HANDSHAKE, State::Http1, idle(110, false), idle(110, true), finishing(110)];
    assert_no_effect(Event::LastStreamEnded, &others);
    for state in others {
        assert!(!state.has_open_streams(), "{state:?}");
    }
    assert!(State::Busy.has_open_streams() && FINISHING_REQUESTS.has_open_streams());
}

#[test]
fn the_drain_shuts_connections_down_once_and_closes_handshakes() {
    assert_step(HANDSHAKE, Event::DrainBegan, Action::Close, State::Closed);
    assert_step(State::Http1, Event::DrainBegan, Action::ShutDown, FINISHING_REQUESTS);
    assert_step(idle(110, false), Event::DrainBegan, Action::ShutDown, finishing(130));
    assert_step(idle(110, true), Event::DrainBegan, Action::ShutDown, finishing(130));
    assert_step(State::Busy, Event::DrainBegan, Action::ShutDown, FINISHING_REQUESTS);
    assert_no_effect(Event::DrainBegan, &[FINISHING_REQUESTS, finishing(110)]);
}

#[test]
fn a_deadline_closes_what_has_no_response_to_finish() {
    assert_deadline(HANDSHAKE, Action::Close, State::Closed);
    assert_deadline(idle(110, false), Action::Close, State::Closed);
    assert_deadline(idle(110, true), Action::ShutDown, finishing(140));
    assert_deadline(finishing(110), Action::Close, State::Closed);
    assert_no_effect(Event::DeadlineReached, &[State::Http1, State::Busy, FINISHING_REQUESTS]);
}

#[test]
fn a_closed_connection_stays_closed() {
    for event in EVENTS {
        assert_step(State::Closed, event, Action::Close, State::Closed);
    }
    assert_eq!(State::Closed.deadline(), None);
}

#[test]
fn a_chunk_has_the_write_timeout_from_when_it_waits() {
    let start = Instant::now();
    let mut timeout = ChunkTimeout::default();
    let mut deadline = |waiting, now| {
        let deadline = timeout.deadline(WRITE_TIMEOUT, waiting, || start + seconds(now));
        deadline.map(|deadline| (deadline - start).as_secs())
    };
    assert_eq!(deadline(0, 1), None);
    assert_eq!(deadline(1, 2), Some(32));
    assert_eq!(deadline(1, 31), Some(32));
    // The client took the first chunk, and the second one waits.
    assert_eq!(deadline(2, 31), Some(61));
    assert_eq!(deadline(0, 60), None);
    assert_eq!(deadline(3, 500), Some(530));
}

const EVENTS: [Event; 6] = [
    Event::Http1Negotiated,
    Event::Http2Negotiated,
    Event::StreamOpened,
    Event::LastStreamEnded,
    Event::DrainBegan,
    Event::DeadlineReached,
];

/// What happens on a simulated connection.
#[derive(Clone, Copy, Debug)]
enum Step {
    EndHandshake,
    OpenStream,
    EndStream,
    Drain,
    /// Only time passes.
    Wait,
}

/// A connection with HTTP/2: what its driver observes and does, and what the limits allow.
struct Simulation {
    limits: ConnectionLimits,
    state: State,
    now: Duration,
    is_negotiated: bool,
    open_streams: usize,
    had_streams: bool,
    /// When the connection or its service began, or the last open stream ended.
    quiet_since: Duration,
    shut_down_at: Option<Duration>,
    is_closed: bool,
}

impl Simulation {
    fn new(limits: ConnectionLimits) -> Self {
        Self {
            state: State::handshake(&limits),
            limits,
            now: Duration::ZERO,
            is_negotiated: false,
            open_streams: 0,
            had_streams: false,
            quiet_since: Duration::ZERO,
            shut_down_at: None,
            is_closed: false,
        }
    }

    /// When the limits require a decision; `None` while a request is processed.
    fn due_at(&self) -> Option<Duration> {
        let is_pending = self.open_streams == 0 && !self.is_closed;
        is_pending.then(|| match self.shut_down_at {
            Some(at) => self.quiet_since.max(at) + self.limits.write_timeout,
            None => self.quiet_since + self.limits.header_timeout,
        })
    }

    /// Lets time pass. The timer fires after each deadline, too late by `lateness`.
    fn pass(&mut self, time: Duration, lateness: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.state.deadline().filter(|deadline| *deadline <= end) {
            // A timer that fires too early has no effect.
            if deadline > self.now {
                self.report(Event::DeadlineReached);
            }
            self.now = self.now.max(deadline + lateness);
            self.report(Event::DeadlineReached);
        }
        self.now = self.now.max(end);
    }

    fn perform(&mut self, step: Step) {
        match step {
            _ if self.is_closed => {}
            Step::EndHandshake if !self.is_negotiated => {
                self.is_negotiated = true;
                self.quiet_since = self.now;
                self.report(Event::Http2Negotiated);
            }
            Step::OpenStream if self.is_negotiated => {
                self.open_streams += 1;
                self.had_streams = true;
                self.report(Event::StreamOpened);
            }
            Step::EndStream if self.open_streams > 0 => {
                self.open_streams -= 1;
                if self.open_streams == 0 {
                    assert!(self.state.has_open_streams(), "the end would not be reported");
                    self.quiet_since = self.now;
                    self.report(Event::LastStreamEnded);
                }
            }
            Step::Drain => {
                self.report(Event::DrainBegan);
                assert!(self.shut_down_at.is_some() || self.is_closed, "not shut down by the drain");
            }
            _ => {}
        }
    }

    fn report(&mut self, event: Event) {
        let is_due = self.due_at().is_some_and(|due_at| self.now >= due_at);
        match self.state.step(&self.limits, self.now, event) {
            Action::Continue => assert!(!is_due || event != Event::DeadlineReached, "open after its limit"),
            Action::ShutDown => {
                let is_idle = is_due && self.had_streams;
                assert!(
                    is_idle || event == Event::DrainBegan,
                    "shut down before the limit, or before any request"
                );
                assert_eq!(self.shut_down_at.replace(self.now), None, "shut down twice");
            }
            Action::Close => {
                let is_drained = event == Event::DrainBegan && !self.is_negotiated;
                assert!(is_due || is_drained, "closed before the limit, or while a request was processed");
                assert!(self.shut_down_at.is_some() || !self.had_streams, "closed without a shutdown");
                self.is_closed = true;
            }
        }
        assert_eq!(self.is_closed, self.state == State::Closed);
        assert_eq!(self.state.deadline(), self.due_at(), "{:?}", self.state);
    }
}

fn any_limits() -> impl Strategy<Value = ConnectionLimits> {
    // From the smallest to the largest values of the settings.
    let timeout = || (1..=3_600_000_u64).prop_map(Duration::from_millis);
    (timeout(), timeout()).prop_map(|(header_timeout, write_timeout)| limits(header_timeout, write_timeout))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::EndHandshake),
        6 => Just(Step::OpenStream),
        6 => Just(Step::EndStream),
        1 => Just(Step::Drain),
        3 => Just(Step::Wait),
    ]
}

fn any_time() -> impl Strategy<Value = Duration> {
    prop_oneof![any::<Duration>(), Just(Duration::MAX)]
}

proptest! {
    #[test]
    fn an_http2_connection_is_closed_exactly_when_its_limits_require_it(
        limits in any_limits(),
        // The times are parts of the header timeout, so that deadlines are often missed and often reached.
        steps in proptest::collection::vec((any_step(), 0..1_500_u32, 0..50_u32), 0..60),
    ) {
        let part_of_timeout = limits.header_timeout / 1_000;
        let mut simulation = Simulation::new(limits);
        for (step, time, lateness) in steps {
            simulation.pass(part_of_timeout * time, part_of_timeout * lateness);
            simulation.perform(step);
        }
        while simulation.open_streams > 0 {
            simulation.perform(Step::EndStream);
        }
        // Without a further request, each connection ends; after the drain, without the idle timeout.
        let is_shut_down = simulation.shut_down_at.is_some();
        let idle_timeout = if is_shut_down { Duration::ZERO } else { simulation.limits.header_timeout };
        simulation.pass(idle_timeout + simulation.limits.write_timeout, Duration::ZERO);
        prop_assert!(simulation.is_closed);
    }

    #[test]
    fn events_at_any_time_in_any_order_neither_overflow_nor_reopen_a_connection(
        is_tls in any::<bool>(),
        events in proptest::collection::vec((proptest::sample::select(&EVENTS), any_time()), 0..40),
    ) {
        let mut state = if is_tls { State::handshake(&LIMITS) } else { State::Http1 };
        let mut shutdowns = 0;
        for (event, now) in events {
            let was_closed = state == State::Closed;
            let action = state.step(&LIMITS, now, event);
            shutdowns += usize::from(action == Action::ShutDown);
            prop_assert_eq!(action == Action::Close, state == State::Closed);
            prop_assert!(!was_closed || state == State::Closed);
            prop_assert!(shutdowns <= 1);
        }
        state.step(&LIMITS, Duration::MAX, Event::DrainBegan);
        let is_ending = matches!(state, State::Finishing { .. } | State::Closed);
        prop_assert!(is_ending);
    }
}
