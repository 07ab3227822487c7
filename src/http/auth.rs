//! Authentication by the `Authorization` header (RFC 6750 §2.1), and the rate limits of callers and of failed
//! attempts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use super::address;
use super::reply::seconds_ceil;
use super::server::Head;
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::api_key::Credential;
use crate::domain::api_key::SecretHash;
use crate::domain::settings::RateLimits;
use crate::error::{Code, Error, Result};
use crate::verify::bucket::{Buckets, Limit, RateLimitDecision};
use crate::verify::cache::Loaded;
use crate::verify::secret;

const MINUTE: Duration = Duration::from_secs(60);

/// Authenticates the caller by bearer token; returns its key and the hash of the token.
///
/// # Errors
/// `UNAUTHENTICATED` if there is no token, `INVALID_API_KEY` if it isn't valid.
pub(crate) async fn authenticate(app: &App, headers: &HeaderMap) -> Result<(Arc<Credential>, SecretHash)> {
    let (hash, loaded) = load(app, bearer(headers)?).await?;
    Ok((ensure_usable(app, &loaded)?, hash))
}

/// Like [`authenticate`], with the connection's cache, for the data plane: requests over one connection
/// mostly come from the same caller.
pub(crate) async fn authenticate_cached(app: &App, head: &Head) -> Result<Arc<Credential>> {
    if let Some(credential) = head.auth_cache.get(&head.headers, &app.keys) {
        access::ensure_usable(&credential, app.clock.now())?;
        return Ok(credential);
    }
    let (_, loaded) = load(app, bearer(&head.headers)?).await?;
    let credential = ensure_usable(app, &loaded)?;
    head.auth_cache.set(&head.headers, loaded);
    Ok(credential)
}

async fn load(app: &App, token: &str) -> Result<(SecretHash, Loaded)> {
    if !secret::is_plausible(&app.settings.get().await?.checked_prefixes, token) {
        return Err(access::invalid_api_key());
    }
    let hash = secret::hash(token);
    Ok((hash, app.keys.get_loaded(&hash).await?))
}

fn ensure_usable(app: &App, loaded: &Loaded) -> Result<Arc<Credential>> {
    let credential = loaded.credential().ok_or_else(access::invalid_api_key)?;
    access::ensure_usable(credential, app.clock.now())?;
    Ok(credential.clone())
}

/// True if the request uses HTTP Basic authentication (RFC 7617).
pub(crate) fn is_basic(headers: &HeaderMap) -> bool {
    has_scheme(headers, "basic")
}

/// True if the request has an `Authorization: Bearer` header.
pub(crate) fn has_bearer(headers: &HeaderMap) -> bool {
    has_scheme(headers, "bearer")
}

fn has_scheme(headers: &HeaderMap, wanted: &str) -> bool {
    headers.get_all(AUTHORIZATION).iter().any(|value| {
        // Bytes instead of text, so that an unreadable credential is refused and not taken for another scheme.
        let mut words = value.as_bytes().split(|byte| matches!(byte, b' ' | b'\t'));
        words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(wanted.as_bytes()))
    })
}

/// Like [`authenticate`], by HTTP Basic with a key's id and secret, both form-encoded first (RFC 6749
/// §2.3.1).
pub(crate) async fn authenticate_basic(app: &App, headers: &HeaderMap) -> Result<Arc<Credential>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Error::new(Code::Unauthenticated, "Send the Authorization header only once."));
    };
    let encoded = value.to_str().ok().and_then(|text| text.split_once(' ')).map(|(_, encoded)| encoded);
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((id, secret)) = pair.as_deref().and_then(|pair| pair.split_once(':')) else {
        let message = "The Authorization header must be: Basic base64(<key id>:<secret>).";
        return Err(Error::new(Code::Unauthenticated, message));
    };
    let (_, loaded) = load(app, &form_decode(secret)).await?;
    let credential = ensure_usable(app, &loaded)?;
    if credential.key.id != form_decode(id) {
        return Err(access::invalid_api_key());
    }
    Ok(credential)
}

fn form_decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The token of the `Authorization: Bearer` header; the scheme is case-insensitive.
///
/// # Errors
/// `UNAUTHENTICATED` if there isn't exactly one such header, or if it is malformed.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let missing = |message| Err(Error::new(Code::Unauthenticated, message));
    match (values.next(), values.next()) {
        (None, _) => missing("Send your API key as Authorization: Bearer <key>."),
        (Some(_), Some(_)) => missing("Send the Authorization header only once."),
        (Some(value), None) => {
            let text = value.to_str().unwrap_or_default();
            match text.split_once(' ') {
                Some((scheme, token))
                    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
                {
                    Ok(token.trim())
                }
                _ => missing("The Authorization header must be: Bearer <key>."),
            }
        }
    }
}

/// Charges a failed authentication to the client's address. Returns `failure`, or `RATE_LIMITED` if the
/// address has no attempts left. Only called after a failure, so that it never affects a valid key.
pub(crate) async fn charge_failure(app: &App, ip: Option<IpAddr>, failure: Error) -> Error {
    let per_minute = match app.settings.get().await {
        Ok(current) => current.settings.rate_limits.failed_auth_per_minute,
        Err(error) => return error,
    };
    if per_minute == 0 {
        return failure;
    }
    // All clients with an unknown address share one bucket.
    let subject = address::subject(ip.unwrap_or(IpAddr::from([0, 0, 0, 0])));
    let limit = Limit { tokens: per_minute, window: MINUTE };
    let decision = app.failure_limits.take(&subject, limit, 1, app.clock.monotonic());
    if decision.allowed {
        failure
    } else {
        limited(&decision, "Too many failed authentication attempts from your address")
    }
}

/// The class of a call, which determines its rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A call of the control plane.
    Admin,
    /// A batch, regardless of its operations.
    Batch,
}

impl Class {
    /// The name of the limit in the rate limit headers.
    pub(crate) fn policy(self) -> &'static str {
        match self {
            Class::Admin => "admin",
            Class::Batch => "batch",
        }
    }

    fn limit<'a>(self, app: &'a App, limits: &RateLimits) -> (&'a Buckets<String>, u32) {
        match self {
            Class::Admin => (&app.admin_limits, limits.admin_per_minute),
            Class::Batch => (&app.batch_limits, limits.batch_per_minute),
        }
    }
}

/// Charges one call to the key's bucket. The decision is `None` if there is no limit.
pub(crate) fn charge_call(
    app: &App,
    limits: &RateLimits,
    class: Class,
    caller: &Caller,
) -> (Option<RateLimitDecision>, Result<()>) {
    let Some((buckets, key, limit)) = call_limit(app, limits, class, caller) else { return (None, Ok(())) };
    let decision = buckets.take(key, limit, 1, app.clock.monotonic());
    let allowed =
        if decision.allowed { Ok(()) } else { Err(limited(&decision, "Too many requests with this key")) };
    (Some(decision), allowed)
}

/// The state of the key's bucket, for a call that is refused before it is charged.
pub(crate) fn peek_call_limit(
    app: &App,
    limits: &RateLimits,
    class: Class,
    caller: &Caller,
) -> Option<RateLimitDecision> {
    let (buckets, key, limit) = call_limit(app, limits, class, caller)?;
    Some(buckets.peek(key, limit, 0, app.clock.monotonic()))
}

fn call_limit<'a>(
    app: &'a App,
    limits: &RateLimits,
    class: Class,
    caller: &'a Caller,
) -> Option<(&'a Buckets<String>, &'a String, Limit)> {
    let (buckets, tokens) = class.limit(app, limits);
    let key = caller.key().filter(|_| tokens > 0)?;
    Some((buckets, &key.id, Limit { tokens, window: MINUTE }))
}

fn limited(decision: &RateLimitDecision, message: &str) -> Error {
    let seconds = seconds_ceil(decision.retry_after).max(1);
    let message = format!("{message}; try again in {seconds} s.");
    Error { retry_after: Some(seconds), ..Error::new(Code::RateLimited, message) }
}
