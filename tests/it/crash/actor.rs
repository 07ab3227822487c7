//! A client that changes things of its own, one request at a time, and remembers every answer.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Load;
use super::thing::{Change, Kind, Thing};
use crate::support::Client;

pub(super) struct Actor {
    number: usize,
    random: fastrand::Rng,
    made: usize,
    pub things: Vec<Thing>,
    /// The request id of each acknowledged change, and the id of the thing that it changed.
    pub acknowledged: Vec<(String, String)>,
}

impl Actor {
    pub(super) fn new(number: usize, random: fastrand::Rng) -> Self {
        Self { number, random, made: 0, things: Vec::new(), acknowledged: Vec::new() }
    }

    /// Did the last load leave one of its requests without an answer?
    pub(super) fn is_in_doubt(&self) -> bool {
        self.things.iter().any(|thing| thing.in_doubt.is_some())
    }

    /// Changes one thing after the other until the server is gone.
    pub(super) async fn work(&mut self, admin: &Client, load: &Load) {
        loop {
            let (index, change) = self.next();
            let thing = &mut self.things[index];
            let (method, path, body) = change.request(thing);
            thing.in_doubt = Some(change);
            let request = admin.request(method, &path);
            let request = if let Some(body) = body { request.json(&body) } else { request };
            let answer = match Client::try_send(request).await {
                Ok(answer) => answer,
                Err(_) if load.killed.load(Ordering::SeqCst) => return,
                Err(error) => panic!("nobody killed the server: {error}"),
            };
            assert!(matches!(answer.status, 200 | 201), "{answer:?}");
            thing.acknowledge(&answer);
            let request_id = answer.json["metadata"]["requestId"].as_str().unwrap().to_owned();
            self.acknowledged.push((request_id, thing.id.clone()));
            load.acknowledged.send_modify(|n| *n += 1);
        }
    }

    /// Which thing is changed next, and how. As many are made as are changed.
    fn next(&mut self) -> (usize, Change) {
        if !self.things.is_empty() && self.random.bool() {
            let index = self.random.usize(..self.things.len());
            let thing = &self.things[index];
            let is_key = thing.kind == Kind::ApiKey;
            if !(is_key && thing.is_revoked()) {
                let change = match self.random.u8(..if is_key { 6 } else { 1 }) {
                    0 | 1 => Change::Rename(format!("renamed {}", self.random.u64(..))),
                    2 | 3 => Change::Rotate { grace: 0 },
                    4 => Change::Rotate { grace: 86_400 },
                    _ => Change::Revoke,
                };
                return (index, change);
            }
        }
        let (thing, body) = self.new_thing();
        self.things.push(thing);
        (self.things.len() - 1, Change::Create(body))
    }

    /// Ids are chosen here, so that a creation without an answer can be looked up.
    fn new_thing(&mut self) -> (Thing, Value) {
        self.made += 1;
        let suffix = format!("{}-{}", self.number, self.made);
        let email = format!("{suffix}@example.com");
        match self.random.u8(..4) {
            0 => {
                let id = format!("org_{suffix}");
                let body = json!({"id": id, "name": "new", "email": email});
                (Thing::new(Kind::Organization, id), body)
            }
            1 => {
                let id = format!("user_{suffix}");
                (Thing::new(Kind::User, id.clone()), json!({"id": id, "name": "new", "email": email}))
            }
            _ => {
                let id = format!("key_{suffix}");
                let organization = self.things.iter().find(|thing| thing.kind == Kind::Organization);
                let organization = organization.map(|thing| &thing.id);
                let body = json!({"id": id, "organization_id": organization, "name": "new",
                                  "scopes": ["workflows:read"]});
                (Thing::new(Kind::ApiKey, id), body)
            }
        }
    }

    /// After a crash: is everything as it was acknowledged? What did not come about is forgotten.
    pub(super) async fn check(&mut self, admin: &Client) {
        for thing in &mut self.things {
            thing.check(admin).await;
        }
        self.things.retain(|thing| thing.stored.is_some());
    }
}
