//! `POST /v1/keys/verify`

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Buf;
use futures_util::Stream;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::schema::Type;
use warp::reply::Response;

use super::call;
use super::data_plane_request::DataPlaneRequest;
use super::openapi::envelope::always_false_schema;
use super::reply;
use crate::domain::api_key::{ApiKey, Credential};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::patch::Metadata;
use crate::domain::scope::{self, Catalogue};
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;
use crate::domain::{cidr, rules, schemas};
use crate::error::Result;
use crate::verify::quota;
use crate::verify::verifier::{Verdict, VerifyRequest};

/// The highest cost of a verification, in rate limit tokens and quota units.
const MAX_COST: u32 = 1000;

/// A key to verify.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyKey<'a> {
    /// The key that the client sent.
    #[serde(borrow)]
    #[schema(value_type = String, example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU0aBcDe")]
    key: Cow<'a, str>,
    /// The required scopes. The key must have all of them.
    #[schema(value_type = Option<Vec<String>>, max_items = 100, example = json!(["workflows:read"]))]
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// The client's IP address, in any form that proxies write: with a port (`203.0.113.7:4711`), in
    /// brackets, or with a zone. Without it, a key with an allowlist is denied.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    ip: Option<Cow<'a, str>>,
    /// The number of rate limit tokens and quota units to consume.
    #[schema(minimum = 0, maximum = 1000, default = 1)]
    #[serde(default)]
    cost: Option<u32>,
    /// Checks the key without consuming or counting anything.
    #[schema(default = false)]
    #[serde(default)]
    dry_run: Option<bool>,
}

/// A parsed and validated [`VerifyKey`].
struct VerifyParams<'a> {
    key: Cow<'a, str>,
    scopes: Vec<String>,
    ip: Option<IpAddr>,
    cost: u32,
    dry_run: bool,
}

impl<'a> VerifyParams<'a> {
    /// Parses a valid body in one pass. `None` if this fast path can't parse the body; then
    /// [`parse_reporting_faults`] parses the body again and reports what is wrong.
    ///
    /// [`parse_reporting_faults`]: Self::parse_reporting_faults
    fn parse(body: &'a [u8], catalogue: &Catalogue) -> Option<Self> {
        // serde would also accept an array of the fields' values.
        if !body.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let VerifyKey { key, scopes, ip, cost, dry_run } = serde_json::from_slice(body).ok()?;
        let scopes = scopes.unwrap_or_default();
        let ip = match ip {
            Some(ip) => Some(cidr::parse_address(&ip)?),
            None => None,
        };
        let cost = cost.unwrap_or(1);
        let dry_run = dry_run.unwrap_or(false);
        let is_valid = cost <= MAX_COST
            && scopes.len() <= scope::MAX_SCOPES
            && scopes.iter().all(|wanted| catalogue.is_known_grant(wanted));
        is_valid.then_some(Self { key, scopes, ip, cost, dry_run })
    }

    /// Parses a body field by field and reports all faults of the body.
    fn parse_reporting_faults(body: &[u8], catalogue: &Catalogue) -> Result<Self> {
        let json = Json::parse(body)?;
        let mut fields = Fields::of(&json);
        let key = fields.required("key", |json, faults| faults.expect_string(json).map(str::to_owned));
        let scopes =
            fields.nullable("scopes", |json, faults| scope::parse_scopes(Some(catalogue), json, faults));
        let ip = fields.nullable("ip", parse_ip_address).into_option();
        let cost = fields.nullable("cost", rules::integer_parser(0, MAX_COST.into())).into_option();
        let dry_run = fields.nullable("dry_run", rules::parse_bool).into_option();
        fields.finish(Self {
            key: key.into(),
            scopes: scopes.into_option().unwrap_or_default(),
            ip,
            cost: cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or(1),
            dry_run: dry_run.unwrap_or(false),
        })
    }
}

fn parse_ip_address(json: &Json, faults: &mut Faults) -> Option<IpAddr> {
    let address = cidr::parse_address(faults.expect_string(json)?);
    if address.is_none() {
        faults.add("INVALID_ADDRESS", "Must be an IP address, such as 203.0.113.7 or 2001:db8::1.");
    }
    address
}

/// The result of a verification.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) enum Verification<'a> {
    /// The key exists.
    Known(VerifiedKey<'a>),
    /// The key doesn't exist.
    Unknown(UnknownKey),
}

/// The result for a key that is malformed or doesn't exist.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct UnknownKey {
    /// Always `false`.
    #[schema(schema_with = always_false_schema)]
    valid: bool,
    /// The reason why the key isn't valid.
    #[schema(schema_with = unknown_key_codes_schema)]
    code: Outcome,
    /// A description of the code, for people.
    #[schema(value_type = String, example = "Key not found.")]
    message: &'static str,
}

fn unknown_key_codes_schema() -> ObjectBuilder {
    let names = [Outcome::Malformed, Outcome::NotFound].map(Outcome::name);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names))
}

/// The result for an existing key.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct VerifiedKey<'a> {
    /// True if the key is valid for this request.
    valid: bool,
    /// `VALID`, or the reason for the denial: the first that applies, in this order.
    code: Outcome,
    /// A description of the code, for people.
    #[schema(value_type = String, example = "The key is valid.")]
    message: &'static str,
    /// The key's id.
    #[schema(value_type = String, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    key_id: &'a str,
    /// The key's organization; `null` for a platform key.
    #[schema(required, value_type = Option<String>, example = "org_123")]
    organization_id: Option<&'a str>,
    /// The member that owns the key; `null` if it has no owner.
    #[schema(required, value_type = Option<String>, example = "user_123")]
    user_id: Option<&'a str>,
    /// The key's name.
    #[schema(value_type = String, example = "Production API Key")]
    name: &'a str,
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
    /// The key's rate limit after this verification; `null` if it has none.
    #[schema(required)]
    rate_limit: Option<RateLimitStatus>,
    /// The key's quota after this verification; `null` if it has none.
    #[schema(required)]
    quota: Option<QuotaStatus>,
}

/// The state of a key's rate limit.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct RateLimitStatus {
    /// Number of tokens in a full bucket.
    #[schema(example = 100)]
    limit: u32,
    /// Number of tokens left now.
    #[schema(example = 99)]
    remaining: u32,
    /// Unix time, in seconds, at which the bucket is full again.
    #[schema(example = 1_795_417_690)]
    reset: i64,
}

/// The state of a key's quota.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct QuotaStatus {
    /// Quota units per period.
    #[schema(example = 10_000)]
    limit: u64,
    /// Quota units left in the current period.
    #[schema(example = 9_999)]
    remaining: u64,
    /// When the next period begins.
    #[schema(value_type = String, format = DateTime)]
    resets_at: Timestamp,
}

/// The response fields that are the same in every verification of a key.
#[derive(Serialize)]
struct KeyFields<'a> {
    key_id: &'a str,
    organization_id: Option<&'a str>,
    user_id: Option<&'a str>,
    name: &'a str,
    plan: Option<&'a str>,
    scopes: &'a [String],
    expires_at: Option<Timestamp>,
    metadata: &'a Metadata,
}

/// The JSON of [`KeyFields`] without braces, serialized once per loaded key.
fn key_fields_json(credential: &Credential) -> &str {
    credential.memo.shared_response_json.get_or_init(|| {
        let ApiKey { id, organization_id, user_id, name, scopes, expires_at, metadata, .. } = &credential.key;
        let fields = KeyFields {
            key_id: id,
            organization_id: organization_id.as_deref(),
            user_id: user_id.as_deref(),
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
fn write_response_json(verdict: &Verdict, now: Timestamp, request_id: &str) -> String {
    let mut json = String::with_capacity(1024);
    let outcome = verdict.outcome;
    json.push_str(if outcome.is_valid() {
        r#"{"success":true,"data":{"valid":true,"code":""#
    } else {
        r#"{"success":true,"data":{"valid":false,"code":""#
    });
    for piece in [outcome.name(), r#"","message":""#, outcome.message(), "\""] {
        json.push_str(piece);
    }
    if let Some(credential) = &verdict.credential {
        json.push(',');
        json.push_str(key_fields_json(credential));
        match &verdict.rate {
            None => json.push_str(r#","rate_limit":null"#),
            Some(rate_limit) => {
                let reset = (now + rate_limit.full_after).as_seconds_ceil();
                for (name, number) in [
                    (r#","rate_limit":{"limit":"#, i64::from(rate_limit.limit)),
                    (r#","remaining":"#, rate_limit.remaining.into()),
                    (r#","reset":"#, reset),
                ] {
                    json.push_str(name);
                    json.push_str(itoa::Buffer::new().format(number));
                }
                json.push('}');
            }
        }
        match &verdict.quota {
            None => json.push_str(r#","quota":null"#),
            Some(quota::QuotaStatus { limit, remaining, resets_at }) => json.push_str(&format!(
                r#","quota":{{"limit":{limit},"remaining":{remaining},"resets_at":"{resets_at}"}}"#
            )),
        }
    }
    json.push_str("},");
    reply::push_metadata(&mut json, now, request_id);
    json.push('}');
    json
}

/// Verify an API key
///
/// Checks whether a key is valid for the given scopes and client address. The response is 200 for valid
/// and invalid keys; check `valid` and `code`. A valid key consumes `cost` from its rate limit and
/// quota; a denial consumes nothing. With an organization key, keys of other organizations are
/// `NOT_FOUND`. Requests to this endpoint are not rate limited.
#[utoipa::path(
    post, path = "/v1/keys/verify", tag = "Verification", operation_id = "verifyKey",
    request_body = VerifyKey,
    responses(
        (status = 200, description = "The result.", body = Verification),
        (status = 400, description = "`INVALID_JSON` or `INVALID_REQUEST`: see `message` and `details`."),
        (status = 401, description = "`UNAUTHENTICATED` or `INVALID_API_KEY`: the calling key is missing or invalid."),
        (status = 403, description = "`IP_NOT_ALLOWED` or `INSUFFICIENT_SCOPE`: the calling key can't be used from this address, or lacks the scope."),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`"),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`"),
        (status = 429, description = "`RATE_LIMITED`: too many failed authentication attempts from this address. Valid keys are not affected."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
pub(crate) async fn answer<S, B>(request: &DataPlaneRequest<'_>, body: S) -> Result<Response>
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send + 'static,
{
    let (caller, body) = request.authorize_caller(body, false).await?;
    let media_type = call::check_media_type(&request.head.headers, false);
    let bytes = request.read_body(body, caller.key.organization_id.as_deref()).await;
    media_type?;
    let bytes = bytes?;
    call::parse_query_string(request.head.uri.query().unwrap_or_default()).finish(())?;
    let catalogue = request.app.catalogue().await?;
    let params = VerifyParams::parse(&bytes, &catalogue)
        .map_or_else(|| VerifyParams::parse_reporting_faults(&bytes, &catalogue), Ok)?;
    let verification = VerifyRequest {
        secret: &params.key,
        scopes: &params.scopes,
        ip: params.ip,
        cost: params.cost,
        dry_run: params.dry_run,
        caller_organization_id: caller.key.organization_id.as_deref(),
    };
    // The time of the decision, which is later than the request's arrival if the body arrives slowly.
    let now = request.app.clock.now();
    let monotonic = request.app.clock.monotonic();
    let verdict = request.app.verifier.verify(&verification, now, monotonic).await?;
    request.trace_verdict(&verdict);
    Ok(reply::json_response(StatusCode::OK, write_response_json(&verdict, now, &request.request_id)))
}
