//! Events that a client can repeat cheaply: counted in memory, as one audit event per API key or address,
//! code and minute. The event is written when its minute closes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::audit::Event;
use crate::domain::time::Timestamp;

/// The largest number of rows; further events are counted in one overflow row a minute.
const MAX_ROWS: usize = 1000;

/// The action of an aggregated refusal, which may stand for calls of several routes.
pub(crate) const REFUSED: &str = "request.refused";

/// Events with the same key are counted together.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    minute: Timestamp,
    /// Key id or address; empty for the overflow.
    subject: String,
    code: String,
}

/// The aggregated events that aren't written yet.
#[derive(Default)]
pub(crate) struct Aggregated(Mutex<HashMap<RowKey, Event>>);

impl Aggregated {
    /// Counts an event. The first event of a row stands for all of them.
    pub(crate) fn add(&self, subject: &str, now: Timestamp, event: Event) {
        let minute = now.minute();
        let code = event.code.as_deref().unwrap_or_default().to_owned();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = RowKey { minute, subject: subject.to_owned(), code };
        if let Some(aggregated) = rows.get_mut(&key) {
            aggregated.count += event.count;
            return;
        }
        if rows.len() < MAX_ROWS {
            rows.insert(key, event);
            return;
        }
        let overflow = RowKey { minute, subject: String::new(), code: String::new() };
        match rows.get_mut(&overflow) {
            Some(aggregated) => aggregated.count += event.count,
            None => drop(rows.insert(overflow, without_details(event))),
        }
    }

    /// Takes out the rows of the minutes that have closed, or all rows, oldest first.
    pub(crate) fn take(&self, now: Timestamp, all: bool) -> Vec<(RowKey, Event)> {
        let current = now.minute();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<_> = rows.extract_if(|key, _| all || key.minute < current).collect();
        drop(rows);
        taken.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
        taken
    }

    /// Puts back the rows that could not be written.
    pub(crate) fn put_back(&self, taken: Vec<(RowKey, Event)>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, event) in taken {
            match rows.get_mut(&key) {
                Some(aggregated) => aggregated.count += event.count,
                None => drop(rows.insert(key, event)),
            }
        }
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
