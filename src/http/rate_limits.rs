//! The rate limits of Admin API callers, and the headers that tell their state.

use std::cmp::Reverse;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::LimitClass;
use crate::domain::settings::RateLimits;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::verify::bucket::{BucketLimit, RateLimitDecision};
use crate::verify::call_buckets::{CallBuckets, CallDecision, CallLimits};

/// The window of all limits of the Admin API.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Maximum number of calls of a key about itself in a minute.
const OWN_KEY_PER_MINUTE: u32 = 60;

/// The decisions of a call with the names of their policies in the `RateLimit` headers, that of the key first.
pub(crate) fn policies(class: LimitClass, decision: &CallDecision) -> Vec<(&'static str, RateLimitDecision)> {
    let (of_key, of_organization) = match class {
        LimitClass::Admin => ("admin", "admin-organization"),
        LimitClass::Batch => ("batch", "batch-organization"),
        LimitClass::OwnKey => ("self", "self-organization"),
    };
    let organization = decision.organization.map(|organization| (of_organization, organization));
    [(of_key, decision.key)].into_iter().chain(organization).collect()
}

/// Takes one token from the bucket of the caller's key and one from that of its organization, or none if
/// either has none left. The decision is `None` if no rate limit is set.
pub(crate) fn charge(
    app: &App,
    limits: &RateLimits,
    class: LimitClass,
    caller: &Caller,
) -> (Option<CallDecision>, Result<()>) {
    let Some((buckets, call)) = limits_of_call(app, limits, class, caller) else {
        return (None, Ok(()));
    };
    let decision = buckets.take(&call, app.clock.monotonic());
    (Some(decision), ensure_admitted(&decision))
}

/// The state of the caller's token buckets, for the headers of a call that is refused before a token is taken.
pub(crate) fn status(
    app: &App,
    limits: &RateLimits,
    class: LimitClass,
    caller: &Caller,
) -> Option<CallDecision> {
    let (buckets, call) = limits_of_call(app, limits, class, caller)?;
    Some(buckets.peek(&call, app.clock.monotonic()))
}

fn limits_of_call<'a>(
    app: &'a App,
    limits: &RateLimits,
    class: LimitClass,
    caller: &'a Caller,
) -> Option<(&'a CallBuckets, CallLimits<'a>)> {
    let per_minute = |tokens| BucketLimit { tokens, window: MINUTE };
    let (buckets, per_key) = match class {
        LimitClass::Admin => (&app.rate_limiters.admin, limits.admin_per_minute),
        LimitClass::Batch => (&app.rate_limiters.batch, limits.batch_per_minute),
        LimitClass::OwnKey => {
            let buckets = match caller.require_current_secret() {
                Ok(()) => &app.rate_limiters.own_key,
                Err(_) => &app.rate_limiters.own_key_superseded,
            };
            (buckets, OWN_KEY_PER_MINUTE)
        }
    };
    let key = caller.key().filter(|_| per_key > 0)?;
    let organization_limit = limits.organization_limit(per_key).map(per_minute);
    let organization = key.organization_id.as_ref().zip(organization_limit);
    Some((buckets, CallLimits { key: (&key.id, per_minute(per_key)), organization }))
}

/// Returns the error `RATE_LIMITED` if a limit refuses the call. It names the limit that takes longest to
/// admit a call again.
fn ensure_admitted(decision: &CallDecision) -> Result<()> {
    match &decision.organization {
        Some(organization) if organization.retry_after > decision.key.retry_after => {
            Err(rate_limited_error(organization, "Too many requests with the keys of this organization"))
        }
        _ if !decision.key.allowed => {
            Err(rate_limited_error(&decision.key, "Too many requests with this key"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn rate_limited_error(decision: &RateLimitDecision, message: &str) -> Error {
    let seconds = ceil_seconds(decision.retry_after).max(1);
    let message = format!("{message}; try again in {seconds} s.");
    Error { retry_after: Some(seconds), ..Error::new(Code::RateLimited, message) }
}

/// Adds the rate limit headers. `RateLimit` and `RateLimit-Policy` of the IETF draft
/// (draft-ietf-httpapi-ratelimit-headers) list every limit by the name of its policy. The common
/// `X-RateLimit-*` headers can show only one: the limit that refused the request (of several, the one that
/// takes longest), otherwise the one with the fewest tokens left.
pub(crate) fn add_headers(headers: &mut HeaderMap, limits: &[(&str, RateLimitDecision)], now: Timestamp) {
    let by_restriction =
        |(_, limit): &&(&str, RateLimitDecision)| (Reverse(limit.retry_after), limit.remaining);
    let Some((_, shown)) = limits.iter().min_by_key(by_restriction) else { return };
    let reset = (now + shown.full_after).as_seconds_ceil();
    let list = |item: fn(&str, &RateLimitDecision) -> String| {
        limits.iter().map(|(policy, limit)| item(policy, limit)).collect::<Vec<_>>().join(", ")
    };
    let values = [
        ("x-ratelimit-limit", shown.limit.to_string()),
        ("x-ratelimit-remaining", shown.remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
        (
            "ratelimit-policy",
            list(|policy, limit| format!("\"{policy}\";q={};w={}", limit.limit, limit.window.as_secs())),
        ),
        (
            "ratelimit",
            list(|policy, limit| {
                format!("\"{policy}\";r={};t={}", limit.remaining, ceil_seconds(limit.next_token))
            }),
        ),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The duration in whole seconds, rounded up.
pub(crate) fn ceil_seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() != 0)
}
