//! The database file as it lies there: do the rows and the audit log say the same?

use std::collections::HashMap;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value};

use super::thing::{Kind, Thing};

/// Every stored row with its events, and who asked for which.
pub(super) struct Ledger {
    /// The revision of each organization, user and key.
    rows: HashMap<String, i64>,
    /// By what they changed, oldest first.
    events: HashMap<String, Vec<Value>>,
    /// By request, what it changed.
    requests: HashMap<String, String>,
}

impl Ledger {
    /// Reads the file, also beside a running server, and has SQLite look it over.
    pub(super) fn read(file: &str) -> Self {
        let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let checked: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(checked, "ok");
        let mut strays = conn.prepare("PRAGMA foreign_key_check").unwrap();
        assert!(!strays.exists([]).unwrap(), "a row refers to one that is not there");

        let mut ledger = Self { rows: HashMap::new(), events: HashMap::new(), requests: HashMap::new() };
        for kind in [Kind::Organization, Kind::User, Kind::ApiKey] {
            let sql = format!("SELECT id, revision FROM {}", kind.paths().1);
            let mut statement = conn.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            ledger.rows.extend(rows.map(Result::unwrap));
        }
        let sql =
            "SELECT event FROM audit_events WHERE access = 'write' AND outcome = 'success' ORDER BY seq";
        let mut statement = conn.prepare(sql).unwrap();
        for event in statement.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            let event: Value = serde_json::from_str(&event.unwrap()).unwrap();
            let target = event["target"]["id"].as_str().unwrap().to_owned();
            if let Some(request) = event["context"]["request_id"].as_str() {
                let earlier = ledger.requests.insert(request.to_owned(), target.clone());
                assert_eq!(earlier, None, "{request} changed one thing, once");
            }
            ledger.events.entry(target).or_default().push(event);
        }
        ledger
    }

    /// Each row has the event of its creation and one for each change since, and no event is about a
    /// thing that is not there.
    pub(super) fn check_rows(&self) {
        for (id, revision) in &self.rows {
            let events = self.events.get(id).map_or(&[][..], Vec::as_slice);
            let actions: Vec<_> = events.iter().filter_map(|event| event["action"].as_str()).collect();
            assert_eq!(actions.len() as i64, *revision, "{id}: {actions:?}");
            let creations = actions.iter().filter(|action| action.ends_with(".create")).count();
            assert!(creations == 1 && actions[0].ends_with(".create"), "{id}: {actions:?}");
        }
        for (id, events) in &self.events {
            assert!(self.rows.contains_key(id), "events of what is not there: {events:?}");
        }
    }

    /// The changes that the events tell, one after the other, make the state that is stored.
    pub(super) fn check_thing(&self, thing: &Thing) {
        let (state, revision) = thing.stored.as_ref().unwrap();
        assert_eq!(self.rows.get(&thing.id), Some(revision), "{}", thing.id);
        let mut told = Map::new();
        for change in self.events[&thing.id].iter().flat_map(|event| event["changes"].as_array().unwrap()) {
            let before = told.insert(change["field"].as_str().unwrap().to_owned(), change["to"].clone());
            assert_eq!(before.unwrap_or_default(), change["from"], "{}: {change}", thing.id);
        }
        told.into_iter().for_each(|(field, value)| assert_eq!(value, state[&field], "{}: {field}", thing.id));
    }

    /// An acknowledged request has its event.
    pub(super) fn check_acknowledged(&self, (request, thing): &(String, String)) {
        assert_eq!(self.requests.get(request), Some(thing), "{request} was acknowledged");
    }
}
