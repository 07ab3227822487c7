//! A client that changes its own resources, one request at a time, and tracks every answer.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Load;
use super::resource::{Change, Kind, Resource};
use crate::support::Client;

pub(super) struct LoadClient {
    number: usize,
    rng: fastrand::Rng,
    created_count: usize,
    pub resources: Vec<Resource>,
    /// The request id of each acknowledged change and the id of the changed resource.
    pub acknowledged: Vec<(String, String)>,
}

impl LoadClient {
    pub(super) fn new(number: usize, rng: fastrand::Rng) -> Self {
        Self { number, rng, created_count: 0, resources: Vec::new(), acknowledged: Vec::new() }
    }

    /// True if one of the client's requests was not answered before the kill.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.resources.iter().any(|resource| resource.in_doubt.is_some())
    }

    /// Changes one resource after another until the server is killed.
    pub(super) async fn run(&mut self, admin: &Client, load: &Load) {
        loop {
            let (index, change) = self.next_change();
            let resource = &mut self.resources[index];
            let (method, path, body) = change.request(resource);
            resource.in_doubt = Some(change);
            let request = admin.request(method, &path);
            let request = if let Some(body) = body { request.json(&body) } else { request };
            let answer = match Client::try_send(request).await {
                Ok(answer) => answer,
                Err(_) if load.killed.load(Ordering::SeqCst) => return,
                Err(error) => panic!("a request failed before the kill: {error}"),
            };
            assert!(matches!(answer.status, 200 | 201), "{answer:?}");
            resource.acknowledge(&answer);
            let request_id = answer.json["metadata"]["requestId"].as_str().unwrap().to_owned();
            self.acknowledged.push((request_id, resource.id.clone()));
            load.acknowledged.send_modify(|n| *n += 1);
        }
    }

    /// The next change and the index of its resource. About half of the changes are creations.
    fn next_change(&mut self) -> (usize, Change) {
        if !self.resources.is_empty() && self.rng.bool() {
            let index = self.rng.usize(..self.resources.len());
            let resource = &self.resources[index];
            let is_key = resource.kind == Kind::ApiKey;
            if !(is_key && resource.is_revoked()) {
                let change = match self.rng.u8(..if is_key { 6 } else { 1 }) {
                    0 | 1 => Change::Rename(format!("renamed {}", self.rng.u64(..))),
                    2 | 3 => Change::Rotate { grace: 0 },
                    4 => Change::Rotate { grace: 86_400 },
                    _ => Change::Revoke,
                };
                return (index, change);
            }
        }
        let (resource, body) = self.new_resource();
        self.resources.push(resource);
        (self.resources.len() - 1, Change::Create(body))
    }

    /// The client chooses the ids, so that it can look up a creation that was not answered.
    fn new_resource(&mut self) -> (Resource, Value) {
        self.created_count += 1;
        let suffix = format!("{}-{}", self.number, self.created_count);
        let email = format!("{suffix}@example.com");
        match self.rng.u8(..4) {
            0 => {
                let id = format!("org_{suffix}");
                let body = json!({"id": id, "name": "new", "email": email});
                (Resource::new(Kind::Organization, id), body)
            }
            1 => {
                let id = format!("user_{suffix}");
                (Resource::new(Kind::User, id.clone()), json!({"id": id, "name": "new", "email": email}))
            }
            _ => {
                let id = format!("key_{suffix}");
                let organization = self.resources.iter().find(|resource| resource.kind == Kind::Organization);
                let organization = organization.map(|resource| &resource.id);
                let body = json!({"id": id, "organization_id": organization, "name": "new",
                                  "scopes": ["workflows:read"]});
                (Resource::new(Kind::ApiKey, id), body)
            }
        }
    }

    /// After a restart: asserts that every resource is as acknowledged. Drops the resources whose creation didn't
    /// happen.
    pub(super) async fn check(&mut self, admin: &Client) {
        for resource in &mut self.resources {
            resource.check(admin).await;
        }
        self.resources.retain(|resource| resource.stored.is_some());
    }
}
