//! `/v1/forward-auth`: may this request pass? For nginx `auth_request`, Caddy `forward_auth`, Traefik
//! ForwardAuth, Envoy `ext_authz` and HAProxy; `docs/guides/gateways.md` has a configuration for each.

use std::borrow::Cow;

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use percent_encoding::percent_decode_str;
use warp::reply::Response as WarpResponse;

use super::data_plane::DataPlaneRequest;
use super::openapi::params;
use super::{auth, reply};
use crate::domain::api_key::Credential;
use crate::domain::verification::Outcome;
use crate::error::{Code, Error, Result};
use crate::service::scopes;
use crate::verify::verifier::{Verdict, VerifyRequest};

const PATH: &str = "/v1/forward-auth";

/// What an upstream hears of the key. Every one is on every answer, `-` where there is nothing: a proxy
/// that copies only what is there would otherwise let a client's own header of that name through.
const KEY_ID: HeaderName = HeaderName::from_static("x-auth-key-id");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("x-auth-organization-id");
const USER_ID: HeaderName = HeaderName::from_static("x-auth-user-id");
const PLAN: HeaderName = HeaderName::from_static("x-auth-plan");
const SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");
const STATUS: HeaderName = HeaderName::from_static("x-auth-status");

/// What the proxy's configuration asks for.
struct Needs<'a> {
    scopes: Vec<Cow<'a, str>>,
    /// The status of a 429; nginx turns what is neither 401 nor 403 into a 500.
    limited: StatusCode,
}

impl<'a> Needs<'a> {
    /// Reads them from the query, or from the first segment of a path that goes on with the client's own.
    /// `None` when there is something that isn't known: then nobody passes.
    fn read(path: &'a str, query: Option<&'a str>) -> Option<Self> {
        let mut needs = Self { scopes: Vec::new(), limited: StatusCode::TOO_MANY_REQUESTS };
        if let Some(rest) = path.strip_prefix(PATH)?.strip_prefix('/') {
            let segment = rest.split('/').next().unwrap_or_default();
            if let Some(scopes) = segment.strip_prefix("scope=") {
                let decoded = percent_decode_str(scopes).decode_utf8().ok()?;
                needs.scopes.extend(decoded.split(',').map(|scope| Cow::Owned(scope.to_owned())));
            }
            return Some(needs);
        }
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("scope", _) => needs.scopes.push(value),
                ("limit_status", "403") => needs.limited = StatusCode::FORBIDDEN,
                ("limit_status", "429") => needs.limited = StatusCode::TOO_MANY_REQUESTS,
                _ => return None,
            }
        }
        Some(needs)
    }
}

/// The client's key: `Authorization: Bearer` or `X-Api-Key`. Both are taken when they are the same.
fn key(headers: &HeaderMap) -> Result<&str> {
    let missing = |message| Err(Error::new(Code::Unauthenticated, message));
    let mut own = headers.get_all("x-api-key").iter();
    let own = match (own.next(), own.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().unwrap_or_default().trim()),
        (Some(_), Some(_)) => return missing("Send X-Api-Key once."),
    };
    match own {
        None => auth::bearer(headers),
        // Another scheme (Basic, say) is for somebody else.
        Some(own) if !auth::has_bearer(headers) && headers.get_all(AUTHORIZATION).iter().count() < 2 => {
            Ok(own)
        }
        Some(own) if auth::bearer(headers)? == own => Ok(own),
        Some(_) => missing("Authorization and X-Api-Key hold different keys; send one."),
    }
}

/// Decide whether a request may pass
///
/// For proxies: 200 when the client's key, in `Authorization: Bearer` or `X-Api-Key`, is good and has every
/// `scope`; 401 when there is none or it is unknown or has ended; 403 for its organization, owner, address or
/// scopes; 429 (or `limit_status`) for its limits. Any method is taken, the body is never read. `X-Auth-…` tell
/// the upstream whose key it is, `-` where there is nothing to tell. An unknown scope or parameter refuses all.
#[utoipa::path(
    get, path = "/v1/forward-auth", tag = "Verification", operation_id = "forwardAuth",
    params(params::ForwardAuthQuery),
    responses(
        (status = 200, description = "It may pass."),
        (status = 401, description = "No key, or one that is malformed, unknown, revoked, disabled or expired."),
        (status = 403, description = "The key's organization, owner, address or scopes forbid it, or what the proxy asks for is not known."),
        (status = 429, description = "The key's rate limit or quota does not suffice, or too many attempts failed."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
pub(crate) async fn answer(request: &DataPlaneRequest<'_>) -> WarpResponse {
    let uri = &request.head.uri;
    let mut limited = StatusCode::TOO_MANY_REQUESTS;
    let decided = match Needs::read(uri.path(), uri.query()) {
        Some(needs) => {
            limited = needs.limited;
            decide(request, &needs).await
        }
        None => {
            let message =
                "The proxy asks with a parameter that is unknown here; known are scope and limit_status.";
            Err(Error::new(Code::InsufficientScope, message))
        }
    };
    let mut response = match &decided {
        Ok(verdict) => write(request, verdict),
        Err(error) => {
            let mut response = request.refuse(error);
            identify(response.headers_mut(), None, error.code.name());
            response
        }
    };
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        *response.status_mut() = limited;
    }
    response
}

/// The same with the client's own path
///
/// As `/v1/forward-auth`, for proxies that append the client's path and query (Envoy does). What the key needs
/// stands in a first segment: `/v1/forward-auth/scope=workflows:read,workflows:write/…`; the rest is ignored.
#[utoipa::path(
    get, path = "/v1/forward-auth/{path}", tag = "Verification", operation_id = "forwardAuthPath",
    params(params::ForwardAuthPath),
    responses(
        (status = 200, description = "It may pass."),
        (status = 401, description = "No key, or one that is malformed, unknown, revoked, disabled or expired."),
        (status = 403, description = "The key's organization, owner, address or scopes forbid it, or what the proxy asks for is not known."),
        (status = 429, description = "The key's rate limit or quota does not suffice, or too many attempts failed."),
        (status = 500, description = "`INTERNAL`"),
        (status = 503, description = "`UNAVAILABLE`"),
    ),
)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) fn with_path() {}

async fn decide(request: &DataPlaneRequest<'_>, needs: &Needs<'_>) -> Result<Verdict> {
    let app = request.app;
    let charge = |error| auth::charge_failure(app, request.ip, error);
    let secret = match key(&request.head.headers) {
        Ok(secret) => secret,
        Err(error) => return Err(charge(error).await),
    };
    if !needs.scopes.is_empty() {
        let catalogue = scopes::catalogue(app).await?;
        if let Some(unknown) = needs.scopes.iter().find(|scope| !catalogue.knows(scope)) {
            let message = format!("The proxy asks for the scope {unknown:?}, which there isn't.");
            return Err(Error::new(Code::InsufficientScope, message));
        }
    }
    let question = VerifyRequest {
        secret,
        scopes: &needs.scopes,
        ip: request.ip,
        cost: 1,
        dry_run: false,
        caller_organization_id: None,
    };
    let verdict = app.verifier.verify(&question, app.clock.now(), app.clock.monotonic()).await?;
    match verdict.outcome {
        Outcome::Malformed | Outcome::NotFound => {
            Err(charge(Error::new(Code::InvalidApiKey, verdict.outcome.message())).await)
        }
        _ => Ok(verdict),
    }
}

fn write(request: &DataPlaneRequest<'_>, verdict: &Verdict) -> WarpResponse {
    let outcome = verdict.outcome;
    let mut response = match outcome {
        Outcome::Valid => reply::empty(),
        denied => {
            reply::write_denial(status(denied), denied.name(), denied.message(), request.now, &request.id)
        }
    };
    let headers = response.headers_mut();
    identify(headers, verdict.credential.as_deref(), outcome.name());
    if let Some(rate_limit) = &verdict.rate {
        reply::add_limits(headers, "key", rate_limit, request.now);
    }
    let wait = match (outcome, &verdict.rate, &verdict.quota) {
        (Outcome::RateLimited, Some(rate_limit), _) => Some(reply::seconds_ceil(rate_limit.retry_after)),
        (Outcome::QuotaExceeded, _, Some(quota)) => Some(reply::seconds_ceil(quota.resets_at - request.now)),
        _ => None,
    };
    if let Some(seconds) = wait {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

fn status(denied: Outcome) -> StatusCode {
    match denied {
        Outcome::QuotaExceeded | Outcome::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Outcome::OrganizationSuspended
        | Outcome::OwnerInactive
        | Outcome::IpNotAllowed
        | Outcome::InsufficientScope => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    }
}

fn identify(headers: &mut HeaderMap, credential: Option<&Credential>, status: &'static str) {
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
