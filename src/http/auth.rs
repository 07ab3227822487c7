//! From the `Authorization` header to a caller (RFC 6750 §2.1), and how often that may fail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::address;
use super::reply::seconds_ceil;
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::api_key::Credential;
use crate::error::{Code, Error, Result};
use crate::verify::bucket::{Limit, Taken};
use crate::verify::secret::{self, Hash};

const MINUTE: Duration = Duration::from_secs(60);

/// Who calls, and the hash of what it showed. `UNAUTHENTICATED` when it shows nothing,
/// `INVALID_API_KEY` when that isn't good.
pub async fn authenticate(app: &App, headers: &HeaderMap) -> Result<(Arc<Credential>, Hash)> {
    let token = bearer(headers)?;
    if !secret::is_plausible(&app.config.keys.prefix, token) {
        return Err(access::invalid_api_key());
    }
    let hash = secret::hash(token);
    let credential = app.keys.get(&hash).await?.ok_or_else(access::invalid_api_key)?;
    access::usable(&credential, app.clock.now())?;
    Ok((credential, hash))
}

/// The token of the one `Authorization: Bearer` header; the scheme's case doesn't matter.
fn bearer(headers: &HeaderMap) -> Result<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let missing = |message| Err(Error::new(Code::Unauthenticated, message));
    match (given.next(), given.next()) {
        (None, _) => missing("Send your API key as Authorization: Bearer <key>."),
        (Some(_), Some(_)) => missing("Send the Authorization header once."),
        (Some(value), None) => {
            let text = value.to_str().unwrap_or_default();
            match text.split_once(' ') {
                Some((scheme, token))
                    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
                {
                    Ok(token.trim())
                }
                _ => missing("The Authorization header must read Bearer <key>."),
            }
        }
    }
}

/// What a failed authentication costs the client's address: 401 while it has attempts left, then 429.
/// Asked after the failure alone, so that a valid key is never refused by it.
pub fn charge_failure(app: &App, ip: Option<IpAddr>, failure: Error) -> Error {
    let per_minute = app.config.rate_limits.failed_auth_per_minute;
    if per_minute == 0 {
        return failure;
    }
    // Who hides its address shares one bucket with all who do.
    let subject = address::subject(ip.unwrap_or(IpAddr::from([0, 0, 0, 0])));
    let limit = Limit { tokens: per_minute, window: MINUTE };
    let taken = app.failure_limits.take(&subject, limit, 1, app.clock.monotonic());
    if taken.allowed { failure } else { limited(&taken, "Too many failed attempts from your address") }
}

/// Takes one call from a key's `admin` bucket; `None` when there is no limit.
pub fn charge_call(app: &App, caller: &Caller) -> (Option<Taken>, Result<()>) {
    let Some((key, limit)) = call_limit(app, caller) else { return (None, Ok(())) };
    let taken = app.admin_limits.take(key, limit, 1, app.clock.monotonic());
    let allowed = if taken.allowed { Ok(()) } else { Err(limited(&taken, "Too many calls with this key")) };
    (Some(taken), allowed)
}

/// How a key's `admin` bucket stands, for a call that is refused before it costs anything.
pub fn calls_left(app: &App, caller: &Caller) -> Option<Taken> {
    let (key, limit) = call_limit(app, caller)?;
    Some(app.admin_limits.peek(key, limit, 0, app.clock.monotonic()))
}

fn call_limit<'a>(app: &App, caller: &'a Caller) -> Option<(&'a String, Limit)> {
    let tokens = app.config.rate_limits.admin_per_minute;
    let key = caller.key().filter(|_| tokens > 0)?;
    Some((&key.id, Limit { tokens, window: MINUTE }))
}

fn limited(taken: &Taken, message: &str) -> Error {
    let seconds = seconds_ceil(taken.retry_after).max(1);
    let message = format!("{message}; try again in {seconds} s.");
    Error { retry_after: Some(seconds), ..Error::new(Code::RateLimited, message) }
}
