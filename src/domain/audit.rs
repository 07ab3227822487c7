//! Audit events: actor, action, target, outcome and context.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::IntoParams;

use super::action::{Access, Action, TargetKind};
use super::page::Query;
use super::redaction::{Redactor, truncate_text};
use super::stored_name::StoredName;
use super::time::Timestamp;
use crate::error::{Code, CodeClass};

/// The SHA-256 hash of an audit event in the audit chain.
pub(crate) type ChainHash = [u8; 32];

/// Prefix of the hashed bytes of every audit event (domain separation). It ensures that a hash computed for
/// another purpose never equals the hash of an event.
pub(crate) const DOMAIN_TAG: &[u8] = b"tollhouse.audit.v1\n";

/// The `prev_hash` of the first audit event, which has no predecessor.
pub(crate) const GENESIS_HASH: ChainHash = [0; 32];

/// The maximum length of a changed value's JSON. A longer value is stored in the audit event as truncated
/// text.
const MAX_CHANGED_VALUE_BYTES: usize = 1024;

/// Who performed an audited action.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditActor)]
pub struct Actor {
    /// Kind of actor: `api_key`, `cli`, `system` or `anonymous`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "api_key")]
    pub(crate) kind: StoredName<ActorKind>,
    /// Id of the key that performed the action.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// Name of the key that performed the action.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// Id of the user who owns the key that performed the action.
    #[schema(required)]
    pub(crate) user_id: Option<String>,
}

/// The kind of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ActorKind {
    ApiKey,
    /// A person at the command line.
    Cli,
    /// The server itself.
    System,
    /// A client without a valid key.
    Anonymous,
}

impl Actor {
    /// The actor for a client without a valid key.
    pub fn anonymous() -> Self {
        Self { kind: ActorKind::Anonymous.into(), id: None, name: None, user_id: None }
    }
}

/// The resource that an audited action affected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditTarget)]
pub struct Target {
    /// Kind of resource: `organization`, `user`, `membership`, `api_key`, `scope`, `config`, `audit_log`,
    /// `audit_event`, `database` or `clock`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "organization")]
    pub(crate) kind: StoredName<TargetKind>,
    /// The resource's id.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// The resource's name at the time of the event.
    #[schema(required)]
    pub(crate) name: Option<String>,
}

/// A field of a resource that an audited action changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditChange)]
pub struct Change {
    /// Name of the changed field.
    pub(crate) field: String,
    /// Value of the field before the change.
    pub(crate) from: Value,
    /// Value of the field after the change.
    pub(crate) to: Value,
}

/// The HTTP request that caused an audit event.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditContext)]
pub struct EventContext {
    /// `metadata.requestId` of the response.
    #[schema(required)]
    pub(crate) request_id: Option<String>,
    /// HTTP method of the request.
    #[schema(required)]
    pub(crate) method: Option<String>,
    /// URL path of the request, without the query string.
    #[schema(required)]
    pub(crate) path: Option<String>,
    /// The HTTP status of the response.
    #[schema(required)]
    pub(crate) status: Option<u16>,
    /// IP address of the client.
    #[schema(required)]
    pub(crate) ip: Option<String>,
    /// `User-Agent` header of the request.
    #[schema(required)]
    pub(crate) user_agent: Option<String>,
    /// Id of the batch; the same for all operations of one batch request.
    #[schema(required)]
    pub(crate) batch_id: Option<String>,
}

/// How an audited action ended: it succeeded, was not allowed, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = AuditOutcome, rename_all = "lowercase")]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub enum Outcome {
    Success,
    Denied,
    Failed,
}

impl Outcome {
    /// The outcome of an operation with this error code, or without an error.
    pub(crate) fn of(code: Option<Code>) -> Self {
        match code.map(Code::class) {
            None => Outcome::Success,
            Some(CodeClass::Authentication | CodeClass::Permission | CodeClass::RateLimit) => Outcome::Denied,
            Some(CodeClass::Request | CodeClass::Bug | CodeClass::Unavailable) => Outcome::Failed,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// An audit event. Its JSON is stored, hashed and exported byte for byte.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AuditEvent)]
pub struct Event {
    /// Unique identifier, `evt_…`.
    #[schema(example = "evt_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub id: String,
    /// Sequence number of the event in the audit chain; returned only to platform keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub seq: Option<i64>,
    /// When the event happened.
    #[schema(format = DateTime)]
    pub occurred_at: String,
    /// The organization whose audit log contains the event; `null` for the platform's audit log.
    #[schema(required)]
    pub organization_id: Option<String>,
    /// Who performed the action.
    pub actor: Actor,
    /// The audited action, as `resource.verb`.
    #[schema(value_type = String, example = "api_key.create")]
    pub action: StoredName<Action>,
    /// Whether the action read or changed something.
    #[schema(value_type = Access)]
    pub access: StoredName<Access>,
    /// The resource that the action affected.
    #[schema(required)]
    pub target: Option<Target>,
    /// How the action ended.
    #[schema(value_type = Outcome)]
    pub outcome: StoredName<Outcome>,
    /// The error code, if the action did not succeed.
    #[schema(required)]
    pub code: Option<Cow<'static, str>>,
    /// Number of API calls that this event aggregates.
    pub count: u64,
    /// The fields that the action changed.
    pub changes: Vec<Change>,
    /// The request that caused the event.
    pub context: EventContext,
    /// Hash of the previous event, in hex; returned only to platform keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub prev_hash: Option<String>,
    /// Hash of this event, in hex; returned only to platform keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hash: Option<String>,
}

impl Event {
    /// Cuts secrets out of all strings of the operation that a client can influence, and truncates the strings.
    /// Every event of an operation goes through this before it is hashed and stored. The strings of the `context`
    /// are recorded once for all events of a request, when the request arrives.
    pub(crate) fn recorded(mut self, redactor: &Redactor) -> Self {
        let stored_values = redactor.for_stored_values();
        let record = |text: &mut Option<String>| {
            if let Some(text) = text {
                stored_values.record(text);
            }
        };
        record(&mut self.organization_id);
        record(&mut self.actor.name);
        if let Some(target) = &mut self.target {
            record(&mut target.id);
            record(&mut target.name);
        }
        for change in &mut self.changes {
            stored_values.record(&mut change.field);
            change.from = recorded_value(&stored_values, std::mem::take(&mut change.from));
            change.to = recorded_value(&stored_values, std::mem::take(&mut change.to));
        }
        self
    }

    /// Removes what the organization of the event may not see: the event's position in the chain and, if a
    /// key outside the organization caused the event, that key's name and the client's address and user
    /// agent.
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

/// The part of an audit event that an operation supplies. The actor, the time and the request are added from
/// the `RequestContext`.
#[derive(Clone, Debug)]
pub(crate) struct AuditEntry {
    /// What was done, if that is not the action of the request.
    pub(crate) action: Option<Action>,
    /// The organization whose audit log contains the event; `None` for the platform's audit log.
    pub(crate) organization_id: Option<String>,
    /// The resource that the operation affected.
    pub(crate) target: Option<Target>,
    /// The fields that the operation changed.
    pub(crate) changes: Vec<Change>,
    /// True if the change takes access away and gives none. Not part of the event: such changes are also
    /// accepted in read-only mode and on a full disk.
    pub(crate) only_withdraws_access: bool,
}

impl AuditEntry {
    /// Creates the audit entry for an operation on one resource.
    pub(crate) fn for_resource(
        organization_id: Option<&str>,
        kind: TargetKind,
        id: &str,
        name: &str,
    ) -> Self {
        let target = Target { kind: kind.into(), id: Some(id.to_owned()), name: Some(name.to_owned()) };
        Self {
            action: None,
            organization_id: organization_id.map(str::to_owned),
            target: Some(target),
            changes: Vec::new(),
            only_withdraws_access: false,
        }
    }

    /// Creates the audit entry for a read of a list or of the whole platform, which has no single target.
    pub(crate) fn without_target(organization_id: Option<&str>) -> Self {
        Self {
            action: None,
            organization_id: organization_id.map(str::to_owned),
            target: None,
            changes: Vec::new(),
            only_withdraws_access: false,
        }
    }

    /// Sets the changed fields of the audit entry.
    pub(crate) fn with_changes(self, changes: Vec<Change>) -> Self {
        Self { changes, ..self }
    }

    /// Sets whether the change only takes access away.
    pub(crate) fn withdrawing(self, only_withdraws_access: bool) -> Self {
        Self { only_withdraws_access, ..self }
    }
}

/// True if all changes are of the field `status`, to this value; also true without changes.
pub(crate) fn only_sets_status(changes: &[Change], status: &str) -> bool {
    changes.iter().all(|change| change.field == "status" && change.to == status)
}

/// Returns the fields that differ between two states of a resource. The id, the embedded user and the
/// timestamps `created_at` and `updated_at` are left out. For a creation, `before` is [`Value::Null`].
pub(crate) fn changed_fields(before: &impl Serialize, after: &impl Serialize) -> Vec<Change> {
    let before = to_json(before);
    let after = to_json(after);
    let Value::Object(after) = after else { return Vec::new() };
    let names = after
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "id" | "created_at" | "updated_at" | "user"));
    names
        .filter_map(|(name, to)| {
            let from = before.get(name).cloned().unwrap_or(Value::Null);
            // A newly created resource without metadata or scopes has no changes of these.
            let is_empty = *to == Value::Object(Default::default()) || *to == Value::Array(Vec::new());
            let left_empty = before.is_null() && is_empty && matches!(name.as_str(), "metadata" | "scopes");
            (from != *to && !left_empty).then(|| Change { field: name.clone(), from, to: to.clone() })
        })
        .collect()
}

fn to_json(resource: &impl Serialize) -> Value {
    serde_json::to_value(resource).unwrap_or_default()
}

/// Cuts secrets out of a changed value, and replaces a value whose JSON is too long by its truncated text.
fn recorded_value(redactor: &Redactor, mut value: Value) -> Value {
    redact_value(redactor, &mut value);
    let mut text = value.to_string();
    if text.len() <= MAX_CHANGED_VALUE_BYTES {
        return value;
    }
    truncate_text(&mut text);
    Value::String(text)
}

fn redact_value(redactor: &Redactor, value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(redacted) = redactor.redact(text) {
                *text = redacted;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact_value(redactor, item)),
        Value::Object(fields) => {
            let names: Vec<_> =
                fields.keys().filter(|name| redactor.contains_secret(name)).cloned().collect();
            for name in names {
                if let Some(value) = fields.remove(&name) {
                    fields.insert(redactor.redact(&name).into_owned(), value);
                }
            }
            fields.values_mut().for_each(|value| redact_value(redactor, value));
        }
        _ => {}
    }
}

/// The filters of the list and the export of audit events.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(missing_docs)] // The fields have the names of the query parameters.
pub(crate) struct AuditFilter {
    /// Only events of this organization.
    #[param(max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only events caused by this key.
    #[param(max_length = 200)]
    pub(crate) actor_id: Option<String>,
    /// Only events with this action, such as `api_key.create`.
    #[param(max_length = 200)]
    pub(crate) action: Option<String>,
    /// Only events about this resource.
    #[param(max_length = 200)]
    pub(crate) target_id: Option<String>,
    /// Only reads or only writes.
    pub(crate) access: Option<Access>,
    /// Only events with this outcome.
    pub(crate) outcome: Option<Outcome>,
    /// Only events at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub(crate) from: Option<Timestamp>,
    /// Only events before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub(crate) to: Option<Timestamp>,
}

impl AuditFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            org_id: query.text("org_id"),
            actor_id: query.text("actor_id"),
            action: query.text("action"),
            target_id: query.text("target_id"),
            access: query.one_of("access"),
            outcome: query.one_of("outcome"),
            from: query.time("from"),
            to: query.time("to"),
        }
    }
}

/// Result of verifying the audit chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = AuditVerification)]
pub(crate) struct Verification {
    /// True if no audit event was changed or is missing.
    pub(crate) valid: bool,
    /// Number of audit events that were checked.
    pub(crate) checked: u64,
    /// Sequence number of the first audit event that was checked.
    #[schema(required)]
    pub(crate) first_seq: Option<i64>,
    /// Sequence number of the last audit event that was checked.
    #[schema(required)]
    pub(crate) last_seq: Option<i64>,
    /// Hash of the last audit event that was checked, in hex. Store it elsewhere together with `last_seq`, as
    /// an anchor for later verifications.
    #[schema(required)]
    pub(crate) head_hash: Option<String>,
    /// Sequence number of the event at which the audit chain is broken; `null` if it is intact.
    #[schema(required)]
    pub(crate) broken_at: Option<i64>,
}
