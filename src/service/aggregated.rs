//! Events that a client can repeat cheaply: counted in memory, as one audit event per API key or address,
//! code and minute. The event is written when its minute closes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::audit::Event;
use crate::domain::minute_rows::{Admission, MAX_ROWS, MinuteRows, RowOwner};
use crate::domain::time::Timestamp;

/// The action of an aggregated refusal, which may stand for calls of several routes.
pub(crate) const REFUSED: &str = "request.refused";

/// Events with the same key are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    minute: Timestamp,
    /// Key id or address; empty for the overflow row.
    subject: String,
    code: String,
}

impl RowKey {
    fn overflow(minute: Timestamp) -> Self {
        Self { minute, subject: String::new(), code: String::new() }
    }
}

/// The aggregated events that aren't written yet.
#[derive(Default)]
pub(crate) struct Aggregated(Mutex<State>);

#[derive(Default)]
struct State {
    rows: HashMap<RowKey, Event>,
    minutes: HashMap<Timestamp, MinuteRows<RowKey>>,
    /// Events of closed minutes, oldest first.
    closed: VecDeque<Event>,
}

impl State {
    /// Adds an event to its row, without a bound.
    fn merge(&mut self, key: RowKey, event: Event) {
        match self.rows.get_mut(&key) {
            Some(row) => row.count += event.count,
            None => drop(self.rows.insert(key, event)),
        }
    }
}

impl Aggregated {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event. The first event of a row stands for all of them; events without room for a row are
    /// counted in one overflow row a minute.
    pub(crate) fn add(&self, subject: &str, now: Timestamp, event: Event) {
        let minute = now.minute();
        let code = event.code.as_deref().unwrap_or_default().to_owned();
        let key = RowKey { minute, subject: subject.to_owned(), code };
        let mut state = self.lock();
        if let Some(row) = state.rows.get_mut(&key) {
            row.count += event.count;
            return;
        }
        let admission = if state.rows.len() + state.closed.len() < MAX_ROWS {
            let owner = RowOwner {
                organization_id: event.organization_id.as_deref(),
                is_key: event.actor.id.is_some(),
            };
            state.minutes.entry(minute).or_default().admit(&key, owner)
        } else {
            Admission::Overflow
        };
        match admission {
            Admission::Admitted => drop(state.rows.insert(key, event)),
            Admission::Replaces(replaced) => {
                if let Some(replaced) = state.rows.remove(&replaced) {
                    state.merge(RowKey::overflow(minute), without_details(replaced));
                }
                state.rows.insert(key, event);
            }
            Admission::Overflow => state.merge(RowKey::overflow(minute), without_details(event)),
        }
    }

    /// Takes out at most `max` events of the minutes that have closed, or of all minutes, oldest first.
    pub(crate) fn take(&self, now: Timestamp, all: bool, max: usize) -> Vec<Event> {
        let current = now.minute();
        let mut state = self.lock();
        let mut closing: Vec<_> =
            state.rows.extract_if(|key, _| all || key.minute < current).map(|(_, event)| event).collect();
        closing.sort_by(|a, b| a.id.cmp(&b.id));
        state.closed.extend(closing);
        state.minutes.retain(|minute, _| !all && *minute >= current);
        let max = max.min(state.closed.len());
        state.closed.drain(..max).collect()
    }

    /// Puts back the events that could not be written.
    pub(crate) fn put_back(&self, events: Vec<Event>) {
        let mut state = self.lock();
        events.into_iter().rev().for_each(|event| state.closed.push_front(event));
    }
}

/// Strips an event for the overflow row, which stands for many keys, addresses and organizations.
fn without_details(event: Event) -> Event {
    Event {
        organization_id: None,
        actor: crate::domain::audit::Actor::anonymous(),
        action: REFUSED.into(),
        target: None,
        code: None,
        context: Default::default(),
        ..event
    }
}
