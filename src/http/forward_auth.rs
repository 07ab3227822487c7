//! `/v1/forward-auth`: authorizes requests for reverse proxies: nginx `auth_request`, Caddy `forward_auth`,
//! Traefik ForwardAuth, Envoy `ext_authz` and HAProxy; `docs/guides/gateways.md` has a configuration for
//! each.

use std::borrow::Cow;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use percent_encoding::percent_decode_str;
use warp::reply::Response as WarpResponse;

use super::costs::Costs;
use super::data_plane_request::DataPlaneRequest;
use super::openapi::params;
use super::route::Endpoint;
use super::{auth, limit_headers, reply};
use crate::app::App;
use crate::domain::api_key::Credential;
use crate::domain::limits::unknown_meter_message;
use crate::domain::scope::{self, MAX_SCOPES};
use crate::domain::verification::Outcome;
use crate::error::{Code, Error, Result};
use crate::verify::verifier::{KeyToVerify, Verdict, VerifyRequest};

/// Headers that identify the client's key to the upstream. Every response has all `X-Auth-…` headers, with
/// `-` for absent values: if one were missing, a proxy would forward the header that the client forged.
const KEY_ID: HeaderName = HeaderName::from_static("x-auth-key-id");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("x-auth-organization-id");
const USER_ID: HeaderName = HeaderName::from_static("x-auth-user-id");
const PLAN: HeaderName = HeaderName::from_static("x-auth-plan");
const SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");
const STATUS: HeaderName = HeaderName::from_static("x-auth-status");

/// The path segment that requires no scope and leaves the cost at 1.
const NO_REQUIREMENTS: &str = "-";

/// What is wrong with a path segment that is missing or can't be parsed.
const INVALID_SEGMENT: &str = "The path that the proxy sent doesn't begin with valid requirements. After \
    /v1/forward-auth/, a segment with scope= or cost= is required, such as scope=workflows:read;cost=2, or - for none.";

/// The parameters of a forward-auth request, which the proxy's configuration sets.
struct ProxyRequirements<'a> {
    scopes: Vec<Cow<'a, str>>,
    /// The response status if a limit is exceeded: 429, or 403 for nginx, which turns any denial other than
    /// 401 and 403 into a 500.
    limit_status: StatusCode,
    costs: Costs,
}

impl<'a> ProxyRequirements<'a> {
    fn new() -> Self {
        Self { scopes: Vec::new(), limit_status: StatusCode::TOO_MANY_REQUESTS, costs: Costs::default() }
    }

    /// Parses the parameters from the query, or from the path segment after `/v1/forward-auth/`, which the
    /// client's own path follows. The segment is required: without it, the client's path would be taken for one.
    ///
    /// # Errors
    /// `INSUFFICIENT_SCOPE` at the first unknown parameter and beyond [`MAX_SCOPES`] scopes; then the request is
    /// denied. The rest isn't parsed, because anyone can send it.
    fn parse(&mut self, path: &'a str, query: Option<&'a str>) -> Result<()> {
        let rest = path
            .strip_prefix(Endpoint::ForwardAuth.path())
            .ok_or_else(|| misconfiguration_error("The proxy sent an unknown path."))?;
        if let Some(rest) = rest.strip_prefix('/') {
            let segment = rest.split('/').next().unwrap_or_default();
            let decoded = percent_decode_str(segment).decode_utf8();
            let decoded = decoded.map_err(|_| misconfiguration_error(INVALID_SEGMENT))?;
            return match &*decoded {
                NO_REQUIREMENTS => Ok(()),
                parameters => {
                    parameters.split(';').try_for_each(|parameter| self.add_path_parameter(parameter))
                }
            };
        }
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("scope", _) => self.add_scope(value)?,
                ("cost", _) => self.add_cost(&value)?,
                ("limit_status", "403") => self.limit_status = StatusCode::FORBIDDEN,
                ("limit_status", "429") => self.limit_status = StatusCode::TOO_MANY_REQUESTS,
                _ => {
                    let message = "The proxy sent an unknown parameter; only scope, cost and limit_status are supported.";
                    return Err(misconfiguration_error(message));
                }
            }
        }
        Ok(())
    }

    /// Adds a parameter of the path: `scope=a,b` or `cost=tokens:0`.
    fn add_path_parameter(&mut self, parameter: &str) -> Result<()> {
        match parameter.split_once('=') {
            Some(("scope", scopes)) => {
                scopes.split(',').try_for_each(|scope| self.add_scope(Cow::Owned(scope.to_owned())))
            }
            Some(("cost", costs)) => costs.split(',').try_for_each(|cost| self.add_cost(cost)),
            _ => Err(misconfiguration_error(INVALID_SEGMENT)),
        }
    }

    /// Adds a cost: `2` on requests, or `tokens:0` on another meter.
    fn add_cost(&mut self, cost: &str) -> Result<()> {
        let added = self.costs.add_text(cost);
        added.map_err(|fault| misconfiguration_error(format!("The proxy sent an invalid cost. {fault}")))
    }

    fn add_scope(&mut self, scope: Cow<'a, str>) -> Result<()> {
        if self.scopes.len() == MAX_SCOPES {
            return Err(misconfiguration_error(format!("The proxy requires more than {MAX_SCOPES} scopes.")));
        }
        self.scopes.push(scope);
        Ok(())
    }

    /// The first required scope that the key lacks, if the key was denied because of its scopes.
    fn missing_scope(&self, verdict: &Verdict) -> Option<&str> {
        if verdict.outcome != Outcome::InsufficientScope {
            return None;
        }
        let granted = &verdict.credential()?.key.scopes;
        self.scopes.iter().find(|wanted| !scope::any_covers(granted, wanted)).map(Cow::as_ref)
    }

    /// Refuses scopes and meters that don't exist.
    async fn ensure_known(&self, app: &App) -> Result<()> {
        if self.costs.as_slice().len() > 1 {
            let settings = app.settings.get().await?;
            let meters = &settings.settings.meters;
            if !self.costs.are_known(meters) {
                let message = format!("The proxy names an unknown meter. {}", unknown_meter_message(meters));
                return Err(misconfiguration_error(message));
            }
        }
        if self.scopes.is_empty() {
            return Ok(());
        }
        let catalogue = app.catalogue().await?;
        let Some(unknown) = self.scopes.iter().find(|scope| !catalogue.is_known_grant(scope)) else {
            return Ok(());
        };
        let excerpt: String = unknown.chars().take(65).collect();
        Err(misconfiguration_error(format!("The proxy requires the scope {excerpt:?}, which doesn't exist.")))
    }
}

/// The refusal of requirements that no key can meet.
fn misconfiguration_error(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Code::InsufficientScope, message)
}

/// Authorize a request for a proxy
///
/// Lets the request through on 200: the client's key, from `Authorization: Bearer` or `X-Api-Key`, is
/// valid, has every `scope`, and is charged every `cost`. Otherwise the status is 401 if the key is missing, unknown,
/// revoked, disabled or expired; 403 if its organization, owner, address or scopes don't permit the request; and
/// 429 (or `limit_status`) if a limit of the key or its organization is exceeded. Any method is accepted, and the
/// body is never read. `X-Auth-…` headers identify the key to the upstream, with `-` for absent values. An unknown
/// scope, meter or parameter, an invalid cost, or more than 100 scopes or 8 costs deny all requests, and each of them
/// counts as a failed attempt.
#[utoipa::path(
    get, path = "/v1/forward-auth", tag = "Verification", operation_id = "forwardAuth",
    params(params::ForwardAuthQuery),
    responses(
        (status = 200, description = "The request is authorized."),
        (status = 401, description = "The key is missing, malformed, unknown, revoked, disabled or expired."),
        (status = 403, description = "The key's organization, owner, address or scopes don't permit the request, or the proxy sent an unknown scope, meter or parameter, an invalid cost, or more than 100 scopes or 8 costs."),
        (status = 429, description = "A limit of the key or its organization is exceeded, or there were too many failed attempts from this address."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
pub(crate) async fn answer(request: &DataPlaneRequest<'_>) -> WarpResponse {
    let mut requirements = ProxyRequirements::new();
    let result = verify_client_key(request, &mut requirements).await;
    let mut response = match &result {
        Ok(verdict) => write_verdict(request, &requirements, verdict),
        Err(error) => {
            let mut response = request.error_response(error);
            add_identity_headers(response.headers_mut(), None, error.code.name());
            response
        }
    };
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        *response.status_mut() = requirements.limit_status;
    }
    response
}

/// Authorize a request with its path
///
/// Same as `/v1/forward-auth`, for proxies that append the client's path and query, such as Envoy. The first path
/// segment lists the required scopes and the costs:
/// `/v1/forward-auth/scope=workflows:read,workflows:write;cost=2,tokens:0/…`, or `/v1/forward-auth/-/…` for no scope
/// and a cost of 1. The rest of the path, and the query, are the client's and are ignored. Without a valid segment,
/// all requests are denied.
#[utoipa::path(
    get, path = "/v1/forward-auth/{path}", tag = "Verification", operation_id = "forwardAuthPath",
    params(params::ForwardAuthPathParams),
    responses(
        (status = 200, description = "The request is authorized."),
        (status = 401, description = "The key is missing, malformed, unknown, revoked, disabled or expired."),
        (status = 403, description = "The key's organization, owner, address or scopes don't permit the request, or the first path segment is missing or has an unknown scope, meter or parameter, an invalid cost, or more than 100 scopes or 8 costs."),
        (status = 429, description = "A limit of the key or its organization is exceeded, or there were too many failed attempts from this address."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) fn answer_with_path() {}

async fn verify_client_key<'a>(
    request: &DataPlaneRequest<'a>,
    requirements: &mut ProxyRequirements<'a>,
) -> Result<Verdict> {
    let app = request.app;
    let charge = |error| auth::charge_failure(app, request.client_ip, error);
    let uri = &request.head.uri;
    // Before the key: this refusal is the same for everyone, so it costs no lookup of a key. It counts as a
    // failed attempt, because anyone can cause it.
    if let Err(error) = requirements.parse(uri.path(), uri.query()) {
        return Err(charge(error).await);
    }
    match requirements.ensure_known(app).await {
        Err(error) if error.code == Code::InsufficientScope => return Err(charge(error).await),
        checked => checked?,
    }
    let secret = match auth::bearer_token_or_api_key(&request.head.headers) {
        Ok(secret) => secret,
        Err(error) => return Err(charge(error).await),
    };
    let verification = VerifyRequest {
        key: KeyToVerify::Secret(secret),
        scopes: &requirements.scopes,
        ip: request.client_ip,
        costs: requirements.costs.as_slice(),
        dry_run: false,
        caller_organization_id: None,
    };
    let verdict = app.verifier.verify(&verification, request.arrival.wall, request.arrival.monotonic).await?;
    request.trace_verdict(&verdict);
    match verdict.outcome {
        Outcome::Malformed | Outcome::NotFound => {
            Err(charge(Error::new(Code::InvalidApiKey, verdict.outcome.message())).await)
        }
        outcome => {
            if outcome == Outcome::Valid {
                request.head.connection_auth.record_success();
            }
            Ok(verdict)
        }
    }
}

fn write_verdict(
    request: &DataPlaneRequest<'_>,
    requirements: &ProxyRequirements<'_>,
    verdict: &Verdict,
) -> WarpResponse {
    let outcome = verdict.outcome;
    let missing_scope = requirements.missing_scope(verdict);
    let message = missing_scope.map(|scope| format!("The key lacks the scope {scope}."));
    let mut response = match outcome {
        Outcome::Valid => reply::empty_response(),
        denied => reply::write_denial(
            denial_status(denied),
            denied.name(),
            message.as_deref().unwrap_or(denied.message()),
            request.arrival.wall,
            &request.request_id,
        ),
    };
    let headers = response.headers_mut();
    if outcome == Outcome::InsufficientScope {
        headers.insert(WWW_AUTHENTICATE, reply::insufficient_scope_challenge(missing_scope));
    }
    add_identity_headers(headers, verdict.credential().map(|credential| &**credential), outcome.name());
    limit_headers::add(headers, verdict, request.arrival.wall);
    if let Some(seconds) = verdict.limited_by.and_then(|limited| limited.retry_after_seconds()) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn denial_status(denied: Outcome) -> StatusCode {
    match denied {
        Outcome::QuotaExceeded | Outcome::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Outcome::OrganizationSuspended
        | Outcome::OwnerInactive
        | Outcome::IpNotAllowed
        | Outcome::InsufficientScope => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    }
}

fn add_identity_headers(headers: &mut HeaderMap, credential: Option<&Credential>, status: &'static str) {
    let key = credential.map(|credential| &credential.key);
    let or_dash = |text: Option<&str>| {
        let value = text.filter(|text| !text.is_empty()).and_then(|text| HeaderValue::from_str(text).ok());
        value.unwrap_or(HeaderValue::from_static("-"))
    };
    headers.insert(KEY_ID, or_dash(key.map(|key| key.id.as_str())));
    headers.insert(ORGANIZATION_ID, or_dash(key.and_then(|key| key.organization_id.as_deref())));
    headers.insert(USER_ID, or_dash(key.and_then(|key| key.user_id.as_deref())));
    let plan = credential.and_then(|credential| credential.organization.as_ref());
    headers.insert(PLAN, or_dash(plan.map(|organization| organization.plan.as_str())));
    headers.insert(SCOPES, or_dash(key.map(|key| key.scopes.join(" ")).as_deref()));
    headers.insert(STATUS, HeaderValue::from_static(status));
}
