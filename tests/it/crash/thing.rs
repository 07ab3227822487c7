//! An organization, a user or a key, as the one client knows it that changes it.

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

/// A change that a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(Value),
    Rename(String),
    Rotate { grace: u64 },
    Revoke,
}

pub(super) struct Thing {
    pub kind: Kind,
    pub id: String,
    /// The last state known to be stored, and its revision; `None` until the creation is.
    pub stored: Option<(Value, i64)>,
    /// What was asked for and not answered.
    pub in_doubt: Option<Change>,
    secrets: Secrets,
}

/// What a key's secrets must do: the first two open the door, if they are known, the others must not.
#[derive(Default)]
struct Secrets {
    current: Option<String>,
    previous: Option<String>,
    ended: Vec<String>,
}

impl Secrets {
    /// A change happened; `new` is the secret that its answer showed, if there was an answer.
    fn follow(&mut self, change: &Change, new: Option<String>) {
        match change {
            Change::Create(_) => self.current = new,
            Change::Rename(_) => {}
            Change::Rotate { grace } => {
                self.ended.extend(self.previous.take());
                let replaced = std::mem::replace(&mut self.current, new);
                if *grace > 0 { self.previous = replaced } else { self.ended.extend(replaced) }
            }
            Change::Revoke => {
                self.ended.extend(self.previous.take());
                self.ended.extend(self.current.take());
            }
        }
    }
}

impl Kind {
    /// Where they are in the API, and the table that they are in.
    pub(super) fn paths(self) -> (&'static str, &'static str) {
        match self {
            Kind::Organization => ("/organizations", "organizations"),
            Kind::User => ("/users", "users"),
            Kind::ApiKey => ("/api-keys", "api_keys"),
        }
    }
}

impl Change {
    pub(super) fn request(&self, thing: &Thing) -> (Method, String, Option<Value>) {
        let all = thing.kind.paths().0;
        let one = format!("{all}/{}", thing.id);
        match self {
            Change::Create(body) => (Method::POST, all.to_owned(), Some(body.clone())),
            Change::Rename(name) => (Method::PATCH, one, Some(json!({"name": name}))),
            Change::Rotate { grace } => {
                (Method::POST, format!("{one}/rotate"), Some(json!({"grace_period_seconds": grace})))
            }
            Change::Revoke => (Method::DELETE, one, None),
        }
    }

    /// Is this the state that it makes of the one before?
    fn leads(&self, before: Option<&Value>, after: &Value) -> bool {
        let same_but = |fields: &[&str]| {
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
            Change::Rename(name) => same_but(&["name"]) && after["name"] == *name,
            Change::Rotate { grace } => {
                same_but(&["start", "rotated_at", "previous_secret_expires_at"])
                    && after["rotated_at"] == after["updated_at"]
                    && after["previous_secret_expires_at"].is_null() == (*grace == 0)
            }
            Change::Revoke => {
                same_but(&["status", "revoked_at", "revoked_reason"]) && after["status"] == "revoked"
            }
        }
    }
}

impl Thing {
    pub(super) fn new(kind: Kind, id: String) -> Self {
        Self { kind, id, stored: None, in_doubt: None, secrets: Secrets::default() }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.stored.as_ref().is_some_and(|(state, _)| state["status"] == "revoked")
    }

    /// The change in doubt was acknowledged.
    pub(super) fn acknowledge(&mut self, answer: &Answer) {
        let change = self.in_doubt.take().unwrap();
        assert!(self.advance(&change, answer), "{change:?} made of {:?}: {answer:?}", self.stored);
        self.secrets.follow(&change, answer.data()["key"].as_str().map(str::to_owned));
    }

    /// Takes the answer's state for the stored one, if the change leads from that to it.
    fn advance(&mut self, change: &Change, answer: &Answer) -> bool {
        let (before, changes) = self.stored.as_ref().map_or((None, 0), |(state, n)| (Some(state), *n));
        let after = state(answer.data());
        let leads = change.leads(before, &after) && revision(answer.header("etag")) == changes + 1;
        if leads {
            self.stored = Some((after, changes + 1));
        }
        leads
    }

    /// After a crash: the state is the acknowledged one, or the one to which the change in doubt leads.
    /// Then that has happened, and must stay.
    pub(super) async fn check(&mut self, admin: &Client) {
        let answer = admin.get(&format!("{}/{}", self.kind.paths().0, self.id)).await;
        let in_doubt = self.in_doubt.take();
        let as_acknowledged = match &self.stored {
            None => answer.status == 404,
            Some((known, changes)) => {
                answer.status == 200
                    && state(answer.data()) == *known
                    && revision(answer.header("etag")) == *changes
            }
        };
        if !as_acknowledged {
            let happened = in_doubt.as_ref().is_some_and(|change| {
                let happened = answer.status == 200 && self.advance(change, &answer);
                if happened {
                    self.secrets.follow(change, None);
                }
                happened
            });
            let (id, stored) = (&self.id, &self.stored);
            assert!(happened, "{id} was {stored:?}, in doubt was {in_doubt:?}, now it is {answer:?}");
        }
        self.check_secrets(admin).await;
    }

    async fn check_secrets(&self, admin: &Client) {
        let Secrets { current, previous, ended } = &self.secrets;
        let live = current.iter().chain(previous).map(|secret| (secret, 200));
        for (secret, status) in live.chain(ended.iter().map(|secret| (secret, 401))) {
            let answer = admin.with_key(secret).get("/whoami").await;
            assert_eq!(answer.status, status, "a secret of {}: {answer:?}", self.id);
        }
    }
}
