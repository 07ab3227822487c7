//! An organization, a user or a key, as tracked by the only client that changes it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Client};

use super::{revision, state};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Organization,
    User,
    ApiKey,
}

/// A change that a client requests.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(Value),
    Rename(String),
    Rotate { grace: u64 },
    Revoke,
}

pub(super) struct Resource {
    pub kind: Kind,
    pub id: String,
    /// The last state known to be stored and its revision; `None` until the creation is acknowledged.
    pub stored: Option<(Value, i64)>,
    /// The change that was requested and not yet answered.
    pub in_doubt: Option<Change>,
    secrets: Secrets,
}

/// A key's secrets: the current and the previous one, if known, must authenticate; the retired ones must not.
#[derive(Default)]
struct Secrets {
    current: Option<String>,
    previous: Option<String>,
    retired: Vec<String>,
}

impl Secrets {
    /// Applies a change that happened; `new` is the secret in its answer, if there was an answer.
    fn apply(&mut self, change: &Change, new: Option<String>) {
        match change {
            Change::Create(_) => self.current = new,
            Change::Rename(_) => {}
            Change::Rotate { grace } => {
                self.retired.extend(self.previous.take());
                let replaced = std::mem::replace(&mut self.current, new);
                if *grace > 0 { self.previous = replaced } else { self.retired.extend(replaced) }
            }
            Change::Revoke => {
                self.retired.extend(self.previous.take());
                self.retired.extend(self.current.take());
            }
        }
    }
}

impl Kind {
    /// The path in the API and the name of the table.
    pub(super) fn path_and_table(self) -> (&'static str, &'static str) {
        match self {
            Kind::Organization => ("/organizations", "organizations"),
            Kind::User => ("/users", "users"),
            Kind::ApiKey => ("/api-keys", "api_keys"),
        }
    }
}

impl Change {
    pub(super) fn request(&self, resource: &Resource) -> (Method, String, Option<Value>) {
        let collection = resource.kind.path_and_table().0;
        let item = format!("{collection}/{}", resource.id);
        match self {
            Change::Create(body) => (Method::POST, collection.to_owned(), Some(body.clone())),
            Change::Rename(name) => (Method::PATCH, item, Some(json!({"name": name}))),
            Change::Rotate { grace } => {
                (Method::POST, format!("{item}/rotate"), Some(json!({"grace_period_seconds": grace})))
            }
            Change::Revoke => (Method::DELETE, item, None),
        }
    }

    /// True if this change turns the state `before` into `after`.
    fn results_in(&self, before: Option<&Value>, after: &Value) -> bool {
        let is_same_except = |fields: &[&str]| {
            let strip = |state: &Value| {
                let mut state = state.clone();
                state
                    .as_object_mut()
                    .unwrap()
                    .retain(|name, _| name.as_str() != "updated_at" && !fields.contains(&name.as_str()));
                state
            };
            before.is_some_and(|before| strip(before) == strip(after))
        };
        match self {
            Change::Create(body) => {
                before.is_none()
                    && body.as_object().unwrap().iter().all(|(name, value)| after[name] == *value)
            }
            Change::Rename(name) => is_same_except(&["name"]) && after["name"] == *name,
            Change::Rotate { grace } => {
                is_same_except(&["start", "rotated_at", "previous_secret_expires_at"])
                    && after["rotated_at"] == after["updated_at"]
                    && after["previous_secret_expires_at"].is_null() == (*grace == 0)
            }
            Change::Revoke => {
                is_same_except(&["status", "revoked_at", "revoked_reason"]) && after["status"] == "revoked"
            }
        }
    }
}

impl Resource {
    pub(super) fn new(kind: Kind, id: String) -> Self {
        Self { kind, id, stored: None, in_doubt: None, secrets: Secrets::default() }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.stored.as_ref().is_some_and(|(state, _)| state["status"] == "revoked")
    }

    /// Records that the change in doubt was acknowledged.
    pub(super) fn acknowledge(&mut self, answer: &Answer) {
        let change = self.in_doubt.take().unwrap();
        assert!(self.try_apply(&change, answer), "{change:?} turned {:?} into {answer:?}", self.stored);
        self.secrets.apply(&change, answer.data()["key"].as_str().map(str::to_owned));
    }

    /// Stores the answer's state if it is the result of the change; returns whether it is.
    fn try_apply(&mut self, change: &Change, answer: &Answer) -> bool {
        let (before, revision_before) =
            self.stored.as_ref().map_or((None, 0), |(state, n)| (Some(state), *n));
        let after = state(answer.data());
        let is_result =
            change.results_in(before, &after) && revision(answer.header("etag")) == revision_before + 1;
        if is_result {
            self.stored = Some((after, revision_before + 1));
        }
        is_result
    }

    /// After a restart: asserts that the state is the acknowledged one or the result of the change in doubt. In the
    /// second case the change happened and must remain stored.
    pub(super) async fn check(&mut self, admin: &Client) {
        let answer = admin.get(&format!("{}/{}", self.kind.path_and_table().0, self.id)).await;
        let in_doubt = self.in_doubt.take();
        let as_acknowledged = match &self.stored {
            None => answer.status == 404,
            Some((expected, expected_revision)) => {
                answer.status == 200
                    && state(answer.data()) == *expected
                    && revision(answer.header("etag")) == *expected_revision
            }
        };
        if !as_acknowledged {
            let happened = in_doubt.as_ref().is_some_and(|change| {
                let happened = answer.status == 200 && self.try_apply(change, &answer);
                if happened {
                    self.secrets.apply(change, None);
                }
                happened
            });
            let id = &self.id;
            let stored = &self.stored;
            assert!(happened, "{id} was {stored:?}, in doubt was {in_doubt:?}, now it is {answer:?}");
        }
        self.check_secrets(admin).await;
    }

    async fn check_secrets(&self, admin: &Client) {
        let Secrets { current, previous, retired } = &self.secrets;
        let valid = current.iter().chain(previous).map(|secret| (secret, 200));
        for (secret, status) in valid.chain(retired.iter().map(|secret| (secret, 401))) {
            let answer = admin.with_key(secret).get("/whoami").await;
            assert_eq!(answer.status, status, "a secret of {}: {answer:?}", self.id);
        }
    }
}
