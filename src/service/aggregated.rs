//! Aggregates events that a client can repeat cheaply: they are counted in memory, as one audit event per API
//! key or address, error code and minute. The audit event is written after its minute has ended.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::audit::Event;
use crate::domain::time::Timestamp;

/// The largest number of aggregated events in memory; further events are counted in one overflow event per
/// minute.
const MAX_AGGREGATED_EVENTS: usize = 1000;

/// The action in the audit event of aggregated refusals, which may combine requests to several routes.
pub(crate) const REQUEST_REFUSED: &str = "request.refused";

/// The key by which events are aggregated: events with the same key are counted as one audit event.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct AggregatedEventKey {
    minute: Timestamp,
    /// The id of the API key, or the client's address; empty for the overflow event.
    subject: String,
    code: String,
}

/// The aggregated events that are not yet written to the database.
#[derive(Default)]
pub(crate) struct AggregatedEvents(Mutex<HashMap<AggregatedEventKey, Event>>);

impl AggregatedEvents {
    /// Adds an event. If an event with the same key exists, only its count is increased; its other fields
    /// stay those of the first event.
    pub(crate) fn add(&self, subject: &str, now: Timestamp, event: Event) {
        let minute = now.minute();
        let code = event.code.as_deref().unwrap_or_default().to_owned();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = AggregatedEventKey { minute, subject: subject.to_owned(), code };
        if let Some(aggregated) = rows.get_mut(&key) {
            aggregated.count += event.count;
            return;
        }
        if rows.len() < MAX_AGGREGATED_EVENTS {
            rows.insert(key, event);
            return;
        }
        let overflow = AggregatedEventKey { minute, subject: String::new(), code: String::new() };
        match rows.get_mut(&overflow) {
            Some(aggregated) => aggregated.count += event.count,
            None => drop(rows.insert(overflow, strip_details(event))),
        }
    }

    /// Removes and returns the aggregated events of the minutes that have ended, or, if `all` is true, all
    /// aggregated events; oldest first.
    pub(crate) fn take(&self, now: Timestamp, all: bool) -> Vec<(AggregatedEventKey, Event)> {
        let current = now.minute();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<_> = rows.extract_if(|key, _| all || key.minute < current).collect();
        drop(rows);
        taken.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
        taken
    }

    /// Puts back aggregated events that could not be written to the database.
    pub(crate) fn put_back(&self, taken: Vec<(AggregatedEventKey, Event)>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, event) in taken {
            match rows.get_mut(&key) {
                Some(aggregated) => aggregated.count += event.count,
                None => drop(rows.insert(key, event)),
            }
        }
    }
}

/// Removes the details of an event that becomes the overflow event, which combines many API keys, addresses
/// and organizations.
fn strip_details(event: Event) -> Event {
    Event {
        organization_id: None,
        actor: crate::domain::audit::Actor::anonymous(),
        action: REQUEST_REFUSED.into(),
        target: None,
        code: None,
        context: Default::default(),
        ..event
    }
}
