//! The contents of the database file, to check that rows and audit log agree.

use std::collections::HashMap;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value};

use super::resource::{Kind, Resource};

/// The stored rows, their events, and the requests that caused them.
pub(super) struct Snapshot {
    /// The revision of each organization, user and key, by id.
    revisions: HashMap<String, i64>,
    /// By target id, oldest first.
    events: HashMap<String, Vec<Value>>,
    /// The target id, by request id.
    targets_by_request: HashMap<String, String>,
}

impl Snapshot {
    /// Reads the file, also beside a running server, and runs SQLite's own checks.
    pub(super) fn read(file: &str) -> Self {
        let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let integrity: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(integrity, "ok");
        let mut violations = conn.prepare("PRAGMA foreign_key_check").unwrap();
        assert!(!violations.exists([]).unwrap(), "a row violates a foreign key");

        let mut snapshot =
            Self { revisions: HashMap::new(), events: HashMap::new(), targets_by_request: HashMap::new() };
        for kind in [Kind::Organization, Kind::User, Kind::ApiKey] {
            let sql = format!("SELECT id, revision FROM {}", kind.path_and_table().1);
            let mut statement = conn.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            snapshot.revisions.extend(rows.map(Result::unwrap));
        }
        let sql =
            "SELECT event FROM audit_events WHERE access = 'write' AND outcome = 'success' ORDER BY seq";
        let mut statement = conn.prepare(sql).unwrap();
        for event in statement.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            let event: Value = serde_json::from_str(&event.unwrap()).unwrap();
            let target = event["target"]["id"].as_str().unwrap().to_owned();
            if let Some(request) = event["context"]["request_id"].as_str() {
                let previous = snapshot.targets_by_request.insert(request.to_owned(), target.clone());
                assert_eq!(previous, None, "{request} has more than one event");
            }
            snapshot.events.entry(target).or_default().push(event);
        }
        snapshot
    }

    /// Asserts that each row has one event for its creation and one for each change since, and that each event's
    /// target exists.
    pub(super) fn check_rows(&self) {
        for (id, revision) in &self.revisions {
            let events = self.events.get(id).map_or(&[][..], Vec::as_slice);
            let actions: Vec<_> = events.iter().filter_map(|event| event["action"].as_str()).collect();
            assert_eq!(actions.len() as i64, *revision, "{id}: {actions:?}");
            let creations = actions.iter().filter(|action| action.ends_with(".create")).count();
            assert!(creations == 1 && actions[0].ends_with(".create"), "{id}: {actions:?}");
        }
        for (id, events) in &self.events {
            assert!(self.revisions.contains_key(id), "events of a missing row: {events:?}");
        }
    }

    /// Asserts that replaying the changes in the resource's events yields its stored state.
    pub(super) fn check_resource(&self, resource: &Resource) {
        let (state, revision) = resource.stored.as_ref().unwrap();
        assert_eq!(self.revisions.get(&resource.id), Some(revision), "{}", resource.id);
        let mut replayed = Map::new();
        for change in self.events[&resource.id].iter().flat_map(|event| event["changes"].as_array().unwrap())
        {
            let before = replayed.insert(change["field"].as_str().unwrap().to_owned(), change["to"].clone());
            assert_eq!(before.unwrap_or_default(), change["from"], "{}: {change}", resource.id);
        }
        for (field, value) in replayed {
            assert_eq!(value, state[&field], "{}: {field}", resource.id);
        }
    }

    /// Asserts that an acknowledged request has its event.
    pub(super) fn check_acknowledged(&self, (request, resource): &(String, String)) {
        assert_eq!(
            self.targets_by_request.get(request),
            Some(resource),
            "{request} was acknowledged but not recorded"
        );
    }
}
