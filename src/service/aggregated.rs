//! Refusals that a client can repeat cheaply: counted in memory, one event for each key or address,
//! code and minute, written when the minute closes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::audit::Event;
use crate::domain::time::Timestamp;

/// Rows at most; what comes beyond is counted in one row a minute.
const MAX_ROWS: usize = 1000;

/// The action of a folded refusal: it may stand for calls of several routes.
pub(crate) const REFUSED: &str = "request.refused";

/// What is counted together.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    minute: Timestamp,
    /// Key id or address; empty for the overflow.
    subject: String,
    code: String,
}

/// The refusals of the minutes that aren't written yet.
#[derive(Default)]
pub(crate) struct Aggregated(Mutex<HashMap<Row, Event>>);

impl Aggregated {
    /// Counts an event. The first of a row is kept as the example for all of them.
    pub(crate) fn add(&self, subject: &str, now: Timestamp, event: Event) {
        let minute = now.minute();
        let code = event.code.as_deref().unwrap_or_default().to_owned();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = Row { minute, subject: subject.to_owned(), code };
        if let Some(aggregated) = rows.get_mut(&row) {
            aggregated.count += event.count;
            return;
        }
        if rows.len() < MAX_ROWS {
            rows.insert(row, event);
            return;
        }
        let overflow = Row { minute, subject: String::new(), code: String::new() };
        match rows.get_mut(&overflow) {
            Some(aggregated) => aggregated.count += event.count,
            None => drop(rows.insert(overflow, without_details(event))),
        }
    }

    /// Takes the rows of the minutes that have closed, or all of them, oldest first.
    pub(crate) fn take(&self, now: Timestamp, all: bool) -> Vec<(Row, Event)> {
        let open = now.minute();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<_> = rows.extract_if(|row, _| all || row.minute < open).collect();
        drop(rows);
        taken.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
        taken
    }

    /// Puts back what could not be written.
    pub(crate) fn put_back(&self, taken: Vec<(Row, Event)>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, event) in taken {
            match rows.get_mut(&row) {
                Some(aggregated) => aggregated.count += event.count,
                None => drop(rows.insert(row, event)),
            }
        }
    }
}

/// An overflow row stands for many keys, addresses and organizations: it names none of them.
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
