//! The result of a verification, as JSON.

use std::borrow::Cow;

use serde::Serialize;
use strum::VariantArray;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::reply;
use crate::domain::api_key::{ApiKey, Credential};
use crate::domain::limits::{LimitSpan, Period};
use crate::domain::patch::Metadata;
use crate::domain::schemas;
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;
use crate::error::Code;
use crate::verify::decision::{LimitOwner, LimitStatus};
use crate::verify::verifier::Verdict;

/// The result of a verification. If the key is malformed or doesn't exist, the fields that describe it are `null` or empty.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct Verification<'a> {
    /// True if the key is valid for this request.
    valid: bool,
    /// `VALID`, or the reason for the denial: the first that applies, in this order. In the results of several verifications
    /// also `UNAVAILABLE`: this one can't be decided at the moment.
    #[schema(value_type = VerificationCode)]
    code: Outcome,
    /// A description of the code, for people.
    #[schema(value_type = String, example = "The key is valid.")]
    message: &'static str,
    /// The key's id.
    #[schema(required, value_type = Option<String>, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    key_id: Option<&'a str>,
    /// The key's organization; `null` for a platform key.
    #[schema(required, value_type = Option<String>, example = "org_123")]
    organization_id: Option<&'a str>,
    /// The member that owns the key; `null` if it has no owner.
    #[schema(required, value_type = Option<String>, example = "user_123")]
    user_id: Option<&'a str>,
    /// The external id of the member that owns the key.
    #[schema(required, value_type = Option<String>, example = "crm-4711")]
    user_external_id: Option<&'a str>,
    /// The key's name.
    #[schema(required, value_type = Option<String>, example = "Production API Key")]
    name: Option<&'a str>,
    /// The plan of the key's organization; `null` for a platform key.
    #[schema(required, value_type = Option<String>, example = "standard")]
    plan: Option<&'a str>,
    /// The key's scopes, with wildcards as granted.
    #[schema(value_type = Vec<String>, example = json!(["workflows:read", "transactions:write"]))]
    scopes: &'a [String],
    /// When the key expires; `null` if it doesn't.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// The key's metadata.
    #[schema(value_type = schemas::Metadata)]
    metadata: &'a Metadata,
    /// How the limits of the key and of its organization stand after this verification.
    limits: Vec<LimitState>,
    /// The limit that refused the request; of several, the one with the longest wait. `null` if none refused it.
    #[schema(required)]
    limited_by: Option<LimitState>,
    /// Seconds after which that limit admits the costs, for `Retry-After`. `null` if no limit refused the request, or if
    /// waiting doesn't help: the costs are higher than the limit, or a limit with the period `total` has too little left.
    #[schema(required, value_type = Option<u64>, example = 12)]
    retry_after_seconds: Option<u64>,
}

/// How a limit stands.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct LimitState {
    /// Whether the limit is one of the key, or of the organization and shared by all of its keys.
    #[schema(schema_with = owner_schema)]
    on: &'static str,
    /// What is counted.
    #[schema(example = "requests")]
    meter: String,
    /// Units per window or period.
    #[schema(example = 100)]
    limit: u64,
    /// The window of a rate limit, in seconds.
    #[schema(nullable = false, example = 60)]
    window_seconds: Option<u32>,
    /// The period of a quota.
    #[schema(nullable = false)]
    period: Option<Period>,
    /// Units left now.
    #[schema(example = 99)]
    remaining: u64,
    /// When all units are available again; `null` for the period `total`.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    resets_at: Option<Timestamp>,
}

/// The codes of a verification: the outcomes, and `UNAVAILABLE`.
pub(crate) struct VerificationCode;

impl ToSchema for VerificationCode {
    fn name() -> Cow<'static, str> {
        "VerificationCode".into()
    }
}

impl PartialSchema for VerificationCode {
    fn schema() -> RefOr<Schema> {
        let codes = Outcome::VARIANTS.iter().map(|outcome| outcome.name()).chain([Code::Unavailable.name()]);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(codes))
            .description(Some(
                "The result of verifying a key. The outcomes are checked in this order, and the first that applies is \
                 returned.",
            ))
            .into()
    }
}

fn owner_schema() -> ObjectBuilder {
    let owners = [LimitOwner::Key, LimitOwner::Organization].map(LimitOwner::name);
    let description =
        "Whether the limit is one of the key, or of the organization and shared by all of its keys.";
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(owners)).description(Some(description))
}

/// The response fields that are the same in every verification of a key.
#[derive(Serialize)]
struct KeyFields<'a> {
    key_id: &'a str,
    organization_id: Option<&'a str>,
    user_id: Option<&'a str>,
    user_external_id: Option<&'a str>,
    name: &'a str,
    plan: Option<&'a str>,
    scopes: &'a [String],
    expires_at: Option<Timestamp>,
    metadata: &'a Metadata,
}

/// The same fields for a key that is malformed or doesn't exist.
const UNKNOWN_KEY_FIELDS: &str = r#""key_id":null,"organization_id":null,"user_id":null,"user_external_id":null,"name":null,"plan":null,"scopes":[],"expires_at":null,"metadata":{}"#;

/// The JSON of [`KeyFields`] without braces, serialized once per loaded key.
fn key_fields_json(credential: &Credential) -> &str {
    credential.memo.shared_response_json.get_or_init(|| {
        let ApiKey { id, organization_id, user_id, name, scopes, expires_at, metadata, .. } = &credential.key;
        let fields = KeyFields {
            key_id: id,
            organization_id: organization_id.as_deref(),
            user_id: user_id.as_deref(),
            user_external_id: credential.owner_external_id.as_deref(),
            name,
            plan: credential.organization.as_ref().map(|organization| organization.plan.as_str()),
            scopes,
            expires_at: *expires_at,
            metadata,
        };
        let json = serde_json::to_string(&fields).unwrap_or_default();
        json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or_default().into()
    })
}

/// Writes the response body piece by piece as text, which takes a third of the time of a serializer.
pub(super) fn write(verdict: &Verdict, now: Timestamp, request_id: &str) -> String {
    let mut json = String::with_capacity(1024);
    json.push_str(r#"{"success":true,"data":"#);
    push_verdict(&mut json, verdict, now);
    json.push(',');
    reply::push_metadata(&mut json, now, request_id);
    json.push('}');
    json
}

/// Appends the [`Verification`] of a verdict.
pub(super) fn push_verdict(json: &mut String, verdict: &Verdict, now: Timestamp) {
    let outcome = verdict.outcome;
    json.push_str(if outcome.is_valid() {
        r#"{"valid":true,"code":""#
    } else {
        r#"{"valid":false,"code":""#
    });
    for piece in [outcome.name(), r#"","message":""#, outcome.message(), "\","] {
        json.push_str(piece);
    }
    json.push_str(verdict.credential().map_or(UNKNOWN_KEY_FIELDS, |credential| key_fields_json(credential)));
    json.push_str(r#","limits":"#);
    push_limits(json, &verdict.limits, now);
    json.push_str(r#","limited_by":"#);
    let limited_by =
        verdict.limited_by.and_then(|limited| Some((verdict.limits.get(limited.index)?, limited)));
    match limited_by {
        None => json.push_str(r#"null,"retry_after_seconds":null}"#),
        Some((status, limited)) => {
            push_limit(json, status, now);
            json.push_str(r#","retry_after_seconds":"#);
            match limited.retry_after_seconds() {
                None => json.push_str("null"),
                Some(seconds) => json.push_str(itoa::Buffer::new().format(seconds)),
            }
            json.push('}');
        }
    }
}

/// Appends the [`Verification`] of a key that could not be decided on.
pub(super) fn push_undecided(json: &mut String, code: Code) {
    let message = "The verification could not be decided. Try again.";
    for piece in [r#"{"valid":false,"code":""#, code.name(), r#"","message":""#, message, "\","] {
        json.push_str(piece);
    }
    json.push_str(UNKNOWN_KEY_FIELDS);
    json.push_str(r#","limits":[],"limited_by":null,"retry_after_seconds":null}"#);
}

/// Appends the list of the [`LimitState`]s of limits.
pub(super) fn push_limits(json: &mut String, limits: &[LimitStatus], now: Timestamp) {
    json.push('[');
    for (index, status) in limits.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_limit(json, status, now);
    }
    json.push(']');
}

/// The maximum length of the verification of a key that isn't known, and of what surrounds the fields and the limits of
/// a known one.
pub(super) const MAX_FIXED_BYTES: usize = 512;

/// The maximum length of a [`LimitState`].
const MAX_LIMIT_BYTES: usize = 192;

/// The maximum number of bytes by which the verification of a key is longer than [`MAX_FIXED_BYTES`].
pub(super) fn max_key_bytes(credential: &Credential, limit_count: usize) -> usize {
    key_fields_json(credential).len() + (limit_count + 1) * MAX_LIMIT_BYTES
}

/// Appends the [`LimitState`] of a limit.
fn push_limit(json: &mut String, status: &LimitStatus, now: Timestamp) {
    let mut number = itoa::Buffer::new();
    for piece in
        [r#"{"on":""#, status.owner.name(), r#"","meter":""#, status.limit.meter.name(), r#"","limit":"#]
    {
        json.push_str(piece);
    }
    json.push_str(number.format(status.limit.limit));
    match status.limit.span {
        LimitSpan::Window(seconds) => {
            json.push_str(r#","window_seconds":"#);
            json.push_str(number.format(seconds));
        }
        LimitSpan::Period(period) => {
            for piece in [r#","period":""#, period.name(), "\""] {
                json.push_str(piece);
            }
        }
    }
    json.push_str(r#","remaining":"#);
    json.push_str(number.format(status.remaining()));
    match status.resets_at(now) {
        None => json.push_str(r#","resets_at":null}"#),
        Some(time) => {
            json.push_str(r#","resets_at":""#);
            time.push_to(json);
            json.push_str("\"}");
        }
    }
}
