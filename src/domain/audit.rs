//! Audit events: actor, action, target, outcome and context.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::access::Caller;
use super::page::Query;
use super::schemas;
use super::time::Timestamp;

/// The SHA-256 of an event in the chain.
pub(crate) type ChainHash = [u8; 32];

/// Domain separation: the prefix of the hashed bytes of every event, so that no other hash can pass for
/// one.
pub(crate) const DOMAIN_TAG: &[u8] = b"tollhouse.audit.v1\n";

/// The `prev_hash` of the first event.
pub(crate) const GENESIS: ChainHash = [0; 32];

/// Client-supplied strings are truncated to this many characters.
const MAX_TEXT_CHARS: usize = 256;
/// A changed value whose JSON is longer than this many bytes is stored as truncated text.
const MAX_CHANGED_VALUE_BYTES: usize = 1024;

/// Who performed the action.
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
    /// The user who owns the key.
    #[schema(required)]
    pub(crate) user_id: Option<String>,
}

impl Actor {
    /// A client without a valid key.
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

/// The resource that the action affected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditTarget)]
pub struct Target {
    /// `organization`, `user`, `membership`, `api_key`, `scope`, `config`, `audit_log`, `database`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "organization")]
    pub(crate) kind: Cow<'static, str>,
    /// The resource's id.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// The resource's name at the time of the event.
    #[schema(required)]
    pub(crate) name: Option<String>,
}

/// A changed field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditChange)]
pub struct Change {
    /// The field's name.
    pub(crate) field: String,
    /// Value before the change.
    pub(crate) from: Value,
    /// Value after the change.
    pub(crate) to: Value,
}

/// The request that caused the event.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditContext)]
pub struct EventContext {
    /// `metadata.requestId` of the response.
    #[schema(required)]
    pub(crate) request_id: Option<String>,
    /// The HTTP method.
    #[schema(required)]
    pub(crate) method: Option<String>,
    /// The path without its query.
    #[schema(required)]
    pub(crate) path: Option<String>,
    /// The HTTP status of the response.
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

/// An audit event. Its JSON is stored, hashed and exported byte for byte.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditEvent)]
pub struct Event {
    /// Unique identifier, `evt_…`.
    #[schema(example = "evt_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub id: String,
    /// Sequence number in the chain; only for platform keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub seq: Option<i64>,
    /// When the event happened.
    #[schema(format = DateTime)]
    pub occurred_at: String,
    /// The organization whose audit log contains the event; `null` for the platform's.
    #[schema(required)]
    pub organization_id: Option<String>,
    /// Who performed the action.
    pub actor: Actor,
    /// `resource.verb`.
    #[schema(example = "api_key.create")]
    pub action: Cow<'static, str>,
    /// Whether the action read or changed something.
    #[schema(value_type = schemas::Access)]
    pub access: Cow<'static, str>,
    /// The resource that the action affected.
    #[schema(required)]
    pub target: Option<Target>,
    /// How the action ended.
    #[schema(value_type = schemas::Outcome)]
    pub outcome: Cow<'static, str>,
    /// The error code, if the action did not succeed.
    #[schema(required)]
    pub code: Option<Cow<'static, str>>,
    /// Number of calls aggregated in this event.
    pub count: u64,
    /// The changed fields.
    pub changes: Vec<Change>,
    /// The request that caused the event.
    pub context: EventContext,
    /// Hash of the previous event, in hex; only for platform keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub prev_hash: Option<String>,
    /// Hash of this event, in hex; only for platform keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hash: Option<String>,
}

impl Event {
    /// The event as its organization may see it: without its place in the chain and, unless the
    /// organization's own key caused it, without address, user agent and key name.
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

/// The part of an event that an operation supplies. Actor, time and request are added from its context.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The organization whose audit log contains the event.
    pub(crate) organization_id: Option<String>,
    /// The affected resource.
    pub(crate) target: Option<Target>,
    /// The changed fields.
    pub(crate) changes: Vec<Change>,
}

impl Entry {
    /// An operation on one resource.
    pub(crate) fn of(organization_id: Option<&str>, kind: &'static str, id: &str, name: &str) -> Self {
        let target = Target { kind: kind.into(), id: Some(cut(id)), name: Some(cut(name)) };
        Self {
            organization_id: organization_id.map(str::to_owned),
            target: Some(target),
            changes: Vec::new(),
        }
    }

    /// A read of a list or of the whole platform.
    pub(crate) fn about(organization_id: Option<&str>) -> Self {
        Self { organization_id: organization_id.map(str::to_owned), target: None, changes: Vec::new() }
    }

    /// Adds changed fields.
    pub(crate) fn with(self, changes: Vec<Change>) -> Self {
        Self { changes, ..self }
    }
}

/// The fields that differ between two states of a resource, except its timestamps of creation and
/// change. For a creation, `before` is [`Value::Null`].
pub(crate) fn changes(before: &impl Serialize, after: &impl Serialize) -> Vec<Change> {
    let before = to_json(before);
    let after = to_json(after);
    let Value::Object(after) = after else { return Vec::new() };
    let names = after
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "id" | "created_at" | "updated_at" | "user"));
    names
        .filter_map(|(name, to)| {
            let from = before.get(name).cloned().unwrap_or(Value::Null);
            // Fields left empty by a creation are not listed.
            let left_empty = from.is_null()
                && (*to == Value::Object(Default::default()) || *to == Value::Array(Vec::new()));
            (from != *to && !left_empty).then(|| Change {
                field: name.clone(),
                from: truncate_value(from),
                to: truncate_value(to.clone()),
            })
        })
        .collect()
}

fn to_json(resource: &impl Serialize) -> Value {
    serde_json::to_value(resource).unwrap_or_default()
}

fn truncate_value(value: Value) -> Value {
    let text = value.to_string();
    if text.len() <= MAX_CHANGED_VALUE_BYTES { value } else { Value::String(cut(&text)) }
}

/// Truncates a client-supplied string and marks the truncation with an ellipsis.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The filters of a list or an export.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // The fields have the names of the query parameters.
pub(crate) struct AuditFilter {
    pub(crate) org_id: Option<String>,
    pub(crate) actor_id: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) target_id: Option<String>,
    pub(crate) access: Option<&'static str>,
    pub(crate) outcome: Option<&'static str>,
    /// Inclusive.
    pub(crate) from: Option<Timestamp>,
    /// Exclusive.
    pub(crate) to: Option<Timestamp>,
}

impl AuditFilter {
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

/// Result of verifying the audit chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = AuditVerification)]
pub(crate) struct Verification {
    /// True if every event is as it was written and none is missing.
    pub(crate) valid: bool,
    /// Number of events checked.
    pub(crate) checked: u64,
    /// Sequence number of the first event checked.
    #[schema(required)]
    pub(crate) first_seq: Option<i64>,
    /// Sequence number of the last event checked.
    #[schema(required)]
    pub(crate) last_seq: Option<i64>,
    /// Hash of the last event, in hex. Keep it elsewhere, with `last_seq`, as an anchor.
    #[schema(required)]
    pub(crate) head_hash: Option<String>,
    /// Sequence number at which the chain is broken.
    #[schema(required)]
    pub(crate) broken_at: Option<i64>,
}
