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
use super::data_plane::DataPlaneRequest;
use super::openapi::envelope::never;
use super::reply;
use crate::domain::api_key::{ApiKey, Credential};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::patch::Metadata;
use crate::domain::scope::{self, Catalogue};
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;
use crate::domain::{rules, schemas};
use crate::error::Result;
use crate::service::scopes;
use crate::verify::quota;
use crate::verify::verifier::{Verdict, VerifyRequest};

/// The most that a verification may cost.
const MAX_COST: u32 = 1000;

/// What is asked of a key.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyKey<'a> {
    /// The key, as the client sent it.
    #[serde(borrow)]
    #[schema(value_type = String, example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU0aBcDe")]
    key: Cow<'a, str>,
    /// What it is needed for: it must have all of these.
    #[schema(value_type = Option<Vec<String>>, max_items = 100, example = json!(["workflows:read"]))]
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// The address that the client has. A key with an allowlist is refused without it.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    ip: Option<Cow<'a, str>>,
    /// Tokens of its rate limit and units of its quota that it costs.
    #[schema(minimum = 0, maximum = 1000, default = 1)]
    #[serde(default)]
    cost: Option<u32>,
    /// Spend nothing and count nothing.
    #[schema(default = false)]
    #[serde(default)]
    dry_run: Option<bool>,
}

/// The same, understood.
struct Wanted<'a> {
    key: Cow<'a, str>,
    scopes: Vec<String>,
    ip: Option<IpAddr>,
    cost: u32,
    dry_run: bool,
}

impl<'a> Wanted<'a> {
    /// Reads a body without faults in one go; `None` leaves it to [`read_slowly`], which finds the words.
    fn read(body: &'a [u8], catalogue: &Catalogue) -> Option<Self> {
        // serde would take an array of the fields' values, too.
        if !body.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let VerifyKey { key, scopes, ip, cost, dry_run } = serde_json::from_slice(body).ok()?;
        let scopes = scopes.unwrap_or_default();
        let ip = ip.map(|ip| ip.parse::<IpAddr>()).transpose().ok()?.map(|ip| ip.to_canonical());
        let (cost, dry_run) = (cost.unwrap_or(1), dry_run.unwrap_or(false));
        let fits = cost <= MAX_COST
            && scopes.len() <= scope::MAX_SCOPES
            && scopes.iter().all(|wanted| catalogue.knows(wanted));
        fits.then_some(Self { key, scopes, ip, cost, dry_run })
    }

    /// Reads a body field by field and reports all of its faults.
    fn read_slowly(body: &[u8], catalogue: &Catalogue) -> Result<Self> {
        let json = Json::parse(body)?;
        let mut fields = Fields::of(&json);
        let key = fields.required("key", |json, faults| faults.text(json).map(str::to_owned));
        let scopes = fields.nullable("scopes", |json, faults| scope::list(catalogue, json, faults));
        let ip = fields.nullable("ip", address).into_option();
        let cost = fields.nullable("cost", rules::integer(0, MAX_COST.into())).into_option();
        let dry_run = fields.nullable("dry_run", boolean).into_option();
        fields.finish(Self {
            key: key.into(),
            scopes: scopes.into_option().unwrap_or_default(),
            ip,
            cost: cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or(1),
            dry_run: dry_run.unwrap_or(false),
        })
    }
}

fn address(json: &Json, faults: &mut Faults) -> Option<IpAddr> {
    let address = faults.text(json)?.parse::<IpAddr>().ok();
    if address.is_none() {
        faults
            .add("INVALID_ADDRESS", "Must be an address such as 203.0.113.7 or 2001:db8::1, without a port.");
    }
    address.map(|address| address.to_canonical())
}

fn boolean(json: &Json, faults: &mut Faults) -> Option<bool> {
    match json {
        Json::Bool(value) => Some(*value),
        _ => {
            faults.add("INVALID_TYPE", "Must be true or false.");
            None
        }
    }
}

/// Whether the key is good.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) enum Verification<'a> {
    /// There is such a key.
    Known(VerifiedKey<'a>),
    /// There is none.
    Unknown(UnknownKey),
}

/// Of a key that is malformed or not found, nothing else is told.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct UnknownKey {
    /// Always `false`.
    #[schema(schema_with = never)]
    valid: bool,
    /// Why not.
    #[schema(schema_with = unknown)]
    code: Outcome,
    /// The same for people.
    #[schema(value_type = String, example = "Key not found.")]
    message: &'static str,
}

fn unknown() -> ObjectBuilder {
    let names = [Outcome::Malformed, Outcome::NotFound].map(Outcome::name);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names))
}

/// How a key stands after the verification, and about it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct VerifiedKey<'a> {
    /// Is it good?
    valid: bool,
    /// If not, why not: the first that holds, in this order.
    code: Outcome,
    /// The same for people.
    #[schema(value_type = String, example = "The key is valid.")]
    message: &'static str,
    /// `key_…`
    #[schema(value_type = String, example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    key_id: &'a str,
    /// Whose key it is; `null` for a platform key.
    #[schema(required, value_type = Option<String>, example = "org_123")]
    organization_id: Option<&'a str>,
    /// The member that owns it.
    #[schema(required, value_type = Option<String>, example = "user_123")]
    user_id: Option<&'a str>,
    /// Its name.
    #[schema(value_type = String, example = "Production API Key")]
    name: &'a str,
    /// Its organization's plan.
    #[schema(required, value_type = Option<String>, example = "standard")]
    plan: Option<&'a str>,
    /// What it may do, wildcards as granted.
    #[schema(value_type = Vec<String>, example = json!(["workflows:read", "transactions:write"]))]
    scopes: &'a [String],
    /// When it ends; `null` = never.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// The caller's own pairs.
    #[schema(value_type = schemas::Metadata)]
    metadata: &'a Metadata,
    /// Its rate limit after this; `null` = none.
    #[schema(required)]
    rate_limit: Option<RateLeft>,
    /// Its quota after this; `null` = none.
    #[schema(required)]
    quota: Option<QuotaLeft>,
}

/// What is left of a key's rate limit.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct RateLeft {
    /// Tokens of a whole bucket.
    #[schema(example = 100)]
    limit: u32,
    /// Tokens left now.
    #[schema(example = 99)]
    remaining: u32,
    /// Unix seconds at which it is full again.
    #[schema(example = 1_795_417_690)]
    reset: i64,
}

/// What is left of a key's quota.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct QuotaLeft {
    /// Units in a period.
    #[schema(example = 10_000)]
    limit: u64,
    /// Units left in this one.
    #[schema(example = 9_999)]
    remaining: u64,
    /// When the next one begins.
    #[schema(value_type = String, format = DateTime)]
    resets_at: Timestamp,
}

/// What is the same in every answer about a key.
#[derive(Serialize)]
struct About<'a> {
    key_id: &'a str,
    organization_id: Option<&'a str>,
    user_id: Option<&'a str>,
    name: &'a str,
    plan: Option<&'a str>,
    scopes: &'a [String],
    expires_at: Option<Timestamp>,
    metadata: &'a Metadata,
}

/// The fields of the key itself, without braces: the same in every answer, so written once for each time
/// that the key is read.
fn about(credential: &Credential) -> &str {
    credential.memo.answer_json.get_or_init(|| {
        let ApiKey { id, organization_id, user_id, name, scopes, expires_at, metadata, .. } = &credential.key;
        let about = About {
            key_id: id,
            organization_id: organization_id.as_deref(),
            user_id: user_id.as_deref(),
            name,
            plan: credential.organization.as_ref().map(|organization| organization.plan.as_str()),
            scopes,
            expires_at: *expires_at,
            metadata,
        };
        let json = serde_json::to_string(&about).unwrap_or_default();
        json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or_default().into()
    })
}

/// Writes an answer piece by piece: a third of the time that a serializer of the whole takes.
fn write(verdict: &Verdict, now: Timestamp, request_id: &str) -> String {
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
        json.push_str(about(credential));
        match &verdict.rate {
            None => json.push_str(r#","rate_limit":null"#),
            Some(rate_limit) => {
                let reset = (now + rate_limit.full).as_seconds_ceil();
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

/// Verify a key
///
/// Is this key good, now, for this, from here? Answered 200 whenever the question can be answered;
/// `valid` and `code` are the answer. A good one spends `cost` of the key's rate limit and quota, a denial
/// spends nothing. An organization's verifier sees its own organization's keys; any other is `NOT_FOUND`.
/// Asking is not limited.
#[utoipa::path(
    post, path = "/v1/keys/verify", tag = "Verification", operation_id = "verifyKey",
    request_body = VerifyKey,
    responses(
        (status = 200, description = "The answer.", body = Verification),
        (status = 400, description = "`INVALID_JSON` or `INVALID_REQUEST`"),
        (status = 401, description = "`UNAUTHENTICATED` or `INVALID_API_KEY`: the caller's own key."),
        (status = 403, description = "`IP_NOT_ALLOWED` or `INSUFFICIENT_SCOPE`: the caller's own key."),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`"),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`"),
        (status = 429, description = "`RATE_LIMITED`: too many attempts failed from this address. A good key is never refused by it."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
pub(crate) async fn answer<S, B>(request: &DataPlaneRequest<'_>, body: S) -> Result<Response>
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    let (caller, body) = request.caller(body, false).await?;
    let media_type = call::media_type(&request.head.headers, false);
    let bytes = request.body(body).await;
    media_type?;
    let bytes = bytes?;
    call::query(request.head.uri.query().unwrap_or_default()).finish(())?;
    let catalogue = scopes::catalogue(request.app).await?;
    let wanted =
        Wanted::read(&bytes, &catalogue).map_or_else(|| Wanted::read_slowly(&bytes, &catalogue), Ok)?;
    let verification = VerifyRequest {
        secret: &wanted.key,
        scopes: &wanted.scopes,
        ip: wanted.ip,
        cost: wanted.cost,
        dry_run: wanted.dry_run,
        caller_organization_id: caller.key.organization_id.as_deref(),
    };
    // The time of the decision: the body may have taken its own.
    let now = request.app.clock.now();
    let monotonic = request.app.clock.monotonic();
    let verdict = request.app.verifier.verify(&verification, now, monotonic).await?;
    Ok(reply::json(StatusCode::OK, write(&verdict, now, &request.id)))
}
