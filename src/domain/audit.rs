//! Audit events: who did what to what, and how the chain of their hashes is made.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::access::Caller;
use super::page::Query;
use super::schemas;
use super::time::Timestamp;

/// A SHA-256.
pub(crate) type ChainHash = [u8; 32];

/// What the hash of each event is taken over first, so that it is never taken for another's.
pub(crate) const DOMAIN_TAG: &[u8] = b"tollhouse.audit.v1\n";

/// The `prev_hash` of the very first event.
pub(crate) const GENESIS: ChainHash = [0; 32];

/// Strings that a client supplies are cut to this many characters.
const MAX_TEXT_CHARS: usize = 256;
/// A changed value whose JSON is longer than this many bytes is kept as a cut text.
const MAX_VALUE_BYTES: usize = 1024;

/// Who did it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditActor)]
pub struct Actor {
    /// `api_key`, `cli`, `system` or `anonymous`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "api_key")]
    pub(crate) kind: Cow<'static, str>,
    /// The key's id.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// The key's name.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// The user that the key belongs to.
    #[schema(required)]
    pub(crate) user_id: Option<String>,
}

impl Actor {
    /// Somebody without a valid key.
    pub fn anonymous() -> Self {
        Self { kind: "anonymous".into(), id: None, name: None, user_id: None }
    }
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        let kind = match caller {
            Caller::Key(_) => "api_key",
            Caller::Operator => "cli",
            Caller::System => "system",
        };
        Self {
            kind: kind.into(),
            id: caller.key().map(|key| key.id.clone()),
            name: caller.key().map(|key| key.name.clone()),
            user_id: caller.key().and_then(|key| key.user_id.clone()),
        }
    }
}

/// What it was done to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditTarget)]
pub struct Target {
    /// `organization`, `user`, `membership`, `api_key`, `scope`, `config`, `audit_log`, `database`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "organization")]
    pub(crate) kind: Cow<'static, str>,
    /// Its id.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// Its name at the time.
    #[schema(required)]
    pub(crate) name: Option<String>,
}

/// One field before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditChange)]
pub struct Change {
    /// The field's name.
    pub(crate) field: String,
    /// Before.
    pub(crate) from: Value,
    /// After.
    pub(crate) to: Value,
}

/// How the call came.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditContext)]
pub struct EventContext {
    /// `metadata.requestId` of the answer.
    #[schema(required)]
    pub(crate) request_id: Option<String>,
    /// The HTTP method.
    #[schema(required)]
    pub(crate) method: Option<String>,
    /// The path without its query.
    #[schema(required)]
    pub(crate) path: Option<String>,
    /// The HTTP status of the answer.
    #[schema(required)]
    pub(crate) status: Option<u16>,
    /// The client's address.
    #[schema(required)]
    pub(crate) ip: Option<String>,
    /// `User-Agent`.
    #[schema(required)]
    pub(crate) user_agent: Option<String>,
    /// Shared by the operations of one batch.
    #[schema(required)]
    pub(crate) batch_id: Option<String>,
}

/// An event. Its JSON is stored, hashed and exported byte for byte.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditEvent)]
pub struct Event {
    /// `evt_…`
    #[schema(example = "evt_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub id: String,
    /// Its place in the chain; platform keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub seq: Option<i64>,
    /// When it happened.
    #[schema(format = DateTime)]
    pub occurred_at: String,
    /// Whose log it belongs to.
    #[schema(required)]
    pub organization_id: Option<String>,
    /// Who did it.
    pub actor: Actor,
    /// `resource.verb`.
    #[schema(example = "api_key.create")]
    pub action: Cow<'static, str>,
    /// Did it look or change?
    #[schema(value_type = schemas::Access)]
    pub access: Cow<'static, str>,
    /// What it was done to.
    #[schema(required)]
    pub target: Option<Target>,
    /// How it ended.
    #[schema(value_type = schemas::Outcome)]
    pub outcome: Cow<'static, str>,
    /// The error code of a refusal.
    #[schema(required)]
    pub code: Option<Cow<'static, str>>,
    /// How many calls it stands for.
    pub count: u64,
    /// What changed, field by field.
    pub changes: Vec<Change>,
    /// How the call came.
    pub context: EventContext,
    /// The hash of the event before, hex; platform keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub prev_hash: Option<String>,
    /// This event's hash, hex; platform keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hash: Option<String>,
}

impl Event {
    /// The event as the organization that it belongs to may see it: without its place in the chain,
    /// and of the platform's own people no address, agent or key name.
    pub(crate) fn redacted(mut self, by_own_key: bool) -> Self {
        self.seq = None;
        self.prev_hash = None;
        self.hash = None;
        if !by_own_key {
            self.actor.name = None;
            self.context.ip = None;
            self.context.user_agent = None;
        }
        self
    }
}

/// What an operation says of itself; who, when and how is added from its context.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Whose log it belongs to.
    pub(crate) organization_id: Option<String>,
    /// What it was done to.
    pub(crate) target: Option<Target>,
    /// What changed.
    pub(crate) changes: Vec<Change>,
}

impl Entry {
    /// Something done to a thing.
    pub(crate) fn of(organization_id: Option<&str>, kind: &'static str, id: &str, name: &str) -> Self {
        let target = Target { kind: kind.into(), id: Some(cut(id)), name: Some(cut(name)) };
        Self {
            organization_id: organization_id.map(str::to_owned),
            target: Some(target),
            changes: Vec::new(),
        }
    }

    /// A look at a list or at the whole.
    pub(crate) fn about(organization_id: Option<&str>) -> Self {
        Self { organization_id: organization_id.map(str::to_owned), target: None, changes: Vec::new() }
    }

    /// The same, with what changed.
    pub(crate) fn with(self, changes: Vec<Change>) -> Self {
        Self { changes, ..self }
    }
}

/// The fields in which two states of a resource differ, without its times of change. `before` of a
/// creation is [`Value::Null`].
pub(crate) fn changes(before: &impl Serialize, after: &impl Serialize) -> Vec<Change> {
    let (before, after) = (to_value(before), to_value(after));
    let Value::Object(after) = after else { return Vec::new() };
    let names = after
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "id" | "created_at" | "updated_at" | "user"));
    names
        .filter_map(|(name, to)| {
            let from = before.get(name).cloned().unwrap_or(Value::Null);
            // A creation says what was given, not what was left empty.
            let left_empty = from.is_null()
                && (*to == Value::Object(Default::default()) || *to == Value::Array(Vec::new()));
            (from != *to && !left_empty).then(|| Change {
                field: name.clone(),
                from: bounded(from),
                to: bounded(to.clone()),
            })
        })
        .collect()
}

fn to_value(thing: &impl Serialize) -> Value {
    serde_json::to_value(thing).unwrap_or_default()
}

fn bounded(value: Value) -> Value {
    let text = value.to_string();
    if text.len() <= MAX_VALUE_BYTES { value } else { Value::String(cut(&text)) }
}

/// Cuts what a client supplied, and says so with an ellipsis.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Which events a list or an export is asked for.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // They are named as the query's parameters.
pub(crate) struct AuditFilter {
    pub(crate) org_id: Option<String>,
    pub(crate) actor_id: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) target_id: Option<String>,
    pub(crate) access: Option<&'static str>,
    pub(crate) outcome: Option<&'static str>,
    /// Not before.
    pub(crate) from: Option<Timestamp>,
    /// Before.
    pub(crate) to: Option<Timestamp>,
}

impl AuditFilter {
    /// Reads the filters of a query.
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            org_id: query.text("org_id"),
            actor_id: query.text("actor_id"),
            action: query.text("action"),
            target_id: query.text("target_id"),
            access: query.one_of("access", &[("read", "read"), ("write", "write")]),
            outcome: query
                .one_of("outcome", &[("success", "success"), ("denied", "denied"), ("failed", "failed")]),
            from: query.time("from"),
            to: query.time("to"),
        }
    }
}

/// What walking the chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = AuditVerification)]
pub(crate) struct Verification {
    /// Is every event as it was written, and none missing?
    pub(crate) valid: bool,
    /// Events walked.
    pub(crate) checked: u64,
    /// The first of them.
    #[schema(required)]
    pub(crate) first_seq: Option<i64>,
    /// The last of them.
    #[schema(required)]
    pub(crate) last_seq: Option<i64>,
    /// The hash of the last, hex: keep it elsewhere, with `last_seq`, as an anchor.
    #[schema(required)]
    pub(crate) head_hash: Option<String>,
    /// Where the chain is broken.
    #[schema(required)]
    pub(crate) broken_at: Option<i64>,
}
