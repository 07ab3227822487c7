//! Tests of [`super`].

use super::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2026-11-23T07:08:09Z.
const START: i64 = 1_795_417_689_000;

/// A guard with a wall clock that can be set.
struct Machine {
    guard: ClockGuard,
    wall: i64,
    monotonic: i64,
}

impl Machine {
    fn start() -> Self {
        let reading = reading(START, 0);
        Self { guard: ClockGuard::new(reading), wall: START, monotonic: 0 }
    }

    /// Starts with a database that has stored `START`, at another wall-clock time.
    fn restart(ahead: i64) -> Self {
        let wall = START + ahead;
        let guard = ClockGuard::new(reading(wall, 0));
        guard.resume(Some(Timestamp::from_millis(START)), reading(wall, 0));
        Self { guard, wall, monotonic: 0 }
    }

    fn jump(&mut self, by: i64) -> &mut Self {
        self.wall += by;
        self
    }

    fn pass(&mut self, millis: i64) -> &mut Self {
        self.wall += millis;
        self.monotonic += millis;
        self
    }

    fn check(&self) -> bool {
        self.guard.check(reading(self.wall, self.monotonic))
    }

    /// The settled time, relative to the start.
    fn settled(&self) -> i64 {
        self.guard.settled_time_at(reading(0, self.monotonic).monotonic).as_millis() - START
    }

    fn changes(&self) -> Vec<ClockChangeKind> {
        self.guard.take_changes().into_iter().map(|change| change.kind).collect()
    }
}

fn reading(wall: i64, monotonic: i64) -> Reading {
    let monotonic = Duration::from_millis(u64::try_from(monotonic).unwrap());
    Reading { wall: Timestamp::from_millis(wall), monotonic }
}

#[test]
fn a_clock_that_keeps_pace_is_settled_and_the_settled_time_follows_it() {
    let mut machine = Machine::start();
    for _ in 0..100 {
        // The monotonic clock may pause for hours, as while the machine sleeps.
        assert!(machine.pass(DAY).jump(12 * HOUR).check());
        assert_eq!(machine.settled(), machine.wall - START);
    }
    assert_eq!(machine.changes(), []);
}

#[test]
fn a_clock_is_unsettled_more_than_a_day_ahead_or_five_minutes_behind() {
    for (jump, settled) in [
        (DAY, true),
        (DAY + 1, false),
        (-5 * MINUTE, true),
        (-5 * MINUTE - 1, false),
        (12 * 365 * DAY, false),
    ] {
        assert_eq!(Machine::start().jump(jump).check(), settled, "{jump} while running");
        assert_eq!(Machine::restart(jump).check(), settled, "{jump} at the start");
    }
}

#[test]
fn the_settled_time_goes_on_while_the_clock_is_unsettled() {
    for jump in [-HOUR, 12 * 365 * DAY] {
        let mut machine = Machine::start();
        machine.jump(jump).check();
        machine.pass(10 * MINUTE).check();
        assert_eq!(machine.settled(), 10 * MINUTE);
        assert!(machine.jump(-jump).check());
        assert_eq!(machine.settled(), 10 * MINUTE);
        assert_eq!(machine.changes(), [ClockChangeKind::Jumped, ClockChangeKind::Returned]);
    }
}

#[test]
fn the_settled_time_stands_still_until_a_clock_that_is_slightly_behind_catches_up() {
    let mut machine = Machine::start();
    machine.jump(-2 * MINUTE).check();
    for _ in 0..12 {
        assert!(machine.pass(MINUTE / 6).check());
        assert_eq!(machine.settled(), 0);
    }
    machine.pass(MINUTE).check();
    assert_eq!(machine.settled(), MINUTE);
    // Small steps back add up.
    for _ in 0..5 {
        assert!(machine.jump(-MINUTE).check());
    }
    assert!(!machine.jump(-1).check());
}

#[test]
fn an_unsettled_clock_is_settled_after_an_hour_of_keeping_pace() {
    for jump in [-HOUR, 2 * DAY] {
        let mut machine = Machine::start();
        machine.jump(jump);
        for _ in 0..60 {
            assert!(!machine.check());
            machine.pass(MINUTE).jump(100);
        }
        assert!(machine.check());
        assert_eq!(machine.settled(), machine.wall - START);
        assert_eq!(machine.changes(), [ClockChangeKind::Jumped, ClockChangeKind::KeptPace]);
    }
}

#[test]
fn a_clock_that_jumps_again_or_runs_at_another_speed_does_not_keep_pace() {
    let mut machine = Machine::start();
    machine.jump(2 * DAY).check();
    machine.pass(HOUR - 1).check();
    machine.jump(30 * DAY).pass(1);
    assert!(!machine.check());
    assert!(!machine.pass(HOUR - 1).check());
    assert!(machine.pass(1).check());
    let mut machine = Machine::start();
    machine.jump(2 * DAY);
    for _ in 0..600 {
        assert!(!machine.pass(MINUTE).jump(MINUTE / 10).check());
    }
}

#[test]
fn accepting_the_clock_settles_it_and_is_no_change_of_a_settled_clock() {
    for jump in [-DAY, 12 * 365 * DAY] {
        let mut machine = Machine::start();
        assert!(!machine.jump(jump).check());
        machine.guard.accept(reading(machine.wall, machine.monotonic));
        assert!(machine.pass(MINUTE).check());
        assert_eq!(machine.settled(), jump + MINUTE);
        assert_eq!(machine.changes(), [ClockChangeKind::Jumped, ClockChangeKind::Accepted]);
        machine.guard.accept(reading(machine.wall, machine.monotonic));
        assert_eq!(machine.changes(), []);
    }
}

#[test]
fn unreported_changes_are_bounded() {
    let mut machine = Machine::start();
    for _ in 0..1000 {
        machine.jump(2 * DAY).check();
        machine.jump(-2 * DAY).check();
    }
    let changes = machine.guard.take_changes();
    assert_eq!(changes.len(), MAX_UNREPORTED_CHANGES);
    machine.guard.put_back_changes(changes.clone());
    assert_eq!(machine.guard.take_changes(), changes);
}
