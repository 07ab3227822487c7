//! Aggregates events that a client can repeat cheaply: they are counted in memory, as one audit event per API
//! key or address, error code and minute. The audit event is written after its minute has ended.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::action::Action;
use crate::domain::audit::Event;
use crate::domain::minute_rows::{MAX_ROWS_IN_MEMORY, MinuteRows, RowAdmission, RowOwner};
use crate::domain::stored_name::StoredName;
use crate::domain::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);

/// The key by which events are aggregated: events with the same key are counted as one audit event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AggregatedEventKey {
    minute: Timestamp,
    /// The id of the API key, or the client's address. Empty in the event that combines all subjects for which there
    /// was no room.
    subject: String,
    code: String,
    action: StoredName<Action>,
}

impl AggregatedEventKey {
    fn overflow(minute: Timestamp) -> Self {
        Self { minute, subject: String::new(), code: String::new(), action: Action::RequestRefused.into() }
    }
}

/// The aggregated events that are not yet written to the database.
#[derive(Default)]
pub(crate) struct AggregatedEvents(Mutex<UnwrittenEvents>);

#[derive(Default)]
struct UnwrittenEvents {
    rows: HashMap<AggregatedEventKey, Event>,
    minutes: HashMap<Timestamp, MinuteRows<AggregatedEventKey>>,
    /// Events of minutes that have ended, oldest first.
    ended: VecDeque<Event>,
}

impl UnwrittenEvents {
    /// Adds an event, whatever the number of events. If an event with the same key exists, only its count is
    /// increased.
    fn merge(&mut self, key: AggregatedEventKey, event: Event) {
        match self.rows.get_mut(&key) {
            Some(aggregated) => aggregated.count += event.count,
            None => drop(self.rows.insert(key, event)),
        }
    }
}

impl AggregatedEvents {
    /// Adds an event. If an event with the same key exists, only its count is increased; its other fields
    /// stay those of the first event. Events for which there is no room are counted in one overflow event per
    /// minute.
    pub(crate) fn add(&self, subject: &str, now: Timestamp, event: Event) {
        let minute = now.start_of_minute();
        let code = event.code.as_deref().unwrap_or_default().to_owned();
        let action = event.action.clone();
        let key = AggregatedEventKey { minute, subject: subject.to_owned(), code, action };
        let mut unwritten = self.0.lock();
        if let Some(aggregated) = unwritten.rows.get_mut(&key) {
            aggregated.count += event.count;
            return;
        }
        let admission = if unwritten.rows.len() + unwritten.ended.len() < MAX_ROWS_IN_MEMORY {
            let owner = RowOwner {
                organization_id: event.organization_id.as_deref(),
                is_key: event.actor.id.is_some(),
            };
            unwritten.minutes.entry(minute).or_default().admit(&key, owner)
        } else {
            RowAdmission::Overflow
        };
        match admission {
            RowAdmission::Admitted => drop(unwritten.rows.insert(key, event)),
            RowAdmission::Replaces(replaced) => {
                if let Some(replaced) = unwritten.rows.remove(&replaced) {
                    unwritten.merge(AggregatedEventKey::overflow(minute), strip_details(replaced));
                }
                unwritten.rows.insert(key, event);
            }
            RowAdmission::Overflow => {
                unwritten.merge(AggregatedEventKey::overflow(minute), strip_details(event));
            }
        }
    }

    /// Removes and returns at most `max` aggregated events of the minutes that have ended, or, if `all` is
    /// true, of all minutes; oldest first. A minute far in the future has ended too: the clock was set back.
    pub(crate) fn take(&self, now: Timestamp, all: bool, max: usize) -> Vec<Event> {
        let current = now.start_of_minute();
        // The next minute may have begun since `now` was read.
        let next = current + MINUTE;
        let has_ended = |minute: Timestamp| minute != current && minute != next;
        let mut unwritten = self.0.lock();
        let extracted = unwritten.rows.extract_if(|key, _| all || has_ended(key.minute));
        let mut ending: Vec<_> = extracted.map(|(_, event)| event).collect();
        ending.sort_by(|a, b| a.id.cmp(&b.id));
        unwritten.ended.extend(ending);
        unwritten.minutes.retain(|minute, _| !all && !has_ended(*minute));
        let max = max.min(unwritten.ended.len());
        unwritten.ended.drain(..max).collect()
    }

    /// Puts back aggregated events that could not be written to the database.
    pub(crate) fn put_back(&self, events: Vec<Event>) {
        let mut unwritten = self.0.lock();
        events.into_iter().rev().for_each(|event| unwritten.ended.push_front(event));
    }
}

/// Removes the details of an event that becomes the overflow event, which combines many API keys, addresses
/// and organizations.
fn strip_details(event: Event) -> Event {
    Event {
        organization_id: None,
        actor: crate::domain::audit::Actor::anonymous(),
        action: Action::RequestRefused.into(),
        target: None,
        code: None,
        context: Default::default(),
        ..event
    }
}
